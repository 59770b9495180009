"""Archives of pictures: unpacked once into the cache folder, confined to it, and read as a folder from there."""

import bz2
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from injerto.basics.errors import InjertoError, first_line
from injerto.basics.files import cache_root, file_sha256, remove_tree, sha256
from injerto.basics.progress import progress
from injerto.domains.folders import is_hidden, is_image_name, read_folder
from injerto.domains.rows import Rows

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 2**30
_SPARE_BYTES = 64 * 2**20
_BLOCK = 2**20
UNPACKING = 2
"""Raised whenever other members of an archive are unpacked than before, so that no earlier folder is read."""
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    UnicodeError,
    ValueError,
)


def is_archive(path: Path) -> bool:
    """Whether the file name is that of an archive this module reads.

    Args:
        path: The file.
    """
    return path.name.lower().endswith(SUFFIXES)


def archive_stem(path: Path) -> str:
    """The archive's name without its suffixes: ``pacs-160`` for ``pacs-160.tar.gz``.

    Args:
        path: The archive.
    """
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(suffix))
    return path.name[: -len(suffix)] or path.name


def read_archive(path: Path) -> Rows:
    """Read a .zip or .tar (also .gz, .xz, .bz2) of a folder of pictures.

    Its pictures are unpacked into a folder of ``cache_root()/archives`` that is named by the archive's content, once.

    Args:
        path: The archive.

    Returns:
        The examples, as :func:`injerto.domains.folders.read_folder` gives them.

    Raises:
        InjertoError: Where the archive is broken, tries to leave its folder, is beyond the bounds or does not fit on
            the disk.
    """
    return read_folder(unpack(path), archive_stem(path))


def unpack(path: Path) -> Path:
    """Unpack an archive's pictures into the cache folder; nothing but whole results is ever left there.

    Args:
        path: The archive.

    Returns:
        The folder in the cache.

    Raises:
        InjertoError: As :func:`read_archive`.
    """
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise InjertoError(
            f"cannot read {path}: {error.strerror or error}; check the file and its permissions"
        ) from error
    target = cache_root() / "archives" / sha256(UNPACKING, digest)
    if target.is_dir():
        return target
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{digest[:16]}.", dir=target.parent))
        (_unpack_zip if path.name.lower().endswith(".zip") else _unpack_tar)(path, temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise
    except OSError as error:
        raise InjertoError(
            f"cannot unpack {path}: {error.strerror or error}; check the archive and the space in {cache_root()}"
        ) from error
    finally:
        if temporary is not None:
            remove_tree(temporary)
    return target


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the archive libraries raise into one line."""
    try:
        yield
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the archive
        reason = first_line(error)
        raise InjertoError(f"{path} is not a readable archive ({reason}); download or pack it again") from error


class _Writer:
    """Writes members below one folder, within bounds."""

    def __init__(self, archive: Path, root: Path) -> None:
        self.archive, self.root = archive, root
        self.free = shutil.disk_usage(root).free - _SPARE_BYTES
        self.members = self.total = 0

    def place(self, name: str) -> tuple[str, ...] | None:
        """Count a member and give its path components, None for one without data; refuse paths out of the folder."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise InjertoError(
                f"{self.archive} has more than {MAX_MEMBERS:,} members; unpack it yourself and name the folder"
            )
        name = name.replace("\\", "/")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
            raise self.refusal(name, "points outside of the archive")
        return None if not parts or any(map(is_hidden, parts)) else parts

    def refusal(self, name: str, why: str) -> InjertoError:
        """The error for a member that must not be unpacked."""
        return InjertoError(f"{self.archive} is refused: member '{name}' {why}; pack the pictures again as plain files")

    def folder(self, parts: tuple[str, ...]) -> None:
        """Make a folder, so that an empty class folder can be told."""
        self.root.joinpath(*parts).mkdir(parents=True, exist_ok=True)

    def file(self, parts: tuple[str, ...], size: int, stream: IO[bytes]) -> None:
        """Copy one picture."""
        self.total += size
        if size > MAX_MEMBER_BYTES:
            raise self.refusal("/".join(parts), f"has {size:,} bytes, more than {MAX_MEMBER_BYTES:,}")
        if self.total > self.free:
            raise InjertoError(
                f"{self.archive} does not fit on the disk of {cache_root()}; free space or set INJERTO_CACHE"
            )
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = stream.read(size + 1)
        if len(data) != size:
            raise InjertoError(
                f"{self.archive} is not a readable archive ('{'/'.join(parts)}' is cut off); download or pack it again"
            )
        path.write_bytes(data)


def _unpack_zip(path: Path, root: Path) -> None:
    with _readable(path), zipfile.ZipFile(path) as archive:
        writer = _Writer(path, root)
        infos = archive.infolist()
        with progress(f"unpacking {path.name}", len(infos), "files") as bar:
            for info in infos:
                bar.advance()
                parts = writer.place(info.filename)
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise writer.refusal(info.filename, "is a link or device")
                if parts is None:
                    continue
                if info.is_dir():
                    writer.folder(parts)
                elif is_image_name(parts[-1]):
                    if info.flag_bits & 1:
                        raise writer.refusal(info.filename, "is encrypted")
                    with archive.open(info) as stream:
                        writer.file(parts, info.file_size, stream)


def _unpack_tar(path: Path, root: Path) -> None:
    with _readable(path), _decompressed(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        writer = _Writer(path, root)
        with progress(f"unpacking {path.name}", path.stat().st_size, "bytes") as bar:
            for member in archive:
                parts = writer.place(member.name)
                if not (member.isreg() or member.isdir()):
                    raise writer.refusal(member.name, "is a link or device")
                if parts is None:
                    continue
                if member.isdir():
                    writer.folder(parts)
                elif is_image_name(parts[-1]):
                    content = archive.extractfile(member)
                    assert content is not None  # a regular file has content
                    writer.file(parts, member.size, content)
                    bar.advance(member.size)
        while stream.read(_BLOCK):  # the checksum stands at the very end, behind what tarfile reads
            pass


def _decompressed(path: Path) -> IO[bytes]:
    """The tar inside, told by its first bytes; unlike tarfile's own streams these verify the checksum."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path))
    if magic.startswith(b"\xfd7zXZ"):
        return cast(IO[bytes], lzma.open(path))
    return cast(IO[bytes], bz2.open(path)) if magic.startswith(b"BZh") else path.open("rb")
