"""Do the probabilities mean what they say: reliability per bin and the expected calibration error."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram as numbers: what was promised and what was kept, per bin of the top probability.

    Attributes:
        confidence: (bins,) mean top probability in the bin, NaN where the bin is empty.
        accuracy: (bins,) share of right predictions in the bin, NaN where the bin is empty.
        count: (bins,) examples in the bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean |accuracy - confidence| over examples (Guo et al., ICML 2017, eq. 3)."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((self.count[filled] * gaps).sum() / self.count.sum())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Sort predictions into equal-width bins ((m-1)/M, m/M] of their top probability (Guo et al., 2017, section 2).

    Args:
        probabilities: (N, C) probability per class, rows sum to 1; N >= 1.
        labels: (N,) true class, 0..C-1.
        bins: The number of bins M.

    Returns:
        Confidence, accuracy and count per bin, and from them the calibration error.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    return reliability_of(probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(labels), bins)


def reliability_of(top: np.ndarray, right: np.ndarray, bins: int = 15) -> Reliability:
    """The same from what was promised and whether it was kept.

    Args:
        top: (N,) the predicted class' probability; N >= 1.
        right: (N,) whether the prediction is right.
        bins: The number of bins M.
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(edges, top, side="left")
    count = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, weights=values, minlength=bins) for values in (top, right)]
    confidence, accuracy = (np.divide(s, count, out=np.full(bins, np.nan), where=count > 0) for s in sums)
    return Reliability(confidence, accuracy, count)
