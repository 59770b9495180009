"""An adapter ships with what inputs look like to it, from examples that nothing was learned from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import injerto
from injerto.adapters.sketch import FEWEST, Sketch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, data_writers: Any) -> Path:
    return Path(data_writers.pictures(tmp_path_factory.mktemp("more"), 60, ("day", "night")))


def held_out(run: Any, data: Path, domain: str) -> np.ndarray:
    """What the run's head sees of ``val`` and ``test``, by its own records."""
    sides = run.recorded_splits()
    part = injerto.load_domains(data)[domain]
    keep = [i for i, content in enumerate(part.contents) if sides[content] in ("val", "test")]
    return np.asarray(run.embed([part.inputs[i] for i in keep]))


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "head", "neck": "8"},
        {"tuning": "last:1", "target": "night", "alignment": "mmd"},
        {"tuning": "lora:last:2", "target": "night"},
        {"tuning": "head", "head": "probe", "target": "night", "test": True},
        {"tuning": "full", "slider": True},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_sketch_is_of_held_out_inputs_as_the_head_sees_them(
    settings: dict[str, Any], data: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    only_test = settings.pop("test", False)
    fitted = injerto.fit(
        data, source="day", backbone=tiny_timm, augment="none", steps=3, out=tmp_path / "a", **quick, **settings
    )
    run = injerto.load(fitted.path, threads=1)
    rows = held_out(run, data, settings.get("target", "day"))
    sketch = run.sketch
    assert sketch is not None
    if only_test:  # a probe looks at no target but to measure it: its val is not embedded
        assert FEWEST <= sketch.count < len(rows)
        return
    assert sketch.count == len(rows) >= FEWEST
    expected = Sketch.of(rows)
    assert np.abs(sketch.mean - expected.mean).max() < 1e-3
    assert sketch.bandwidth == pytest.approx(expected.bandwidth, rel=1e-3)
    assert not sketch.test(rows[:: len(rows) // 8]).alarm()


def test_of_too_few_there_is_none(image_run: Path) -> None:
    assert injerto.load(image_run).sketch is None


def test_it_goes_with_the_adapter_into_int8(data: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    run = injerto.fit(data, source="day", backbone=tiny_timm, tuning="lora", steps=1, out=tmp_path / "a", **quick)
    injerto.export(run.path, tmp_path / "b", format="int8")
    found = injerto.load(tmp_path / "b", backbone=tiny_timm).sketch
    assert run.sketch is not None and found is not None and found.same(run.sketch)
