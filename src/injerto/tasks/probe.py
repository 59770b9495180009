"""The converged probe on embeddings: what a backbone knows about classes, as one number and one linear layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from injerto.basics.errors import InjertoError
from injerto.statistics.recall import mean_recall
from injerto.tasks.heads import Head, solve_probe

NEVER = -30.0
"""Bias of a class without train examples: it is never predicted."""
Score = tuple[float, float]
"""Accuracy and minus the NLL: larger is better, the second breaks ties. Where classes count equally, both are means
over the classes."""


@dataclass(frozen=True)
class Probe:
    """A solved probe on embeddings as the backbone gives them.

    Attributes:
        weight: (C, D), float64.
        bias: (C,), float64.
        strength: Inverse regularization strength, chosen on ``val``.
        score: On ``val``, None without one.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    score: Score | None

    def logits(self, embeddings: np.ndarray) -> np.ndarray:
        """Logits, float64 (N, C).

        Args:
            embeddings: (N, D).
        """
        return embeddings.astype(np.float64) @ self.weight.T + self.bias

    @torch.no_grad()
    def install(self, head: Head) -> None:
        """Let a linear head compute the probe; its standardization stays as it is.

        Args:
            head: A head of one linear layer.
        """
        layer = head.layers[0]
        assert isinstance(layer, torch.nn.Linear)
        weight = torch.from_numpy(self.weight).to(head.scale.device)
        layer.weight.copy_(weight / head.scale.double())
        layer.bias.copy_(torch.from_numpy(self.bias).to(weight.device) + weight @ head.shift.double())


def fit_probe(
    embeddings: np.ndarray,
    labels: np.ndarray,
    vals: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: int,
    balanced: bool = False,
) -> Probe:
    """Logistic regression on standardized embeddings, its regularization chosen on ``val``.

    Args:
        embeddings: Of train examples, (n, D).
        labels: Their class indices (n,).
        vals: Embeddings and class indices of each ``val`` split; the score is the mean over them.
        classes: Number of classes.
        balanced: Whether classes count equally, in the loss and in the score.

    Raises:
        InjertoError: Where all train examples are of one class.
    """
    with torch.random.fork_rng(devices=[]):  # a new layer draws its weights
        head = Head(embeddings.shape[1], classes)
    head.standardize(torch.from_numpy(np.ascontiguousarray(embeddings, np.float32)))
    shift, scale = head.shift.double().numpy(), head.scale.double().numpy()
    present = np.unique(labels)
    if len(present) < 2:
        raise InjertoError("all examples that a probe is fitted on are of one class; it needs two classes or more")
    vals = [(values, truth) for values, truth in vals if len(truth)]

    def whole(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        full = np.zeros((classes, embeddings.shape[1])), np.full(classes, NEVER)
        full[0][present] = weight * scale
        full[1][present] = bias - full[0][present] @ shift
        return full

    def score(weight: np.ndarray, bias: np.ndarray) -> Score:
        weight, bias = whole(weight, bias)
        found = [quick_score(values @ weight.T + bias, truth, balanced) for values, truth in vals]
        return float(np.mean([one for one, _ in found])), float(np.mean([other for _, other in found]))

    standardized = (embeddings.astype(np.float64) - shift) * scale
    weight, bias, strength = solve_probe(standardized, labels, score if vals else None, balanced)
    return Probe(*whole(weight, bias), strength, score(weight, bias) if vals else None)


def quick_score(logits: np.ndarray, labels: np.ndarray, balanced: bool = False) -> Score:
    """Accuracy and minus NLL, without the rest of a report.

    Args:
        logits: (N, C).
        labels: Class indices (N,).
        balanced: Whether classes count equally: balanced accuracy, and the mean over the classes of their mean NLL.
    """
    from scipy.special import log_softmax

    likely = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    right, likely = logits.argmax(axis=1) == labels, np.maximum(likely, np.log(1e-12))
    if balanced:
        return mean_recall(right, labels), mean_recall(likely, labels)
    return float(right.mean()), float(likely.mean())
