"""Files that are whole or absent, digests, and the cache folder."""

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.basics.escapes import write_guarded
from injerto.basics.lock import LOCK
from injerto.basics.removal import (
    TEMPORARY,
    is_abandoned,
    move,
    move_over,
    remove_abandoned,
    remove_file,
    remove_temporary,
    sweep,
    temporary_beside,
)

LEFTOVER = re.compile(rf"\..+\.[a-z0-9_]{{8}}\.tmp|\.tmp[A-Za-z0-9]{{6}}|{re.escape(LOCK)}|{TEMPORARY.pattern}")
"""Names that a killed process leaves behind: half-written files and its lock."""


def sha256(*parts: str | bytes | int) -> str:
    """SHA-256 of the parts, each preceded by its length so that no two lists collide.

    Args:
        parts: Strings (UTF-8), bytes or integers.

    Returns:
        64 hex digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode(errors="backslashreplace")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Args:
        path: The file.

    Returns:
        64 hex digits.

    Raises:
        OSError: Where it cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any failure it is removed.

    Args:
        path: The file to end up with.

    Yields:
        The path to write to.

    Raises:
        InjertoError: Where the disk is full or the folder can't be written.
    """
    place = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        place.mkdir()
        temporary = place / path.name
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        move_over(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        remove_temporary(place)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` (UTF-8) so that a reader sees all of it or the old file.

    Args:
        path: The file.
        text: Its new content.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may hold any byte


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table as :func:`write_text` does; no spreadsheet takes a cell for a formula.

    Args:
        path: The file; :func:`injerto.basics.escapes.read_guarded` gives the cells back.
        header: Names of the columns.
        rows: One value per column each.

    Returns:
        The text that was written.
    """
    text = write_guarded([header, *rows])
    write_text(path, text)
    return text


def as_path(value: Any, name: str = "path") -> Path:
    """A path as a user gave it in Python.

    Args:
        value: A text or a path.
        name: Of the argument, for the message.

    Raises:
        InjertoError: Where it is something else.
    """
    if not isinstance(value, str | os.PathLike):
        raise InjertoError(f"{name}: a path, not {type(value).__name__}")
    if not str(value).strip():
        raise InjertoError(f"{name} is empty; give a path, or leave it out")
    return Path(value)


def cache_root() -> Path:
    """The folder of everything that can be computed again: ``INJERTO_CACHE``, else the user's cache folder.

    Raises:
        InjertoError: Where the variable is set and empty, or this user has no home folder.
    """
    given = os.environ.get("INJERTO_CACHE")
    if given is not None:
        return as_path(given, "INJERTO_CACHE")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "injerto"
    except RuntimeError:  # a user without a home, as in containers
        raise InjertoError("this user has no home folder to cache in; set INJERTO_CACHE to a folder") from None


def cache_problem() -> str | None:
    """Why nothing can be kept in the cache folder, None where it can."""
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):  # what may be written is for the file system to say
            return None
    except OSError as error:
        return f"the cache folder {root} cannot be written ({error.strerror or error}); INJERTO_CACHE names another"


def cannot_write(path: Path, error: OSError) -> InjertoError:
    """The error for a file or folder that cannot be written, with the cure for where it lies.

    Args:
        path: What was to be written.
        error: What came of it.
    """
    cure = "free space" if error.errno == errno.ENOSPC else "check the permissions"
    where = "set INJERTO_CACHE to another folder" if cache_root() in path.parents else "choose another folder"
    return InjertoError(f"cannot write {path}: {error.strerror or error}; {cure} or {where}")


def check_writable(folder: Path, flag: str = "--out") -> None:
    """Refuse a folder that cannot be made or written.

    Args:
        folder: It need not be there yet.
        flag: How the user gave it.

    Raises:
        InjertoError: Where the nearest folder above it that exists cannot be written.
    """
    parent = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):  # what may be written is for the file system to say
            pass
    except OSError as error:
        raise InjertoError(f"{flag} {folder}: {parent} cannot be written; name another folder") from error


def entries(folder: Path) -> set[str]:
    """Names in a folder, without locks and half-written files; empty where there is no folder.

    Args:
        folder: It need not exist.
    """
    if not folder.is_dir():
        return set()
    return {entry.name for entry in folder.iterdir() if not LEFTOVER.fullmatch(entry.name)}


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of killed processes; only for the process that holds the folder.

    Args:
        folder: Held, see :func:`injerto.basics.lock.hold`; it need not exist.
    """
    for entry in folder.iterdir() if folder.is_dir() else ():
        if is_abandoned(entry):
            remove_abandoned(entry)
        elif LEFTOVER.fullmatch(entry.name) and entry.name != LOCK and entry.is_file():  # of earlier versions
            remove_file(entry)


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; on success what is in it moves into ``folder``, on any failure it is removed.

    Args:
        folder: New or empty; held, see :func:`injerto.basics.lock.hold`.

    Yields:
        The folder to fill.

    Raises:
        InjertoError: Where the disk is full, the folder can't be written, or somebody else wrote into it.
    """
    place = temporary_beside(folder / "content")
    try:
        place.mkdir(parents=True)
        yield place
        made = sorted(place.iterdir())
        for path in made:
            if os.path.lexists(folder / path.name):
                raise InjertoError(f"{folder / path.name} came from elsewhere meanwhile; name a new folder")
        for path in made:
            move(path, folder / path.name)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        remove_temporary(place)


def check_own(folder: Path, own: Collection[str], marks: Iterable[str], what: str) -> None:
    """Refuse a folder that was begun by something else, or cannot be written.

    Args:
        folder: It need not be there yet.
        own: Names that may be in it.
        marks: Names of which one stands for all: where it is there, the folder is ours, whatever else was put in.
        what: What writes into it, for the error.

    Raises:
        InjertoError: Where it holds something else, is a file, or cannot be written.
    """
    if folder.is_file():
        raise InjertoError(f"--out {folder} is a file; name a folder")
    check_writable(folder)
    names = entries(folder)
    foreign = sorted(name for name in names - set(own) if not name.startswith("."))
    if foreign and names.isdisjoint(marks):
        raise InjertoError(f"--out {folder} holds '{foreign[0]}', which no {what} wrote; name another folder")


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something or cannot be written.

    Args:
        folder: Where something new is to go.

    Raises:
        InjertoError: Where it holds something, is a file, or cannot be written.
    """
    if folder.is_file() or entries(folder):
        raise InjertoError(f"--out {folder} exists already; name another folder")
    check_writable(folder)
