"""Greedy soup: the average it says it is, never worse on source val than its best run."""

import copy
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import injerto
from injerto.basics.errors import InjertoError
from injerto.compute.batches import BatchMaker
from injerto.tuning.norms import norm_layers, recalibrate

soup_module = importlib.import_module("injerto.studies.soup")


@pytest.fixture(scope="module")
def runs(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    place = tmp_path_factory.mktemp("soup")
    settings = {"source": "day", "backbone": tiny_timm, "augment": "none", "split_seed": 0, "epochs": 5} | quick
    changes: list[dict[str, Any]] = [{"seed": 0}, {"seed": 1, "lr": 1e-3}, {"seed": 2, "tuning": "full", "lr": 3e-2}]
    return [
        injerto.fit(pictures, out=place / str(index), **({"tuning": "last:2"} | settings | change)).path
        for index, change in enumerate(changes)
    ]


def test_the_soup_is_the_mean_of_what_it_says_is_in(runs: list[Path], pictures: Path, tmp_path: Path) -> None:
    cooked = injerto.soup(runs, tmp_path / "soup")
    listed = cooked.metrics["soup"]["runs"]
    inside = [injerto.load(entry["run"]).model.state_dict() for entry in listed if entry["in"]]
    assert inside
    for name, tensor in cooked.model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(
                tensor, torch.stack([state[name] for state in inside]).mean(0), rtol=1e-4, atol=1e-6
            )
    assert cooked.metrics["soup"]["val"] >= max(entry["val"] for entry in listed)
    measured = {name: entry["splits"]["test"] for name, entry in cooked.metrics["domains"].items()}
    assert set(measured) == {"day", "dusk", "night"}
    again = cooked.evaluate(injerto.load_domains(pictures))
    assert again["night"]["accuracy"] == measured["night"]["accuracy"]
    assert injerto.info(cooked.path)["metrics"]["day"]["role"] == "source"


def test_two_of_the_same_run_are_that_run(runs: list[Path], tmp_path: Path) -> None:
    cooked = injerto.soup([runs[0], runs[0]], tmp_path / "soup")
    assert all(entry["in"] for entry in cooked.metrics["soup"]["runs"])
    for name, tensor in injerto.load(runs[0]).model.state_dict().items():
        torch.testing.assert_close(cooked.model.state_dict()[name], tensor)


def test_what_cannot_be_mixed_is_refused(
    runs: list[Path], pictures: Path, other_timm: Path, quick: dict[str, Any], tmp_path: Path, text_run: Path,
    cli: Callable[..., Any], refused: Callable[..., str],
) -> None:  # fmt: skip
    settings = {"source": "day", "tuning": "head", "steps": 2, "split_seed": 0} | quick
    other = injerto.fit(pictures, out=tmp_path / "other", backbone=other_timm, **settings).path
    assert "differ in base" in refused("soup", runs[0], other, "--out", tmp_path / "s")
    split = injerto.fit(
        pictures,
        out=tmp_path / "split",
        backbone=injerto.load(runs[0]).model.backbone,
        **(settings | {"split_seed": 5}),
    )
    with pytest.raises(InjertoError, match="base|split"):
        injerto.soup([runs[0], split.path], tmp_path / "s")
    assert "differ in" in refused("soup", runs[0], text_run, "--out", tmp_path / "s")
    assert "two runs" in refused("soup", runs[0], "--out", tmp_path / "s")
    assert "no run's folder" in refused("soup", runs[0], runs[1] / "adapter", "--out", tmp_path / "s")
    assert "exists already" in refused("soup", *runs, "--out", runs[0])
    moved = tmp_path / "moved"
    shutil.copytree(runs[0], moved)
    text = (moved / "recipe.yaml").read_text().replace(str(pictures), "nowhere-at-all")
    (moved / "recipe.yaml").write_text(text)
    assert "--data" in refused("soup", moved, runs[1], "--out", tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert cli("soup", moved, runs[1], "--out", tmp_path / "s", "--data", pictures).code == 0


def test_a_soup_of_runs_that_moved_statistics_has_its_own(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics of an average are those of its weights on the train examples, not the average of statistics."""
    settings = {"source": "day", "backbone": tiny_timm, "split_seed": 0, "steps": 6, "norm": "train"} | quick
    settings |= {"tuning": "last:2", "augment": "none", "lr": 0.05, "select": "last"}
    runs = [injerto.fit(pictures, out=tmp_path / str(seed), seed=seed, **settings) for seed in range(2)]
    monkeypatch.setattr(soup_module, "quick_score", lambda *_: (1.0, 0.0))  # no run is left out
    cooked = injerto.soup([run.path for run in runs], tmp_path / "soup")
    assert all(entry["in"] for entry in cooked.metrics["soup"]["runs"])
    states = [run.model.backbone.model.state_dict() for run in runs]
    found = cooked.model.backbone
    domain = injerto.load_domains(pictures)["day"]
    train = [i for i, key in enumerate(domain.contents) if runs[0].recorded_splits()[key] == "train"]
    order = sorted(train, key=lambda i: domain.contents[i])
    maker = BatchMaker(found.preprocessing, "cpu")
    rows = [maker.image(domain.inputs[i]) for i in order]
    parts = np.array_split(np.arange(len(rows)), len(rows) // 8)
    reference = copy.deepcopy(found)
    moved = {name for name in norm_layers(found) if found.stage_of(f"{name}.running_mean") >= len(found.stages) - 2}
    recalibrate(reference, [maker.collate_images([rows[i] for i in part]) for part in parts], moved)
    for name, value in found.model.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value, reference.model.state_dict()[name], rtol=1e-3, atol=1e-4)
            mean = (states[0][name] + states[1][name]) / 2
            assert torch.allclose(value, mean, rtol=1e-3, atol=1e-4) == (name.rpartition(".")[0] not in moved)
        elif value.is_floating_point():
            torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, rtol=1e-4, atol=1e-6)


def test_a_soup_of_balanced_runs_is_chosen_by_balanced_accuracy(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    score = soup_module.quick_score

    def watched(logits: Any, labels: Any, balanced: bool = False) -> Any:
        asked.append(balanced)
        return score(logits, labels, balanced)

    monkeypatch.setattr(soup_module, "quick_score", watched)
    settings = {"source": "day", "backbone": tiny_timm, "split_seed": 0, "steps": 3, "tuning": "head"} | quick
    runs = [
        injerto.fit(pictures, out=tmp_path / f"{seed}{kind}", seed=seed, class_weights=kind, **settings).path
        for seed, kind in ((0, "balanced"), (1, "balanced"), (1, "none"))
    ]
    injerto.soup(runs[:2], tmp_path / "balanced")
    assert asked and all(asked)
    asked.clear()
    injerto.soup(runs[1:], tmp_path / "mixed")
    assert asked and not any(asked)
