"""Data in named parts (a ``DatasetDict``, a dict of frames, a folder of tables): the names are splits or domains."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.domains.columns import DOMAIN_NAMES, PRIVATE, SIDES, ColumnNames, rows_from_columns
from injerto.domains.rows import Rows

_SPLIT, _PART = PRIVATE


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        columns: Its columns, of equal length.
        places: What messages call each row; None for ``<name>:<index>``.
    """

    columns: Mapping[str, list[Any]]
    places: list[str] | None = None

    def __len__(self) -> int:
        """The number of rows."""
        return len(next(iter(self.columns.values()), []))


def rows_from_parts(parts: Mapping[str, Part], name: str, names: ColumnNames, *, base: Path) -> Rows:
    """Read parts whose names are given splits where they are known as such, and domains where none is.

    A single part's name says nothing. A column that a part lacks is empty there.

    Args:
        parts: By name.
        name: What to call all of it.
        names: Which column is what.
        base: The folder that picture paths are relative to.

    Returns:
        The examples, part by part.

    Raises:
        InjertoError: For names that are partly splits, and as :func:`injerto.domains.columns.rows_from_columns`.
    """
    known = [key for key in parts if key.lower() in SIDES]
    if known and len(known) < len(parts):
        strange = next(key for key in parts if key not in known)
        raise InjertoError(f"{name}: '{strange}' beside '{known[0]}' is no split; keep only splits, or only domains")
    columns: dict[str, list[Any]] = {}
    for column in dict.fromkeys(column for part in parts.values() for column in part.columns):
        columns[column] = [cell for part in parts.values() for cell in part.columns.get(column, [None] * len(part))]
    keys = [key for key, part in parts.items() for _ in range(len(part))]
    if known and len(parts) > 1 and names.split_column is None:
        columns[_SPLIT] = keys
        names = replace(names, split_column=_SPLIT)
    elif not known and names.domain is None and dict(names.fitted).get("domain") not in columns:
        if any(column.lower() in DOMAIN_NAMES for column in columns):
            note(f"{name}: the names of its parts are the domains, not its column 'domain' (--domain names a column)")
        columns[_PART] = keys
        names = replace(names, domain=_PART)
    places = [place for part in parts.values() for place in part.places or ()]
    return rows_from_columns(columns, name, names, base=base, places=places or None)
