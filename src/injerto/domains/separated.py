"""CSV and TSV: every record of the file becomes a row with as many cells as the heading, or its line is named."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.limits import HEADING_CHARACTERS
from injerto.basics.progress import note, warn

SEPARATORS = (",", ";", "\t", "|")
_SAMPLED = 50
_ADVICE = "fix that line or its quotes (a cell that holds a separator, quote or line break stands in quotes)"

Record = tuple[int, list[str]]
"""The line where it begins, and its cells."""


class _Broken(Exception):
    """A record that is no row.

    Attributes:
        line: Where it begins.
        reason: What is wrong with it.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, reason


@dataclass(frozen=True)
class Separated:
    """A parsed file.

    Attributes:
        heading: Cells of the first record.
        rows: Cells of all others, as many as the heading has.
        lines: The line where each row begins.
    """

    heading: list[str]
    rows: list[list[str]]
    lines: list[int]


def parse(path: Path, text: str, separator: str | None = None) -> Separated:
    """Parse a table of lines. Cells stay the strings they are; blank lines are passed over.

    Cells are quoted as spreadsheets do it (``"`` around the cell, doubled inside). A file with tabs is read without
    quoting where its quotes do not fit or would swallow rows, with a note; any other such file is refused. The first
    line may be ``sep=;`` as Excel writes it, or ``#TYPE`` as PowerShell does. Rows end where the heading does: at a
    line feed, or at a carriage return.

    Args:
        path: For messages.
        text: The decoded file.
        separator: What stands between cells; seen from the heading and the first rows by default.

    Returns:
        Heading and rows; without any where the text is blank.

    Raises:
        InjertoError: For the first record with more or fewer cells than the heading, or a quote that is out of place.
    """
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InjertoError(f"{path}, line {line}: a NUL byte; the file is damaged or UTF-16, save it as UTF-8")
    named, text, first = _preamble(text)
    if len(text) > HEADING_CHARACTERS and not re.search("[\r\n]", text[:HEADING_CHARACTERS]):
        raise InjertoError(
            f"{path}: its first line has more than {HEADING_CHARACTERS:,} characters; write a heading, one row a line"
        )
    separator = named or separator or _separator(text)
    try:
        records = _fitting(list(_records(text, separator, first)))
    except _Broken as quoted:
        if separator != "\t":
            raise _refusal(path, quoted) from None
        return _split(_unquoted(path, text, first, quoted))
    swallowed = _swallowed(records, separator)
    if swallowed and separator == "\t":
        return _split(_unquoted(path, text, first, swallowed, records))
    if swallowed and swallowed.reason:
        raise _refusal(path, swallowed)
    return _split(records)


def _refusal(path: Path, broken: _Broken) -> InjertoError:
    return InjertoError(f"{path} cannot be read as a table (line {broken.line}: {broken.reason}); {_ADVICE}")


def _preamble(text: str) -> tuple[str, str, int]:
    """The separator that a first line ``sep=;`` names; the text behind such a line or ``#TYPE``; its first line."""
    line, end, rest = text.partition("\n")
    line = line.rstrip("\r").strip('"')
    if end and line.lower().startswith("sep=") and len(line) == 5:
        return line[4:], rest, 2
    return ("", rest, 2) if end and line.startswith("#TYPE ") else ("", text, 1)


def _line_end(text: str) -> str:
    """A carriage return where the heading ends with one alone (old Macs), else a line feed."""
    quoted = False
    for place, mark in enumerate(text):
        if mark == '"':
            quoted = not quoted
        elif mark in "\r\n" and not quoted:
            return "\n" if mark == "\n" or text[place + 1 : place + 2] == "\n" else "\r"
    return "\n"


def _separator(text: str) -> str:
    """What stands between cells: of the marks in the heading, that by which most of the first rows fit the heading."""
    head = text[: 2**18]
    best, most = ",", -1.0
    for mark in SEPARATORS:
        try:
            sample = [cells for _, (_, cells) in zip(range(_SAMPLED), _records(head, mark, strict=False), strict=False)]
        except _Broken:
            sample = []
        if not sample or len(sample[0]) < 2:
            continue
        fits = sum(len(cells) == len(sample[0]) for cells in sample) / len(sample)
        if fits > most:
            best, most = mark, fits
    return best


def _records(text: str, separator: str, first: int = 1, quoting: bool = True, strict: bool = True) -> Iterator[Record]:
    """Every record that is not blank, with the line where it begins."""
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        spaced = f'{separator} "' in text and _spaced(text, separator)
        reader = csv.reader(
            _lines(text, _line_end(text)),
            delimiter=separator,
            quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
            strict=strict,
            skipinitialspace=spaced,
        )
        while True:
            begin = reader.line_num + first
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _Broken(begin, _reason(str(error), separator)) from error
            if cells:
                yield begin, cells
    finally:
        csv.field_size_limit(limit)


def _lines(text: str, end: str) -> Iterator[str]:
    """The text's lines with their ends; no other character ends one."""
    start = 0
    while start < len(text):
        stop = text.find(end, start) + 1 or len(text)
        yield text[start:stop]
        start = stop


def _spaced(text: str, separator: str) -> bool:
    """Whether a space follows every separator of the heading."""
    heading = text.partition("\n")[0]
    return separator in heading and heading.count(separator) == heading.count(f"{separator} ")


def _reason(said: str, separator: str) -> str:
    if "unexpected end" in said:
        return "a quote is opened and never closed"
    if "expected after" in said:
        return "a quote is closed before the cell ends"
    if "new-line character" in said:
        return "a line break that is not in quotes"
    return said


def _fitting(records: list[Record]) -> list[Record]:
    """Records of one length; an empty cell at the end of the heading or of every row is left out.

    Raises:
        _Broken: For the first that has another length than the heading.
    """
    if not records:
        return records
    width = len(records[0][1])
    if width > 1:
        records = [record for record in records if len(record[1]) > 1 or record[1][0].strip()]
    lengths = {len(cells) for _, cells in records[1:]}
    if lengths == {width + 1} and not any(cells[-1].strip() for _, cells in records[1:]):
        return [records[0], *((line, cells[:-1]) for line, cells in records[1:])]
    if lengths == {width - 1} and not records[0][1][-1].strip():
        return [(records[0][0], records[0][1][:-1]), *records[1:]]
    for line, cells in records[1:]:
        if len(cells) != width:
            count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
            raise _Broken(line, f"{count}, and the heading has {width}")
    return records


def _swallowed(records: Sequence[Record], separator: str) -> _Broken | None:
    """The first quoted cell that holds lines which look as whole rows of this table do.

    Every line of such a cell has as many cells as the heading, and holds in one of the columns values that other rows
    have in it. A text of several lines is not like that.
    """
    if len(records) < 2 or len(records[0][1]) < 2:
        return None
    width, known = len(records[0][1]), _values(records)
    doubtful = None
    for line, cells in records[1:]:
        for place, cell in enumerate(cells):
            inner = cell.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            if len(inner) < 2 or separator not in cell:
                continue
            inner[0] = separator.join([*cells[:place], inner[0]])
            inner[-1] = separator.join([inner[-1], *cells[place + 1 :]])
            rows = [part.split(separator) for part in inner]
            if any(len(row) != width for row in rows):
                continue
            if any(all(row[column].strip() in known[column] for row in rows) for column in range(width)):
                return _Broken(line, f"a quote is opened, and the {len(rows)} lines up to the next look like rows")
            doubtful = doubtful or _Broken(line, "")
    return doubtful


def _values(records: Sequence[Record]) -> list[set[str]]:
    """Values that come more than once in a column, among the rows of a single line."""
    single = [cells for _, cells in records[1:] if not any("\n" in cell or "\r" in cell for cell in cells)]
    seen: list[set[str]] = [set() for _ in records[0][1]]
    for cells in single:
        for known, cell in zip(seen, cells, strict=True):
            known.add(cell.strip())
    return [{value for value in known if value} if len(known) <= max(2, len(single) // 2) else set() for known in seen]


def _unquoted(path: Path, text: str, first: int, why: _Broken, quoted: list[Record] | None = None) -> list[Record]:
    """The records with quotes as characters like others, where every line is a row then.

    Args:
        path: For messages.
        text: The file.
        first: The number of its first line.
        why: What is wrong with the quotes.
        quoted: The records with quotes as quotes, where they can be read so.

    Raises:
        InjertoError: Where the file can be read neither way.
    """
    try:
        records = _fitting(list(_records(text, "\t", first, quoting=False)))
    except _Broken as raw:
        if quoted is not None:
            return quoted
        # The first line that is wrong both ways is the one to fix.
        found = raw if raw.line <= why.line else why
        raise _refusal(path, found) from None
    tell = warn if quoted is not None else note
    tell(f"{path.name}: quotes are read as plain characters, one row a line ({_why(why)})")
    return records


def _why(broken: _Broken) -> str:
    return f"line {broken.line}: {broken.reason or 'a quote is opened, and a later line closes it'}"


def _split(records: Sequence[Record]) -> Separated:
    if not records:
        return Separated([], [], [])
    return Separated(records[0][1], [cells for _, cells in records[1:]], [line for line, _ in records[1:]])
