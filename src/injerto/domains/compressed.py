"""The bytes of a table's file, unpacked within bounds: .gz, .xz, .bz2, .zst, and .zip of one file."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from injerto.basics.errors import InjertoError, first_line

COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst", ".zip")
MOST_BYTES = 4 * 2**30
"""A table is held in memory whole."""
_FREE_BYTES = 64 * 2**20
_MOST_RATIO = 200
_BLOCK = 2**20


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
        if size > MOST_BYTES:
            raise InjertoError(f"{path} has {size:,} bytes; a table of up to {MOST_BYTES:,} is read, split it")
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


def zipped_name(path: Path) -> str:
    """The name of the only file in a .zip; empty where there are several, or none, or it is no such file.

    Args:
        path: The file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            return members[0].filename.rpartition("/")[2] if len(members) == 1 else ""
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return ""


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
        return lzma.open(path)
    if kind == ".bz2":
        return bz2.open(path)
    if kind == ".zst":
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    archive = zipfile.ZipFile(path)
    members = _members(archive)
    if len(members) != 1:
        raise InjertoError(f"{path} holds {len(members)} files; a zipped table is one file, unpack it into a folder")
    return archive.open(members[0])


def _bounded(path: Path, stream: IO[bytes], packed: int) -> bytes:
    """All of a stream, unless it grows as only a bomb does."""
    most = min(MOST_BYTES, max(_FREE_BYTES, _MOST_RATIO * packed))
    out = io.BytesIO()
    while block := stream.read(_BLOCK):
        out.write(block)
        if out.tell() > most:
            raise InjertoError(f"{path} ({packed:,} bytes) unpacks to more than {most:,}; unpack it and check it")
    return out.getvalue()
