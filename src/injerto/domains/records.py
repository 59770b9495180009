"""JSON lines and JSON: every object of the file becomes a row."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError, first_line, shown
from injerto.basics.limits import TABLE_CELLS
from injerto.domains.characters import clean_name

Columns = dict[str, list[Any]]


class _Twice(ValueError):
    """A key that is in one object twice."""


def json_lines(path: Path, text: str) -> tuple[Columns, list[int]]:
    """Read one JSON object a line; blank lines are passed over, a key that a row lacks is an empty cell.

    Args:
        path: For messages.
        text: The decoded file.

    Returns:
        The columns by name, and the line of each row.

    Raises:
        InjertoError: For the first line that is no JSON object, or has a key twice.
    """
    records, lines = [], []
    end = "\n" if "\n" in text else "\r"
    for number, line in enumerate(text.split(end), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        record = _load(line, where, "write one object per line")
        if not isinstance(record, dict):
            raise InjertoError(f"{where}: not a JSON object; write one object per line")
        records.append(record)
        lines.append(number)
    return columns_of(records, str(path)), lines


def json_table(path: Path, text: str) -> tuple[Columns, Sequence[int]]:
    """Read a JSON file of rows: an array of objects, an object with one such array, or columns as pandas writes them.

    A file of several objects, one a line, is read as JSON lines.

    Args:
        path: For messages.
        text: The decoded file.

    Returns:
        The columns by name, and the number of each row (its line for JSON lines).

    Raises:
        InjertoError: For anything else.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines[:2]):
        return json_lines(path, text)
    content = _load(text, str(path), "write an array of objects, or one object per line as .jsonl")
    if isinstance(content, dict):
        arrays = [value for value in content.values() if _is_rows(value)]
        if len(arrays) == 1:
            content = arrays[0]
        elif content and not arrays:
            columns = _given_columns(content)
            if columns is not None:
                return columns, range(1, len(next(iter(columns.values()))) + 1)
    if not _is_rows(content):
        raise InjertoError(f'{path}: no table; write an array of objects, {{"data": [...]}}, or one object per line')
    return columns_of(content, str(path)), range(1, len(content) + 1)


def columns_of(records: Sequence[Mapping[Any, Any]], where: str) -> Columns:
    """The union of all keys as columns; None where a record lacks one.

    Args:
        records: The rows.
        where: What messages call them.

    Raises:
        InjertoError: Where two keys of one record are the same name.
    """
    columns: Columns = {}
    given = sum(map(len, records))
    if (
        len(records) > 1
        and len({key for record in records for key in record}) * len(records) > TABLE_CELLS + 50 * given
    ):
        raise InjertoError(f"{where}: nearly every row has names of its own; write the same names in every object")
    for count, record in enumerate(records):
        for key, cell in record.items():
            cells = columns.setdefault(clean_name(str(key)), [])
            if len(cells) > count:
                raise InjertoError(f"{where}, row {count + 1}: two columns '{clean_name(str(key))}'; rename one")
            cells.extend([None] * (count - len(cells)))
            cells.append(cell)
    for cells in columns.values():
        cells.extend([None] * (len(records) - len(cells)))
    return columns


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _given_columns(content: dict[str, Any]) -> Columns | None:
    """``{"text": [...], "label": [...]}`` or pandas' ``{"text": {"0": ...}, ...}``; None for another object."""
    values = list(content.values())
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1 and values[0]:
        return {clean_name(key): value for key, value in content.items()}
    if all(isinstance(value, dict) for value in values) and len({tuple(value) for value in values}) == 1 and values[0]:
        return {clean_name(key): list(value.values()) for key, value in content.items()}
    return None


def _load(text: str, where: str, advice: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except _Twice as error:
        raise InjertoError(f"{where}: the key {shown(str(error))} is in one object twice; keep one of them") from None
    except RecursionError:
        raise InjertoError(f"{where}: JSON that is nested too deep; {advice}") from None
    except ValueError as error:
        raise InjertoError(f"{where}: not JSON ({first_line(error)}); {advice}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Twice(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return made
