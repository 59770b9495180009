"""Runs that share what they load compute the same bits, and do load it once."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest

import injerto
import tiny
from injerto.basics.errors import InjertoError
from injerto.training import prepare, reading
from injerto.training.shared import is_shared, load_once, shared_loading


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was really loaded."""
    seen: list[str] = []
    for module, name in ((reading, "load_domains"), (prepare, "open_backbone")):
        original = getattr(module, name)

        def watched(*given: Any, name: str = name, original: Any = original, **more: Any) -> Any:
            seen.append(name)
            return original(*given, **more)

        monkeypatch.setattr(module, name, watched)
    return seen


def result(folder: Path) -> tuple[Any, dict[str, bytes]]:
    metrics = tiny.timeless(json.loads((folder / "metrics.json").read_text()))
    files = [*(folder / "adapter").iterdir(), folder / "predictions.csv", folder / "splits.csv"]
    return metrics, {path.name: path.read_bytes() for path in files}


def test_with_and_without_the_results_are_the_same_bits(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, loaded: list[str]
) -> None:
    given: dict[str, Any] = {"source": "day", "target": "dusk", "backbone": tiny_timm, "steps": 4, **quick}
    runs = [{"tuning": "full", "alignment": "mmd"}, {"tuning": "lora", "seed": 1}, {"tuning": "full", "norm": "train"}]
    runs += [{"tuning": "full", "alignment": "mmd"}]
    with shared_loading():
        for number, run in enumerate(runs):
            injerto.fit(pictures, out=tmp_path / f"shared-{number}", **given, **run)
    assert loaded == ["load_domains", "open_backbone"]
    for number, run in enumerate(runs[:3]):
        injerto.fit(pictures, out=tmp_path / f"alone-{number}", **given, **run)
        assert result(tmp_path / f"alone-{number}") == result(tmp_path / f"shared-{number}")
    assert len(loaded) == 8
    assert result(tmp_path / "shared-0") == result(tmp_path / "shared-3")  # no run has left a trace


def test_texts_too(reviews: Path, tiny_bert: Path, quick: dict[str, Any], tmp_path: Path, loaded: list[str]) -> None:
    given: dict[str, Any] = {"source": "films", "backbone": tiny_bert, "steps": 3, "tuning": "last:1", **quick}
    with shared_loading():
        for name in ("a", "b"):
            injerto.fit(reviews, out=tmp_path / name, **given)
    injerto.fit(reviews, out=tmp_path / "c", **given)
    assert loaded == ["load_domains", "open_backbone"] * 2
    assert result(tmp_path / "a") == result(tmp_path / "b") == result(tmp_path / "c")


def test_one_of_a_kind_is_kept() -> None:
    class Big:
        pass

    made: list[str] = []

    def make(name: str) -> Any:
        made.append(name)
        return Big()

    assert not is_shared() and load_once("kind", 1, Big) is not load_once("kind", 1, Big)
    with shared_loading():
        first = load_once("kind", "a", lambda: make("a"))
        assert load_once("kind", "a", lambda: make("a")) is first and is_shared()
        with shared_loading():  # an inner block adds nothing
            assert load_once("kind", "a", lambda: make("a")) is first
        assert load_once("kind", None, lambda: make("none")) is not load_once("kind", None, lambda: make("none"))
        gone = weakref.ref(first)
        del first
        load_once("kind", "b", lambda: make("b"))
        gc.collect()
        assert gone() is None
        with pytest.raises(ZeroDivisionError):
            load_once("kind", "c", lambda: 1 / 0)
        load_once("kind", "c", lambda: make("c"))
    assert made == ["a", "none", "none", "b", "c"] and not is_shared()


def test_other_data_and_other_ways_to_read_it_are_read(
    pictures: Path, reviews: Path, tiny_bert: Path, tmp_path: Path, loaded: list[str]
) -> None:
    from injerto.recipe.recipe import make_recipe

    with shared_loading():
        one = reading.read_domains(make_recipe(data=str(reviews)), str(reviews))
        assert reading.read_domains(make_recipe(data=str(reviews)), str(reviews)) is one
        other = reading.read_domains(make_recipe(data=str(reviews), group="text"), str(reviews))
        assert other is not one and len(loaded) == 2
        assert list(reading.read_domains(make_recipe(data=str(pictures)), str(pictures))) == ["day", "dusk", "night"]
        assert reading.read_domains(make_recipe(data="Domains"), one) is one  # objects are handed through
        with pytest.raises(InjertoError):
            reading.read_domains(make_recipe(data="nowhere"), "nowhere")
