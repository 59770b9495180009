"""Metrics of every domain by role and split: the block of ``metrics.json`` that people read first."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
        names = sorted({str(label) for label, code in zip(domain.labels, labels, strict=True) if code == -2})
        result["unknown_class"] = foreign
        warn(
            f"oracle: domain '{domain.name}' has {foreign} examples of classes no source has ({', '.join(names[:5])}); "
            "they are left out of its metrics and can never be predicted"
        )
    return result


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
