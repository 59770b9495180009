import numpy as np
import pytest

from injerto.statistics.similarity import linear_cka


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The definition (Gretton et al. 2005), with the centring matrix written out."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(k @ h @ m @ h)) / (n - 1) ** 2


@pytest.mark.parametrize(("n", "d", "e"), [(50, 7, 3), (12, 40, 30), (20, 5, 60), (2, 3, 3)])
def test_equals_its_definition_by_kernels(n: int, d: int, e: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, d)) + 3
    y = x @ rng.normal(size=(d, e)) + 2 * rng.normal(size=(n, e))
    k, m = x @ x.T, y @ y.T
    assert linear_cka(x, y) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), rel=1e-10)


def test_blind_to_rotation_scale_and_shift_but_not_to_noise() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 10))
    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    assert linear_cka(x, -4 * x @ rotation + 7) == pytest.approx(1)
    values = [linear_cka(x, x + s * rng.normal(size=x.shape)) for s in (0.1, 1, 10)]
    assert 1 > values[0] > values[1] > values[2] and values[2] < 0.1


def test_what_does_not_vary_has_no_similarity() -> None:
    assert np.isnan(linear_cka(np.ones((5, 2)), np.eye(5)))
    with pytest.raises(ValueError, match="two or more"):
        linear_cka(np.ones((1, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="5 and 4"):
        linear_cka(np.ones((5, 2)), np.ones((4, 2)))
