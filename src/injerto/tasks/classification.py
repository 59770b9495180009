"""The classification task: labels to indices, loss, probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from injerto.basics.errors import InjertoError
from injerto.domains.domain import Domain


def class_map(domains: Mapping[str, Domain], sources: Sequence[str]) -> tuple[str, ...]:
    """The classes, from the sources alone, sorted by name.

    Args:
        domains: All domains.
        sources: Names of the sources.

    Raises:
        InjertoError: Where the sources have no labels, or one class only.
    """
    found = sorted({label for name in sources for label in domains[name].labels if label is not None})
    where = ", ".join(sources)
    if not found:
        raise InjertoError(f"source {where} has no labels; a source needs class folders or a label column (--label)")
    if len(found) == 1:
        raise InjertoError(f"source {where} has one class only ('{found[0]}'); classification needs at least two")
    return tuple(found)


def encode(labels: Sequence[str | None], classes: Sequence[str]) -> np.ndarray:
    """Class indices, int64 (n,); -1 where there is no label, -2 where the sources do not know the class.

    Args:
        labels: Class names or None.
        classes: The class map.
    """
    index = {name: position for position, name in enumerate(classes)}
    return np.asarray([-1 if label is None else index.get(label, -2) for label in labels], np.int64)


def classification_losses(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None, smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each labelled example.

    Args:
        logits: (B, C).
        labels: Class indices (B,), -1 for unlabelled; or weights of the classes (B, C), all 0 for unlabelled.
        weights: Weight of each class (C,), mean 1 over the train examples, None for equal ones.
        smoothing: Share of the probability spread over all classes (Szegedy et al. 2016, section 7).

    Returns:
        Losses (n,) of the labelled examples, ``-sum_c w_c y_c log p_c`` for a label y (smoothed, mixed or whole), and
        which these are, (B,). Their mean over the examples does not depend on which classes a batch happens to hold.
    """
    labelled = labels >= 0 if labels.ndim == 1 else labels.sum(1) > 0
    known = labels[labelled]
    each = functional.cross_entropy(logits[labelled], known, weights, reduction="none", label_smoothing=smoothing)
    return each, labelled


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """The mean of :func:`classification_losses`, a scalar.

    Args:
        logits: (B, C).
        labels: Class indices (B,), -1 for unlabelled.
        weights: Weight of each class (C,), None for equal ones.
        smoothing: Share of the probability spread over all classes.
    """
    each, labelled = classification_losses(logits, labels, weights, smoothing)
    return each.sum() / labelled.sum().clamp_min(1)


def balanced_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Inverse-frequency weights whose mean over the examples is 1, float32 (C,).

    Args:
        labels: Class indices of the labelled train examples.
        classes: Number of classes.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    present = counts > 0
    weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
    return torch.from_numpy(weights.astype(np.float32))
