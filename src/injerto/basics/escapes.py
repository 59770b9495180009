"""Names come from strangers: what a terminal, a spreadsheet or Markdown would act on is shown as plain characters."""

import csv
import io
import re
from collections.abc import Iterable

_CONTROLS = re.compile(  # and changes of direction, and halves of characters
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_GUARDED = re.compile("'+[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|inf)")


def visible(text: str) -> str:
    """A text for a terminal: control characters, but for line breaks and tabs, stand as their escapes.

    Args:
        text: Any.
    """
    return _CONTROLS.sub(lambda match: ascii(match.group())[1:-1], text)


def guarded(cell: str) -> str:
    """A cell of CSV that no spreadsheet takes for a formula: an apostrophe stands before one; numbers stay.

    :func:`unguarded` gives the cell back, whatever it is.

    Args:
        cell: A text.
    """
    return "'" + cell if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def unguarded(cell: str) -> str:
    """The cell that :func:`guarded` was given.

    Args:
        cell: As it stands in the file.
    """
    return cell[1:] if _GUARDED.match(cell) else cell


def write_guarded(rows: Iterable[Iterable[str]]) -> str:
    """Rows as CSV, each cell :func:`guarded`; lines end with a line feed.

    Args:
        rows: Their cells.
    """
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")  # so that a carriage return in a cell is quoted, too
    writer.writerows(map(guarded, row) for row in rows)
    return "".join(f"{line[:-2]}\n" for line in lines)


class _Lines(list[str]):
    """Takes what a writer of CSV writes, a row at a time."""

    write = list.append


def read_guarded(text: str) -> list[list[str]]:
    """The rows of a CSV file that Injerto wrote.

    Args:
        text: All of it.

    Raises:
        csv.Error: Where it cannot be parsed.
    """
    return [[unguarded(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]


def plain_markdown(text: str) -> str:
    """A text that Markdown shows as it is: no link, table, HTML, code or emphasis comes of it.

    Args:
        text: Any; line breaks become spaces.
    """
    text = visible(" ".join(text.splitlines())).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([|*`~])", r"\\\1", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    text = re.sub(r"\]\s*([(\[:])", r"]\\\1", text)  # [name](place), [name][place], [name]: place
    return re.sub(r"(?i)(?<=www)\.|:(?=//)|@", r"\\\g<0>", text)  # addresses that become links by themselves
