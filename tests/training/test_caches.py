"""Training from what frozen stages computed once is the training that computes it anew, step by step."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import injerto
from injerto.compute import embedding, features, shards
from injerto.compute.inference import Embedder
from injerto.training import cacheplan, caches
from injerto.training.trainer import Trainer

IMAGES: dict[str, dict[str, Any]] = {
    "last:1": {"tuning": "last:1", "augment": "light", "views": 2, "epochs": 4},
    "last:3, statistics trained": {"tuning": "last:3", "norm": "train", "augment": "none", "epochs": 4},
    "last:2, two sources": {"tuning": "last:2", "source": ["day", "dusk"], "augment": "light", "views": 1, "epochs": 4},
    "last:2, recalibrated": {"tuning": "last:2", "norm": "recalibrate:source", "augment": "none", "epochs": 4},
    "last:2, parts": {"tuning": "last:2", "augment": "none", "accumulate": 3, "epochs": 3, "neck": "6"},
}
TEXTS: dict[str, dict[str, Any]] = {
    "last:1": {"tuning": "last:1", "epochs": 4},
    "last:2": {"tuning": "last:2", "epochs": 4, "accumulate": 2},
}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[dict[str, torch.Tensor]], list[bool]]]:
    """A function: fit, the weights after every step, and for every step whether it began at a cut."""

    def run(keep: bool, *args: Any, **settings: Any) -> tuple[Any, list[dict[str, torch.Tensor]], list[bool]]:
        weights: list[dict[str, torch.Tensor]] = []
        cut: list[bool] = []
        original = Trainer._step

        def step(self: Trainer, batch: Any) -> float:
            loss = original(self, batch)
            cut.append(batch.cut is not None)
            weights.append({name: value.detach().clone() for name, value in self._weights().items()})
            return loss

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_step", step)
            if not keep:
                patch.setattr(cacheplan, "make_cut", lambda *_: None)
            return injerto.fit(*args, **settings), weights, cut

    return run


def compare(watched: Callable[..., Any], data: Path, out: Path, cut: bool = True, **settings: Any) -> None:
    kept, with_cache, began = watched(True, data, out=out / "kept", **settings)
    anew, without, _ = watched(False, data, out=out / "anew", **settings)
    assert len(with_cache) == len(without) > 3
    assert all(began) == cut
    first = without[0]
    for a, b in zip(with_cache, without, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    moved = [name for name in first if not torch.equal(first[name], without[-1][name])]
    assert any(name.startswith("backbone.") for name in moved)
    for name, entry in kept.metrics["domains"].items():
        for side, found in entry["splits"].items():
            expected = anew.metrics["domains"][name]["splits"][side]
            assert found["nll"] == pytest.approx(expected["nll"], rel=1e-2), (name, side)
    assert kept.metrics["forgetting"]["cka"] == pytest.approx(anew.metrics["forgetting"]["cka"], abs=1e-3)


@pytest.mark.parametrize("case", IMAGES)
def test_pictures(
    case: str, watched: Any, pictures: Path, tiny_timm: Path, tmp_path: Path, quick: Any, own_cache: Path
) -> None:
    settings = {"source": "day", "backbone": tiny_timm, "lr": 1e-3} | quick | IMAGES[case]
    compare(watched, pictures, tmp_path, **settings)


@pytest.mark.parametrize("case", TEXTS)
def test_texts(
    case: str, watched: Any, reviews: Path, tiny_bert: Path, tmp_path: Path, quick: Any, own_cache: Path
) -> None:
    settings = {"source": "films", "backbone": tiny_bert, "lr": 1e-3} | quick | TEXTS[case]
    compare(watched, reviews, tmp_path, **settings)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was run through frozen stages: title and number of inputs, in order."""
    found: list[tuple[str, int]] = []
    original = Embedder._run

    def run(self: Embedder, inputs: Any, keys: Any, title: str, load: Any) -> Any:
        found.append((title, len(inputs)))
        return original(self, inputs, keys, title, load)

    monkeypatch.setattr(Embedder, "_run", run)
    return found


def test_frozen_stages_run_once_per_example_and_view(
    pictures: Path, tiny_timm: Path, tmp_path: Path, quick: Any, own_cache: Path, computed: list[tuple[str, int]]
) -> None:
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "last:1", "augment": "light", "views": 2} | quick
    injerto.fit(pictures, out=tmp_path / "one", epochs=5, **settings)
    through = [count for title, count in computed if title.startswith("stages 0-")]
    assert sum(through) == 2 * 18 + 6 + 6 + 14  # two views of the train split; val, test; two unseen test splits
    computed.clear()
    injerto.fit(pictures, out=tmp_path / "two", epochs=7, lr=1e-4, **settings)
    assert computed == []  # another rate, another length: nothing below the cut is new
    injerto.fit(pictures, out=tmp_path / "three", epochs=5, split_seed=0, **(settings | {"seed": 1}))
    assert [count for title, count in computed if "view" in title] == [18, 18]  # other augmentations


def test_only_what_is_drawn_is_computed(
    pictures: Path, tiny_timm: Path, tmp_path: Path, quick: Any, own_cache: Path, computed: list[tuple[str, int]]
) -> None:
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "head", "augment": "light", "views": 4} | quick
    injerto.fit(pictures, out=tmp_path / "run", steps=3, **settings)  # 24 draws of 18 examples
    assert [count for title, count in computed if "view" in title] == [18, 6]


@pytest.mark.parametrize("what", ["base", "size", "crop", "norm"])
def test_what_changes_a_value_makes_it_anew(
    what: str, pictures: Path, tiny_timm: Path, other_timm: Path, tmp_path: Path, quick: Any, own_cache: Path,
    computed: list[tuple[str, int]],
) -> None:  # fmt: skip
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "last:1", "augment": "none", "epochs": 2} | quick
    injerto.fit(pictures, out=tmp_path / "one", **settings)
    computed.clear()
    change: dict[str, dict[str, Any]] = {
        "base": {"backbone": other_timm},
        "size": {"image_size": 48},
        "crop": {"tuning": "last:2"},
        "norm": {"norm": "recalibrate:source"},
    }
    injerto.fit(pictures, out=tmp_path / "two", **(settings | change[what]))
    assert sum(count for title, count in computed if title.startswith("stages 0-")) == 18 + 6 + 6 + 14


def test_the_plan_says_what_is_kept_and_why_not(
    pictures: Path, tiny_timm: Path, tmp_path: Path, quick: Any, own_cache: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def planned(**settings: Any) -> str:
        capsys.readouterr()
        given = {"source": "day", "backbone": tiny_timm, "epochs": 4, "out": tmp_path / str(np.random.rand())}
        injerto.fit(pictures, **(given | quick | settings))
        return next(line.partition("cached: ")[2] for line in capsys.readouterr().err.splitlines() if "cached:" in line)

    assert planned(tuning="head").startswith("embeddings of 44 inputs (")
    assert planned(tuning="last:1", augment="none").startswith("stages 0-3 of 44 inputs (")
    assert "freezes no stage" in planned(tuning="full")
    assert "--views" in planned(tuning="last:1", augment="light", views=0)
    assert "1.5 times" in planned(tuning="last:1", augment="light", views=4)
    monkeypatch.setenv("INJERTO_CACHE_LIMIT", "1000")
    assert "INJERTO_CACHE_LIMIT" in planned(tuning="last:1", augment="none")


def test_rows_of_a_comparison_keep_for_each_other(
    pictures: Path, tiny_timm: Path, tmp_path: Path, quick: Any, own_cache: Path, computed: list[tuple[str, int]]
) -> None:
    settings = {"source": "day", "backbone": tiny_timm, "epochs": 4, "augment": "light", "views": 4} | quick
    injerto.fit(pictures, tuning="last:1", out=tmp_path / "alone", **settings)
    computed.clear()
    grid = {"tuning": ["last:1", "lora:last:1"]}
    injerto.compare(pictures, grid=grid, seeds=1, out=tmp_path / "rows", **settings)
    kept = [count for title, count in computed if title.startswith("stages 0-")]
    assert sum(kept) == 4 * 18 + 6 + 6 + 14  # as of one run, which had kept nothing: the second row reads them


def test_a_backbone_trained_since_it_was_loaded_has_its_own_place_in_the_cache(
    pictures: Path, tiny_timm: Path, tmp_path: Path, quick: Any, own_cache: Path
) -> None:
    settings = {"source": "day", "tuning": "head", "head": "probe"} | quick
    trained = injerto.load_backbone(str(tiny_timm))
    with torch.no_grad():
        next(iter(trained.model.parameters())).mul_(-1)
    injerto.fit(pictures, backbone=trained, out=tmp_path / "trained", **settings)
    after = injerto.fit(pictures, backbone=tiny_timm, out=tmp_path / "after", **settings)
    for name, found in after.evaluate(injerto.load_domains(pictures)).items():
        assert found["nll"] == pytest.approx(after.metrics["domains"][name]["splits"]["test"]["nll"], rel=1e-4)


ROOMS = ("cold", "warm", "limit 0", "limit 0, warm", "unwritable", "read anew", "computed anew", "full", "damaged")
ALIKE: dict[str, dict[str, Any]] = {
    "head": {"tuning": "head", "augment": "light", "views": 2},
    "probe": {"tuning": "head", "head": "probe"},
    "last:1": {"tuning": "last:1", "augment": "light", "views": 2},
    "last:1, each version once": {"tuning": "last:1", "augment": "light", "views": 4},
    "lora": {"tuning": "lora:last:2", "augment": "none"},
    "recalibrate": {"tuning": "last:1", "norm": "recalibrate:source", "augment": "none"},
    "aligned": {"tuning": "last:1", "augment": "none", "target": "dusk", "alignment": "mmd"},
    "text, last:1": {"tuning": "last:1", "augment": "light", "views": 2},
    "text, head": {"tuning": "head"},
}


QUICK = ("last:1", "text, last:1")


@pytest.mark.parametrize("case", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in ALIKE])
def test_an_adapter_does_not_depend_on_the_room_of_the_cache(
    case: str, pictures: Path, reviews: Path, tiny_timm: Path, tiny_bert: Path, tmp_path: Path, quick: Any,
    own_cache: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    texts = case.startswith("text")
    data, given = (reviews, {"source": "films", "backbone": tiny_bert}) if texts else (
        pictures, {"source": "day", "backbone": tiny_timm})  # fmt: skip
    written = shards.atomic_path
    found = {}
    for room in ROOMS:
        with monkeypatch.context() as patch:
            if room in ("limit 0", "unwritable", "computed anew", "full"):
                patch.setenv("INJERTO_CACHE", str(tmp_path / "caches" / room))
            if room == "unwritable":
                (tmp_path / "caches").mkdir(exist_ok=True)
                (tmp_path / "caches" / room).write_text("a file")
            if room.startswith("limit 0") or room == "computed anew":
                patch.setenv("INJERTO_CACHE_LIMIT", "0")
            if room in ("read anew", "computed anew", "full", "damaged"):
                for module in (features, embedding, caches, cacheplan):
                    patch.setattr(module, "HELD_BYTES", 0, raising=module in (embedding, caches, cacheplan))
            if room == "full":
                patch.setattr(features, "SHARD_BYTES", 2000)
                patch.setattr(shards, "atomic_path", _full_after(5, written))
            if room == "damaged":
                _flip(own_cache)
            run = injerto.fit(data, out=tmp_path / room, epochs=4, seed=1, **(given | quick | ALIKE[case]))
        adapter = {path.name: path.read_bytes() for path in (run.path / "adapter").iterdir()}
        metrics = {name: entry["splits"] for name, entry in run.metrics["domains"].items()}
        found[room] = adapter, metrics, run.metrics["forgetting"], (run.path / "predictions.csv").read_bytes()
    for room in ROOMS:
        assert found[room] == found["cold"], room


def _full_after(writes: int, atomic_path: Any) -> Any:
    """A disk that is full after some writes."""
    left = writes

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        nonlocal left
        left -= 1
        with atomic_path(path) as temporary:
            yield temporary
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return full


def _flip(cache: Path) -> None:
    """Flip a bit in the middle of every second file, whatever it is."""
    files = sorted(path for path in cache.rglob("*") if path.is_file() and path.stat().st_size)
    for path in files[::2]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


def test_nan_is_blamed_on_the_backbone_and_not_kept(
    pictures: Path, tiny_timm: Path, tmp_path: Path, quick: Any, own_cache: Path
) -> None:
    sick = injerto.load_backbone(str(tiny_timm))
    whole, calls = sick.model.forward_features, 0

    def forward(images: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        found = whole(images)
        return found / 0 * 0 if len(images) == 16 else found  # the chunks of what is kept

    sick.model.forward_features = forward
    with pytest.raises(injerto.InjertoError, match=r"computes NaN or infinity from .*\.png.*leave that input out"):
        injerto.fit(pictures, source="day", backbone=sick, tuning="head", epochs=2, out=tmp_path / "run", **quick)
    assert calls and not list(own_cache.rglob("*.values"))
