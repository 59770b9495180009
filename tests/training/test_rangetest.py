"""The range test finds a rate that learns, and leaves everything as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import injerto
from injerto.training import trainer as trainer_module
from injerto.training.rangetest import range_test


@pytest.mark.parametrize("curvature", [0.1, 1.0, 20.0])
def test_on_a_parabola_it_finds_a_rate_that_converges(curvature: float) -> None:
    state = {"x": 1.0}

    def step(_: int, factor: float) -> float:
        loss = 0.5 * curvature * state["x"] ** 2
        state["x"] -= 0.1 * factor * curvature * state["x"]  # the table's rate is 0.1
        return loss

    rate = 0.1 * range_test(step, 60)
    assert 0.01 < rate * curvature < 2  # 2 diverges


def test_where_nothing_falls_the_table_s_rate_stays() -> None:
    assert range_test(lambda *_: 1.0, 60) == 1.0
    assert range_test(lambda index, _: 1.0 + index, 60) == 1.0
    assert range_test(lambda index, _: 9.0 - index, 5) == 1.0  # too few steps to say


def test_it_leaves_no_trace(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the factor forced to 1, training is the training without it, to the bit."""
    original = trainer_module.range_test

    def forced(step: Any, steps: int) -> float:
        found = original(step, steps)
        assert np.isfinite(found)
        return 1.0

    monkeypatch.setattr(trainer_module, "range_test", forced)
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "full", "norm": "train", "steps": 20} | quick
    plain = injerto.fit(pictures, out=tmp_path / "plain", **settings)
    found = injerto.fit(pictures, out=tmp_path / "auto", lr="auto", **settings)
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert (plain.path / "adapter" / name).read_bytes() == (found.path / "adapter" / name).read_bytes()
