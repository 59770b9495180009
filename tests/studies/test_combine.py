"""Sums of adapters: the weights they stand for add up exactly, and nothing learned from passes for a test example."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import injerto
from injerto.compute.fold import settled
from injerto.tuning.lora.base import LowRank


@pytest.fixture(scope="module")
def runs(reviews: Path, tiny_bert: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("sum")
    common = {"backbone": str(tiny_bert), "steps": 6, "lr": 1e-2} | quick
    changes: list[dict[str, Any]] = [
        {"tuning": "lora(r=4)", "seed": 0},
        {"tuning": "lora(r=2,alpha=8,variant=pissa)", "seed": 1},
        {"tuning": "last:1", "seed": 2},
        {"tuning": "lora(r=2,variant=dora)", "seed": 3},
    ]
    source = sorted(injerto.load_domains(reviews))[0]
    return [
        injerto.fit(reviews, source=source, out=place / str(i), **(common | change)).path
        for i, change in enumerate(changes)
    ]


def dense(run: Any) -> dict[str, torch.Tensor]:
    return settled(injerto.load(run).model).state_dict()


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, 0.2], [1.5, -0.5]])
@pytest.mark.parametrize("which", [(0, 1), (0, 2), (2, 2)])
def test_changes_add_up_exactly(
    runs: list[Path], tiny_bert: Path, tmp_path: Path, weights: list[float], which: tuple[int, int]
) -> None:
    found = injerto.combine([runs[i] for i in which], tmp_path / "sum", weights)
    base = injerto.load_backbone(tiny_bert).model.state_dict()
    parts, total = [dense(runs[i]) for i in which], sum(weights)
    for name, tensor in settled(found.model).state_dict().items():
        if name in ("head.shift", "head.scale"):
            continue
        short = name.removeprefix("backbone.model.")
        if short in base:
            expected = base[short] + sum(w * (part[name] - base[short]) for w, part in zip(weights, parts, strict=True))
        else:
            expected = sum(w * part[name] for w, part in zip(weights, parts, strict=True)) / total
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=1e-5)
    low_rank = any(isinstance(layer, LowRank) for layer in found.model.modules())
    assert low_rank == (which != (2, 2))
    again = injerto.load(found.path / "adapter")
    assert again.predict(["good", "bad"]) == found.predict(["good", "bad"])


@pytest.mark.slow
def test_what_any_part_learned_from_is_no_test_example(runs: list[Path], reviews: Path, tmp_path: Path) -> None:
    found = injerto.combine(runs[:2], tmp_path / "sum", data=reviews)
    learned = {
        content
        for run in runs[:2]
        for name, content, side in injerto.load(run).recorded_rows()
        if side != "test" and injerto.load(run).card["metrics"][name]["role"] == "source"
    }
    assert learned
    left = {content for content, side in found.recorded_splits().items() if side == "test"}
    assert left and not left & learned
    assert found.metrics["domains"]
    assert found.metrics["combined"][0]["weight"] == 0.5


def test_a_soup_of_lora_runs(reviews: Path, tiny_bert: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    common = {"backbone": str(tiny_bert), "steps": 6, "lr": 1e-2, "split_seed": 0, "tuning": "lora"} | quick
    source = sorted(injerto.load_domains(reviews))[0]
    paths = [injerto.fit(reviews, source=source, out=tmp_path / str(s), seed=s, **common).path for s in range(2)]
    found = injerto.soup(paths, tmp_path / "soup", reviews)
    inside = [dense(entry["run"]) for entry in found.metrics["soup"]["runs"] if entry["in"]]
    for name, tensor in settled(found.model).state_dict().items():
        torch.testing.assert_close(tensor, torch.stack([p[name] for p in inside]).mean(0), atol=1e-5, rtol=1e-4)


def test_what_does_not_add_up_is_refused(runs: list[Path], tmp_path: Path, refused: Callable[..., str]) -> None:
    out = ("--out", tmp_path / "sum")
    assert "DoRA" in refused("combine", runs[0], runs[3], *out)
    assert "add up to 0" in refused("combine", runs[0], runs[1], *out, "--weights", "1,-1")
    assert "as many weights" in refused("combine", runs[0], runs[1], *out, "--weights", "1")
    assert "two runs or more" in refused("combine", runs[0], *out)
    assert "no number" in refused("combine", runs[0], runs[1], *out, "--weights", "a,b")
    assert not (tmp_path / "sum").exists()


def test_a_sum_that_cannot_be_measured_leaves_nothing_behind(
    runs: list[Path], pictures: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    out = tmp_path / "sum"
    assert "holds images" in refused("combine", runs[0], runs[1], "--out", out, "--data", pictures)
    assert not out.exists()
