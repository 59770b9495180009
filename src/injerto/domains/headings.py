"""Headings of a table: cleaned, and each there once."""

from collections.abc import Iterable
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.domains.characters import clean_name


def unique_headings(headings: Iterable[Any], where: str) -> list[str]:
    """Headings without spaces around them and invisible characters; a blank one becomes ``Unnamed: <place>``.

    Args:
        headings: Of all columns.
        where: What the message calls the table.

    Raises:
        InjertoError: Where a name comes again: which column is meant cannot be told.
    """
    names: list[str] = []
    seen: set[str] = set()
    for place, heading in enumerate(headings):
        name = clean_name(str(heading)) or f"Unnamed: {place}"
        if name in seen:
            raise InjertoError(f"{where} has two columns '{name}'; rename one")
        seen.add(name)
        names.append(name)
    return names
