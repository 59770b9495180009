"""Arrow tables: Parquet, Feather and IPC files, and objects that hand over Arrow data."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError, first_line
from injerto.basics.limits import TABLE_SPARE
from injerto.domains.compressed import bound_cells, most_bytes


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
        return arrow_columns(_read_bounded(path, parquet.ParquetFile(io.BytesIO(data)), len(data)), str(path))
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError) as error:
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
        table = reader(pyarrow.BufferReader(data)).read_all()
        table.validate()
        if sum(_viewed(chunk) for column in table.columns for chunk in column.chunks) > most_bytes(len(data)):
            raise InjertoError(
                f"{path} holds more text than {most_bytes(len(data)):,} bytes, again and again; check it"
            )
        table.validate(full=True)  # places beyond a buffer would be read as they stand
        _bound(path, table, len(data))
        return arrow_columns(table, str(path))
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError, KeyError) as error:
        raise InjertoError(f"{path} is not a readable Arrow file ({first_line(error)}); write it again") from error


def _read_bounded(path: Path, file: Any, packed: int) -> Any:
    """A Parquet file's table: runs and dictionaries let a few bytes stand for any number of rows."""
    import pyarrow

    columns = range(file.metadata.num_columns)
    bound_cells(path, file.metadata.num_rows * len(columns), packed)
    groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
    widest = max((group.column(place).total_uncompressed_size for group in groups for place in columns), default=0)
    batches, left = [], most_bytes(packed)
    for batch in file.iter_batches(max(1, min(2**16, TABLE_SPARE // max(1, widest)))):
        left -= batch.nbytes
        if left < 0:
            raise InjertoError(f"{path} ({packed:,} bytes) unpacks to more than {most_bytes(packed):,}; check it")
        batches.append(batch)
    table = pyarrow.Table.from_batches(batches, file.schema_arrow)
    _bound(path, table, packed)
    return table


def _bound(path: Path, table: Any, packed: int) -> None:
    """Refuse a table that becomes far more objects, or longer texts, than its bytes can mean."""
    cells = characters = 0
    for column in table.columns:
        for chunk in column.chunks:
            more, longer = _weight(path, chunk, packed)
            cells, characters = cells + more, characters + longer
            bound_cells(path, cells, packed)
            if characters > most_bytes(packed):
                raise InjertoError(f"{path} ({packed:,} bytes) unpacks to more than {most_bytes(packed):,}; check it")


def _weight(path: Path, array: Any, packed: int) -> tuple[int, int]:
    """Values in an array, those in its lists too, and the bytes of its texts with repetitions written out."""
    import pyarrow
    from pyarrow import compute, types

    kind, count = array.type, len(array)
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _weight(path, array.storage, packed)
    if types.is_dictionary(kind):
        if _is_text(kind.value_type):
            lengths = compute.binary_length(array.dictionary)
            return count, compute.sum(compute.take(lengths, array.indices)).as_py() or 0
        cells, longer = _weight(path, array.dictionary, packed)
        return count * (1 + cells // max(1, len(array.dictionary))), count * longer // max(1, len(array.dictionary))
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return count, _viewed(array)
    if _is_text(kind):
        return count, compute.sum(compute.binary_length(array)).as_py() or 0
    inner: list[Any] = []
    if types.is_struct(kind):
        inner = [array.field(place) for place in range(kind.num_fields)]
    elif types.is_map(kind):
        inner = [array.keys, array.items]
    elif types.is_nested(kind) and hasattr(array, "values") and not types.is_union(kind):
        total = count * kind.list_size if types.is_fixed_size_list(kind) else None
        total = compute.sum(compute.list_value_length(array)).as_py() if total is None else total
        bound_cells(path, total or 0, packed)
        inner = [array.flatten()]
    weights = [_weight(path, part, packed) for part in inner]
    return count + sum(cells for cells, _ in weights), sum(longer for _, longer in weights)


def _viewed(array: Any) -> int:
    """Bytes of all views in an array: any number of them may show the same text."""
    import pyarrow
    from pyarrow import types

    kind = array.type
    if types.is_string_view(kind) or types.is_binary_view(kind):
        lengths = np.frombuffer(array.buffers()[1] or b"", np.int32)[::4]
        return int(lengths[array.offset : array.offset + len(array)].sum(dtype=np.int64))
    inner: list[Any] = []
    if isinstance(kind, pyarrow.BaseExtensionType):
        inner = [array.storage]
    elif types.is_dictionary(kind):
        inner = [array.dictionary]
    elif types.is_struct(kind) or types.is_union(kind):
        inner = [array.field(place) for place in range(kind.num_fields)]
    elif types.is_map(kind):
        inner = [array.keys, array.items]
    elif hasattr(array, "values"):
        inner = [array.values]
    return sum(map(_viewed, inner))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    names = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in names)


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
