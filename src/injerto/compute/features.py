"""The feature cache: what frozen stages compute, keyed by content, so that nothing is computed twice."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256
from injerto.basics.progress import note
from injerto.compute.crew import crew
from injerto.compute.shards import Shard, read_shard, write_shard
from injerto.compute.spaces import Space
from injerto.domains.images import DECODING

SHARD_BYTES = 32_000_000
"""Bytes that are held in memory before they are written."""
HELD_BYTES = 1_000_000_000
"""Kept values of a run up to this size are held in memory, checked once; more is read, and checked, when asked for."""
FORMAT = 7
"""Raised whenever Injerto itself computes or augments otherwise, so that what was kept before is never read."""
Chunk = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Positions (n,), rows float32 (sum of counts, D), and how many rows each position has; None where each has one."""


def space_key(base: str, preprocessing: dict[str, object], view: str, arithmetic: str) -> str:
    """Name of the folder for values that are comparable: everything that decides a value but the content.

    Args:
        base: The key of the backbone's identity.
        preprocessing: Its card.
        view: Which augmented version, how norm statistics were made, and where the backbone was cut.
        arithmetic: Precision, device and layout.
    """
    versions = []
    for package in ("injerto", "torch", "timm", "transformers", "tokenizers", "pillow", "numpy"):
        try:
            versions.append(f"{package}={version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package}=none")
    card = json.dumps(preprocessing, sort_keys=True)
    return sha256(FORMAT, DECODING, base, card, view, arithmetic, *versions)


class Spare:
    """Memory for values that the disk does not take."""

    def __init__(self, left: int = sys.maxsize) -> None:
        """Say how much.

        Args:
            left: Bytes.
        """
        self.left = left

    def take(self, size: int) -> bool:
        """Use some of it; False where so much is not left.

        Args:
            size: Bytes.
        """
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(frozen=True)
class Source:
    """Computes values of some inputs that are kept nowhere, the same numbers each time.

    Attributes:
        compute: Given positions, yields chunks that speak of indices into those positions.
        lengths: Given positions, says how many rows each has; None where each has one.
    """

    compute: Callable[[list[int]], Iterator[Chunk]]
    lengths: Callable[[list[int]], np.ndarray] | None = None


class FeatureStore:
    """Values of one space, in shards; see :mod:`injerto.compute.shards`.

    An input has one row (an embedding, a flattened map) or as many as it has tokens. A shard counts only when its keys
    are there, so a killed writer leaves nothing that looks finished. Where the disk takes no more, values are held in
    memory, or not at all: who asks for them computes them then, see :class:`Features`.
    """

    def __init__(
        self, space: str, width: int, on_disk: bool = True, full: bool = False, spare: Spare | None = None
    ) -> None:
        """Open the space and read which contents it holds.

        Args:
            space: From :func:`space_key`.
            width: Numbers in a row.
            on_disk: False neither reads nor writes files.
            full: Whether the disk takes nothing more: what is there is read.
            spare: Memory for what the disk does not take; any amount where not given.
        """
        self.width = width
        self.space = Space(space) if on_disk else None
        self._full, self._spare = full or not on_disk, spare or Spare()
        self._kept: list[tuple[list[str], np.ndarray, np.ndarray]] = []
        self._where: dict[str, tuple[int, int, int, int]] = {}
        self._shards: list[np.ndarray | Shard] = []
        self.read()

    def read(self) -> None:
        """Look again which contents are there: other processes may have written some."""
        self._where, self._shards = {}, []
        for path in self.space.shards() if self.space else ():
            if (found := read_shard(path, self.width)) is not None:
                shard, keys, where = found
                self._add(keys, where, shard)
        for keys, where, values in self._kept:
            self._add(keys, where, values)

    def _add(self, keys: Sequence[str], where: np.ndarray, values: np.ndarray | Shard) -> None:
        for key, (start, count, known) in zip(keys, where.tolist(), strict=True):
            self._where[key] = (len(self._shards), start, count, known)
        self._shards.append(values)

    @property
    def takes(self) -> bool:
        """Whether anything more can be kept."""
        return not self._full or self._spare.left > 0

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The contents that are not here yet, each once, sorted.

        Args:
            keys: Content hashes.
        """
        return sorted({key for key in keys if key not in self._where})

    def fill(self, stream: Iterator[tuple[Sequence[str], np.ndarray, np.ndarray | None]]) -> None:
        """Take in values and write them shard by shard, for as long as there is room.

        Args:
            stream: Content hashes, rows float32 (sum of counts, D), and the counts (None for one row each).
        """
        keys: list[str] = []
        rows: list[np.ndarray] = []
        counts: list[np.ndarray] = []
        size = 0
        for names, values, each in stream:
            keys.extend(names)
            rows.append(values)
            counts.append(np.ones(len(names), np.uint32) if each is None else each.astype(np.uint32))
            size += values.nbytes
            if size >= SHARD_BYTES:
                if not self._write(keys, np.concatenate(counts), np.concatenate(rows)):
                    return
                keys, rows, counts, size = [], [], [], 0
        if keys:
            self._write(keys, np.concatenate(counts), np.concatenate(rows))

    def _write(self, keys: list[str], counts: np.ndarray, values: np.ndarray) -> bool:
        """Keep a shard's worth on the disk, else in memory; False where neither takes it."""
        counts = counts.astype(np.int64)
        where = np.stack([np.cumsum(counts) - counts, counts, np.zeros_like(counts)], axis=1)
        if not self._full:
            assert self.space is not None
            try:
                self.space.make()
                shard, where[:, 2] = write_shard(self.space.folder, keys, counts, values)
            except InjertoError as error:
                self._full = True
                _tell(error)
            else:
                self._add(keys, where, shard)
                return True
        if not self._spare.take(values.nbytes):
            self._spare.left = 0  # a smaller one that fits would only make it slower to find out
            return False
        self._kept.append((keys, where, values))
        self._add(keys, where, values)
        return True

    def rows(self, keys: Sequence[str], source: Source | None = None) -> "Features":
        """The values of these contents, in this order.

        Args:
            keys: Content hashes.
            source: Computes those that are not here, by position in ``keys``; without it they must not be asked for.
        """
        found = [self._where.get(key, (-1, 0, 0, 0)) for key in keys]
        where = np.full((len(keys), 6), -1, np.int64)
        where[:, :4] = np.asarray(found, np.int64).reshape(-1, 4)
        if source is not None:
            where[:, 4], where[:, 5] = 0, np.arange(len(keys))
        return Features(self._shards, where, self.width, [source] if source else [], self.space)


_TOLD: set[str] = set()


def _tell(error: InjertoError) -> None:
    """Say once that the cache takes no more, and that the run goes on."""
    if not _TOLD:
        note(f"cache: {error}. The run goes on and gives the same; what is not kept is computed again when it is used")
        _TOLD.add(str(error))


class Features:
    """Values by position: read, and checked, when asked for; those that are nowhere, or damaged, are computed then."""

    def __init__(
        self,
        shards: Sequence[np.ndarray | Shard],
        where: np.ndarray,
        width: int,
        sources: Sequence[Source] = (),
        *spaces: Space | None,
    ) -> None:
        """Keep the addresses.

        Args:
            shards: Arrays (rows, D), or files of such.
            where: Shard (-1 for none), first row and number of rows of each input, and where there are files the
                checksum, the source and the position there; (N, 3) or (N, 6).
            width: D.
            sources: Compute what is missing.
            spaces: Not to be trimmed away while this is used.
        """
        if where.shape[1] == 3:
            where = np.concatenate([where, np.full((len(where), 3), -1)], axis=1)
        self._shards, self._where, self.width = shards, where, width
        self._sources, self._spaces = sources, spaces

    def slice(self, start: int, stop: int) -> "Features":
        """Those from ``start`` to ``stop - 1``.

        Args:
            start: First position.
            stop: One past the last position.
        """
        return Features(self._shards, self._where[start:stop], self.width, self._sources, *self._spaces)

    @staticmethod
    def join(parts: "Sequence[Features]") -> "Features":
        """All of these, one after the other.

        Args:
            parts: At least one, of equal width.
        """
        shards: list[np.ndarray | Shard] = []
        sources: list[Source] = []
        spaces: list[Space | None] = []
        where = []
        for part in parts:
            moved = part._where.copy()
            moved[moved[:, 0] >= 0, 0] += len(shards)
            moved[moved[:, 4] >= 0, 4] += len(sources)
            where.append(moved)
            shards += part._shards
            sources += part._sources
            spaces += part._spaces
        return Features(shards, np.concatenate(where), parts[0].width, sources, *dict.fromkeys(spaces))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._where)

    @property
    def nbytes(self) -> int:
        """Bytes of those that are kept."""
        kept, first, _ = self._kept()
        return int(self._where[kept[first], 2].sum()) * self.width * 4

    def _kept(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of what is kept; indices of the first with each address, in its order; which one each has."""
        kept = np.flatnonzero(self._where[:, 0] >= 0)
        addresses = (self._where[kept, 0] << 40) + self._where[kept, 1]
        _, first, place = np.unique(addresses, return_index=True, return_inverse=True)
        return kept, first, place

    @property
    def counts(self) -> np.ndarray:
        """Rows of each input, int64 (N,)."""
        return self.lengths(np.arange(len(self)))

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """Rows of some inputs, int64 (n,).

        Args:
            positions: Integers (n,).
        """
        unknown = np.unique(positions[self._where[positions, 2] == 0])
        for number, source in enumerate(self._sources):
            mine = unknown[self._where[unknown, 4] == number]
            if len(mine):
                places = self._where[mine, 5].tolist()
                self._where[mine, 2] = 1 if source.lengths is None else source.lengths(places)
        return self._where[positions, 2]

    def __getitem__(self, positions: np.ndarray) -> torch.Tensor:
        """The first row of each, float32 (n, D): all there is of an embedding or a map.

        Args:
            positions: Integers (n,).
        """
        where = self._where[positions]
        if len(where) and len(first := np.unique(where[:, 0])) == 1 and first[0] >= 0:
            shard = self._shards[first[0]]
            if isinstance(shard, np.ndarray):
                return torch.from_numpy(shard[where[:, 1]])
        values, starts, _ = self._rows(positions)
        return torch.from_numpy(values[starts])

    def padded(self, positions: np.ndarray, length: int) -> torch.Tensor:
        """All rows of each, zeros after the last: float32 (n, length, D).

        Args:
            positions: Integers (n,).
            length: At least the largest number of rows.
        """
        result = np.zeros((len(positions), length, self.width), np.float32)
        values, starts, counts = self._rows(positions)
        for target, start, count in zip(result, starts.tolist(), counts.tolist(), strict=True):
            target[:count] = values[start : start + count]
        return torch.from_numpy(result)

    def held(self) -> "Features":
        """The same with all that is kept in memory, checked; what is kept nowhere is still computed when asked for."""
        kept, first, place = self._kept()
        values, starts, _ = self._rows(kept[first])
        where = self._where.copy()
        where[kept, 0], where[kept, 1] = 0, starts[place]
        return Features([values], where, self.width, self._sources)

    def _rows(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of some inputs, (sum of counts, D), in the order of their addresses; the first row and count of each."""
        counts = self.lengths(positions)
        where = self._where[positions]
        order = np.lexsort((where[:, 1], where[:, 0]))
        ends = np.cumsum(counts[order])
        starts = np.empty_like(counts)
        starts[order] = ends - counts[order]
        values = np.empty((int(counts.sum()), self.width), np.float32)
        left: list[np.ndarray] = []
        numbers, firsts = np.unique(where[order, 0], return_index=True)
        for number, mine in zip(numbers.tolist(), np.split(order, firsts[1:]), strict=False):
            if number < 0:
                left.append(mine)
                continue
            shard, block = self._shards[number], values[starts[mine[0]] : starts[mine[-1]] + counts[mine[-1]]]
            if isinstance(shard, Shard):
                left.append(mine[~shard.read(where[mine, 1:4], block)])
            else:
                moved = np.repeat(where[mine, 1] - (starts[mine] - starts[mine[0]]), counts[mine])
                np.take(shard, moved + np.arange(len(moved)), axis=0, out=block, mode="clip")
        for index, rows in self._computed(where, np.concatenate(left) if left else order[:0]):
            values[starts[index] : starts[index] + counts[index]] = rows
        return values, starts, counts

    def _computed(self, where: np.ndarray, left: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """What was found nowhere: index and rows."""
        assert (where[left, 4] >= 0).all(), "a value was asked for that nobody planned to need"
        for number in np.unique(where[left, 4]).tolist():
            mine = left[where[left, 4] == number]
            places, inverse = np.unique(where[mine, 5], return_inverse=True)
            made: dict[int, np.ndarray] = {}
            for indices, rows, counts in self._sources[number].compute(places.tolist()):
                ends = np.cumsum(np.ones(len(indices), np.int64) if counts is None else counts)
                made |= zip(indices.tolist(), np.split(rows, ends[:-1]), strict=True)
            for index, place in zip(mine.tolist(), inverse.tolist(), strict=True):
                yield index, made[place]


def cached(
    store: FeatureStore,
    keys: Sequence[str],
    compute: Callable[[list[int]], Iterator[Chunk]],
    lengths: Callable[[list[int]], np.ndarray] | None = None,
) -> Features:
    """The values of ``keys``: what is missing is computed, each process of a crew a share of it, the rest is read.

    Args:
        store: The space.
        keys: Content hashes of the inputs, repeats allowed.
        compute: Given positions in ``keys``, yields chunks that speak of indices into those positions.
        lengths: As :class:`Source` has it.

    Returns:
        One entry per key.

    Raises:
        InjertoError: As ``compute`` does.
    """
    if not crew().alone and store.space is not None:
        missing = store.missing(keys)
        crew().wait()  # all have seen the same gaps
        _fill(store, keys, missing[crew().rank :: crew().size], compute)
        crew().wait()
        store.read()
    _fill(store, keys, store.missing(keys), compute)
    return store.rows(keys, Source(compute, lengths))


def _fill(
    store: FeatureStore, keys: Sequence[str], missing: Sequence[str], compute: Callable[[list[int]], Iterator[Chunk]]
) -> None:
    if not missing or not store.takes:
        return
    needed, first = set(missing), dict[str, int]()
    for position, key in enumerate(keys):
        if key in needed:
            first.setdefault(key, position)
    positions = list(first.values())
    store.fill(
        ([keys[positions[index]] for index in indices], rows, counts) for indices, rows, counts in compute(positions)
    )
