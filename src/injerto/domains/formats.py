"""Which picture formats are read: those of one list, told by their first bytes before any decoder runs."""

import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from injerto.basics.limits import ICONS, JPEG2000_TILES, JPEG_WORK, PICTURE_BYTES


class TooLarge(ValueError):
    """A picture, or its file, that is beyond the bounds."""


_HEAD = 64
_PNG = b"\x89PNG\r\n\x1a\n"
_J2K = b"\xff\x4f\xff\x51"


def _is_tga(head: bytes) -> bool:
    """TGA has no signature: every field of its header that is not free must fit."""
    if len(head) < 18 or head[1] > 1 or head[2] not in (1, 2, 3, 9, 10, 11):
        return False
    width, height = struct.unpack_from("<HH", head, 12)
    palette = head[7] in (15, 16, 24, 32) if head[1] else head[2] not in (1, 9)
    return bool(width and height and palette and head[16] in (1, 8, 15, 16, 24, 32) and not head[17] & 0xC0)


_SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda head: head.startswith(b"\xff\xd8\xff"),
    "PNG": lambda head: head.startswith(_PNG),
    "WEBP": lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
    "GIF": lambda head: head.startswith((b"GIF87a", b"GIF89a")),
    "BMP": lambda head: head.startswith(b"BM"),
    "TIFF": lambda head: head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "AVIF": lambda head: head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1", b"msf1"),
    "HEIF": lambda head: head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif", b"msf"),
    "JXL": lambda head: head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    "JPEG2000": lambda head: head.startswith((_J2K, b"\0\0\0\x0cjP  \r\n\x87\n")),
    "PPM": lambda head: re.match(rb"P[1-6fF][\s#]", head) is not None,
    "ICO": lambda head: head.startswith(b"\0\0\1\0"),
    "ICNS": lambda head: head.startswith(b"icns"),
    "PSD": lambda head: head.startswith(b"8BPS"),
    "QOI": lambda head: head.startswith(b"qoif"),
    "PCX": lambda head: head[:1] == b"\n" and head[1:2] in b"\0\2\3\5" and head[2:3] == b"\1",
    "SGI": lambda head: head.startswith(b"\x01\xda"),
    "DDS": lambda head: head.startswith(b"DDS "),
    "TGA": _is_tga,
}
FORMATS = tuple(_SIGNATURES)
"""Formats that are read, each decoded in this process. JPEG (with MPO), PNG, WebP, GIF, BMP, TIFF, AVIF, HEIF and JPEG
XL are what cameras, phones and browsers write; JPEG 2000 is in archives and medicine, PPM in older data sets, ICO and
ICNS in sets of icons, PSD with illustrators, QOI, PCX, SGI, DDS and TGA in games, renderers and scanners.

Not on the list are formats that start other programs or open further files (EPS, WMF, IPTC, FPX, MIC), unpack without
a bound (FITS), are stubs (HDF5, GRIB, BUFR, MPEG), have no signature (IM, IMT, SPIDER, DIB), hold something else under
the same ending (PCD: point clouds), or that nobody keeps pictures in (MSP, XBM, XPM, SUN, FLI, DCX, CUR, BLP, FTEX,
GBR, PIXAR).
"""
_BY_CONTENT = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JXL", "JPEG2000", "PSD", "QOI")
_ELSE = (
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"version https://git-lfs", "a pointer of Git LFS (run git lfs pull)"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
)


def openable() -> list[str]:
    """The formats of the list that the installed Pillow and its plugins open."""
    if Image.init() and "HEIF" not in Image.OPEN:
        with suppress(ImportError):
            from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]

            register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def is_picture_ending(ending: str) -> bool:
    """Whether files with this ending are read as pictures.

    Args:
        ending: With its dot, in upper or lower case.
    """
    openable()
    name = Image.EXTENSION.get(ending.lower())
    return (name in FORMATS and name in Image.OPEN) or name == "MPO"  # Pillow opens MPO as JPEG


def open_picture(data: Path | bytes) -> Image.Image:
    """Open a picture by its content, whatever its name is: the one door to Pillow's decoders.

    Args:
        data: A file or an encoded picture.

    Returns:
        The picture, not decoded yet.

    Raises:
        ValueError: Where the content is of a format that is not read, or beyond the bounds.
        OSError: Where the file cannot be read.
    """
    content = data if isinstance(data, bytes) else _content(data)
    if len(content) > PICTURE_BYTES:
        raise TooLarge(f"{len(content):,} bytes, more than {PICTURE_BYTES:,} for one picture")
    head = content[:_HEAD]
    formats = _formats(head)
    for width, height in _declared(content, formats):
        _bound(width, height)
    try:
        if not formats:
            raise UnidentifiedImageError(head)
        opened = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        raise ValueError(_not_a_picture(head)) from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller") from error
    _bound(opened.width, opened.height)
    _bound_work(opened, content)
    return opened


def refuse_others(image: Image.Image) -> None:
    """Refuse a PIL image whose pixels are still to be decoded from a format that is not read.

    Args:
        image: As the caller opened it.

    Raises:
        ValueError: Where its format is not on the list; decoding it may start other programs.
    """
    pending = bool(getattr(image, "tile", None)) or (image.format is not None and getattr(image, "_im", 0) is None)
    if pending and image.format not in (*FORMATS, "MPO", None):
        raise ValueError(f"a picture of the format {image.format}, which is not read: save it as PNG")


def is_picture_content(path: Path) -> bool:
    """Whether a file begins as a picture does.

    Args:
        path: The file.
    """
    if not path.is_file():  # a pipe would never end
        return False
    with suppress(Exception):  # a picture's decoder may raise anything
        with path.open("rb") as stream:
            formats = [name for name in _formats(stream.read(_HEAD)) if name in _BY_CONTENT]
        if formats and path.stat().st_size <= PICTURE_BYTES:
            with Image.open(path, formats=formats):
                return True
    return False


def _content(path: Path) -> bytes:
    """All of a file, which is then not read again while it is decoded."""
    if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):  # a pipe may never end
        raise ValueError("no file but a device or pipe")
    with path.open("rb") as stream:  # as much as is asked for is taken as memory before a byte is read
        return stream.read(min(os.fstat(stream.fileno()).st_size, PICTURE_BYTES) + 1)


def _formats(head: bytes) -> list[str]:
    """The formats that begin so: none, one, or the two that share a container. TGA only where no other fits."""
    found = [name for name in openable() if _SIGNATURES[name](head)]
    return [name for name in found if name != "TGA"] or found


def _not_a_picture(head: bytes) -> str:
    start = head.lower().lstrip(b"\xef\xbb\xbf \r\n")
    what = next((what for mark, what in _ELSE if start.startswith(mark.lower())), "")
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        what = "a HEIC file (install the package pillow-heif to read it)"
    return f"not a picture but {what}" if what else "not a picture"


def _bound(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise TooLarge(f"{width} x {height} pixels, more than {limit:,}: make it smaller")


def _declared(content: bytes, formats: list[str]) -> Iterator[tuple[int, int]]:
    """Sizes in a file that a decoder believes before, or in place of, the one that Pillow reports."""
    if "WEBP" in formats and content[12:16] == b"VP8X" and len(content) >= 30:
        yield tuple(int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))  # type: ignore[misc]
    if "ICO" in formats:
        yield from _icons(content)
    if "ICNS" in formats:
        for match in re.finditer(re.escape(_PNG) + rb".{8}(.{8})", content, re.DOTALL):
            yield struct.unpack(">II", match.group(1))
    if "JPEG2000" in formats or "ICNS" in formats:
        for match in re.finditer(re.escape(_J2K) + rb".{4}(.{32})", content, re.DOTALL):
            right, bottom, left, top, wide, high, first, above = struct.unpack(">8I", match.group(1))
            tiles = -(-(right - first) // max(wide, 1)) * -(-(bottom - above) // max(high, 1))
            if tiles > JPEG2000_TILES:
                raise TooLarge(f"{tiles:,} tiles, more than {JPEG2000_TILES:,}: save it with larger ones")
            yield right - left, bottom - top


def _icons(content: bytes) -> Iterator[tuple[int, int]]:
    """Sizes of the pictures in an .ico, each a PNG or a bitmap of twice its height."""
    (count,) = struct.unpack_from("<H", content.ljust(6, b"\0"), 4)
    if count > ICONS:
        raise TooLarge(f"{count} pictures in one icon, more than {ICONS}")
    for place in range(6, 6 + 16 * count, 16):
        (start,) = struct.unpack_from("<I", content.ljust(place + 16, b"\0"), place + 12)
        own = content[start : start + 24].ljust(24, b"\0")
        if own.startswith(_PNG):
            yield struct.unpack_from(">II", own, 16)
        else:
            width, height = struct.unpack_from("<ii", own, 4)
            yield abs(width), abs(height) // 2


def _bound_work(opened: Image.Image, content: bytes) -> None:
    """Refuse what would take far more time or memory than the size of the picture says."""
    pixels = opened.width * opened.height
    if opened.format in ("JPEG", "MPO"):
        scans = content.count(b"\xff\xda")
        if scans * pixels > JPEG_WORK:
            raise TooLarge(f"{scans:,} scans of {opened.width} x {opened.height} pixels: save it again")
    elif opened.format == "TIFF":
        tags = getattr(opened, "tag_v2", {})
        wide, high = tags.get(322, 1), tags.get(323, 1)
        if isinstance(wide, int) and isinstance(high, int):
            _bound(wide, high)
    elif opened.format == "DDS" and pixels > 2 * len(content):
        raise ValueError("more pixels than the file holds: it is cut off")
