"""The feature cache: what frozen stages compute, keyed by content, so that nothing is computed twice."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from injerto.basics.errors import InjertoError
from injerto.basics.files import atomic_path, cache_problem, cache_root, remove_tree, sha256
from injerto.basics.progress import format_bytes, note
from injerto.compute.crew import crew
from injerto.domains.images import DECODING

SHARD_BYTES = 32_000_000
"""Bytes that are held in memory before they are written."""
FORMAT = 6
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


class FeatureStore:
    """Values of one space, in shards: ``<n>.values.npy`` (float32 rows) and ``<n>.keys.npy`` (written last).

    An input has one row (an embedding, a flattened map) or as many as it has tokens. A key is 32 bytes of the content's
    hash and 4 that count its rows. A shard counts only when its keys are there, so a killed writer leaves nothing that
    looks finished.
    """

    def __init__(self, space: str, width: int, on_disk: bool = True) -> None:
        """Open the space and read which contents it holds.

        Args:
            space: From :func:`space_key`.
            width: Numbers in a row.
            on_disk: False keeps everything in memory.
        """
        self.width = width
        self.folder = cache_root() / "features" / space if on_disk else None
        self._where: dict[str, tuple[int, int, int]] = {}
        self._shards: list[np.ndarray] = []
        self.read()

    def _open(self, keys_path: Path) -> None:
        values_path = keys_path.with_name(keys_path.name.replace(".keys.", ".values."))
        try:
            keys = np.load(keys_path, allow_pickle=False)
            values = np.load(values_path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return  # a damaged shard is computed again
        if (keys.dtype, values.dtype) != (np.uint8, np.float32) or keys.shape[1:] != (36,):
            return
        counts = np.ascontiguousarray(keys[:, 32:]).view("<u4").ravel()
        if values.shape != (int(counts.sum()), self.width):
            return
        with suppress(OSError):  # removed meanwhile, or another user's
            os.utime(keys_path)
        self._add([row.tobytes().hex() for row in keys[:, :32]], counts, values)

    def _add(self, keys: Sequence[str], counts: np.ndarray, values: np.ndarray) -> None:
        starts = np.cumsum(counts) - counts
        for key, start, count in zip(keys, starts.tolist(), counts.tolist(), strict=True):
            self._where[key] = (len(self._shards), start, count)
        self._shards.append(values)

    def read(self) -> None:
        """Look again which contents are there: other processes may have written some."""
        self._where, self._shards = {}, []
        if self.folder is not None and self.folder.is_dir():
            for keys in sorted(self.folder.glob("*.keys.npy")):
                self._open(keys)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The contents that are not here yet, each once, sorted.

        Args:
            keys: Content hashes.
        """
        return sorted({key for key in keys if key not in self._where})

    def fill(self, stream: Iterator[tuple[Sequence[str], np.ndarray, np.ndarray | None]]) -> None:
        """Take in values and write them shard by shard.

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
                self._write(keys, np.concatenate(counts), np.concatenate(rows))
                keys, rows, counts, size = [], [], [], 0
        if keys:
            self._write(keys, np.concatenate(counts), np.concatenate(rows))

    def _write(self, keys: list[str], counts: np.ndarray, values: np.ndarray) -> None:
        if self.folder is None:
            self._add(keys, counts, values)
            return
        name = sha256(*sorted(keys))[:16]
        path = self.folder / f"{name}.values.npy"
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)
        hashes = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, 32)
        sizes = counts.astype("<u4").reshape(-1, 1).view(np.uint8)
        with atomic_path(self.folder / f"{name}.keys.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, np.concatenate([hashes, sizes], axis=1), allow_pickle=False)
        self._add(keys, counts, np.load(path, mmap_mode="r", allow_pickle=False))

    def rows(self, keys: Sequence[str]) -> "Features":
        """The values of these contents, in this order.

        Args:
            keys: Content hashes; one that is not here may stand among them but must not be asked for.
        """
        where = [self._where.get(key, (-1, 0, 0)) for key in keys]
        return Features(self._shards, np.asarray(where, np.int64).reshape(-1, 3), self.width)


class Features:
    """Values by position, read from the shards when asked for; nothing is held in memory."""

    def __init__(self, shards: list[np.ndarray], where: np.ndarray, width: int) -> None:
        """Keep the addresses.

        Args:
            shards: Arrays (rows, D), memory-mapped where they are on disk.
            where: Shard, first row and number of rows of each input, (N, 3).
            width: D.
        """
        self._shards, self._where, self.width = shards, where, width

    def slice(self, start: int, stop: int) -> "Features":
        """Those from ``start`` to ``stop - 1``.

        Args:
            start: First position.
            stop: One past the last position.
        """
        return Features(self._shards, self._where[start:stop], self.width)

    @staticmethod
    def join(parts: "Sequence[Features]") -> "Features":
        """All of these, one after the other.

        Args:
            parts: At least one, of equal width.
        """
        shards: list[np.ndarray] = []
        where = []
        for part in parts:
            moved = part._where.copy()
            moved[moved[:, 0] >= 0, 0] += len(shards)
            where.append(moved)
            shards += part._shards
        return Features(shards, np.concatenate(where), parts[0].width)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._where)

    @property
    def counts(self) -> np.ndarray:
        """Rows of each input, int64 (N,)."""
        return self._where[:, 2]

    def __getitem__(self, positions: np.ndarray) -> torch.Tensor:
        """The first row of each, float32 (n, D): all there is of an embedding or a map.

        Args:
            positions: Integers (n,).
        """
        where = self._known(positions)
        result = np.empty((len(where), self.width), np.float32)
        for shard in np.unique(where[:, 0]):
            chosen = where[:, 0] == shard
            result[chosen] = self._shards[shard][where[chosen, 1]]
        return torch.from_numpy(result)

    def padded(self, positions: np.ndarray, length: int) -> torch.Tensor:
        """All rows of each, zeros after the last: float32 (n, length, D).

        Args:
            positions: Integers (n,).
            length: At least the largest number of rows.
        """
        result = np.zeros((len(positions), length, self.width), np.float32)
        for target, (shard, start, count) in zip(result, self._known(positions).tolist(), strict=True):
            target[:count] = self._shards[shard][start : start + count]
        return torch.from_numpy(result)

    def _known(self, positions: np.ndarray) -> np.ndarray:
        where = self._where[positions]
        assert (where[:, 0] >= 0).all(), "a value was asked for that nobody planned to need"
        return where


def cached(store: FeatureStore, keys: Sequence[str], compute: Callable[[list[int]], Iterator[Chunk]]) -> Features:
    """The values of ``keys``: what is missing is computed, each process of a crew a share of it, the rest is read.

    Args:
        store: The space.
        keys: Content hashes of the inputs, repeats allowed.
        compute: Given positions in ``keys``, yields chunks that speak of indices into those positions.

    Returns:
        One entry per key.
    """
    if not crew().alone and store.folder is not None:
        missing = store.missing(keys)
        crew().wait()  # all have seen the same gaps
        _fill(store, keys, missing[crew().rank :: crew().size], compute)
        crew().wait()
        store.read()
    _fill(store, keys, store.missing(keys), compute)
    return store.rows(keys)


def _fill(
    store: FeatureStore, keys: Sequence[str], missing: Sequence[str], compute: Callable[[list[int]], Iterator[Chunk]]
) -> None:
    if not missing:
        return
    needed, first = set(missing), dict[str, int]()
    for position, key in enumerate(keys):
        if key in needed:
            first.setdefault(key, position)
    positions = list(first.values())
    store.fill(
        ([keys[positions[index]] for index in indices], rows, counts) for indices, rows, counts in compute(positions)
    )


def room_for(rows: int, width: int) -> str | None:
    """Why the cache cannot take that much, None where it can.

    Args:
        rows: How many rows.
        width: Numbers in one.
    """
    if problem := cache_problem():
        return problem
    free, needed = shutil.disk_usage(cache_root()).free, rows * width * 4
    if needed > 0.9 * free:
        return f"{format_bytes(needed)} do not fit on the cache's disk ({format_bytes(free)} free)"
    if needed > cache_limit():
        return f"{format_bytes(needed)} are more than INJERTO_CACHE_LIMIT, {format_bytes(cache_limit())}"
    return None


def check_cache() -> None:
    """Refuse a limit that cannot be read; say where nothing can be kept.

    Raises:
        InjertoError: As :func:`cache_limit`.
    """
    cache_limit()
    if problem := cache_problem():
        note(f"{problem}: nothing is kept for later runs")


def cache_limit() -> int:
    """Bytes the cache may hold: ``INJERTO_CACHE_LIMIT``, such as ``20e9``, ``30GB`` or ``512 MiB``, else 20 GB.

    Raises:
        InjertoError: Where the variable is no number of bytes.
    """
    given = os.environ.get("INJERTO_CACHE_LIMIT", "").strip() or "20e9"
    size = re.fullmatch(r"([0-9.]+(?:e\+?[0-9]{1,2})?)\s*(?:([kmgtp]?)(i?)b?)", given, re.IGNORECASE)
    try:
        if size is None:
            raise ValueError
        base = 1024 if size[3] else 1000
        return int(float(size[1]) * base ** ("kmgtp".index(size[2].lower()) + 1 if size[2] else 0))
    except (ValueError, OverflowError):
        raise InjertoError(
            f"INJERTO_CACHE_LIMIT is '{given}'; give bytes, such as 20e9 or 20GB (0 keeps nothing)"
        ) from None


def trim(limit: int | None = None) -> None:
    """Remove the spaces unused for longest until the cache is within its limit.

    Args:
        limit: Bytes; ``INJERTO_CACHE_LIMIT`` or 20 GB where not given.
    """
    limit = cache_limit() if limit is None else limit
    root = cache_root() / "features"
    if not root.is_dir():
        return
    spaces = []
    for folder in root.iterdir():
        files = [file.stat() for file in folder.glob("*.npy")]
        spaces.append((max((f.st_mtime for f in files), default=0.0), sum(f.st_size for f in files), folder))
    total = sum(size for _, size, _ in spaces)
    for _, size, folder in sorted(spaces)[:-1]:
        if total <= limit:
            break
        note(f"cache: removed {format_bytes(size)} unused for longest (limit {format_bytes(limit)})")
        remove_tree(folder)
        total -= size
