"""Percentile intervals by resampling whole groups, and seeds around them.

Examples of one group (views of one object, byte-identical copies, sentences of one author) rise and fall together, so
groups are resampled, not examples: the cluster bootstrap (Davison and Hinkley, Bootstrap Methods and their Application,
1997, section 3.8; percentile interval, section 5.3.1).
"""

from collections.abc import Sequence

import numpy as np

_CELLS = 100_000  # resampled groups held at once: fits the processor's cache, a few megabytes whatever the draws


def bootstrap_interval(
    scores: np.ndarray,
    groups: Sequence[str] | Sequence[int] | np.ndarray,
    *,
    labels: np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a mean score under resampling of test groups.

    With scores 1 for right and 0 for wrong this is the interval of the accuracy, with ``labels`` besides that of the
    balanced accuracy, with the negative log-likelihood per example that of its mean. Where all groups score alike, and
    so with a single group, the interval is a point: the percentile bootstrap can't see what the data never show.

    Args:
        scores: (N,) score per example.
        groups: (N,) group per example.
        labels: (N,) class per example for the mean over classes of the class means (a class that a draw happens to miss
            is left out of that draw), None for the plain mean.
        draws: How many resamples.
        seed: Seed of the resampling.
        level: Share of the draws inside the interval.

    Returns:
        Low and high end, in the unit of the scores.

    Raises:
        ValueError: Where there are no examples, or the lengths differ.
    """
    columns = _group_columns(scores, groups, labels)
    return percentiles(_statistic(_resample(columns, draws, np.random.default_rng(seed))), level)


def ratio_interval(
    sums: np.ndarray,
    sizes: np.ndarray,
    groups: Sequence[str] | Sequence[int] | np.ndarray,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Interval of a ratio of totals, such as nats per token, under resampling of test groups.

    Args:
        sums: (N,) what is divided.
        sizes: (N,) what it is divided by.
        groups: (N,) group per example.
        draws: How many resamples.
        seed: Seed of the resampling.
        level: Share of the draws inside the interval.

    Returns:
        The ratio of the totals, low and high end.

    Raises:
        ValueError: Where there is nothing to divide by.
    """
    if not np.sum(sizes) > 0:
        raise ValueError("a ratio needs a positive total to divide by")
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    columns = np.stack([np.bincount(group, weights=np.asarray(values, np.float64)) for values in (sizes, sums)], axis=1)
    columns = columns[columns[:, 0] > 0]
    values = _statistic(_resample(columns, draws, np.random.default_rng(seed)))
    return float(np.sum(sums) / np.sum(sizes)), *percentiles(values, level)


def nested_interval(
    scores: Sequence[np.ndarray],
    groups: Sequence[Sequence[str] | Sequence[int] | np.ndarray],
    other: Sequence[np.ndarray] | None = None,
    *,
    labels: Sequence[np.ndarray] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean over seeds of a row of a comparison, or of the difference of two rows, with its interval.

    The percentile interval of :func:`nested_draws`. A difference whose interval holds 0 is none.

    Args:
        scores: Per seed, (N,) score per example; N may differ between seeds.
        groups: Per seed, (N,) name of each example's group, the same in every seed.
        other: Per seed, (N,) score per example of the row to compare with, on the same examples in the same order; the
            result is then ``scores - other``. None for one row alone.
        labels: Per seed, (N,) class per example for balanced means, as in :func:`bootstrap_interval`.
        draws: How many resamples.
        seed: Seed of the resampling.
        level: Share of the draws inside the interval.

    Returns:
        Mean, low and high end, in the unit of the scores; every seed weighs the same.

    Raises:
        ValueError: Where there are no seeds or no examples, or the lengths differ.
    """
    mean, values = nested_draws(scores, groups, other, labels=labels, draws=draws, seed=seed)
    return mean, *percentiles(values, level)


def nested_draws(
    scores: Sequence[np.ndarray],
    groups: Sequence[Sequence[str] | Sequence[int] | np.ndarray],
    other: Sequence[np.ndarray] | None = None,
    *,
    labels: Sequence[np.ndarray] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, np.ndarray]:
    """Mean over seeds of a row of a comparison, or of the difference of two rows, and its bootstrap distribution.

    Every draw resamples the test groups of all seeds at once, so that a group counts as often in one seed as in any
    other, and adds how the seeds' means come out where as many seeds are picked with replacement; both rows of a
    comparison see the same draws, so what they share cancels. Seeds that were tested on the same examples (a target's,
    or a given split) share the luck of that choice: resampled seed by seed it would average out, and the interval would
    be too narrow by up to the root of their number. Seeds whose tests have no group in common are resampled
    independently.

    Resampling S seeds shows only (S - 1) / S of the variance between them: with one seed none at all, with three the
    interval is narrow where seeds differ much (:mod:`injerto.statistics.significance` has the figures).

    Args:
        scores: Per seed, (N,) score per example; N may differ between seeds.
        groups: Per seed, (N,) name of each example's group, the same in every seed.
        other: Per seed, (N,) score per example of the row to compare with; None for one row alone.
        labels: Per seed, (N,) class per example for balanced means, as in :func:`bootstrap_interval`.
        draws: How many resamples.
        seed: Seed of the resampling.

    Returns:
        The mean, and the same of every resample, (draws,).

    Raises:
        ValueError: Where there are no seeds or no examples, or the lengths differ.
    """
    count = len(scores)
    if count == 0:
        raise ValueError("no seeds to resample")
    for name, given in (("groups", groups), ("other", other), ("labels", labels)):
        if given is not None and len(given) != count:
            raise ValueError(f"scores of {count} seeds, {name} of {len(given)}")
    rng = np.random.default_rng(seed)
    picks = rng.integers(count, size=(draws, count))
    names, joined = np.unique(np.concatenate([np.asarray(own) for own in groups]), return_inverse=True)
    places = np.split(joined, np.cumsum([len(own) for own in groups])[:-1])
    blocks = list[np.ndarray]()
    for index in range(count):
        row = np.asarray(scores[index], dtype=np.float64)
        if other is not None:
            if len(other[index]) != len(row):
                raise ValueError(f"rows of {len(row)} and {len(other[index])} examples can't be paired (seed {index})")
            row = row - np.asarray(other[index], dtype=np.float64)
        own = _group_columns(row, places[index], None if labels is None else labels[index])
        blocks.append(np.zeros((len(names), own.shape[1])))
        blocks[-1][np.unique(places[index])] = own
    means = np.array([_statistic(block.sum(axis=0, keepdims=True))[0] for block in blocks])
    sums = _resample(np.concatenate(blocks, axis=1), draws, rng)
    parts = np.split(sums, np.cumsum([block.shape[1] for block in blocks])[:-1], axis=1)
    values = np.stack([_statistic(part) for part in parts], axis=1)
    values = np.where(np.isnan(values), means, values)  # a draw without any group of a seed says nothing of it
    return float(means.mean()), values.mean(axis=1) + means[picks].mean(axis=1) - means.mean()


def _group_columns(scores: np.ndarray, groups: Sequence | np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Per group the examples of every class, then their summed scores: (groups, 2 x classes)."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"scores must be a non-empty vector, not of shape {scores.shape}")
    if len(groups) != len(scores) or (labels is not None and len(labels) != len(scores)):
        raise ValueError(f"{len(scores)} scores need as many groups and labels")
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    kind = np.zeros(len(scores), dtype=np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    shape = int(group.max()) + 1, int(kind.max()) + 1
    cell = group * shape[1] + kind
    sizes = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    sums = np.bincount(cell, weights=scores, minlength=shape[0] * shape[1]).reshape(shape)
    return np.concatenate([sizes, sums], axis=1)


def _statistic(sums: np.ndarray) -> np.ndarray:
    """Mean over the classes present of their mean score, NaN without any: (draws, 2 x classes) -> (draws,)."""
    sizes, totals = np.split(sums, 2, axis=1)
    present = sizes > 0
    each, known = np.divide(totals, sizes, out=np.zeros_like(totals), where=present), present.sum(axis=1)
    return np.divide(each.sum(axis=1), known, out=np.full(len(sums), np.nan), where=known > 0)


def _resample(columns: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Sums over ``draws`` resamples of the groups (rows of ``columns``), (draws, columns), a few draws at a time."""
    count = len(columns)
    kinds, alike = np.unique(columns, axis=0, return_counts=True)
    if len(kinds) * 20 <= count:  # right-or-wrong scores: groups of one kind are interchangeable, so draw kinds instead
        return rng.multinomial(count, alike / count, size=draws).astype(np.float64) @ kinds
    sums = np.empty((draws, columns.shape[1]))
    chunk = max(1, _CELLS // count)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        picks = rng.integers(count, size=(size, count), dtype=np.int32)
        picks += np.arange(size, dtype=np.int32)[:, None] * count
        weights = np.bincount(picks.ravel(), minlength=size * count).reshape(size, count)
        sums[start : start + size] = weights.astype(np.float64) @ columns
    return sums


def percentiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The two ends between which the middle share of some draws lies.

    Args:
        values: The draws.
        level: That share.
    """
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
