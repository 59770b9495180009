"""Do two samples of embeddings come from one distribution, and how far apart are they? MMD with its test and interval.

Exact for a few thousand rows and fast for 50,000 of width 1,280. A *group* is what rows share that are not independent:
one object drawn in two styles, one product photographed twice, one author.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from injerto.basics.errors import InjertoError
from injerto.statistics.kernels import MULTIPLIERS, gaussian, resolve_bandwidth, squared_distances

Groups = tuple[Sequence[str] | Sequence[int] | np.ndarray, Sequence[str] | Sequence[int] | np.ndarray]

_KEPT = 1_000_000_000  # bytes of features, at most, that the second pass finds again
_ROWS = 1024  # rows at a time, which with their features fit the processor's cache
_BANDWIDTH_ROWS = 2000  # rows the median distance is taken over above ``exact``
_FLAT = 1e-6  # kernels and correlations are at most 1: below this is rounding


@dataclass(frozen=True)
class TwoSample:
    """What :func:`two_sample_test` found.

    Attributes:
        mmd2: MMD^2, unbiased: 0 on average for equal distributions, so often a little negative; below 2.
        p_value: Of the hypothesis that the domains do not differ; from 1 / (1 + draws) to 1.
        effect: Standardized difference along the witness function.
        low: Lower end of the approximate 95 % interval of MMD^2.
        high: Upper end.
        estimator: ``exact`` or ``random features``.
        error: Standard error that the random features add to ``mmd2``; 0.0 where exact.
        paired: Whether sides were exchanged within groups only.
    """

    mmd2: float
    p_value: float
    effect: float
    low: float
    high: float
    estimator: str
    error: float
    paired: bool


def two_sample_test(
    x: np.ndarray,
    y: np.ndarray,
    *,
    groups: Groups | None = None,
    draws: int = 200,
    seed: int = 0,
    exact: int = 4000,
    features: int = 1024,
) -> TwoSample:
    """Do two samples come from one distribution, and how far apart are they? MMD^2 with test, size and interval.

    *MMD^2* with the mean Gaussian kernel at the median bandwidth (:mod:`injerto.statistics.mmd`). The rows of one group
    in one domain count together as one example (their kernel values are averaged); pairs within a group do not count.
    Without groups this is the unbiased estimator (Gretton et al., JMLR 13, 2012, Lemma 6); with them, too, it is 0 on
    average for equal distributions.

    *p_value* is ``(1 + #{permuted >= observed}) / (1 + draws)`` (Phipson and Smyth 2010). A group in both domains only
    exchanges its sides, all its x rows for all its y rows: the two resemble each other, and permutations that tear them
    apart spread far too widely (such a test hardly ever rejects). A group in one domain moves as a whole; but where at
    least half of the rows of each side belong to shared groups (``paired``) it stays, so that what differs is the
    domain and not which objects it shows. The level is exact where groups of both domains, sizes included, come from
    one distribution. Where sizes differ by design it still holds approximately for pairs; else it rejects
    too often if the domain of larger groups also has more of them and their rows do not resemble each other (simulated:
    16 % for 40 groups of 4 such rows against 10 single ones, and 5 % at a correlation of 0.9).

    *effect* is (mean_x w - mean_y w) / sd with the witness w(z) = mean_x k(z, x) - mean_y k(z, y), every row's own
    group left out of the means, sd^2 the mean of both sides' variances of w. Read it as Cohen's d in the direction that
    MMD looks: 0.2 small, 0.5 medium, 0.8 large (Cohen 1988). It settles as n grows; at 30 rows a side chance alone
    moves it by 0.6 and more. Infinite where each side is a single point.

    *low, high*: 95 % for MMD^2, normal approximation: variance 4 (var_x w / n + var_y w / m) (Serfling 1980, section
    5.5.1), summed by groups, so that what pairs share cancels, and at least that of the permuted values, as near 0 the
    first order vanishes. Of samples of 20 to 100 that differ it held the true value 89 to 95 times in 100 (it takes the
    bandwidth as fixed), of equal ones 98 or more. Whether they differ is for ``p_value`` to say.

    Above ``exact`` rows in all: random Fourier features (:func:`injerto.statistics.mmd.random_features_mmd2`) with the
    bandwidth from 2,000 rows. The level stays; ``mmd2`` strays from the exact value by ``error``, which comes from the
    spread between frequencies and is part of the interval.

    Use it for embeddings of any width. In large samples every difference is significant: read the effect. Not where
    the domains were picked for looking different.

    Args:
        x: (n, d) embeddings of one domain, float32 or float64.
        y: (m, d) of the other.
        groups: Group name per row of x and per row of y; None for independent rows.
        draws: Permutations.
        seed: Of permutations and frequencies; the global random state is left alone.
        exact: Most rows, n + m, for the whole kernel matrix: about 0.8 GB at 4,000.
        features: Frequencies above that; ``error`` falls with the root of their number.

    Returns:
        The findings.

    Raises:
        InjertoError: Where a side has fewer than two examples or groups, or features are not finite.
        ValueError: Where the shapes do not fit.
    """
    x, y, names = checked_samples(x, y, groups)
    if draws < 1 or features < 1:
        raise InjertoError(f"a permutation test needs 1 or more draws and features, not {draws} and {features}")
    pooled, units = _sorted_by_group(x, y, names)
    in_x, in_both = units.in_x[units.unit], units.shared[units.unit]
    paired = bool(min(in_both[in_x].mean(), in_both[~in_x].mean()) >= 0.5)
    rng = np.random.default_rng(seed)
    member = _reassigned(units, paired, draws, rng)
    fourier = len(pooled) > exact
    values, towards, error = (
        _fourier(pooled, units, member, features, rng) if fourier else _exact(pooled, units, member)
    )
    observed = float(values[0])
    above = int((values[1:] >= observed - 1e-12).sum())  # rounding must not decide between equal values
    effect, variance = _witness(towards, units)
    half = 1.96 * float(np.sqrt(max(variance, values[1:].var()) + error**2))
    ends, estimator = (observed - half, observed + half), "random features" if fourier else "exact"
    return TwoSample(observed, (1 + above) / (1 + draws), effect, *ends, estimator, error, paired)


def checked_samples(
    x: np.ndarray, y: np.ndarray, groups: Groups | None
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Both samples as float32 or float64, and their group names: the number of the row where there are none.

    Args:
        x: (n, d).
        y: (m, d).
        groups: A name for each row of either, or None.

    Raises:
        InjertoError: Where a side has fewer than two rows or groups, or a feature is not finite.
        ValueError: Where the shapes do not fit.
    """
    x, y = (z if z.dtype in (np.float32, np.float64) else z.astype(np.float32) for z in map(np.asarray, (x, y)))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise ValueError(f"need samples (n, d) and (m, d), not {x.shape} and {y.shape}")
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InjertoError(f"domains are compared from 2 examples on each side up, not {n} and {m}: add some")
    if not all(np.isfinite(end) for z in (x, y) for end in (z.min(), z.max())):
        raise InjertoError("NaN or infinite features among the embeddings to compare: look for broken inputs")
    if groups is None:
        return x, y, (np.arange(n), np.arange(n, n + m))
    first, second = np.asarray(groups[0]), np.asarray(groups[1])
    if first.shape != (n,) or second.shape != (m,):
        raise ValueError(f"need {n} and {m} group names, not of shape {first.shape} and {second.shape}")
    if min(len(np.unique(first)), len(np.unique(second))) < 2:
        raise InjertoError("domains are compared from 2 groups on each side up; a side is one group: add examples")
    return x, y, (first, second)


@dataclass(frozen=True)
class _Units:
    """Of rows sorted by group and side. A unit is the rows of one group in one domain: it counts as one example."""

    unit: np.ndarray  # (N,) unit of every row, ascending
    group: np.ndarray  # (U,) group of every unit, ascending; of a shared one x comes first
    in_x: np.ndarray  # (U,) side of every unit
    shared: np.ndarray  # (U,) whether its group is in both domains


def _sorted_by_group(x: np.ndarray, y: np.ndarray, names: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, _Units]:
    code = np.unique(np.concatenate(names), return_inverse=True)[1]
    kinds, key = np.unique(2 * code + (np.arange(len(code)) >= len(x)), return_inverse=True)
    place = np.argsort(np.argsort(key, kind="stable"))
    pooled = np.empty((len(code), x.shape[1]), np.result_type(x, y))
    pooled[place[: len(x)]], pooled[place[len(x) :]] = x, y
    group = kinds // 2
    return pooled, _Units(np.sort(key), group, kinds % 2 == 0, np.bincount(group)[group] == 2)


def _reassigned(units: _Units, paired: bool, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Which units count to x, (1 + draws, U); the first row is what was observed."""
    member = np.repeat(units.in_x[None], 1 + draws, axis=0)
    swap = rng.random((draws, int(units.shared.sum()) // 2)) < 0.5
    member[1:, units.shared & units.in_x] = ~swap
    member[1:, units.shared & ~units.in_x] = swap
    if not paired:
        member[1:, ~units.shared] = rng.permuted(member[1:, ~units.shared], axis=1)
    return member


def _combine(own: np.ndarray, other: np.ndarray, cross: np.ndarray, units: _Units) -> np.ndarray:
    """MMD^2 from the sums over ordered pairs within x, within y, and across, all without pairs of one group."""
    n, m = int(units.in_x.sum()), int((~units.in_x).sum())
    return own / (n * (n - 1)) + other / (m * (m - 1)) - 2 * cross / (n * m - int(units.shared.sum()) // 2)


def _exact(pooled: np.ndarray, units: _Units, member: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """MMD^2 of every assignment; every row's kernel summed over the units of x and y, its group left out; no error."""
    rows = torch.from_numpy(pooled.astype(np.float64))
    distances = squared_distances(rows)
    kernel = gaussian(distances, resolve_bandwidth(rows, distances=distances)).numpy()
    group = units.group[units.unit]
    kernel[group[:, None] == group] = 0
    to_rows = _unit_means(kernel, units.unit)
    between = _unit_means(to_rows.T, units.unit)
    towards = member.astype(np.float64) @ between
    own = (towards * member).sum(1)
    cross = towards.sum(1) - own
    values = _combine(own, between.sum() - own - 2 * cross, cross, units)
    return values, np.stack([to_rows[side].sum(0) for side in (units.in_x, ~units.in_x)]), 0.0


def _fourier(
    pooled: np.ndarray, units: _Units, member: np.ndarray, features: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """As :func:`_exact`, by random Fourier features, with their standard error; two passes over the rows.

    The features of the first pass are kept for the second where they are small enough.
    """
    share = max(2, -(-features // len(MULTIPLIERS)))
    count = share * len(MULTIPLIERS)
    some = pooled[rng.permutation(len(pooled))[:_BANDWIDTH_ROWS]].astype(np.float64)
    sigma2 = max(float(resolve_bandwidth(torch.from_numpy(some))), float(np.finfo(np.float32).tiny))  # all zero
    frequencies = rng.standard_normal((pooled.shape[1], count)) / np.sqrt(np.repeat(MULTIPLIERS, share) * sigma2)
    everyone = np.vstack([member, np.ones_like(units.in_x)])
    sums, length = np.zeros((len(everyone), 2 * count)), np.full(len(units.group), float(count))
    own, pairs = np.zeros((2, 2 * count)), np.zeros(2 * count)  # what pairs of one group would add
    fit = len(pooled) * 2 * count * pooled.itemsize <= _KEPT
    kept = np.empty((len(pooled) if fit else 0, 2 * count), pooled.dtype)
    for _, which, rows, means in _embedded(pooled, units, frequencies, some.mean(0), kept, again=False):
        sums += everyone[:, which].astype(np.float64) @ means
        shared, sides = units.shared[which], np.stack([units.in_x[which], ~units.in_x[which]])
        pairs += (means[shared & sides[0]] * means[shared & sides[1]]).sum(0)
        if means is rows:
            own += sides.sum(1, keepdims=True) / 2  # cos^2 + sin^2 = 1
        else:
            own += sides.astype(np.float64) @ means**2
            length[which] = (means**2).sum(1)
    sums, rest, inside = sums[:-1], sums[-1] - sums[:-1], member @ length
    squares = (sums**2).sum(1) - inside, (rest**2).sum(1) - (length.sum() - inside), (sums * rest).sum(1) - pairs.sum()
    each = _combine(sums[0] ** 2 - own[0], rest[0] ** 2 - own[1], sums[0] * rest[0] - pairs, units)
    each = each.reshape(2, len(MULTIPLIERS), share).sum(0)  # MMD^2 by every frequency; the estimate is their mean
    error = float(np.sqrt((each.var(1, ddof=1) / share).sum()) / len(MULTIPLIERS))
    towards = np.empty((2, len(pooled)))
    for where, which, rows, means in _embedded(pooled, units, frequencies, some.mean(0), kept, again=True):
        unit = units.unit[where]
        shared, in_x, here = units.shared[unit], units.in_x[unit], unit - which.start
        beside = (here + np.where(in_x, 1, -1))[shared]
        own_unit = count if means is rows else np.einsum("ij,ij->i", rows, means[here])
        other_unit = np.zeros(len(unit))
        other_unit[shared] = np.einsum("ij,ij->i", rows[shared], means[beside])
        towards[0, where] = rows @ sums[0] - np.where(in_x, own_unit, other_unit)
        towards[1, where] = rows @ rest[0] - np.where(in_x, other_unit, own_unit)
    return _combine(*squares, units) / count, towards / count, error


def _embedded(
    pooled: np.ndarray, units: _Units, frequencies: np.ndarray, centre: np.ndarray, kept: np.ndarray, again: bool
) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray]]:
    """Which rows and units, and the features of both; no group is cut in two.

    The rows' features are put into ``kept`` where it has room for all, and taken from there ``again``.
    """
    matrix, middle = torch.from_numpy(frequencies.astype(pooled.dtype)), centre.astype(pooled.dtype)
    firsts = np.flatnonzero(np.diff(units.group[units.unit], prepend=-1))
    steps = np.unique(np.searchsorted(firsts, np.arange(0, len(pooled), _ROWS)))
    edges = [*firsts[steps[steps < len(firsts)]], len(pooled)]
    count = frequencies.shape[1]
    for start, stop in zip(edges, edges[1:], strict=False):
        single = kept[start:stop] if len(kept) else np.empty((stop - start, 2 * count), pooled.dtype)
        if not (again and len(kept)):
            phases = torch.from_numpy(pooled[start:stop] - middle) @ matrix
            single[:, :count], single[:, count:] = phases.cos(), phases.sin()
        rows, unit = single.astype(np.float64), units.unit[start:stop]
        yield slice(start, stop), slice(unit[0], unit[-1] + 1), rows, _unit_means(rows, unit)


def _unit_means(rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Mean of the rows of every unit; ``unit`` ascends."""
    starts, sizes = np.unique(unit, return_index=True, return_counts=True)[1:]
    return rows if len(starts) == len(rows) else np.add.reduceat(rows, starts, axis=0) / sizes[:, None]


def _witness(towards: np.ndarray, units: _Units) -> tuple[float, float]:
    """The effect, and the first-order variance of MMD^2, from every row's kernel sums."""
    sides = units.in_x, ~units.in_x
    x_mean, y_mean = (t / (s.sum() - (s | units.shared)[units.unit]) for t, s in zip(towards, sides, strict=True))
    values, squares = (_unit_means(w[:, None], units.unit)[:, 0] for w in (x_mean - y_mean, (x_mean - y_mean) ** 2))
    means = [values[side].mean() for side in sides]
    spread = [squares[s].mean() - mean**2 for s, mean in zip(sides, means, strict=True)]
    sd = float(np.sqrt(max(np.mean([v * s.sum() / (s.sum() - 1) for v, s in zip(spread, sides, strict=True)]), 0)))
    terms = np.where(units.in_x, (values - means[0]) / sides[0].sum(), (means[1] - values) / sides[1].sum())
    by_group = np.bincount(units.group, 2 * terms)
    variance = float((by_group**2).sum() * len(by_group) / (len(by_group) - 1))
    difference = float(means[0] - means[1])
    if sd <= _FLAT:
        return 0.0 if abs(difference) <= _FLAT else float(np.copysign(np.inf, difference)), variance
    return difference / sd, variance
