"""Pictures from strangers: which decoders run, and how much they may take."""

import io
import os
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import injerto
from injerto.basics.errors import InjertoError
from injerto.basics.limits import ICONS
from injerto.domains.columns import ColumnNames
from injerto.domains.domain import Domains
from injerto.domains.formats import FORMATS, TooLarge, open_picture, openable
from injerto.domains.images import read_image
from injerto.domains.load import load_domains
from injerto.evaluation.inputs import read_inputs

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale\n(id) run\nshowpage\n%%EOF\n"
WMF = b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x10\0\x10\0\x60\0\0\0\0\0\0\0\x01\0\x09\0" + bytes(60)


def encoded(kind: str = "PNG", size: tuple[int, int] = (9, 7), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that a program called ``gs`` (or another that Pillow starts), first on PATH, would write."""
    programs, mark = tmp_path / "bin", tmp_path / "started"
    programs.mkdir()
    for name in ("gs", "gswin64c", "djpeg", "pdftoppm", "inkscape"):
        (programs / name).write_text(f'#!/bin/sh\necho "$0 $*" >> {mark}\nexit 0\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked up again
    yield mark


def write_folder(root: Path, bad: bytes) -> Path:
    for place, data in {"a/1.png": encoded(), "a/2.png": bad, "b/3.png": encoded(size=(5, 5))}.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(data)
    return root


def by_folder(root: Path, bad: bytes) -> Any:
    return write_folder(root / "data", bad)


def by_table(root: Path, bad: bytes) -> Any:
    write_folder(root / "data", bad)
    (root / "data/list.csv").write_text("path,label\na/1.png,x\na/2.png,y\nb/3.png,x\n")
    return root / "data/list.csv"


def by_zip(root: Path, bad: bytes) -> Any:
    write_folder(root / "data", bad)
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        for path in sorted((root / "data").rglob("*.png")):
            archive.write(path, path.relative_to(root / "data"))
    return root / "data.zip"


def by_tar(root: Path, bad: bytes) -> Any:
    write_folder(root / "data", bad)
    with tarfile.open(root / "data.tar.gz", "w:gz") as archive:
        archive.add(root / "data", "data")
    return root / "data.tar.gz"


def by_parquet(root: Path, bad: bytes) -> Any:
    import pyarrow
    from pyarrow import parquet

    cells = [{"bytes": data, "path": f"{place}.png"} for place, data in enumerate((encoded(), bad, encoded()))]
    parquet.write_table(pyarrow.table({"image": cells, "label": ["x", "y", "x"]}), root / "t.parquet")
    return root / "t.parquet"


def by_dataset(root: Path, bad: bytes) -> Any:
    import datasets

    cells = [{"bytes": data, "path": None} for data in (encoded(), bad, encoded())]
    features = datasets.Features(
        {"image": datasets.Image(), "more": datasets.List(datasets.Image()), "label": datasets.Value("string")}
    )
    rows = {"image": cells, "more": [cells] * 3, "label": ["x", "y", "x"]}
    return datasets.Dataset.from_dict(rows, features=features)


def by_saved_dataset(root: Path, bad: bytes) -> Any:
    by_dataset(root, bad).save_to_disk(root / "saved")
    return root / "saved"


def by_bytes(root: Path, bad: bytes) -> Any:
    return {"image": [encoded(), bad, encoded()], "label": ["x", "y", "x"]}


def by_pil(root: Path, bad: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "image": [Image.open(io.BytesIO(data)) for data in (encoded(), bad, encoded())],
            "label": ["x", "y", "x"],
        }


DOORS = (by_folder, by_table, by_zip, by_tar, by_parquet, by_dataset, by_saved_dataset, by_bytes, by_pil)


@pytest.mark.parametrize("bad", [EPS, WMF], ids=["eps", "wmf"])
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_no_picture_starts_a_program(
    door: Callable[[Path, bytes], Any], bad: bytes, tmp_path: Path, started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INJERTO_CACHE", str(tmp_path / "cache"))
    for read in (as_fit, as_predict):
        given = door(tmp_path / read.__name__ if (tmp_path / read.__name__).mkdir() is None else tmp_path, bad)
        assert read(given) == 2
    assert not started.exists()


def as_fit(given: Any) -> int:
    domains = load_domains(given)
    with pytest.raises(InjertoError, match="1 of 3 images cannot be read"):
        domains.check()
    checked = domains.check(skip_bad=True)
    assert isinstance(checked, Domains)
    return sum(map(len, checked.values()))


def as_predict(given: Any) -> int:
    found = read_inputs(
        given, ColumnNames(fitted=(("input", "image"),) if isinstance(given, dict) else (), inputs_only="image")
    )
    assert len(found.problems) == 1
    return len(found.items)


def test_all_pictures_go_through_one_door() -> None:
    sources = Path(injerto.__file__).parent
    opening = re.compile(r"\bImage\.open\(|imread\(|decode_image\(|\.decode_example\(")
    found = {path.name for path in sources.rglob("*.py") if opening.search(path.read_text(encoding="utf-8"))}
    assert found == {"formats.py"}


def test_the_list_holds_no_format_that_starts_or_opens_something() -> None:
    Image.init()
    bad = [
        "EPS",
        "WMF",
        "EMF",
        "FPX",
        "MIC",
        "MSP",
        "FLI",
        "DCX",
        "FTEX",
        "GBR",
        "PIXAR",
        "BLP",
        "XBM",
        "XPM",
        "IPTC",
        "FITS",
        "SPIDER",
        "HDF5",
        "GRIB",
        "BUFR",
        "MPEG",
        "PCD",
        "IM",
    ]
    assert not set(bad) & set(FORMATS) and set(openable()) <= set(FORMATS)


def lying_png(width: int, height: int) -> bytes:
    return encoded()[:16] + struct.pack(">II", width, height) + encoded()[24:]


def with_crc(data: bytes) -> bytes:
    return data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]


def icon(picture: bytes, count: int = 1) -> bytes:
    return struct.pack("<HHH", 0, 1, count) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


def lying_webp() -> bytes:
    data = bytearray(encoded("WEBP", lossless=True))
    chunk = (
        b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (16_000).to_bytes(3, "little") + (16_000).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(data) - 8 + len(chunk)) + b"WEBP" + chunk + bytes(data[12:])


def lying_jpeg2000(tile: int) -> bytes:
    data = bytearray(encoded("JPEG2000", irreversible=False))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">8I", data, at, 9_000, 9_000, 0, 0, tile, tile, 0, 0)
    return bytes(data)


def jpeg_of_many_scans(count: int) -> bytes:
    """A large progressive JPEG whose last scan, without a pixel in it, comes again and again."""
    data = encoded("JPEG", (4000, 4000), progressive=True, quality=5)
    begin = data.rindex(b"\xff\xda")
    length = int.from_bytes(data[begin + 2 : begin + 4], "big")
    return data[:-2] + (data[begin : begin + 2 + length] + b"\0") * count + b"\xff\xd9"


BOMBS = {
    "png": with_crc(lying_png(60_000, 60_000)),
    "png in ico": icon(with_crc(lying_png(12_000, 12_000))),
    "bitmap in ico": icon(struct.pack("<IiiHHIIiiII", 40, 12_000, 24_000, 1, 32, 0, 0, 0, 0, 0, 0)),
    "many in ico": icon(encoded(), ICONS + 1),
    "png in icns": b"icns" + struct.pack(">I", 8 + 8 + len(BIG)) + b"ic10" + struct.pack(">I", 8 + len(BIG)) + BIG
    if (BIG := with_crc(lying_png(12_000, 12_000)))
    else b"",
    "webp": lying_webp(),
    "tiles of jpeg 2000": lying_jpeg2000(16),
    "codestream of jpeg 2000": lying_jpeg2000(2**20).replace(struct.pack(">2I", 9_000, 9_000), struct.pack(">2I", 10**5, 10**5)),
    "scans of a jpeg": jpeg_of_many_scans(500),
    "dds": encoded("DDS")[:12] + struct.pack("<II", 9_000, 9_000) + encoded("DDS")[20:],
    "gif": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + encoded("GIF")[10:],
    "bmp": encoded("BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + encoded("BMP")[26:],
    "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(14),
    "ppm": b"P6 60000 60000 255\n" + bytes(99),
    "tga": encoded("TGA")[:12] + struct.pack("<HH", 60_000, 60_000) + encoded("TGA")[16:],
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(kind: str) -> None:
    import time
    import tracemalloc

    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(ValueError) as error:
        open_picture(BOMBS[kind])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(error.value, TooLarge) or kind == "dds"
    assert time.perf_counter() - begin < 1 and peak < 20e6
    with pytest.raises(InjertoError, match="cannot read picture"):
        read_image(BOMBS[kind])


def test_usual_pictures_are_far_from_the_bounds() -> None:
    photo = encoded("JPEG", (6000, 4000), progressive=True, quality=5)
    assert read_image(photo, (64, 64)).width >= 128
    for kind in set(openable()) & {"WEBP", "JPEG2000", "ICO", "AVIF", "TIFF", "GIF", "PSD"} & set(Image.SAVE):
        assert read_image(encoded(kind, (256, 256))).size == (256, 256)


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """Not as much as the largest picture that is read."""
    import tracemalloc

    (tmp_path / "p.png").write_bytes(encoded("PNG", (8, 8)))
    tracemalloc.start()
    read_image(tmp_path / "p.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.png")
    with pytest.raises(InjertoError, match="device or pipe"):
        read_image(tmp_path / "p.png")
