"""Squared distances, the median bandwidth, and the mean of several Gaussian kernels.

One convention everywhere: ``k(x, y) = exp(-|x - y|^2 / (2 sigma^2))``, and a bandwidth is the number sigma^2, in
squared units of the features. Everything is computed in float32 or better, under autocast too.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from injerto.basics.errors import InjertoError
from injerto.basics.progress import warn

MULTIPLIERS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The kernels' bandwidths in units of sigma^2: a geometric grid round the median (Long et al., ICML 2015)."""

_SAMPLE = 2000  # rows the median is taken over at most: two million pairs
_COINCIDENT = 1e-5  # a median below this share of the mean squared distance is zero plus rounding
_COLLAPSED = 1e-9  # sigma^2 is at least this share of the mean squared length of the features
_DEAD = 13.815511  # -ln 1e-6
_WARNED: set[float] = set()  # fixed bandwidths that were warned of: once per process, not once per step


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which products of float32 stay float32 (backward passes: see :func:`row_products`).

    Args:
        x: Any tensor on the device in question.

    Returns:
        Autocast switched off for that device; nothing where it is off already.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def cast_up(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples in one dtype: float64 if one of them is, else float32.

    Args:
        x: (n, d).
        y: (m, d).

    Returns:
        The two, cast (differentiably) where they have to be.

    Raises:
        ValueError: Where they are no two matrices of rows of one width.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"need samples (n, d) and (m, d), not {tuple(x.shape)} and {tuple(y.shape)}")
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    return x.to(dtype), y.to(dtype)


class _Product(torch.autograd.Function):
    """``x @ y.T``; the plain product's backward pass falls to half precision if it runs under autocast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, y)
        return x @ (x if y is None else y).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, y), (grad,), wanted = ctx.saved_tensors, grads, ctx.needs_input_grad
        with no_autocast(x):
            if y is None:
                return (grad + grad.T) @ x, None
            return grad @ y if wanted[0] else None, grad.T @ x if wanted[1] else None


def row_products(x: Tensor, y: Tensor | None = None) -> Tensor:
    """``x @ y.T`` in the precision of its inputs, under autocast too, forwards and backwards.

    Args:
        x: (n, d).
        y: (m, d), of the same dtype; None for ``x`` itself, which saves a product in the backward pass.

    Returns:
        (n, m) or (n, n). Differentiable.
    """
    with no_autocast(x):
        return _Product.apply(x, y)


class _OwnDistances(torch.autograd.Function):
    """Squared distances of a sample to itself: exact zeros on the diagonal, one matrix product each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        product = x @ x.T
        squares = product.diagonal()
        return (squares[:, None] + squares).sub_(product, alpha=2).clamp_(min=0).fill_diagonal_(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with no_autocast(x):  # sum_j 2 h_ij (x_i - x_j) = ((diag(2 h 1) - 2 h) x)_i
            weights = (grads[0] + grads[0].T).mul(-2)
            return (weights - torch.diag(weights.sum(1))) @ x


def squared_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Squared Euclidean distances of every row to every other, in memory of O(n m), whatever the width.

    ``|x|^2 + |y|^2 - 2 x y`` about the common mean, which keeps features with a large offset exact; rounding below zero
    is cut off. Differentiable (twice, too); where two rows coincide the gradient is zero.

    Args:
        x: (n, d).
        y: (m, d); None (or ``x`` itself) for the distances within ``x``, whose diagonal is then exactly zero.

    Returns:
        (n, m) or (n, n), float64 for float64, else float32.

    Raises:
        ValueError: Where the shapes do not fit.
    """
    own = y is None or y is x
    with no_autocast(x):
        x, y = cast_up(x, x if y is None else y)
        if own:
            return _OwnDistances.apply(x - x.detach().mean(0))
        mean = (x.detach().sum(0) + y.detach().sum(0)) / (len(x) + len(y))
        x, y = x - mean, y - mean
        squares = x.square().sum(1)[:, None] + y.square().sum(1)
        return torch.sub(squares, row_products(x, y), alpha=2).clamp(min=0)


class _Gaussian(torch.autograd.Function):
    """The mean kernel; keeps its derivative, one matrix, instead of every kernel's own."""

    @staticmethod
    def forward(ctx: Any, distances: Tensor, bandwidth: Tensor, multipliers: Sequence[float]) -> Tensor:
        scaled = distances / bandwidth
        mean = torch.zeros_like(scaled)
        slope = torch.zeros_like(scaled) if ctx.needs_input_grad[0] else None
        for multiplier in multipliers:
            kernel = (scaled * (-0.5 / multiplier)).exp_()
            mean.add_(kernel)
            if slope is not None:
                slope.add_(kernel, alpha=-0.5 / multiplier)
        if slope is not None:
            ctx.save_for_backward(slope.div_(bandwidth * len(multipliers)))
        return mean.div_(len(multipliers))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None


def gaussian(distances: Tensor, bandwidth: Tensor | float, multipliers: Sequence[float] = MULTIPLIERS) -> Tensor:
    """Mean of Gaussian kernels, ``mean_m exp(-d^2 / (2 m sigma^2))``: between 0 and 1 however many there are.

    Args:
        distances: Squared distances, any shape.
        bandwidth: sigma^2, a scalar; no gradient flows into it.
        multipliers: What it is multiplied by, one kernel each.

    Returns:
        The kernel values, of the same shape. Differentiable once.

    Raises:
        ValueError: Where there is no multiplier, or one is not positive.
    """
    if not multipliers or min(multipliers) <= 0:
        raise ValueError(f"need positive multipliers, not {tuple(multipliers)}")
    scale = torch.as_tensor(bandwidth, dtype=distances.dtype, device=distances.device).detach()
    return _Gaussian.apply(distances, scale, multipliers)


def median_bandwidth(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The median heuristic: sigma^2 is the median squared distance within the pooled sample.

    Gretton et al. (2012, section 8). Of an even number of pairs the lower of the two in the middle. Where half of the
    pairs or more coincide (duplicates, collapsed classes), so that the median is zero but for rounding, the mean takes
    its place; and sigma^2 is never below 1e-9 of the features' mean squared length, so that collapsed features still
    give finite kernels. More than 2,000 rows: the median over 2,000 of them, drawn with a generator of its own.

    Args:
        x: (n, d).
        y: (m, d), or None.

    Returns:
        sigma^2, a positive scalar without gradient. It scales with the square of the features, so kernels stay as they
        are.

    Raises:
        ValueError: Where the shapes do not fit.
    """
    with no_autocast(x), torch.no_grad():
        first, second = cast_up(x, x if y is None else y)
        return resolve_bandwidth(first if y is None else torch.cat([first, second]))


def resolve_bandwidth(
    pooled: Tensor,
    bandwidth: Tensor | float | None = None,
    multipliers: Sequence[float] = MULTIPLIERS,
    distances: Tensor | None = None,
) -> Tensor:
    """The bandwidth to use: the one given, or the median of the pooled sample.

    A given number that leaves every kernel of every pair below 1e-6 is warned of, once per process: such a loss is
    constant and trains nothing. A tensor is taken as the caller's own estimate and not looked at (that would wait for
    the device).

    Args:
        pooled: (N, d) both samples together, float32 or float64.
        bandwidth: sigma^2, or None for the median.
        multipliers: The kernels' multipliers.
        distances: (N, N) squared distances within ``pooled`` where they are known, else None.

    Returns:
        sigma^2, a scalar without gradient.

    Raises:
        InjertoError: Where the given number is not positive.
    """
    if isinstance(bandwidth, Tensor):
        return bandwidth.detach().to(pooled)
    if bandwidth is not None and not bandwidth > 0:
        raise InjertoError(f"an MMD bandwidth is a positive sigma^2, not {bandwidth}: leave it out for the median")
    with torch.no_grad():
        if bandwidth is None:
            return _floored_median(pooled.detach(), distances)
        if bandwidth not in _WARNED and len(pooled) > 1:
            apart = _pair_distances(pooled, distances, 200 if distances is None else _SAMPLE).min()
            if apart > 2 * _DEAD * max(multipliers) * bandwidth:
                _WARNED.add(bandwidth)
                warn(
                    f"the MMD bandwidth {bandwidth:g} leaves every kernel below 1e-6 (squared distances from"
                    f" {apart:.3g} up), so this term trains nothing: leave it out for the median, or raise it"
                )
        return pooled.new_tensor(bandwidth)


def _pair_distances(pooled: Tensor, distances: Tensor | None, most: int) -> Tensor:
    """Squared distance of every pair of rows, each pair once; of a sample of ``most`` rows where there are more."""
    count = len(pooled)
    if count > most:
        picks = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].to(pooled.device)
        distances, count = squared_distances(pooled[picks]), most
    elif distances is None:
        distances = squared_distances(pooled)
    rows, columns = torch.triu_indices(count, count, 1, device=pooled.device)
    return distances.detach().take(rows * count + columns)


def _floored_median(pooled: Tensor, distances: Tensor | None) -> Tensor:
    floor = (torch.linalg.vector_norm(pooled).square() / len(pooled) * _COLLAPSED).clamp(
        min=torch.finfo(pooled.dtype).tiny ** 0.5
    )
    if len(pooled) < 2:
        return floor
    apart = _pair_distances(pooled, distances, _SAMPLE)
    median, mean = apart.median(), apart.mean()
    return torch.maximum(torch.where(median < _COINCIDENT * mean, mean, median), floor)
