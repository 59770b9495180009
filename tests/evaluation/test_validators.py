"""Validators against loops from the papers, and the guard against models that have collapsed."""

from collections import Counter
from dataclasses import replace
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import norm, spearmanr
from sklearn.metrics import adjusted_mutual_info_score

from injerto.basics.errors import InjertoError
from injerto.evaluation import validators
from injerto.evaluation.validators import VALIDATORS, Evidence, best_of, density_ratio, judge

NAMES = ["source", "infomax", "entropy", "bnm", "snd", "class-ami", "dev", "iwv"]


def noise(
    seed: int = 0, n: int = 40, m: int = 50, classes: int = 4, width: int = 5, train: int | None = 45
) -> Evidence:
    """Random numbers of the right shapes, float32 as a network's."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    labels = np.arange(n) % classes
    logits = 2 * draw(n, classes)
    logits[np.arange(n), labels] += 2
    target = 3 * draw(m, classes), draw(m, width) + 0.5
    return Evidence(logits, labels, draw(n, width), *target, None if train is None else draw(train, width))


def clusters(seed: int = 0, classes: int = 4, n: int = 200, shares: list[float] | None = None, **keys) -> Evidence:
    """A good model: a cluster per class in both domains, the head at their centres."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(classes, 6)
    labels = np.arange(n) % classes
    target = rng.choice(classes, n, p=shares) if shares else labels
    source, embeddings = (centres[y] + rng.normal(size=(n, 6)) for y in (labels, target))
    head = centres.T * keys.get("sure", 0.5)
    shift = -8 * keys.get("sure", 0.5)
    return Evidence(source @ head + shift, labels, source, embeddings @ head + shift, embeddings)


def collapsed(good: Evidence, into: int, sure: float = 50.0) -> Evidence:
    """Over-aligned: as good on the source, every target example surely in one of the first ``into`` classes."""
    m, classes = good.target_logits.shape
    classes_hit = np.arange(m) % into
    spread = np.random.default_rng(9).normal(size=good.target_embeddings.shape)
    return replace(good, target_logits=sure * np.eye(classes)[classes_hit], target_embeddings=0.1 * spread)


def softmax(row: np.ndarray) -> list[float]:
    e = [exp(float(v) - float(max(row))) for v in row]
    return [v / sum(e) for v in e]


def entropy_of(p: list[float]) -> float:
    return -sum(v * log(v) for v in p if v > 0)


# The scores against loops


def reference(name: str, evidence: Evidence) -> float:
    """The papers' formulas, one example at a time in float64."""
    n, m = len(evidence.source_labels), len(evidence.target_logits)
    p = [softmax(row) for row in evidence.target_logits]
    losses = [
        -log(max(softmax(row)[y], 1e-12)) for row, y in zip(evidence.source_logits, evidence.source_labels, strict=True)
    ]
    classes = len(p[0])
    if name == "source":
        right = sum(
            int(np.argmax(row)) == y for row, y in zip(evidence.source_logits, evidence.source_labels, strict=True)
        )
        return right / n + 1 / (2 * n * (1 + sum(losses) / n))
    if name == "entropy":
        return -sum(entropy_of(row) for row in p) / m
    if name == "infomax":
        return (
            entropy_of([sum(row[c] for row in p) / m for c in range(classes)]) - sum(entropy_of(row) for row in p) / m
        )
    if name == "bnm":
        short = p if m <= classes else list(zip(*p, strict=True))  # the smaller Gram matrix, without null directions
        gram = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in short] for u in short]
        return sum(sqrt(max(v, 0)) for v in np.linalg.eigvalsh(np.array(gram))) / sqrt(m * min(m, classes))
    if name == "snd":
        total = 0.0
        for i in range(m):
            similar = []
            for j in range(m):
                if j != i:
                    dot = sum(a * b for a, b in zip(p[i], p[j], strict=True))
                    norms = sqrt(sum(a * a for a in p[i]) * sum(b * b for b in p[j]))
                    similar.append(dot / norms / 0.05)
            total += entropy_of(softmax(np.array(similar)))
        return total / m
    w = [float(v) for v in evidence.weights]
    weighted = [a * b for a, b in zip(w, losses, strict=True)]
    if name == "iwv":
        return -sum(weighted) / sum(w)
    assert name == "dev"
    mean_w, mean_wl = sum(w) / n, sum(weighted) / n
    covariance = sum((a - mean_wl) * (b - mean_w) for a, b in zip(weighted, w, strict=True)) / (n - 1)
    eta = -covariance / (sum((b - mean_w) ** 2 for b in w) / (n - 1))
    return -(mean_wl + eta * mean_w - eta)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "class-ami"])
@pytest.mark.parametrize("sizes", [{}, {"m": 3, "classes": 6}, {"train": None}, {"n": 5, "m": 90, "classes": 2}])
def test_scores_equal_the_papers_formulas(name: str, sizes: dict) -> None:
    evidence = noise(**sizes)
    assert VALIDATORS[name](evidence, 0) == pytest.approx(reference(name, evidence), rel=1e-9)


@pytest.mark.parametrize("name", ["dev", "iwv"])
def test_risks_with_given_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(1).exponential(size=40)
    monkeypatch.setattr(validators, "density_ratio", lambda *a: weights)
    evidence = noise()
    assert evidence.weights is weights
    assert VALIDATORS[name](evidence, 0) == pytest.approx(reference(name, evidence), rel=1e-12)
    monkeypatch.setattr(validators, "density_ratio", lambda *a: np.full(40, 1.0))  # no variance, nothing to control
    evidence = noise()
    losses = [log(1 / softmax(row)[y]) for row, y in zip(evidence.source_logits, evidence.source_labels, strict=True)]
    assert VALIDATORS[name](evidence, 0) == pytest.approx(-sum(losses) / 40, rel=1e-12)


def test_class_ami_equals_sklearns_for_the_same_clusters() -> None:
    evidence = clusters(seed=3)
    rng = np.random.default_rng(0)
    evidence = replace(evidence, target_logits=evidence.target_logits + 2 * rng.normal(size=(200, 4)))
    rows, centres = evidence.target_embeddings, 4 * np.eye(4, 6)
    for _ in range(50):  # Lloyd from the true centres, row by row
        nearest = [int(np.argmin([((row - c) ** 2).sum() for c in centres])) for row in rows]
        centres = np.array([rows[[j == k for j in nearest]].mean(axis=0) for k in range(4)])
    expected = adjusted_mutual_info_score(evidence.target_logits.argmax(axis=1), nearest)
    assert 0.3 < expected < 0.9
    assert VALIDATORS["class-ami"](evidence, 0) == pytest.approx(expected, rel=1e-9)
    assert VALIDATORS["class-ami"](evidence, 2**63 - 1) == pytest.approx(expected, rel=1e-9)  # any seed of a run


def test_source_orders_by_accuracy_first_and_by_likelihood_next() -> None:
    labels = np.arange(10) % 2

    def model(wrong: int, sure: float) -> float:
        logits = sure * np.eye(2)[labels]
        logits[:wrong] = -logits[:wrong]
        return VALIDATORS["source"](replace(noise(n=10, classes=2, train=None), source_logits=logits), 0)

    assert model(0, 0.1) > model(1, 30) and model(1, 0.1) > model(1, 30) and model(0, 5) > model(0, 1)
    assert all(
        0 < model(wrong, sure) - (1 - wrong / 10) <= 0.05 + 1e-12 for wrong in range(9) for sure in (0.1, 5, 1e4)
    )


def test_bnm_and_iwv_do_not_grow_with_the_number_of_examples_and_snd_does_as_its_docstring_says() -> None:
    evidence = noise()
    twice = replace(
        evidence,
        target_logits=np.tile(evidence.target_logits, (2, 1)),
        target_embeddings=np.tile(evidence.target_embeddings, (2, 1)),
    )
    for name in ("bnm", "infomax", "entropy"):
        assert VALIDATORS[name](twice, 0) == pytest.approx(VALIDATORS[name](evidence, 0), rel=1e-12)
    assert VALIDATORS["snd"](twice, 0) > VALIDATORS["snd"](evidence, 0)
    even = replace(
        evidence, target_logits=100 * np.eye(4)[np.arange(40) % 4], target_embeddings=evidence.source_embeddings
    )
    assert VALIDATORS["bnm"](even, 0) == pytest.approx(1)
    assert VALIDATORS["infomax"](even, 0) == pytest.approx(log(4))


@pytest.mark.parametrize("rows", [1, 7, 50, 1000])
def test_snd_is_the_same_in_blocks(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = VALIDATORS["snd"](noise(), 0)
    monkeypatch.setattr(validators, "_ROWS", rows)
    assert VALIDATORS["snd"](noise(), 0) == pytest.approx(whole, rel=1e-12)


# The density ratio


def test_density_ratio_is_the_converged_ridge_classifiers_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validators, "_STRENGTHS", (0.1,))
    evidence = noise(n=30, m=60, train=90)
    a, b = evidence.train_embeddings.astype(float), evidence.target_embeddings.astype(float)
    both = np.concatenate([a, b])
    z, signs = (both - both.mean(axis=0)) / both.std(axis=0), np.repeat([-1.0, 1.0], [90, 60])

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (z @ theta[1:] + theta[0])
        slope = -0.1 * signs / (1 + np.exp(margins))
        gradient = np.concatenate([[slope.sum()], z.T @ slope + theta[1:]])
        return float(0.1 * np.logaddexp(0, -margins).sum() + 0.5 * (theta[1:] ** 2).sum()), gradient

    theta = minimize(objective, np.zeros(6), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    held = (evidence.source_embeddings.astype(float) - both.mean(axis=0)) / both.std(axis=0)
    expected = np.exp(held @ theta[1:] + theta[0]) * 90 / 60
    assert evidence.weights == pytest.approx(expected, rel=1e-5)
    assert expected.max() / expected.min() > 3


@pytest.mark.parametrize("fit", ["train", "crossed"])
def test_density_ratio_finds_a_known_one(fit: str) -> None:
    rng = np.random.default_rng(0)
    source, train, target = rng.normal(size=(2000, 3)), rng.normal(size=(1500, 3)), rng.normal(size=(700, 3))
    target[:, 0] += 1
    found = density_ratio(source, target, train if fit == "train" else None)
    true = norm.pdf(source[:, 0] - 1) / norm.pdf(source[:, 0])
    inside = true < 10
    assert abs(np.log(found[inside]) - np.log(true[inside])).mean() < 0.2
    assert found.mean() == pytest.approx(1, abs=0.15)
    same = density_ratio(source, rng.normal(size=(700, 3)), train if fit == "train" else None)
    assert abs(same - 1).mean() < 0.1


def test_density_ratio_is_clipped_and_cross_fitting_does_not_grade_what_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    apart = density_ratio(rng.normal(size=(50, 2)), rng.normal(size=(50, 2)) + 1000, rng.normal(size=(50, 2)))
    assert (apart > 0).all() and (apart < 0.5).all()
    swapped = density_ratio(rng.normal(size=(50, 2)) + 9, rng.normal(size=(50, 2)) + 9, rng.normal(size=(50, 2)))
    assert swapped.max() == pytest.approx(validators.CLIP, rel=1e-12)
    wide, target = rng.normal(size=(60, 300)), rng.normal(size=(60, 300))  # separable by chance, no true difference
    assert 0.7 < density_ratio(wide, target).mean() < 1.4
    monkeypatch.setattr(validators, "_STRENGTHS", (1.0,))  # too weak: it learns its own examples by heart
    assert 0.25 < (density_ratio(wide, target) < 1).mean() < 0.75
    assert (density_ratio(wide, target, wide) < 1).all()


def test_iwv_sees_what_source_accuracy_cannot() -> None:
    """Covariate shift: the truth bends, one line suits most of the source, the other the target's region."""
    rng = np.random.default_rng(0)
    source, target = (rng.normal(size=(1500, 2)) + [shift, 0] for shift in (0, 1.5))
    truth = [(x[:, 1] > np.maximum(x[:, 0], 0)).astype(int) for x in (source, target)]
    models = []
    for slope in (0.2, 0.4, 0.6, 0.8, 1.0):
        logits = [np.stack([0 * x[:, 0], 6 * (x[:, 1] - slope * x[:, 0])], axis=1) for x in (source, target)]
        models.append(Evidence(logits[0], truth[0], source, logits[1], target))
    accuracy = [(e.target_logits.argmax(axis=1) == truth[1]).mean() for e in models]
    assert int(np.argmax(accuracy)) == 4
    assert best_of("source", models) != 4
    assert best_of("iwv", models) == 4


# The guard


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reference_accuracy", [None, 0.95, 0.3])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_constant_predictor_and_permuted_clusters_are_rejected(
    name: str, reference_accuracy: float | None, classes: int
) -> None:
    good = clusters(classes=classes)
    assert judge(name, good, reference_accuracy).rejected is None
    constant = np.tile(30 * np.eye(classes)[1], (200, 1))
    turned = np.roll(np.arange(classes), 1)
    for bad in (
        replace(good, source_logits=constant, target_logits=constant),
        replace(good, source_logits=good.source_logits[:, turned], target_logits=good.target_logits[:, turned]),
    ):
        verdict = judge(name, bad, reference_accuracy)
        assert verdict.score == -np.inf and verdict.rejected and np.isfinite(verdict.raw)
        assert "source accuracy" in verdict.rejected
        assert best_of(name, [bad, good, bad]) == 1


def test_two_swapped_classes_of_four_take_a_reference_to_see() -> None:
    good = clusters()
    swapped = replace(good, source_logits=good.source_logits[:, [1, 0, 2, 3]])
    assert judge("bnm", swapped).rejected is None
    assert judge("bnm", swapped, 0.95).rejected == "source accuracy 0.500 is more than 0.1 below 0.950"


@pytest.mark.parametrize("name", ["entropy", "snd"])
@pytest.mark.parametrize("into", [1, 2])
def test_over_aligned_models_win_raw_and_lose_guarded(name: str, into: int) -> None:
    """The published collapse: full confidence in one or two classes, source accuracy intact."""
    good = clusters()
    bad = collapsed(good, into)
    accuracy = (good.target_logits.argmax(axis=1) == np.arange(200) % 4).mean()
    assert accuracy > 0.9
    assert VALIDATORS[name](bad, 0) > VALIDATORS[name](good, 0)
    verdict = judge(name, bad, 0.95)
    assert verdict.raw > judge(name, good, 0.95).raw and verdict.score == -np.inf
    assert (
        verdict.rejected
        == f"predicts only {into:.1f} classes on the target (effective number) beside 4.0 on the source"
    )
    assert best_of(name, [bad, good]) == 1 and best_of(name, [good, bad]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_one_of_two_classes_is_found_too(name: str) -> None:
    good = clusters(classes=2)
    assert judge(name, collapsed(good, 1)).rejected is not None
    assert best_of(name, [collapsed(good, 1), good]) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shares", [[0.6, 0.2, 0.1, 0.1], [0.85, 0.15], [1 / 5] * 5 + [0] * 5])
def test_a_moderate_label_shift_passes(name: str, shares: list[float]) -> None:
    model = clusters(classes=len(shares), shares=shares) if len(shares) <= 6 else None
    if model is None:  # half of ten classes
        logits = 9 * np.eye(10)
        embeddings = np.random.default_rng(0).normal(size=(100, 4))
        model = Evidence(
            logits[np.arange(100) % 10], np.arange(100) % 10, embeddings, logits[np.arange(100) % 5], embeddings
        )
    verdict = judge(name, model, 1.0)
    assert verdict.rejected is None and verdict.score == verdict.raw == VALIDATORS[name](model, 0)


def test_a_collapse_seen_on_two_examples_says_so() -> None:
    bad = collapsed(clusters(), 1)
    two = replace(bad, target_logits=bad.target_logits[:2], target_embeddings=bad.target_embeddings[:2])
    assert "target examples only" not in str(judge("infomax", bad).rejected)
    assert str(judge("infomax", two).rejected).endswith("(by 2 target examples only)")


def test_few_target_examples_of_many_classes_are_not_called_collapse() -> None:
    rng = np.random.default_rng(0)
    logits, labels = 20 * np.eye(65), rng.integers(0, 65, 1300)
    passed = 0
    for _ in range(20):
        model = Evidence(
            logits[labels],
            labels,
            rng.normal(size=(1300, 2)),
            logits[rng.integers(0, 65, 20)],
            rng.normal(size=(20, 2)),
        )
        passed += judge("entropy", model).rejected is None
    assert passed == 20


def test_the_floor_is_a_tenth() -> None:
    labels = np.arange(200) % 4
    logits = 5 * np.eye(4)[labels]
    logits[:40] = np.roll(logits[:40], 1, axis=1)
    model = replace(clusters(), source_logits=logits)  # right on 160 of 200
    assert judge("bnm", model, 0.9).rejected is None
    assert judge("bnm", model, 0.905).rejected is not None


def test_uneven_classes_chance_is_that_of_the_models_own_predictions() -> None:
    """A model that finds both classes of 90/10 is kept, though the most frequent class alone is right more often."""
    labels = (np.arange(200) % 10 == 0).astype(int)
    predicted = labels.copy()
    predicted[1:60:2] = 1
    base = clusters(classes=2)
    model = replace(base, source_labels=labels, source_logits=5 * np.eye(2)[predicted])
    assert (predicted == labels).mean() < 0.9
    assert judge("bnm", model).rejected is None
    assert judge("bnm", replace(model, source_logits=np.tile([5.0, 0.0], (200, 1)))).rejected is not None


@pytest.mark.parametrize("name", NAMES)
def test_best_of_takes_the_earlier_of_equals_and_the_source_where_all_fail(name: str) -> None:
    good = clusters()
    assert best_of(name, [good, good]) == 0
    worse = replace(collapsed(good, 1), source_logits=good.source_logits[::-1] * 0.1 + good.source_logits)
    assert judge(name, worse).rejected
    assert best_of(name, [collapsed(good, 2), collapsed(good, 1)]) == 0
    lost = replace(collapsed(good, 1), source_logits=np.roll(good.source_logits, 1, axis=1))
    assert best_of(name, [lost, collapsed(good, 2), collapsed(good, 1)]) == 1


# Determinism and hard cases


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_and_the_global_random_states_stay(name: str) -> None:
    np.random.seed(5)
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), np.random.get_state()[2], torch.get_rng_state()
    scores = [judge(name, noise(m=30, train=train), seed=7).raw for train in (45, None)]
    np.random.seed(6)
    again = [judge(name, noise(m=30, train=train), seed=7).raw for train in (45, None)]
    assert scores == again
    np.random.seed(5)
    after = np.random.get_state()[1], np.random.get_state()[2], torch.get_rng_state()
    assert (before[0] == after[0]).all() and before[1] == after[1] and torch.equal(before[2], after[2])
    VALIDATORS[name](noise(), 0)
    judge(name, noise(m=30), seed=1)
    assert (np.random.get_state()[1] == before[0]).all() and np.random.get_state()[2] == before[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("train", [45, None])
def test_the_order_of_target_examples_changes_nothing(name: str, train: int | None) -> None:
    evidence = noise(m=300, train=train)
    order = np.random.default_rng(3).permutation(300)
    turned = replace(
        evidence, target_logits=evidence.target_logits[order], target_embeddings=evidence.target_embeddings[order]
    )
    a, b = judge(name, evidence), judge(name, turned)
    assert b.raw == pytest.approx(a.raw, rel=1e-12) and a.rejected == b.rejected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("train", [3, None])
def test_scores_are_finite_where_numbers_are_extreme_or_few(name: str, train: int | None) -> None:
    rng = np.random.default_rng(0)
    base = noise(n=6, m=6, classes=3, train=train)
    sure = 1e4 * np.sign(rng.normal(size=(6, 3)))
    flat = np.full((6, 5), 0.1, dtype=np.float32)
    tiny = noise(n=2, m=2, classes=2, train=train and 2)
    one_class = replace(base, source_labels=np.zeros(6, dtype=int))
    for evidence in (
        replace(base, source_logits=sure, target_logits=-sure),
        replace(base, source_logits=np.zeros((6, 3)), target_logits=np.zeros((6, 3))),
        replace(base, source_embeddings=flat, target_embeddings=flat, train_embeddings=train and flat[:3]),
        replace(base, target_embeddings=flat),
        replace(base, target_embeddings=base.target_embeddings * 1e6),
        replace(base, target_embeddings=base.target_embeddings.astype(np.float16)),
        tiny,
        replace(tiny, target_logits=np.array([[1e4, -1e4], [1e4, -1e4]])),
        one_class,
    ):
        assert np.isfinite(VALIDATORS[name](evidence, 0))
        if evidence is not one_class:
            verdict = judge(name, evidence)
            assert np.isfinite(verdict.raw) and not np.isnan(verdict.score)
    with pytest.raises(InjertoError, match="all of one class"):
        judge(name, one_class)


def test_what_cannot_be_judged_is_refused_in_plain_words() -> None:
    good = noise()
    with pytest.raises(InjertoError, match="did you mean 'infomax'"):
        judge("infomx", good)
    with pytest.raises(InjertoError, match="unknown validator 'zz': known: source, infomax"):
        best_of("zz", [good])
    with pytest.raises(InjertoError, match="nothing to choose from"):
        best_of("bnm", [])
    with pytest.raises(InjertoError, match="two or more"):
        replace(good, target_logits=good.target_logits[:1], target_embeddings=good.target_embeddings[:1])
    with pytest.raises(InjertoError, match="two or more"):
        replace(
            good,
            source_logits=good.source_logits[:, :1],
            target_logits=good.target_logits[:, :1],
            source_labels=0 * good.source_labels,
        )
    with pytest.raises(InjertoError, match="not finite"):
        replace(good, target_logits=np.where(np.arange(4) == 1, np.nan, good.target_logits))
    for wrong in (
        {"target_embeddings": good.target_embeddings[:-1]},
        {"target_logits": good.target_logits[:, :3]},
        {"train_embeddings": good.train_embeddings[:, :3]},
        {"source_labels": good.source_labels[:-1]},
        {"source_labels": good.source_labels + 1},
        {"source_labels": good.source_labels - 1},
    ):
        with pytest.raises(ValueError):
            replace(good, **wrong)
    assert list(VALIDATORS) == NAMES


# Do they rank models


def family(seed: int, kind: str, m: int = 160) -> tuple[list[Evidence], list[float]]:
    """Nine models from source-only (t = 0) to well adapted (t = 1) and their true target accuracy.

    ``faded``: each example has a nuisance, mostly small in the source and large in the target, that pulls it away from
    its class's centre; an adapted model ignores it. ``moved``: all target embeddings are moved by (1 - t) delta.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 8))
    centres *= 3.5 / np.linalg.norm(centres, axis=1, keepdims=True)
    delta = rng.normal(size=8)
    delta *= (1 if kind == "faded" else 5) / np.linalg.norm(delta)
    labels = np.arange(m) % 4
    domains = [(rng.beta(a, 4 - a, size=(m, 1)), rng.normal(size=(m, 8))) for a in (1, 1, 3)]
    models, accuracy = [], []
    for t in np.linspace(0, 1, 9):
        embeddings = []
        for index, (nuisance, jitter) in enumerate(domains):
            if kind == "moved":
                embeddings.append(centres[labels] + jitter + (1 - t) * delta * (index == 2))
            else:
                left = (1 - t) * nuisance
                embeddings.append(centres[labels] * (1 - left) + left * delta + jitter)
        logits = [x @ centres.T - (centres**2).sum(axis=1) / 2 for x in embeddings]
        models.append(Evidence(logits[0], labels, embeddings[0], logits[2], embeddings[2], embeddings[1]))
        accuracy.append(float((logits[2].argmax(axis=1) == labels).mean()))
    return models, accuracy


@pytest.mark.parametrize("seed", range(3))
def test_scores_rank_models_that_learn_to_ignore_a_nuisance(seed: int) -> None:
    models, accuracy = family(seed, "faded")
    assert accuracy[-1] - accuracy[0] > 0.3
    for name in ("infomax", "bnm", "snd", "class-ami", "iwv", "dev"):
        assert spearmanr([VALIDATORS[name](e, 0) for e in models], accuracy)[0] > 0.5, name
        assert accuracy[best_of(name, models)] > accuracy[-1] - 0.15, name


def test_where_the_target_is_moved_as_a_whole_diverse_predictions_tell_and_weighted_risks_do_not() -> None:
    found: dict[str, list[float]] = {name: [] for name in ("infomax", "bnm", "class-ami", "iwv", "snd")}
    for seed in range(4):
        models, accuracy = family(seed, "moved")
        for name in found:
            found[name].append(float(spearmanr([VALIDATORS[name](e, 0) for e in models], accuracy)[0]))
    for name in ("infomax", "bnm", "class-ami"):
        assert np.mean(found[name]) > 0.5, (name, found[name])
    assert np.mean(found["iwv"]) < 0 and np.mean(found["snd"]) < 0  # what their docstrings warn of


def test_the_counts_of_the_guard_are_what_the_constants_say() -> None:
    def kept(*shares: int) -> float:
        counts = Counter({k: v for k, v in enumerate(shares) if v})
        total = sum(counts.values())
        spread = exp(-sum(v / total * log(v / total) for v in counts.values()))
        return (spread - 1) / (len(shares) - 1)

    assert kept(60, 20, 10, 10) == pytest.approx(0.66, abs=0.005) and kept(85, 15) == pytest.approx(0.53, abs=0.005)
    assert kept(1, 1, 0, 0) == pytest.approx(1 / 3) and kept(92, 8) == pytest.approx(0.32, abs=0.005)
    assert kept(1, 1, 1, 0, 0, 0) >= validators.SPREAD - 1e-9 > kept(92, 8)
