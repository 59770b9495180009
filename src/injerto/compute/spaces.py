"""Folders of the feature cache: who made them, who reads them, how much may be kept, and what goes first."""

import json
import os
import re
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.files import cache_problem, cache_root, write_text
from injerto.basics.progress import format_bytes, note
from injerto.basics.removal import remove_file, remove_if_empty, remove_temporary, sweep, temporary_beside
from injerto.compute.shards import NAME, is_ours

MARK = ".injerto-space.json"
"""File that says that a folder is a space of ours. It is touched when the space is used, and locked while it is."""


class Space:
    """A folder of the cache that this process reads or writes; while the object lives, nobody trims it away."""

    def __init__(self, name: str) -> None:
        """Look for it; nothing is made yet.

        Args:
            name: From :func:`injerto.compute.features.space_key`.
        """
        self.folder = cache_root() / "features" / name
        self._lock: int | None = None
        self._enter()

    def make(self) -> None:
        """Make it where it is not there.

        Raises:
            InjertoError: Where it cannot be written.
        """
        for _ in range(10):
            if self._lock is not None and self._is_mark(self._lock) and is_marked(self.folder):
                return
            self._mark()
            self._enter()

    def _mark(self) -> None:
        """Write the mark where there is none, or none that can be read; another process's stays."""
        mark = self.folder / MARK
        text = json.dumps({"what": "injerto features", "space": self.folder.name}) + "\n"
        if is_marked(self.folder):
            return
        if os.path.lexists(mark):
            write_text(mark, text)
            return
        temporary = temporary_beside(mark)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            os.link(temporary, mark)
        except FileExistsError:
            pass  # another process was quicker
        except OSError:  # no hard links on this file system, or it takes nothing, which is said then
            write_text(mark, text)
        finally:
            remove_temporary(temporary)

    def shards(self) -> list[Path]:
        """The files of keys, sorted; none in a folder that we have not marked."""
        try:
            return sorted(self.folder.glob("*.keys")) if is_marked(self.folder) else []
        except OSError:
            return []

    def _enter(self) -> None:
        """Hold the mark, and touch it."""
        self._leave()
        mark = self.folder / MARK
        try:
            handle = os.open(mark, os.O_RDONLY)
        except OSError:
            return
        self._lock = handle
        with suppress(OSError):  # another user's
            os.utime(mark)
        _flock(handle, shared=True, wait=True)
        if not self._is_mark(handle):
            self._leave()

    def _is_mark(self, handle: int) -> bool:
        """Whether what we hold is still the mark, and was not removed by who trimmed the space."""
        try:
            return os.path.samestat(os.fstat(handle), (self.folder / MARK).stat())
        except OSError:
            return False

    def _leave(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        """Let go."""
        with suppress(OSError, AttributeError):
            self._leave()


def _flock(handle: int, shared: bool, wait: bool) -> bool:
    """Lock an open file for as long as it is open; False where another process has locked it otherwise."""
    try:
        import fcntl
    except ImportError:  # Windows removes no file that is open
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def is_marked(folder: Path) -> bool:
    """Whether a folder is a space that we made, under the name that it has.

    Args:
        folder: In the cache.
    """
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return not folder.is_symlink() and content == {"what": "injerto features", "space": folder.name}
    except (OSError, ValueError):
        return False


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
    given = os.environ.get("INJERTO_CACHE_LIMIT", "20e9").strip()
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

    Only folders with our mark are looked at, and of these only what is a shard's goes; one that is in use stays.

    Args:
        limit: Bytes; ``INJERTO_CACHE_LIMIT`` or 20 GB where not given.
    """
    limit = cache_limit() if limit is None else limit
    root = cache_root() / "features"
    spaces = []
    for folder in root.glob("*"):
        if is_marked(folder):
            with suppress(OSError):
                used = (folder / MARK).stat().st_mtime
                files = [file for file in folder.iterdir() if NAME.fullmatch(file.name)]
                spaces.append((used, sum(file.stat().st_size for file in files), folder))
    _tell_of_earlier(root)
    total = sum(size for _, size, _ in spaces)
    for _, size, folder in sorted(spaces)[:-1]:
        if total <= limit:
            break
        if _remove(folder):
            note(f"cache: removed {format_bytes(size)} unused for longest (limit {format_bytes(limit)})")
            total -= size


def _remove(folder: Path) -> bool:
    """Remove the shards of a space, its mark, and the folder where nothing else is in it; False where it is in use."""
    mark = folder / MARK
    try:
        handle = os.open(mark, os.O_RDWR)
        try:
            if not _flock(handle, shared=False, wait=False) or not os.path.samestat(os.fstat(handle), mark.stat()):
                return False
            sweep(folder)
            for file in sorted(folder.iterdir()):  # keys before values
                if is_ours(file):
                    remove_file(file)
            remove_file(mark)
        finally:
            os.close(handle)
    except OSError:
        return False
    remove_if_empty(folder)
    return True


@cache
def _tell_of_earlier(root: Path) -> None:
    """Say how much the cache holds of earlier versions, which marked nothing: it is for the user to remove."""
    spaces = [
        folder for folder in root.glob("*") if re.fullmatch("[0-9a-f]{64}", folder.name) and not is_marked(folder)
    ]
    sizes = []
    for file in (file for folder in spaces for file in folder.glob("*.npy")):
        with suppress(OSError):
            sizes.append(file.stat().st_size)
    told = root / ".earlier-versions-told"
    if sizes and not told.exists():
        size = format_bytes(sum(sizes))
        note(
            f"cache: {size} in {len(spaces)} folders of {root} were kept by an earlier version and are not used any "
            f"more; to remove them: rm {root}/*/*.npy"
        )
        with suppress(InjertoError):
            write_text(told, "")
