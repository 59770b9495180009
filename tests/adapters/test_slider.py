"""Between the pretrained model with its probe and the tuned one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import injerto
import tiny
from injerto.basics.errors import InjertoError


@pytest.fixture(scope="module")
def run(pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "last:2", "slider": True, "lr": 3e-3, "epochs": 4}
    return injerto.fit(pictures, out=tmp_path_factory.mktemp("slider") / "run", norm="train", **settings, **quick)


def test_the_ends_and_the_middle(run: Any, pictures: Path, tiny_timm: Path) -> None:
    files = sorted((pictures / "night").rglob("*.png"))[:9]
    base = injerto.load_backbone(tiny_timm)
    start, middle, end = (run.scale(t).model.state_dict() for t in (0, 0.5, 1))
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(start[f"backbone.model.{name}"], tensor), name
    plain = injerto.load(run.path)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(end[name], tensor), name
    changed = [name for name in start if start[name].is_floating_point() and not torch.equal(start[name], end[name])]
    assert any("running_mean" in name for name in changed) and any("head" in name for name in changed)
    for name in changed:
        torch.testing.assert_close(middle[name], (start[name] + end[name]) / 2, rtol=1e-5, atol=1e-6)
    chances = [injerto.load(run.path, slider=t).predict_proba(files) for t in (0, 0.5, 1)]
    assert np.array_equal(chances[2], run.predict_proba(files))
    assert not np.allclose(chances[0], chances[2], atol=1e-3)


def test_from_the_command_line(run: Any, pictures: Path, cli: Callable[..., Any], refused: Callable[..., str]) -> None:
    ends = [cli("evaluate", run.path, pictures, "--slider", t, "--on", "night", "--json") for t in (0, 1)]
    assert all(result.code == 0 for result in ends) and ends[0].out != ends[1].out
    assert "from 0" in refused("evaluate", run.path, pictures, "--slider", 1.5)
    assert (run.path / "adapter" / "head.safetensors").exists()


def test_a_run_without_one_says_so(image_run: Path, refused: Callable[..., str], pictures: Path) -> None:
    assert "--slider" in refused("evaluate", image_run, pictures, "--slider", 0.5)


def test_a_picture_of_the_way_is_drawn(
    pictures: Path, tiny_timm: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    from PIL import Image

    result = cli("fit", pictures, "--source", "day", "--backbone", tiny_timm, "--tuning", "full", "--slider", "--epochs", 2,
                 "--out", tmp_path / "run", "--threads", 1)  # fmt: skip
    assert result.code == 0, result.err
    assert "slider" in result.out
    with Image.open(tmp_path / "run" / "forgetting.png") as picture:
        assert picture.size[0] > 300
    again = cli("fit", pictures, "--config", tmp_path / "run" / "recipe.yaml", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    drawn = [(tmp_path / name / "forgetting.png").read_bytes() for name in ("run", "again")]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("damage", ["shape", "nan", "alone"])
def test_a_strange_probe_is_not_loaded(run: Any, damage: str, tiny_timm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(run.path / "adapter", folder)
    tensors = load_file(folder / "head.safetensors")
    if damage == "shape":
        tensors["probe.weight"] = torch.zeros(7, 5)
    elif damage == "nan":
        tensors["probe.bias"] = torch.full_like(tensors["probe.bias"], float("nan"))
    else:
        tensors["probe.other"] = torch.zeros(3)
    save_file(tensors, folder / "head.safetensors")
    tiny.sign(folder)
    with pytest.raises(InjertoError, match=r"probe\."):
        injerto.load(folder, backbone=tiny_timm)
