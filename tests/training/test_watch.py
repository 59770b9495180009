"""Early warnings: each on a run that has the problem, none on one that has not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import injerto


@pytest.fixture
def warnings_of(
    tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """A function: the warnings of a run, from its metrics; each is printed exactly once."""

    def go(data: Path, **settings: Any) -> list[str]:
        given = {"source": "day", "backbone": tiny_timm, "augment": "none"} | quick | settings
        found: list[str] = injerto.fit(data, out=tmp_path / "run", **given).metrics["warnings"]
        printed = capsys.readouterr().err
        for text in found:
            assert printed.count(f"warning: {text}\n") == 1
        return found

    return go


def noise(root: Path, per_class: int) -> Path:
    """Pictures that say nothing about their class."""
    rng = np.random.default_rng(0)
    for label in ("blue", "green", "red"):
        (root / "day" / label).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
                root / "day" / label / f"{number}.png"
            )
    return root


def test_a_healthy_run_has_none(warnings_of: Any, pictures: Path) -> None:
    assert warnings_of(pictures, tuning="head", epochs=30) == []


def test_a_head_that_is_not_learning(warnings_of: Any, tmp_path: Path) -> None:
    found = warnings_of(noise(tmp_path / "noise", 20), tuning="full", lr=1e-9, head_lr=1e-9, epochs=10)
    assert any("not learning" in text for text in found)


@pytest.mark.slow
def test_over_fitting(warnings_of: Any, tmp_path: Path) -> None:
    found = warnings_of(noise(tmp_path / "noise", 20), tuning="full", lr=1e-3, head_lr=1e-2, epochs=30)
    assert any("over-fitting" in text for text in found)


def test_predictions_that_collapse(warnings_of: Any, pictures: Path) -> None:
    found = warnings_of(pictures, tuning="full", lr=0.5, head_lr=1e-3, epochs=12)  # the first layers die
    assert any("same class" in text for text in found)
    assert not any("not learning" in text for text in found)  # whose cure is the opposite


def test_a_target_on_which_one_class_is_predicted(warnings_of: Any, tmp_path: Path, data_writers: Any) -> None:
    data = data_writers.pictures(tmp_path / "data", per_class=20)
    for label in ("blue", "green"):
        for picture in (data / "dusk" / label).iterdir():
            picture.unlink()
    for name, warned in (("dusk", True), ("night", False)):
        found = warnings_of(data, tuning="head", target=name, epochs=30, overwrite=True)
        assert any("on the target (effective number)" in text for text in found) == warned


def test_a_loss_that_rises_is_not_cured_by_a_higher_rate(warnings_of: Any, pictures: Path) -> None:
    found = warnings_of(pictures, tuning="head", target="night", alignment="dann:300", steps=40, head_lr=0.1)
    told = [text for text in found if "not learning" in text]
    assert len(told) == 1 and "has risen" in told[0] and "lower --head-lr" in told[0]
