"""Scores of a model without target labels, and the guard against a model that has collapsed.

A validator guesses which of several models is best on a target that has no labels. None is safe alone: entropy, SND and
the like are at their best for a model that maps every target example to one class. So choose through :func:`judge` or
:func:`best_of`, which first turn away a model that has lost the source or predicts too few classes on the target.

Every function of :data:`VALIDATORS` takes an :class:`Evidence` and a seed and returns a finite number, the higher the
better, the same at every call and in every order of the target examples. Compare scores only between models judged on
the same examples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from injerto.basics.errors import InjertoError, suggest

FLOOR = (
    0.1  # source accuracy that may be lost: alignment costs a few points of source accuracy, collapse costs most of it
)
MARGIN = 0.1  # of the way from chance agreement to 1: a tenth is more than chance gives with some hundred examples
SPREAD = (
    0.4  # of the classes beyond the first: 60/20/10/10 keeps 0.66 of four even ones, 85/15 0.53 of two; two of four
)
#   keep 0.33, one of any number 0. At 0.5, 85/15 would be near the edge; at 0.33, two of four would pass.
CLIP = 20.0  # a held-out source example counts for at most twenty: without it one example can decide DEV
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

    def __post_init__(self) -> None:
        """Check shapes, sizes and that all is finite."""
        pairs = [(self.source_logits, self.target_logits), (self.source_embeddings, self.target_embeddings)]
        if self.train_embeddings is not None:
            pairs.append((self.train_embeddings, self.target_embeddings))
        shapes = [tuple(a.shape) for pair in pairs for a in pair]
        n, m = len(self.source_labels), len(self.target_logits)
        if any(a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] for a, b in pairs):
            raise ValueError(f"need logits and embeddings of equal width in source and target, not {shapes}")
        if len(self.source_logits) != n or len(self.source_embeddings) != n or len(self.target_embeddings) != m:
            raise ValueError(f"need as many labels as logits and embeddings, not {n} labels and {shapes}")
        few = min(n, m, n if self.train_embeddings is None else len(self.train_embeddings))
        if few < 2:
            raise InjertoError(f"a model is judged by 2 or more examples of each kind, not {few}: give more data")
        if self.source_logits.shape[1] < 2:
            raise InjertoError("a model of one class cannot be judged: give a source with two classes or more")
        if not 0 <= np.min(self.source_labels) <= np.max(self.source_labels) < self.source_logits.shape[1]:
            raise ValueError(f"labels must lie in 0..{self.source_logits.shape[1] - 1}")
        if not all(np.isfinite(a).all() for pair in pairs for a in pair):
            raise InjertoError(
                "the model returned logits or embeddings that are not finite; "
                "train it again with a smaller --lr or --precision fp32"
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

    The second term is below half an example, so it only orders models of equal accuracy. Knows nothing of the target:
    right under a small shift, and what to trust where the other validators disagree; blind to what alignment gains.

    Args:
        evidence: Of the model.
        seed: Not used.

    Returns:
        In (0, 1 + 1 / (2 n)].
    """
    labels = np.asarray(evidence.source_labels)
    nll = -_log_softmax(evidence.source_logits)[np.arange(len(labels)), labels].mean()
    return float(_accuracy(evidence) + 0.5 / (len(labels) * (1 + nll)))


def infomax(evidence: Evidence, seed: int = 0) -> float:
    """Mutual information of input and prediction on the target: ``H(mean p) - mean H(p)``.

    Shi and Sha, ICML 2012 (information-theoretic learning of discriminative clusters); "IM" of Musgrave et al., 2022
    (arXiv 2208.07360). Sure predictions, evenly spread. Misleads where the target's classes are uneven (it prefers an
    even spread), and it can't see permuted classes.

    Args:
        evidence: Of the model.
        seed: Not used.

    Returns:
        In [0, log C], nats.
    """
    mean = evidence.target_probabilities.mean(axis=0)
    return float(-(mean * np.log(np.maximum(mean, np.finfo(float).tiny))).sum()) + entropy(evidence)


def entropy(evidence: Evidence, seed: int = 0) -> float:
    """Minus the mean entropy of the target predictions: ``mean sum_c p log p``.

    The criterion of Morerio et al., ICLR 2018 (minimal-entropy correlation alignment). Misleads most of all: 0, its
    best, for a model that is sure of one class everywhere, and longer training raises it whether right or wrong. Only
    behind the guard.

    Args:
        evidence: Of the model.
        seed: Not used.

    Returns:
        In [-log C, 0], nats.
    """
    logs = _log_softmax(evidence.target_logits)
    return float((np.exp(logs) * logs).sum(axis=1).mean())


def bnm(evidence: Evidence, seed: int = 0) -> float:
    """Nuclear norm of the target predictions P (m, C), as a share of its bound: ``|P|_* / sqrt(m min(m, C))``.

    Cui et al., CVPR 2020, section 3 (batch nuclear-norm maximization); as a validator in Musgrave et al., 2022. The
    bound is the paper's: the norm is at most sqrt(rank) times the Frobenius norm, that at most sqrt(m). With it the
    score doesn't grow with m. Sure and diverse predictions; misleads like infomax, though less where classes are uneven.

    Args:
        evidence: Of the model.
        seed: Not used.

    Returns:
        In (0, 1], 1 for sure predictions in equal numbers per class.
    """
    probabilities = evidence.target_probabilities
    values = np.linalg.svd(probabilities, compute_uv=False)
    return float(values.sum() / np.sqrt(len(probabilities) * min(probabilities.shape)))


def snd(evidence: Evidence, seed: int = 0) -> float:
    """Soft neighbourhood density: how many neighbours a target prediction has, as an entropy.

    ``mean_i H(softmax_{j != i}(cos(p_i, p_j) / 0.05))`` (Saito et al., ICCV 2021, section 3; temperature of equation
    2). High where predictions form few dense clusters, so at its best, log(m - 1), for a model that gives every
    example the same prediction, sure or not. Only behind the guard. Grows with log m. Memory O(256 m), time O(m^2 C).

    Args:
        evidence: Of the model.
        seed: Not used.

    Returns:
        In [0, log(m - 1)], nats.
    """
    unit = evidence.target_probabilities
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    total = 0.0
    for start in range(0, len(unit), _ROWS):
        scaled = (unit[start : start + _ROWS] @ unit.T - 1) / TEMPERATURE  # in [-20, 0]: exp needs no shift
        weights = np.exp(scaled)
        rows = np.arange(len(scaled))
        weights[rows, start + rows] = 0  # not its own neighbour
        sums = weights.sum(axis=1)
        total += float((np.log(sums) - (weights * scaled).sum(axis=1) / sums).sum())
    return total / len(unit)


def class_ami(evidence: Evidence, seed: int = 0) -> float:
    """Do predicted classes follow the clusters of the target embeddings: ``AMI(argmax p, kmeans(embeddings, C))``.

    ClassAMI of Musgrave et al., 2022 ("Three new validators", section on ClassAMI): adjusted mutual information
    (arithmetic mean) with C k-means clusters, the best of ten starts. Misleads where clusters of the embeddings are not
    the classes (an untuned backbone sorts by background or style), where classes are very uneven, and it can't see
    permuted classes.

    Args:
        evidence: Of the model.
        seed: Of k-means' starts.

    Returns:
        At most 1; about 0 for unrelated groupings. 0 also where all predictions or all embeddings are the same, which
        scikit-learn calls a perfect match when both are.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

    order = _order(evidence.target_embeddings)  # k-means' starts depend on the order of rows
    rows = np.asarray(evidence.target_embeddings, dtype=np.float64)[order]
    predicted = _hard(evidence.target_logits)[order]
    clusters = min(evidence.target_logits.shape[1], 1 + int((rows[1:] != rows[:-1]).any(axis=1).sum()))
    if clusters == 1 or (predicted == predicted[0]).all():
        return 0.0
    with threadpool_limits(1):  # threads add up in any order
        found = KMeans(clusters, n_init=10, random_state=seed).fit_predict(rows)
    return float(adjusted_mutual_info_score(predicted, found))


def dev(evidence: Evidence, seed: int = 0) -> float:
    """Deep embedded validation: minus the target risk, from weighted source losses with a control variate.

    ``-(mean(w l) + eta mean(w) - eta)``, ``eta = -Cov(w l, w) / Var(w)`` (You et al., ICML 2019, algorithm 1), where w
    are the weights of :func:`density_ratio` on the embeddings and l is the negative log-likelihood, at most 27.6.
    Unbiased for right weights. Misleads where the domains' embeddings don't overlap: weights are then far from a mean
    of 1, and eta moves the risk by that error, even below 0; and overconfident models pay for it in l.

    Args:
        evidence: Of the model.
        seed: Not used.

    Returns:
        Minus a risk in nats; above 0 where the control variate overshoots.
    """
    weights, weighted = evidence.weights, evidence.weights * _losses(evidence)
    covariance = np.cov(weighted, weights)
    eta = -covariance[0, 1] / covariance[1, 1] if covariance[1, 1] > 0 else 0.0
    return -float(weighted.mean() + eta * weights.mean() - eta)


def iwv(evidence: Evidence, seed: int = 0) -> float:
    """Importance-weighted validation: minus the target risk, from weighted source losses: ``-sum(w l) / sum(w)``.

    Sugiyama et al., JMLR 8, 2007, section 3, with self-normalized weights, which keeps the risk between the smallest
    and the largest loss. Weights and losses are those of :func:`dev`. Misleads where the supports don't overlap: a few
    examples decide, or, where none is like the target, it is the source's risk. Assumes that p(y | embedding) is the
    same in both domains, which a permuted-cluster model breaks.

    Args:
        evidence: Of the model.
        seed: Not used.

    Returns:
        Minus a risk in nats, in [-27.7, 0].
    """
    return -float(np.average(_losses(evidence), weights=evidence.weights))


VALIDATORS: dict[str, Callable[[Evidence, int], float]] = {
    "source": source,
    "infomax": infomax,
    "entropy": entropy,
    "bnm": bnm,
    "snd": snd,
    "class-ami": class_ami,
    "dev": dev,
    "iwv": iwv,
}


def judge(name: str, evidence: Evidence, reference_accuracy: float | None = None, seed: int = 0) -> Verdict:
    """Score a model by a validator, unless the guard turns it away.

    The guard rejects a model (1) whose accuracy on held-out source examples is more than :data:`FLOOR` below the
    reference; (2) whose agreement with the source labels is not above what its own class frequencies give by chance,
    ``(acc - chance) / (1 - chance) <= MARGIN`` (Cohen 1960; with even classes, chance is 1 / C; a constant predictor
    has 0 whatever the frequencies); (3) whose target predictions are too few classes beside its source predictions:
    with ``N = exp(entropy of the histogram of predicted classes)``, ``N_target - 1 < SPREAD (N_source - 1)``. The first
    class isn't counted, as N is never below 1; so one of two classes is found too. Where the target has fewer examples
    than the source, N_source is that of as many source examples, the mean of 20 draws: few examples show few classes.

    It can't tell a true label shift beyond SPREAD from collapse (it rejects both), nor see a model that permutes only
    the target's classes. With fewer than about ten target examples, (3) is left to luck.

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
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    target = target[_order(target)]
    if train is not None:
        train = np.asarray(train, dtype=np.float64)
        train = train[_order(train)]
        parts = [(train, np.arange(len(source)))]
    else:
        order = _order(source)
        folds = min(5, len(source))
        parts = [(np.delete(source, order[k::folds], axis=0), order[k::folds]) for k in range(folds)]
    strength = _strength(source[_order(source)] if train is None else train, target)
    logs = np.empty(len(source))
    for fitted, held in parts:
        logs[held] = _domain_logits(fitted, target, source[held], strength, 1e-8)
        logs[held] += np.log(len(fitted) / len(target))
    return np.exp(np.clip(logs, np.log(_SMALLEST), np.log(CLIP)))


def _strength(source: np.ndarray, target: np.ndarray) -> float:
    """The regularization with the least held-out log loss; weaker ones are not tried once it rises."""
    folds = min(3, len(source), len(target))
    best, chosen = np.inf, _STRENGTHS[0]
    for strength in _STRENGTHS:
        loss = 0.0
        for k in range(folds):
            kept = [np.delete(rows, np.s_[k::folds], axis=0) for rows in (source, target)]
            for rows, sign in ((source, 1), (target, -1)):
                logits = _domain_logits(kept[0], kept[1], rows[k::folds], strength, 1e-4)
                loss += float(np.logaddexp(0, sign * logits).sum())
        if loss >= best:
            break
        best, chosen = loss, strength
    return chosen


def _domain_logits(
    source: np.ndarray, target: np.ndarray, rows: np.ndarray, strength: float, tolerance: float
) -> np.ndarray:
    """Log odds of target against source for ``rows``, of a classifier fitted on ``source`` and ``target``."""
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([source, target])
    mean, scale = both.mean(axis=0), both.std(axis=0)
    scale[scale <= 1e-12 * np.abs(both).max(axis=0)] = 1.0  # constant up to rounding
    scale[scale == 0] = 1.0
    model = LogisticRegression(C=strength, tol=tolerance, max_iter=10_000)
    model.fit((both - mean) / scale, np.arange(len(both)) >= len(source))
    return model.decision_function((rows - mean) / scale)


def _collapse(evidence: Evidence, reference: float | None, seed: int) -> str | None:
    """Why the guard turns a model away, None where it doesn't; see :func:`judge`."""
    labels = np.asarray(evidence.source_labels)
    classes = evidence.source_logits.shape[1]
    if (labels == labels[0]).all():
        raise InjertoError("the held-out source examples are all of one class, no guard against collapse: give more")
    accuracy = _accuracy(evidence)
    if reference is not None and accuracy < reference - FLOOR - 1e-9:
        return f"source accuracy {accuracy:.3f} is more than {FLOOR} below {reference:.3f}"
    on_source, on_target = _hard(evidence.source_logits), _hard(evidence.target_logits)
    shares = [np.bincount(hard, minlength=classes) / len(hard) for hard in (labels, on_source)]
    chance = float(shares[0] @ shares[1])
    if accuracy <= chance + MARGIN * (1 - chance):
        return f"source accuracy {accuracy:.3f} is hardly above chance, {chance:.3f} for the classes it predicts"
    rng, size = np.random.default_rng(seed), len(on_target)
    draws = [on_source] if size >= len(on_source) else [rng.choice(on_source, size, replace=False) for _ in range(20)]
    there, here = _effective(on_target), float(np.mean([_effective(draw) for draw in draws]))
    if there - 1 < SPREAD * (here - 1):
        return f"predicts only {there:.1f} classes on the target (effective number) beside {here:.1f} on the source"
    return None


def _effective(hard: np.ndarray) -> float:
    """How many equally frequent classes have the entropy of these predictions."""
    shares = np.unique(hard, return_counts=True)[1] / len(hard)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _hard(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits).argmax(axis=1)


def _accuracy(evidence: Evidence) -> float:
    return float((_hard(evidence.source_logits) == np.asarray(evidence.source_labels)).mean())


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
    """An order of the rows that does not depend on how they come, by their bytes."""
    rows = np.ascontiguousarray(rows)
    return np.argsort(rows.view(np.dtype((np.void, rows.strides[0]))).ravel(), kind="stable")
