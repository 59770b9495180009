"""From the embedding to the classes: linear, mlp, and the converged logistic regression."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

MLP_WIDTH = 512


class Standardized(nn.Module):
    """Layers whose input is standardized: ``shift`` and ``scale`` are estimated once, on the source's train split.

    :meth:`fold` puts the two into the first linear layer in the end, so that what ships needs neither.
    """

    shift: torch.Tensor
    scale: torch.Tensor
    layers: nn.Sequential

    def __init__(self, width: int, layers: nn.Sequential) -> None:
        """Begin without a standardization.

        Args:
            width: Numbers in an embedding.
            layers: The first is linear.
        """
        super().__init__()
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.layers = layers

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """What the layers make of the standardized embedding, float32.

        Args:
            embedding: (B, D).
        """
        return self.layers(self.standardized(embedding))

    def standardized(self, embedding: torch.Tensor) -> torch.Tensor:
        """The embedding with mean 0 and deviation about 1 over the source, float32 (B, D).

        Args:
            embedding: (B, D).
        """
        return (embedding.float() - self.shift) * self.scale

    @torch.no_grad()
    def standardize(self, embeddings: torch.Tensor, moving: bool = False) -> None:
        """Estimate ``shift``, the mean per dimension, and ``scale``.

        The scale is one over the standard deviation of each dimension, one that hardly varies (below a hundredth of
        the mean deviation) not being blown up; or, for a backbone that will move, one over the root of the mean
        variance for all.

        Args:
            embeddings: Embeddings of source train examples, float32 (n, D).
            moving: Whether training will change the embeddings.
        """
        deviation = embeddings.std(dim=0, correction=0)
        if moving:
            deviation = deviation.square().mean().sqrt().expand_as(deviation)
        floor = 0.01 * deviation.mean() + 1e-12
        self.shift.copy_(embeddings.mean(dim=0))
        self.scale.copy_(1 / deviation.clamp_min(floor))

    @torch.no_grad()
    def fold(self) -> None:
        """Put the standardization into the first linear layer: the same function without it."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        weight = first.weight.double() * self.scale.double()
        bias = first.bias.double() - weight @ self.shift.double()
        first.weight.copy_(weight)
        first.bias.copy_(bias)
        self.shift.zero_()
        self.scale.fill_(1)


class Neck(Standardized):
    """A trainable projection before the head: Linear, LayerNorm, ReLU."""

    def __init__(self, width_in: int, width: int) -> None:
        """Build the layers.

        Args:
            width_in: Numbers in the backbone's embedding.
            width: Numbers it is projected to.
        """
        super().__init__(width_in, nn.Sequential(nn.Linear(width_in, width), nn.LayerNorm(width), nn.ReLU()))


class Head(Standardized):
    """Standardizes the embedding, then classifies it.

    Embeddings of different backbones differ in scale by orders of magnitude; with ``shift`` and ``scale`` estimated
    once on the source's train split, one learning rate serves all of them. Under a frozen backbone every dimension has
    a scale of its own; where the backbone moves all share one, for a dimension that hardly varies now may soon vary
    much, and its own scale would blow that up. What ships is a plain ``nn.Linear`` (or two with a GELU between).
    """

    def __init__(self, width: int, classes: int, kind: str = "linear") -> None:
        """Build the layers; a linear head starts at zero, so that the first step is the same for every seed.

        Args:
            width: Numbers in an embedding.
            classes: Number of classes.
            kind: ``linear`` or ``mlp``.
        """
        hidden = [nn.Linear(width, MLP_WIDTH), nn.GELU()] if kind == "mlp" else []
        super().__init__(width, nn.Sequential(*hidden, nn.Linear(MLP_WIDTH if hidden else width, classes)))
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def solve_probe(
    embeddings: np.ndarray,
    labels: np.ndarray,
    val_score: Callable[[np.ndarray, np.ndarray], tuple[float, float]] | None,
    balanced: bool = False,
    strengths: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
) -> tuple[np.ndarray, np.ndarray, float]:
    """Converged multinomial logistic regression on standardized embeddings (scikit-learn, L-BFGS).

    Args:
        embeddings: (n, D), already standardized.
        labels: Class indices (n,).
        val_score: Score of weight (C, D) and bias (C,) on source ``val``, larger is better; None without ``val``.
        balanced: Whether classes count equally.
        strengths: Inverse regularization strengths C to choose from.

    Returns:
        Weight (C, D), bias (C,) and the chosen C (0.1 without ``val``); ties go to the stronger regularization.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    best: tuple[tuple[float, float], np.ndarray, np.ndarray, float] | None = None
    start: tuple[np.ndarray, np.ndarray] | None = None
    # One thread is as fast as two, and ten times faster where torch's own wait busily.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")  # one example of a class is no regression
        for strength in strengths if val_score else (0.1,):
            model = LogisticRegression(
                C=strength, max_iter=2000, tol=1e-5, class_weight="balanced" if balanced else None, warm_start=True
            )
            if start is not None:
                model.coef_, model.intercept_, model.classes_ = start[0], start[1], np.unique(labels)
            model.fit(embeddings, labels)
            start = (model.coef_.copy(), model.intercept_.copy())
            weight, bias = model.coef_, model.intercept_
            if len(weight) == 1:  # two classes: scikit-learn keeps the difference only; give each half of it
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
            score = val_score(weight, bias) if val_score else (0.0, 0.0)
            if best is None or score > best[0]:
                best = (score, weight, bias, strength)
    assert best is not None
    return best[1], best[2], best[3]
