"""Metrics of every domain by role and split: the block of ``metrics.json`` that people read first."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.files import write_csv
from injerto.basics.progress import warn
from injerto.domains.domain import Domain
from injerto.evaluation.metrics import classification_metrics, empty_metrics
from injerto.evaluation.predictor import probabilities
from injerto.tasks.classification import encode

REPORTED = {"source": ("val", "test"), "target": ("train", "test"), "unseen": ("test",)}


def role_of(name: str, sources: Sequence[str], targets: Sequence[str]) -> str:
    """``source``, ``target`` or ``unseen``.

    Args:
        name: The domain.
        sources: Names of the sources.
        targets: Names of the targets.
    """
    return "source" if name in sources else "target" if name in targets else "unseen"


def measure(domain: Domain, logits: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Metrics of one split of one domain; null where it has no labels.

    Examples of a class that the sources do not have can't be right; they are left out and counted.

    Args:
        domain: The examples.
        logits: Theirs, (N, C).
        classes: The class map.
    """
    labels = encode(domain.labels, classes)
    known = labels >= 0
    foreign = int((labels == -2).sum())
    if not known.any():
        result = empty_metrics(len(domain))
    else:
        groups = [group for group, keep in zip(domain.groups, known, strict=True) if keep]
        result = classification_metrics(probabilities(logits[known]), labels[known], classes, groups)
    if foreign:
        result["unknown_class"] = foreign
    return result


def warn_of_unknown(parts: Iterable[Domain], classes: tuple[str, ...]) -> None:
    """Warn once of a domain's examples that no model of these classes can be right on.

    Args:
        parts: Those of its splits that are measured.
        classes: The class map.
    """
    names, count, total = set[str](), 0, 0
    for part in parts:
        codes, name = encode(part.labels, classes), part.name
        total, count = total + len(part), count + int((codes == -2).sum())
        names |= {str(label) for label, code in zip(part.labels, codes, strict=True) if code == -2}
    if count:
        shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
        warn(
            f"oracle: {count} of the {total} measured examples of domain '{name}' have classes that no source has "
            f"({shown}); they are left out of its metrics and can never be predicted"
        )


def prediction_rows(
    domain: Domain, role: str, side: str, logits: np.ndarray, classes: Sequence[str]
) -> list[tuple[str, ...]]:
    """Rows of ``predictions.csv``: what the model says of each example of one split of one domain.

    Args:
        domain: The examples.
        role: ``source``, ``target`` or ``unseen``.
        side: The split.
        logits: Theirs, (N, C).
        classes: The class map.
    """
    said, sure = logits.argmax(axis=1).tolist(), probabilities(logits).max(axis=1).tolist()
    columns = zip(domain.contents, domain.groups, domain.labels, said, sure, strict=True)
    return [
        (domain.name, role, side, content, group, label or "", classes[best], f"{chance:.6f}")
        for content, group, label, best, chance in columns
    ]


def save_predictions(folder: Path, rows: Sequence[tuple[str, ...]]) -> None:
    """Write ``predictions.csv``. No number of a run is computed from it: the labels of targets stand in it.

    Args:
        folder: The run's folder.
        rows: From :func:`prediction_rows`.
    """
    header = ("domain", "role", "split", "content", "group", "label", "predicted", "confidence")
    write_csv(folder / "predictions.csv", header, rows)


def summary(domains: Mapping[str, Any]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Rows of a table: domain, role, split, metrics.

    Args:
        domains: The ``domains`` block of ``metrics.json``.
    """
    return [
        (name, entry["role"], split, entry["splits"][split])
        for name, entry in domains.items()
        for split in entry["splits"]
    ]
