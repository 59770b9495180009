"""Names of classes and domains that are hardly what they should be: look-alikes, words for no label, several in one."""

import re
from collections.abc import Iterable, Sequence

from injerto.domains.characters import look

NO_LABEL = frozenset(("na", "n/a", "nan", "null", "none", "unlabeled", "unlabelled", "?", "\\n", "(null)", "<na>"))
"""Words that mean no label more often than a class, in lower case."""
_MARKS = re.compile(r"\s*[;,|]\s*")


def means_no_label(name: str) -> bool:
    """Whether a class is named by a word that more often means no label.

    Args:
        name: The class.
    """
    return name.strip("_").lower() in NO_LABEL


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Names that are hardly told from each other, together and sorted.

    Args:
        names: Of classes or domains.
    """
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(look(name), set()).add(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def several_in_one(names: Sequence[str]) -> list[str]:
    """Classes that look as several labels in one cell: their parts are classes, or parts of others, too.

    Args:
        names: Of the classes.
    """
    parts = {name: [part for part in _MARKS.split(name) if part] for name in names}
    joined = [name for name in names if len(parts[name]) > 1]
    counts: dict[str, int] = {}
    for name in names:
        for part in set(parts[name]):
            counts[part] = counts.get(part, 0) + 1
    return [name for name in joined if all(counts[part] > 1 for part in parts[name])]
