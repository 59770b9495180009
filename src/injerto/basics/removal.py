"""The only module that deletes. Every function says by which right: what is removed is ours by a mark, never by place.

- A *temporary* carries in its name the machine, process and start of who made it. Its maker removes it; others do when
  that process has ended.
- *Listed* files are named by a manifest, a mark or a lock that we wrote, and read before.
- A *held* folder is one that this process holds (:func:`injerto.basics.lock.hold`) and that is a run's or a study's by
  what is in it.

Links are removed, never followed.
"""

import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

from injerto.basics.processes import is_gone, this_process

TEMPORARY = re.compile(r"\..*\.(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]+)-(?P<start>[0-9]*)-[0-9a-f]{8}\.tmp")
"""Names of temporaries: machine, process, its start, and a number."""
PATIENCE = 2 * 86400.0
"""Seconds after which a temporary of a process that cannot be looked at (another machine's, or from before the machine
was started again) is taken for abandoned."""
LONGEST = 40
"""Characters of a file's name that its temporary bears."""


@cache
def _machine(pid: int) -> tuple[str, str]:
    """Digest of host, boot and namespace, and the start of this process; read anew in a forked child."""
    here = this_process()
    text = "\n".join(str(here[name]) for name in ("host", "boot", "space"))
    return sha256(text.encode()).hexdigest()[:8], here["start"] or ""


def temporary_beside(path: Path) -> Path:
    """A new name beside a path that says who makes it.

    Args:
        path: What is to be made whole.
    """
    machine, start = _machine(os.getpid())
    return path.with_name(f".{path.name[:LONGEST]}.{machine}-{os.getpid()}-{start}-{uuid.uuid4().hex[:8]}.tmp")


def scratch_folder() -> Path:
    """A new folder of this process in the system's place for temporary files, for :func:`remove_temporary`."""
    place = Path(tempfile.gettempdir())
    sweep(place)
    folder = temporary_beside(place / "injerto")
    folder.mkdir(mode=0o700)
    return folder


def remove_temporary(path: Path) -> None:
    """Remove a temporary of this process, silently where it is not there.

    Args:
        path: From :func:`temporary_beside` or :func:`scratch_folder`; another name is refused.
    """
    assert TEMPORARY.fullmatch(path.name), path
    _remove(path)


_SWEPT: set[tuple[int, str]] = set()


def sweep(folder: Path) -> None:
    """Remove the temporaries of processes that have ended, once for each folder and process.

    Args:
        folder: One that we are about to write into; it need not exist.
    """
    known = os.getpid(), str(folder)
    if known in _SWEPT:
        return
    _SWEPT.add(known)
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.endswith(".tmp") and is_abandoned(folder / entry.name):
                remove_abandoned(folder / entry.name)


def is_abandoned(path: Path) -> bool:
    """Whether a path is a temporary of ours that nobody will finish.

    Args:
        path: Of any file or folder.
    """
    found = TEMPORARY.fullmatch(path.name)
    if found is None:
        return False
    if found["machine"] == _machine(os.getpid())[0]:
        return is_gone({**this_process(), "pid": int(found["pid"]), "start": found["start"] or None})
    try:
        return time.time() - path.lstat().st_mtime > PATIENCE
    except OSError:
        return False


def remove_abandoned(path: Path) -> None:
    """Remove a temporary of a process that has ended.

    Args:
        path: Told by :func:`is_abandoned`; another is refused.
    """
    assert is_abandoned(path), path
    _remove(path)


def remove_file(path: Path) -> None:
    """Remove a file, or a link, that a manifest, mark or lock of ours names; silently where it is not there.

    Args:
        path: Listed.

    Raises:
        OSError: Where it cannot be removed.
    """
    path.unlink(missing_ok=True)


def remove_listed(folder: Path, names: Iterable[str]) -> None:
    """Remove the files that a manifest lists, then the folders that are empty; what else is there stays.

    Args:
        folder: A folder of ours; not a link.
        names: Paths below it, with slashes. One that leads through a link is left alone.
    """
    places: set[Path] = {folder}
    for name in names:
        path = folder / name
        above = [folder.joinpath(*Path(name).parts[:depth]) for depth in range(len(Path(name).parts))]
        if ".." in Path(name).parts or Path(name).is_absolute() or any(map(os.path.islink, above)):
            continue
        with suppress(OSError):
            remove_file(path)
        places.update([*above, path])
    for place in sorted(places, key=lambda one: len(one.parts), reverse=True):
        remove_if_empty(place)


def remove_if_empty(folder: Path) -> bool:
    """Remove a folder that holds nothing; never a link.

    Args:
        folder: Made by us.

    Returns:
        Whether it was removed.
    """
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def move_over(temporary: Path, path: Path) -> None:
    """Rename a temporary to the file that it was made for, in place of what has that name.

    Args:
        temporary: Of this process.
        path: The file that the user, or we, asked to be written.
    """
    temporary.replace(path)


def move(path: Path, to: Path) -> None:
    """Rename a folder, or a file of a temporary folder; what has the new name stays, but for an empty folder.

    Args:
        path: Ours.
        to: Its new name.

    Raises:
        OSError: Where something else has that name.
    """
    path.rename(to)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder."""
    with suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
