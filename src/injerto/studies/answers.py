"""What the runs of a comparison said of each example, read from their predictions."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from injerto.adapters.card import load_card
from injerto.basics.errors import InjertoError
from injerto.basics.escapes import read_guarded
from injerto.basics.files import sha256
from injerto.evaluation.recorded import check_recorded

BOTH = "train+test"
"""All examples of a target: those it was adapted on, and the others."""
NEEDED = {"domain", "role", "split", "content", "group", "label", "predicted"}
"""Columns of ``predictions.csv``."""
Key = tuple[str, str]
"""Domain and split."""


@dataclass(frozen=True)
class Answers:
    """What one run said of one split of one domain, without examples that it cannot be right on.

    Attributes:
        role: ``source``, ``target`` or ``unseen``.
        right: 1 for right, 0 for wrong, (N,).
        groups: Numbers of their groups, (N,).
        examples: Digest of the examples, in their order.
        names: What the groups are called, by number: the same in all runs.
        strata: Domain of each where there are several, (N,); each then weighs the same.
    """

    role: str
    right: np.ndarray
    groups: np.ndarray
    examples: str
    names: tuple[str, ...] = ()
    strata: np.ndarray | None = None

    def mean(self) -> float:
        """The accuracy; over several domains its mean."""
        if self.strata is None:
            return float(self.right.mean())
        return float(np.mean([self.right[self.strata == one].mean() for one in np.unique(self.strata)]))

    def named(self) -> np.ndarray:
        """What each example's group is called, (N,): the same group has the same name in every run."""
        return np.asarray(self.names)[self.groups] if self.names else self.groups


def read_predictions(run: Path) -> list[dict[str, str]]:
    """The lines of ``predictions.csv``.

    Args:
        run: The run's folder.

    Raises:
        InjertoError: Where the file is missing or damaged.
    """
    path = run / "predictions.csv"
    check_recorded(run, [path.name])
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = read_guarded(stream.read()) or [[]]
        lines = [dict(zip(header, row, strict=True)) for row in rows if row]
        if lines and not set(lines[0]) >= NEEDED:
            raise KeyError
    except (OSError, KeyError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise InjertoError(f"cannot read {path}: {reason}; remove {run} to do the run again") from None
    return lines


def read_answers(run: Path) -> dict[Key, Answers]:
    """The predictions of a finished run by domain and split; of a target also on :data:`BOTH` together.

    Args:
        run: Its folder.

    Raises:
        InjertoError: Where ``predictions.csv`` is missing or damaged.
    """
    classes = set(load_card(run / "adapter")["labels"])
    found: dict[Key, tuple[str, list[dict[str, str]]]] = {}
    for line in read_predictions(run):
        name, role, split = line["domain"], line["role"], line["split"]
        sides = (split, BOTH) if role == "target" and split in BOTH.split("+") else (split,)
        for side in sides:
            lines = found.setdefault((name, side), (role, []))[1]
            if line["label"] in classes:
                lines.append(line)
    return {key: _answers(*value) for key, value in found.items()}


def _answers(role: str, lines: Sequence[Mapping[str, str]]) -> Answers:
    columns = [[line[name] for line in lines] for name in ("content", "group", "label")]
    right = np.asarray([line["predicted"] == line["label"] for line in lines], dtype=np.float64)
    names = sorted(set(columns[1]))
    number = {name: place for place, name in enumerate(names)}
    groups = np.asarray([number[name] for name in columns[1]], dtype=np.int64)
    return Answers(role, right, groups, sha256(*(text for column in columns for text in column)), tuple(names))


def join(parts: Sequence[Answers]) -> Answers:
    """What runs with one seed said of a domain each, as one; a group that is in several domains stays one.

    Args:
        parts: One or more, of the same role, with names of their groups.
    """
    names = [part.names[group] for part in parts for group in part.groups]
    return Answers(
        parts[0].role,
        np.concatenate([part.right for part in parts]),
        np.unique(names, return_inverse=True)[1],
        sha256(*(part.examples for part in parts)),
        tuple(sorted(set(names))),
        np.repeat(np.arange(len(parts)), [len(part.right) for part in parts]),
    )
