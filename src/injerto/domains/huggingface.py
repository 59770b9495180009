"""Hugging Face ``datasets``, in memory and as ``save_to_disk`` wrote them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError, first_line
from injerto.domains.arrow import class_name
from injerto.domains.columns import ColumnNames, rows_from_columns
from injerto.domains.headings import unique_headings
from injerto.domains.parts import Part, rows_from_parts
from injerto.domains.rows import Rows

_MARKS = ("dataset_dict.json", "dataset_info.json", "state.json")


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
    return read_dataset(data, path.resolve().name, names, path)


def read_dataset(data: Any, name: str, names: ColumnNames, base: Path | None = None) -> Rows:
    """Read a ``datasets.Dataset`` or ``DatasetDict``; pictures are not decoded and class numbers become names.

    The keys of a ``DatasetDict`` are given splits where they are known as such (train, validation, test, unlabeled,
    unsupervised), and domains where none is. A single key says nothing.

    Args:
        data: The data set.
        name: What to call it.
        names: Which column is what.
        base: The folder that picture paths are relative to; the working folder by default.

    Returns:
        The examples.

    Raises:
        InjertoError: For keys that are partly splits, and as :func:`injerto.domains.columns.rows_from_columns`.
    """
    if type(data).__name__.startswith("Iterable"):
        raise InjertoError("a streamed data set is not read, for splits need all of it; load it without streaming=True")
    if not isinstance(data, Mapping):
        return rows_from_columns(dataset_columns(data), name, names, base=base or Path.cwd())
    parts = {str(key): Part(dataset_columns(part)) for key, part in data.items()}
    return rows_from_parts(parts, name, names, base=base or Path.cwd())


def dataset_columns(data: Any) -> dict[str, list[Any]]:
    """A data set's columns as lists: pictures as ``{"bytes", "path"}`` or arrays, classes as names.

    Args:
        data: A ``datasets.Dataset``.

    Raises:
        InjertoError: For two columns of one name, or a class that has no name.
    """
    from datasets import Array2D, Array3D, ClassLabel

    columns = {}
    data = data.with_format(None)
    for column, feature in data.features.items():
        if (encoded := _encoded(feature)) != feature:
            data = data.cast_column(column, encoded)
    headings = unique_headings(data.features, "the data set")
    for heading, (column, feature) in zip(headings, data.features.items(), strict=True):
        cells = list(data[column])
        if isinstance(feature, ClassLabel):
            cells = [class_name(cell, feature.names, "the data set", heading) for cell in cells]
        if isinstance(feature, Array2D | Array3D):
            cells = [None if cell is None else np.asarray(cell, feature.dtype) for cell in cells]
        columns[heading] = cells
    return columns


def _encoded(feature: Any) -> Any:
    """A feature whose pictures, sounds and films stay as they are stored, also in lists and structs."""
    if isinstance(feature, Mapping):
        return {key: _encoded(inner) for key, inner in feature.items()}
    if isinstance(feature, list | tuple):
        return [_encoded(inner) for inner in feature]
    if getattr(feature, "decode", False) is True:
        return replace(feature, decode=False)
    inner = getattr(feature, "feature", None)
    return feature if inner is None else replace(feature, feature=_encoded(inner))
