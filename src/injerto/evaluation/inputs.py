"""What a run takes, read through the same door as what ``fit`` takes: tables, folders, pictures, texts."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains.archives import is_archive
from injerto.domains.arrays import from_arrays
from injerto.domains.cells import word
from injerto.domains.check import undecodable
from injerto.domains.columns import INPUT_NAMES, ColumnNames
from injerto.domains.domain import Domain, Domains, Input, Modality, Problem
from injerto.domains.load import read_rows
from injerto.domains.samples import SAMPLES
from injerto.domains.tables import is_table
from injerto.domains.texts import clean_texts
from injerto.evaluation.files import Inputs, exists, modality_of, no_such, read_lines, read_path, rows_read

TABLES = {
    "pandas": ("DataFrame",),
    "polars": ("DataFrame", "LazyFrame"),
    "pyarrow": ("Table", "RecordBatch"),
    "datasets": ("Dataset", "DatasetDict"),
}
COLUMNS = {
    "pandas": ("Series", "Index"),
    "polars": ("Series",),
    "pyarrow": ("Array", "ChunkedArray"),
}
"""Types of other libraries that hold a table, and one column of it; none of them is imported here."""
PICTURE_KEYS = {"bytes", "path"}
"""Of a dict that is one picture, as ``datasets`` delivers them undecoded."""


def as_inputs(inputs: Any, names: ColumnNames) -> list[Input]:
    """A flat list of pictures (paths, bytes, PIL) or texts, one for each answer.

    Args:
        inputs: See :func:`read_inputs`.
        names: See there.

    Raises:
        InjertoError: Where an input is of the wrong kind, empty, missing or not decodable.
    """
    return read_inputs(inputs, names).settle().items


def read_inputs(inputs: Any, names: ColumnNames) -> Inputs:
    """Read whatever a run can be asked about; nothing is lost, and nothing iterated that is no list of inputs.

    A path is read as :func:`injerto.fit` reads it: a folder, an archive, a table, a saved data set; for texts also a
    ``.txt`` file. A plain string is a path for pictures and a text for texts. A dict holds the columns of a table. An
    open file holds one picture, or one text a line.

    Args:
        inputs: A path, picture, array, tensor, open file, text, table, column, domain, or an iterable of these.
        names: The modality, and the column of a table: named, or that which the run was fitted with.

    Returns:
        All inputs in their own order, and those that cannot be used.

    Raises:
        InjertoError: Where something is of the wrong kind, or is not there.
    """
    if isinstance(inputs, Inputs):
        return inputs
    if isinstance(inputs, Domain | Domains):  # they were checked when they were read
        return _of_domains([inputs] if isinstance(inputs, Domain) else list(inputs.values()), modality_of(names))
    return checked(_read(inputs, names, "inputs"), names)


def checked(inputs: Inputs, names: ColumnNames) -> Inputs:
    """Decode every picture once; those that cannot be decoded become problems.

    Args:
        inputs: As read.
        names: The modality, and the column of a table.

    Raises:
        InjertoError: Where a column is named, and there was no table.
    """
    if names.input is not None and not inputs.columns:
        raise InjertoError(f"--input '{names.input}' names a column, and no input is a table; leave it out")
    if inputs.modality == "text":
        return inputs
    bad = undecodable(inputs.items)
    if bad:
        inputs.problems += [Problem(inputs.sources[index], why) for index, why in bad.items()]
        good = [index for index in range(len(inputs.items)) if index not in bad]
        inputs.items = [inputs.items[index] for index in good]
        inputs.sources = [inputs.sources[index] for index in good]
    return inputs


def _read(given: Any, names: ColumnNames, place: str) -> Inputs:
    """One input, or a container of inputs."""
    modality = modality_of(names)
    if _is(given, TABLES):
        return rows_read(read_rows(given, names), modality)
    if _is(given, COLUMNS):
        cells = (
            given.to_pylist() if hasattr(given, "to_pylist") else given.tolist() if hasattr(given, "tolist") else None
        )
        return _column(given.to_list() if cells is None else cells, names, place)
    if isinstance(given, Mapping):
        return _mapping(given, names, place)
    if isinstance(given, str) and modality == "text":
        _refuse_named(given, alone=True)
        return _several([given], names, place)
    if isinstance(given, str | PathLike):
        if not str(given).strip():
            raise InjertoError(f"{place} is empty; leave it out")
        return read_path(Path(given), names)
    if modality == "image" and isinstance(given, Image.Image | bytes | bytearray | memoryview):
        return Inputs(modality, [given if isinstance(given, Image.Image) else bytes(given)], [place])
    if callable(getattr(given, "read", None)):
        return _open_file(given, names, place)
    if hasattr(given, "__array__") or _is(given, {"torch": ("Tensor",)}):
        values = from_arrays(given, modality, place)
        if isinstance(values, list):
            return _several(values, names, place)
        return (
            Inputs(modality, list(values), [place])
            if len(values) == 1
            else Inputs(modality, list(values), [f"{place}[{index}]" for index in range(len(values))])
        )
    if isinstance(given, Set):
        raise InjertoError(
            f"a {type(given).__name__} has no order, and answers come in the order of inputs; give a list"
        )
    if isinstance(given, Iterable) and not isinstance(given, bytes | bytearray | memoryview):
        return _several(given, names, place)
    raise _refusal(given, modality)


def _several(given: Iterable[Any], names: ColumnNames, place: str) -> Inputs:
    """A list, tuple, generator or array of inputs; a list of dicts is the rows of a table."""
    modality = modality_of(names)
    items: list[Any] = list(given)
    if _are_rows(items):
        keys = dict.fromkeys(key for item in items for key in item)
        return _mapping({key: [item.get(key) for item in items] for key in keys}, names, place)
    found, missing = Inputs(modality), []
    cleaned = iter(clean_texts([item for item in items if isinstance(item, str)], place) if modality == "text" else [])
    for position, item in enumerate(items):
        source = f"{place}[{position}]"
        item = item.as_py() if hasattr(item, "as_py") else item
        if _is_missing(item):
            found.problems.append(Problem(source, f"it is {item}, not a{' text' if modality == 'text' else 'n image'}"))
        elif modality == "text" and isinstance(item, str):
            _refuse_named(item, alone=False)
            found.add(str(next(cleaned)), source)
        elif modality == "text" and not (isinstance(item, PathLike) or callable(getattr(item, "read", None))):
            raise _refusal(item, modality, source)
        elif isinstance(item, str | PathLike) and not exists(Path(item)) and str(item) not in SAMPLES:
            missing.append(item)
        else:
            part = _read(item, names, source)
            if not part.items and not part.problems:
                raise InjertoError(f"{source} is an empty {type(item).__name__}; leave it out")
            found.extend(part)
    if missing:
        more = f" (and {len(missing) - 1} more of {len(items)} inputs)" if len(missing) > 1 else ""
        raise no_such(missing[0], modality, more)
    return found


def _column(cells: Sequence[Any], names: ColumnNames, place: str) -> Inputs:
    """A column of a table: numbers are texts, as in a table."""
    if modality_of(names) == "text":
        cells = [cell if isinstance(cell, str | list | dict | tuple | bytes) else word(cell) for cell in cells]
    return _several(cells, names, place)


def _mapping(given: Mapping[Any, Any], names: ColumnNames, place: str) -> Inputs:
    """Columns of a table by name, several tables by name, or one picture as ``datasets`` delivers it; else refused."""
    modality = modality_of(names)
    if given and all(_is(value, TABLES) or _are_rows(value) for value in given.values()):
        found = Inputs(modality)
        for key, value in given.items():
            found.extend(_read(value, names, str(key)))
        return found
    if modality == "image" and given and set(given) <= PICTURE_KEYS:
        content = [given[key] for key in ("bytes", "path") if isinstance(given.get(key), bytes | str | Path)]
        if content:
            return _read(content[0], names, place)
    column = names.input or dict(names.fitted).get("input") or next((n for n in INPUT_NAMES if n in given), None)
    lengths = {key: _length(value) for key, value in given.items()}
    if column is None or column not in given or None in lengths.values():
        keys = ", ".join(map(repr, list(given)[:6])) or "none"
        wanted = f"in it the column '{column}'" if column else f"one of them called {', '.join(INPUT_NAMES)}"
        raise InjertoError(
            f"a {type(given).__name__} (keys: {keys}) is read as a table: lists of one length, {wanted}; or give a list"
        )
    if len(set(lengths.values())) > 1:
        raise InjertoError(
            "the columns of a table have one length, not " + ", ".join(f"{n} of '{key}'" for key, n in lengths.items())
        )
    cells = given[column]
    found = _column(cells, names, column) if isinstance(cells, list | tuple) else _read(cells, names, column)
    found.columns += [str(key) for key in given]
    return found


def _refuse_named(text: str, alone: bool) -> None:
    """Refuse a text that names a table, an archive or a file of texts; one that stands alone also a folder."""
    name = Path(text) if len(text) < 256 and "\n" not in text and text.strip() else Path()
    data = is_table(name) or is_archive(name) or name.suffix.lower() == ".txt"
    if data and exists(name):
        raise InjertoError(f"'{text}' is a file; give Path('{text}') to have its texts read")
    if alone and text in SAMPLES:
        raise InjertoError(f"'{text}' is the name of a sample; give injerto.load_domains('{text}') to have it read")
    if alone and name.name and exists(name) and name.is_dir():
        raise InjertoError(f"'{text}' is a folder; give Path('{text}') to have it read, or ['{text}'] for the text")


def _open_file(given: Any, names: ColumnNames, place: str) -> Inputs:
    """Anything with ``read()``: one picture, or one text a line."""
    modality, name = modality_of(names), getattr(given, "name", None)
    shown = name if isinstance(name, str) else place
    if isinstance(name, str) and (is_table(Path(name)) or is_archive(Path(name))):
        raise InjertoError(f"{place} is the open file {name}; give Path('{name}') to have it read")
    try:
        data = given.read()
    except (ValueError, OSError) as error:  # closed, written only, not UTF-8
        raise InjertoError(
            f"{place}: cannot read the open file {shown} ({error}); open it again in binary mode"
        ) from error
    if isinstance(data, str) and modality == "text":
        data = clean_texts([data], shown)[0].encode()
    if not isinstance(data, bytes | bytearray | memoryview):
        if hasattr(data, "close"):
            data.close()  # a coroutine, which would otherwise complain that nobody awaited it
        kind = "text: open it in binary mode ('rb')" if isinstance(data, str) else f"{type(data).__name__}, not bytes"
        raise InjertoError(f"{place}: read() of {shown} gives {kind}")
    if not data:
        raise InjertoError(f"{place}: nothing is left to read in {shown}; it is empty, or was read before (seek(0))")
    return Inputs(modality, [bytes(data)], [place]) if modality == "image" else read_lines(bytes(data), shown, names)


def _of_domains(domains: Sequence[Domain], modality: Modality) -> Inputs:
    found = Inputs(modality)
    for domain in domains:
        if domain.inputs and isinstance(domain.inputs[0], str) != (modality == "text"):
            raise InjertoError(f"{domain.name} does not hold {modality}s, which this run takes")
        found.items += domain.inputs
        found.sources += domain.sources
    return found


def _refusal(given: Any, modality: Modality, place: str = "an input") -> InjertoError:
    """The error for an input that is of no kind that a run takes."""
    kind = type(given).__name__
    if modality == "text":
        return InjertoError(f"{place} is a {kind}, not a text: {str(given)[:40]!r}; give strings")
    return InjertoError(f"cannot predict on {kind}; give a path, PIL image, array, tensor, or a list of these")


def _is(given: Any, kinds: Mapping[str, Sequence[str]]) -> bool:
    """Whether it is an instance of one of these types, whose modules are loaded if it is."""
    loaded = ((sys.modules[module], names) for module, names in kinds.items() if module in sys.modules)
    return any(isinstance(given, getattr(module, name, ())) for module, names in loaded for name in names)


def _are_rows(given: Any) -> bool:
    """Whether it is a dict of columns, or a list of dicts that are rows and not pictures."""
    if isinstance(given, list | tuple) and given:
        return all(isinstance(row, Mapping) and not set(row) <= PICTURE_KEYS for row in given)
    return isinstance(given, Mapping) and not set(given) <= PICTURE_KEYS


def _is_missing(item: Any) -> bool:
    """None, NaN, ``pandas.NA`` and the like."""
    return item is None or type(item).__name__ in ("NAType", "NaTType") or (isinstance(item, float) and item != item)


def _length(column: Any) -> int | None:
    """How many cells a column has; None for what is no column."""
    if isinstance(column, str | bytes | Mapping | Set | Iterator) or not hasattr(column, "__len__"):
        return None
    try:
        return len(column)
    except TypeError:  # an array without dimensions
        return None
