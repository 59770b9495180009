"""kill -9 at random moments, then --resume: the same bits as the run that nobody stopped."""

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny

TINY = {"threads": 1, "precision": "fp32", "batch-size": 8}
PICTURES = TINY | {"source": "day"}
TEXTS = TINY | {"source": "films"}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {  # data, kills, flags
    "images, cached": ("pictures", 3, PICTURES | {"tuning": "last:2", "augment": "light", "views": 2, "epochs": 12}),
    "images, uncached": ("pictures", 3, PICTURES | {"tuning": "full", "augment": "standard", "norm": "train", "epochs": 10}),
    "texts, cached": ("reviews", 2, TEXTS | {"tuning": "last:1", "epochs": 12}),
    "texts, uncached": ("reviews", 2, TEXTS | {"tuning": "full", "epochs": 8}),
    "gradual, swad": ("pictures", 2, PICTURES | {"tuning": "gradual", "augment": "none", "average": "swad", "epochs": 12}),
    "lp-ft, slider": ("pictures", 2, PICTURES | {"tuning": "lp-ft", "slider": True, "average": "ema", "epochs": 8}),
    "lora": ("reviews", 2, TEXTS | {"tuning": "lora(variant=dora,dropout=0.1,plus=4)", "epochs": 8}),
    "lora, cached": ("pictures", 2, PICTURES | {"tuning": "lora:last:1", "augment": "light", "views": 2, "epochs": 12}),
    "rate found": ("reviews", 2, TEXTS | {"tuning": "last:1", "lr": "auto", "l2-sp": 0.1, "epochs": 10}),
}  # fmt: skip


def command(arguments: list[str], cache: str) -> None:
    """One command line in a process of its own, with a checkpoint at every evaluation."""
    import os

    os.environ |= {"INJERTO_CACHE": cache, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    from injerto.cli.main import run
    from injerto.training import trainer

    trainer.SAVE_SECONDS = -1
    raise SystemExit(run(arguments))


@pytest.fixture(scope="module")
def launch() -> Callable[..., multiprocessing.process.BaseProcess]:
    """A function that starts a command in a process forked from one where everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["injerto.training.fit", "timm", "transformers", "accelerate", "sklearn.linear_model"]
    )

    def start(arguments: list[str], cache: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=command, args=(arguments, str(cache)))
        process.start()
        return process

    return start


def outcome(out: Path) -> dict[str, Any]:
    """Everything a run leaves behind that must not depend on the clock."""
    metrics = tiny.timeless(json.loads((out / "metrics.json").read_text()))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    files = [*sorted((out / "adapter").iterdir()), *sorted((out / "checkpoints").iterdir())]
    files += [out / "splits.csv", out / "recipe.yaml"]
    content = {path.name: path.read_bytes() for path in files if not path.name.endswith(".tmp")}
    return {"metrics": metrics, "log": [{k: v for k, v in e.items() if k != "time"} for e in log], **content}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_is_the_same_to_the_bit(
    case: str, launch: Any, pictures: Path, reviews: Path, tiny_timm: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    kind, kills, flags = CASES[case]
    data, backbone = (pictures, tiny_timm) if kind == "pictures" else (reviews, tiny_bert)
    arguments = ["-q", "fit", str(data), "--backbone", str(backbone)]
    for name, value in flags.items():
        arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    first = launch([*arguments, "--out", str(tmp_path / "warm")], tmp_path / "warm-cache")
    first.join()
    begun = time.monotonic()
    whole = launch([*arguments, "--out", str(tmp_path / "whole")], tmp_path / "whole-cache")
    whole.join()
    duration = time.monotonic() - begun
    assert whole.exitcode == 0
    expected = outcome(tmp_path / "whole")
    rng = random.Random(case)
    out, cache, killed, share = tmp_path / "parts", tmp_path / "parts-cache", 0, 0.9
    resumed = [*arguments, "--out", str(out), "--resume"]
    while killed < kills:
        process = launch(resumed, cache)
        process.join(rng.uniform(0.15, share) * duration)
        if process.is_alive():
            process.kill()
            process.join()
            killed += 1
        else:  # it was faster than the kill: once more from the start, with earlier ones
            assert process.exitcode == 0
            shutil.rmtree(out)
            share = max(0.3, 0.8 * share)
    last = launch(resumed, cache)
    last.join()
    assert last.exitcode == 0
    found = outcome(out)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name


def test_the_kills_are_twenty() -> None:
    assert sum(kills for _, kills, _ in CASES.values()) == 20
