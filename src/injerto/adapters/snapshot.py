"""An adapter's files as they were at one moment: opened together, read once into private memory, compared with sums.

A folder may be replaced while it is read: file by file, by renaming, by copying over it. Its files are therefore opened
through one handle of the folder and stay open, so that what is read belongs together; and every file that the card has
a checksum of is compared with it before anything in it is used.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from injerto.adapters.tensors import Tensors
from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256
from injerto.basics.limits import CARD_BYTES, CONFIG_BYTES, HEADER_BYTES, SKETCH_BYTES
from injerto.basics.progress import warn

CARD = "adapter_card.json"
ADAPTER = "adapter_model.safetensors"
INT8 = "adapter_int8.safetensors"
"""In place of the former, where pairs are stored as integers: PEFT, which would misread them, does not find it."""
HEAD = "head.safetensors"
CONFIG = "adapter_config.json"
SKETCH = "drift.safetensors"
"""What inputs looked like to the finished adapter."""
TENSORS = (ADAPTER, INT8, HEAD)
"""Files of tensors in an adapter's folder."""
LISTED = (*TENSORS, CONFIG, SKETCH)
"""Every file beside the card that is read; the card has their checksums."""
BOUNDS = {CARD: CARD_BYTES, CONFIG: CONFIG_BYTES, SKETCH: SKETCH_BYTES}
"""Bytes of a file; of tensors it depends on the base model."""
KINDS = {CARD: "adapter card", CONFIG: "adapter's configuration", SKETCH: "drift sketch"}
CHUNK = 1 << 18
"""Bytes that are read, then hashed while they are in the processor's cache."""
_AGAIN = 5  # times that a folder is opened anew where another one took its place meanwhile
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BY_HANDLE = os.open in os.supports_dir_fd and bool(_DIRECTORY and _NO_LINK)


class Outside(InjertoError):
    """A file or folder that lies elsewhere than it may."""


@dataclass(frozen=True)
class Place:
    """Where an adapter lies, and how far it is trusted.

    Attributes:
        path: RUN or RUN/adapter.
        inside: A folder that no file may be outside of, whatever links say; None where links are followed.
        allow_modified: Whether files may be others than the card's checksums say.
    """

    path: Path
    inside: Path | None = None
    allow_modified: bool = False


@dataclass(eq=False)
class Snapshot:
    """The files of an adapter, open; see :func:`opened`.

    Attributes:
        place: Where it was asked for.
        folder: The adapter's own folder, for messages.
        sums: SHA-256 of files by name, from the card; None as long as the card is not read, or has none.
    """

    place: Place
    folder: Path
    sums: dict[str, str] | None = None
    _handles: dict[str, int] = field(default_factory=dict)
    _contents: dict[str, memoryview] = field(default_factory=dict)
    _found: dict[str, str | None] = field(default_factory=dict)
    _parsed: dict[str, Tensors] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        """Whether there is a file of this name."""
        return name in self._handles

    @property
    def main(self) -> str:
        """Name of the file with the tensors of the network."""
        return INT8 if INT8 in self else ADAPTER

    @property
    def digest(self) -> str:
        """SHA-256 over all that was read so far: equal for equal adapters."""
        known = ((name, self._found[name] or hashlib.sha256(part).hexdigest()) for name, part in self._contents.items())
        return sha256(*(text for pair in sorted(known) for text in pair))

    def read(self, name: str, limit: int | None = None) -> memoryview:
        """A file's bytes, read once and compared with the card's checksum.

        Args:
            name: One of the adapter's files.
            limit: Most bytes; that of :data:`BOUNDS` where not given.

        Raises:
            InjertoError: Where it is missing, too large, changes while it is read, or is not what the card says.
        """
        if name not in self._contents:
            self._contents[name] = self._read(name, BOUNDS[name] if limit is None else limit)
        return self._contents[name]

    def tensors(self, name: str, numbers: int) -> Tensors:
        """The tensors of a file, none of them built as yet.

        Args:
            name: One of :data:`TENSORS`.
            numbers: A larger file than so many numbers could need is refused unread.

        Raises:
            InjertoError: As :meth:`read`; where it is no safetensors file.
        """
        if name not in self._parsed:
            content = self.read(name, 8 * numbers + HEADER_BYTES)
            self._parsed[name] = Tensors(content, str(self.folder / name))
        return self._parsed[name]

    def changed(self, name: str, what: str) -> None:
        """Refuse what is not as the card says, or say it where that is allowed.

        Args:
            name: The file.
            what: What is wrong with it.

        Raises:
            InjertoError: Where it is not allowed.
        """
        if not self.place.allow_modified:
            raise InjertoError(
                f"{self.folder / name} {what}; the adapter is damaged, is being replaced, or was changed by hand: "
                "bring back what was written, or go on with --allow-modified (allow_modified=True)"
            )
        warn(f"{self.folder / name} {what}; the adapter is used as it is")

    def _read(self, name: str, limit: int) -> memoryview:
        path, handle = self.folder / name, self._handles.get(name)
        if handle is None:
            raise InjertoError(f"{path} is missing; the adapter is incomplete")
        wanted = None if self.sums is None else self.sums.get(name)
        content, found = read_handle(handle, path, limit, KINDS.get(name), wanted is not None)
        self._found[name] = found
        if wanted != found:
            self.changed(name, f"is not what was written with {CARD}")
        return content


def read_handle(
    handle: int, path: Path, limit: int, kind: str | None = None, hashed: bool = False
) -> tuple[memoryview, str | None]:
    """All bytes of an open file, and their SHA-256 where it is asked for.

    Args:
        handle: Open, at its start.
        path: For messages.
        limit: Most bytes; a larger file is refused unread.
        kind: What files of this size are not, for the message.
        hashed: Whether the SHA-256 is wanted.

    Raises:
        InjertoError: Where it is too large, or changes while it is read.
    """
    before = os.fstat(handle)
    size = before.st_size
    if size > limit:
        what = f"than {limit}; this is no {kind}" if kind else "than its base model could need; it is not loaded"
        raise InjertoError(f"{path} has {size} bytes, more {what}")
    digest, at = hashlib.sha256() if hashed else None, 0
    try:
        content = np.empty(size, np.uint8).data  # which is not filled with zeros first
        with os.fdopen(handle, "rb", buffering=0, closefd=False) as stream:
            while at < size and (count := stream.readinto(content[at : at + CHUNK])):
                if digest is not None:
                    digest.update(content[at : at + count])
                at += count
            more = at == size and bool(stream.read(1))
    except OSError as error:
        raise InjertoError(f"{path} cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise InjertoError(f"{path} has {size} bytes, for which there is not enough memory") from None
    after = os.fstat(handle)
    if at < size or more or (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
        raise InjertoError(f"{path} changes while it is read; wait until it is written, then try again")
    return content, None if digest is None else digest.hexdigest()


def read_file(path: Path, limit: int, kind: str) -> memoryview:
    """A single file, as :meth:`Snapshot.read` reads it.

    Args:
        path: The file.
        limit: Most bytes.
        kind: What it is, for messages.

    Raises:
        InjertoError: Where it is missing, no regular file or too large.
    """
    with ExitStack() as closing:
        handle = _regular(None, str(path), path, closing)
        if handle is None:
            raise InjertoError(f"{path} is missing")
        return read_handle(handle, path, limit, kind)[0]


@contextmanager
def opened(place: Place | Path, names: Sequence[str] = (CARD, *LISTED)) -> Iterator[Snapshot]:
    """Open an adapter's files; they stay open until the end of the block, whatever becomes of the folder.

    Args:
        place: RUN or RUN/adapter.
        names: The files that are wanted.

    Yields:
        The files.

    Raises:
        InjertoError: Where there is no such folder, or one of them is no regular file.
        Outside: Where one of them lies outside the folder that confines it.
    """
    place = place if isinstance(place, Place) else Place(place)
    with ExitStack() as closing:
        yield _open(place, names, closing)


def _open(place: Place, names: Sequence[str], closing: ExitStack) -> Snapshot:
    for attempt in range(_AGAIN):
        with ExitStack() as trial:
            handle, folder = _folder(place, trial)
            found = Snapshot(place, folder)
            for name in names:
                one = _member(handle, name, folder, place.inside, trial)
                if one is not None:
                    found._handles[name] = one
            if CARD in found or CARD not in names or attempt == _AGAIN - 1 or not _moved(handle, folder):
                closing.push(trial.pop_all())
                return found
    raise AssertionError


def _moved(handle: int | None, folder: Path) -> bool:
    """Whether another folder has taken the place of the one that is open."""
    try:
        return handle is not None and not os.path.samestat(os.fstat(handle), os.stat(folder))
    except OSError:
        return True


def _folder(place: Place, closing: ExitStack) -> tuple[int | None, Path]:
    """The adapter's own folder, from a run's folder or itself; None for its handle where the system has none."""
    path = place.path
    try:
        if place.inside is not None:
            path = _within(path, place.inside)
        handle = _directory(None, path, place.inside, closing)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise InjertoError(f"no run at {place.path}; give the folder that 'injerto fit --out' made") from None
    except OSError as error:
        raise InjertoError(f"{place.path} cannot be opened ({error.strerror or error})") from None
    try:
        inner = path / "adapter"
        target = inner if place.inside is None else _within(inner, place.inside)
        return _directory(handle, target, place.inside, closing), inner
    except OSError:
        return handle, path


def _within(path: Path, inside: Path) -> Path:
    """Where a path really leads.

    Raises:
        Outside: Where that is not in the folder.
        OSError: Where nothing is there.
    """
    root = Path(os.path.realpath(inside))
    real = Path(os.path.realpath(path, strict=True))
    if not real.is_relative_to(root):
        raise Outside(f"{path} lies outside {inside}")
    return real


def _walk(path: Path, inside: Path, flags: int, closing: ExitStack) -> int:
    """Open what was found to be within a folder, step by step from there and along no link."""
    root = Path(os.path.realpath(inside))
    handle = os.open(root, _FLAGS | _DIRECTORY)
    closing.callback(os.close, handle)
    parts = path.relative_to(root).parts
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        handle = os.open(part, (flags if last else _FLAGS | _DIRECTORY) | _NO_LINK, dir_fd=handle)
        closing.callback(os.close, handle)
    return handle


def _directory(above: int | None, path: Path, inside: Path | None, closing: ExitStack) -> int | None:
    if not _BY_HANDLE:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return None
    if inside is not None:
        return _walk(path, inside, _FLAGS | _DIRECTORY, closing)
    name = path if above is None else path.name
    handle = os.open(name, _FLAGS | _DIRECTORY, dir_fd=above)
    closing.callback(os.close, handle)
    return handle


def _member(handle: int | None, name: str, folder: Path, inside: Path | None, closing: ExitStack) -> int | None:
    """A file of the folder, open; None where there is none."""
    path = folder / name
    if inside is None:
        return _regular(handle, name if handle is not None else str(path), path, closing)
    if handle is None:  # no handles of folders here: the name is looked at before, and followed
        return _regular(None, str(_within(path, inside)), path, closing) if path.exists() else None
    try:
        return _regular(handle, name, path, closing, _NO_LINK)
    except OSError:  # a link: within the folder it may be
        try:
            target = _within(path, inside)
            found = _walk(target, inside, _FLAGS, closing)
        except OSError:
            return None
        return _check_regular(found, path)


def _regular(above: int | None, name: str, path: Path, closing: ExitStack, more: int = 0) -> int | None:
    try:
        handle = os.open(name, _FLAGS | more, dir_fd=above)
    except FileNotFoundError:
        return None
    except OSError as error:
        if more and error.errno in (errno.ELOOP, errno.EMLINK):
            raise
        raise InjertoError(f"{path} cannot be read ({error.strerror or error})") from None
    closing.callback(os.close, handle)
    return _check_regular(handle, path)


def _check_regular(handle: int, path: Path) -> int:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise InjertoError(f"{path} is no regular file; it is not read")
    return handle
