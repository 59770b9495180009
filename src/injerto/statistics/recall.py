"""Balanced accuracy."""

import numpy as np


def mean_recall(right: np.ndarray, labels: np.ndarray) -> float:
    """Balanced accuracy: the share that is right, averaged over the classes that are there.

    Args:
        right: Whether each example's prediction is right, or another number for each, (n,), n > 0.
        labels: True class of each, (n,).
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return float((np.bincount(index, weights=right) / counts).mean())
