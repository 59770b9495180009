"""Checksums against accidents: a flipped bit, a file cut short, one of another run, an edit by hand."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.basics.files import write_text

CHECKSUM = "checksum"
"""Key of a file's own checksum in the JSON that it holds."""
_BLOCK = 1 << 20


def checksum(data: bytes | memoryview, before: str = "") -> str:
    """CRC-32 of bytes as eight hex digits.

    Args:
        data: The bytes.
        before: The checksum of what comes before them.
    """
    return f"{zlib.crc32(data, int(before or '0', 16)):08x}"


def file_checksum(path: Path) -> str:
    """CRC-32 of a file's bytes as eight hex digits.

    Args:
        path: The file.

    Raises:
        OSError: Where it cannot be read.
    """
    found = ""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            found = checksum(block, found)
    return found or checksum(b"")


def content_checksum(content: Any) -> str:
    """Checksum of anything that JSON holds, however it is laid out in a file.

    Args:
        content: Ready for JSON.
    """
    return checksum(json.dumps(content, sort_keys=True).encode())


def write_sealed(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write JSON with its own checksum.

    Args:
        path: The file.
        content: What it holds.

    Returns:
        The same with its checksum.
    """
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != CHECKSUM}, allow_nan=False))
    sealed = plain | {CHECKSUM: content_checksum(plain)}
    write_text(path, json.dumps(sealed, indent=1) + "\n")
    return sealed


def read_sealed(path: Path, cure: str) -> dict[str, Any]:
    """Read JSON with its checksum; files of earlier versions have none.

    Args:
        path: The file.
        cure: What to do where it is damaged.

    Returns:
        What it holds, without the checksum.

    Raises:
        InjertoError: Where it is missing, cannot be read, or is not what was written.
    """
    try:
        if path.exists() and not path.is_file():
            raise InjertoError(f"{path} is no file; {cure}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InjertoError(f"cannot read {path}: {error.strerror or error}; {cure}") from None
    except (ValueError, RecursionError):
        raise InjertoError(f"{path} is damaged: not valid JSON; {cure}") from None
    if not isinstance(content, dict):
        raise InjertoError(f"{path} is damaged: it holds no mapping; {cure}")
    if CHECKSUM in content and content.pop(CHECKSUM) != content_checksum(content):
        raise InjertoError(f"{path} is damaged or was changed: its checksum does not fit; {cure}")
    return content
