"""Shards of the feature cache on disk: values, and under checksums what they belong to.

``<n>.values`` holds rows (float32), ``<n>.keys`` one entry for each input: 32 bytes of its content's hash, how many
rows it has, and the CRC-32 of their bytes. The keys are under a checksum themselves and are written last. Both files
begin with :data:`HEADER`. Values are read into memory of our own and checked each time that they are read: of a file
that is damaged, cut or removed under a run, nothing is used.
"""

import os
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from injerto.basics.files import atomic_path, sha256
from injerto.basics.progress import warn
from injerto.basics.removal import remove_file

HEADER = b"injerto features 7\n".ljust(64, b"\0")
"""First bytes of both files."""
ENTRY = np.dtype([("key", "S32"), ("count", "<u4"), ("sum", "<u4")])
"""Of an input: its content's hash, its rows, their checksum."""
NAME = re.compile(r"[0-9a-f]{16}\.(keys|values)")
"""Names of a shard's files."""


class Shard:
    """Values of some inputs, on disk; :meth:`read` gives none that are not what was written."""

    def __init__(self, path: Path, width: int) -> None:
        """Remember where.

        Args:
            path: The file of values.
            width: Numbers in a row.
        """
        self.path, self.width, self.damaged = path, width, False

    def read(self, where: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Read the rows of some inputs; those that are not what was written are told, and said once.

        Args:
            where: First row, number of rows and checksum of each input, (N, 3); neighbours are read at once.
            out: Gets the rows, one input after the other, float32 (sum of counts, D), contiguous.

        Returns:
            Which inputs are as they were written, bool (N,).
        """
        good = np.zeros(len(where), bool)
        if not self.damaged:
            try:
                handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                try:
                    good[:] = self._read(handle, where, _bytes(out))
                finally:
                    os.close(handle)
            except OSError:
                pass
            if not good.all():
                self._give_up()
        return good

    def _read(self, handle: int, where: np.ndarray, out: memoryview) -> list[bool]:
        row = self.width * 4
        ends = (np.cumsum(where[:, 1]) * row).tolist()
        starts = [0, *ends[:-1]]
        for first, last in _runs(where):
            _read_at(handle, len(HEADER) + int(where[first, 0]) * row, out[starts[first] : ends[last - 1]])
        crc32 = zlib.crc32
        return [crc32(out[a:b]) == known for a, b, known in zip(starts, ends, where[:, 2].tolist(), strict=True)]

    def _give_up(self) -> None:
        """Read nothing more of it, and let the next run compute its values."""
        self.damaged = True
        warn(f"cache: values in {self.path} are not as they were written; they are computed again")
        with suppress(OSError):
            remove_shard(self.path.with_suffix(".keys"))


def _runs(where: np.ndarray) -> list[tuple[int, int]]:
    """Inputs whose rows follow each other, up to some megabytes, from and to but not with."""
    after = np.flatnonzero(where[1:, 0] != where[:-1, 0] + where[:-1, 1]) + 1
    return list(zip([0, *after.tolist()], [*after.tolist(), len(where)], strict=True)) if len(where) else []


def _read_at(handle: int, offset: int, out: memoryview) -> None:
    """Read bytes of a file to where they are wanted.

    Raises:
        OSError: Where the file ends before.
    """
    done = 0
    while done < len(out):
        if hasattr(os, "preadv"):
            more = os.preadv(handle, [out[done:]], offset + done)
        else:
            os.lseek(handle, offset + done, os.SEEK_SET)
            block = os.read(handle, len(out) - done)
            more = len(block)
            out[done : done + more] = block
        if not more:
            raise OSError("cut off")
        done += more


def _bytes(values: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)


def sums(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """CRC-32 of each input's rows.

    Args:
        counts: Rows of each.
        values: All rows, float32 (sum of counts, D).
    """
    data = _bytes(values)
    ends = (np.cumsum(counts, dtype=np.int64) * values.shape[1] * 4).tolist()
    return np.asarray([zlib.crc32(data[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)], np.uint32)


def write_shard(folder: Path, keys: Sequence[str], counts: np.ndarray, values: np.ndarray) -> tuple[Shard, np.ndarray]:
    """Write a shard: the values, then the keys.

    Args:
        folder: The space's.
        keys: Content hashes.
        counts: Rows of each.
        values: All rows, float32 (sum of counts, D).

    Returns:
        The shard, and the checksums of each input's rows.

    Raises:
        InjertoError: Where it cannot be written.
    """
    entries = np.zeros(len(keys), ENTRY)
    entries["key"] = np.frombuffer(bytes.fromhex("".join(keys)), "S32")
    entries["count"], entries["sum"] = counts, sums(counts, values)
    name = sha256(*sorted(keys))[:16]
    path = folder / f"{name}.values"
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(HEADER)
        stream.write(_bytes(values))
    content = HEADER + entries.tobytes()
    with atomic_path(folder / f"{name}.keys") as temporary:
        temporary.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
    return Shard(path, values.shape[1]), entries["sum"].astype(np.int64)


def read_shard(path: Path, width: int) -> tuple[Shard, list[str], np.ndarray] | None:
    """Open a shard.

    Args:
        path: Its keys.
        width: Numbers in a row.

    Returns:
        The shard, the content hashes, and for each first row, number of rows and checksum, (N, 3); None where the keys
        are damaged or the values have another size: both are computed again then.
    """
    values = path.with_suffix(".values")
    try:
        content, size = path.read_bytes(), values.stat().st_size
    except OSError:
        return None
    body, known = content[:-4], content[-4:]
    if not body.startswith(HEADER) or zlib.crc32(body) != int.from_bytes(known, "little"):
        return None
    data = np.frombuffer(body, np.uint8, offset=len(HEADER)).reshape(-1, ENTRY.itemsize)
    counts, known_sums = (np.ascontiguousarray(data[:, a : a + 4]).view("<u4").ravel() for a in (32, 36))
    counts, known_sums = counts.astype(np.int64), known_sums.astype(np.int64)
    if size != len(HEADER) + int(counts.sum()) * width * 4:
        return None
    where = np.stack([np.cumsum(counts) - counts, counts, known_sums], axis=1)
    return Shard(values, width), [row.tobytes().hex() for row in data[:, :32]], where


def is_ours(path: Path) -> bool:
    """Whether a file is one of a shard: by its name and its first bytes.

    Args:
        path: In a space's folder.
    """
    if not NAME.fullmatch(path.name) or path.is_symlink():
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(len(HEADER)) == HEADER
    except OSError:
        return False


def remove_shard(keys: Path) -> None:
    """Remove both files of a shard, the keys first.

    Args:
        keys: The file of keys; a file that is not ours stays.

    Raises:
        OSError: Where they cannot be removed.
    """
    for path in (keys, keys.with_suffix(".values")):
        if is_ours(path):
            remove_file(path)
