"""Which row of a comparison to take where the target has no labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from injerto.evaluation.validators import FLOOR

CHOOSER = "infomax"
"""The validator that lost least in benchmarks/studies/validators.md."""


def choose(rows: Sequence[Mapping[str, Any]], validator: str = CHOOSER) -> dict[str, Any] | None:
    """The row with the highest score of a validator, the mean over its seeds, among those that its guard lets pass.

    Rows are compared on the same seeds. One is turned away where, in half of the seeds or more, its own guard rejected
    the model (see :func:`injerto.evaluation.validators.judge`) or its accuracy on source ``val`` is more than
    :data:`injerto.evaluation.validators.FLOOR` below the best of all rows. No label of a target is looked at.

    Args:
        rows: Of ``results.json``.
        validator: One of :data:`injerto.evaluation.validators.VALIDATORS`.

    Returns:
        ``validator``, the chosen ``row``, ``scores`` by row and the rows ``turned_away``; None where there are no two
        rows with scores. Where all are turned away the row is the one with the best source accuracy.
    """
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok" and row.get("validators"):
            found.setdefault(row["row"], {})[row["seed"]] = row
    if len(found) < 2:
        return None
    most = max(map(len, found.values()))
    found = {label: own for label, own in found.items() if len(own) == most}
    seeds = sorted(set.intersection(*map(set, found.values())))
    if len(found) < 2 or not seeds:
        return None
    source = {label: np.asarray([_source(own[seed]) for seed in seeds]) for label, own in found.items()}
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


def _source(row: Mapping[str, Any]) -> float:
    """Accuracy on source ``val``, averaged over the sources that have one."""
    values = [
        entry["splits"]["val"]["accuracy"]
        for entry in row["domains"].values()
        if entry["role"] == "source" and "val" in entry["splits"]
    ]
    return float(np.mean(values)) if values else 0.0
