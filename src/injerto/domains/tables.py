"""Tables as files: CSV, TSV, JSON lines and Parquet, also compressed with gzip or xz."""

import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError, first_line

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".xz")


def is_table(path: Path) -> bool:
    """Whether the file name is that of a table this module reads.

    Args:
        path: The file.
    """
    return _parts(path)[1] in KINDS


def table_stem(path: Path) -> str:
    """The table's name without its suffixes: ``reviews`` for ``reviews.csv.gz``.

    Args:
        path: The file.
    """
    return _parts(path)[0]


def read_table(path: Path) -> tuple[dict[str, list[Any]], int]:
    """Read a table into columns. Cells of CSV and TSV stay strings; nothing becomes a missing value.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file, also with .gz or .xz.

    Returns:
        The columns by name, and the number of the first row in messages (its line, where rows are lines).

    Raises:
        InjertoError: Where the file cannot be read, decoded (UTF-8) or parsed, or holds no row.
    """
    kind = _parts(path)[1]
    data = _bytes(path)
    if kind == ".parquet":
        columns, first = _parquet(path, data), 1
    elif kind == ".jsonl":
        columns, first = _json_lines(path, _text(path, data)), 1
    else:
        text = _text(path, data)
        columns, first = _separated(path, text, _separator(text) if kind == ".csv" else "\t"), 2
    if not columns or not len(next(iter(columns.values()))):
        raise InjertoError(f"{path} holds no rows; add some or name another file")
    return columns, first


def refuse_twice(headings: Iterable[Any], where: str) -> None:
    """Two columns of one name: which is meant cannot be told.

    Args:
        headings: Of all columns; empty ones may be many.
        where: What the message calls the table.

    Raises:
        InjertoError: Where a name comes again.
    """
    seen: set[str] = set()
    for name in (str(heading).strip() for heading in headings):
        if name and name in seen:
            raise InjertoError(f"{where} has two columns '{name}'; rename one")
        seen.add(name)


def _parts(path: Path) -> tuple[str, str]:
    """Stem and kind, with the compression taken off."""
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else Path(path.name)
    return inner.stem, inner.suffix.lower()


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            return gzip.decompress(data)
        return lzma.decompress(data) if path.suffix.lower() == ".xz" else data
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InjertoError(f"{path} is not a readable {path.suffix} file ({error}); compress it again") from error
    except OSError as error:
        raise InjertoError(
            f"cannot read {path}: {error.strerror or error}; check the file and its permissions"
        ) from error


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InjertoError(
            f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8 "
            "(a spreadsheet calls it 'CSV UTF-8')"
        ) from error


def _separator(text: str) -> str:
    """What stands between cells: a semicolon (as Spanish or German spreadsheets save), a tab or a comma.

    A heading may hold both (``Preis, EUR``): then the one counts of which every line of the first has as many as it.
    """
    lines = [line for line in text.split("\n", 21)[:20] if line.strip()]
    heading = lines[0] if lines else ""
    if "\t" in heading and not set(",;") & set(heading):
        return "\t"
    if ";" not in heading or "," not in heading:
        return ";" if ";" in heading else ","
    fits = {mark: sum(line.count(mark) == heading.count(mark) for line in lines) for mark in ",;"}
    return ";" if fits[";"] > fits[","] else ","


def _separated(path: Path, text: str, separator: str) -> dict[str, list[Any]]:
    import pandas as pd

    if not text.strip():
        return {}
    try:
        refuse_twice(next(csv.reader(io.StringIO(text), delimiter=separator)), str(path))
        frame = pd.read_csv(
            io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, na_filter=False, index_col=False
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, ValueError) as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ").splitlines()[0]
        mend = "mend that line or its quotes; cells are parted by commas, semicolons or tabs"
        raise InjertoError(f"{path} cannot be read as a table ({reason}); {mend}") from error
    return {str(column): frame[column].tolist() for column in frame.columns}


def _json_lines(path: Path, text: str) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InjertoError(f"{path}, line {number}: not JSON ({error}); write one object per line") from error
        if not isinstance(record, dict):
            raise InjertoError(f"{path}, line {number}: not a JSON object; write one object per line")
        for key in record.keys() - columns.keys():
            columns[key] = [None] * count
        for key, cells in columns.items():
            cells.append(record.get(key))
        count += 1
    return columns


def _parquet(path: Path, data: bytes) -> dict[str, list[Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise InjertoError(f"{path} is not a readable Parquet file ({first_line(error)}); write it again") from error
    return {column: table[column].to_pylist() for column in table.column_names}
