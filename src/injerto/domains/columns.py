"""From a table's columns to rows: which column is what, what a cell means. For files, data frames, Hugging Face."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.progress import note
from injerto.domains.arrays import array_image
from injerto.domains.cells import (
    SPREADSHEET_ERRORS,
    is_nested,
    is_picture,
    plain,
    refuse_nested,
    word,
    words_of,
)
from injerto.domains.characters import clean_name, escaped, is_blank
from injerto.domains.chats import CHAT_NAMES, chat_pairs, is_chat
from injerto.domains.domain import Input, Modality, Problem
from injerto.domains.folders import is_image_name
from injerto.domains.picture_names import OUTSIDE, PictureNames, outside_error, refuse_urls
from injerto.domains.rows import EMPTY, Rows
from injerto.domains.texts import clean_text, clean_texts

PICTURE_NAMES = ("image", "path", "file", "filename", "file_name")
INPUT_NAMES = ("text", "sentence", "review", "content", *PICTURE_NAMES)
LABEL_NAMES = ("label", "class", "category")
PROMPT_NAMES = ("prompt", "instruction", "question")
RESPONSE_NAMES = ("response", "completion", "output", "answer")
DOMAIN_NAMES = ("domain",)
SIDES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "unlabeled": "train",
    "unlabelled": "train",
    "unsupervised": "train",
}
UNLABELLED_SIDES = frozenset(("unlabeled", "unlabelled", "unsupervised"))

PRIVATE = ("__given_split__", "__part__")
"""Columns that a reader adds: the split and the part that a row comes from."""

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class ColumnNames:
    """Which column of a table is what; None is guessed (input, label, domain) or absent.

    Attributes:
        input: The column of texts or pictures.
        label: The column of classes.
        domain: The column of domains.
        group: A column of group keys; a name that is no column is left to the caller (a regular expression).
        split_column: The column of given splits.
        responses: Whether labels are what a language model is to say: another column is then looked for.
        fitted: Role and column of a run that was fitted before: they stand where none is named.
        inputs_only: The inputs' modality, where a run that takes it only reads inputs; None where everything is read.
        allow_outside: Whether the pictures that a table names may lie outside of its folder.
    """

    input: str | None = None
    label: str | None = None
    domain: str | None = None
    group: str | None = None
    split_column: str | None = None
    responses: bool = False
    fitted: tuple[tuple[str, str], ...] = ()
    inputs_only: Modality | None = None
    allow_outside: bool = False


def rows_from_columns(
    table: Columns,
    name: str,
    names: ColumnNames,
    *,
    base: Path,
    file: str | None = None,
    places: Sequence[str] | None = None,
) -> Rows:
    """Read a table that is already in memory as columns.

    Inputs are pictures where most cells are encoded pictures or name picture files, else texts. An empty label is no
    label; an empty text, a picture that does not exist, an empty domain or a spreadsheet's error is a problem. A row
    without any filled cell is left out, with a note.

    Args:
        table: The columns by name; cells are strings, numbers, None, PIL images, arrays of pixels or
            ``{"bytes", "path"}``.
        name: What to call the table, and the domain where there is no domain column.
        names: Which column is what.
        base: The folder that picture paths are relative to.
        file: What messages call the table; its name by default.
        places: What messages call each row; ``<file>:<index>`` by default.

    Returns:
        The examples.

    Raises:
        InjertoError: For a column that is not there, or a cell in it that cannot be what it should be.
    """
    columns, file = [column for column in table if column not in PRIVATE], file or name
    names = _as_fitted(names, columns, file)
    roles = _roles(columns, names, file)
    if names.inputs_only is not None:
        roles = (roles[0], None, None, None)
        if places is None and roles[0] is not None:  # every row in memory has its answer, an empty one too
            table = {roles[0]: table[roles[0]]}
    item_name, label_name, domain_name, split_name = roles
    assert item_name is not None
    items: Sequence[Any] = [plain(cell) for cell in table[item_name]]
    labels: Sequence[str | None] = [None] * len(items)
    if names.responses and label_name is None and any(is_chat(cell) for cell in items):
        items, labels = chat_pairs(items, file, item_name)
    elif label_name and names.responses:
        refuse_nested(table[label_name], file, label_name, "a response is one text")
        labels = [clean_text(word(cell)) or None for cell in table[label_name]]
    elif label_name:
        labels = [cell if clean_name(cell) else None for cell in words_of(table[label_name], file, label_name)]
    items = _arrays(items, file, item_name)
    if names.inputs_only is None:
        modality = _modality(items, file, item_name, names.input is not None, base)
    else:
        modality = names.inputs_only
    finder = PictureNames(base, names.allow_outside) if modality == "image" else None
    used = {"input": item_name, "label": label_name, "domain": domain_name}
    rows = Rows(
        modality,
        name,
        columns=columns,
        used={role: column for role, column in used.items() if column is not None and column not in PRIVATE},
        responses=names.responses,
    )
    domains = words_of(table[domain_name], file, domain_name) if domain_name else [name] * len(items)
    sides = _sides(table[split_name], file, split_name) if split_name else [None] * len(items)
    grouped = names.group is not None and names.group in columns
    keys = words_of(table[names.group or ""], file, names.group or "") if grouped else [""] * len(items)
    filled = _filled(table, item_name)
    texts = _texts(items, file) if modality == "text" else []
    roles_used = [column for column in (*roles, names.group if grouped else None) if column]
    failed = _spreadsheet_errors(table, roles_used)
    for index, cell in enumerate(items):
        if not filled[index]:
            continue
        item, place, problem = (texts[index], "", "") if finder is None else _picture(cell, finder)
        if finder is None and is_blank(texts[index]):
            problem = EMPTY
        source = place or (places[index] if places else f"{file}:{index}")
        problem = failed.get(index) or problem
        if problem == OUTSIDE:
            raise outside_error(place, places[index] if places else f"{file}:{index}", base)
        if not problem and not clean_name(domains[index]):
            problem = f"its domain (column '{domain_name}') is empty"
        if problem or item is None:
            rows.problems.append(Problem(source, problem))
            continue
        side = sides[index]
        known = None if side in UNLABELLED_SIDES else labels[index]
        rows.add(domains[index], item, known, source, SIDES[side] if side else None)
        rows.keys[-1] = keys[index] or None
    if finder is not None:
        finder.report(file)
    blank = filled.count(False)
    if blank:
        note(f"{file}: {blank} rows without any filled cell are left out")
    if names.inputs_only is None and split_name is None and "split" in columns and "split" not in (*roles, names.group):
        note(f"{file} has a column 'split' that is not used; add --split-column split to use it")
    return rows


def _roles(columns: list[str], names: ColumnNames, file: str) -> tuple[str | None, str | None, str | None, str | None]:
    """The columns of input, label, domain and split."""
    guesses = (PROMPT_NAMES if names.responses else ()) + INPUT_NAMES + (CHAT_NAMES if names.responses else ())
    item_name = _column(columns, "input", names.input, guesses, file)
    if item_name is None:
        if len(columns) != 1:
            raise InjertoError(
                f"{file}: no column of texts or picture paths found among {_listing(columns)}; name it with --input "
                "(or write a heading such as text,label where the first line is a row)"
            )
        item_name = columns[0]
        note(f"{file}: its only column, {escaped(item_name)}, is read as inputs; the first line is its heading")
    label_name = _column(columns, "label", names.label, RESPONSE_NAMES if names.responses else LABEL_NAMES, file)
    domain_name = _column(columns, "domain", names.domain, DOMAIN_NAMES, file)
    split_name = _column(columns, "split-column", names.split_column, (), file)
    return item_name, label_name, domain_name, split_name


def apply_group_pattern(rows: Rows, pattern: str) -> None:
    """Set group keys by a regular expression: its first group, or the whole match, in a picture's source or a text.

    Args:
        rows: The examples; ``keys`` is filled in place.
        pattern: The regular expression.

    Raises:
        InjertoError: Where the pattern is broken or matches nothing in an example.
    """
    columns = f" nor a column ({_listing(rows.columns)})" if rows.columns else ""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise InjertoError(f"--group '{pattern}' is no regular expression{columns}: {error}; correct it") from error
    for index, item in enumerate(rows.inputs):
        where = item if isinstance(item, str) else rows.sources[index]
        match = search(where)
        key = (match.group(1) if match.re.groups else match.group()) if match else None
        if key is None:
            kind = "is no column" + (f" ({_listing(rows.columns)})" if rows.columns else "")
            raise InjertoError(
                f"--group '{pattern}' {kind} and as a pattern matches nothing in {rows.sources[index]}; correct it"
            )
        rows.keys[index] = key


def _as_fitted(names: ColumnNames, columns: list[str], file: str) -> ColumnNames:
    """The columns that a run was fitted with, in every role that is read and in which none is named."""
    fitted = {role: column for role, column in names.fitted if getattr(names, role) is None}
    if names.inputs_only is not None:
        fitted = {role: column for role, column in fitted.items() if role == "input"}
    for role, column in fitted.items():
        if column not in columns and role != "domain":
            raise InjertoError(
                f"{file} has no column '{column}', from which the run read its {role}s (columns: {_listing(columns)}); "
                f"name another one with --{role}"
            )
    if "domain" in fitted and fitted["domain"] not in columns:
        column = fitted.pop("domain")
        if column not in DOMAIN_NAMES:  # such as the names of a DatasetDict's parts
            note(f"{file} has no column '{column}', from which the run read its domains; --domain names another one")
    return replace(
        names,
        input=names.input or fitted.get("input"),
        label=names.label or fitted.get("label"),
        domain=names.domain or fitted.get("domain"),
    )


def _column(columns: list[str], role: str, named: str | None, guesses: Sequence[str], name: str) -> str | None:
    """The column of that role: as named, else the first guess that exists in any case."""
    if named is not None:
        if named in PRIVATE:
            return named
        if named not in columns:
            raise InjertoError(f"{name} has no column '{named}' (--{role}); {suggest(named, columns)}")
        return named
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[guess] for guess in guesses if guess in lower), None)


def _listing(columns: Sequence[str]) -> str:
    return ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")


def _sides(cells: Sequence[Any], file: str, column: str) -> list[str]:
    """Given splits, in lower case."""
    sides = [clean_name(side).lower() for side in words_of(cells, file, column)]
    for side in sorted(set(sides) - {""}):
        if side not in SIDES:
            raise InjertoError(
                f"{file}: column '{column}' holds '{side}', which is no split; use train, val, test, unlabeled"
            )
    return sides


def _filled(table: Columns, item_name: str) -> list[bool]:
    """Whether a row has any filled cell; with a single column every row counts."""
    shown = [table[item_name], *(cells for column, cells in table.items() if column not in (*PRIVATE, item_name))]
    if len(shown) < 2:
        return [True] * len(shown[0])
    return [any(is_nested(row) or is_picture(row) or word(row) for row in rows) for rows in zip(*shown, strict=True)]


def _spreadsheet_errors(table: Columns, columns: Sequence[str]) -> dict[int, str]:
    """Rows in which a cell that is used holds what a spreadsheet writes where a formula failed."""
    found: dict[int, str] = {}
    for column in columns:
        for index, cell in enumerate(table[column]):
            if isinstance(cell, str) and cell[:1] == "#" and cell.strip() in SPREADSHEET_ERRORS:
                found.setdefault(index, f"column '{column}' holds the spreadsheet error {cell.strip()}")
    return found


def _arrays(items: Sequence[Any], file: str, column: str) -> Sequence[Any]:
    """Arrays of pixels as pictures; any other cell that holds several values is refused."""
    made: list[Any] = []
    for index, cell in enumerate(items):
        if isinstance(cell, np.ndarray) and is_picture(cell):
            try:
                cell = array_image(cell)
            except InjertoError as error:
                raise InjertoError(f"{file}: column '{column}', row {index + 1}: {error}") from None
        made.append(bytes(cell) if isinstance(cell, (bytearray, memoryview)) else cell)
    others = [cell for cell in made if not is_picture(cell)]
    advice = "an input is one text or picture: join the words of a row, or name another column with --input"
    if any(is_chat(cell) for cell in others):
        advice = f"conversations are learned with --task causal-lm, in a column such as {CHAT_NAMES[0]}"
    refuse_nested(others, file, column, advice)
    return made


def _texts(items: Sequence[Any], file: str) -> list[str]:
    return clean_texts([cell if isinstance(cell, str) else word(cell) for cell in items], file)


def _modality(items: Sequence[Any], file: str, column: str, named: bool, base: Path) -> Modality:
    """``image`` where more than half of the first thousand filled cells are pictures or named like one.

    A column whose name means pictures (``image``, ``path``, ...) is read as texts only where it is named.
    """
    filled = list(islice((cell for cell in items if is_picture(cell) or word(cell)), 1000))
    pictures = sum(is_picture(cell) or is_image_name(word(cell)) for cell in filled)
    paths = [word(cell) for cell in filled if not is_picture(cell)]
    means_pictures = column.lower() in PICTURE_NAMES
    finder = PictureNames(base, allow_outside=True)  # files are not read here
    if paths and (means_pictures and not named or pictures * 2 > len(filled)):
        refuse_urls(paths, file, column)
    if pictures * 2 > len(filled):
        return "image"
    if not (means_pictures and filled):
        return "text"
    present = sum(finder.find(place)[0] is not None for place in paths) + len(filled) - len(paths)
    if present * 2 > len(filled):
        return "image"
    if named:
        note(f"{file}: column '{column}' names no picture files and is read as texts")
        return "text"
    raise InjertoError(
        f"{file}: cells of '{column}' are no picture files, first: '{paths[0][:60]}'; add the ending (.png, .jpg) and "
        f"the folder that is missing, or for texts name it with --input {column}"
    )


def _picture(cell: Any, finder: PictureNames) -> tuple[Input | None, str, str]:
    """The picture, its place (its path as written, else empty) and what is wrong with it (else empty)."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, (bytes, Image.Image)):
        return cell, "", ""
    place = word(cell)
    if not place:
        return None, "", "no picture is named"
    path, problem = finder.find(place)
    return path, place, problem
