"""How far apart two samples are for a classifier (A-distance), and as two Gaussians (Frechet distance)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from injerto.basics.files import sha256
from injerto.statistics.bootstrap import bootstrap_interval
from injerto.statistics.twosample import Groups, checked_samples

_ROWS = 1024  # rows at a time
_FLAT = 1e-6  # correlations are at most 1: below this is rounding


@dataclass(frozen=True)
class ADistance:
    """What :func:`a_distance` found.

    Attributes:
        value: In [0, 2].
        error: Balanced held-out error of the domain classifier; 0.5 is chance.
        low: Lower end of the 95 % interval of ``value``.
        high: Upper end.
    """

    value: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Frechet:
    """What :func:`frechet_distance` found.

    Attributes:
        distance: In squared units of the features.
        relative: Over the total variance of both domains mixed in equal parts: no unit, in [0, 4].
    """

    distance: float
    relative: float


def a_distance(x: np.ndarray, y: np.ndarray, *, groups: Groups | None = None, seed: int = 0) -> ADistance:
    """Proxy A-distance: how well a linear classifier tells two domains apart on examples it was not fitted to.

    ``2 (1 - 2 error)`` (Ben-David et al., NIPS 2006; Machine Learning 79, 2010), cut to [0, 2]: 0 where the domains
    cannot be told apart, 2 where they always can. The error is the mean of both domains' error rates, so unequal sizes
    change nothing, and cross-fitted: groups, in the order of the hash of seed and name, take turns between two folds,
    each scored by the other. The classifier is Fisher's linear discriminant on standardized features, their covariance
    shrunk (see :func:`frechet_distance`), cut half way between the means: one Gram matrix per fold, and no trouble with
    more columns than rows.

    Use it to compare backbones of any width. Not where domains are always told apart (2 does not say how far), nor for
    differences that no straight cut shows, as of spread about one mean: MMD sees those. With few rows the classifier is
    poor and the distance reads low.

    Args:
        x: (n, d) embeddings of one domain, float32 or float64.
        y: (m, d) of the other.
        groups: Group name per row of x and per row of y, always in one fold; None for independent rows.
        seed: Of folds and resampling.

    Returns:
        Value, error, and the interval under resampling of held-out groups with the classifiers as they are: without the
        uncertainty of the fit, and a point where no row is mistaken.

    Raises:
        InjertoError: Where a side has fewer than two examples or groups, or features are not finite.
        ValueError: Where the shapes do not fit.
    """
    x, y, names = checked_samples(x, y, groups)
    folds = _folds(names, seed)
    wrong = np.empty(len(x)), np.empty(len(y))
    for fold in (0, 1):
        fit = [(rows, np.flatnonzero(where != fold)) for rows, where in zip((x, y), folds, strict=True)]
        means, covariance, scale = _shrunk_covariance(fit, standardize=True)
        covariance[np.diag_indices_from(covariance)] += _FLAT  # where nothing varies
        weights = np.linalg.solve(covariance, (means[0] - means[1]) / scale) / scale
        for sign, rows, where, out in zip((1, -1), (x, y), folds, wrong, strict=True):
            held = np.flatnonzero(where == fold)
            scores = [(chunk - (means[0] + means[1]) / 2) @ weights for chunk in _chunks(rows, held)]
            out[held] = (1 - sign * np.sign(np.concatenate(scores))) / 2
    error = float(wrong[0].mean() + wrong[1].mean()) / 2
    group, side = np.concatenate(names), np.repeat([0, 1], [len(x), len(y)])
    best, worst = bootstrap_interval(np.concatenate(wrong), group, labels=side, seed=seed)
    value, low, high = (float(np.clip(2 * (1 - 2 * e), 0, 2)) for e in (error, worst, best))
    return ADistance(value, error, low, high)


def frechet_distance(x: np.ndarray, y: np.ndarray) -> Frechet:
    """Frechet distance of the normal distributions with the samples' means and covariances.

    ``|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` (Dowson and Landau, J. Multivariate Analysis 12, 1982; Heusel et
    al., NeurIPS 2017, equation 6, as FID). The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2)
    S2 S1^(1/2), which is symmetric: no complex parts. Float64 throughout.

    *Bias.* Samples of one distribution read above 0, the more the wider and the fewer: the means add tr(S) (1/n + 1/m),
    the covariances more. These are shrunk towards a sphere of equal trace (Ledoit and Wolf, J. Multivariate Analysis
    88, 2004, Lemmas 3.2 to 3.4); OAS (Chen et al. 2010) takes the features for normal and shrinks heavy tails too
    little. For one normal distribution, 256 features of variance 1/k, ``relative`` is 0.74 without and 0.34 with it at
    n = m = 50, 0.23 and 0.17 at 256, 0.06 and 0.05 at 1,000: compare at equal n only. The price: with fewer rows than
    columns, differences in the shape of the covariances fade; those of mean and size stay.

    Use it beside the test, for a size in the features' own units. Not to compare with published FIDs (other features,
    not shrunk), nor across backbones (``relative`` comes nearer to that).

    Args:
        x: (n, d) embeddings of one domain, float32 or float64.
        y: (m, d) of the other.

    Returns:
        The distance and its size relative to the variance; 0 and 0 where all rows are one point.

    Raises:
        InjertoError: Where a side has fewer than two examples, or features are not finite.
        ValueError: Where the shapes do not fit.
    """
    x, y, _ = checked_samples(x, y, None)
    ((mean1,), s1, _), ((mean2,), s2, _) = (_shrunk_covariance([(rows, np.arange(len(rows)))]) for rows in (x, y))
    shift = float(((mean1 - mean2) ** 2).sum())
    distance = shift + _covariance_distance(s1, s2)
    total = float(np.trace(s1) + np.trace(s2)) / 2 + shift / 4
    return Frechet(distance, distance / total if total > 0 else 0.0)


def _folds(names: tuple[np.ndarray, np.ndarray], seed: int) -> list[np.ndarray]:
    """Fold 0 or 1 of every row: shared groups take turns, then those of one side, so that a fold has rows of both."""
    sides = [[str(name) for name in side] for side in names]
    shared = set(sides[0]) & set(sides[1])
    placed: dict[str, int] = {}
    for side in sides:
        ordered = sorted(set(side), key=lambda name: (name not in shared, sha256(seed, name)))
        placed |= {name: turn % 2 for turn, name in enumerate(ordered)}
    return [np.array([placed[name] for name in side]) for side in sides]


def _shrunk_covariance(
    samples: Sequence[tuple[np.ndarray, np.ndarray]], *, standardize: bool = False
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Means of samples (rows, index), covariance about them shrunk (Ledoit and Wolf 2004), scale of the features."""
    width, freedom = samples[0][0].shape[1], max(sum(len(index) for _, index in samples) - len(samples), 1)
    means = [np.sum([chunk.sum(0) for chunk in _chunks(*sample)], axis=0) / len(sample[1]) for sample in samples]
    covariance, scale = np.zeros((width, width)), np.ones(width)
    for sample, mean in zip(samples, means, strict=True):
        for chunk in _chunks(*sample):
            chunk -= mean
            covariance += chunk.T @ chunk
    covariance /= freedom
    if standardize:
        scale = np.sqrt(covariance.diagonal())
        scale[scale == 0] = 1
        covariance /= scale[:, None] * scale
    pairs = zip(samples, means, strict=True)
    lengths = ((((chunk - mean) / scale) ** 2).sum(1) for sample, mean in pairs for chunk in _chunks(*sample))
    centre, squares = np.trace(covariance) / width, float((covariance**2).sum())
    noise = (sum(float(length @ length) for length in lengths) / freedom - squares) / freedom  # mean |z z' - S|^2 / n
    apart = squares - width * centre**2  # |S - centre I|^2
    weight = float(np.clip(noise / apart, 0, 1)) if apart > 0 else 1.0
    covariance *= 1 - weight
    covariance[np.diag_indices(width)] += weight * centre
    return means, covariance, scale


def _covariance_distance(first: np.ndarray, second: np.ndarray) -> float:
    """``tr(S1 + S2 - 2 (S1 S2)^(1/2))``."""
    values, vectors = torch.linalg.eigh(torch.from_numpy(first))
    root = vectors * values.clamp(min=0).sqrt()
    product = torch.linalg.eigvalsh(root.T @ torch.from_numpy(second) @ root)
    return max(float(np.trace(first) + np.trace(second)) - 2 * float(product.clamp(min=0).sqrt().sum()), 0.0)


def _chunks(rows: np.ndarray, index: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of an index in float64, a thousand at a time."""
    for start in range(0, len(index), _ROWS):
        yield rows[index[start : start + _ROWS]].astype(np.float64)
