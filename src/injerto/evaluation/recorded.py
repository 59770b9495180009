"""``splits.csv``: a run's examples and their splits; written before the first step, so that changed data show."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256, write_csv
from injerto.domains.domain import Domain

FILE = "splits.csv"
HEADER = ("domain", "content", "split")
Row = tuple[str, str, str]
"""Domain, content hash and split."""


def save_splits(folder: Path, domains: Mapping[str, Domain], sides: Mapping[str, np.ndarray]) -> str:
    """Write ``splits.csv``: which content was in which split.

    Args:
        folder: The run's folder.
        domains: What was read.
        sides: ``train``, ``val``, ``test`` or ``""`` (written as ``unused``) for every example of every domain.

    Returns:
        The SHA-256 of what was written.
    """
    return save_rows(folder, _rows(domains, sides))


def save_rows(folder: Path, rows: Sequence[Row]) -> str:
    """Write ``splits.csv`` from its rows.

    Args:
        folder: The run's folder.
        rows: Domain, content hash and split.

    Returns:
        The SHA-256 of what was written.
    """
    return sha256(write_csv(folder / FILE, HEADER, rows))


def read_rows(path: Path) -> tuple[list[Row] | None, str]:
    """What stands in a ``splits.csv``.

    Args:
        path: The file; it is there.

    Returns:
        Its rows, None where it is damaged; and the SHA-256 of its text, as :func:`save_rows` returned it.
    """
    text = path.read_bytes().decode("utf-8", errors="replace")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    sound = bool(rows) and tuple(rows[0]) == HEADER
    return [(row[0], row[1], row[2]) for row in rows[1:] if len(row) == 3] if sound else None, sha256(text)


def changes(folder: Path, domains: Mapping[str, Domain], sides: Mapping[str, np.ndarray]) -> str | None:
    """What is different from the data that a run began with, in words; None where nothing is, or no record is there.

    Args:
        folder: The run's folder.
        domains: What was read now.
        sides: As for :func:`save_splits`.
    """
    before = _recorded(folder)
    if before is None or before == _rows(domains, sides):
        return None
    return _difference(before, domains) or "the same examples are divided otherwise"


def check_sibling(folder: Path, domains: Mapping[str, Domain], out: Path, skip_bad: bool = False) -> None:
    """Refuse to put runs on other data beside one that is there: what is compared must have seen the same.

    Args:
        folder: The earlier run's folder.
        domains: What was read now, before it was looked for what cannot be decoded.
        out: The folder of all, for the message.
        skip_bad: Whether what cannot be decoded is left out, so that what is there now and was not then says nothing.

    Raises:
        InjertoError: Where examples have come or gone.
    """
    before = _recorded(folder)
    words = None if before is None else _difference(before, domains)
    if words and not (skip_bad and "gone" not in words):
        raise InjertoError(f"--out {out} has runs on other data: {words}; bring the data back, or name another folder")


def _rows(domains: Mapping[str, Domain], sides: Mapping[str, np.ndarray]) -> list[Row]:
    return [
        (name, content, side or "unused")
        for name, domain in domains.items()
        for content, side in zip(domain.contents, sides[name], strict=True)
    ]


def _recorded(folder: Path) -> list[Row] | None:
    path = folder / FILE
    return (read_rows(path)[0] or []) if path.exists() else None


def _difference(before: Sequence[Row], domains: Mapping[str, Domain]) -> str | None:
    """How many examples have come and gone since."""
    then = {(name, content) for name, content, _ in before}
    now = {(name, content) for name, domain in domains.items() for content in domain.contents}
    words = [f"{len(some)} {what}" for some, what in ((then - now, "are gone"), (now - then, "are new")) if some]
    return f"of {len(then)} examples {' and '.join(words)}" if words else None
