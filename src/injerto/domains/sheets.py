"""Spreadsheets: the first sheet of an .xlsx file that holds anything, with openpyxl."""

import io
import zipfile
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError, first_line
from injerto.basics.progress import note
from injerto.domains.compressed import MOST_BYTES
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
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise InjertoError(f"{path} unpacks to more than {MOST_BYTES:,} bytes; save it as CSV")
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = {sheet.title: _filled(sheet) for sheet in book.worksheets}
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
    for number, cells in rows:
        if len(cells) > width:
            raise InjertoError(f"{path}, row {number}: {len(cells)} cells, and the heading has {width}; correct it")
    names = unique_headings(["" if cell is None else cell for cell in heading], str(path))
    padded = [[*cells, *[None] * (width - len(cells))] for _, cells in rows]
    columns = {name: [cells[place] for cells in padded] for place, name in enumerate(names)}
    return columns, [number for number, _ in rows]


def _filled(sheet: Any) -> list[tuple[int, list[Any]]]:
    """Rows with any cell, without empty cells at their ends."""
    rows = []
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        kept = list(cells)
        while kept and (kept[-1] is None or not str(kept[-1]).strip()):
            kept.pop()
        if kept:
            rows.append((number, kept))
    return rows
