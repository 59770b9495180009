"""Every mode that a file can hold becomes the RGB that an independent computation gives, or is refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains import images
from injerto.domains.formats import FORMATS
from injerto.domains.images import decode, read_image

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 7)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (6, 7, 3)).astype(np.uint8)
ALPHA = RNG.integers(0, 256, (6, 7)).astype(np.uint8)
DEEP = RNG.integers(9000, 65536, (6, 7)).astype(np.uint16)


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def over_white(colour: np.ndarray) -> np.ndarray:
    opacity = ALPHA[..., None] / 255
    return colour * opacity + 255 * (1 - opacity)


def cmyk(ink: np.ndarray) -> np.ndarray:
    return (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255


INK = np.concatenate([COLOUR, ALPHA[..., None]], axis=2)
CASES = [
    ("1", Image.fromarray(GRAY > 99), gray((GRAY > 99) * 255), "BMP ICO PCX PNG PPM TGA TIFF"),
    ("L", Image.fromarray(GRAY), gray(GRAY), "BMP DDS GIF ICO JPEG2000 PCX PNG PPM SGI TGA TIFF"),
    ("LA", Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(ALPHA)]), over_white(gray(GRAY)), "PNG TIFF TGA"),
    ("RGB", Image.fromarray(COLOUR), COLOUR, "BMP DDS ICO JPEG2000 PCX PNG PPM QOI SGI TGA TIFF"),
    ("RGBA", Image.fromarray(np.dstack([COLOUR, ALPHA])), over_white(COLOUR), "DDS ICO PNG QOI SGI TGA TIFF"),
    ("CMYK", Image.fromarray(INK, "CMYK"), cmyk(INK), "TIFF"),
    ("I;16", Image.fromarray(DEEP), gray(DEEP >> 8), "JPEG2000 PNG TIFF PPM"),
    ("I;16B", Image.frombytes("I;16B", (7, 6), DEEP.astype(">u2").tobytes()), gray(DEEP >> 8), "TIFF PNG"),
    ("I", Image.fromarray(DEEP.astype(np.int32)), gray(DEEP >> 8), "TIFF PPM"),
    ("F 0..1", Image.fromarray(GRAY.astype(np.float32) / 255), gray(GRAY), "TIFF PPM"),
    ("F 0..255", Image.fromarray(GRAY.astype(np.float32)), gray(GRAY), "TIFF PPM"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("mode", "image", "expected", "formats"), CASES, ids=[case[0] for case in CASES])
def test_every_mode_in_every_lossless_format(mode: str, image: Image.Image, expected: np.ndarray, formats: str) -> None:
    for name in formats.split():
        stream = io.BytesIO()
        options = {"irreversible": False} if name == "JPEG2000" else {"sizes": [(7, 6)]} if name == "ICO" else {}
        image.save(stream, name, **options)  # type: ignore[arg-type]
        read = np.asarray(read_image(stream.getvalue()), dtype=float)
        assert read.shape == expected.shape and np.abs(read - expected).max() <= 1, name


def test_cmyk_of_adobe_is_stored_inverted(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg", quality=100)
    assert np.abs(np.asarray(read_image(tmp_path / "cyan.jpg"), float) - (0, 255, 255)).max() <= 3


def test_a_palette_and_lab() -> None:
    palette = Image.fromarray(COLOUR).quantize(256, dither=Image.Dither.NONE)
    lab = Image.new("LAB", (4, 4), (255, 128, 128))
    for image, expected in ((palette, np.asarray(palette.convert("RGB"))), (lab, np.full((4, 4, 3), 255))):
        stream = io.BytesIO()
        image.save(stream, "TIFF")
        assert np.abs(np.asarray(read_image(stream.getvalue()), float) - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.float32([[-3, 7]]), "floating-point values from -3 to 7"),
        (np.float32([[0, 1.3]]), "neither 0..1 nor clearly 0..255"),
        (np.float32([[0, 300]]), "floating-point values from 0 to 300"),
        (np.float32([[0, np.nan]]), "not finite"),
        (np.float32([[0, np.inf]]), "not finite"),
        (np.int32([[-1, 5]]), "values from -1 to 5, beyond 0..65535"),
        (np.int32([[0, 70_000]]), "values from 0 to 70000"),
    ],
)
def test_values_without_a_meaning_are_refused_by_name(tmp_path: Path, values: np.ndarray, why: str) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(InjertoError, match=rf"cannot read .*x.tif \(.*{why}") as error:
        read_image(tmp_path / "x.tif")
    assert "\n" not in str(error.value)


def png(depth: int, colour: int, row: bytes, width: int, key: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    body = (
        chunk(b"IHDR", head)
        + (chunk(b"tRNS", key) if key else b"")
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, bytes([0b01000000]), 0, [255, 255]),
        (2, bytes([0b01100000]), 1, [255, 170]),
        (4, bytes([0x35]), 3, [255, 85]),
        (8, bytes([9, 30]), 9, [255, 30]),
        (16, struct.pack(">HH", 1000, 40_000), 1000, [255, 156]),
    ],
)
def test_the_transparent_gray_of_a_png_lies_over_white_at_every_depth(
    depth: int, row: bytes, key: int, expected: list[int]
) -> None:
    read = np.asarray(read_image(png(depth, 0, row, 2, struct.pack(">H", key))))
    assert (read == gray(np.asarray([expected]))).all()


def test_a_transparent_colour_of_sixteen_bits_is_refused() -> None:
    data = png(16, 2, struct.pack(">HHH", 255, 255, 255), 1, struct.pack(">HHH", 255, 255, 255))
    with pytest.raises(InjertoError, match="16-bit colours with a transparent one"):
        read_image(data)


def test_white_is_zero_is_turned_round_at_sixteen_bits(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "x.tif", tiffinfo={262: 0})
    assert (np.asarray(read_image(tmp_path / "x.tif")) == gray((65535 - DEEP) >> 8)).all()


@pytest.mark.parametrize("orientation", range(1, 10))
def test_every_orientation_once_only(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "x.png", exif=exif)
    turns = {
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: COLOUR[::-1].transpose(1, 0, 2),
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: COLOUR[:, ::-1].transpose(1, 0, 2),
    }
    read = read_image(tmp_path / "x.png")
    assert (np.asarray(read) == turns.get(orientation, COLOUR)).all()
    if orientation > 1:
        assert (np.asarray(read_image(read)) == np.asarray(read)).all()


def test_only_formats_of_the_list_are_opened_whatever_the_name(tmp_path: Path) -> None:
    assert not {"EPS", "WMF", "IPTC", "FITS", "HDF5", "GRIB", "BUFR", "MPEG"} & set(FORMATS)
    Image.fromarray(COLOUR).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "drawing.png")
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><html>not found</html>")
    for name, what in (("drawing.png", "a PostScript file"), ("page.jpg", "a web page")):
        with pytest.raises(InjertoError, match=rf"{name} \(not a picture but {what}\)"):
            read_image(tmp_path / name)
    Image.fromarray(COLOUR).save(tmp_path / "wrong.jpg", "PNG")
    assert (np.asarray(read_image(tmp_path / "wrong.jpg")) == COLOUR).all()


def test_frames_and_dark_colours_are_reported_to_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for ending in ("tif", "gif", "png", "webp"):
        found: set[str] = set()
        first.save(tmp_path / f"x.{ending}", save_all=True, append_images=[second])
        assert np.asarray(decode(tmp_path / f"x.{ending}", None, found))[0, 0, 0] > 200 and found == {"frames"}
    images._told.clear()
    read_image(png(16, 2, struct.pack(">HHH", 4000, 4000, 4000), 1, b""))
    assert "nearly black" in capsys.readouterr().err
