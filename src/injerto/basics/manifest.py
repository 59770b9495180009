"""Folders in the cache that are whole, checked each time that they are opened: a manifest lists what is in them.

``<folder>/files`` holds the content, ``<folder>/manifest.json`` the size and SHA-256 of every file, under a checksum
itself. Where one differs, is missing, or is there and not listed, the folder is made again. Examples are named by the
SHA-256 of their files in any case: :func:`known_sha256` has it from the check, which costs no reading of its own then.
"""

import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from injerto.basics.files import cannot_write, file_sha256
from injerto.basics.progress import warn
from injerto.basics.removal import move, remove_listed, remove_temporary, sweep, temporary_beside

MANIFEST = "manifest.json"
FILES = "files"
_THREADS = 4
_SHARE = 256
"""Files that a thread checks at a time."""
Sums = dict[str, tuple[int, str]]
"""Size and SHA-256 of files, by path with slashes."""
_CHECKED: dict[str, Sums] = {}
"""What this process has found to be as it was written, by the folder of the content."""


def open_kept(folder: Path) -> Path | None:
    """The content of a kept folder; None where there is none, or it is not what was written, which is said.

    Args:
        folder: In the cache.
    """
    if not os.path.lexists(folder):
        return None
    if (wrong := _wrong(folder)) is not None:
        warn(f"cache: {wrong} is not as it was written; {folder} is made again")
        return None
    return folder / FILES


def _wrong(folder: Path) -> Path | None:
    """What of a kept folder is not as it was written; None where all is, which is remembered."""
    prefix = f"{folder / FILES}{os.sep}"
    _CHECKED.pop(prefix, None)
    known = _listed(folder)
    if known is None:
        return folder / MANIFEST
    listed, folders = known
    found, others = _walk(folder / FILES)
    wrong = sorted({*folders} ^ {*others}) or sorted(listed.keys() ^ found.keys())
    wrong = wrong or sorted(name for name, size in found.items() if size != listed[name][0])
    wrong = wrong or sorted(_changed(folder / FILES, listed))
    if wrong:
        return folder / FILES / wrong[0]
    _CHECKED[prefix] = listed
    return None


def known_sha256(path: Path) -> str | None:
    """SHA-256 of a file in a kept folder, as the check of this process found it; None of any other file.

    Args:
        path: The file.
    """
    name = str(path)
    for folder, listed in _CHECKED.items():
        if name.startswith(folder):
            return listed.get(name[len(folder) :].replace(os.sep, "/"), (0, None))[1]
    return None


@contextmanager
def make_kept(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; on success it becomes the content of a kept folder, on any failure it is removed.

    Where a kept folder is there that :func:`open_kept` refused, its place is taken: what its manifest lists is removed,
    and what it does not list is left beside it.

    Args:
        folder: In the cache.

    Yields:
        The folder to fill.

    Raises:
        InjertoError: Where the disk is full or the folder can't be written.
    """
    place = temporary_beside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        content = place / FILES
        content.mkdir(parents=True)
        yield content
        files, folders = _walk(content)
        sums = _sums(content, list(files))
        listed = {name: (size, sums[name]) for name, size in files.items()}
        body = json.dumps({"what": "injerto kept folder", "files": listed, "folders": folders}).encode()
        (place / MANIFEST).write_bytes(f"{zlib.crc32(body):08x}\n".encode() + body)
        _publish(place, folder)
        _CHECKED[f"{folder / FILES}{os.sep}"] = listed
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        remove_temporary(place)


def _publish(place: Path, folder: Path) -> None:
    """Give a whole folder its name."""
    if os.path.lexists(folder) and _wrong(folder) is not None:
        names = (folder.with_name(f"{folder.name}.before-{number}") for number in range(1, 1000))
        before = next(path for path in names if not os.path.lexists(path))
        move(folder, before)  # who reads files there finds the same under their paths in a moment
        move(place, folder)
        known = None if before.is_symlink() else _listed(before)
        if known is not None:
            remove_listed(before, [f"{FILES}/{name}" for name in (*known[0], *known[1])])
            remove_listed(before, [MANIFEST])
        if os.path.lexists(before):
            warn(f"cache: what Injerto did not write into {folder} is in {before} now")
        return
    try:
        move(place, folder)
    except OSError:
        if not os.path.lexists(folder):  # else another process was quicker
            raise


def _listed(folder: Path) -> tuple[Sums, list[str]] | None:
    """Files and folders of a manifest; None where it is damaged or not ours."""
    try:
        known, _, body = (folder / MANIFEST).read_bytes().partition(b"\n")
        if folder.is_symlink() or known != f"{zlib.crc32(body):08x}".encode():
            return None
        found = json.loads(body)
        return {name: (size, known) for name, (size, known) in found["files"].items()}, found["folders"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _walk(content: Path) -> tuple[dict[str, int], list[str]]:
    """Sizes of the files and the names of the folders below a folder; a link is no file, and has a size of -1."""
    files: dict[str, int] = {}
    folders: list[str] = []
    left = [""]
    while left:
        below = left.pop()
        try:
            entries = sorted(os.scandir(content / below), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            mode = entry.stat(follow_symlinks=False)
            name = f"{below}{entry.name}"
            if S_ISDIR(mode.st_mode):
                folders.append(name)
                left.append(f"{name}/")
            else:
                files[name] = mode.st_size if S_ISREG(mode.st_mode) else -1
    return files, sorted(folders)


def _changed(content: Path, listed: Sums) -> list[str]:
    sums = _sums(content, list(listed))
    return [name for name, (_, known) in listed.items() if sums[name] != known]


def _sums(content: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of some files; empty of one that cannot be read."""
    shares = [names[start : start + _SHARE] for start in range(0, len(names), _SHARE)]
    prefix = f"{content}{os.sep}"
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="injerto-check") as pool:
        found = pool.map(lambda share: [_sum(prefix + name) for name in share], shares)
        return dict(zip(names, (one for share in found for one in share), strict=True))


def _sum(path: str) -> str:
    try:
        return file_sha256(Path(path))
    except OSError:
        return ""
