"""The probe against scikit-learn's pipeline."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
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
