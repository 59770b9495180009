"""From a table's columns to rows: which column is what, what a cell means. For files, data frames, Hugging Face."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.progress import note
from injerto.domains.domain import Input, Modality, Problem
from injerto.domains.folders import is_image_name
from injerto.domains.rows import Rows

INPUT_NAMES = ("text", "sentence", "review", "content", "image", "path", "file", "filename", "file_name")
LABEL_NAMES = ("label", "class", "category")
PROMPT_NAMES = ("prompt", "instruction", "question")
RESPONSE_NAMES = ("response", "completion", "output", "answer")
DOMAIN_NAMES = ("domain",)
SIDES: Mapping[str, str] = {
    "train": "train",
    "val": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "unlabeled": "train",
    "unlabelled": "train",
    "unsupervised": "train",
}
UNLABELLED_SIDES = frozenset(("unlabeled", "unlabelled", "unsupervised"))

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
    """

    input: str | None = None
    label: str | None = None
    domain: str | None = None
    group: str | None = None
    split_column: str | None = None
    responses: bool = False
    fitted: tuple[tuple[str, str], ...] = ()
    inputs_only: Modality | None = None


def rows_from_columns(
    table: Columns,
    name: str,
    names: ColumnNames,
    *,
    base: Path,
    file: str | None = None,
    first_row: int = 0,
) -> Rows:
    """Read a table that is already in memory as columns.

    Inputs are pictures where most cells are encoded pictures or end as a picture's file name does, else texts. An empty
    label is no label; an empty text, a picture that does not exist or an empty domain is a problem.

    Args:
        table: The columns by name; cells are strings, numbers, None, PIL images or ``{"bytes", "path"}``.
        name: What to call the table, and the domain where there is no domain column.
        names: Which column is what.
        base: The folder that picture paths are relative to.
        file: What messages call the table; its name by default.
        first_row: The number of the first row in messages.

    Returns:
        The examples.

    Raises:
        InjertoError: For a column that is not there, or a cell in it that cannot be what it should be.
    """
    columns, file = list(table), file or name
    names = _as_fitted(names, columns, file)
    item_name = _column(columns, "input", names.input, (PROMPT_NAMES if names.responses else ()) + INPUT_NAMES, file)
    if item_name is None:
        if len(columns) != 1:
            raise InjertoError(
                f"{file}: no column of texts or picture paths found among {_listing(columns)}; name it with --input"
            )
        item_name = columns[0]
    if names.inputs_only is not None:
        columns, names = [item_name], ColumnNames(input=item_name, inputs_only=names.inputs_only)
    label_name = _column(columns, "label", names.label, RESPONSE_NAMES if names.responses else LABEL_NAMES, file)
    domain_name = _column(columns, "domain", names.domain, DOMAIN_NAMES, file)
    split_name = _column(columns, "split-column", names.split_column, (), file)
    items = table[item_name]
    count = len(items)
    roles = {"input": item_name, "label": label_name, "domain": domain_name}
    used = {role: column for role, column in roles.items() if column is not None}
    rows = Rows(names.inputs_only or _modality(items), name, columns=columns, used=used)
    labels = _labels(table[label_name], file, label_name) if label_name else [None] * count
    domains = [word(cell) for cell in table[domain_name]] if domain_name else [name] * count
    sides = [word(cell).lower() for cell in table[split_name]] if split_name else None
    if sides is not None:
        for side in sorted(set(sides) - {""}):
            if side not in SIDES:
                raise InjertoError(
                    f"{file}: column '{split_name}' holds '{side}', which is no split; use train, val, test, unlabeled"
                )
    grouped = names.group is not None and names.group in columns
    keys = [word(cell) or None for cell in table[names.group or ""]] if grouped else [None] * count
    for index, cell in enumerate(items):
        item, place, problem = _item(cell, rows.modality, base)
        source = place or f"{file}:{index + first_row}"
        if not problem and not domains[index]:
            problem = f"its domain (column '{domain_name}') is empty"
        if problem or item is None:
            rows.problems.append(Problem(source, problem))
            continue
        split = sides[index] if sides is not None else None
        known = None if split in UNLABELLED_SIDES else labels[index]
        rows.add(domains[index], item, known, source, SIDES[split] if split else None)
        rows.keys[-1] = keys[index]
    if split_name is None and "split" in columns and "split" not in (item_name, label_name, domain_name, names.group):
        note(f"{file} has a column 'split' that is not used; add --split-column split to use it")
    return rows


def word(cell: Any) -> str:
    """A cell as a stripped string: ``""`` for None and NaN, ``"1"`` for 1.0 (an integer column with gaps).

    Args:
        cell: A label, domain, split or group cell.
    """
    if cell is None or type(cell).__name__ in ("NAType", "NaTType") or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


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
        if named not in columns:
            raise InjertoError(f"{name} has no column '{named}' (--{role}); {suggest(named, columns)}")
        return named
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[guess] for guess in guesses if guess in lower), None)


def _listing(columns: Sequence[str]) -> str:
    return ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")


def _labels(cells: Sequence[Any], name: str, column: str) -> list[str | None]:
    if any(isinstance(cell, (list, dict, tuple)) for cell in cells):
        raise InjertoError(
            f"{name}: column '{column}' holds lists; one class per example is supported, name another column"
        )
    return [word(cell) or None for cell in cells]


def _modality(items: Sequence[Any]) -> Modality:
    """``image`` where more than half of the first thousand filled cells are pictures or named like one."""
    filled = [cell for cell in items[:1000] if _is_picture(cell) or word(cell)]
    pictures = sum(_is_picture(cell) or is_image_name(word(cell)) for cell in filled)
    return "image" if pictures * 2 > len(filled) else "text"


def _is_picture(cell: Any) -> bool:
    return isinstance(cell, (bytes, Image.Image)) or (isinstance(cell, dict) and ("bytes" in cell or "path" in cell))


def _item(cell: Any, modality: Modality, base: Path) -> tuple[Input | None, str, str]:
    """Input, its place (a picture's path as written, else empty) and what is wrong with it (else empty)."""
    if modality == "text":
        text = cell if isinstance(cell, str) else word(cell)
        return (text, "", "") if text.strip() else (None, "", "the text is empty")
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, (bytes, Image.Image)):
        return cell, "", ""
    place = word(cell)
    if not place:
        return None, "", "no picture is named"
    path = base / place
    return (path, place, "") if path.is_file() else (None, place, "no such file")
