"""How well a pretrained model's embeddings will do on a labelled task, told before any training.

Every score is a pure function of arrays, computes in float64, and is larger for a better backbone. None of them says
what fine-tuning will reach: they rank backbones by what the frozen embeddings already know. Compare values of one score
on the same examples only.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256
from injerto.evaluation.metrics import mean_recall
from injerto.tasks.probe import fit_probe

PROBE_ROWS = 3000
"""Examples that :func:`probe_accuracy` looks at, about: whole groups are drawn until there are so many."""

_NOISE = 1e-10  # least variance of a label that no feature explains; float32 rounding leaves about 1e-14
_CELLS = 4_000_000  # similarities held at once


class Score(NamedTuple):
    """One score of one backbone.

    Attributes:
        value: Larger is better.
        seconds: What it took to compute, without the embeddings.
    """

    value: float
    seconds: float


def score_all(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence | np.ndarray,
    probabilities: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Score]:
    """Every score of one backbone on one labelled set, with its seconds.

    Args:
        features: (n, d) embeddings.
        labels: (n,) class indices from 0 up; some classes may be absent.
        groups: (n,) group per example (copies, one patient, one text): no group helps to judge itself.
        probabilities: (n, Z) of the backbone's own classifier; without them there is no ``leep``.
        seed: Of the probe's folds; the other scores have no randomness.

    Returns:
        ``logme``, ``h_score``, ``knn_accuracy``, ``probe_accuracy`` and, with probabilities, ``leep``, by the names of
        the functions.

    Raises:
        InjertoError: Where one of the scores can't be computed from such data, see there.
        ValueError: Where the shapes do not fit.
    """
    scores: dict[str, Callable[[], float]] = {
        "logme": lambda: logme(features, labels),
        "h_score": lambda: h_score(features, labels),
        "knn_accuracy": lambda: knn_accuracy(features, labels, groups),
        "probe_accuracy": lambda: probe_accuracy(features, labels, groups, seed),
    }
    if probabilities is not None:
        scores["leep"] = lambda: leep(probabilities, labels)
    found = {}
    for name, score in scores.items():
        start = perf_counter()
        value = score()
        found[name] = Score(value, perf_counter() - start)
    return found


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME: log of the maximum evidence per example, averaged over the classes present, each against the rest.

    You et al., "LogME: Practical assessment of pre-trained models for transfer learning", ICML 2021, algorithm 1. With
    a weight prior N(0, 1/alpha) and label noise N(0, 1/beta) the evidence of targets y in {0, 1} is ``n/2 log beta +
    d/2 log alpha - n/2 log 2 pi - beta/2 |F m - y|^2 - alpha/2 |m|^2 - 1/2 log |A|``, ``A = alpha I + beta F'F``, ``m =
    beta A^-1 F'y``. The paper steps towards the alpha and beta that maximize it, from 1 and 1. Here beta is eliminated
    (for t = alpha / beta it is n / E, E the least ``|F m - y|^2 + t |m|^2``), and the one number left, t, is looked for
    over 32 decades, then bisected to where the paper's steps stand still: the maximum itself, whatever the features'
    scale. Labels keep a noise of variance 1e-10 at least: without it the evidence of collapsed classes is infinite.

    Cost: O(n d min(n, d)) for one Gram matrix and its eigenvectors, then O(C min(n, d)) per step of the search.

    When to use: the one to look at first; for any embedding, with a head or without. When it misleads: across widths
    (a wider embedding can be fitted more closely, and with n < d nearly always is); among backbones that all separate
    the classes, where it follows the shape of the spectrum; with many classes, where each target is nearly all zeros
    and the average measures that more than the backbone. It is blind to groups, so copies raise it.

    Args:
        features: (n, d) embeddings; they are not centred, as in the paper.
        labels: (n,) class indices from 0 up; absent classes are skipped.

    Returns:
        Nats per example, of any sign.

    Raises:
        InjertoError: Where features are no finite numbers, or all labels are of one class.
        ValueError: Where the shapes do not fit.
    """
    features, labels, counts = _checked(features, labels)
    n = len(features)
    squared, projected = _projected(features, labels)
    squared = squared / squared.max(initial=1e-300)
    energy = projected**2  # (C, r), what each direction explains of each target
    unexplained = np.maximum(counts - energy.sum(1), n * _NOISE)

    def evidence(t: np.ndarray, least: np.ndarray) -> np.ndarray:
        return -0.5 * (n * np.log(2 * np.pi * np.e * least / n) + np.log1p(squared / t).sum(1))

    grid = np.linspace(np.log(1e-20), np.log(1e12), 129)
    t = np.exp(grid)[:, None]
    best = evidence(t, unexplained[:, None] + energy @ (t / (squared + t)).T).argmax(1)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
    for _ in range(30):  # the evidence rises in t while gamma > alpha |m|^2; where they are equal the paper stops
        middle = (low + high) / 2
        t = np.exp(middle)[:, None]
        share = t / (squared + t)
        least = unexplained + (energy * share).sum(1)
        rises = (1 - share).sum(1) * least > n * (energy * share * (1 - share)).sum(1)
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return float(evidence(t, least).mean() / n)


def leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """LEEP: mean log likelihood of the labels, told from what a source classifier says of each example.

    Nguyen et al., "LEEP: A new measure to evaluate transferability of learned representations", ICML 2020, equations 1
    and 2. ``P(y, z)`` is the mean probability of source class z over the examples, those of label y only; ``1/n sum_i
    log sum_z P(y_i | z) p(z | x_i)``. A source class of probability 0 everywhere says nothing and counts for nothing.

    Cost: O(n Z).

    When to use: backbones with the classifier they were trained with, the cheapest score. When it misleads: without
    such a classifier there is no LEEP, and classifiers of different source classes compare poorly: one with more of
    them tells labels apart more finely, by chance too (with n near Z the table fits itself). It sees the last layer's
    answers, not what the embedding could do. With imbalance a large class outweighs the others.

    Args:
        probabilities: (n, Z), rows sum to 1.
        labels: (n,) class indices from 0 up; some may be absent.

    Returns:
        Nats per example: 0 at most, minus the labels' entropy at least.

    Raises:
        InjertoError: Where probabilities are no finite numbers, or all labels are of one class.
        ValueError: Where the shapes do not fit, or rows are no probabilities.
    """
    probabilities, labels, _ = _checked(probabilities, labels)
    if probabilities.min() < 0 or np.abs(probabilities.sum(1) - 1).max() > 0.01:
        raise ValueError("probabilities of a source classifier are from 0 up and sum to 1 in every row")
    joint = _class_sums(probabilities, labels)
    marginal = joint.sum(0)
    conditional = joint / np.where(marginal > 0, marginal, 1)
    return float(np.log(np.einsum("iz,iz->i", conditional[labels], probabilities)).mean())


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """H-score: how much of the embedding's variance lies between the classes, summed over its directions.

    Bao et al., "An information-theoretic approach to transferability in task transfer learning", ICIP 2019: ``tr(S^-1
    B)``, S the covariance of the features, B that of their class means, each class weighing as many examples as it
    has. Here with S shrunk, Ibrahim et al., "Newer is not always better", ECML PKDD 2022: ``(1 - a) tr(S_a^-1 B)``,
    ``S_a = (1 - a) S + a tr(S)/d I``, a by Ledoit and Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices", 2004. All covariances divide by n. Unshrunk, every embedding with n <= d has the same score,
    the number of classes less one; in one dimension a is 0.

    Cost: O(n d min(n, d)) for one Gram matrix and its eigenvectors, nothing else: a follows from eigenvalues and norms.

    When to use: beside LogME; it too needs no head. When it misleads: across widths, for it grows with d, the faster
    the fewer the examples; where classes differ but not in their means (it is linear); on strongly imbalanced data, for
    small classes hardly count. Between 0 and the number of classes less one, so not across tasks. Blind to groups.

    Args:
        features: (n, d) embeddings.
        labels: (n,) class indices from 0 up; some may be absent.

    Returns:
        From 0, class means all alike (also for features that do not vary), to the number of classes present less one.

    Raises:
        InjertoError: Where features are no finite numbers, or all labels are of one class.
        ValueError: Where the shapes do not fit.
    """
    features, labels, counts = _checked(features, labels)
    n, width = features.shape
    centred = features - features[0]  # first, so that a feature that does not vary is exactly 0
    centred -= centred.mean(0)
    squared, projected = _projected(centred, labels)
    variances = squared / n
    mean = variances.sum() / width
    spread = (variances**2).sum() / width - mean**2
    noise = ((centred**2).sum(1) ** 2).mean() - (variances**2).sum()
    shrinkage = min(1.0, noise / (width * n * spread)) if spread > 1e-12 * mean**2 else 0.0
    between = (projected**2 / counts[:, None]).sum(0) * variances  # B in the eigenvectors of S: its diagonal
    return float((1 - shrinkage) * (between / ((1 - shrinkage) * variances + shrinkage * mean)).sum())


def knn_accuracy(
    features: np.ndarray, labels: np.ndarray, groups: Sequence | np.ndarray | None = None, k: int = 5
) -> float:
    """Balanced accuracy of the vote of each example's k nearest others, by cosine, its own group left out.

    As in Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021, section 4.1, but one
    neighbour, one vote, and leave-one-group-out instead of a test set. Among classes with equally many votes the one
    with the nearest neighbour wins; of examples equally near (to 12 digits) the earlier one is nearer.

    Cost: O(n^2 d), in memory O(n); the slowest of the scores above some ten thousand examples.

    When to use: to see whether classes are lumps in the embedding, whatever their shape; nothing is fitted, so it
    overfits no width. When it misleads: with imbalance, large classes outvote small ones, and a class of two or three
    groups can hardly win at all; copies under different groups vote for each other; embeddings with a large
    common offset (raw pixels) are all alike by cosine, which a linear layer would not mind.

    Args:
        features: (n, d) embeddings.
        labels: (n,) class indices from 0 up; some may be absent.
        groups: (n,) group per example; None where each is its own.
        k: Neighbours that vote; fewer where an example has fewer outside its group.

    Returns:
        Mean over the classes present of the share of their examples that is right, 0 to 1.

    Raises:
        InjertoError: Where features are no finite numbers, all labels are of one class, or all examples of one group.
        ValueError: Where the shapes do not fit, or k is below 1.
    """
    features, labels, counts = _checked(features, labels)
    group = _group_indices(groups, len(labels))
    if k < 1:
        raise ValueError(f"k is a number of neighbours, at least 1, not {k}")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norms > 0, norms, 1)
    right = np.zeros(len(labels))
    chunk = max(1, _CELLS // len(labels))
    for start in range(0, len(labels), chunk):
        rows = slice(start, start + chunk)
        similar = np.round(unit[rows] @ unit.T, 12)
        similar[group[rows, None] == group] = -np.inf
        votes = np.full((len(similar), k), -1)
        for rank in range(min(k, len(labels))):
            nearest = similar.argmax(1)[:, None]
            outside = np.take_along_axis(similar, nearest, 1) > -np.inf
            votes[:, [rank]] = np.where(outside, labels[nearest], -1)
            np.put_along_axis(similar, nearest, -np.inf, 1)
        agreeing = ((votes[:, :, None] == votes[:, None]) & (votes >= 0)[:, :, None]).sum(2)
        winner = np.take_along_axis(votes, agreeing.argmax(1)[:, None], 1)[:, 0]  # the first of equals: the nearest
        right[rows] = winner == labels[rows]
    return mean_recall(right, labels)


def probe_accuracy(
    features: np.ndarray, labels: np.ndarray, groups: Sequence | np.ndarray, seed: int = 0, folds: int = 3
) -> float:
    """Balanced accuracy of a linear layer on examples of groups that it was not fitted on (cross-validation).

    The probe of Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016: per fold
    :func:`injerto.tasks.probe.fit_probe` (logistic regression on standardized features, ``C = 0.1``, classes counting
    equally) on the other folds. Groups of each class (of several, the lowest) are ordered by SHA-256(seed, group) and
    dealt to the folds in turn. Of more than :data:`PROBE_ROWS` examples only so many are used: every class's first
    group in that order, then every class's second, and so on, so that small classes stay whole.

    Cost: O(folds min(n, 3000) d C) per iteration of L-BFGS, of some dozens to hundreds.

    When to use: the closest to what ``--tuning head`` reaches, and the only score with an error that a person can read.
    When it misleads: with a few groups per class, where an example more or less decides (look at another seed); a
    class of one group can't be right, for any backbone; the regularization is fixed, which favours no width but suits
    none best.

    Args:
        features: (n, d) embeddings.
        labels: (n,) class indices from 0 up; some may be absent.
        groups: (n,) group per example; none is on both sides of a fold.
        seed: Of the order of the groups.
        folds: Number of folds.

    Returns:
        Mean over the classes present of the share of their examples that is right, 0 to 1.

    Raises:
        InjertoError: Where features are no finite numbers, or fewer than two classes have two groups.
        ValueError: Where the shapes do not fit, or there are fewer than two folds.
    """
    features, labels, _ = _checked(features, labels)
    group = _group_indices(groups, len(labels))
    if folds < 2:
        raise ValueError(f"cross-validation needs two folds or more, not {folds}")
    kind, rank, turn = _dealt(groups, group, labels, seed)
    kept = (np.cumsum(np.bincount(group)[turn]) - np.bincount(group)[turn]) < PROBE_ROWS
    chosen = np.isin(group, turn[kept])
    if (np.bincount(kind[turn[kept]]) > 1).sum() < 2:
        raise InjertoError(
            "a cross-validated probe needs two classes with two groups or more each; add examples or look at logme"
        )
    features, group = features[chosen], group[chosen]
    labels, counts = np.unique(labels[chosen], return_inverse=True, return_counts=True)[1:]
    fold = ((rank + kind) % folds)[group]
    right = np.zeros(len(labels))
    for held in np.unique(fold):
        test = fold == held
        probe = fit_probe(features[~test], labels[~test], [], len(counts), balanced=True)
        right[test] = probe.logits(features[test]).argmax(1) == labels[test]
    return mean_recall(right, labels)


def _checked(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values in float64, labels numbered without gaps, and the number of examples of each."""
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    if values.ndim != 2 or labels.shape != (len(values),) or 0 in values.shape:
        raise ValueError(f"need values (n, d) and labels (n,), not {values.shape} and {labels.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError("labels are class indices, integers from 0 up; leave unlabelled examples out")
    broken = int((~np.isfinite(values).all(axis=1)).sum())
    if broken:
        raise InjertoError(
            f"the backbone returned values that are not numbers for {broken} of {len(values)} examples;"
            " try --precision fp32 or leave it out"
        )
    found, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise InjertoError("all labelled examples are of one class, so no backbone is better; add a second class")
    return values, labels, counts


def _class_sums(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sum of the rows of each label, (C, d); every label from 0 to C - 1 occurs."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    return np.add.reduceat(rows[order], starts, axis=0)


def _projected(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values (r,), and the one-hot labels in the left singular vectors (C, r), by the smaller Gram."""
    tall = features.shape[0] > features.shape[1]
    squared, vectors = np.linalg.eigh(features.T @ features if tall else features @ features.T)
    keep = squared > max(0.0, squared[-1] * max(features.shape) * np.finfo(np.float64).eps)
    squared, vectors = squared[keep], vectors[:, keep]
    if tall:
        return squared, _class_sums(features, labels) @ vectors / np.sqrt(squared)
    return squared, _class_sums(vectors, labels)


def _group_indices(groups: Sequence | np.ndarray | None, count: int) -> np.ndarray:
    """Each example's group as a number, in the order of the groups' names."""
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise ValueError(f"{count} examples need as many groups, not {len(groups)}")
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    if not group.any():
        raise InjertoError("all examples are of one group, so none can judge another; check --group")
    return group


def _dealt(
    groups: Sequence | np.ndarray, group: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per group its class and its rank by hash within the class; and the groups, those of lower rank first."""
    names = [str(name) for name in np.unique(np.asarray(groups))]
    kind = np.full(len(names), labels.max())
    np.minimum.at(kind, group, labels)
    digests = np.array([sha256(seed, name) for name in names])
    order = np.lexsort((digests, kind))
    starts = np.searchsorted(kind[order], kind[order])
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names)) - starts
    return kind, rank, np.lexsort((digests, rank))
