"""Scores of a model without target labels, and the guard against a model that has collapsed.

A validator guesses which of several models is best on a target that has no labels. None is safe alone: entropy, SND and
the like are at their best for a model that maps every target example to one class. So choose through :func:`judge` or
:func:`best_of`, which first turn away a model that has lost the source or predicts too few classes on the target.

Every function of :data:`VALIDATORS` takes ``evidence``, an :class:`Evidence`, which tells the arrays and their shapes,
and ``seed``, which only class-ami uses (k-means' starts). It returns a finite number, the higher the better, the same
at every call and in every order of the target examples, and raises nothing: an Evidence is checked when it is made.
Compare scores only between models judged on the same examples. In formulas p are the target examples' probabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from injerto.basics.errors import InjertoError, suggest
from injerto.statistics.recall import mean_recall

FLOOR = 0.1  # source accuracy that may be lost: alignment costs some points of it, collapse most of it
MARGIN = 0.1  # of the way from chance agreement to 1: more than chance gives with a hundred examples
SPREAD = 0.4  # of the classes beyond the first. Shifts that pass: 60/20/10/10 (keeps 0.66), 85/15 (0.53), any half of
#   six classes or more. Rejected: two of four (0.33), 92/8 (0.32), one of any number (0).
FEW = 10  # target examples below which the guard's third rule is left to luck, and its message says so
CLIP = 20.0  # a held-out source example counts for at most twenty: else a single one can decide DEV
TEMPERATURE = 0.05  # of SND, as published

_SMALLEST = 1e-12  # as in metrics: a probability of 0 for the true class costs 27.6; also the smallest weight
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, strongest regularization first
_ROWS = 256  # of SND's similarities at a time


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a model says of the data it may be judged by. Holds no target label.

    Attributes:
        source_logits: (n, C) of held-out (val) source examples, n and C at least 2.
        source_labels: (n,) their classes, 0..C-1.
        source_embeddings: (n, D) of the same examples, what the head's layer sees.
        target_logits: (m, C) of unlabelled target examples, m at least 2.
        target_embeddings: (m, D) of the same.
        train_embeddings: (k, D) of source train examples, for the density ratio; None to cross-fit it on
            ``source_embeddings``. A network may embed what it was trained on differently from what it wasn't; None is
            the safer choice where val has a few hundred examples.
        balanced: Whether accuracy on the source is balanced accuracy, as in a run with balanced class weights.

    Raises:
        InjertoError: Where there are too few examples or classes, or a number is not finite.
        ValueError: Where the shapes do not fit, or a label lies outside 0..C-1.
    """

    source_logits: np.ndarray
    source_labels: np.ndarray
    source_embeddings: np.ndarray
    target_logits: np.ndarray
    target_embeddings: np.ndarray
    train_embeddings: np.ndarray | None = None
    balanced: bool = False

    def __post_init__(self) -> None:
        """Check shapes, sizes and that all is finite."""
        embeddings = [self.source_embeddings, self.target_embeddings]
        embeddings += [] if self.train_embeddings is None else [self.train_embeddings]
        arrays = [self.source_logits, self.target_logits, *embeddings]
        shapes, classes = [a.shape for a in arrays], arrays[0].shape[-1]
        widths = [classes] * 2 + [embeddings[0].shape[-1]] * len(embeddings)
        n, m, labels = len(self.source_logits), len(self.target_logits), np.asarray(self.source_labels)
        if any(a.ndim != 2 or a.shape[1] != width for a, width in zip(arrays, widths, strict=True)):
            raise ValueError(f"need logits and embeddings of equal widths in source and target, not {shapes}")
        if labels.shape != (n,) or len(embeddings[0]) != n or len(embeddings[1]) != m:
            raise ValueError(f"need a label and an embedding for each example, not {labels.shape} labels and {shapes}")
        if min(map(len, arrays)) < 2 or classes < 2:
            raise InjertoError(f"judging a model takes two or more classes and examples of each kind, not {shapes}")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels must lie in 0..{classes - 1}, found {labels.min()}..{labels.max()}")
        if not all(np.isfinite(a).all() for a in arrays):
            raise InjertoError(
                "the model's outputs are not finite: train again with a smaller --lr or --precision fp32"
            )

    @cached_property
    def weights(self) -> np.ndarray:
        """(n,) how much likelier each held-out source example is in the target, see :func:`density_ratio`."""
        return density_ratio(self.source_embeddings, self.target_embeddings, self.train_embeddings)

    @cached_property
    def target_probabilities(self) -> np.ndarray:
        """(m, C) softmax of the target logits, float64."""
        return np.exp(_log_softmax(self.target_logits))


@dataclass(frozen=True)
class Verdict:
    """A validator's score after the guard.

    Attributes:
        score: The score, -inf where rejected.
        rejected: Why the guard turned the model away, None where it didn't.
        raw: The score without the guard.
    """

    score: float
    rejected: str | None
    raw: float


def source(evidence: Evidence, seed: int = 0) -> float:
    """Accuracy on held-out source examples, ties broken by the likelihood: ``acc + 1 / (2 n (1 + NLL))``.

    The second term is at most half an example, so it only orders models of equal accuracy; NLL is a mean, at most 27.6
    nats. Knows nothing of the target: for small shifts, or where the others disagree. Blind to what alignment gains.
    """
    losses, labels = _losses(evidence), np.asarray(evidence.source_labels)
    if evidence.balanced:
        least = len(labels) * evidence.source_logits.shape[1]  # what one example counts, at least, is 1 / least
        return _accuracy(evidence) + 0.5 / (least * (1 + mean_recall(losses, labels)))
    return float(_accuracy(evidence) + 0.5 / (len(labels) * (1 + losses.mean())))


def infomax(evidence: Evidence, seed: int = 0) -> float:
    """Mutual information of input and prediction on the target: ``H(mean p) - mean H(p)``.

    Shi and Sha, ICML 2012 (information-theoretic learning of discriminative clusters); "IM" of Musgrave et al., 2022
    (arXiv 2208.07360). Sure predictions, evenly spread. Misleads where the target's classes are uneven (it prefers an
    even spread), and it can't see permuted classes. In [0, log C] nats.
    """
    mean = evidence.target_probabilities.mean(axis=0)
    return float(-(mean * np.log(np.maximum(mean, np.finfo(float).tiny))).sum()) + entropy(evidence)


def entropy(evidence: Evidence, seed: int = 0) -> float:
    """Minus the mean entropy of the target predictions: ``mean sum_c p log p``.

    The criterion of Morerio et al., ICLR 2018 (minimal-entropy correlation alignment). Misleads most of all: at its
    best, 0, for a model that is sure of one class everywhere, and longer training raises it, right or wrong. Only
    behind the guard. In [-log C, 0] nats.
    """
    logs = _log_softmax(evidence.target_logits)
    return float((np.exp(logs) * logs).sum(axis=1).mean())


def bnm(evidence: Evidence, seed: int = 0) -> float:
    """Nuclear norm of the target predictions P (m, C), as a share of its bound: ``|P|_* / sqrt(m min(m, C))``.

    Cui et al., CVPR 2020, section 3 (batch nuclear-norm maximization); as a validator in Musgrave et al., 2022. The
    bound is the paper's: the norm is at most sqrt(rank) times the Frobenius norm, that at most sqrt(m). With it the
    score doesn't grow with m: in (0, 1], 1 for sure predictions in equal numbers per class. Misleads like infomax, less
    so where classes are uneven.
    """
    p = evidence.target_probabilities
    return float(np.linalg.svd(p, compute_uv=False).sum() / np.sqrt(len(p) * min(p.shape)))


def snd(evidence: Evidence, seed: int = 0) -> float:
    """Soft neighbourhood density: how many neighbours a target prediction has, as an entropy.

    ``mean_i H(softmax_{j != i}(cos(p_i, p_j) / 0.05))`` (Saito et al., ICCV 2021, section 3; temperature of equation
    2). High where predictions form few dense clusters: at its best, log(m - 1), for a model that predicts the same
    everywhere, sure or not, and better the more classes a shift merges. Only behind the guard. Grows with log m.
    Memory O(256 m), time O(m^2 C). In [0, log(m - 1)] nats.
    """
    unit = evidence.target_probabilities
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    total = 0.0
    for start in range(0, len(unit), _ROWS):
        scaled = (unit[start : start + _ROWS] @ unit.T - 1) / TEMPERATURE  # in [-20, 0]: exp needs no shift
        weights, rows = np.exp(scaled), np.arange(len(scaled))
        weights[rows, start + rows] = 0  # not its own neighbour
        sums = weights.sum(axis=1)
        total += float((np.log(sums) - (weights * scaled).sum(axis=1) / sums).sum())
    return total / len(unit)


def class_ami(evidence: Evidence, seed: int = 0) -> float:
    """Do predicted classes follow the clusters of the target embeddings: ``AMI(argmax p, kmeans(embeddings, C))``.

    ClassAMI of Musgrave et al., 2022 (arXiv 2208.07360, one of its three new validators): adjusted mutual information
    (arithmetic mean) with C k-means clusters, the best of ten starts. At most 1, about 0 for unrelated groupings; 0
    also where all predictions or all embeddings are the same, a perfect match to scikit-learn where both are. Misleads
    where the clusters are not the classes (an untuned backbone may sort by background or style), where classes are very
    uneven, and it can't see permuted classes.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

    rows = _in_order(evidence.target_embeddings)  # k-means' starts depend on the order
    predicted = _hard(evidence.target_logits)[_order(evidence.target_embeddings)]
    clusters = min(evidence.target_logits.shape[1], 1 + int((rows[1:] != rows[:-1]).any(axis=1).sum()))
    if clusters == 1 or (predicted == predicted[0]).all():
        return 0.0
    with threadpool_limits(1):  # threads add up in any order
        found = KMeans(clusters, n_init=10, random_state=seed % 2**32).fit_predict(rows)
    return float(adjusted_mutual_info_score(predicted, found))


def dev(evidence: Evidence, seed: int = 0) -> float:
    """Deep embedded validation: minus the target risk, from weighted source losses with a control variate.

    ``-(mean(w l) + eta mean(w) - eta)``, ``eta = -Cov(w l, w) / Var(w)`` (You et al., ICML 2019, algorithm 1), where w
    are the weights of :func:`density_ratio` on the embeddings and l is the negative log-likelihood, at most 27.6.
    Unbiased for right weights. Misleads as iwv does, and where weights are far from a mean of 1: eta moves the risk
    by that error, so that the score may exceed 0. In nats.
    """
    weights, weighted = evidence.weights, evidence.weights * _losses(evidence)
    covariance = np.cov(weighted, weights)
    varies = covariance[1, 1] > (1e-9 * weights.mean()) ** 2  # else only rounding does
    eta = -covariance[0, 1] / covariance[1, 1] if varies else 0.0
    return -float(weighted.mean() + eta * weights.mean() - eta)


def iwv(evidence: Evidence, seed: int = 0) -> float:
    """Importance-weighted validation: minus the target risk, from weighted source losses: ``-sum(w l) / sum(w)``.

    Sugiyama et al., JMLR 8, 2007, section 3, with self-normalized weights, which keep the risk between the smallest
    and the largest loss. Weights and losses are those of :func:`dev`. It asks for one p(y | embedding) in both domains.
    Where all target embeddings are moved by one vector, that fails: the source examples on that side may be the surest,
    and the score then falls as the model improves. Misleads too where the supports don't overlap: a few examples
    decide, or, where none is like the target, it is the source's risk. In [-27.7, 0] nats.
    """
    return -float(np.average(_losses(evidence), weights=evidence.weights))


VALIDATORS: dict[str, Callable[[Evidence, int], float]] = {
    function.__name__.replace("_", "-"): function
    for function in (source, infomax, entropy, bnm, snd, class_ami, dev, iwv)
}


def judge(name: str, evidence: Evidence, reference_accuracy: float | None = None, seed: int = 0) -> Verdict:
    """Score a model by a validator, unless the guard turns it away.

    The guard rejects a model (1) whose accuracy on held-out source examples is more than :data:`FLOOR` below the
    reference; (2) whose agreement with the source labels is hardly above what its own class frequencies give by chance,
    ``(acc - chance) / (1 - chance) <= MARGIN`` (Cohen 1960; chance is 1 / C for even classes; a constant predictor has
    0 for any); (3) whose target predictions are too few classes beside its source predictions: with ``N = exp(entropy
    of the histogram of predicted classes)``, ``N_target - 1 < SPREAD (N_source - 1)``. The first class isn't counted,
    for N is never below 1; so one of two is found too. Few examples show few classes: where the target has fewer than
    the source, N_source is that of as many source examples, the mean of 20 draws.

    It can't tell a label shift beyond SPREAD from collapse (it rejects both), nor see classes permuted on the target
    alone. With fewer than some ten target examples, (3) is left to luck.

    Args:
        name: A validator of :data:`VALIDATORS`.
        evidence: Of the model.
        reference_accuracy: Source val accuracy of the untouched probe, or the best of the candidates; None to check
            only (2) and (3).
        seed: Of the validator and of the draws of (3).

    Returns:
        The score, or -inf and the reason; in any case the score without the guard.

    Raises:
        InjertoError: Where the name is unknown, or all held-out source examples are of one class.
    """
    if name not in VALIDATORS:
        raise InjertoError(f"unknown validator {name!r}: {suggest(name, list(VALIDATORS))}")
    reason = _collapse(evidence, reference_accuracy, seed)
    raw = VALIDATORS[name](evidence, seed)
    return Verdict(raw if reason is None else float("-inf"), reason, raw)


def best_of(name: str, candidates: Sequence[Evidence], seed: int = 0) -> int:
    """Choose among models: the highest score of those that pass the guard.

    The reference accuracy is the best source accuracy among the candidates. Where the guard rejects all, the one with
    the best source accuracy. The earlier of equals.

    Args:
        name: A validator of :data:`VALIDATORS`.
        candidates: Evidence of each model, on the same examples.
        seed: As in :func:`judge`.

    Returns:
        The index of the chosen one.

    Raises:
        InjertoError: As :func:`judge`, and where there are no candidates.
    """
    if not candidates:
        raise InjertoError("nothing to choose from: give one candidate or more")
    accuracies = [_accuracy(evidence) for evidence in candidates]
    scores = [judge(name, evidence, max(accuracies), seed).score for evidence in candidates]
    return int(np.argmax(scores if max(scores) > float("-inf") else accuracies))  # argmax takes the first of equals


def density_ratio(source: np.ndarray, target: np.ndarray, train: np.ndarray | None = None) -> np.ndarray:
    """How much likelier each source example is in the target: ``p_target(x) / p_source(x)``, by logistic regression.

    Odds of a classifier between the domains times ``n_source / n_target`` (Bickel et al., ICML 2007; You et al., 2019,
    section 4), clipped to [1e-12, :data:`CLIP`]. The classifier is linear, L2-regularized, on features of zero mean and
    unit variance; scikit-learn's C goes from 1e-4 to 1 in tens until the held-out log loss of three folds no longer
    falls. No randomness: folds follow a fixed order of the rows' bytes. Misleads where a linear classifier tells the
    domains apart perfectly: the weights then say how far an example is from the border, not how likely it is.

    Args:
        source: (n, D) examples to weigh.
        target: (m, D) of the target, m at least 2.
        train: (k, D) source examples to fit on, not those to weigh; None for five-fold cross-fitting on ``source``.

    Returns:
        (n,) weights; their mean is near 1 where the ratio is right.
    """
    source, target = np.asarray(source, dtype=np.float64), _in_order(target)
    if train is not None:
        whole = _in_order(train)
        parts = [(whole, np.arange(len(source)))]
    else:
        whole, order, folds = _in_order(source), _order(source), min(5, len(source))
        parts = [(np.delete(whole, np.s_[k::folds], axis=0), order[k::folds]) for k in range(folds)]
    strength = _strength(whole, target)
    logs = np.empty(len(source))
    for part, held in parts:
        logs[held] = _domain_logits(part, target, source[held], strength, 1e-8) + np.log(len(part) / len(target))
    return np.exp(np.clip(logs, np.log(_SMALLEST), np.log(CLIP)))


def _strength(source: np.ndarray, target: np.ndarray) -> float:
    """The regularization with the least held-out log loss; weaker ones are not tried once it rises."""
    folds = min(3, len(source), len(target))
    best, chosen = np.inf, _STRENGTHS[0]
    for strength in _STRENGTHS:
        loss = 0.0
        for k in range(folds):
            a, b = (np.delete(rows, np.s_[k::folds], axis=0) for rows in (source, target))
            held, n = np.concatenate([source[k::folds], target[k::folds]]), len(source[k::folds])
            logits = _domain_logits(a, b, held, strength, 1e-4)
            loss += float(np.logaddexp(0, logits[:n]).sum() + np.logaddexp(0, -logits[n:]).sum())
        if loss >= best:
            break
        best, chosen = loss, strength
    return chosen


def _domain_logits(a: np.ndarray, b: np.ndarray, rows: np.ndarray, strength: float, tolerance: float) -> np.ndarray:
    """Log odds of b's domain against a's for ``rows``, of a classifier fitted on ``a`` and ``b``."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    both = np.concatenate([a, b])
    mean, scale = both.mean(axis=0), both.std(axis=0)
    scale[scale <= 1e-12 * np.abs(both).max(axis=0)] = 1.0  # constant, up to rounding
    model = LogisticRegression(C=strength, tol=tolerance, max_iter=10_000)
    with threadpool_limits(1, "blas"):  # as in solve_probe
        model.fit((both - mean) / scale, np.arange(len(both)) >= len(a))
    return model.decision_function((rows - mean) / scale)


def _collapse(evidence: Evidence, reference: float | None, seed: int) -> str | None:
    """Why the guard turns a model away, None where it doesn't; see :func:`judge`."""
    labels, classes = np.asarray(evidence.source_labels), evidence.source_logits.shape[1]
    if (labels == labels[0]).all():
        raise InjertoError("the held-out source examples are all of one class, no guard against collapse: give more")
    accuracy = _accuracy(evidence)
    if reference is not None and accuracy < reference - FLOOR - 1e-9:
        return f"source accuracy {accuracy:.3f} is more than {FLOOR} below {reference:.3f}"
    on_source, on_target = _hard(evidence.source_logits), _hard(evidence.target_logits)
    shares = [np.bincount(hard, minlength=classes) / len(hard) for hard in (labels, on_source)]
    chance = float(shares[0] @ shares[1])
    agreement = float((on_source == labels).mean())
    if agreement <= chance + MARGIN * (1 - chance):
        return f"source accuracy {agreement:.3f} is hardly above chance, {chance:.3f} for the classes it predicts"
    rng, size = np.random.default_rng(seed), min(len(on_source), len(on_target))
    draws = [rng.choice(on_source, size, replace=False) for _ in range(20)]
    there, here = _effective(on_target), float(np.mean([_effective(draw) for draw in draws]))
    if there - 1 < SPREAD * (here - 1) - 1e-9:
        few = f" (by {len(on_target)} target examples only)" if len(on_target) < FEW else ""
        many = f"{here:.1f} on the source{few}"
        return f"predicts only {there:.1f} classes on the target (effective number) beside {many}"
    return None


def _effective(hard: np.ndarray) -> float:
    """How many equally frequent classes have the entropy of these predictions."""
    shares = np.unique(hard, return_counts=True)[1] / len(hard)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _hard(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits).argmax(axis=1)


def _accuracy(evidence: Evidence) -> float:
    labels = np.asarray(evidence.source_labels)
    right = _hard(evidence.source_logits) == labels
    return mean_recall(right, labels) if evidence.balanced else float(right.mean())


def _losses(evidence: Evidence) -> np.ndarray:
    """(n,) negative log-likelihood of the source labels, at most 27.6."""
    labels = np.asarray(evidence.source_labels)
    logs = _log_softmax(evidence.source_logits)[np.arange(len(labels)), labels]
    return -np.maximum(logs, np.log(_SMALLEST))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _order(rows: np.ndarray) -> np.ndarray:
    """An order of the rows that does not depend on how they come, by the bytes of their float64."""
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    return np.argsort(rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel(), kind="stable")


def _in_order(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, dtype=np.float64)[_order(rows)]
