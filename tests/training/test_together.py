"""Several processes compute what one does: the same losses, the same adapter, and nothing twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import injerto
from injerto.basics.errors import InjertoError
from injerto.compute.shards import ENTRY, HEADER
from injerto.recipe.recipe import make_recipe
from injerto.training.together import check_together

QUICK: dict[str, Any] = {"threads": 1, "precision": "fp32", "batch_size": 9, "steps": 6, "seed": 3}
PICTURES: dict[str, dict[str, Any]] = {
    "plain": {"tuning": "full"},
    "cached": {"tuning": "last:1", "augment": "none", "epochs": 3, "steps": None},
    "lora": {"tuning": "lora:last:2", "augment": "light", "views": 0},
    "head": {"tuning": "head", "neck": "8", "target": "night", "alignment": "mmd+mcc"},
    "mmd": {"tuning": "full", "target": "night", "alignment": "mmd(stages=2/3)+coral"},
    "dann": {"tuning": "lora", "target": "night", "alignment": "dann"},
    "parts": {"tuning": "full", "accumulate": 2, "clip": 0.5},
    "blind": {"tuning": "last:2", "source": ["day", "dusk"], "alignment": "dann", "objective": "group-dro"},
    "probe": {"tuning": "head", "head": "probe"},
}
TEXTS: dict[str, dict[str, Any]] = {
    "texts": {"tuning": "full"},
    "texts-lora": {"tuning": "lora", "target": "books", "alignment": "mmd"},
}
FEW = ("cached", "dann")
RUN = """
import json, sys
from pathlib import Path
import injerto
for job in json.loads(Path(sys.argv[1]).read_text()):
    injerto.fit(**job)
"""


def launched(words: list[str], tmp_path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Two processes, as torchrun starts them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "INJERTO_CACHE": str(cache)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def jobs(
    tmp_path_factory: Any, pictures: Path, reviews: Path, tiny_timm: Path, tiny_bert: Path, tiny_lm: Path
) -> dict[str, dict[str, Any]]:
    """The settings of each run."""
    still = Path(shutil.copytree(tiny_bert, tmp_path_factory.mktemp("model") / "still"))
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # each process draws its own
    (still / "config.json").write_text(json.dumps(config))
    images = {**QUICK, "data": str(pictures), "source": "day", "backbone": str(tiny_timm)}
    texts = {**QUICK, "data": str(reviews), "source": "films"}
    lm = {"backbone": str(tiny_lm), "task": "causal-lm", "tuning": "lora", "batch_size": 4, "max_length": 32}
    found = {name: {**images, **settings} for name, settings in PICTURES.items()}
    found |= {name: {**texts, "backbone": str(still), **settings} for name, settings in TEXTS.items()}
    found["lm"] = {**texts, **lm}
    return {name: {key: value for key, value in job.items() if value is not None} for name, job in found.items()}


Both = dict[str, tuple[Path, Path]]


def fit_both(jobs: dict[str, dict[str, Any]], root: Path) -> Both:
    """Each run by two processes and by one."""
    for name, job in jobs.items():
        injerto.fit(**job, out=root / "one" / name)
    twice = [{**job, "out": str(root / "two" / name)} for name, job in jobs.items()]
    (root / "jobs.json").write_text(json.dumps(twice))
    (root / "run.py").write_text(RUN)
    done = launched([str(root / "run.py"), str(root / "jobs.json")], root, root / "cache")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("done: ") == len(jobs)  # one of the two speaks
    return {name: (root / "two" / name, root / "one" / name) for name in jobs}


@pytest.fixture(scope="module")
def few(jobs: dict[str, dict[str, Any]], tmp_path_factory: Any) -> Both:
    return fit_both({name: jobs[name] for name in FEW}, tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def many(jobs: dict[str, dict[str, Any]], tmp_path_factory: Any) -> Both:
    return fit_both({name: job for name, job in jobs.items() if name not in FEW}, tmp_path_factory.mktemp("many"))


def losses(run: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = [[value for key, value in sorted(row.items()) if key not in ("time", "step")] for row in rows]
    return [[float(value) for value in row if isinstance(value, int | float)] for row in kept]


@pytest.mark.parametrize("name", FEW)
def test_two_processes_are_one(name: str, few: Both) -> None:
    hold(*few[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*PICTURES, *TEXTS, "lm") if name not in FEW])
def test_two_processes_are_one_with_every_tuning_and_task(name: str, many: Both) -> None:
    hold(*many[name])


def hold(two: Path, one: Path) -> None:
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    if (one / "log.jsonl").exists():
        np.testing.assert_allclose(losses(two), losses(one), rtol=2e-3, atol=2e-4)
    for file in sorted((one / "adapter").glob("*.safetensors")):
        mine, theirs = load_file(two / "adapter" / file.name), load_file(file)
        assert mine.keys() == theirs.keys()
        for key, values in theirs.items():
            np.testing.assert_allclose(mine[key], values, rtol=1e-2, atol=3e-4, err_msg=f"{file.name} {key}")
    metrics, expected = (json.loads((run / "metrics.json").read_text()) for run in (two, one))
    assert metrics["selection"]["step"] == expected["selection"]["step"]
    assert metrics["splits"] == expected["splits"]


def test_what_frozen_stages_compute_is_shared_out(few: Both) -> None:
    spaces = [list(space.glob("*.keys")) for space in (few["cached"][0].parents[1] / "cache" / "features").iterdir()]
    assert max(map(len, spaces)) >= 2  # two wrote
    for shards in spaces:
        entries = b"".join(shard.read_bytes()[len(HEADER) : -4] for shard in shards)
        keys = np.frombuffer(entries, ENTRY)["key"]
        assert len(np.unique(keys)) == len(keys)  # and nothing twice


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm": "train"}, "--norm train"),
        ({"augment": "light+mixup"}, "mixes examples"),
        ({"batch_size": 3, "accumulate": 2}, "--batch-size 3 is too small for 2 processes"),
    ],
)
def test_what_several_cannot_do_is_refused(settings: dict[str, Any], said: str) -> None:
    recipe = make_recipe(**{"data": "d", "tuning": "full", "batch_size": 8, "augment": "light", **settings})
    with pytest.raises(InjertoError, match=said):
        check_together(recipe, 2)


def test_comparisons_and_searches_are_for_one(refused: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ("emoji-styles", "--source", "noto", "--out", tmp_path / "a")
    assert "start it without torchrun" in refused("compare", *words, "--grid", "tuning=head,full")
    assert "start it without torchrun" in refused("search", *words)
