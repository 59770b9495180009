import numpy as np
import pytest
import torch

from injerto.basics.errors import InjertoError
from injerto.statistics.covariance import coral, covariance


def sample(seed: int, *shape: int, **keys) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(**keys)


def looped_covariance(x: np.ndarray) -> np.ndarray:
    n, d = x.shape
    mean = [sum(x[:, i]) / n for i in range(d)]
    return np.array(
        [[sum((r[i] - mean[i]) * (r[j] - mean[j]) for r in x) / (n - 1) for j in range(d)] for i in range(d)]
    )


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """Sun and Saenko 2016, equation 1."""
    difference = looped_covariance(x) - looped_covariance(y)
    return float(sum(value**2 for value in difference.ravel())) / (4 * x.shape[1] ** 2)


def test_covariance_equals_its_definition() -> None:
    x = sample(0, 6, 4) + 3
    np.testing.assert_allclose(covariance(x), looped_covariance(x.numpy()), rtol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        single = covariance(x.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, looped_covariance(x.float().double().numpy()), rtol=1e-5, atol=1e-6)
    assert covariance(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("n", "m", "d"), [(6, 6, 4), (9, 5, 3), (5, 4, 9), (5, 4, 10), (3, 8, 30), (2, 2, 7), (2, 2, 1)]
)
def test_coral_equals_the_paper_either_way(n: int, m: int, d: int) -> None:
    x, y = (sample(n, n, d) + 1).requires_grad_(), (2 * sample(m + 9, m, d)).requires_grad_()
    expected = reference(x.detach().numpy(), y.detach().numpy())
    value = coral(x, y)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    assert coral(y, x).item() == pytest.approx(expected, rel=1e-10)
    direct = (torch.cov(x.T) - torch.cov(y.T)).square().sum() / (4 * d**2)
    torch.testing.assert_close(torch.autograd.grad(value, (x, y)), torch.autograd.grad(direct, (x, y)))
    assert coral(x.float(), y.float()).item() == pytest.approx(expected, rel=1e-4)
    gap = ((x.detach().mean(0) - y.detach().mean(0)) ** 2).mean().item()
    assert coral(x, y, mean=True).item() == pytest.approx(expected + gap, rel=1e-10)


def test_coral_by_hand_with_its_gradient() -> None:
    """x = (1, 0), (-1, 0) and y = (0, 2), (0, -2): C_x = diag(2, 0), C_y = diag(0, 8), so (4 + 64) / 16.

    The paper's gradient at x (equation 4): (C_x - C_y) x'_i / (d^2 (n - 1)) with x' centred: diag(2, -8) (1, 0) / 4.
    """
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    y = torch.tensor([[0.0, 2.0], [0.0, -2.0]], requires_grad=True)
    value = coral(x, y)
    value.backward()
    assert value.item() == 68 / 16
    assert x.grad is not None and x.grad.tolist() == [[0.5, 0], [-0.5, 0]]
    assert y.grad is not None and y.grad.tolist() == [[0, 4], [0, -4]]


@pytest.mark.parametrize("d", [5, 200])
def test_coral_sees_scale_and_not_place_unless_asked(d: int) -> None:
    x, y = sample(1, 50, d), sample(2, 60, d)
    base = coral(x, y).item()
    assert coral(x, y + 5).item() == pytest.approx(base, rel=1e-8)
    assert coral(x, y + 5, mean=True).item() > coral(x, y, mean=True).item() + 20
    values = [coral(x, y * scale).item() for scale in (1, 1.5, 2, 3)]
    assert values == sorted(values)
    assert abs(coral(x, x.clone() + 3).item()) < 1e-12


@pytest.mark.parametrize("d", [6, 300])
def test_coral_under_autocast_and_in_half_precision(d: int) -> None:
    x, y = sample(3, 10, d, dtype=torch.bfloat16), sample(4, 8, d, dtype=torch.bfloat16) * 2
    p, q = (z.double().requires_grad_() for z in (x, y))
    exact = coral(p, q)
    exact.backward()
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in ((x, y), (x.float().requires_grad_(), y.float().requires_grad_())):
            value = coral(a, b)
            assert value.dtype == torch.float32 and value.item() == pytest.approx(exact.item(), rel=1e-5)
        value.backward()  # inside autocast, too
    torch.testing.assert_close((a.grad.double(), b.grad.double()), (p.grad, q.grad), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("d", [3, 50])
def test_collapsed_features_are_fine_and_single_examples_refused(d: int) -> None:
    x, y = torch.full((4, d), 2.5, requires_grad=True), torch.full((5, d), 2.5)
    coral(x, y, mean=True).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    for a, b in ((x, y[:1]), (x[:1], y)):
        with pytest.raises(InjertoError, match="two examples or more on each side, not 1: take a larger batch"):
            coral(a, b)
    with pytest.raises(ValueError, match="width|samples"):
        coral(x, y[:, 1:])


def test_wide_features_need_no_square_matrix_of_the_width() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.elements = max(
                [
                    self.elements,
                    *(
                        t.numel()
                        for t in (out if isinstance(out, (tuple, list)) else [out])
                        if isinstance(t, torch.Tensor)
                    ),
                ]
            )
            return out

    x, y = sample(5, 32, 2048, dtype=torch.float32).requires_grad_(), sample(6, 32, 2048, dtype=torch.float32)
    with Largest() as largest:
        coral(x, y).backward()
    assert largest.elements == 64 * 2048
