"""The scores against loops and explicit inverses written from the papers, and against what is known of the data."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf_shrinkage

import injerto
from injerto.backbones.packaged import locate
from injerto.basics.errors import InjertoError
from injerto.evaluation import transferability
from injerto.evaluation.transferability import Score, h_score, knn_accuracy, leep, logme, probe_accuracy, score_all

Task = tuple[np.ndarray, np.ndarray]


def task(n: int, d: int, seed: int = 0, apart: float = 1.0) -> Task:
    """Imbalanced classes 0, 1, 2, 4 (3 is absent), the last with one example; features with an offset and scales."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.7, 0.2, 0.1])
    labels[:4] = 0, 1, 2, 4
    centres = np.random.default_rng(9).normal(0, apart, (5, d))
    scales = np.linspace(0.2, 3, d)
    return (centres[labels] + rng.normal(size=(n, d))) * scales + 0.5, labels


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(5).normal(size=(d, d)))[0]


SHAPES = [(60, 4), (40, 12), (14, 30), (12, 12)]


# --- LogME ------------------------------------------------------------------------------------------------------------


def log_evidence(F: np.ndarray, y: np.ndarray, alpha: float, beta: float, noise: float) -> float:
    """You et al. 2021, the evidence term by term; ``noise`` is a part of every squared residual nothing explains."""
    n, d = F.shape
    A = alpha * np.eye(d) + beta * F.T @ F
    m = beta * np.linalg.solve(A, F.T @ y)
    residual = ((F @ m - y) ** 2).sum() + n * noise
    return (
        n / 2 * np.log(beta)
        + d / 2 * np.log(alpha)
        - n / 2 * np.log(2 * np.pi)
        - beta / 2 * residual
        - alpha / 2 * (m @ m)
        - np.linalg.slogdet(A)[1] / 2
    )


def logme_reference(F: np.ndarray, labels: np.ndarray, noise: float = 0.0) -> float:
    """Class by class the best of grids of log alpha and log beta, then a generic optimizer from there."""
    best = []
    for label in sorted(set(labels.tolist())):
        y = (labels == label).astype(float)

        def loss(p: np.ndarray) -> float:
            return -log_evidence(F, y, np.exp(p[0]), np.exp(p[1]), noise)

        found = []
        for most in (10, 20, 25):  # log beta; on the ridge towards no noise the optimizer stops early from a bad start
            start = min(((a, b) for a in np.arange(-6, 13, 2.0) for b in np.arange(-2, most, 2.0)), key=loss)
            steps = {"xatol": 1e-5, "fatol": 1e-9, "maxiter": 2000}
            found.append(minimize(loss, start, method="Nelder-Mead", options=steps).fun)
        best.append(-min(found) / len(y))
    return float(np.mean(best))


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_logme_is_the_maximum_of_the_evidence(n: int, d: int, apart: float) -> None:
    features, labels = task(n, d, apart=apart)
    assert logme(features, labels) == pytest.approx(logme_reference(features, labels), abs=2e-5)


def test_logme_of_collapsed_features_is_the_evidence_with_the_least_noise() -> None:
    _, labels = task(40, 6)
    collapsed = np.random.default_rng(1).normal(size=(5, 6))[labels]
    value = logme(collapsed, labels)
    assert value == pytest.approx(logme_reference(collapsed, labels, noise=1e-10), abs=1e-6)
    rng = np.random.default_rng(2)
    values = [logme(collapsed + sigma * rng.normal(size=(40, 6)), labels) for sigma in (1e-9, 1e-3, 1e-2, 0.1, 1)]
    assert values[0] == pytest.approx(value, abs=0.01)  # no cliff between collapsed and all but collapsed
    assert values == sorted(values, reverse=True)


def test_logme_of_features_that_say_nothing_is_that_of_no_features() -> None:
    _, labels = task(40, 3)
    shares = np.array([(labels == c).mean() for c in (0, 1, 2, 4)])
    nothing = np.mean(-0.5 * np.log(2 * np.pi * np.e * shares))
    assert logme(np.zeros((40, 3)), labels) == pytest.approx(nothing)
    assert logme(np.full((40, 3), 0.7), labels) == pytest.approx(
        logme_reference(np.full((40, 3), 0.7), labels), abs=2e-5
    )


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_logme_does_not_depend_on_the_features_scale(n: int, d: int) -> None:
    features, labels = task(n, d)
    for scale in (1e-6, 1e6):  # the paper's steps, which begin at alpha = beta = 1, do
        assert logme(features * scale, labels) == pytest.approx(logme(features, labels), abs=1e-8)


# --- LEEP -------------------------------------------------------------------------------------------------------------


def leep_reference(theta: np.ndarray, labels: np.ndarray) -> float:
    """Nguyen et al. 2020, equations 1 and 2, in loops."""
    n, sources = theta.shape
    targets = sorted(set(labels.tolist()))
    joint = {(y, z): sum(theta[i, z] for i in range(n) if labels[i] == y) / n for y in targets for z in range(sources)}
    marginal = [sum(joint[y, z] for y in targets) for z in range(sources)]
    total = 0.0
    for i in range(n):
        inside = 0.0
        for z in range(sources):
            if marginal[z] > 0:
                inside += joint[int(labels[i]), z] / marginal[z] * theta[i, z]
        total += np.log(inside)
    return total / n


def answers(labels: np.ndarray, sources: int, zero: int, seed: int = 0, sure: float = 2.0) -> np.ndarray:
    """A source classifier that leans to one class per label, and never says ``zero``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), sources))
    logits[np.arange(len(labels)), labels % sources] += sure
    logits[:, zero] = -np.inf
    chances = np.exp(logits)
    return chances / chances.sum(1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leep_equals_the_loops_with_a_source_class_of_probability_zero(dtype: type) -> None:
    _, labels = task(50, 1)
    theta = answers(labels, 7, zero=6).astype(dtype)
    assert (theta[:, 6] == 0).all()
    assert leep(theta, labels) == pytest.approx(leep_reference(theta.astype(np.float64), labels), abs=1e-12)


def test_leep_lies_between_minus_the_labels_entropy_and_zero() -> None:
    _, labels = task(50, 1)
    shares = np.array([(labels == c).mean() for c in (0, 1, 2, 4)])
    assert leep(np.full((50, 3), 1 / 3), labels) == pytest.approx((shares * np.log(shares)).sum())
    assert leep(np.eye(5)[labels], labels) == pytest.approx(0)
    sharper = [leep(answers(labels, 7, 6, sure=sure), labels) for sure in (0, 1, 2, 4, 8)]
    assert sharper == sorted(sharper)


def test_leep_refuses_logits() -> None:
    _, labels = task(50, 1)
    with pytest.raises(ValueError, match="sum to 1"):
        leep(np.random.default_rng(0).normal(size=(50, 3)), labels)


# --- H-score ----------------------------------------------------------------------------------------------------------


def h_reference(features: np.ndarray, labels: np.ndarray, shrinkage: float) -> float:
    """Explicit covariances over the examples (so each class mean as often as the class occurs) and an inverse."""
    n, d = features.shape
    mean = {label: features[labels == label].mean(0) for label in set(labels.tolist())}
    means = np.stack([mean[label] for label in labels.tolist()])
    S, B = (
        np.einsum("ni,nj->ij", values - features.mean(0), values - features.mean(0)) / n for values in (features, means)
    )
    shrunk = (1 - shrinkage) * S + shrinkage * np.trace(S) / d * np.eye(d)
    return float(np.trace(np.linalg.inv(shrunk) @ ((1 - shrinkage) * B)))


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_h_score_equals_the_explicit_inverse(n: int, d: int) -> None:
    features, labels = task(n, d)
    shrinkage = ledoit_wolf_shrinkage(features - features.mean(0))
    assert 0 < shrinkage < 1
    assert h_score(features, labels) == pytest.approx(h_reference(features, labels, shrinkage), rel=1e-9)


def test_h_score_without_shrinkage_is_the_plain_definition() -> None:
    features, labels = task(60, 1)  # nothing to shrink in one dimension
    assert h_score(features, labels) == pytest.approx(h_reference(features, labels, 0.0), rel=1e-12)
    features, labels = task(50_000, 3)  # and all but nothing with many examples
    assert h_score(features, labels) == pytest.approx(h_reference(features, labels, 0.0), rel=5e-3)


@pytest.mark.parametrize("n", [40, 9])
def test_h_score_of_collapsed_features_is_finite(n: int) -> None:
    _, labels = task(n, 12)
    assert h_score(np.full((n, 12), 0.1), labels) == 0.0  # the mean of 0.1 is not 0.1 but for rounding
    collapsed = np.random.default_rng(1).normal(size=(5, 12))[labels]
    shrinkage = ledoit_wolf_shrinkage(collapsed - collapsed.mean(0))
    assert h_score(collapsed, labels) == pytest.approx(h_reference(collapsed, labels, shrinkage), rel=1e-8)
    features, labels = task(n, 6)
    doubled = np.concatenate([features, features], 1)  # every column twice: the covariance has no inverse
    shrinkage = ledoit_wolf_shrinkage(doubled - doubled.mean(0))
    assert h_score(doubled, labels) == pytest.approx(h_reference(doubled, labels, shrinkage), rel=1e-8)


def test_h_score_of_noise_stays_low_where_the_plain_one_is_at_its_most() -> None:
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(40, 200)), np.arange(40) % 4
    centred = noise - noise.mean(0)
    plain = np.trace(
        np.linalg.pinv(centred.T @ centred, rcond=1e-10)
        @ sum(10 * np.outer(m, m) for m in (centred[labels == c].mean(0) for c in range(4)))
    )
    assert plain == pytest.approx(3)  # whatever the features
    assert h_score(noise, labels) < 0.5


# --- nearest neighbours -----------------------------------------------------------------------------------------------


def knn_reference(features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, k: int) -> float:
    """One example, one neighbour, one vote at a time."""
    recalls: dict[int, list[bool]] = {}
    for i in range(len(features)):
        others = []
        for j in range(len(features)):
            if j == i or (groups is not None and groups[i] == groups[j]):
                continue
            cosine = features[i] @ features[j] / (np.linalg.norm(features[i]) * np.linalg.norm(features[j]))
            others.append((-round(float(cosine), 12), j))
        nearest = [int(labels[j]) for _, j in sorted(others)[:k]]
        most = max((nearest.count(c) for c in nearest), default=0)
        winner = next((c for c in nearest if nearest.count(c) == most), None)
        recalls.setdefault(int(labels[i]), []).append(winner == labels[i])
    return float(np.mean([np.mean(right) for right in recalls.values()]))


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_knn_equals_the_loops(n: int, d: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = task(n, d)
    features[5], features[6] = features[4], features[7] * 2  # equally near, with other labels perhaps
    groups = np.random.default_rng(3).integers(0, n // 3, n)
    alone, grouped = knn_reference(features, labels, None, k), knn_reference(features, labels, groups, k)
    for cells in (transferability._CELLS, 5 * n, 1):
        monkeypatch.setattr(transferability, "_CELLS", cells)
        assert knn_accuracy(features, labels, k=k) == pytest.approx(alone, abs=1e-12)
        assert knn_accuracy(features, labels, [f"g{g}" for g in groups], k=k) == pytest.approx(grouped, abs=1e-12)


def test_knn_ties_go_to_the_nearest_then_to_the_earlier() -> None:
    angles = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    points = np.stack([np.cos(angles), np.sin(angles)], 1)
    labels = np.array([0, 0, 1, 1, 0])  # of the first: nearest first 0, 1, 1, 0
    assert knn_accuracy(points, labels, k=4) == knn_reference(points, labels, None, 4)
    rng = np.random.default_rng(0)
    parallel = rng.normal(size=7) * rng.uniform(0.1, 10, (40, 1))  # cosines of 1 but for rounding
    assert knn_accuracy(parallel, np.arange(40) % 2, k=1) == 19 / 40  # all say what row 0 says, row 0 what row 1 says
    same = np.ones((6, 3))
    assert knn_accuracy(same, np.array([0, 0, 0, 1, 1, 1]), k=1) == 0.5  # everyone's nearest is the first: class 0


def test_knn_of_zero_features_is_finite() -> None:
    assert knn_accuracy(np.zeros((6, 3)), np.array([0, 0, 0, 1, 1, 1])) <= 0.5


def test_knn_never_holds_all_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transferability, "_CELLS", 60_000)
    features, labels = task(3000, 4)
    tracemalloc.start()
    knn_accuracy(features, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000**2 * 8 / 20


# --- copies and groups ------------------------------------------------------------------------------------------------


def copies() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pure noise, every example three times, the copies in one group."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(80, 60)), np.arange(80) % 4
    return np.tile(features, (3, 1)), np.tile(labels, 3), [f"picture {i}" for i in range(80)] * 3


def test_a_copy_does_not_vote_for_itself() -> None:
    features, labels, groups = copies()
    assert knn_accuracy(features, labels, k=1) == 1.0
    assert knn_accuracy(features, labels, groups, k=1) < 0.45  # four classes


def test_a_copy_does_not_train_the_probe_that_judges_it() -> None:
    features, labels, groups = copies()
    assert probe_accuracy(features, labels, np.arange(240)) > 0.8
    assert probe_accuracy(features, labels, groups) < 0.45


def test_no_neighbour_outside_the_group_is_wrong_not_an_error() -> None:
    features, labels = task(12, 3)
    groups = np.array([0] * 11 + [1])
    assert knn_accuracy(features, labels, groups) == pytest.approx(knn_reference(features, labels, groups, 5))


# --- the probe --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The first feature of the train examples of every fold: a test puts the group's number there."""
    seen: list[np.ndarray] = []
    fit = transferability.fit_probe

    def spy(embeddings: np.ndarray, *rest, **more):
        seen.append(embeddings[:, 0].copy())
        return fit(embeddings, *rest, **more)

    monkeypatch.setattr(transferability, "fit_probe", spy)
    return seen


def test_folds_never_part_a_group_and_every_class_is_learned(sides: list[np.ndarray]) -> None:
    features, labels = task(120, 5)
    rng = np.random.default_rng(0)
    group = np.where(labels == 4, 100, rng.integers(0, 12, 120) + 20 * np.minimum(labels, 2))
    features[:, 0] = group
    probe_accuracy(features, labels, group, seed=3)
    assert len(sides) == 3
    judged = [set(group) - set(trained) for trained in sides]
    assert set.union(*judged) == set(group) and sum(map(len, judged)) == len(set(group))
    for trained in sides:
        assert sum(trained == g for g in set(trained)).sum() == sum((group == g).sum() for g in set(trained))
        assert {0, 1, 2} <= {int(g) // 20 for g in trained}
    first = [set(trained) for trained in sides]
    sides.clear()
    probe_accuracy(features, labels, group, seed=4)
    assert [set(trained) for trained in sides] != first


def test_the_probe_equals_scikit_learn_fold_by_fold(sides: list[np.ndarray]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.preprocessing import StandardScaler

    features, labels = task(150, 6)
    features, labels = features[labels < 4], labels[labels < 4]
    features[:, 0] = np.arange(len(labels))
    value = probe_accuracy(features, labels, np.arange(len(labels)))
    predicted = np.full(len(labels), -1)
    for trained in sides:
        train = np.isin(features[:, 0], trained)
        scaler = StandardScaler().fit(features[train])
        model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=5000, tol=1e-9)
        model.fit(scaler.transform(features[train]), labels[train])
        predicted[~train] = model.predict(scaler.transform(features[~train]))
    assert value == pytest.approx(balanced_accuracy_score(labels, predicted), abs=0.01)


def test_many_rows_are_thinned_by_group_and_small_classes_stay(
    sides: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transferability, "PROBE_ROWS", 120)
    rng = np.random.default_rng(0)
    group = np.arange(600) // 2
    labels = (group >= 290).astype(int)  # 580 of one class, 20 of the other
    features = rng.normal(size=(600, 4)) + labels[:, None]
    features[:, 0] = group
    value = probe_accuracy(features, labels, group)
    used = np.unique(np.concatenate(sides), return_counts=True)
    assert 120 <= sum(used[1]) / 2 <= 122 and (used[1] == 4).all()  # both examples of a group, in two folds of three
    assert set(range(290, 300)) <= set(used[0])
    shuffled = rng.permutation(600)
    assert probe_accuracy(features[shuffled], labels[shuffled], group[shuffled]) == pytest.approx(value, abs=0.02)


# --- all of them ------------------------------------------------------------------------------------------------------


def graded(quality: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of known quality, 0 noise to 1 separated classes, and a source classifier on top of them."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), [90, 40, 20, 10])
    centres = np.random.default_rng(8).normal(size=(4, 20))
    features = quality * 2 * centres[labels] + rng.normal(size=(160, 20))
    logits = features @ np.random.default_rng(7).normal(size=(20, 15)) / 4
    chances = np.exp(logits - logits.max(1, keepdims=True))
    return features, labels, chances / chances.sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_score_ranks_noise_below_mixed_below_separated(seed: int, dtype: type) -> None:
    rows = []
    for quality in (0.0, 0.3, 1.0):
        features, labels, chances = graded(quality, seed)
        rows.append(score_all(features.astype(dtype), labels, np.arange(160), chances))
    assert set(rows[0]) == {"logme", "h_score", "knn_accuracy", "probe_accuracy", "leep"}
    for name in rows[0]:
        low, middle, high = (row[name].value for row in rows)
        assert low < middle < high, name


def test_all_scores_at_once_are_the_single_ones_and_leep_needs_probabilities() -> None:
    features, labels, chances = graded(0.5)
    groups = np.arange(160) // 2
    found = score_all(features, labels, groups, chances, seed=2)
    assert found["logme"].value == logme(features, labels)
    assert found["h_score"].value == h_score(features, labels)
    assert found["knn_accuracy"].value == knn_accuracy(features, labels, groups)
    assert found["probe_accuracy"].value == probe_accuracy(features, labels, groups, 2)
    assert found["leep"].value == leep(chances, labels)
    assert all(isinstance(score, Score) and score.seconds > 0 for score in found.values())
    assert "leep" not in score_all(features, labels, groups)


def test_same_bits_again_and_no_global_randomness() -> None:
    features, labels, chances = graded(0.5)
    state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    runs = [{k: s.value for k, s in score_all(features, labels, np.arange(160), chances).items()} for _ in range(2)]
    assert runs[0] == runs[1]
    assert (np.random.get_state()[1] == state[0]).all() and torch.equal(torch.random.get_rng_state(), state[1])


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "logme": logme,
    "h_score": h_score,
    "knn_accuracy": knn_accuracy,
    "probe_accuracy": lambda features, labels: probe_accuracy(features, labels, np.arange(len(labels))),
}


@pytest.mark.parametrize("name", SCORES)
def test_absent_classes_and_the_numbers_of_classes_do_not_matter(name: str) -> None:
    features, labels = task(60, 5)
    dense = np.unique(labels, return_inverse=True)[1]
    assert SCORES[name](features, labels) == SCORES[name](features, dense) == SCORES[name](features, labels * 100)


@pytest.mark.parametrize("name", ["logme", "h_score", "knn_accuracy"])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_rotating_the_features_changes_nothing(name: str, n: int, d: int) -> None:
    features, labels = task(n, d)
    value = SCORES[name](features, labels)
    assert SCORES[name](features @ rotation(d), labels) == pytest.approx(value, abs=1e-7)
    wider = np.concatenate([features, np.zeros((n, 3))], 1) @ rotation(d + 3)
    if name != "h_score":  # its shrinkage sees the width
        assert SCORES[name](wider, labels) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("name", SCORES)
def test_constant_and_repeated_features_give_finite_scores(name: str) -> None:
    _, labels = task(30, 1)
    for features in (
        np.zeros((30, 8)),
        np.full((30, 8), 0.1, np.float32),
        np.eye(8)[labels],
        np.ones((30, 50)) * 1e-20,
    ):
        assert np.isfinite(SCORES[name](features, labels))


@pytest.mark.parametrize("name", SCORES)
def test_what_can_be_mended_is_said(name: str) -> None:
    features, labels = task(20, 3)
    with pytest.raises(InjertoError, match="one class"):
        SCORES[name](features, np.zeros(20, int))
    with pytest.raises(ValueError, match="from 0 up"):
        SCORES[name](features, labels - 1)
    with pytest.raises(ValueError, match=r"\(19,\)"):
        SCORES[name](features, labels[:19])
    features[3, 1] = np.nan
    with pytest.raises(InjertoError, match="1 of 20"):
        SCORES[name](features, labels)


def test_groups_that_can_not_judge_are_said() -> None:
    features, labels = task(20, 3)
    for score in (knn_accuracy, probe_accuracy):
        with pytest.raises(InjertoError, match="one group"):
            score(features, labels, ["all"] * 20)
        with pytest.raises(ValueError, match="as many groups"):
            score(features, labels, ["all"] * 19)
    with pytest.raises(InjertoError, match="two classes with two groups"):
        probe_accuracy(features, labels, labels)


# --- real pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pretrained_embeddings_rank_above_raw_pixels() -> None:
    try:
        locate("efficientnet-lite0")
    except InjertoError as error:
        pytest.skip(str(error))
    from injerto.backbones.load import load_backbone
    from injerto.compute.inference import Embedder
    from injerto.compute.plan import ComputePlan
    from injerto.domains.images import prepare_image, read_image

    domain = injerto.load_domains("emoji-styles")["noto"]
    domain = domain.subset(range(0, len(domain), len(domain) // 300)[:300])
    labels = np.unique(np.array(domain.labels), return_inverse=True)[1]
    backbone = load_backbone("packaged:efficientnet-lite0", image_size=64)
    embeddings = np.empty((300, backbone.embedding_dim), np.float32)
    for where, values in Embedder(backbone, ComputePlan("cpu", "fp32", True, 1)).embed(domain.inputs, domain.contents):
        embeddings[where] = values
    pixels = [prepare_image(read_image(picture), backbone.preprocessing).ravel() for picture in domain.inputs]
    directions = np.random.default_rng(0).normal(size=(64 * 64 * 3, backbone.embedding_dim)) / 111
    projected = ((np.stack(pixels) / 255.0 - 0.5) @ directions).astype(np.float32)
    head = backbone.original_head
    assert head is not None
    with torch.no_grad():
        chances = [head(torch.from_numpy(rows)).softmax(1).numpy() for rows in (embeddings, projected)]
    pretrained = score_all(embeddings, labels, domain.groups, chances[0])
    raw = score_all(projected, labels, domain.groups, chances[1])
    for name in raw:
        assert pretrained[name].value > raw[name].value, name
    assert pretrained["probe_accuracy"].value > raw["probe_accuracy"].value + 0.15
