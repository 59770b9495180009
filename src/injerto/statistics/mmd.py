"""Maximum mean discrepancy: how far apart two samples are, as a loss and as a test.

``MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)`` (Gretton et al., "A kernel two-sample test", JMLR 13, 2012) with the
mean of several Gaussian kernels (see :mod:`injerto.statistics.kernels`). It is 0 for equal distributions and below 2,
whatever the width of the features, their scale and the number of kernels.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from injerto.basics.errors import InjertoError, suggest
from injerto.statistics.kernels import (
    MULTIPLIERS,
    cast_up,
    gaussian,
    no_autocast,
    resolve_bandwidth,
    row_products,
    squared_distances,
)

Estimator = Literal["unbiased", "biased", "linear"]


def mmd2(
    x: Tensor,
    y: Tensor,
    *,
    estimator: Estimator = "unbiased",
    bandwidth: Tensor | float | None = None,
    multipliers: Sequence[float] = MULTIPLIERS,
    weights: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy of two samples, of any two sizes.

    Args:
        x: (n, d) one sample, any float dtype.
        y: (m, d) the other.
        estimator: ``unbiased`` (Gretton et al. 2012, Lemma 6): the one to train on. Zero on average for equal
            distributions, so often a little negative; do not clamp it, that would bring the bias back.
            ``biased`` (equation 5): never negative, but about E[1 - k] (1/n + 1/m) for equal distributions, a floor
            that only larger batches lower. ``linear`` (Lemma 14): disjoint pairs of the first 2 floor(min(n, m) / 2)
            rows, in the order given; O(n) but about six times as noisy as ``unbiased`` at n = 32, and there not
            faster: for data that never end.
        bandwidth: sigma^2 of k = exp(-d^2 / (2 sigma^2)); None for the median of the pooled sample, see
            :func:`injerto.statistics.kernels.median_bandwidth`.
        multipliers: Of sigma^2, one kernel each; the kernels are averaged.
        weights: (n,) how much each row of ``x`` counts, not negative, not all 0, in any unit (weighted MMD, Yan et al.,
            CVPR 2017, equation 5): the share of its class in ``y``'s distribution over that in ``x``'s undoes a known
            label shift. Where one row has all the weight, no pair within ``x`` counts. Not for ``linear``.
        chunk: Rows at a time, for memory of O(chunk (n + m)) instead of O((n + m)^2), also in the backward pass, which
            computes them again. The result is the same. No use to ``linear``.

    Returns:
        A scalar, float64 for float64, else float32. Differentiable once.

    Raises:
        InjertoError: Where a side has too few examples for the estimator, a weight is negative or no finite number, all
            are 0, or the estimator is unknown.
        ValueError: Where the shapes do not fit, or ``linear`` gets weights.
    """
    _check(x, y, estimator)
    if weights is not None and (estimator == "linear" or weights.shape != (len(x),)):
        raise ValueError(f"need weights ({len(x)},) and an estimator other than linear, not {tuple(weights.shape)}")
    with no_autocast(x):
        x, y = cast_up(x, y)
        shares = None if weights is None else _shares(weights.to(x))
        n, m = len(x), len(y)
        pooled = torch.cat([x, y])
        if estimator == "linear":
            return _linear(x, y, resolve_bandwidth(pooled, bandwidth, multipliers), multipliers)
        unbiased = estimator == "unbiased"
        signed = pooled.new_full((n + m,), -1 / m)
        signed[:n] = 1 / n if shares is None else shares
        offset = 0.0 if unbiased else signed.square().sum()  # the diagonals, k(x, x) = 1
        off: tuple[Tensor | float, float] = (1.0, 1.0)
        if unbiased:  # what the pairs off the diagonal count in all
            off = (1 - 1 / n if shares is None else _off_diagonal(shares), 1 - 1 / m)
        if chunk is None:
            distances = squared_distances(pooled)
            kernel = gaussian(distances, resolve_bandwidth(pooled, bandwidth, multipliers, distances), multipliers)
            return (kernel * _weights(signed, n, off)).sum() + offset
        if chunk < 1:
            raise InjertoError(f"chunk is a number of rows, at least 1, not {chunk}")
        sigma2 = resolve_bandwidth(pooled, bandwidth, multipliers)

        def block(rows: Tensor, everything: Tensor, start: int) -> Tensor:
            kernel = gaussian(squared_distances(rows, everything), sigma2, multipliers)
            return (kernel * _weights(signed, n, off, start, len(rows))).sum()

        blocks = [
            checkpoint(block, rows, pooled, index * chunk, use_reentrant=False, preserve_rng_state=False)
            for index, rows in enumerate(pooled.split(chunk))
        ]
        return torch.stack(blocks).sum() + offset


def class_mmd2(
    x: Tensor,
    y: Tensor,
    wx: Tensor,
    wy: Tensor,
    *,
    bandwidth: Tensor | float | None = None,
    multipliers: Sequence[float] = MULTIPLIERS,
) -> Tensor:
    """Local MMD, class by class (Zhu et al., "Deep subdomain adaptation network", TNNLS 2021, equation 7).

    The mean, over the classes that both samples hold, of the biased MMD^2 between the examples of that class, each
    weighted by how much it belongs there. One kernel matrix serves all classes. As in the paper it has the biased
    estimator's floor, and here every class has its own: with one example a class, E[1 - k] 2. Use it where the classes
    are few beside the batch and target predictions are mostly right; not from the first step on.

    Args:
        x: (n, d) one sample.
        y: (m, d) the other.
        wx: (n, C) how much each example belongs to each class, non-negative: one-hot labels or probabilities. Every
            column is divided by its sum, so a class counts in full however little weight it has: of probabilities, set
            to 0 the classes that no example is predicted to be. Detach them, unless this loss is to train them.
        wy: (m, C) the same for the other sample.
        bandwidth: As in :func:`mmd2`.
        multipliers: As in :func:`mmd2`.

    Returns:
        A scalar, 0 (with its graph) where no class has weight on both sides. Differentiable once.

    Raises:
        InjertoError: Where a side is empty, or a weight is negative.
        ValueError: Where the shapes do not fit.
    """
    _check(x, y, "biased")
    if wx.ndim != 2 or wy.ndim != 2 or wx.shape[1] != wy.shape[1] or len(wx) != len(x) or len(wy) != len(y):
        raise ValueError(
            f"need class weights ({len(x)}, C) and ({len(y)}, C), not {tuple(wx.shape)} and {tuple(wy.shape)}"
        )
    if bool((wx < 0).any()) or bool((wy < 0).any()):  # NaN goes on, for the trainer to see
        raise InjertoError("class weights below 0: give one-hot labels or probabilities")
    with no_autocast(x):
        x, y = cast_up(x, y)
        pooled = torch.cat([x, y])
        wx, wy = wx.to(pooled), wy.to(pooled)
        sums = wx.sum(0), wy.sum(0)
        shared = (sums[0] > 0) & (sums[1] > 0)
        signed = torch.cat([w / torch.where(shared, s, 1) for w, s in ((wx, sums[0]), (-wy, sums[1]))]) * shared
        distances = squared_distances(pooled)
        kernel = gaussian(distances, resolve_bandwidth(pooled, bandwidth, multipliers, distances), multipliers)
        return (kernel * row_products(signed)).sum() / shared.sum().clamp(min=1)


def random_features_mmd2(
    x: Tensor,
    y: Tensor,
    *,
    features: int = 1024,
    seed: int = 0,
    estimator: Literal["unbiased", "biased"] = "unbiased",
    bandwidth: Tensor | float | None = None,
    multipliers: Sequence[float] = MULTIPLIERS,
    chunk: int | None = None,
) -> Tensor:
    """MMD^2 by random Fourier features (Rahimi and Recht, NeurIPS 2007, algorithm 1): O(n) for samples of thousands.

    ``k(x, y)`` is about the mean of ``cos(w (x - y))`` over frequencies w drawn from N(0, 1 / (m sigma^2)); cosine and
    sine of each are kept, which makes k(x, x) exactly 1. Every multiplier gets its share of the frequencies. The error
    falls with the root of their number, and it is the same at every call of one seed. Below a thousand rows
    :func:`mmd2` is exact and about as fast.

    Args:
        x: (n, d) one sample.
        y: (m, d) the other.
        features: Number of frequencies, rounded up to a multiple of the number of multipliers.
        seed: Of the frequencies; the global random state is left alone.
        estimator: ``unbiased`` or ``biased``, as in :func:`mmd2`.
        bandwidth: As in :func:`mmd2`.
        multipliers: As in :func:`mmd2`.
        chunk: Rows at a time, for memory of O(chunk features) instead of O((n + m) features), with the same result.

    Returns:
        A scalar. Differentiable.

    Raises:
        InjertoError: Where a side has too few examples, or the estimator is unknown.
        ValueError: Where the shapes do not fit.
    """
    _check(x, y, estimator, ("unbiased", "biased"))
    if features < 1 or (chunk is not None and chunk < 1):
        raise InjertoError(f"features and chunk are numbers from 1 up, not {features} and {chunk}")
    with no_autocast(x):
        x, y = cast_up(x, y)
        n, m = len(x), len(y)
        pooled = torch.cat([x, y])
        sigma2 = resolve_bandwidth(pooled, bandwidth, multipliers)
        share = -(-features // len(multipliers))
        draws = torch.randn(x.shape[1], len(multipliers), share, generator=torch.Generator().manual_seed(seed)).to(x)
        scales = torch.tensor(multipliers).to(x).mul(sigma2).rsqrt()
        frequencies = (draws * scales[:, None]).flatten(1)
        mean = pooled.detach().mean(0)

        def block(rows: Tensor) -> Tensor:
            phases = row_products(rows - mean, frequencies.T)
            return torch.cat([phases.cos().sum(0), phases.sin().sum(0)])

        def embedding(sample: Tensor) -> Tensor:
            if chunk is None:
                total = block(sample)
            else:
                parts = (
                    checkpoint(block, p, use_reentrant=False, preserve_rng_state=False) for p in sample.split(chunk)
                )
                total = torch.stack(list(parts)).sum(0)
            return total / (len(sample) * frequencies.shape[1] ** 0.5)

        a, b = embedding(x), embedding(y)
        value = (a - b).square().sum()
        if estimator == "biased":
            return value
        return value - (1 - a.square().sum()) / (n - 1) - (1 - b.square().sum()) / (m - 1)


def permutation_test(
    x: Tensor,
    y: Tensor,
    *,
    draws: int = 200,
    seed: int = 0,
    estimator: Estimator = "unbiased",
    bandwidth: Tensor | float | None = None,
    multipliers: Sequence[float] = MULTIPLIERS,
) -> tuple[float, float]:
    """Do two samples come from one distribution? MMD^2 and its p-value by permuting who belongs to which.

    The p-value is ``(1 + #{permuted >= observed}) / (1 + draws)`` (Phipson and Smyth 2010): never 0, and exact for
    independent examples. The kernel matrix, (n + m)^2 in float64 on the CPU, is computed once.

    Args:
        x: (n, d) one sample.
        y: (m, d) the other.
        draws: Permutations; the smallest p-value is 1 / (1 + draws).
        seed: Of the permutations; the global random state is left alone.
        estimator: As in :func:`mmd2`.
        bandwidth: As in :func:`mmd2`; the median does not change with the permutations.
        multipliers: As in :func:`mmd2`.

    Returns:
        MMD^2 and the p-value.

    Raises:
        InjertoError: Where a side has too few examples for the estimator, or the estimator is unknown.
        ValueError: Where the shapes do not fit.
    """
    _check(x, y, estimator)
    n, m = len(x), len(y)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        pooled = torch.cat([sample.detach().cpu().double() for sample in cast_up(x, y)])
        distances = squared_distances(pooled)
        kernel = gaussian(distances, resolve_bandwidth(pooled, bandwidth, multipliers, distances), multipliers)
        order = torch.rand(draws, n + m, generator=torch.Generator().manual_seed(seed)).argsort(1)
        order = torch.cat([torch.arange(n + m)[None], order])  # the first row is what was observed
        if estimator == "linear":
            a, b, c, d = _pairs(order[:, :n].T, order[:, n:].T)
            values = (kernel[a, b] + kernel[c, d] - kernel[a, d] - kernel[b, c]).mean(0)
        else:
            kernel.fill_diagonal_(0)
            member = kernel.new_zeros(draws + 1, n + m).scatter_(1, order[:, :n], 1)
            towards = member @ kernel
            own = (towards * member).sum(1)
            cross = towards.sum(1) - own
            other = kernel.sum() - own - 2 * cross
            (over_x, over_y), offset = ((n * (n - 1), m * (m - 1)), 0.0)
            if estimator == "biased":
                (over_x, over_y), offset = (n * n, m * m), 1 / n + 1 / m
            values = own / over_x + other / over_y - 2 * cross / (n * m) + offset
    observed = float(values[0])
    above = int((values[1:] >= observed - 1e-12).sum())  # rounding must not decide between equal values
    return observed, (1 + above) / (1 + draws)


def _check(x: Tensor, y: Tensor, estimator: str, known: Sequence[str] = get_args(Estimator)) -> None:
    if estimator not in known:
        raise InjertoError(f"unknown MMD estimator {estimator!r}: {suggest(estimator, list(known))}")
    if min(len(x), len(y)) < (1 if estimator == "biased" else 2):
        if estimator == "biased":
            raise InjertoError(f"MMD needs an example on each side, not {len(x)} and {len(y)}")
        raise InjertoError(
            f"the {estimator} MMD needs two examples or more on each side, not {len(x)} and {len(y)}:"
            " take a larger batch, or estimator='biased'"
        )


def _shares(weights: Tensor) -> Tensor:
    """Weights that sum to 1."""
    wrong = int((~((weights >= 0) & (weights < math.inf))).sum())
    if wrong:
        raise InjertoError(
            f"MMD's weights must be finite numbers from 0 up; {wrong} of {weights.numel()} are not:"
            " look for a model whose outputs are not finite"
        )
    if not bool((weights > 0).any()):
        raise InjertoError("MMD's weights are all 0: no example of the first sample counts")
    scaled = weights / weights.max()  # so that the sum of huge weights is finite, and of tiny ones not 0
    return scaled / scaled.sum()


def _off_diagonal(shares: Tensor) -> Tensor:
    """``1 - sum of squares`` of shares that sum to 1, without cancellation where one has nearly all.

    It is 1 where one has all: then no pair has a weight, and what they are divided by does not matter.
    """
    largest = shares.argmax()
    rest = torch.cat([shares[:largest], shares[largest + 1 :]])
    others = rest.sum()
    found = others * (2 - others) - rest.square().sum()
    return torch.where(found > 0, found, 1)


def _weights(
    signed: Tensor, n: int, off: tuple[Tensor | float, float], start: int = 0, rows: int | None = None
) -> Tensor:
    """What each pair of the pooled sample counts, some rows from ``start`` on; nothing on the diagonal.

    ``signed`` is what each example counts: the first ``n`` sum to 1, the others to -1. Pairs within a side are divided
    by its number in ``off``.
    """
    weights = torch.outer(signed[start:][:rows], signed)
    weights.diagonal(start).zero_()
    cut = max(n - start, 0)
    weights[:cut, :n] /= off[0]
    weights[cut:, n:] /= off[1]
    return weights


def _pairs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows 0, 2, 4, ... and 1, 3, 5, ... of both, as many as the shorter one has whole pairs."""
    stop = min(len(x), len(y)) // 2 * 2
    return x[0:stop:2], x[1:stop:2], y[0:stop:2], y[1:stop:2]


def _linear(x: Tensor, y: Tensor, sigma2: Tensor, multipliers: Sequence[float]) -> Tensor:
    a, b, c, d = _pairs(x, y)
    distances = torch.stack([(p - q).square().sum(1) for p, q in ((a, b), (c, d), (a, d), (b, c))])
    kernel = gaussian(distances, sigma2, multipliers)
    return (kernel[:2].sum(0) - kernel[2:].sum(0)).mean()
