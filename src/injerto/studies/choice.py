"""Which row of a comparison to take where nothing but the sources has labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from injerto.evaluation.validators import FLOOR
from injerto.recipe.recipe import is_balanced

CHOOSER = "infomax"
"""The validator that lost least in benchmarks/studies/validators.md."""


def choose(rows: Sequence[Mapping[str, Any]], validator: str = CHOOSER) -> dict[str, Any] | None:
    """The row with the highest score of a validator, the mean over its seeds, among those that its guard lets pass.

    Rows are compared on the same seeds. One is turned away where, in half of the seeds or more, its own guard rejected
    the model (see :func:`injerto.evaluation.validators.judge`) or its accuracy on source ``val`` is more than
    :data:`injerto.evaluation.validators.FLOOR` below the best of all rows; it is the balanced one where all rows have
    balanced class weights (:func:`measure_of`). No label of a target is looked at. Where no
    run has a target, there is nothing to validate: see :func:`choose_by_source`.

    Args:
        rows: Of ``results.json``.
        validator: One of :data:`injerto.evaluation.validators.VALIDATORS`.

    Returns:
        ``validator``, the chosen ``row``, ``scores`` by row and the rows ``turned_away``; None where there are no two
        rows with scores. Where all are turned away (:func:`all_turned_away`) the row is
        the one with the best source accuracy.
    """
    if not any(row.get("validators") for row in rows):
        return choose_by_source(rows)
    found, seeds = _alike([row for row in rows if row["status"] == "ok" and row.get("validators")])
    if len(found) < 2 or not seeds:
        return None
    measure = measure_of(rows)
    source = {
        label: np.asarray([source_val(own[seed], measure) or 0.0 for seed in seeds]) for label, own in found.items()
    }
    best = np.max(list(source.values()), axis=0)
    scores, turned = {}, []
    for label, own in found.items():
        judged = [own[seed]["validators"] for seed in seeds]
        scores[label] = float(np.mean([block[f"scores/{validator}"] for block in judged]))
        rejected = np.asarray([block.get("rejected") is not None for block in judged])
        if 2 * (rejected | (source[label] < best - FLOOR)).sum() >= len(seeds):
            turned.append(label)
    left = [label for label in found if label not in turned]
    chosen = max(left, key=lambda label: scores[label]) if left else max(source, key=lambda label: source[label].mean())
    return {"validator": validator, "row": chosen, "scores": scores, "turned_away": turned, "seeds": seeds}


def all_turned_away(choice: Mapping[str, Any]) -> bool:
    """Whether the guard let no row pass, so that source accuracy had to decide.

    Args:
        choice: From :func:`choose`.
    """
    return len(choice["turned_away"]) == len(choice["scores"])


def in_hindsight(rows: Sequence[Mapping[str, Any]], label: str, name: str) -> tuple[str, float] | None:
    """The row that was better than another by the most on a domain's test, on the seeds that both have; an oracle.

    Args:
        rows: Of ``results.json``.
        label: The row it is held against.
        name: The domain.

    Returns:
        The row and the difference of its mean accuracy; None where none was better.
    """
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        splits = row["domains"].get(name, {}).get("splits", {}) if row["status"] == "ok" else {}
        accuracy = splits.get("test", {}).get("accuracy")
        if accuracy is not None:
            found.setdefault(row["row"], {})[row["seed"]] = accuracy
    own = found.get(label, {})
    better = {
        other: float(np.mean([values[seed] - own[seed] for seed in common]))
        for other, values in found.items()
        if (common := sorted(set(values) & set(own)))
    }
    best = max(better, key=lambda other: better[other], default=None)
    return None if best is None or better[best] <= 0.0005 else (best, better[best])


def choose_by_source(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The row with the highest mean accuracy on source ``val`` over the same seeds, the first of equals.

    It is the balanced accuracy where all rows have balanced class weights.

    The rule for domains that nobody has seen ("training-domain validation set": Gulrajani and Lopez-Paz, In Search of
    Lost Domain Generalization, 2021, section 3).

    Args:
        rows: Of ``results.json``.

    Returns:
        ``rule``, the chosen ``row``, ``scores`` by row, ``turned_away`` (none) and ``seeds``; None where there are no
        two rows, where they have other sources, or none has a ``val``.
    """
    found, seeds = _alike([row for row in rows if row["status"] == "ok"])
    sources = {
        frozenset(name for name, entry in row["domains"].items() if entry["role"] == "source")
        for own in found.values()
        for row in own.values()
    }
    if len(found) < 2 or not seeds or len(sources) > 1:
        return None
    scores, measure = {}, measure_of(rows)
    for label, own in found.items():
        values = [value for seed in seeds if (value := source_val(own[seed], measure)) is not None]
        if len(values) < len(seeds):
            return None
        scores[label] = float(np.mean(values))
    chosen = max(scores, key=lambda label: scores[label])
    rule = "source val" if measure == "accuracy" else "source val, balanced"
    return {"rule": rule, "row": chosen, "scores": scores, "turned_away": [], "seeds": seeds}


def measure_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The accuracy by which runs are compared: the balanced one where all of them have balanced class weights.

    Where some have and others not, one measure must hold for all: the plain one.

    Args:
        rows: Of ``results.json``.

    Returns:
        ``accuracy`` or ``balanced_accuracy``.
    """
    return "balanced_accuracy" if rows and all(is_balanced(row.get("recipe") or {}) for row in rows) else "accuracy"


def _alike(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[int, Mapping[str, Any]]], list[int]]:
    """Runs by row and seed, without rows that lack seeds that others have; and the seeds that all have."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["row"], {})[row["seed"]] = row
    most = max(map(len, found.values()), default=0)
    found = {label: own for label, own in found.items() if len(own) == most}
    return found, sorted(set.intersection(*map(set, found.values()))) if found else []


def source_val(row: Mapping[str, Any], metric: str = "accuracy") -> float | None:
    """A metric on source ``val``, averaged over the sources that have one; None where there is no ``val``.

    Args:
        row: Of one run.
        metric: ``accuracy``, ``balanced_accuracy`` or ``nll``.
    """
    vals = [entry["splits"].get("val", {}) for entry in row["domains"].values() if entry["role"] == "source"]
    values = [val[metric] for val in vals if val.get(metric) is not None]
    return float(np.mean(values)) if values else None
