"""What a run takes, read through the same door as what ``fit`` takes: tables, folders, pictures, texts."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.domains.archives import is_archive, unpack
from injerto.domains.check import undecodable
from injerto.domains.columns import INPUT_NAMES, ColumnNames, word
from injerto.domains.domain import Domain, Domains, Input, Modality, Problem
from injerto.domains.folders import is_hidden, is_image_name
from injerto.domains.load import read_rows
from injerto.domains.rows import Rows
from injerto.domains.samples import SAMPLES
from injerto.domains.tables import is_table
from injerto.domains.texts import clean_texts
from injerto.evaluation.arrays import from_arrays

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


@dataclass
class Inputs:
    """Inputs in their own order, and those that cannot be used.

    Attributes:
        modality: ``image`` or ``text``.
        items: Texts, or pictures as paths, encoded bytes or PIL images.
        sources: Where each came from: ``reviews.csv:17``, a picture's path, ``inputs[3]``.
        problems: Inputs that are empty, missing or not decodable.
        columns: Names of a table's columns; empty where there was none.
        settled: Whether the problems were left out with a note.
    """

    modality: Modality
    items: list[Input] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    settled: bool = False

    def add(self, item: Input, source: str) -> None:
        """Append one; an empty text is a problem.

        Args:
            item: A text or a picture.
            source: Where it came from.
        """
        if isinstance(item, str) and not item.strip():
            self.problems.append(Problem(source, "the text is empty"))
            return
        self.items.append(item)
        self.sources.append(source)

    def extend(self, other: "Inputs | Rows") -> None:
        """Append all of another reading.

        Args:
            other: Of the same modality.
        """
        self.items += other.items if isinstance(other, Inputs) else other.inputs
        self.sources += other.sources
        self.problems += other.problems
        self.columns += other.columns

    def settle(self, skip_bad: bool = False) -> "Inputs":
        """Refuse inputs that cannot be used.

        Args:
            skip_bad: Leave them out with a note instead.

        Raises:
            InjertoError: Where there are any and ``skip_bad`` is False, or no others.
        """
        if not self.problems or self.settled:
            return self
        total, noun, most = len(self.items) + len(self.problems), f"{self.modality}s", 20 if skip_bad else 3
        places = "; ".join(f"{problem.source}: {problem.reason}" for problem in self.problems[:most])
        more = f"; and {len(self.problems) - most} more" if len(self.problems) > most else ""
        if total == 1:
            raise InjertoError(f"cannot read {places.replace(': ', ' (', 1)}); correct it or give another")
        if not self.items:
            raise InjertoError(f"none of {total} {noun} can be read ({places}{more}); correct them or give others")
        if not skip_bad:
            raise InjertoError(
                f"{len(self.problems)} of {total} {noun} cannot be read ({places}{more}); correct them, or leave them "
                "out (on the command line with --skip-bad)"
            )
        note(f"{len(self.problems)} of {total} {noun} cannot be read and are left out (--skip-bad): {places}{more}")
        self.settled = True
        return self


def as_inputs(
    inputs: Any, modality: Modality, columns: Mapping[str, str] | None = None, input: str | None = None
) -> list[Input]:
    """A flat list of pictures (paths, bytes, PIL) or texts, one for each answer.

    Args:
        inputs: See :func:`read_inputs`.
        modality: ``image`` or ``text``.
        columns: The columns that the run was fitted with, by role.
        input: The column of a table to read instead.

    Raises:
        InjertoError: Where an input is of the wrong kind, empty, missing or not decodable.
    """
    return read_inputs(inputs, modality, columns, input).settle().items


def read_inputs(
    inputs: Any, modality: Modality, columns: Mapping[str, str] | None = None, input: str | None = None
) -> Inputs:
    """Read whatever a run can be asked about; nothing is lost, and nothing iterated that is no list of inputs.

    A path is read as :func:`injerto.fit` reads it: a folder, an archive, a table, a saved data set; for texts also a
    ``.txt`` file of one text a line. A plain string is a path for pictures and a text for texts. A dict holds the
    columns of a table. An open file holds one picture, or lines of texts.

    Args:
        inputs: A path, picture, array, tensor, open file, text, table, column, domain, or an iterable of these.
        modality: What the run takes, ``image`` or ``text``.
        columns: The columns that the run was fitted with, by role.
        input: The column of a table to read instead.

    Returns:
        All inputs in their own order, and those that cannot be used.

    Raises:
        InjertoError: Where something is of the wrong kind, or is not there.
    """
    if isinstance(inputs, Inputs):
        return inputs
    if isinstance(inputs, Domain | Domains):  # they were checked when they were read
        return _of_domains([inputs] if isinstance(inputs, Domain) else list(inputs.values()), modality)
    names = ColumnNames(input=input, fitted=tuple((columns or {}).items()), inputs_only=modality)
    found = _read(inputs, names, "inputs")
    if input is not None and not found.columns:
        raise InjertoError(f"--input '{input}' names a column, and these inputs are no table; leave it out")
    return checked(found)


def checked(inputs: Inputs) -> Inputs:
    """Decode every picture once; those that cannot be decoded become problems.

    Args:
        inputs: As read.
    """
    if inputs.modality == "text":
        return inputs
    bad = undecodable(inputs.items)
    if bad:
        inputs.problems += [Problem(inputs.sources[index], why) for index, why in bad.items()]
        good = [index for index in range(len(inputs.items)) if index not in bad]
        inputs.items = [inputs.items[index] for index in good]
        inputs.sources = [inputs.sources[index] for index in good]
    return inputs


def read_path(path: Path, names: ColumnNames) -> Inputs:
    """Read a file or folder as ``fit`` does, or a picture, or a ``.txt`` file of one text a line.

    Args:
        path: Where it is; the name of a bundled sample too.
        names: Which column of a table is read, and the modality.

    Raises:
        InjertoError: Where nothing is there, or it holds nothing of the modality.
    """
    modality = _modality(names)
    if not _exists(path):
        if str(path) in SAMPLES:
            return read_path(SAMPLES[str(path)].path, names)
        raise _no_such(path, modality)
    if path.is_dir():
        from injerto.domains.huggingface import is_saved_dataset

        if modality == "image" and not is_saved_dataset(path):
            return _pictures(path, f"{path}/")
        return _rows(read_rows(path, names), modality)
    if is_archive(path) and modality == "image":
        return _pictures(unpack(path), f"{path}/")
    if is_table(path) or is_archive(path):
        return _rows(read_rows(path, names), modality)
    if modality == "image":
        return Inputs(modality, [path], [str(path)])
    if path.suffix.lower() != ".txt":
        raise InjertoError(
            f"cannot read texts from {path}; give a table (.csv .tsv .jsonl .parquet) or a .txt file of one text a line"
        )
    try:
        return read_lines(path.read_bytes(), path.name, names)
    except OSError as error:
        raise InjertoError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error


def read_lines(data: bytes, name: str, names: ColumnNames) -> Inputs:
    """One text a line; lines that are empty are problems but for those at the end.

    Args:
        data: UTF-8, or UTF-16 with its mark.
        name: What messages call it: the sources are its lines.
        names: The columns that the run was fitted with.

    Raises:
        InjertoError: Where it is no text.
    """
    if b"\0" in data and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", "replace").encode()
    elif b"\0" in data or data.startswith(b"\x1f\x8b"):
        raise InjertoError(f"{name} holds no lines of text but a binary file; name the file itself as an input")
    lines = []
    for number, line in enumerate(re.split(rb"\r\n|\n|\r", data), 1):
        try:
            lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise InjertoError(
                f"line {number} of {name} is not UTF-8 (byte 0x{line[error.start]:02x}); save it as UTF-8"
            ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    found = Inputs("text")
    for number, text in enumerate(lines, 1):
        found.add(text, f"{name}:{number}")
    column = names.input or dict(names.fitted).get("input")
    cells = {cell.strip(' "{:') for cell in re.split(r'[,;\t]|":', lines[0])} if lines else set()
    if len(cells) > 1 and column in cells:
        note(f"the first line of {name} looks like a table's ('{column}'); every line is taken as a text all the same")
    return found


def _read(given: Any, names: ColumnNames, place: str) -> Inputs:
    """One input, or a container of inputs."""
    modality = _modality(names)
    if _is(given, TABLES):
        return _rows(read_rows(given, names), modality)
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
    modality = _modality(names)
    items: list[Any] = list(given)
    if items and all(isinstance(item, Mapping) and not set(item) <= PICTURE_KEYS for item in items):
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
        elif isinstance(item, str | PathLike) and not _exists(Path(item)) and str(item) not in SAMPLES:
            missing.append(item)
        else:
            found.extend(_read(item, names, source))
    if missing:
        more = f" (and {len(missing) - 1} more of {len(items)} inputs)" if len(missing) > 1 else ""
        raise _no_such(missing[0], modality, more)
    return found


def _column(cells: Sequence[Any], names: ColumnNames, place: str) -> Inputs:
    """A column of a table: numbers are texts, as in a table."""
    if _modality(names) == "text":
        cells = [cell if isinstance(cell, str | list | dict | tuple | bytes) else word(cell) for cell in cells]
    return _several(cells, names, place)


def _mapping(given: Mapping[Any, Any], names: ColumnNames, place: str) -> Inputs:
    """Columns of a table by name, several tables by name, or one picture as ``datasets`` delivers it; else refused."""
    modality = _modality(names)
    if given and all(_is(value, TABLES) for value in given.values()):
        found = Inputs(modality)
        for value in given.values():
            found.extend(_rows(read_rows(value, names), modality))
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
    if data and _exists(name):
        raise InjertoError(f"'{text}' is a file; give Path('{text}') to have its texts read")
    if alone and text in SAMPLES:
        raise InjertoError(f"'{text}' is the name of a sample; give injerto.load_domains('{text}') to have it read")
    if alone and name.name and _exists(name) and name.is_dir():
        raise InjertoError(f"'{text}' is a folder; give Path('{text}') to have it read, or ['{text}'] for the text")


def _open_file(given: Any, names: ColumnNames, place: str) -> Inputs:
    """Anything with ``read()``: one picture, or one text a line."""
    modality, name = _modality(names), getattr(given, "name", None)
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


def _rows(rows: Rows, modality: Modality) -> Inputs:
    if rows.modality != modality:
        raise InjertoError(f"{rows.name} holds {rows.modality}s, and this run takes {modality}s")
    found = Inputs(modality)
    found.extend(rows)
    return found


def _pictures(root: Path, shown: str) -> Inputs:
    """All pictures below a folder, sorted by path; hidden files are left out as in ``fit``, others counted."""
    pictures, others = [], 0
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        if any(map(is_hidden, file.relative_to(root).parts)):
            continue
        if is_image_name(file.name):
            pictures.append(file)
        else:
            others += 1
    if not pictures:
        raise InjertoError(f"no images in {shown.rstrip('/')}" + (f" ({others} other files)" if others else ""))
    if others:
        note(f"{shown.rstrip('/')}: {others} files that are no images are ignored")
    return Inputs("image", list(pictures), [shown + file.relative_to(root).as_posix() for file in pictures])


def _of_domains(domains: Sequence[Domain], modality: Modality) -> Inputs:
    found = Inputs(modality)
    for domain in domains:
        if domain.inputs and isinstance(domain.inputs[0], str) != (modality == "text"):
            raise InjertoError(f"{domain.name} does not hold {modality}s, which this run takes")
        found.items += domain.inputs
        found.sources += domain.sources
    return found


def _no_such(path: Any, modality: Modality, more: str = "") -> InjertoError:
    hint = "; download it first" if "://" in str(path) or re.match(r"https?:/", str(path)) else ""
    return InjertoError(f"no such {'image' if modality == 'image' else 'file of texts'}: {path}{more}{hint}")


def _refusal(given: Any, modality: Modality, place: str = "an input") -> InjertoError:
    """The error for an input that is of no kind that a run takes."""
    kind = type(given).__name__
    if modality == "text":
        return InjertoError(f"{place} is a {kind}, not a text: {str(given)[:40]!r}; give strings")
    return InjertoError(f"cannot predict on {kind}; give a path, PIL image, array, tensor, or a list of these")


def _modality(names: ColumnNames) -> Modality:
    assert names.inputs_only is not None
    return names.inputs_only


def _is(given: Any, kinds: Mapping[str, Sequence[str]]) -> bool:
    """Whether it is an instance of one of these types, whose modules are loaded if it is."""
    loaded = ((sys.modules[module], names) for module, names in kinds.items() if module in sys.modules)
    return any(isinstance(given, getattr(module, name, ())) for module, names in loaded for name in names)


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


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
