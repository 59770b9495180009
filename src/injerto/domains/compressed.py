"""The bytes of a table's file, unpacked within bounds: .gz, .xz, .bz2, .zst, and .zip of one file."""

import bz2
import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from injerto.basics.errors import InjertoError, first_line
from injerto.basics.limits import (
    TABLE_BYTES,
    TABLE_CELLS,
    TABLE_CELLS_A_BYTE,
    TABLE_RATIO,
    TABLE_SPARE,
    XZ_MEMORY,
)

COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst", ".zip")
_BLOCK = 2**20
_SLOW_BLOCK = 4096
"""zipfile unpacks all of a compressed block of bzip2 and LZMA at once: a megabyte may become gigabytes."""


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where its name ends in one of :data:`COMPRESSIONS`.

    Args:
        path: The file.

    Returns:
        Its bytes.

    Raises:
        InjertoError: Where it cannot be read or unpacked, is beyond the bounds, or is a .zip of several files.
    """
    kind = path.suffix.lower()
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InjertoError(f"{path} is no file but a folder, device or pipe; save the table as a file")
        if size > TABLE_BYTES:
            raise InjertoError(f"{path} has {size:,} bytes; a table of up to {TABLE_BYTES:,} is read, split it")
        if kind not in COMPRESSIONS:
            return path.read_bytes()
        with _opened(path, kind) as stream:
            return _bounded(path, stream, size)
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError) as error:
        raise InjertoError(f"{path} is not a readable {kind} file ({first_line(error)}); compress it again") from error
    except (NotImplementedError, RuntimeError) as error:  # a .zip with a password or an unusual method
        raise InjertoError(f"{path} cannot be unpacked ({first_line(error)}); pack it without a password") from error
    except OSError as error:
        if error.errno is None:  # bz2 and pyarrow say what is wrong with the content
            raise InjertoError(
                f"{path} is not a readable {kind} file ({first_line(error)}); compress it again"
            ) from error
        raise InjertoError(
            f"cannot read {path}: {error.strerror or error}; check the file and its permissions"
        ) from error


def most_bytes(packed: int) -> int:
    """How many bytes a table may unpack to.

    Args:
        packed: Its size as a file.
    """
    return min(TABLE_BYTES, max(TABLE_SPARE, TABLE_RATIO * packed))


def bound_cells(path: Path | str, cells: int, packed: int) -> None:
    """Refuse a table of far more cells than its bytes can mean: each becomes an object in memory.

    Args:
        path: What messages call it.
        cells: At least so many does it have.
        packed: Its size as a file.

    Raises:
        InjertoError: Where it has too many.
    """
    most = max(TABLE_CELLS, TABLE_CELLS_A_BYTE * packed)
    if cells > most:
        raise InjertoError(f"{path} ({packed:,} bytes) has more than {most:,} cells; check it, or split it")


def open_xz(path: Path) -> IO[bytes]:
    """An .xz file as a stream that takes no more memory than the bound.

    Args:
        path: The file.
    """
    return cast(IO[bytes], io.BufferedReader(_Xz(path)))


def open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    """A file in a .zip as a stream that takes no more memory than the bound.

    Args:
        archive: The archive.
        member: Of it.

    Raises:
        lzma.LZMAError: Where unpacking it would take more.
    """
    if member.compress_type == zipfile.ZIP_LZMA:
        _check_lzma(archive, member)
    stream = archive.open(member)
    if member.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        return cast(IO[bytes], io.BufferedReader(_Slow(stream.read), _SLOW_BLOCK))
    return stream


def zipped_name(path: Path) -> str:
    """The name of the only file in a .zip; empty where there are several, or none, or it is no such file.

    Args:
        path: The file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            return members[0].filename.rpartition("/")[2] if len(members) == 1 else ""
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        return ""


class _Xz(io.RawIOBase):
    """Unpacks as :class:`lzma.LZMAFile` does, with a bound on memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._unpacker = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_AUTO, XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while len(view):
            if self._unpacker.eof:
                rest = (self._unpacker.unused_data or self._file.read(_BLOCK)).lstrip(b"\0")  # padding
                if not rest:
                    return 0
                self._unpacker = self._new()  # another stream behind it
            else:
                rest = self._file.read(2**16) if self._unpacker.needs_input else b""
                if not rest and self._unpacker.needs_input:
                    raise EOFError("compressed file ended before its end was reached")
            data = self._unpacker.decompress(rest, len(view))
            if data:
                view[: len(data)] = data
                return len(data)
        return 0

    def close(self) -> None:
        self._file.close()
        super().close()


class _Slow(io.RawIOBase):
    """Hands on blocks as small as they are asked for."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(min(len(buffer), _SLOW_BLOCK))
        buffer[: len(data)] = data
        return len(data)


def _check_lzma(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read the size of the dictionary, for which memory is taken whatever comes."""
    assert archive.fp is not None
    archive.fp.seek(member.header_offset)
    head = archive.fp.read(30).ljust(30, b"\0")
    archive.fp.seek(sum(struct.unpack_from("<HH", head, 26)), io.SEEK_CUR)
    properties = archive.fp.read(9).ljust(9, b"\0")
    if struct.unpack_from("<I", properties, 5)[0] > XZ_MEMORY:
        raise lzma.LZMAError("Memory usage limit exceeded")


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Its files, without hidden ones and macOS's leftovers."""
    hidden = (".", "__MACOSX")
    return [
        member
        for member in archive.infolist()
        if not member.is_dir() and not any(part.startswith(hidden) for part in member.filename.split("/"))
    ]


def _opened(path: Path, kind: str) -> Any:
    if kind == ".gz":
        return gzip.open(path)
    if kind == ".xz":
        return open_xz(path)
    if kind == ".bz2":
        return bz2.open(path)
    if kind == ".zst":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    archive = zipfile.ZipFile(path)
    members = _members(archive)
    if len(members) != 1:
        raise InjertoError(f"{path} holds {len(members)} files; a zipped table is one file, unpack it into a folder")
    return open_member(archive, members[0])


def _bounded(path: Path, stream: IO[bytes], packed: int) -> bytes:
    """All of a stream, unless it grows as only a bomb does."""
    most = most_bytes(packed)
    out = io.BytesIO()
    while block := stream.read(_BLOCK):
        out.write(block)
        if out.tell() > most:
            raise InjertoError(f"{path} ({packed:,} bytes) unpacks to more than {most:,}; unpack it and check it")
    return out.getvalue()
