"""Archives of folders: unpacked once into the cache folder, confined to it, and read as a folder from there."""

import bz2
import gzip
import io
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from injerto.basics.errors import InjertoError, first_line, shown
from injerto.basics.files import cache_problem, cache_root, file_sha256, sha256
from injerto.basics.limits import ARCHIVE_HEADER_BYTES, ARCHIVE_PATH_CHARACTERS, FOLDER_DEPTH, PACKED_RATIO
from injerto.basics.limits import ARCHIVE_MEMBER_BYTES as MAX_MEMBER_BYTES
from injerto.basics.limits import ARCHIVE_MEMBERS as MAX_MEMBERS
from injerto.basics.limits import ARCHIVE_RATIO as MAX_RATIO
from injerto.basics.limits import ARCHIVE_RATIO_LARGE as LARGE_RATIO
from injerto.basics.limits import ARCHIVE_SPARE as _SPARE_BYTES
from injerto.basics.manifest import FILES, make_kept, open_kept
from injerto.basics.progress import progress, warn
from injerto.domains.compressed import COMPRESSIONS, open_member, open_xz
from injerto.domains.folders import is_hidden

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst")
UNPACKING = 3
"""Raised whenever other members of an archive are unpacked than before, so that no earlier folder is read."""
_BLOCK = 2**20
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    UnicodeError,
    ValueError,
    RecursionError,
    struct.error,
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


def unpack(path: Path) -> Path:
    """Unpack an archive's files into the cache folder, once; nothing but whole results is ever left there.

    Hidden files are left out. The folder is in one of ``cache_root()/archives`` that is named by the archive's content;
    each time that it is used, all of it is compared with what was unpacked, and unpacked again where it differs.

    Args:
        path: The archive.

    Returns:
        The folder in the cache.

    Raises:
        InjertoError: Where the archive is broken, tries to leave its folder, is beyond the bounds or does not fit on
            the disk.
    """
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise InjertoError(
            f"cannot read {path}: {error.strerror or error}; check the file and its permissions"
        ) from error
    target = cache_root() / "archives" / sha256(UNPACKING, digest)
    found = open_kept(target)
    if found is None:
        found = _unpack_once(path, target)
    if path.name.lower().endswith(".zip"):
        _warn_of_names(path)
    return found


def _unpack_once(path: Path, target: Path) -> Path:
    """Unpack into a temporary folder that becomes the target; of what is refused, nothing is left."""
    if problem := cache_problem():
        raise InjertoError(f"{path} is unpacked into the cache, and {problem}")
    with make_kept(target) as content:
        try:
            (_unpack_zip if path.name.lower().endswith(".zip") else _unpack_tar)(path, content)
        except OSError as error:
            raise InjertoError(
                f"cannot unpack {path}: {error.strerror or error}; check the archive and the space in {cache_root()}"
            ) from error
    return target / FILES


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
        packed = archive.stat().st_size
        self.most = most_unpacked(packed)
        self.most_packed = PACKED_RATIO * packed + 2**20
        self.members = self.total = self.packed = 0
        self.files: set[tuple[str, ...]] = set()

    def place(self, name: str, size: int, separators: str = "/") -> tuple[str, ...] | None:
        """Count a member and give its path components, None for one without data; refuse paths out of the folder."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise InjertoError(
                f"{self.archive} has more than {MAX_MEMBERS:,} members; unpack it yourself and name the folder"
            )
        plain = name.replace("\\", "/")
        if len(name) > ARCHIVE_PATH_CHARACTERS or plain.count("/") > FOLDER_DEPTH:
            raise self.refusal(name, f"has a path of {len(name):,} characters in {plain.count('/'):,} folders")
        if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in plain.split("/")):
            raise self.refusal(name, "has a name that is longer than 255 bytes")
        if plain.startswith("/") or ".." in plain.split("/") or re.match(r"[A-Za-z]:", name) or "\0" in name:
            raise self.refusal(name, "points outside of the archive")
        self.total += size
        if size > MAX_MEMBER_BYTES:
            raise self.refusal(name, f"has {size:,} bytes, more than {MAX_MEMBER_BYTES:,}")
        if self.total > self.most:
            raise _too_much(self.archive)
        if plain.lower().endswith(COMPRESSIONS):
            self.packed += size
            if self.packed > self.most_packed:
                raise self.refusal(name, "is compressed twice, and a bomb or of zeros")
        if self.total > self.free:
            raise InjertoError(
                f"{self.archive} does not fit on the disk of {cache_root()}; free space or set INJERTO_CACHE"
            )
        name = plain if "\\" in separators else name
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        return None if not parts or any(map(is_hidden, parts)) else parts

    def refusal(self, name: str, why: str) -> InjertoError:
        """The error for a member that must not be unpacked."""
        return InjertoError(
            f"{self.archive} is refused: member {shown(name)} {why}; pack the folder again as plain files"
        )

    def folder(self, parts: tuple[str, ...]) -> None:
        """Make a folder, so that an empty class folder can be told."""
        self.root.joinpath(*parts).mkdir(parents=True, exist_ok=True)

    def file(self, parts: tuple[str, ...], size: int, stream: IO[bytes]) -> None:
        """Copy one file."""
        name = "/".join(parts)
        if parts in self.files:
            raise self.refusal(name, "is there twice")
        self.files.add(parts)
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise self.refusal(name, "differs from another only in capitals or is a folder too")
        left = size
        with path.open("wb") as target:
            while block := stream.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    break
                target.write(block)
        if left:
            raise InjertoError(
                f"{self.archive} is not a readable archive ('{name}' is cut off); download or pack it again"
            )


def most_unpacked(packed: int) -> int:
    """How many bytes an archive may unpack to.

    Args:
        packed: Its size.
    """
    small = min(packed, 10_000_000)
    return max(MAX_RATIO * small, LARGE_RATIO * packed) + _SPARE_BYTES


def _too_much(archive: Path) -> InjertoError:
    times = MAX_RATIO if archive.stat().st_size <= 10_000_000 else LARGE_RATIO
    return InjertoError(
        f"{archive} unpacks to more than {times} times its size; where you trust it, unpack it yourself and name the "
        "folder"
    )


class _Counted(io.RawIOBase):
    """A stream that is cut off by an error where it grows beyond the bound, headers and padding included."""

    def __init__(self, archive: Path, stream: IO[bytes]) -> None:
        self.archive, self.stream = archive, stream
        self.left = most_unpacked(archive.stat().st_size)

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(_BLOCK if size < 0 else size)
        self.left -= len(block)
        if self.left < 0:
            raise _too_much(self.archive)
        return block

    def close(self) -> None:
        self.stream.close()
        super().close()


class _Member(tarfile.TarInfo):
    """A member of a tar whose own header, which is held in memory, is bounded."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        kinds = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.SOLARIS_XHDTYPE)
        if self.type in (*kinds, tarfile.XHDTYPE, tarfile.XGLTYPE) and self.size > ARCHIVE_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return cast(tarfile.TarInfo, super()._proc_member(archive))  # type: ignore[misc]


def _unpack_zip(path: Path, root: Path) -> None:
    with _readable(path), zipfile.ZipFile(path) as archive:
        writer = _Writer(path, root)
        infos = archive.infolist()
        with progress(f"unpacking {path.name}", len(infos), "files") as bar:
            for info in infos:
                bar.advance()
                name, _ = _zip_name(info)
                parts = writer.place(name, info.file_size, "/\\")
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise writer.refusal(name, "is a link or device")
                if parts is None:
                    continue
                if info.is_dir() or name.endswith("\\"):
                    writer.folder(parts)
                else:
                    if info.flag_bits & 1:
                        raise writer.refusal(name, "is encrypted")
                    with open_member(archive, info) as stream:
                        writer.file(parts, info.file_size, stream)


def _warn_of_names(path: Path) -> None:
    """Names that are neither ASCII nor UTF-8: which characters were meant, the archive does not say."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        names = [_zip_name(info) for info in archive.infolist()]
    guessed = [name for name, sure in names if not sure]
    if guessed:
        warn(
            f"{path}: {len(guessed)} names are in an unknown encoding and are read as code page 437 (first: "
            f"{guessed[0]!r}); where they are not right, pack it again with UTF-8 names"
        )


def _zip_name(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """A member's name, and whether its encoding is known: macOS writes UTF-8 without saying so."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename, True
    try:
        return info.filename.encode("cp437").decode("utf-8"), True
    except UnicodeError:
        return info.filename, False


def _unpack_tar(path: Path, root: Path) -> None:
    with (
        _readable(path),
        _decompressed(path) as stream,
        tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape", tarinfo=_Member) as archive,
    ):
        writer = _Writer(path, root)
        with progress(f"unpacking {path.name}", path.stat().st_size, "bytes") as bar:
            for member in archive:
                if member.size < 0:
                    raise tarfile.ReadError("a member's size is negative")
                parts = writer.place(member.name, member.size)
                if not (member.isreg() or member.isdir()):
                    raise writer.refusal(member.name, "is a link or device")
                if parts is None:
                    continue
                if member.isdir():
                    writer.folder(parts)
                else:
                    content = archive.extractfile(member)
                    assert content is not None  # a regular file has content
                    writer.file(parts, member.size, content)
                    bar.advance(member.size)
                archive.members = []  # type: ignore[attr-defined]
        while stream.read(_BLOCK):  # the checksum stands at the very end, behind what tarfile reads
            pass


def _decompressed(path: Path) -> IO[bytes]:
    """The tar inside, within bounds."""
    return cast(IO[bytes], _Counted(path, _unpacker(path)))


def _unpacker(path: Path) -> IO[bytes]:
    """The tar inside, told by its first bytes; unlike tarfile's own streams these verify the checksum."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path))
    if magic.startswith(b"\xfd7zXZ"):
        return open_xz(path)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow

        return cast(IO[bytes], pyarrow.CompressedInputStream(str(path), "zstd"))
    return cast(IO[bytes], bz2.open(path)) if magic.startswith(b"BZh") else path.open("rb")
