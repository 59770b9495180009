"""Reliability bins against a loop written from the definition."""

import numpy as np
import pytest

from injerto.evaluation.calibration import reliability


def by_definition(probabilities, labels, bins):
    """Guo et al., eq. 3, one bin at a time."""
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for m in range(bins):
        inside = (top > m / bins) & (top <= (m + 1) / bins)
        if inside.any():
            total += inside.sum() / len(top) * abs(right[inside].mean() - top[inside].mean())
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_the_definition(bins: int) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.5), 500)
    labels = rng.integers(0, 4, 500)
    result = reliability(probabilities, labels, bins)
    assert result.ece == pytest.approx(by_definition(probabilities, labels, bins))
    assert result.count.sum() == 500


def test_bins_close_on_the_right() -> None:
    top = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    result = reliability(np.stack([top, 1 - top], axis=1), np.zeros(6, dtype=int), bins=10)
    assert result.count.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert np.isnan(result.confidence[:4]).all() and np.isnan(result.accuracy[:4]).all()
    assert result.confidence[4:] == pytest.approx(top)


def test_calibrated_predictions_have_a_small_error_and_boasts_a_large_one() -> None:
    rng = np.random.default_rng(1)
    top = rng.uniform(0.5, 1, 50_000)
    labels = (rng.random(50_000) > top).astype(int)
    assert reliability(np.stack([top, 1 - top], axis=1), labels).ece < 0.01
    boast = np.tile([0.99, 0.01], (50_000, 1))
    assert reliability(boast, labels).ece == pytest.approx(0.99 - (labels == 0).mean())


def test_one_sure_and_right_example() -> None:
    assert reliability(np.array([[0.0, 1.0]]), np.array([1])).ece == 0.0
