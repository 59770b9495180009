import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from injerto.basics.files import sha256
from injerto.compute import features, shards, spaces
from injerto.compute.features import Chunk, Features, FeatureStore, Spare, cached, space_key
from injerto.compute.shards import HEADER
from injerto.compute.spaces import MARK, room_for, trim
from injerto.domains.preprocessing import ImagePreprocessing

LOOKS = ImagePreprocessing(32, 32, (0.5, 0.4, 0.3), (0.3, 0.25, 0.2), "bilinear", 1.0)


def value(key: str) -> np.ndarray:
    """The embedding of a content, as a model would give it: it depends on nothing else."""
    return np.random.default_rng(int(key[:8], 16)).standard_normal(3).astype(np.float32)


class Counting:
    """Computes embeddings in chunks of two, out of order, and remembers for what."""

    def __init__(self, keys: list[str], fail_after: int | None = None) -> None:
        self.keys, self.asked, self.fail_after = keys, [], fail_after

    def __call__(self, positions: list[int]) -> Iterator[Chunk]:
        self.asked += [self.keys[position] for position in positions]
        order = sorted(range(len(positions)), key=lambda i: self.keys[positions[i]])
        for number, start in enumerate(range(0, len(order), 2)):
            if number == self.fail_after:
                raise KeyboardInterrupt
            indices = np.asarray(order[start : start + 2])
            yield indices, np.stack([value(self.keys[positions[i]]) for i in indices]), None


def keys_of(count: int, start: int = 0) -> list[str]:
    return [sha256("content", i) for i in range(start, start + count)]


def age(space: Path, number: float) -> None:
    """Make a space look as if it was used long ago."""
    os.utime(space / MARK, (1e9 - 1000 * number,) * 2)


def look(keys: list[str], space: str = "space", **more: object) -> list[str]:
    """Read all embeddings, check every one, and say which had to be computed."""
    compute = Counting(keys)
    found = cached(FeatureStore(space, 3, **more), keys, compute)  # type: ignore[arg-type]
    expected = np.stack([value(key) for key in keys])
    assert len(found) == len(keys)
    assert np.array_equal(found[np.arange(len(keys))].numpy(), expected)
    shuffled = np.random.default_rng(0).permutation(len(keys))
    assert np.array_equal(found[shuffled].numpy(), expected[shuffled])
    assert np.array_equal(found.slice(1, 3)[np.arange(2)].numpy(), expected[1:3])
    return compute.asked


def test_the_second_look_computes_nothing(own_cache: Path) -> None:
    keys = keys_of(9)
    assert sorted(look(keys)) == sorted(keys)
    assert look(keys) == []
    assert look(keys[::-1]) == []
    assert look(keys[2:5]) == []


def test_only_what_is_missing_is_computed_and_each_once(own_cache: Path) -> None:
    look(keys_of(5))
    repeated = keys_of(8) + keys_of(8)
    assert sorted(look(repeated)) == sorted(keys_of(3, start=5))


def test_spaces_do_not_mix(own_cache: Path) -> None:
    look(keys_of(3), "one")
    assert len(look(keys_of(3), "two")) == 3


def test_many_shards(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 4 * 12)
    keys = keys_of(23)
    look(keys)
    assert len(list((own_cache / "features" / "space").glob("*.values"))) == 6
    assert look(keys) == []


@pytest.mark.slow
def test_more_rows_than_a_real_shard_holds(own_cache: Path) -> None:
    count = features.SHARD_BYTES // 6  # of twelve bytes each: two shards
    keys = keys_of(count)
    store = FeatureStore("space", 3)
    rows = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    step = count // 4 + 1
    store.fill((keys[start : start + step], rows[start : start + step], None) for start in range(0, count, step))
    assert len(list((own_cache / "features" / "space").glob("*.values"))) == 2
    assert np.array_equal(FeatureStore("space", 3).rows(keys)[np.arange(count)].numpy(), rows)


@pytest.mark.parametrize("which", ["keys", "values"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "missing", "other shape", "pickle"])
def test_a_damaged_shard_is_computed_again(own_cache: Path, which: str, damage: str) -> None:
    keys = keys_of(6)
    look(keys)
    path = next((own_cache / "features" / "space").glob(f"*.{which}"))
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other shape":
        with path.open("wb") as stream:
            np.save(stream, np.zeros((5, 36 if which == "keys" else 3), np.uint8 if which == "keys" else np.float32))
    elif damage == "pickle":
        with path.open("wb") as stream:
            np.save(stream, np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        path.write_bytes({"truncated": content[:-7], "empty": b"", "garbage": b"\x00" * len(content)}[damage])
    assert set(look(keys)) == set(keys)
    look(keys)  # what was found damaged in the middle of a run is kept again by the next
    assert look(keys) == []


@pytest.mark.parametrize("seed", range(24))
def test_a_flipped_bit_is_never_read(own_cache: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """In values, keys or the mark: every value is right, and the next but one look finds all of them again."""
    keys, rng = keys_of(6), np.random.default_rng(seed)
    look(keys)
    path = sorted((own_cache / "features" / "space").iterdir())[seed % 3]
    content = bytearray(path.read_bytes())
    bit = int(rng.integers(64 * 8 if seed % 2 and seed % 3 else 0, len(content) * 8))  # often behind the header
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    look(keys)
    look(keys)
    assert look(keys) == []


@pytest.mark.parametrize("held", [True, False])
def test_values_that_change_under_a_run_are_computed_again(
    own_cache: Path, held: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, every = keys_of(40), np.arange(40)
    look(keys)
    compute = Counting(keys)
    found = cached(FeatureStore("space", 3), keys, compute)
    found = found.held() if held else found
    path = next((own_cache / "features" / "space").glob("*.values"))
    expected = np.stack([value(key) for key in keys])
    whole = path.read_bytes()
    for content in (whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], whole[:200], b""):
        path.write_bytes(content)
        assert np.array_equal(found[every].numpy(), expected)
        assert np.array_equal(found.padded(every, 1)[:, 0].numpy(), expected)
    path.unlink()
    assert np.array_equal(found[every].numpy(), expected)
    assert bool(compute.asked) != held
    assert capsys.readouterr().err.count("not as they were written") == (not held)


def test_what_the_disk_does_not_take_is_held_or_computed_when_asked_for(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 4 * 12)
    monkeypatch.setattr(features, "_TOLD", set())
    keys, expected = keys_of(12), np.stack([value(key) for key in keys_of(12)])
    written = shards.atomic_path
    for writes in range(6):  # two for each shard
        for spare in (None, 60, 0):
            calls = 0

            @contextmanager
            def full(path: Path) -> Iterator[Path]:
                nonlocal calls
                calls += 1
                with written(path) as temporary:
                    yield temporary
                    if calls > writes:  # noqa: B023
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(shards, "atomic_path", full)
            compute, space = Counting(keys), f"{writes}-{spare}"
            found = cached(FeatureStore(space, 3, spare=None if spare is None else Spare(spare)), keys, compute)
            assert np.array_equal(found[np.arange(12)[::-1]].numpy(), expected[::-1])
            assert np.array_equal(found.padded(np.asarray([3, 3, 11]), 1)[:, 0].numpy(), expected[[3, 3, 11]])
            assert found.held().counts.tolist() == [1] * 12
            assert (len(compute.asked) > 12) == (spare == 0 or (spare == 60 and writes < 4))
            monkeypatch.setattr(shards, "atomic_path", written)
            assert len(look(keys, space)) == 12 - 4 * (writes // 2)
    assert capsys.readouterr().err.count("The run goes on") == 1
    assert not list(own_cache.rglob("*.tmp"))


def test_a_full_cache_is_read_and_not_written(own_cache: Path) -> None:
    look(keys_of(5))
    before = sorted(own_cache.rglob("*"))
    assert sorted(look(keys_of(8), full=True)) == sorted(keys_of(3, start=5))
    assert sorted(own_cache.rglob("*")) == before


def test_an_interrupted_computation_keeps_whole_shards_only(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 4 * 12)
    keys = keys_of(12)
    with pytest.raises(KeyboardInterrupt):
        cached(FeatureStore("space", 3), keys, Counting(keys, fail_after=3))
    assert len(look(keys)) == 12 - 4  # three chunks of two were there: one shard of four


@pytest.mark.parametrize("moment", [1, 2])
def test_a_killed_writer_leaves_nothing_that_looks_finished(own_cache: Path, moment: int) -> None:
    child = os.fork()
    if child == 0:  # dies before the values are in place, or between values and keys
        moved, calls = Path.replace, 0

        def replace(self: Path, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls == moment:
                os._exit(9)
            return moved(self, target)

        Path.replace = replace  # type: ignore[method-assign]
        try:
            FeatureStore("space", 3).fill(iter([(keys_of(6), np.full((6, 3), 7, np.float32), None)]))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert any((own_cache / "features" / "space").iterdir())
    assert sorted(look(keys_of(6))) == sorted(keys_of(6))
    assert look(keys_of(6)) == []


def test_without_a_disk_everything_stays_in_memory(own_cache: Path) -> None:
    look(keys_of(5), on_disk=False)
    assert not (own_cache / "features").exists()
    assert len(look(keys_of(5), on_disk=False)) == 5


def test_the_space_is_named_by_everything_that_decides_a_value() -> None:
    given = ("fingerprint", LOOKS.card(), "plain", "fp32")
    names = {space_key(*given)}
    names.add(space_key("other", *given[1:]))
    for change in ({"height": 64}, {"mean": (0, 0, 0)}, {"interpolation": "bicubic"}, {"crop": 0.9}, {"squash": True}):
        names.add(space_key(given[0], replace(LOOKS, **change).card(), *given[2:]))
    names.add(space_key(*given[:2], "light/0/0", "fp32"))
    names.add(space_key(*given[:2], "light/0/1", "fp32"))
    names.add(space_key(*given[:2], "light/1/0", "fp32"))
    names.add(space_key(*given[:3], "bf16"))
    assert len(names) == 11
    assert space_key(*given) in names  # and the same again is the same


def test_other_versions_are_another_space(monkeypatch: pytest.MonkeyPatch) -> None:
    before = space_key("f", LOOKS.card(), "plain", "fp32")
    monkeypatch.setattr(features, "version", lambda name: "99")
    assert space_key("f", LOOKS.card(), "plain", "fp32") != before


def test_trim_removes_what_was_unused_for_longest(own_cache: Path) -> None:
    for number, space in enumerate(("new", "old", "oldest")):
        look(keys_of(50), space)
        age(own_cache / "features" / space, number)
    size = sum(file.stat().st_size for file in (own_cache / "features" / "new").iterdir())
    trim(10 * size)
    assert {f.name for f in (own_cache / "features").iterdir()} == {"new", "old", "oldest"}
    trim(2 * size)
    assert {f.name for f in (own_cache / "features").iterdir()} == {"new", "old"}
    trim(1)
    assert {f.name for f in (own_cache / "features").iterdir()} == {"new"}  # the one in use stays
    assert look(keys_of(50), "new") == []


def test_using_a_space_makes_it_young(own_cache: Path) -> None:
    for number, space in enumerate(("a", "b")):
        look(keys_of(50), space)
        age(own_cache / "features" / space, number)
    look(keys_of(50), "b")
    trim(1)
    assert {f.name for f in (own_cache / "features").iterdir()} == {"b"}


def test_a_space_that_is_read_stays(own_cache: Path) -> None:
    keys = keys_of(5)
    look(keys)
    found = FeatureStore("space", 3).rows(keys)
    look(keys_of(5), "newer")
    age(own_cache / "features" / "space", 1)
    trim(1)
    assert np.array_equal(found[np.arange(5)].numpy(), np.stack([value(key) for key in keys]))
    assert (own_cache / "features" / "space").exists()
    script = "import sys; from injerto.compute.spaces import trim; trim(1)"
    subprocess.run([sys.executable, "-c", script], check=True)  # another process neither
    assert (own_cache / "features" / "space").exists()
    del found
    trim(1)
    assert not (own_cache / "features" / "space").exists()


def test_trim_removes_nothing_but_ours(own_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = own_cache / "features"
    theirs = {
        "mine/notes.txt": b"thesis",
        "mine/0123456789abcdef.values": b"mine",
        "0" * 64 + "/a.values.npy": b"an earlier version's",
        "space/notes.txt": b"in a space of ours",
        "space/0123456789abcdef.keys": b"named like ours",
        "space/sub/0123456789abcdef.values": HEADER,
        "file": b"no folder",
    }
    for name, content in theirs.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    look(keys_of(50), "copied")
    (root / "copied").rename(root / "copy")  # its mark names another
    look(keys_of(50), "elsewhere")
    (root / "elsewhere").rename(tmp_path / "linked")
    (root / "linked").symlink_to(tmp_path / "linked")
    kept = {path: path.read_bytes() for path in [*(root / "copy").iterdir(), *(tmp_path / "linked").iterdir()]}
    look(keys_of(50), "space")
    age(root / "space", 5)
    look(keys_of(50), "newest")
    capsys.readouterr()
    trim(0)
    trim(0)
    err = capsys.readouterr().err
    assert err.count("earlier version") == 1 and "cache: removed" in err
    assert {name: (root / name).read_bytes() for name in theirs} == theirs
    assert {path: path.read_bytes() for path in kept} == kept
    assert {path.name for path in (root / "space").iterdir()} == {"notes.txt", "0123456789abcdef.keys", "sub"}
    assert look(keys_of(50), "space") and look(keys_of(50), "space") == []  # it is a space again


def test_the_limit_comes_from_the_environment(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, space in enumerate(("new", "old")):
        look(keys_of(50), space)
        age(own_cache / "features" / space, number)
    monkeypatch.setenv("INJERTO_CACHE_LIMIT", "1e3")
    trim()
    assert {f.name for f in (own_cache / "features").iterdir()} == {"new"}


def test_no_cache_folder_is_no_problem(own_cache: Path) -> None:
    trim(0)
    assert room_for(10, 10) is None


def test_a_full_disk_is_said(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    assert room_for(10, 2) is None
    assert "400.0 KB" in (room_for(10_000, 10) or "")


def test_more_than_the_limit_is_not_taken(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INJERTO_CACHE_LIMIT", "1000")
    assert room_for(25, 10) is None
    assert "INJERTO_CACHE_LIMIT" in (room_for(26, 10) or "")


def test_inputs_of_unequal_length(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 40)
    keys, rng = keys_of(9), np.random.default_rng(0)
    texts = [rng.standard_normal((count, 3)).astype(np.float32) for count in rng.integers(1, 7, 9)]

    def compute(asked: list[str]) -> Iterator[Chunk]:
        for first in range(0, len(asked), 2):
            some = [texts[keys.index(key)] for key in asked[first : first + 2]]
            yield np.arange(first, first + len(some)), np.concatenate(some), np.asarray([len(text) for text in some])

    cached(FeatureStore("space", 3), keys[:4], lambda positions: compute([keys[i] for i in positions]))
    cached(FeatureStore("space", 3), keys[::-1], lambda positions: compute([keys[::-1][i] for i in positions]))

    def nothing(_: list[int]) -> Iterator[Chunk]:
        raise AssertionError("all of it is there")

    found = cached(FeatureStore("space", 3), keys, nothing)
    assert found.counts.tolist() == [len(text) for text in texts]
    order = np.asarray([5, 2, 8])
    for row, position in zip(found.padded(order, 7).numpy(), order, strict=True):
        text = texts[position]
        assert np.array_equal(row[: len(text)], text) and not row[len(text) :].any()
    twice = Features.join([found.slice(4, 6), found])
    assert np.array_equal(twice.padded(np.asarray([0, 6]), 7).numpy(), found.padded(np.asarray([4, 4]), 7).numpy())
