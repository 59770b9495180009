"""Spreadsheets: the first sheet of an .xlsx file that holds anything, with openpyxl."""

import io
import zipfile
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError, first_line
from injerto.basics.limits import SHEET_ROWS
from injerto.basics.progress import note
from injerto.domains.compressed import bound_cells, most_bytes, open_member
from injerto.domains.headings import unique_headings


def read_sheet(path: Path, data: bytes) -> tuple[dict[str, list[Any]], list[int]]:
    """Read the first sheet with rows; formulas by the value that was saved with them.

    Args:
        path: For messages.
        data: The file's content.

    Returns:
        The columns by name, and the row number of each row in the sheet.

    Raises:
        InjertoError: Where openpyxl is not installed, the file cannot be read, or a row is longer than the heading.
    """
    try:
        import openpyxl
    except ImportError:
        raise InjertoError(
            f"{path}: an .xlsx file needs openpyxl (pip install openpyxl); or save it as 'CSV UTF-8'"
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_parts(path, archive, most_bytes(len(data)))
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = {sheet.title: _filled(path, sheet, len(data)) for sheet in book.worksheets}
    except InjertoError:
        raise
    except Exception as error:  # openpyxl raises a zoo of types for broken files
        raise InjertoError(f"{path} is not a readable .xlsx file ({first_line(error)}); save it again") from error
    filled = [title for title, rows in sheets.items() if rows]
    if not filled:
        return {}, []
    if len(filled) > 1:
        note(f"{path.name} has {len(filled)} sheets with cells; only the first, '{filled[0]}', is read")
    (_, heading), *rows = sheets[filled[0]]
    width = len(heading)
    bound_cells(path, width * len(rows), len(data))
    for number, cells in rows:
        if len(cells) > width:
            raise InjertoError(f"{path}, row {number}: {len(cells)} cells, and the heading has {width}; correct it")
    names = unique_headings(["" if cell is None else cell for cell in heading], str(path))
    padded = [[*cells, *[None] * (width - len(cells))] for _, cells in rows]
    columns = {name: [cells[place] for cells in padded] for place, name in enumerate(names)}
    return columns, [number for number, _ in rows]


def _check_parts(path: Path, archive: zipfile.ZipFile, most: int) -> None:
    """Refuse a file that unpacks to too much, or declares entities, which could stand for more; none needs either."""
    left = most
    for member in archive.infolist():
        with open_member(archive, member) as stream:
            tail = b""
            while block := stream.read(2**20):
                left -= len(block)
                if left < 0:
                    raise InjertoError(f"{path} unpacks to more than {most:,} bytes; save it as CSV")
                plain = (tail + block).replace(b"\0", b"")  # of UTF-16, too
                if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
                    raise InjertoError(f"{path} declares XML entities, which no spreadsheet needs; save it again")
                tail = plain[-16:]


def _filled(path: Path, sheet: Any, packed: int) -> list[tuple[int, list[Any]]]:
    """Rows with any cell, without empty cells at their ends."""
    rows: list[tuple[int, list[Any]]] = []
    seen = 0
    sheet.reset_dimensions()  # which a file may give as the largest that there are
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        seen += len(cells)
        if number > SHEET_ROWS:
            raise InjertoError(f"{path} has more than {SHEET_ROWS:,} rows; save it as CSV")
        bound_cells(path, seen, packed)
        kept = list(cells)
        while kept and (kept[-1] is None or not str(kept[-1]).strip()):
            kept.pop()
        if kept:
            rows.append((number, kept))
    return rows
