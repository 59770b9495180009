"""The probe against scikit-learn's pipeline."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from injerto.tasks.heads import Head
from injerto.tasks.probe import NEVER, fit_probe, quick_score


def data(seed: int, count: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = np.random.default_rng(9).normal(0, 1, (3, 6))
    return (centres[labels] + rng.normal(0, 1.2, (count, 6))) * [1, 5, 0.1, 30, 2, 0.5] + 7, labels


def test_equal_to_scikit_learn() -> None:
    (x, y), (vx, vy), (tx, _) = data(0), data(1), data(2)
    probe = fit_probe(x.astype(np.float32), y, [(vx, vy)], 3)
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=probe.strength, max_iter=5000, tol=1e-9).fit(scaler.transform(x), y)
    logits = probe.logits(tx)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(chances, model.predict_proba(scaler.transform(tx)), atol=2e-3)
    assert probe.score == quick_score(probe.logits(vx), vy)


def test_installed_in_a_head_of_another_scale_it_says_the_same() -> None:
    (x, y), (tx, _) = data(0), data(2)
    probe = fit_probe(x, y, [], 3)
    head = Head(6, 3)
    head.standardize(torch.from_numpy(x).float(), moving=True)
    probe.install(head)
    with torch.no_grad():
        found = head(torch.from_numpy(tx).float()).numpy()
        np.testing.assert_allclose(found, probe.logits(tx), rtol=1e-3, atol=1e-3)
        head.fold()
        np.testing.assert_allclose(head(torch.from_numpy(tx).float()).numpy(), probe.logits(tx), rtol=1e-3, atol=2e-3)


def test_a_class_without_examples_is_never_predicted() -> None:
    x, y = data(0)
    probe = fit_probe(x, np.where(y == 2, 3, y), [], 5)
    assert set(probe.logits(x).argmax(1)) <= {0, 1, 3}
    assert (probe.bias[[2, 4]] == NEVER).all() and not probe.weight[[2, 4]].any()


def rare(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, 6 % of the second."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.06).astype(int)
    values = rng.normal(size=(count, 60))
    values[:, :3] += labels[:, None]
    return values, labels


def test_a_balanced_probe_is_chosen_by_balanced_accuracy() -> None:
    gains, seen = [], set()
    for seed in range(6):
        (x, y), val, (tx, ty) = rare(400, seed), rare(300, seed + 100), rare(4000, seed + 200)
        scaler = StandardScaler().fit(x)
        by = {}
        for metric in (accuracy_score, balanced_accuracy_score):
            best = None
            for strength in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
                model = LogisticRegression(C=strength, max_iter=5000, tol=1e-6, class_weight="balanced")
                model.fit(scaler.transform(x), y)
                score = metric(val[1], model.predict(scaler.transform(val[0])))
                if best is None or score > best[0]:
                    best = (score, strength, balanced_accuracy_score(ty, model.predict(scaler.transform(tx))))
            by[metric.__name__] = best
        probe = fit_probe(x, y, [val], 2, True)
        assert probe.score is not None and probe.score[0] == pytest.approx(by["balanced_accuracy_score"][0])
        plain, balanced = by["accuracy_score"], by["balanced_accuracy_score"]
        found = balanced_accuracy_score(ty, probe.logits(tx).argmax(1))
        gains.append(found - plain[2])
        seen.add(probe.strength == balanced[1])
    assert True in seen and np.mean(gains) > 0.01 and min(gains) > -1e-9


def test_balanced_scores_are_means_over_the_classes_there_are() -> None:
    from scipy.special import log_softmax

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(30, 4)), np.asarray([0] * 20 + [1] * 9 + [3])
    accuracy, minus_nll = quick_score(logits, labels, balanced=True)
    assert accuracy == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    likely = log_softmax(logits, 1)[np.arange(30), labels]
    assert minus_nll == pytest.approx(np.mean([likely[labels == k].mean() for k in (0, 1, 3)]))
    assert quick_score(logits, labels) == (
        pytest.approx(accuracy_score(labels, logits.argmax(1))),
        pytest.approx(likely.mean()),
    )
