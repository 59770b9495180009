"""Which picture formats are read: of those that the installed Pillow opens, the ones on one list."""

import io
from contextlib import suppress
from pathlib import Path

from PIL import Image, UnidentifiedImageError

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JXL", "JPEG2000", "PPM", "ICO", "CUR", "ICNS"),
    *("DDS", "PSD", "QOI", "PCX", "DCX", "DIB", "SGI", "SUN", "XBM", "XPM", "MSP", "BLP", "FTEX", "FLI", "GBR"),
    *("PIXAR", "TGA"),  # TGA has no signature and comes last
)
"""Formats that are read. Not on the list are formats that start other programs or open further files (EPS, WMF, IPTC,
FPX, MIC), unpack without a bound (FITS), are stubs (HDF5, GRIB, BUFR, MPEG), have no signature (IM, IMT, SPIDER), or
hold something else under the same ending (PCD: point clouds)."""

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
    """The formats of the list that the installed Pillow and its plugins open, in the order in which they are tried."""
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
    """Open a picture by its content, whatever its name is; only the header is read.

    Args:
        data: A file or an encoded picture.

    Returns:
        The picture, not decoded yet.

    Raises:
        ValueError: Where the content is of a format that is not read.
    """
    try:
        return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=openable())
    except UnidentifiedImageError as error:
        head = _head(data)
        what = next(
            (what for mark, what in _ELSE if head.lower().lstrip(b"\xef\xbb\xbf \r\n").startswith(mark.lower())), ""
        )
        if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
            what = "a HEIC file (install the package pillow-heif to read it)"
        raise ValueError(f"not a picture but {what}" if what else "not a picture") from error


def is_picture_content(path: Path) -> bool:
    """Whether a file begins as a picture does.

    Args:
        path: The file.
    """
    if not path.is_file():  # a pipe would never end
        return False
    formats = [name for name in openable() if name in _BY_CONTENT]
    with suppress(Exception):  # a picture's decoder may raise anything
        head = _head(path)[:16]
        if not any(accept is None or accept(head) is True for _, accept in map(Image.OPEN.__getitem__, formats)):
            return False
        with Image.open(path, formats=formats):
            return True
    return False


def _head(data: Path | bytes) -> bytes:
    if isinstance(data, bytes):
        return data[:64]
    with data.open("rb") as stream:
        return stream.read(64)
