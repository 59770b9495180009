import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from injerto.basics.errors import InjertoError
from injerto.statistics import kernels
from injerto.statistics.kernels import gaussian, median_bandwidth, resolve_bandwidth, squared_distances


def sample(seed: int, *shape: int, **keys) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(**keys)


def looped(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """The definition in float64."""
    a, b = x.detach().double().numpy(), y.detach().double().numpy()
    return np.array([[((p - q) ** 2).sum() for q in b] for p in a])


class Largest(TorchDispatchMode):
    """Number of elements of the largest tensor made inside."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("own", [True, False])
def test_distances_equal_the_definition(own: bool) -> None:
    x = sample(0, 9, 5)
    y = x if own else sample(1, 6, 5) + 1
    np.testing.assert_allclose(squared_distances(x, y), looped(x, y), rtol=1e-12, atol=1e-13)
    single = squared_distances(x.float(), y.float())
    assert single.dtype == torch.float32 and squared_distances(x, y).dtype == torch.float64
    np.testing.assert_allclose(single, looped(x, y), rtol=1e-5, atol=1e-5)
    if own:
        assert torch.equal(squared_distances(x), squared_distances(x, x)) and not squared_distances(x).diagonal().any()


@pytest.mark.parametrize("own", [True, False])
def test_distances_have_the_right_gradients_of_both_orders(own: bool) -> None:
    x, y = sample(2, 4, 3).requires_grad_(), sample(3, 5, 3).requires_grad_()
    weights = sample(4, 4, 4 if own else 5)  # not symmetric

    def total(x, y):
        return (squared_distances(x, None if own else y).square() * weights).sum()

    assert torch.autograd.gradcheck(total, (x, y)) and torch.autograd.gradgradcheck(total, (x, y))
    plain = (((x[:, None] - (x if own else y)) ** 2).sum(2).square() * weights).sum()
    torch.testing.assert_close(torch.autograd.grad(total(x, y), x), torch.autograd.grad(plain, x))


@pytest.mark.parametrize("own", [True, False])
def test_a_large_offset_costs_no_accuracy(own: bool) -> None:
    x = (sample(5, 8, 64) + 1000).float()
    y = x if own else (sample(6, 7, 64) + 1000).float()
    np.testing.assert_allclose(squared_distances(x, y), looped(x, y), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("own", [True, False])
def test_half_precision_and_autocast_lose_nothing_but_the_input_digits(dtype: torch.dtype, own: bool) -> None:
    x = sample(7, 8, 32, dtype=dtype).requires_grad_()
    y = None if own else sample(8, 6, 32, dtype=dtype)
    exact = looped(x, x if y is None else y)
    np.testing.assert_allclose(squared_distances(x, y).detach(), exact, rtol=1e-5, atol=1e-5)
    single = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(squared_distances(single, y).square().sum(), single)
    with torch.autocast("cpu", torch.bfloat16):
        distances = squared_distances(single, y)
        (grad,) = torch.autograd.grad(distances.square().sum(), single)  # backward inside autocast, too
    assert distances.dtype == torch.float32
    np.testing.assert_allclose(distances.detach(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad, expected)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        squared_distances(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        squared_distances(torch.ones(3))


def test_kernel_at_a_known_distance() -> None:
    distances = squared_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    assert gaussian(distances, 8.0, (1.0,)).item() == pytest.approx(np.exp(-25 / 16))
    mean = np.mean([np.exp(-25 / (2 * m * 8)) for m in (0.5, 3)])
    assert gaussian(distances, torch.tensor(8.0), (0.5, 3.0)).item() == pytest.approx(mean)
    assert gaussian(torch.zeros(1), 8.0).item() == 1
    for wrong in ((), (1.0, 0.0)):
        with pytest.raises(ValueError, match="positive multipliers"):
            gaussian(distances, 1.0, wrong)


def test_kernel_has_the_right_gradient_and_none_into_the_bandwidth() -> None:
    distances, bandwidth = sample(9, 3, 4).square().requires_grad_(), torch.tensor(0.7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda d: gaussian(d, bandwidth.detach()), distances)
    gaussian(distances, bandwidth).sum().backward()
    assert bandwidth.grad is None and distances.grad is not None


@pytest.mark.parametrize(("n", "m"), [(5, 4), (2, 2), (7, 1)])
def test_bandwidth_is_the_median_of_different_rows(n: int, m: int) -> None:
    x, y = sample(n, n, 6).requires_grad_(), sample(m + 50, m, 6) + 1
    pooled = torch.cat([x, y])
    pairs = sorted(looped(pooled, pooled)[np.triu_indices(n + m, 1)])
    bandwidth = median_bandwidth(x, y)
    assert bandwidth.item() == pytest.approx(pairs[(len(pairs) - 1) // 2], rel=1e-10)
    assert not bandwidth.requires_grad and median_bandwidth(pooled).item() == pytest.approx(bandwidth.item(), rel=1e-10)
    assert median_bandwidth(1000 * x, 1000 * y).item() == pytest.approx(1e6 * bandwidth.item())


def test_bandwidth_of_many_rows_is_that_of_a_sample_drawn_apart_from_the_global_state() -> None:
    x = sample(10, 5000, 3, dtype=torch.float32) * 2
    state = torch.get_rng_state()
    value = median_bandwidth(x)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(value, median_bandwidth(x))
    assert value.item() == pytest.approx(4 * 2 * 2.366, rel=0.03)  # |x - y|^2 / 8 is chi-squared with 3 degrees


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 3.7, 1e-8, 1e6])
def test_collapsed_features_have_a_positive_bandwidth_and_kernels_of_one(dtype: torch.dtype, value: float) -> None:
    x = torch.full((6, 300), value, dtype=dtype)
    bandwidth = median_bandwidth(x[:4], x[4:])
    assert 0 < bandwidth.item() < np.inf and np.isfinite(1 / bandwidth.item())
    np.testing.assert_allclose(gaussian(squared_distances(x), bandwidth), 1, atol=1e-4)
    assert 0 < median_bandwidth(x[:1]).item() < np.inf  # no pairs at all


def test_where_most_pairs_coincide_the_kernels_still_see_the_others() -> None:
    x = sample(11, 2, 512, dtype=torch.float32)[[0] * 9 + [1]]  # 36 of 45 pairs are duplicates
    distances = squared_distances(x)
    assert 0.01 < gaussian(distances, median_bandwidth(x))[0, 9].item() < 0.9


def test_one_far_outlier_does_not_move_the_bandwidth() -> None:
    x = sample(12, 64, 20)
    x[0] *= 1000
    assert median_bandwidth(x).item() == pytest.approx(40, rel=0.15)


def test_nan_is_not_swallowed() -> None:
    x = sample(13, 6, 4)
    x[2, 1] = torch.nan
    assert median_bandwidth(x).isnan() and squared_distances(x)[2, 0].isnan()


def test_a_dead_bandwidth_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(kernels, "_WARNED", set())
    x = sample(14, 30, 2048).relu() * 10  # squared distances in the 100,000s
    for _ in range(3):
        assert resolve_bandwidth(x, 1.0).item() == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: the MMD bandwidth 1 ") and "median" in lines[0]
    smallest = squared_distances(x)[np.triu_indices(30, 1)].min().item()
    edge = smallest / (2 * 4 * -np.log(1e-6))  # where the widest kernel of the nearest pair is 1e-6
    resolve_bandwidth(x, edge * 1.01)
    resolve_bandwidth(x, torch.tensor(1e-3))  # the caller's own estimate
    resolve_bandwidth(x)
    assert capsys.readouterr().err == ""
    resolve_bandwidth(x, edge * 0.99)
    assert "below 1e-6" in capsys.readouterr().err
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InjertoError, match="positive sigma"):
            resolve_bandwidth(x, wrong)


def test_memory_does_not_grow_with_the_width() -> None:
    x, y = sample(15, 300, 400, dtype=torch.float32).requires_grad_(), sample(16, 200, 400, dtype=torch.float32)
    for other, most in ((y, 300 * 400), (None, 300 * 400)):
        with Largest() as largest:
            squared_distances(x, other).sum().backward()
        assert largest.elements <= most
