"""Is a difference more than chance: a p-value from bootstrap draws, and its correction for many differences.

How often :func:`p_value` of nested draws is below 0.05 where two rows are equally good depends on how much seeds differ
(benchmarks/studies/interval.py, docs/compare.md): with three seeds in 2 % of the comparisons where they differ by their
test examples only, in 6 % where a seed's own effect is as large as that error, in 21 % where it is four times as large.
So it errs to the safe side where three seeds or more differ little beyond what their test examples explain, and is too
bold with one or two seeds, or where training is unsteady: then only more seeds help.
"""

from collections.abc import Sequence

import numpy as np


def p_value(draws: np.ndarray) -> float:
    """Two-sided p-value of a difference: the level at which its percentile interval would begin to hold 0.

    Twice the smaller share of the draws on either side of 0, counting the observed difference as one more draw, so that
    no p-value is 0; draws at 0 count for both sides (a test by inverting an interval: Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 15). It is below 0.05 where the 95 % interval leaves 0 out, up to one
    draw.

    Args:
        draws: Of the difference, (draws,), as from :func:`injerto.statistics.bootstrap.nested_draws`.

    Raises:
        ValueError: Where there are none.
    """
    if not len(draws):
        raise ValueError("no draws to count")
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + len(draws)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number.

    Where those below a level are called differences, the chance of any false one is at most that level, however they
    depend on each other (Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979).

    Args:
        values: p-values.

    Returns:
        The adjusted ones in the same order: the k-th smallest of m times m - k + 1, no smaller than the one before,
        at most 1.
    """
    given = np.asarray(values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
