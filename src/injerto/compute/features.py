"""The feature cache: embeddings of a frozen backbone, keyed by content, so that nothing is embedded twice."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from injerto.basics.errors import InjertoError
from injerto.basics.files import atomic_path, cache_root, remove_tree, sha256
from injerto.basics.progress import format_bytes, note

SHARD_ROWS = 4096
"""Embeddings that are held in memory before they are written."""
FORMAT = 2


def space_key(fingerprint: str, preprocessing: dict[str, object], view: str, precision: str) -> str:
    """Name of the folder for embeddings that are comparable: everything that decides a value but the content.

    Args:
        fingerprint: The backbone's.
        preprocessing: Its card.
        view: Which augmented version, and how norm statistics were made.
        precision: ``fp32`` or ``bf16``.
    """
    versions = []
    for package in ("torch", "timm", "transformers", "tokenizers", "pillow", "numpy"):
        try:
            versions.append(f"{package}={version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package}=none")
    return sha256(FORMAT, fingerprint, json.dumps(preprocessing, sort_keys=True), view, precision, *versions)


class FeatureStore:
    """Embeddings of one space, in shards: ``<n>.values.npy`` (float32) and ``<n>.keys.npy`` (written last).

    A shard counts only when its keys are there, so a killed writer leaves nothing that looks finished.
    """

    def __init__(self, space: str, width: int, on_disk: bool = True) -> None:
        """Open the space and read which contents it holds.

        Args:
            space: From :func:`space_key`.
            width: Numbers in an embedding.
            on_disk: False keeps everything in memory.
        """
        self.width = width
        self.folder = cache_root() / "features" / space if on_disk else None
        self._where: dict[str, tuple[int, int]] = {}
        self._shards: list[np.ndarray] = []
        if self.folder is not None and self.folder.is_dir():
            for keys in sorted(self.folder.glob("*.keys.npy")):
                self._open(keys)

    def _open(self, keys_path: Path) -> None:
        values_path = keys_path.with_name(keys_path.name.replace(".keys.", ".values."))
        try:
            keys = np.load(keys_path, allow_pickle=False)
            values = np.load(values_path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return  # a damaged shard is computed again
        if (keys.dtype, values.dtype) != (np.uint8, np.float32):
            return
        if values.shape != (len(keys), self.width) or keys.shape[1:] != (32,):
            return
        with suppress(OSError):  # removed meanwhile, or another user's
            os.utime(keys_path)
        self._add([row.tobytes().hex() for row in keys], values)

    def _add(self, keys: Sequence[str], values: np.ndarray) -> None:
        for row, key in enumerate(keys):
            self._where[key] = (len(self._shards), row)
        self._shards.append(values)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The contents that are not here yet, each once, sorted.

        Args:
            keys: Content hashes.
        """
        return sorted({key for key in keys if key not in self._where})

    def fill(self, stream: Iterator[tuple[Sequence[str], np.ndarray]]) -> None:
        """Take in embeddings and write them shard by shard.

        Args:
            stream: Content hashes and their embeddings, float32 (n, D).
        """
        keys: list[str] = []
        rows: list[np.ndarray] = []
        for names, values in stream:
            keys.extend(names)
            rows.append(values)
            if len(keys) >= SHARD_ROWS:
                self._write(keys, np.concatenate(rows))
                keys, rows = [], []
        if keys:
            self._write(keys, np.concatenate(rows))

    def _write(self, keys: list[str], values: np.ndarray) -> None:
        if self.folder is None:
            self._add(keys, values)
            return
        name = sha256(*sorted(keys))[:16]
        path = self.folder / f"{name}.values.npy"
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)
        with atomic_path(self.folder / f"{name}.keys.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, 32), allow_pickle=False)
        self._add(keys, np.load(path, mmap_mode="r", allow_pickle=False))

    def rows(self, keys: Sequence[str]) -> "Features":
        """The embeddings of these contents, in this order.

        Args:
            keys: Content hashes; all must be here.
        """
        return Features(
            self._shards, np.asarray([self._where[key] for key in keys], np.int64).reshape(-1, 2), self.width
        )


class Features:
    """Embeddings by position, read from the shards when asked for; nothing is held in memory."""

    def __init__(self, shards: list[np.ndarray], where: np.ndarray, width: int) -> None:
        """Keep the addresses.

        Args:
            shards: Arrays (rows, D), memory-mapped where they are on disk.
            where: Shard and row of each embedding, (N, 2).
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

    def __len__(self) -> int:
        """How many there are."""
        return len(self._where)

    def __getitem__(self, positions: np.ndarray) -> torch.Tensor:
        """Embeddings, float32 (n, D).

        Args:
            positions: Integers (n,).
        """
        where = self._where[positions]
        result = np.empty((len(where), self.width), np.float32)
        for shard in np.unique(where[:, 0]):
            chosen = where[:, 0] == shard
            result[chosen] = self._shards[shard][where[chosen, 1]]
        return torch.from_numpy(result)


def cached(
    store: FeatureStore, keys: Sequence[str], compute: Callable[[list[int]], Iterator[tuple[np.ndarray, np.ndarray]]]
) -> Features:
    """Embeddings of ``keys``: what is missing is computed, the rest is read.

    Args:
        store: The space.
        keys: Content hashes of the inputs, repeats allowed.
        compute: Given positions in ``keys`` to embed, yields (indices into those positions, values).

    Returns:
        One embedding per key.
    """
    needed = set(store.missing(keys))
    if needed:
        first: dict[str, int] = {}
        for position, key in enumerate(keys):
            if key in needed:
                first.setdefault(key, position)
        positions = list(first.values())
        store.fill(([keys[positions[index]] for index in indices], values) for indices, values in compute(positions))
    return store.rows(keys)


def room_for(count: int, width: int) -> str | None:
    """Why the disk cannot take ``count`` embeddings, None where it can.

    Args:
        count: Embeddings.
        width: Numbers in one.
    """
    folder = cache_root()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, count * width * 4
    if needed > 0.9 * free:
        return f"{format_bytes(needed)} of embeddings do not fit on the cache's disk ({format_bytes(free)} free)"
    return None if os.access(folder, os.W_OK) else f"the cache folder {cache_root()} cannot be written"


def cache_limit() -> int:
    """Bytes the cache may hold: ``INJERTO_CACHE_LIMIT``, else 20 GB.

    Raises:
        InjertoError: Where the variable is no number of bytes.
    """
    given = os.environ.get("INJERTO_CACHE_LIMIT", "20e9")
    try:
        return int(float(given))
    except (ValueError, OverflowError):
        raise InjertoError(f"INJERTO_CACHE_LIMIT is '{given}'; give bytes, such as 20e9") from None


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
