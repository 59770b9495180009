"""Tables as files: CSV, TSV, JSON, Parquet, Arrow and .xlsx, also compressed. Which is which goes by the name."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.domains.arrow import read_ipc, read_parquet
from injerto.domains.compressed import COMPRESSIONS, bound_cells, read_bytes, zipped_name
from injerto.domains.headings import unique_headings
from injerto.domains.records import json_lines, json_table
from injerto.domains.separated import parse
from injerto.domains.sheets import read_sheet

KINDS = (
    ".csv",
    ".tsv",
    ".tab",
    ".txt",
    ".jsonl",
    ".ndjson",
    ".json",
    ".parquet",
    ".pq",
    ".arrow",
    ".feather",
    ".xlsx",
)
_LINES = (".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson", ".json")
_HEADINGS = frozenset(("text", "sentence", "review", "content", "label", "class", "category", "prompt", "response"))
"""Names of which a .txt file's heading holds one, so that it is a table."""


def is_table(path: Path) -> bool:
    """Whether the file name is that of a table this module reads, or a .zip whose only file is one.

    Args:
        path: The file.
    """
    return table_kind(path) in KINDS


def table_stem(path: Path) -> str:
    """The table's name without its suffixes: ``reviews`` for ``reviews.csv.gz``.

    Args:
        path: The file.
    """
    return _parts(path)[0]


def table_kind(path: Path) -> str:
    """The table's suffix without that of a compression: ``.csv`` for ``reviews.CSV.gz``.

    Args:
        path: The file.
    """
    return _parts(path)[1]


def read_table(path: Path) -> tuple[dict[str, list[Any]], Sequence[int]]:
    """Read a table into columns. Cells of CSV and TSV stay strings; nothing becomes a missing value.

    Args:
        path: A file of one of :data:`KINDS`, also compressed (:data:`injerto.domains.compressed.COMPRESSIONS`).

    Returns:
        The columns by name, and the number of each row in messages (the line where it begins, where rows are lines).

    Raises:
        InjertoError: Where the file cannot be read, decoded or parsed, or holds no row.
    """
    kind = table_kind(path)
    data = read_bytes(path)
    packed = path.stat().st_size
    if kind in _LINES and len(data) > packed:  # a bomb's rows are short
        bound_cells(path, sum(map(data.count, (b"\n", b"\r", b",", b";", b"\t", b"|"))), packed)
    columns: dict[str, list[Any]]
    numbers: Sequence[int] | None = None
    if kind in (".parquet", ".pq"):
        columns = read_parquet(path, data)
    elif kind in (".arrow", ".feather"):
        columns = read_ipc(path, data)
    elif kind == ".xlsx":
        columns, numbers = read_sheet(path, data)
    elif kind in (".jsonl", ".ndjson"):
        columns, numbers = json_lines(path, _text(path, data))
    elif kind == ".json":
        columns, numbers = json_table(path, _text(path, data))
    else:
        columns, numbers = _separated(path, _text(path, data), kind)
    count = len(next(iter(columns.values()), ()))
    if not count:
        raise InjertoError(f"{path} holds no rows; add some or name another file")
    return columns, range(1, count + 1) if numbers is None else numbers


def _parts(path: Path) -> tuple[str, str]:
    """Stem and kind, with the compression taken off."""
    suffix = path.suffix.lower()
    inner = Path(path.stem) if suffix in COMPRESSIONS else Path(path.name)
    if suffix == ".zip" and inner.suffix.lower() not in KINDS:
        kind = Path(zipped_name(path)).suffix.lower()
        return path.stem, kind if kind not in (".txt", ".json") else ""
    return inner.stem, inner.suffix.lower()


def _text(path: Path, data: bytes) -> str:
    """The file's text: UTF-8, or UTF-16 and UTF-32 with the mark that Excel's "Unicode text" begins with."""
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise InjertoError(f"{path}: not {encoding.upper()} as its first bytes say; save it as UTF-8") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise InjertoError(
            f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8 "
            "(a spreadsheet calls it 'CSV UTF-8')"
        ) from error


def _separated(path: Path, text: str, kind: str) -> tuple[dict[str, list[Any]], list[int]]:
    heading = text.lstrip().partition("\n")[0]
    parsed = parse(path, text, "\t" if kind in (".tsv", ".tab") and "\t" in heading else None)
    names = unique_headings(parsed.heading, str(path))
    if kind == ".txt" and (len(names) < 2 or not _HEADINGS & {name.lower() for name in names}):
        raise InjertoError(
            f"{path} is read as a table only with a heading such as text,label; write one and name it .csv or .tsv"
        )
    columns = {name: [row[place] for row in parsed.rows] for place, name in enumerate(names)}
    for place, name in enumerate(names):
        if name == f"Unnamed: {place}" and not any(cell.strip() for cell in columns[name]):
            del columns[name]  # an empty column, as a separator at the end of each line makes it
    return columns, parsed.lines
