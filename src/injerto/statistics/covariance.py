"""Covariance, and the distance between two of them (CORAL)."""

import torch
from torch import Tensor

from injerto.basics.errors import InjertoError
from injerto.statistics.kernels import cast_up, no_autocast, row_products


def covariance(x: Tensor) -> Tensor:
    """Unbiased covariance of the columns, divided by n - 1.

    Args:
        x: (n, d), n at least 2, any float dtype.

    Returns:
        (d, d), float64 for float64, else float32, under autocast too. Differentiable.

    Raises:
        InjertoError: Where there are fewer than two examples.
        ValueError: Where ``x`` is no matrix.
    """
    with no_autocast(x):
        centred = _centred(cast_up(x, x)[0])
        return row_products(centred.T)


def coral(x: Tensor, y: Tensor, *, mean: bool = False) -> Tensor:
    """CORAL: squared distance of two covariances (Sun and Saenko, "Deep CORAL", ECCV 2016 workshops, equations 1 to 3).

    ``1 / (4 d^2) |C_x - C_y|_F^2`` with unbiased covariances. Rows fewer than columns (n + m < d) go through the (n +
    m)^2 products of the rows instead of d x d covariances: the same value and gradient. It grows with the fourth power
    of the features' scale, so a weight fits one backbone only; it is blind to a shift of the means and, at batches of a
    few dozen, mostly sampling noise in wide embeddings, which is not subtracted.

    Args:
        x: (n, d) one sample, n at least 2, any float dtype.
        y: (m, d) the other, m at least 2.
        mean: Also add ``|mean x - mean y|^2 / d``. Not in the paper; several libraries have such a term, with other
            factors.

    Returns:
        A scalar, float64 for float64, else float32, under autocast too. Differentiable.

    Raises:
        InjertoError: Where a side has fewer than two examples.
        ValueError: Where the shapes do not fit.
    """
    with no_autocast(x):
        x, y = cast_up(x, y)
        n, m, width = len(x), len(y), x.shape[1]
        a, b = _centred(x), _centred(y)
        if n + m < width:  # |A'A - B'B|^2 = |AA'|^2 + |BB'|^2 - 2 |AB'|^2
            rows = torch.cat([a, b])
            signs = rows.new_ones(n + m)
            signs[n:] = -1
            distance = ((row_products(rows).square() * signs).sum(1) * signs).sum()
        else:
            distance = (row_products(a.T) - row_products(b.T)).square().sum()
        value = distance / (4 * width**2)
        return value + (x.mean(0) - y.mean(0)).square().sum() / width if mean else value


def _centred(x: Tensor) -> Tensor:
    """Deviations from the mean over the root of n - 1."""
    if len(x) < 2:
        raise InjertoError(f"a covariance needs two examples or more on each side, not {len(x)}: take a larger batch")
    return (x - x.mean(0)) / (len(x) - 1) ** 0.5
