"""Hugging Face ``datasets`` and pandas data frames."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError, first_line
from injerto.domains.columns import SIDES, ColumnNames, rows_from_columns
from injerto.domains.rows import Rows
from injerto.domains.tables import refuse_twice

_MARKS = ("dataset_dict.json", "dataset_info.json", "state.json")
_SPLIT = "__given_split__"


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``.

    Args:
        path: The folder.
    """
    return (path / _MARKS[0]).is_file() or all((path / mark).is_file() for mark in _MARKS[1:])


def read_saved_dataset(path: Path, names: ColumnNames) -> Rows:
    """Read a folder that ``save_to_disk`` wrote.

    Args:
        path: The folder.
        names: Which column is what.

    Returns:
        The examples.

    Raises:
        InjertoError: Where the folder cannot be read, and as :func:`read_dataset`.
    """
    from datasets import load_from_disk

    try:
        data = load_from_disk(str(path))
    except Exception as error:  # datasets and pyarrow raise a zoo of types for broken folders
        reason = first_line(error)
        raise InjertoError(
            f"cannot read {path} as a saved data set ({reason}); write it again with save_to_disk"
        ) from error
    return read_dataset(data, path.resolve().name, names)


def read_dataset(data: Any, name: str, names: ColumnNames) -> Rows:
    """Read a ``datasets.Dataset`` or ``DatasetDict``; pictures are not decoded and class numbers become names.

    The keys of a ``DatasetDict`` are given splits where they are known as such (train, validation, test, unlabeled,
    unsupervised), and domains where none is. A single key says nothing.

    Args:
        data: The data set.
        name: What to call it.
        names: Which column is what.

    Returns:
        The examples.

    Raises:
        InjertoError: For keys that are partly splits, and as :func:`injerto.domains.columns.rows_from_columns`.
    """
    if not isinstance(data, Mapping):
        return rows_from_columns(_columns(data), name, names, base=Path.cwd())
    parts = {str(key): _columns(part) for key, part in data.items()}
    known = [key for key in parts if key.lower() in SIDES]
    if known and len(known) < len(parts):
        strange = next(key for key in parts if key not in known)
        raise InjertoError(f"{name}: '{strange}' beside '{known[0]}' is no split; keep only splits, or only domains")
    columns: dict[str, list[Any]] = {}
    keys = [key for key, part in parts.items() for _ in range(_length(part))]
    for column in dict.fromkeys(column for part in parts.values() for column in part):
        columns[column] = [cell for part in parts.values() for cell in part.get(column, [None] * _length(part))]
    if known and len(parts) > 1 and names.split_column is None:
        columns[_SPLIT] = keys
        names = replace(names, split_column=_SPLIT)
    elif not known:
        columns["domain"] = keys
    return rows_from_columns(columns, name, names, base=Path.cwd())


def read_frame(frame: Any, names: ColumnNames) -> Rows:
    """Read a pandas data frame; paths of pictures are relative to the working folder.

    Args:
        frame: The data frame.
        names: Which column is what.

    Returns:
        The examples.

    Raises:
        InjertoError: As :func:`injerto.domains.columns.rows_from_columns`.
    """
    refuse_twice(frame.columns, "the table")
    columns = {str(column): frame[column].tolist() for column in frame.columns}
    return rows_from_columns(columns, "table", names, base=Path.cwd())


def _length(columns: Mapping[str, list[Any]]) -> int:
    return len(next(iter(columns.values()), []))


def _columns(data: Any) -> dict[str, list[Any]]:
    """A data set's columns as plain lists: pictures as ``{"bytes", "path"}``, classes as names."""
    from datasets import ClassLabel, Image

    columns = {}
    for column, feature in data.features.items():
        if isinstance(feature, Image):
            data = data.cast_column(column, Image(decode=False))
    data = data.with_format(None)
    for column, feature in data.features.items():
        cells = list(data[column])
        if isinstance(feature, ClassLabel):
            cells = [None if cell is None or cell < 0 else feature.int2str(cell) for cell in cells]
        columns[column] = cells
    return columns
