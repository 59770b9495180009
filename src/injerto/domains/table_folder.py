"""A folder of tables: a file for each split or domain, shards of one table, or a table beside its pictures."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.domains.columns import INPUT_NAMES, PICTURE_NAMES, SIDES, ColumnNames, rows_from_columns
from injerto.domains.folders import is_hidden, is_image_name
from injerto.domains.parts import Part, rows_from_parts
from injerto.domains.rows import Rows
from injerto.domains.tables import is_table, read_table, table_kind, table_stem

LISTS = ("metadata", "labels")
"""Stems of tables that list the pictures beside them, as ``datasets``' imagefolder has it."""
_AMBIGUOUS = (".txt", ".json")
"""Kinds that are data only where they are called as a split is."""
_SHARD = re.compile(r"(.+?)[-_.]?\d+(?:-of-\d+)?(?:-[0-9a-f]{8,})?")


def read_table_folder(root: Path, names: ColumnNames, name: str | None = None) -> Rows | None:
    """Read a folder that holds tables.

    Tables that are called as splits (``train.csv``, ``validation-00000-of-00002.parquet``, ``test/0000.parquet``, also
    in a folder ``data``) are given splits; shards of one table are put together; other tables are a domain each, named
    after the file. ``metadata`` and ``labels`` list the pictures beside them.

    Args:
        root: The folder.
        names: Which column is what.
        name: What to call the data; the folder's name by default.

    Returns:
        The examples; None where the folder's tables are not the data (there are none, or pictures without a list).

    Raises:
        InjertoError: Where a table cannot be read, or tables do not belong together.
    """
    root = root if list(_tables(root)) or not (root / "data").is_dir() else root / "data"
    tables = list(_tables(root))
    pictures = _holds_pictures(root)
    name = name or (root.resolve().name if root.name != "data" else root.resolve().parent.name)
    lists = [path for path in tables if table_stem(path).lower() in LISTS]
    if pictures:
        return _read_lists(root, lists, name, names) if lists else None
    if not tables:
        tables = [path for folder in _folders(root) if folder.name.lower() in SIDES for path in _tables(folder)]
    if not tables:
        return None
    grouped: dict[str, list[Path]] = {}
    for path in tables:
        grouped.setdefault(_part_name(path, root), []).append(path)
    return _read_parts(root, grouped, name, names)


def _read_parts(root: Path, grouped: dict[str, list[Path]], name: str, names: ColumnNames) -> Rows:
    parts: dict[str, Part] = {}
    first: tuple[Path, set[str]] | None = None
    for key, paths in grouped.items():
        cells: dict[str, list[object]] = {}
        places: list[str] = []
        for path in paths:
            columns, numbers = read_table(path)
            shown = path.relative_to(root).as_posix()
            if cells and set(columns) != set(cells):
                raise InjertoError(f"{root}: {shown} has other columns than {paths[0].name}; correct one of them")
            for column, values in columns.items():
                cells.setdefault(column, []).extend(values)
            places += [f"{shown}:{number}" for number in numbers]
        if first and not set(cells) & first[1] & {*INPUT_NAMES, names.input, dict(names.fitted).get("input")}:
            raise InjertoError(
                f"{root} holds tables with other columns ({paths[0].name}, {first[0].name}); name one of the files"
            )
        first = first or (paths[0], {column.lower() for column in cells} | set(cells))
        parts[key] = Part(cells, places)
    files = [path for paths in grouped.values() for path in paths]
    if len(files) > 1:
        shown = ", ".join(path.relative_to(root).as_posix() for path in files[:4]) + (", ..." if len(files) > 4 else "")
        note(f"{name}: {len(files)} tables are read: {shown}")
    _note_others(root, set(files), name)
    if len(parts) == 1:
        (part,) = parts.values()
        return rows_from_columns(part.columns, name, names, base=root, places=part.places)
    return rows_from_parts(parts, name, names, base=root)


def _read_lists(root: Path, lists: list[Path], name: str, names: ColumnNames) -> Rows:
    """A list of pictures in the folder, or one in each folder that is called as a split is."""
    if len(lists) > 1:
        raise InjertoError(f"{root} holds {lists[0].name} and {lists[1].name}; keep one list of the pictures")
    columns, numbers = read_table(lists[0])
    places = [f"{lists[0].name}:{number}" for number in numbers]
    rows = rows_from_columns(columns, name, names, base=root, file=lists[0].name, places=places)
    if rows.modality != "image":
        raise InjertoError(
            f"{lists[0]} stands beside pictures and names none in a column {', '.join(PICTURE_NAMES)}; correct it, or "
            "move it away to read the folder"
        )
    listed = {os.path.realpath(item) for item in rows.inputs if isinstance(item, Path)}
    extra = sum(os.path.realpath(path) not in listed for path in _pictures(root))
    if extra:
        note(f"{name}: {extra} pictures are not in {lists[0].name} and are ignored")
    return rows


def _part_name(path: Path, root: Path) -> str:
    """What a table is called without its shard's number; its folder's name where that is a split's."""
    if path.parent != root:
        return path.parent.name
    stem = table_stem(path)
    match = _SHARD.fullmatch(stem)
    return match.group(1) if match and ("-of-" in stem or match.group(1).lower() in SIDES) else stem


def _tables(folder: Path) -> Iterator[Path]:
    """Tables directly in a folder, by name."""
    for path in sorted(folder.iterdir()):
        ambiguous = table_kind(path) in _AMBIGUOUS and table_stem(path).lower() not in SIDES
        if path.is_file() and not is_hidden(path.name) and is_table(path) and not ambiguous:
            yield path


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))


def _pictures(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not is_hidden(name))
        yield from (Path(folder, name) for name in files if not is_hidden(name) and is_image_name(name))


def _holds_pictures(root: Path) -> bool:
    return next(_pictures(root), None) is not None


def _note_others(root: Path, read: set[Path], name: str) -> None:
    """Count files that are not read."""
    others = [
        path.name
        for path in sorted(root.rglob("*"))
        if path.is_file() and path not in read and not any(is_hidden(part) for part in path.relative_to(root).parts)
    ]
    if others:
        shown = ", ".join(others[:4]) + (", ..." if len(others) > 4 else "")
        note(f"{name}: {len(others)} other files are ignored: {shown}")
