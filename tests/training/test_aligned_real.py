"""The second dial on real weights and pictures: the lesson's example, and that no target label leaks."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import injerto
from injerto.domains.samples import SAMPLES

pytestmark = pytest.mark.slow
CLASSES = ("animal", "building", "face", "food", "plant", "vehicle")
SETTINGS: dict[str, Any] = {
    "source": "plain", "target": "bright", "backbone": "packaged:efficientnet-lite0", "image_size": 64, "threads": 1,
    "group": r"([0-9a-f-]+)\.png", "steps": 200, "neck": "256", "select": "last",
}  # fmt: skip


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noto drawings as they are, and washed out by light: every pixel nine tenths of the way to white."""
    root = tmp_path_factory.mktemp("light")
    with zipfile.ZipFile(SAMPLES["emoji-styles"].path) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if parts[1] != "noto" or parts[2] not in CLASSES:
                continue
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"), np.float32)
            for domain, share in (("plain", 0.0), ("bright", 0.9)):
                path = root / domain / parts[2] / f"{Path(name).stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((255 - (255 - pixels) * (1 - share)).round().astype(np.uint8)).save(path)
    return root


@pytest.mark.parametrize("term", ["mmd", "coral", "dann", "cdan-e", "mcc", "lmmd"])
def test_pictures_made_brighter(term: str, light: Path, tmp_path: Path) -> None:
    gains, lost = [], []
    for seed in (0, 1, 2):
        found = {}
        for alignment in ("none", term):
            out = tmp_path / f"{alignment}-{seed}"
            metrics = injerto.fit(light, out=out, alignment=alignment, seed=seed, **SETTINGS).metrics["domains"]
            found[alignment] = [
                np.mean([metrics["bright"]["splits"][side]["accuracy"] for side in ("train", "test")]),
                metrics["plain"]["splits"]["test"]["accuracy"],
            ]
        gains.append(100 * (found[term][0] - found["none"][0]))
        lost.append(100 * (found["none"][1] - found[term][1]))
    print(term, np.round(gains, 1), np.round(lost, 1))
    assert np.mean(gains) >= 5
    assert np.mean(lost) <= 6


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "head", "alignment": "mmd+dann+mcc+self-training"},
        {"tuning": "lora:last:2", "alignment": "mmd", "neck": "none", "augment": "light", "views": 2},
    ],
    ids=["head", "lora"],
)
def test_permuted_target_labels_change_no_weight(settings: dict[str, Any], light: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    for domain in ("plain", "bright"):
        for path in (light / domain).rglob("*.png"):
            label = path.parent.name
            if domain == "bright":
                label = CLASSES[(CLASSES.index(label) + 1) % len(CLASSES)]
            place = wrong / domain / label / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    given = SETTINGS | {"steps": 12} | settings
    runs = [injerto.fit(data, out=tmp_path / name, **given) for name, data in (("a", light), ("b", wrong))]
    assert (runs[0].path / "splits.csv").read_bytes() == (runs[1].path / "splits.csv").read_bytes()
    for path in (runs[0].path / "adapter").glob("*.safetensors"):
        one, other = load_file(path), load_file(runs[1].path / "adapter" / path.name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    kept = [
        {k: v for k, v in run.metrics.items() if k in ("selection", "alignment", "splits", "warnings")} for run in runs
    ]
    assert kept[0] == kept[1]
    assert runs[0].metrics["domains"]["plain"] == runs[1].metrics["domains"]["plain"]
    assert runs[0].metrics["domains"]["bright"] != runs[1].metrics["domains"]["bright"]
