"""Texts that are files: decoding, and what cannot be one."""

from pathlib import Path

from injerto.basics.limits import TEXT_BYTES

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def read_text(path: Path) -> str:
    """The text in a file: UTF-8, or UTF-16 with its mark; without the mark and the line break at the end.

    Args:
        path: The file.

    Returns:
        The text, its lines separated by a newline.

    Raises:
        ValueError: Where the file is empty, too large or no text in these encodings.
        OSError: Where it cannot be read.
    """
    size = path.stat().st_size
    if size > TEXT_BYTES:
        raise ValueError(f"{size:,} bytes, more than {TEXT_BYTES:,} for one text")
    data = path.read_bytes()
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        place = f" (byte 0x{data[error.start]:02x})" if encoding.startswith("utf-8") else ""
        raise ValueError(f"not {encoding[:6].upper().rstrip('-')}{place}; save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("no text: it holds zero bytes")
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    if not text.strip():
        raise ValueError("the text is empty")
    return text


def is_text_content(path: Path) -> bool:
    """Whether a file begins as a text does: without zero bytes and other control characters.

    Args:
        path: The file.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return True  # the reader says why
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or not any(
        byte < 32 and byte not in b"\t\n\v\f\r\b\x1a\x1b" for byte in head
    )
