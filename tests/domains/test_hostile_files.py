"""Files from strangers: bombs are refused, and whatever is done to a file, it is read or refused in one line.

Every file is read in a process of its own, with 1.5 GB more memory than there was and ten seconds.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import resource
import signal
import struct
import tarfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from injerto.basics.errors import InjertoError
from injerto.basics.limits import ARCHIVE_HEADER_BYTES, HEADING_CHARACTERS
from injerto.domains.columns import ColumnNames
from injerto.domains.formats import openable
from injerto.domains.images import decode, read_image
from injerto.domains.load import load_domains
from injerto.evaluation.inputs import read_inputs
from injerto.recipe.recipe import load_recipe, make_recipe

MORE_MEMORY = 1_500_000_000
SECONDS = 10
MANY = 100_000_000


def read(path: Path) -> str:
    """Read a file at every door that takes it: ``read`` or the one line that refuses it."""
    said = []
    if path.suffix == ".yaml":
        doors: list[Callable[[], Any]] = [lambda: make_recipe(**{"data": "x", **load_recipe(path)})]
    elif path.suffix == ".picture":
        doors = [lambda: read_image(path), lambda: read_image(path.read_bytes(), (8, 8))]
    else:
        doors = [
            lambda: load_domains(path).check(skip_bad=True),
            lambda: read_inputs(path, ColumnNames(inputs_only="text")),
            lambda: read_inputs(path, ColumnNames(inputs_only="image")),
        ]
    for door in doors:
        try:
            door()
            said.append("read")
        except InjertoError as error:
            said.append(str(error))
    return said[0] if all("\n" not in line and len(line) < 5_000 for line in said) else f"WRONG: {said}"


def in_child(path: Path, cache: Path) -> tuple[str, int, float]:
    """What comes of reading a file, the most memory that it took beside what was there, and the seconds."""
    back, out = os.pipe()
    begin = time.perf_counter()
    child = os.fork()
    if not child:
        try:
            os.close(back)
            os.environ["INJERTO_CACHE"] = str(cache)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (pages + MORE_MEMORY, pages + MORE_MEMORY))
            before = peak()
            try:
                answer = read(path)
            except BaseException:
                answer = f"WRONG: {traceback.format_exc()[-1500:]}"
            os.write(out, json.dumps([answer[:6000], peak() - before]).encode())
        finally:
            os._exit(0)
    os.close(out)
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.perf_counter() - begin < SECONDS:
        time.sleep(0.002)
    if not done[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "WRONG: hangs", 0, SECONDS
    with os.fdopen(back, "rb") as stream:
        text = stream.read()
    answer, memory = json.loads(text) if text else (f"WRONG: died with {done[1]}", 0)
    return answer, memory, time.perf_counter() - begin


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def write_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def write_tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def encoded(kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 11, 3), np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def parquet_of(columns: dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), stream, **options)
    return stream.getvalue()


def arrow_of(table: Any) -> bytes:
    stream = io.BytesIO()
    with ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def sheet_of(rows: Any, replace: tuple[bytes, bytes] = (b"", b""), extra: dict[str, bytes] | None = None) -> bytes:
    import openpyxl

    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(stream)
    with zipfile.ZipFile(stream) as archive:
        files = {name: archive.read(name) for name in archive.namelist()} | (extra or {})
    sheet = "xl/worksheets/sheet1.xml"
    return write_zip(files | {sheet: files[sheet].replace(*replace)})


def long_header(size: int) -> bytes:
    """A tar whose first member has a name of that size, as GNU writes them."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf() + bytes(size) + write_tar({"a/1.png": encoded()})


def many_headers(count: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4
    return (info.tobuf() + b"abc\0".ljust(512, b"\0")) * count + write_tar({"a/1.png": encoded()})


def xz_with_dictionary(data: bytes, size: int) -> bytes:
    return lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}])


def lying_lzma_zip() -> bytes:
    data = bytearray(write_zip({"t.csv": b"text,label\n" + b"a,b\n" * 999}, zipfile.ZIP_LZMA))
    at = 30 + len("t.csv") + 4 + 1
    struct.pack_into("<I", data, at, 2**32 - 1)
    return bytes(data)


ROWS = [("text", "label"), *((f"text {n}", "ab"[n % 2]) for n in range(9))]
DEEP = "[" * 100_000 + "]" * 100_000
LAUGHS = b'<!DOCTYPE lolz [<!ENTITY a "ha">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
) + b"]><sst>&j;</sst>"  # fmt: skip
BOMBS: dict[str, Callable[[], bytes]] = {
    "zeros.zip": lambda: write_zip({"a/1.png": bytes(MANY)}),
    "bzip2.zip": lambda: write_zip({"t.csv": b"text,label\n" + bytes(MANY)}, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda: write_zip({"t.csv": b"text,label\n" + b"0" * MANY}, zipfile.ZIP_LZMA),
    "dictionary.zip": lying_lzma_zip,
    "zeros.tar.gz": lambda: gzip.compress(write_tar({"a/1.png": bytes(MANY)})),
    "zeros.tar.xz": lambda: lzma.compress(write_tar({"a/1.png": bytes(MANY)})),
    "zeros.tar.bz2": lambda: bz2.compress(write_tar({"a/1.png": bytes(MANY)})),
    "zeros.tar.zst": lambda: pyarrow.compress(write_tar({"a/1.png": bytes(MANY)}), "zstd", asbytes=True),
    "dictionary.tar.xz": lambda: xz_with_dictionary(write_tar({"a/1.png": encoded()}), 1_500_000_000),
    "header.tar.xz": lambda: lzma.compress(long_header(2**24)),
    "headers.tar.gz": lambda: gzip.compress(many_headers(5_000)),
    "behind.tar.gz": lambda: gzip.compress(write_tar({"a/1.png": encoded()}) + bytes(MANY)),
    "members.tar.gz": lambda: gzip.compress(tarfile.TarInfo("a/1").tobuf() * 200_000),
    "deep.zip": lambda: write_zip({"a/" * 900 + "1.png": encoded()}),
    "long.zip": lambda: write_zip({"a/" + "x" * 300 + ".png": encoded()}),
    "twice.zip": lambda: write_zip({"t.csv.gz": gzip.compress(gzip.compress(bytes(2**26)) + bytes(2**25))}),
    "csv in gz in zip.zip": lambda: write_zip({"t.csv.gz": gzip.compress(b"text,label\n" + b"a,b\n" * 2**24)}),
    "zeros.csv.gz": lambda: gzip.compress(b"text,label\n" + bytes(MANY)),
    "rows.csv.gz": lambda: gzip.compress(b"text,label\n" + b",\n" * 2**24),
    "rows.jsonl.xz": lambda: lzma.compress(b'{"text":1}\n' * 2**23),
    "zeros.csv.bz2": lambda: bz2.compress(b"text,label\n" + bytes(MANY)),
    "zeros.csv.zst": lambda: pyarrow.compress(b"text,label\n" + bytes(MANY), "zstd", asbytes=True),
    "dictionary.csv.xz": lambda: xz_with_dictionary(b"text,label\na,b\n", 1_500_000_000),
    "one line.csv": lambda: b"text,label" + b"," * (HEADING_CHARACTERS + 9) + b"\na,b\n",
    "one line.txt": lambda: b"x" * 2**24,
    "deep.json": lambda: f'[{{"text": {DEEP}}}]'.encode(),
    "deep.jsonl": lambda: f'{{"text": {DEEP}}}\n'.encode(),
    "number.json": lambda: b'[{"text": ' + b"9" * 2**20 + b', "label": 1}]',
    "number.jsonl": lambda: b'{"text": 1e400, "label": ' + b"9" * 2**20 + b"}\n",
    "names.jsonl": lambda: b"".join(b'{"k%d": 1}\n' % n for n in range(20_000)),
    "one name twice.json": lambda: b"[{" + b", ".join(b'"k%d": 1' % (n % 199_999) for n in range(200_000)) + b"}]",
    "dimension.xlsx": lambda: sheet_of(
        [("text", "label")] * 3_000, (b'<dimension ref="A1:B3000"', b'<dimension ref="A1:XFD1048576"')
    ),
    "row.xlsx": lambda: sheet_of(ROWS, (b'r="9"', b'r="999999999999"')),
    "columns.xlsx": lambda: sheet_of(
        [("text", "label")] * 2, (b"</sheetData>", b'<row><c r="XFD3"><v>1</v></c></row>' * 100_000 + b"</sheetData>")
    ),
    "entities.xlsx": lambda: sheet_of(ROWS, extra={"xl/sharedStrings.xml": LAUGHS}),
    "zeros.xlsx": lambda: sheet_of(ROWS, extra={"xl/sharedStrings.xml": b"<sst>" + b" " * MANY}),
    "rows.parquet": lambda: parquet_of({"text": pyarrow.nulls(50_000_000, "string"), "label": pyarrow.nulls(50_000_000)}),
    "long text.parquet": lambda: parquet_of({"text": pyarrow.DictionaryArray.from_arrays(
        np.zeros(20_000, np.int32), ["x" * 10**6]), "label": ["a"] * 20_000}, compression="zstd"),
    "many texts.parquet": lambda: parquet_of({"text": [str(n % 7) for n in range(2**14)], "label": [None] * 2**14}),
    "nulls.arrow": lambda: arrow_of(pyarrow.table({"text": pyarrow.nulls(2**30), "label": pyarrow.nulls(2**30)})),
    "dictionary.arrow": lambda: arrow_of(pyarrow.table({"text": pyarrow.DictionaryArray.from_arrays(
        np.zeros(200_000, np.int8), ["x" * 10**6])})),
    "lists.arrow": lambda: arrow_of(pyarrow.table({"text": pyarrow.ListArray.from_arrays(
        [0, 2**31 - 1], pyarrow.nulls(2**31 - 1))})),
    "fixed.arrow": lambda: arrow_of(pyarrow.table({"text": pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.nulls(2**31 - 2), 2**30 - 1)})),
    "views.arrow": lambda: views(),
    "runs.arrow": lambda: arrow_of(pyarrow.table({"text": pyarrow.RunEndEncodedArray.from_arrays(
        pyarrow.array([2**31 - 1], "int32"), ["x"])})),
    "pickle.npy": lambda: b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (9,), }".ljust(128) + b"\n",
    "pickle.pkl": lambda: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
}  # fmt: skip
READ = {"one line.txt", "headers.tar.gz", "many texts.parquet", "number.jsonl", "row.xlsx", "dimension.xlsx"}
"""Not refused: there is nothing wrong, or it is read within the bounds."""


def views() -> bytes:
    """Two hundred thousand views of one text of a megabyte."""
    one = pyarrow.array(["x" * 10**6], pyarrow.string_view())
    head = np.tile(np.frombuffer(one.buffers()[1], np.uint8)[:16], 200_000)
    array = pyarrow.Array.from_buffers(
        pyarrow.string_view(), 200_000, [None, pyarrow.py_buffer(head), one.buffers()[2]]
    )
    return arrow_of(pyarrow.table({"text": array}))


SLOW = ("zeros.tar.xz", "zeros.tar.bz2", "lzma.zip", "behind.tar.gz", "zeros.csv.bz2", "zeros.tar.gz", "rows.jsonl.xz")
"""Their neighbours are fast."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in BOMBS])
def test_a_bomb_takes_little_and_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    answer, memory, seconds = in_child(path, tmp_path / "cache")
    assert not answer.startswith("WRONG"), answer
    assert answer != "read" or name in READ
    assert memory < 800e6 and seconds < SECONDS
    kept = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert kept < 1e6


def test_what_packs_well_is_read(tmp_path: Path) -> None:
    zeros = b"text,label\n" + b"a good one,0\na bad one,1\n" * 5_000
    (tmp_path / "zeros.csv.gz").write_bytes(gzip.compress(zeros))
    (tmp_path / "zeros.csv.xz").write_bytes(lzma.compress(zeros, preset=9))
    (tmp_path / "zeros.zip").write_bytes(write_zip({"data/zeros.csv": zeros, "data/more.csv.gz": gzip.compress(zeros)}))
    for name in ("zeros.csv.gz", "zeros.csv.xz"):
        assert sum(map(len, load_domains(tmp_path / name).values())) == 10_000
    assert ARCHIVE_HEADER_BYTES > 2**16


PICTURES = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "ICO",
    "ICNS",
    "QOI",
    "PCX",
    "SGI",
    "DDS",
    "TGA",
)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Sound files of every kind: an ending and a content."""
    texts = {"text": [f"text {n}" for n in range(20)], "label": list("ab" * 10)}
    table = pyarrow.table(texts)
    for kind in PICTURES:
        if kind in openable():
            yield ".picture", encoded(kind, **({"sizes": [(8, 8)]} if kind == "ICO" else {}))
    for options in ({"compression": "jpeg"}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}):
        yield ".picture", encoded("TIFF", **options)
    yield ".picture", encoded("JPEG", progressive=True)
    frames = [Image.new("L", (9, 9), level) for level in (1, 99)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        stream = io.BytesIO()
        (frames[0].convert("RGB") if kind == "MPO" else frames[0]).save(
            stream, kind, save_all=True, append_images=[frame.convert("RGB") for frame in frames[1:]]
        )
        yield ".picture", stream.getvalue()
    yield ".picture", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(14) + bytes(48)
    csv = "\n".join(["text,label,path", *(f'"text, {n}",a,{n}.png' for n in range(20))]).encode()
    jsonl = b"\n".join(
        json.dumps({"text": f"text {n}", "label": "ab"[n % 2], "n": [n, {"x": 1.5}]}).encode() for n in range(20)
    )
    files = {f"{'ab'[n % 2]}/{n}.png": encoded() for n in range(4)} | {"a/notes.txt": b"hello"}
    yield from ((".csv", csv), (".tsv", csv.replace(b",", b"\t")), (".txt", csv), (".jsonl", jsonl))
    yield ".json", b"[" + jsonl.replace(b"\n", b",") + b"]"
    yield from ((".csv.gz", gzip.compress(csv)), (".csv.xz", lzma.compress(csv)), (".csv.bz2", bz2.compress(csv)))
    yield ".jsonl.zst", pyarrow.compress(jsonl, "zstd", asbytes=True)
    yield from ((".xlsx", sheet_of(ROWS)), (".parquet", parquet_of(texts)), (".arrow", arrow_of(table)))
    nested = {"text": [["a"], ["b", "c"]] * 10, "image": [{"bytes": encoded(), "path": "x"}] * 20}
    yield ".parquet", parquet_of(nested)
    yield (
        ".arrow",
        arrow_of(pyarrow.table({"text": pyarrow.array(list("abcde") * 4).dictionary_encode(), "more": nested["text"]})),
    )
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield ".zip", write_zip(files, method)
    yield ".zip", write_zip({"train.csv": csv, "test.csv.gz": gzip.compress(csv)})
    for name, pack in (
        (".tar", bytes),
        (".tar.gz", gzip.compress),
        (".tar.xz", lzma.compress),
        (".tar.bz2", bz2.compress),
    ):
        yield name, pack(write_tar(files))
    yield (
        ".yaml",
        b"data: x\nsource: [a, b]\nlr: 1e-3\nsteps: 7\ntuning: lora(r=8)\nalignment: 'mmd:0.5+mcc'\nmore: &a {b: *c}\n",
    )


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: flipped, cut, doubled, swapped, or a number made huge."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not made:
            break
        at, how = rng.randrange(len(made)), rng.randrange(8)
        near = min(at, 64) if rng.random() < 0.5 else at  # headers decide more
        if how <= 2:
            made[near] ^= 1 << rng.randrange(8)
        elif how == 3:
            del made[at:]
        elif how == 4:
            made[near : near + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
        elif how == 5:
            made[near : near + 1] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 9)))
        elif how == 6:
            made[near:near] = made[at : at + rng.randint(1, 99)] * rng.choice([1, 1, 50])
        else:
            made[near] = rng.choice(b"9\"',\n\r\0{[<&*!")
    return bytes(made)


def fuzz(tmp_path: Path, first: int, count: int) -> None:
    sound = list(seeds())
    wrong = {}
    for case in range(first, first + count):
        ending, data = sound[case % len(sound)]
        path = tmp_path / f"case{ending}"
        path.write_bytes(mutated(data, random.Random(case)))
        answer, memory, _ = in_child(path, tmp_path / "cache")
        if answer.startswith("WRONG") or memory > MORE_MEMORY:
            wrong[case] = (ending, memory, answer)
    assert not wrong


def test_sound_files_are_read(tmp_path: Path) -> None:
    for place, (ending, data) in enumerate(seeds()):
        if ending in (".yaml", ".txt"):
            continue
        (tmp_path / f"s{place}{ending}").write_bytes(data)
        if ending == ".picture":
            assert decode(tmp_path / f"s{place}{ending}").mode == "RGB"
        else:
            assert not in_child(tmp_path / f"s{place}{ending}", tmp_path / "cache")[0].startswith("WRONG")


def test_any_file_is_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, 0, 200)


@pytest.mark.slow
def test_any_of_many_files_is_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, 1_000, 3_000)
