"""Arrow tables: Parquet, Feather and IPC files, and objects that hand over Arrow data."""

import io
import json
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError, first_line


def read_parquet(path: Path, data: bytes) -> dict[str, list[Any]]:
    """Read a Parquet file.

    Args:
        path: For messages.
        data: Its content.

    Raises:
        InjertoError: Where it cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        return arrow_columns(parquet.ParquetFile(io.BytesIO(data)).read(), str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise InjertoError(f"{path} is not a readable Parquet file ({first_line(error)}); write it again") from error


def read_ipc(path: Path, data: bytes) -> dict[str, list[Any]]:
    """Read an Arrow IPC file or stream (.arrow, .feather).

    Args:
        path: For messages.
        data: Its content.

    Raises:
        InjertoError: Where it cannot be read.
    """
    import pyarrow
    from pyarrow import ipc

    try:
        reader = ipc.open_file if data.startswith(b"ARROW1") else ipc.open_stream
        return arrow_columns(reader(pyarrow.BufferReader(data)).read_all(), str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise InjertoError(f"{path} is not a readable Arrow file ({first_line(error)}); write it again") from error


def arrow_columns(table: Any, where: str) -> dict[str, list[Any]]:
    """The columns of an Arrow table as lists; class numbers of a ``datasets`` file become names.

    Args:
        table: A ``pyarrow.Table``.
        where: What messages call it.

    Raises:
        InjertoError: Where two columns have one name.
    """
    from injerto.domains.headings import unique_headings

    names = unique_headings(table.column_names, where)
    classes = _class_names(table.schema.metadata or {})
    columns = {}
    for place, name in enumerate(names):
        raw = table.column_names[place]
        if raw.startswith("__index_level_"):
            continue  # pandas' index
        cells = table.column(place).to_pylist()
        if raw in classes:
            cells = [class_name(cell, classes[raw], where, name) for cell in cells]
        columns[name] = cells
    return columns


def class_name(cell: int | None, names: list[str], where: str, column: str) -> str | None:
    """The name of a class by its number; None for -1, which means no label.

    Args:
        cell: The number.
        names: Of all classes.
        where: What messages call the table.
        column: The column.

    Raises:
        InjertoError: For a number that is no class.
    """
    if cell is None or cell < 0:
        return None
    if cell >= len(names):
        raise InjertoError(f"{where}: column '{column}' holds the class {cell}, and it names {len(names)}; correct it")
    return names[cell]


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Names of the classes of each ``ClassLabel`` column, as ``datasets`` writes them into a schema."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {key: feature["names"] for key, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
