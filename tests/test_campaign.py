"""The campaign runs: a few attacks of each part. All of them are run by ``make campaign``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "parts",
    [
        ("kills", "disks", "settings"),
        pytest.param(("flips", "inputs", "server"), marks=pytest.mark.slow),
    ],
    ids=", ".join,
)
def test_a_few_attacks_of_each_part(parts: tuple[str, ...], tmp_path: Path) -> None:
    words = [word for name in parts for word in ("--part", name)]
    command = [sys.executable, "-m", "benchmarks.campaign", "--cases", "2", "--work", str(tmp_path / "work"), *words]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "campaign.json")],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "INJERTO_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "campaign.json").read_text())["parts"]
    assert list(found) == list(parts)
    for part in found.values():
        assert part["cases"] == 2 and part["bad"] == []
        assert part["attacks"] >= 2
