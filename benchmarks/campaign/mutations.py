"""Hostile content, made by a seeded generator: bytes, JSON, YAML, archives, pictures, tables, names and words."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Made = tuple[str, bytes, int | None]
"""A file's name, its content, and how many examples it has where that is known."""
NAMES = [
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    "+1+1",
    "-2+3",
    "\t=1+1",
    "<script>alert(1)</script>",
    "<b>bold</b>",
    "&amp;",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "a\rb",
    "a\nb",
    "\u202egnp.exe",
    "a\u2066b\u2069",
    "x" * 255,
    "x" * 4000,
    "",
    " ",
    "  lead",
    "trail  ",
    "NaN",
    "None",
    "null",
    "true",
    "0",
    "1e5",
    "-",
    "--",
    "..",
    ".",
    "a/b",
    "a\\b",
    "a:b",
    "a,b",
    'a"b',
    "a'b",
    "a;b",
    "a|b",
    "a`b",
    "$(touch mark)",
    "%s%n",
    "{x}",
    "[a](http://x)",
    "![a](http://x)",
    "|a|b|",
    "\u00e9",
    "e\u0301",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u200b",
    "a\u200bb",
    "\ufeffa",
    "\ufffe",
    "\x7f",
    "\x80",
    "\u2028",
    "\ud800",
    "train",
    "test",
    "val",
    "unlabeled",
    "_unlabeled",
    "con",
    "nul",
    "desktop.ini",
    ".hidden",
    "~",
    "~root",
    "-rf",
    "*",
    "?",
    "http://a/b",
    "\u0430dmin",
    "\uff1d1+1",
    "a\x00b",
]
"""Names of classes, domains, columns and files."""
NUMBERS = [
    "0",
    "-1",
    "-0",
    "1e309",
    "-1e309",
    "nan",
    "inf",
    "1e-320",
    "9" * 400,
    "9" * 5000,
    "1_000",
    "0x10",
    "1e5",
    "1.5",
]
NUMBERS += [
    "\uff11\uff12",
    "\u0661",
    " 1 ",
    "1,5",
    "1e400",
    "2**31",
    "2147483648",
    "9223372036854775808",
    "--1",
    "+1",
    "1e",
]
WORDS = [
    *NUMBERS,
    *NAMES,
    "x" * 100_000,
    "a" * 60 + "!",
    "(",
    "[",
    "(a+)+$",
    "(?P<",
    "\\",
    "*" * 50,
    "lora:last:99999999",
]
WORDS += ["lora:r=0", "lora:r=1000000000", "last:-1", "last:0", "mmd:1e400", "mmd:-1", "mmd:nan", "mmd+" * 500 + "mmd"]
WORDS += [
    "/etc/passwd",
    "/dev/zero",
    "/dev/null",
    "/proc/self/mem",
    "file:///etc/passwd",
    "timm:../../x",
    "hf:../x",
    "a=b=c",
]
WORDS += ["packaged:", "packaged:../x", "timm:" + "a" * 5000, "hf:" + "a/" * 300, "NAME=PATH", "=", "=x", "x=", "auto"]
PLAIN = ["head", "last:1", "lora", "full", "none", "mmd", "dann", "light", "auto", "linear", "probe", "sgd", "fp32"]
PLAIN += [
    "0",
    "1",
    "2",
    "3",
    "8",
    "0.1",
    "0.5",
    "1e-3",
    "day",
    "dusk",
    "films",
    "books",
    "day,dusk",
    "ema",
    "8,16",
    "true",
]
"""Values that are right for some flag."""
VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    65536,
    2**31,
    2**63,
    10**30,
    10**400,
    1e308,
    -1e308,
    1e-320,
    0.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "0",
    "none",
    "x" * 300,
    "x" * 100_000,
    "../../x",
    "/etc/passwd",
    "\x00",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "a\nb",
    "NaN",
    "(a+)+$",
    [],
    {},
    [[]],
    [None],
    [1, 2, 3],
    ["a", "a"],
    {"a": 1},
    {"": ""},
    list(range(3000)),
    {str(k): k for k in range(3000)},
    ["x" * 50] * 3000,
]


# --- bytes ---


def scramble(content: bytes, rng: random.Random, head: int = 96) -> bytes:
    """A few accidents to bytes, the beginning hit more often than the rest.

    Args:
        content: Not empty.
        rng: Where and what.
        head: Bytes of the beginning.
    """
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        size = len(data)
        if not size:
            break
        place = rng.randrange(min(size, head)) if rng.random() < 0.6 else rng.randrange(size)
        kind = rng.randrange(8)
        if kind < 2:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[place] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
        elif kind == 3:  # a size that is huge
            width = rng.choice((2, 4, 8))
            number = rng.choice((0, 1, (1 << 8 * width) - 1, (1 << (8 * width - 1)) - 1, 1 << (8 * width - 2)))
            data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 4:
            del data[place : place + rng.choice((1, 4, 100))]
        elif kind == 5:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
        elif kind == 6:
            other = rng.randrange(size)
            data[place : place + 16] = data[other : other + 16]
        else:
            del data[max(1, rng.randrange(size)) :]
    return bytes(data)


# --- JSON and YAML ---


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, one in value.items():
            found += _places(one, (*path, key))
    elif isinstance(value, list):
        for place, one in enumerate(value[:20]):
            found += _places(one, (*path, place))
    return found


def mutate(value: Any, rng: random.Random) -> Any:
    """JSON content in which something is other than it was.

    Args:
        value: As loaded; changed in a copy.
        rng: Where and what.
    """
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(value)
        if not places:
            return rng.choice(VALUES)
        *above, last = rng.choice(places)
        holder = value
        for key in above:
            holder = holder[key]
        kind = rng.randrange(10)
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(NAMES)] = rng.choice(VALUES)
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(NAMES)] = holder.pop(last)
        elif kind == 3 and isinstance(holder[last], int | float):
            with_number = holder[last]
            holder[last] = rng.choice(
                (-with_number, with_number * 1000, with_number + 1, with_number / 3, str(with_number))
            )
        elif kind == 4 and isinstance(holder[last], str):
            holder[last] = rng.choice(
                (holder[last].upper(), holder[last] + rng.choice(NAMES), holder[last][:-1], [holder[last]])
            )
        else:
            holder[last] = rng.choice(VALUES)
    return value


def json_text(value: Any, rng: random.Random) -> bytes:
    """A mutation of JSON content as text, at times with what only text can have.

    Args:
        value: As loaded.
        rng: What happens.
    """
    kind = rng.randrange(24)
    good = json.dumps(value)
    depth = rng.choice((60, 500, 5000, 100_000))
    special = {
        0: lambda: b"[" * depth + b"]" * depth,
        1: lambda: b'{"a":' * depth + b"1" + b"}" * depth,
        2: lambda: scramble(good.encode(), rng, len(good)),
        3: lambda: good[:-1].encode() + b"," + good[1:].encode(),  # every key twice
        4: lambda: codecs_of(good, rng),
        5: lambda: good.replace('"', "'").encode(),
        6: lambda: good[:-1].encode() + b', "big": ' + b"9" * rng.choice((4000, 5000, 100_000)) + b"}",
        7: lambda: good[:-1].encode() + b', "pad": "' + b"x" * rng.choice((10_000, 9_000_000)) + b'"}',
        8: lambda: good[:-1].encode() + b', "many": [' + b"0," * rng.choice((10_000, 2_000_000)) + b"0]}",
    }
    if kind in special and (kind == 2 or isinstance(value, dict)):
        return special[kind]()
    return json.dumps(mutate(value, rng), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def codecs_of(text: str, rng: random.Random) -> bytes:
    """A text in some encoding or another."""
    name = rng.choice(("utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp037"))
    return text.encode(name, "replace")


def yaml_text(fields: dict[str, Any], rng: random.Random) -> bytes:
    """A mutation of a recipe.

    Args:
        fields: Of a good one.
        rng: What happens.
    """
    import yaml

    good = yaml.safe_dump(fields, sort_keys=False)
    key = rng.choice(list(fields))
    depth, many = rng.choice((20, 200, 5000)), rng.choice((1000, 30_000, 300_000))
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    special: list[Callable[[], str]] = [
        lambda: bomb,
        lambda: good + f"source: *{key}\n",
        lambda: f"source: &s [*s]\n{good}",
        lambda: f"{good}tuning: &t {{a: *t}}\n",
        lambda: bomb + f"{key}: *i\n",
        lambda: f"{good}label: !!python/object/apply:os.system ['touch $CAMPAIGN_MARK']\n",
        lambda: "!!python/object/new:type {}\n",
        lambda: f"{good}<<: {{seed: 3}}\n",
        lambda: f"{good}? [a, b]\n: c\n",
        lambda: f"{good}---\n{good}",
        lambda: f"{good}{key}: 1\n",
        lambda: "[" * depth + "]" * depth,
        lambda: "".join(f"{' ' * level}a:\n" for level in range(min(depth, 400))),
        lambda: f"{good}source: [{'a,' * many}a]\n",
        lambda: f"{good}backbone: {'x' * many}\n",
        lambda: "".join(f"k{k}: 1\n" for k in range(min(many, 30_000))),
        lambda: good.replace(" ", "\t"),
        lambda: good + "# " + "x" * many,
        lambda: f"{good}epochs: {rng.choice(('.inf', '.nan', '1e400', '190:20:30', '0o17', '1_0', '2001-01-01'))}\n",
        lambda: f"{good}lr: !!binary aGVsbG8=\n",
        lambda: f"{good}source: !!set {{a, b}}\n",
        lambda: f"{good}seed: {'9' * rng.choice((20, 400, 5000))}\n",
        lambda: rng.choice(NAMES),
        lambda: "",
    ]
    if rng.random() < 0.45:
        return rng.choice(special)().encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        return scramble(good.encode(), rng, len(good))
    fields = dict(fields)
    for _ in range(rng.choice((1, 2))):
        value = rng.choice(VALUES)
        fields[rng.choice((key, key, rng.choice(NAMES)))] = rng.choice((value, rng.choice(WORDS)))
    try:
        return yaml.safe_dump(fields, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (ValueError, yaml.YAMLError):
        return json.dumps(fields).encode()


# --- pictures ---


def small_picture(seed: int, side: int = 12) -> Any:
    """A noisy picture."""
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def png(seed: int = 0) -> bytes:
    """A noisy PNG."""
    out = io.BytesIO()
    small_picture(seed).save(out, "PNG")
    return out.getvalue()


def every_format() -> dict[str, bytes]:
    """A picture in every format and mode that Pillow writes, by file name."""
    from PIL import Image

    Image.init()
    endings: dict[str, str] = {}
    for ending, name in Image.EXTENSION.items():
        endings.setdefault(name, ending)
    endings |= {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "PNG": ".png", "MPO": ".mpo"}
    found = {}
    options: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in Image.SAVE]
    options += [("TIFF", {"compression": kind}) for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4")]
    options += [("JPEG", {"progressive": True}), ("WEBP", {"lossless": True}), ("TGA", {"compression": "tga_rle"})]
    plain = small_picture(0, 32)
    for number, (name, more) in enumerate(options):
        for mode in ("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK", "F"):
            out = io.BytesIO()
            try:
                image = plain.convert("I").convert("I;16") if mode == "I;16" else plain.convert(mode)
                image.save(out, name, **more)
            except Exception:  # noqa: S112  this format has no such mode
                continue
            found[f"{name.lower()}-{mode.replace(';', '')}-{number}{endings.get(name, '.png')}"] = out.getvalue()
    frames = [small_picture(seed, 32) for seed in range(4)]
    for name, ending in (("GIF", ".gif"), ("WEBP", ".webp"), ("TIFF", ".tif"), ("PNG", ".png")):
        out = io.BytesIO()
        frames[0].save(out, name, save_all=True, append_images=frames[1:])
        found[f"frames-{name.lower()}{ending}"] = out.getvalue()
    return found


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def picture_traps(rng: random.Random) -> list[tuple[str, bytes]]:
    """Pictures that are something else, or much larger than they look."""
    head = b"\x89PNG\r\n\x1a\n"
    whole = png()

    def made(width: int, height: int, depth: int = 8, kind: int = 2, rows: bytes = b"", more: bytes = b"") -> bytes:
        ihdr = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
        return head + chunk(b"IHDR", ihdr) + more + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")

    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(mark) (w) file\nshowpage\n%%EOF\n"
    wmf = b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x64\0\x64\0\x60\0\0\0\0\0\0\0" + b"\1\0\x09\0\0\x03" + bytes(40)
    big = zlib.compress(bytes(60_000_000), 9)
    side = rng.choice((20_000, 50_000, 100_000, 2**31 - 1))
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf0\0\0" + bytes(6)
    gif += b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0" + (b",\0\0\0\0\1\0\1\0\0\2\2D\1\0" * rng.choice((1, 20_000))) + b";"
    bmp = (
        b"BM"
        + struct.pack("<IHHI", 60, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    rle = b"BM" + struct.pack("<IHHI", 60, 0, 0, 1078)
    rle += struct.pack("<IiiHHIIiiII", 40, 9000, 9000, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(1024) + b"\xff\x01" * 200
    psd = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(12) + b"\0\1"
    ppm = b"P6 %d %d 255\n" % (side, side)
    text = b"P3 2000 2000 255\n" + b"1 " * 10
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + bytes(24)
    loop = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 256, 4, 1, 10) + struct.pack("<I", 8)
    qoi = b"qoif" + struct.pack(">IIBB", 50_000, 50_000, 3, 0) + b"\xfd" * 3000 + bytes(7) + b"\1"
    pcx = b"\n\5\1\x08" + struct.pack("<HHHH", 0, 0, 65534, 65534) + bytes(116)
    tga = struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65535, 65535, 24, 0) + b"\xff\0\0\0" * 300
    sgi = struct.pack(">HBBHHHH", 474, 1, 1, 3, 65535, 65535, 3) + bytes(500)
    dds = b"DDS " + struct.pack("<IIII", 124, 0x1007, 65535, 65535) + bytes(108)
    ico = b"\0\0\1\0" + struct.pack("<H", 60_000) + b"\0\0\0\0\1\0\x20\0" + struct.pack("<II", len(whole), 22) + whole
    icns = b"icns" + struct.pack(">I", 2**31) + b"ic10" + struct.pack(">I", 8 + len(whole)) + whole
    jp2 = (
        b"\xff\x4f\xff\x51\0\x2f\0\0"
        + struct.pack(">IIIIIIII", 60_000, 60_000, 0, 0, 1, 1, 0, 0)
        + b"\0\3"
        + b"\7\1\1" * 3
    )
    fits = b"".join(
        card.ljust(80)
        for card in (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 60000", b"NAXIS2  = 60000", b"END")
    )
    jpeg = io.BytesIO()
    small_picture(1, 64).save(jpeg, "JPEG", progressive=True)
    scans = jpeg.getvalue()
    at = scans.rfind(b"\xff\xda")
    return [
        ("eps.png", eps),
        ("eps.jpg", eps),
        ("eps.eps", eps),
        ("eps.gif", b"\xc5\xd0\xd3\xc6" + bytes(26) + eps),
        ("wmf.png", wmf),
        ("wmf.wmf", wmf),
        ("pdf.png", b"%PDF-1.4\n" + bytes(50)),
        ("html.png", b"<html><script>x</script>"),
        ("svg.png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
        ("zip.png", whole + zipped([("a.png", whole)])),
        ("script.png", b"#!/bin/sh\ntouch $CAMPAIGN_MARK\n"),
        ("huge.png", made(side, side)),
        ("long.png", made(1, 2**31 - 1)),
        ("wide.png", made(2**31 - 1, 1)),
        ("none.png", made(0, 0)),
        ("bomb.png", made(10_000, 10_000, 8, 0, bytes(10_001 * 10_000))),
        ("depth.png", made(30_000, 30_000, 1, 0, bytes(2000))),
        ("ztxt.png", head + whole[8:33] + chunk(b"zTXt", b"a\0\0" + big) + whole[33:]),
        ("iccp.png", head + whole[8:33] + chunk(b"iCCP", b"a\0\0" + big) + whole[33:]),
        ("itxt.png", head + whole[8:33] + chunk(b"iTXt", b"a\0\1\0\0\0" + big) + whole[33:]),
        ("chunks.png", head + whole[8:33] + chunk(b"tEXt", b"a\0b") * 100_000 + whole[33:]),
        ("apng.png", head + whole[8:33] + chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + whole[33:]),
        ("gif.gif", gif),
        ("bmp.bmp", bmp),
        ("rle.bmp", rle),
        ("psd.psd", psd),
        ("ppm.ppm", ppm),
        ("text.ppm", text),
        ("tags.tif", tiff),
        ("loop.tif", loop),
        ("qoi.qoi", qoi),
        ("pcx.pcx", pcx),
        ("tga.tga", tga),
        ("sgi.sgi", sgi),
        ("dds.dds", dds),
        ("ico.ico", ico),
        ("icns.icns", icns),
        ("jp2.jp2", jp2),
        ("fits.png", fits),
        ("fits.fits", fits),
        ("scans.jpg", scans[:at] + scans[at:-2] * rng.choice((50, 2000)) + b"\xff\xd9"),
        ("empty.png", b""),
        ("zero.png", bytes(100_000)),
        ("lfs.png", b"version https://git-lfs.github.com/spec/v1\noid"),
        ("xpm.xpm", b'/* XPM */\nstatic char *x[]={"60000 60000 2 1","a c #000000","b c #ffffff",'),
        ("xbm.xbm", b"#define x_width 60000\n#define x_height 60000\nstatic char x_bits[]={0x00};"),
    ]


# --- archives ---


def members() -> list[tuple[str, bytes]]:
    """Six pictures in two classes."""
    return [(f"{label}/{k}.png", png(10 * place + k)) for place, label in enumerate("ab") for k in range(3)]


def zipped(content: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED, **fields: Any) -> bytes:
    """A zip archive; fields are of each entry's ``ZipInfo``."""
    import warnings

    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, data in content:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = method
            for key, value in fields.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return out.getvalue()


def tarred(content: list[tuple[str, bytes | dict[str, Any]]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive; in place of bytes stand the fields of a member without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for name, data in content:
            info = tarfile.TarInfo(name)
            if isinstance(data, dict):
                for key, value in data.items():
                    setattr(info, key, value)
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": lambda data: gzip.compress(data, mtime=0),
    ".tgz": lambda data: gzip.compress(data, mtime=0),
    ".tar.xz": lzma.compress,
    ".tar.bz2": bz2.compress,
    ".tar.zst": lambda data: _zstd(data),
}


def _zstd(data: bytes) -> bytes:
    import pyarrow

    return bytes(pyarrow.compress(data, "zstd", asbytes=True))


def bad_paths(rng: random.Random, outside: str) -> str:
    """A member's name that hopes to land elsewhere, or that a file system may stumble over."""
    return rng.choice(
        [
            "../outside/victim.txt",
            "../../outside/victim.txt",
            "a/../../outside/victim.txt",
            f"{outside}/victim.txt",
            "..\\outside\\victim.txt",
            "C:\\outside\\x.png",
            "C:x.png",
            "//host/share/x.png",
            "a/..",
            "..",
            ".",
            "",
            "/",
            "./a/9.png",
            "a//9.png",
            "a/./9.png",
            "a/" + "x" * 300 + ".png",
            "a/" * 200 + "9.png",
            "x" * 5000 + ".png",
            "a/0.png/9.png",
            "a",
            "a/CON.png",
            "a/9.png ",
            "a/9.png.",
            "A/0.PNG",
            "a/\u00e9.png",
            "a/e\u0301.png",
            "~/x.png",
            "-rf/x.png",
            "a/\udcff.png",
            *(f"a/{name}.png" for name in NAMES),
            *(f"{name}/9.png" for name in NAMES),
        ]
    )


def archive(rng: random.Random, outside: str) -> tuple[str, bytes, int | None, str]:
    """One hostile archive: name, content, examples where they are known, and what is wrong with it.

    Args:
        rng: Decides.
        outside: A folder that must stay as it is.
    """
    plain = members()
    kind = rng.randrange(14)
    packed = rng.choice(list(PACKERS))
    pack = PACKERS[packed]
    if kind < 4:
        if rng.random() < 0.5:
            return "x.zip", scramble(zipped(plain), rng, 10_000), None, "scrambled zip"
        return f"x{packed}", scramble(pack(tarred(plain)), rng, 600), None, "scrambled tar"
    if kind == 4:
        content = bytearray(tarred(plain))
        header = 1024 * rng.randrange(2)
        content[header : header + 512] = scramble(bytes(content[header : header + 512]), rng, 512)[:512].ljust(
            512, b"\0"
        )
        total = sum(content[header : header + 148]) + 8 * 32 + sum(content[header + 156 : header + 512])
        content[header + 148 : header + 156] = b"%06o\0 " % (total & 0o777777)
        return f"x{packed}", pack(bytes(content)), None, "tar header with its sum"
    if kind < 7:
        name = bad_paths(rng, outside)
        extra = [(name, png(99))]
        order = [*plain, *extra] if rng.random() < 0.5 else [*extra, *plain]
        try:
            if rng.random() < 0.5:
                return "x.zip", zipped(order), None, f"zip member {name[:40]!r}"
            return f"x{packed}", pack(tarred(order)), None, f"tar member {name[:40]!r}"
        except (UnicodeError, ValueError, OSError, struct.error):
            return "x.zip", zipped(plain), 6, "plain"
    if kind == 7:
        again = [(plain[0][0], png(77))]
        if rng.random() < 0.5:
            return "x.zip", zipped([*plain, *again]), 7, "zip member twice"
        return f"x{packed}", pack(tarred([*plain, *again])), 7, "tar member twice"
    if kind == 8:
        link = rng.choice(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE, b"S", b"V", b"Z")
        )
        to = rng.choice(
            (f"{outside}/victim.txt", "../outside/victim.txt", "a/0.png", outside, "a/9.png", "/etc/passwd", ".")
        )
        name = rng.choice(("a/9.png", "c", "b"))
        fields = {"type": link, "linkname": to, "devmajor": 1, "devminor": 5}
        order = [*plain, (name, fields), (f"{name}/8.png", png(3))]
        return f"x{packed}", pack(tarred(order)), None, f"tar {link!r} to {to}"
    if kind == 9:
        mode = rng.choice((0o120777, 0o010644, 0o020644, 0o060644, 0o140644)) << 16
        data = zipped(plain) if rng.random() < 0.3 else zipped([*plain, ("a/9.png", f"{outside}/victim.txt".encode())])
        linked = zipped([("a/9.png", f"{outside}/victim.txt".encode())], external_attr=mode, create_system=3)
        return "x.zip", rng.choice((linked, data)), None, "zip link or device"
    if kind == 10:
        data = bytearray(
            zipped(plain, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
        )
        first, central = data.find(b"PK\3\4"), data.find(b"PK\1\2")
        field, size = rng.choice(((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2)))
        number = rng.choice((0, 1, 99, 0xFFFF, 2**31 - 1, 2**32 - 1, 8, 9, 12, 14)) & ((1 << 8 * size) - 1)
        for start in rng.choice(((first,), (central,), (first, central))):
            at = start + field + (2 if start == central else 0)
            data[at : at + size] = number.to_bytes(size, "little")
        return "x.zip", bytes(data), None, f"zip field {field} is {number}"
    if kind == 11:
        zeros = bytes(rng.choice((2_000_000, 30_000_000, 150_000_000)))
        bomb = [*plain, ("a/zeros.bin", zeros)]
        which = rng.randrange(3)
        if which == 0:
            return "x.zip", zipped(bomb), None, f"zip of {len(zeros):,} zeros"
        if which == 1:
            behind = tarred(plain) + zeros
            return f"x{packed}", pack(behind), None, f"{len(zeros):,} zeros behind the tar"
        return f"x{packed}", pack(tarred(bomb)), None, f"tar of {len(zeros):,} zeros"
    if kind == 12:
        which = rng.randrange(5)
        if which == 0:
            many = [(f"a/{k}.txt", b"") for k in range(5_000)]
            return "x.zip", zipped([*plain, *many], zipfile.ZIP_STORED), None, "zip of 5,000 empty files"
        if which == 1:
            fields = {"pax_headers": {"comment": "x" * 5_000_000}, "size": 0}
            return f"x{packed}", pack(tarred([("a/9.txt", fields), *plain])), None, "tar with a huge header"
        if which == 2:
            fields = {
                "pax_headers": {rng.choice(("size", "path", "GNU.sparse.realsize", "mtime")): "9" * 30},
                "size": 0,
            }
            return f"x{packed}", pack(tarred([("a/9.png", fields), *plain])), None, "tar with odd headers"
        if which == 3:
            return "x.tar.xz", _wide_xz(tarred(plain)), None, "xz with a dictionary of 4 GB"
        inner = zipped(plain)
        return "x.zip", zipped([("a/inner.zip", inner), *plain]), 6, "zip in a zip"
    name, data = rng.choice(
        (("x.zip", pack(tarred(plain))), (f"x{packed}", zipped(plain)), ("x.tar.gz", b"\x1f\x8b"), ("x.zip", b""))
    )
    return name, data, None, "another kind than its name says"


def _wide_xz(data: bytes) -> bytes:
    """An xz stream whose header asks for the largest dictionary."""
    content = bytearray(lzma.compress(data))
    size = 4 * (content[12] + 1)
    block = content[12 : 12 + size - 4]
    at = block.find(b"\x21\x01")
    block[at + 2] = 40
    content[12 : 12 + size] = block + struct.pack("<I", zlib.crc32(block))
    return bytes(content)


# --- tables ---


def table(rng: random.Random) -> tuple[str, bytes, int | None, str]:
    """One hostile table of texts: name, content, rows where they are known, and what is odd about it."""
    count = rng.choice((4, 8, 20))
    rows: list[dict[str, Any]] = [
        {"text": f"row {k} is {'good' if k % 2 else 'bad'}", "label": "good" if k % 2 else "bad"} for k in range(count)
    ]
    odd = "plain"
    if rng.random() < 0.55:
        place, key = rng.randrange(count), rng.choice(("text", "label"))
        value = rng.choice(NAMES if rng.random() < 0.7 else WORDS)
        rows[place][key] = value
        odd = f"{key} {value[:30]!r}"
    if rng.random() < 0.15:
        key = rng.choice(NAMES)
        rows = [row | {key: "x"} for row in rows]
        odd += f", column {key[:30]!r}"
    form = rng.choice(("csv", "csv", "tsv", "json", "jsonl", "xlsx", "parquet", "arrow"))
    try:
        data = write_table(rows, form, rng)
    except Exception:
        form, odd = "json", f"{odd} (as JSON)"
        data = json.dumps(rows).encode()
    name = f"x.{form}"
    known: int | None = count
    if rng.random() < 0.45:
        data, known, odd = scramble(data, rng, max(200, len(data) // 4)), None, f"{odd}, scrambled"
    if rng.random() < 0.2:
        ending = rng.choice((".gz", ".xz", ".bz2", ".zst", ".zip"))
        data = zipped([(name, data)]) if ending == ".zip" else PACKERS[f".tar{ending}"](data)
        name += ending
        if rng.random() < 0.4:
            data, known, odd = scramble(data, rng), None, f"{odd}, packed and scrambled"
    return name, data, known, odd


def write_table(rows: list[dict[str, Any]], form: str, rng: random.Random) -> bytes:
    """Rows as a file of some form."""
    names = list(rows[0])
    if form in ("csv", "tsv"):
        out = io.StringIO()
        writer = csv.writer(
            out, delimiter="\t" if form == "tsv" else rng.choice(",,,;"), lineterminator=rng.choice(("\n", "\r\n"))
        )
        writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in rows)
        text = out.getvalue()
        return codecs_of(text, rng) if rng.random() < 0.15 else text.encode("utf-8", "surrogatepass")
    if form == "json":
        return json.dumps(rows, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    out_bytes = io.BytesIO()
    if form == "xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        book.active.append(names)
        for row in rows:
            book.active.append([row[name] for name in names])
        book.save(out_bytes)
        return out_bytes.getvalue()
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet

    frame = pyarrow.table({name: [row[name] for row in rows] for name in names})
    if form == "parquet":
        pyarrow.parquet.write_table(frame, out_bytes, compression=rng.choice(("none", "snappy", "zstd", "gzip")))
    else:
        pyarrow.feather.write_feather(frame, out_bytes, compression=rng.choice(("uncompressed", "lz4", "zstd")))
    return out_bytes.getvalue()


def table_traps(rng: random.Random) -> list[tuple[str, bytes, int | None, str]]:
    """Tables that are bombs, or that are odd as a whole."""
    good = "text,label\n" + "".join(f"row {k},{'a' if k % 2 else 'b'}\n" for k in range(8))
    rows = [{"text": f"row {k}", "label": "a" if k % 2 else "b"} for k in range(8)]
    depth = rng.choice((100, 2000, 100_000))
    zeros, wide = bytes(rng.choice((5_000_000, 200_000_000))), rng.choice((2000, 100_000))
    laughs = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    sheet = write_table(rows, "xlsx", rng)

    def with_part(part: str, content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(sheet)) as book:
            parts = [(name, content if name == part else book.read(name)) for name in book.namelist()]
        return zipped(parts)

    with zipfile.ZipFile(io.BytesIO(sheet)) as book:
        main = book.read("xl/worksheets/sheet1.xml")
    far = (
        main.replace(b'ref="A1:B9"', b'ref="A1:XFD1048576"')
        .replace(b'r="B9"', b'r="XFD1048576"')
        .replace(b'r="9"', b'r="1048576"')
    )
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    path_rows = [
        ("../outside/secret.png", "a"),
        ("in.png", "b"),
        ("$OUTSIDE/secret.png", "a"),
        ("link.png", "a"),
        ("sub/../../outside/secret.png", "b"),
        ("~/secret.png", "a"),
        ("file://$OUTSIDE/secret.png", "a"),
        ("in.png\x00", "b"),
        ("/dev/zero.png", "a"),
        ("..\\outside\\secret.png", "b"),
    ]
    chosen = rng.choice(path_rows)
    paths = "path,label\n" + "".join(f"{path},{label}\n" for path, label in [("in.png", "a"), chosen, ("in2.png", "b")])
    path_table = [{"path": path, "label": label} for path, label in [("in.png", "a"), chosen, ("in2.png", "b")]]
    return [
        ("x.csv.gz", gzip.compress(zeros), None, "zeros"),
        ("x.csv.xz", lzma.compress(zeros), None, "zeros"),
        ("x.csv.bz2", bz2.compress(zeros), None, "zeros"),
        ("x.csv.zip", zipped([("x.csv", zeros)]), None, "zeros"),
        ("x.csv.zst", _zstd(zeros), None, "zeros"),
        ("x.csv.xz", _wide_xz(good.encode()), None, "xz of 4 GB"),
        ("x.jsonl.gz", gzip.compress(b'{"text":"a","label":"b"}\n' * 500_000), None, "500,000 rows"),
        ("x.csv", b"text,label\n" + b"x" * 20_000_000 + b",a\ny,b\n", None, "a long cell"),
        ("x.csv", b"text,label\n" + b'"' + good.encode() * 10, None, "a lone quote"),
        (
            "x.csv",
            (",".join(f"c{k}" for k in range(wide)) + "\n" + ",".join("1" * wide) + "\n").encode(),
            None,
            "many columns",
        ),
        ("x.csv", good.replace("row 3,", "row, 3,").encode(), None, "a comma too many"),
        ("x.csv", good.encode() + b"\0" * 50, None, "zeros at the end"),
        ("x.csv", b"\n" * 500_000, None, "empty lines"),
        ("x.csv", b"text,label\r" + b"a,b\r" * 6, 6, "lines of old"),
        ("x.csv", b"text,label", 0, "no rows"),
        ("x.csv", b"text,text,label\na,b,c\nd,e,f\n", None, "a heading twice"),
        ("x.csv", b"", 0, "empty"),
        ("x.json", b"[" * depth + b"]" * depth, None, "deep"),
        ("x.json", b'{"a":' * depth + b"1" + b"}" * depth, None, "deep"),
        ("x.json", b'[{"text": ' + b"9" * 5000 + b', "label": "a"}]', None, "a long number"),
        ("x.json", b'[{"text": "a", "label": NaN}, {"text": "b", "label": 1e999}]', None, "no numbers"),
        ("x.json", b'[{"text": "a", "label": "x", "label": "y"}]', None, "a key twice"),
        ("x.jsonl", b'{"text":"a","label":"b"}\n' * 4 + b"[" * depth + b"\n", None, "a deep line"),
        (
            "x.jsonl",
            b'{"text":"a","label":"b"}\n' * 4 + b'{"text":"a","label":' + b"9" * 5000 + b"}\n",
            None,
            "a long number",
        ),
        ("x.jsonl", b'{"text":"\\ud800","label":"b"}\n{"text":"c","label":"a"}\n', None, "half a character"),
        ("x.xlsx", with_part("xl/worksheets/sheet1.xml", laughs.encode() + b"]><x>&i;</x>"), None, "entities"),
        ("x.xlsx", with_part("xl/workbook.xml", laughs.encode() + b"]><x>&i;</x>"), None, "entities"),
        ("x.xlsx", with_part("xl/worksheets/sheet1.xml", far), None, "a cell far away"),
        ("x.xlsx", with_part("xl/worksheets/sheet1.xml", zeros[:100_000_000]), None, "zeros"),
        ("x.xlsx", with_part("[Content_Types].xml", b""), None, "without types"),
        ("x.xlsx", zipped([]), None, "an empty zip"),
        ("x.npy", pickled.getvalue(), None, "pickled"),
        ("x.npz", zipped([("a.npy", pickled.getvalue())]), None, "pickled"),
        ("x.pkl", b"cos\nsystem\n(S'touch $CAMPAIGN_MARK'\ntR.", None, "pickled"),
        ("x.parquet", b"PAR1" + b"\xff" * 100 + struct.pack("<I", 2**31 - 1) + b"PAR1", None, "no footer"),
        (
            "x.arrow",
            b"ARROW1\0\0" + struct.pack("<iI", -1, 2**31 - 16) + bytes(200) + b"ARROW1",
            None,
            "a huge message",
        ),
        ("p.csv", paths.encode(), None, f"path {chosen[0]!r}"),
        ("p.parquet", write_table(path_table, "parquet", rng), None, f"path {chosen[0]!r}"),
        ("p.jsonl", write_table(path_table, "jsonl", rng), None, f"path {chosen[0]!r}"),
    ]


# --- headers of safetensors ---


def tensors_file(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header is other than it was.

    Args:
        content: Of a good one.
        rng: What happens.
    """
    (size,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    kind = rng.randrange(12)
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry = header[name]
    if kind == 0:
        entry["shape"] = rng.choice(
            ([], [0], [-1], [2**62, 4], [2**40], [1] * 3000, [1.5], "x", [10**30], entry["shape"][::-1])
        )
    elif kind == 1:
        entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I8", "U8", "BOOL", "F8_E4M3", "X", "", None, 3))
    elif kind == 2:
        at = entry["data_offsets"]
        entry["data_offsets"] = rng.choice(
            ([at[1], at[0]], [0, 0], [at[0], at[1] + 4], [-4, at[1]], [2**63, 2**64], at * 2, [])
        )
    elif kind == 3:
        header[rng.choice(NAMES)] = header.pop(name)
    elif kind == 4:
        header[rng.choice(NAMES)] = dict(entry)
    elif kind == 5:
        return (
            struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, len(content), 2**31, 2**63, 2**64 - 1)))
            + content[8:]
        )
    elif kind == 6:
        header["__metadata__"] = rng.choice(
            ({"format": "np"}, {"a": "x" * 2_000_000}, {"a": 1}, [], None, {str(k): "v" for k in range(50_000)})
        )
    elif kind == 7:
        header |= {
            f"extra.{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for k in range(rng.choice((10, 20_000)))
        }
    elif kind == 8:
        del header[name]
    elif kind == 9:
        text = b"[" * 100_000 if rng.random() < 0.3 else json_text(header, rng)
        return struct.pack("<Q", len(text)) + text + body
    elif kind == 10:
        values = bytearray(body)
        at = 4 * rng.randrange(max(1, len(body) // 4))
        values[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, 1e-40)))
        body = bytes(values)
    else:
        return scramble(content, rng, 8 + size)
    text = json.dumps(header, allow_nan=True).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body
