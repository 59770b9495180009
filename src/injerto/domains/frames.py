"""Tables in memory: pandas, polars and Arrow frames, dicts of columns, lists of rows, and dicts of these."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError, first_line
from injerto.domains.arrow import arrow_columns
from injerto.domains.columns import ColumnNames, rows_from_columns
from injerto.domains.headings import unique_headings
from injerto.domains.parts import Part, rows_from_parts
from injerto.domains.records import columns_of
from injerto.domains.rows import Rows

OBJECTS = (
    "a data frame (pandas, polars, Arrow), a dict of columns, a list of dicts, a datasets object, or a dict of these "
    "by split or domain"
)
_NAME = "table"
_SINGLE = frozenset(("Series", "Index", "Array", "ChunkedArray", "StringArray", "LargeStringArray"))
"""Types of one column without a name."""


def read_object(data: Any, names: ColumnNames) -> Rows:
    """Read a table that is in memory; paths of pictures are relative to the working folder.

    Args:
        data: One of :data:`OBJECTS`.
        names: Which column is what.

    Returns:
        The examples in the table's order.

    Raises:
        InjertoError: For anything else, and as :func:`injerto.domains.columns.rows_from_columns`.
    """
    names = replace(names, allow_outside=True)
    if _module(data) == "datasets":
        from injerto.domains.huggingface import read_dataset

        return read_dataset(data, "dataset", names)
    if isinstance(data, Mapping):
        tables = [_is_table(value) for value in data.values()]
        if data and all(tables):
            parts = {str(key): Part(_columns(value, f"'{key}'")) for key, value in data.items()}
            return rows_from_parts(parts, _NAME, names, base=Path.cwd())
        if any(tables):
            strange = next(key for key, table in zip(data, tables, strict=True) if not table)
            raise InjertoError(f"the dict holds tables, and '{strange}' is none; give tables only, or columns only")
    return rows_from_columns(_columns(data, "the table"), _NAME, names, base=Path.cwd())


def _columns(data: Any, where: str) -> dict[str, list[Any]]:
    """The columns of one table."""
    kind = _module(data)
    if kind == "datasets":
        from injerto.domains.huggingface import dataset_columns

        return dataset_columns(data)
    if kind == "pandas" and type(data).__name__ == "DataFrame":
        if data.columns.nlevels > 1:
            raise InjertoError(f"{where} has {data.columns.nlevels} levels of headings; join them into one")
        headings = unique_headings(data.columns, where)
        return {heading: data.iloc[:, place].tolist() for place, heading in enumerate(headings)}
    if isinstance(data, Mapping):
        return _of_dict(data, where)
    if isinstance(data, (list, tuple)) and data and all(isinstance(row, Mapping) for row in data):
        return columns_of(data, where)
    if kind == "polars" and type(data).__name__ == "LazyFrame":
        data = data.collect()
    if type(data).__name__ in _SINGLE:
        raise InjertoError(f"cannot read domains from a {type(data).__name__}; {_hint(data)}")
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__dataframe__") or kind == "pyarrow":
        return _of_arrow(data, where)
    raise InjertoError(f"cannot read domains from a {type(data).__name__}; {_hint(data)}")


def _of_arrow(data: Any, where: str) -> dict[str, list[Any]]:
    import pyarrow
    from pyarrow import interchange

    try:
        if isinstance(data, pyarrow.RecordBatch):
            data = pyarrow.Table.from_batches([data])
        elif not isinstance(data, pyarrow.Table):
            stream = hasattr(data, "__arrow_c_stream__")
            data = pyarrow.table(data) if stream else interchange.from_dataframe(data)
    except Exception as error:  # whatever the frame's library raises while it exports
        raise InjertoError(
            f"cannot read a {type(data).__name__} by Arrow ({first_line(error)}); give a pandas data frame"
        ) from error
    return arrow_columns(data, where)


def _of_dict(data: Mapping[Any, Any], where: str) -> dict[str, list[Any]]:
    """A dict of columns, all of one length."""
    headings = unique_headings(data, where)
    columns: dict[str, list[Any]] = {}
    for heading, cells in zip(headings, data.values(), strict=True):
        column = isinstance(cells, (Sequence, np.ndarray)) or hasattr(cells, "tolist")
        if isinstance(cells, (str, bytes)) or not column:
            raise InjertoError(
                f"a dict is read as columns, and '{heading}' holds a {type(cells).__name__}; give a list of cells"
            )
        pictures = isinstance(cells, np.ndarray) and cells.ndim > 1
        columns[heading] = list(cells) if pictures or not hasattr(cells, "tolist") else cells.tolist()
    lengths = {heading: len(cells) for heading, cells in columns.items()}
    if not columns or not any(lengths.values()):
        raise InjertoError(f"{where} holds no rows; add some")
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{heading}' {count}" for heading, count in lengths.items())
        raise InjertoError(f"columns of a dict have one length, and these have: {shown}; correct them")
    return columns


def _is_table(value: Any) -> bool:
    """Whether a dict's value is a table of its own, not a column."""
    rows = isinstance(value, (list, tuple)) and bool(value) and all(isinstance(row, Mapping) for row in value)
    if rows:  # a list of {"bytes", "path"} or of chats is a column
        return not all({"bytes", "path"} & row.keys() for row in value)
    series = type(value).__name__ == "Series" or type(value).__name__.endswith("Array")
    frame = hasattr(value, "__dataframe__") or (hasattr(value, "__arrow_c_stream__") and not series)
    return isinstance(value, Mapping) or frame or type(value).__name__ in ("LazyFrame", "Dataset", "RecordBatch")


def _module(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def _hint(data: Any) -> str:
    if isinstance(data, np.ndarray) and data.dtype.names:
        return "make it a data frame (pandas.DataFrame(array))"
    if isinstance(data, tuple) and len(data) == 2:
        return "inputs and labels apart are given to injerto.Classifier, or as {'text': inputs, 'label': labels}"
    if isinstance(data, (list, tuple, np.ndarray)) or type(data).__name__ in _SINGLE:
        return "name its columns: {'text': [...], 'label': [...]}"
    return f"give {OBJECTS}"
