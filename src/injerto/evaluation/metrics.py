"""What a classifier scores on labelled examples, ready for JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.evaluation.calibration import reliability
from injerto.statistics.bootstrap import bootstrap_interval
from injerto.statistics.recall import mean_recall as mean_recall

_SMALLEST = 1e-12  # a probability of 0 for the true class costs -log of this, 27.6, not infinity


def classification_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Score predictions against labels.

    Args:
        probabilities: (N, C) probability per class, rows sum to 1.
        labels: (N,) true class, 0..C-1. Examples of a class the model doesn't know are the caller's to leave out.
        classes: The C class names.
        groups: (N,) group per example; the intervals resample groups.
        seed: Seed of the resampling.

    Returns:
        ``accuracy``; ``balanced_accuracy``, the mean recall over the classes present in ``labels``; ``macro_f1``, the
        mean F1 over the classes present or predicted, as scikit-learn's default; ``nll``, the mean negative natural
        log-likelihood with probabilities clipped at 1e-12; ``ece``, the calibration error over 15 equal-width bins of
        the top probability (Guo et al., ICML 2017, eq. 3); ``n``; ``accuracy_interval`` and
        ``balanced_accuracy_interval``, 95 % ``[low, high]``; ``per_class``, ``{class: {precision, recall, f1, n}}``,
        None where a class was never predicted (precision), never present (recall) or neither (f1); ``confusion``,
        C x C counts, rows are true classes. With no examples, :func:`empty_metrics`.

    Raises:
        InjertoError: Where a probability is not a finite number.
        ValueError: Where shapes disagree or a label lies outside 0..C-1.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels)
    count = len(labels)
    if probabilities.shape != (count, len(classes)) or len(groups) != count:
        raise ValueError(
            f"probabilities {probabilities.shape} for {count} labels, {len(groups)} groups and {len(classes)} classes"
        )
    if count == 0:
        return empty_metrics(0)
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels must lie in 0..{len(classes) - 1}, found {labels.min()}..{labels.max()}")
    broken = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if broken:
        raise InjertoError(
            f"the model returned probabilities that are not numbers for {broken} of {count} examples; "
            "train it again with a smaller --lr or --precision fp32"
        )

    predicted = probabilities.argmax(axis=1)
    right = (predicted == labels).astype(np.float64)
    known = range(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=known, zero_division=np.nan
    )
    likelihood = np.clip(probabilities[np.arange(count), labels], _SMALLEST, 1.0)
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(np.nanmean(f1)),
        "nll": float(-np.log(likelihood).mean()),
        "ece": reliability(probabilities, labels).ece,
        "n": count,
        "accuracy_interval": _interval(right, groups, None, seed),
        "balanced_accuracy_interval": _interval(right, groups, labels, seed),
        "per_class": {
            name: {
                "precision": _number(precision[index]),
                "recall": _number(recall[index]),
                "f1": _number(f1[index]),
                "n": int(support[index]),
            }
            for index, name in enumerate(classes)
        },
        "confusion": confusion_matrix(labels, predicted, labels=known).tolist(),
    }


def _interval(right: np.ndarray, groups: Sequence[str], labels: np.ndarray | None, seed: int) -> list[float]:
    """The bootstrap interval; where all or none are right, which resampling cannot widen, the exact binomial one.

    Clopper & Pearson 1934, with the number of groups as the number of trials.
    """
    if 0 < right.sum() < len(right):
        return list(bootstrap_interval(right, groups, labels=labels, seed=seed))
    bound = 0.025 ** (1 / len(set(groups)))
    return [bound, 1.0] if right.all() else [0.0, 1 - bound]


def empty_metrics(n: int) -> dict[str, Any]:
    """The six numbers of a split whose examples have no labels.

    Args:
        n: How many examples there are.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``nll`` and ``ece`` as None, and ``n``.
    """
    return {"accuracy": None, "balanced_accuracy": None, "macro_f1": None, "nll": None, "ece": None, "n": n}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
