import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from injerto.basics.errors import InjertoError
from injerto.statistics import kernels
from injerto.statistics.kernels import MULTIPLIERS, median_bandwidth
from injerto.statistics.mmd import class_mmd2, mmd2, permutation_test, random_features_mmd2


def sample(seed: int, *shape: int, **keys) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(**keys)


def kernel(p: np.ndarray, q: np.ndarray, sigma2: float, multipliers=MULTIPLIERS) -> float:
    return float(np.mean([np.exp(-((p - q) ** 2).sum() / (2 * m * sigma2)) for m in multipliers]))


def median(x: np.ndarray, y: np.ndarray) -> float:
    z = np.concatenate([x, y])
    pairs = sorted(((z[i] - z[j]) ** 2).sum() for i in range(len(z)) for j in range(i))
    return float(pairs[(len(pairs) - 1) // 2])


def reference(
    x: np.ndarray, y: np.ndarray, estimator: str, sigma2: float | None = None, multipliers=MULTIPLIERS
) -> float:
    """Gretton et al. 2012: equation 3, equation 5 squared, and Lemma 14, term by term in float64."""
    s = median(x, y) if sigma2 is None else sigma2
    n, m = len(x), len(y)

    def k(p, q):
        return kernel(p, q, s, multipliers)

    if estimator == "linear":
        count = min(n, m) // 2
        terms = 0.0
        for i in range(count):
            a, b, c, d = x[2 * i], x[2 * i + 1], y[2 * i], y[2 * i + 1]
            terms += k(a, b) + k(c, d) - k(a, d) - k(b, c)
        return terms / count
    cross = sum(k(p, q) for p in x for q in y) / (n * m)
    if estimator == "biased":
        return sum(k(p, q) for p in x for q in x) / n**2 + sum(k(p, q) for p in y for q in y) / m**2 - 2 * cross
    own_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_x + own_y - 2 * cross


ESTIMATORS = ["unbiased", "biased", "linear"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "m"), [(7, 7), (9, 4), (3, 8), (2, 2), (2, 5)])
@pytest.mark.parametrize("sigma2", [None, 3.0])
def test_equals_the_formulas(estimator: str, n: int, m: int, sigma2: float | None) -> None:
    x, y = sample(n, n, 5), sample(m + 20, m, 5) + 0.7
    expected = reference(x.numpy(), y.numpy(), estimator, sigma2)
    assert mmd2(x, y, estimator=estimator, bandwidth=sigma2).item() == pytest.approx(expected, abs=1e-12)
    assert mmd2(x.float(), y.float(), estimator=estimator, bandwidth=sigma2).item() == pytest.approx(expected, abs=1e-5)
    one = reference(x.numpy(), y.numpy(), estimator, sigma2, (2.0,))
    assert mmd2(x, y, estimator=estimator, bandwidth=sigma2, multipliers=(2.0,)).item() == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_with_the_bandwidth_held_fixed(estimator: str) -> None:
    x, y = sample(1, 4, 3).requires_grad_(), sample(2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: mmd2(x, y, estimator=estimator, bandwidth=4.0), (x, y))
    fixed = torch.autograd.grad(mmd2(x, y, estimator=estimator, bandwidth=median_bandwidth(x, y)), (x, y))
    torch.testing.assert_close(torch.autograd.grad(mmd2(x, y, estimator=estimator), (x, y)), fixed)


@pytest.mark.parametrize(("n", "m"), [(32, 32), (24, 10)])
def test_equal_distributions_read_zero_unbiased_and_a_known_offset_biased(n: int, m: int) -> None:
    """Mean over 200 draws, and E[1 - k] (1/n + 1/m): for d-dimensional normals E k = (1 + 2 / s)^(-d / 2) at sigma^2 s."""
    d, s, draws = 10, 20.0, 200
    values = {
        estimator: np.array(
            [
                mmd2(sample(2 * i, n, d), sample(2 * i + 1, m, d), estimator=estimator, bandwidth=s).item()
                for i in range(draws)
            ]
        )
        for estimator in ESTIMATORS
    }
    offset = (1 - np.mean([(1 + 2 / (k * s)) ** (-d / 2) for k in MULTIPLIERS])) * (1 / n + 1 / m)
    for estimator, expected in (("unbiased", 0), ("linear", 0), ("biased", offset)):
        error = values[estimator].std(ddof=1) / np.sqrt(draws)
        assert abs(values[estimator].mean() - expected) < 2 * error, estimator
    assert offset > 0.02 and values["biased"].min() > 0 and (values["unbiased"] < 0).mean() > 0.3
    assert values["linear"].std() > 3 * values["unbiased"].std()


@pytest.mark.parametrize("chunk", [None, 3])
def test_weights_are_copies_to_the_biased_and_leave_out_rows_to_both(chunk: int | None) -> None:
    x, y = (torch.randn(count, 3, dtype=torch.float64) for count in (5, 4))
    counts = torch.tensor([1, 2, 0, 3, 1])
    settings: dict[str, Any] = {"bandwidth": 2.0, "chunk": chunk}
    weighted = mmd2(x, y, estimator="biased", weights=0.3 * counts, **settings)
    copied = mmd2(x.repeat_interleave(counts, 0), y, estimator="biased", **settings)
    torch.testing.assert_close(weighted, copied)
    for estimator in ("unbiased", "biased"):
        some = mmd2(x, y, estimator=estimator, weights=(counts > 0).double(), **settings)
        torch.testing.assert_close(some, mmd2(x[counts > 0], y, estimator=estimator, **settings))
    alone = mmd2(x, y, weights=torch.tensor([1.0, 0, 0, 0, 0]), **settings)  # no pair has weight
    assert bool(alone.isfinite())
    with pytest.raises(ValueError, match="need weights"):
        mmd2(x, y, estimator="linear", weights=counts)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.one_of(st.just(0.0), st.floats(1e-30, 1e30), st.sampled_from([-1.0, math.nan, math.inf, -0.0])),
        min_size=2,
        max_size=7,
    ),
    st.integers(2, 5),
    st.sampled_from(["unbiased", "biased"]),
    st.sampled_from([None, 2]),
)
def test_any_weights_give_the_double_sum_or_a_refusal(
    values: list[float], others: int, estimator: Any, chunk: int | None
) -> None:
    w = torch.tensor(values, dtype=torch.float64)
    x, y = sample(len(values), len(values), 3).double(), sample(99, others, 3).double()
    settings_: dict[str, Any] = {"estimator": estimator, "bandwidth": 2.0, "chunk": chunk}
    if not bool((w.isfinite() & (w >= 0)).all()) or not bool((w > 0).any()):
        with pytest.raises(InjertoError, match="MMD's weights"):
            mmd2(x, y, weights=w, **settings_)
        return
    p = [v / max(values) for v in values]
    p = [v / sum(p) for v in p]

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return kernel(a.numpy(), b.numpy(), 2.0)

    n, m, unbiased = len(values), others, estimator == "unbiased"
    pairs = [(i, j) for i in range(n) for j in range(n) if not (unbiased and i == j)]
    over = math.fsum(p[i] * p[j] for i, j in pairs)
    own = math.fsum(p[i] * p[j] * k(x[i], x[j]) for i, j in pairs) / (over if over > 0 else 1)
    inner = [(i, j) for i in range(m) for j in range(m) if not (unbiased and i == j)]
    other = sum(k(y[i], y[j]) for i, j in inner) / len(inner)
    cross = sum(p[i] * k(x[i], y[j]) for i in range(n) for j in range(m)) / m
    assert float(mmd2(x, y, weights=w, **settings_)) == pytest.approx(own + other - 2 * cross, abs=1e-9)


def test_class_weights_below_zero_are_refused() -> None:
    x, y = sample(1, 3, 2), sample(2, 3, 2)
    with pytest.raises(InjertoError, match="class weights below 0"):
        class_mmd2(x, y, one_hot([0, 1, 0], 2), -one_hot([0, 1, 0], 2))


def test_weights_undo_a_known_shift_of_the_classes() -> None:
    """On average nearly zero, as without a shift, where plain MMD reads a distance."""
    generator = torch.Generator().manual_seed(0)
    plain, weighted = [], []
    for _ in range(100):
        labels, others = (torch.rand(100, generator=generator) < share for share in (0.5, 0.8))  # of class 1
        x, y = (torch.randn(100, 2, generator=generator) + 2 * own[:, None] for own in (labels, others))
        plain.append(float(mmd2(x, y, bandwidth=2.0)))
        weighted.append(float(mmd2(x, y, bandwidth=2.0, weights=0.4 + 1.2 * labels)))
    assert abs(np.mean(weighted)) < 0.05 * np.mean(plain)


def test_symmetric_and_blind_to_the_order_of_a_batch() -> None:
    x, y = sample(3, 12, 6), sample(4, 9, 6) + 0.3
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for estimator in ("unbiased", "biased"):
        value = mmd2(x, y, estimator=estimator).item()
        assert mmd2(y, x, estimator=estimator).item() == pytest.approx(value, rel=1e-10)
        assert mmd2(x[order], y.flip(0), estimator=estimator).item() == pytest.approx(value, rel=1e-10)
    assert mmd2(y, x, estimator="linear").item() == pytest.approx(mmd2(x, y, estimator="linear").item(), rel=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_grows_with_the_shift_of_a_gaussian(estimator: str) -> None:
    x, y = sample(5, 200, 16), sample(6, 200, 16)
    values = [mmd2(x, y + shift / 4, estimator=estimator).item() for shift in (0, 0.5, 1, 2, 4, 8)]
    assert values == sorted(values) and values[-1] > 0.5 and abs(values[0]) < 0.05


def test_descending_it_brings_a_shifted_sample_home() -> None:
    x = sample(7, 64, 8)
    y = sample(8, 64, 8) * 2 + 3
    scale, shift = torch.ones(8).double().requires_grad_(), torch.zeros(8).double().requires_grad_()
    optimizer = torch.optim.Adam([scale, shift], 0.1)
    before = mmd2(x, y).item()
    for _ in range(150):
        optimizer.zero_grad()
        mmd2(x, y * scale + shift).backward()
        optimizer.step()
    assert before > 0.3 and mmd2(x, y * scale + shift).item() < 0.01
    torch.testing.assert_close((y * scale + shift).mean(0), x.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(y.std(0) * scale, x.std(0), atol=0.3, rtol=0)


@pytest.mark.parametrize("function", [mmd2, random_features_mmd2])
def test_too_few_examples_are_refused_in_one_line(function: Callable) -> None:
    one, two = sample(9, 1, 3), sample(10, 2, 3)
    for x, y in ((one, two), (two, one), (one, one)):
        with pytest.raises(
            InjertoError, match="two examples or more on each side.*larger batch, or estimator='biased'"
        ):
            function(x, y)
        assert function(x, y, estimator="biased").isfinite()
    assert function(two, two + 1).isfinite()
    with pytest.raises(InjertoError, match="two examples or more"):
        mmd2(one, two, estimator="linear")
    with pytest.raises(InjertoError, match="an example on each side, not 0 and 2"):
        function(one[:0], two, estimator="biased")
    with pytest.raises(InjertoError, match="did you mean 'unbiased'"):
        function(two, two, estimator="unbiase")
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 2\)"):
        function(two, two[:, :2])


def one_hot(labels: list[int], classes: int) -> torch.Tensor:
    return torch.eye(classes, dtype=torch.float64)[labels]


LOSSES = {
    **{name: lambda x, y, name=name: mmd2(x, y, estimator=name) for name in ESTIMATORS},
    "chunked": lambda x, y: mmd2(x, y, chunk=3),
    "class": lambda x, y: class_mmd2(x, y, one_hot([0, 1, 2] * 4, 3)[: len(x)], one_hot([0, 1, 2] * 4, 3)[: len(y)]),
    "features": lambda x, y: random_features_mmd2(x, y, features=50),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1e-8, 3.7, 1e5])
def test_collapsed_features_give_zero_and_a_finite_gradient(loss: Callable, dtype: torch.dtype, value: float) -> None:
    x, y = (torch.full((count, 300), value, dtype=dtype, requires_grad=True) for count in (8, 6))
    result = loss(x, y)
    result.backward()
    assert abs(result.item()) < 1e-4
    assert all(z.grad is not None and z.grad.isfinite().all() for z in (x, y))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_collapsed_up_to_rounding_is_collapsed(loss: Callable) -> None:
    x, y = ((3.7 + 1e-7 * sample(seed, count, 300)).float().requires_grad_() for seed, count in ((10, 8), (11, 6)))
    result = loss(x, y)
    result.backward()
    assert len(torch.unique(x)) > 1 and abs(result.item()) < 1e-3
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("multipliers", [MULTIPLIERS, (0.05,)])
def test_a_single_pair_of_zeros_has_a_finite_gradient(multipliers: tuple[float, ...]) -> None:
    x = torch.zeros(1, 3, requires_grad=True)
    mmd2(x, torch.zeros(1, 3), estimator="biased", multipliers=multipliers).backward()
    assert x.grad is not None and x.grad.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_duplicates_and_collapsed_classes_still_pull(loss: Callable) -> None:
    """Three quarters of all pairs coincide: the median is zero, the loss is not, and its gradient joins the two."""
    points = sample(11, 2, 300, dtype=torch.float32)
    x, y = points[[0] * 10].clone().requires_grad_(), points[[1] * 2].clone().requires_grad_()
    result = loss(x, y)
    result.backward()
    step = (y - x[:1]).detach()
    assert result.item() > 0.5 and x.grad is not None and y.grad is not None
    assert (x.grad.sum(0) @ step[0]).item() < -1e-3 and ((y.grad * step).sum(1) > 1e-3).all()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_scale_and_offset_change_nothing_under_the_median(loss: Callable) -> None:
    x, y = sample(12, 8, 20), sample(13, 6, 20) + 0.5
    value = loss(x, y).item()
    for scale, shift in ((1e-4, 0), (1e4, 0), (-7, 100)):
        assert loss(x * scale + shift, y * scale + shift).item() == pytest.approx(value, rel=1e-6)
    assert loss(x.float() * 1e4, y.float() * 1e4).item() == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_nan_is_not_swallowed(loss: Callable) -> None:
    x, y = sample(12, 8, 20), sample(13, 6, 20)
    x[3, 2] = torch.nan
    assert loss(x, y).isnan()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_agree_with_float64(loss: Callable, dtype: torch.dtype) -> None:
    x, y = sample(14, 8, 256, dtype=dtype), (sample(15, 6, 256) + 0.3).to(dtype)
    a, b = (z.double().requires_grad_() for z in (x, y))
    exact = loss(a, b)
    exact.backward()
    with torch.autocast("cpu", torch.bfloat16):
        for p, q in ((x.requires_grad_(), y.requires_grad_()), (x.detach().float().requires_grad_(), y.float())):
            result = loss(p, q)
            result.backward()
            assert result.dtype == torch.float32 and result.item() == pytest.approx(exact.item(), abs=1e-5)
            tolerance = 1e-4 if p.dtype == torch.float32 else 0.01
            torch.testing.assert_close(p.grad.double(), a.grad, rtol=0, atol=tolerance * a.grad.abs().max().item())


def test_linear_by_hand_on_four_points() -> None:
    """x = 0, 1, 3, 7 and y = 2, 4, 9, 10 (the fifth has no partner), one kernel of sigma^2 = 2: k(d) = exp(-d^2 / 4)."""
    x, y = (torch.tensor(values).double()[:, None] for values in ([0, 1, 3, 7], [2, 4, 9, 10, 50]))
    k = {d: np.exp(-(d**2) / 4) for d in range(12)}
    first = k[1] + k[2] - k[4] - k[1]  # (0, 1), (2, 4), (0, 4), (1, 2)
    second = k[4] + k[1] - k[7] - k[2]  # (3, 7), (9, 10), (3, 10), (7, 9)
    value = mmd2(x, y, estimator="linear", bandwidth=2.0, multipliers=(1.0,)).item()
    assert value == pytest.approx((first + second) / 2, abs=1e-14)
    assert mmd2(x[[0, 2, 1, 3]], y, estimator="linear", bandwidth=2.0).item() != pytest.approx(value, abs=0.01)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
@pytest.mark.parametrize("bandwidth", [None, 5.0])
def test_chunked_equals_dense_with_its_gradient(estimator: str, chunk: int, bandwidth: float | None) -> None:
    x, y = sample(16, 13, 6).requires_grad_(), (sample(17, 9, 6) + 0.5).requires_grad_()
    dense, chunked = (mmd2(x, y, estimator=estimator, bandwidth=bandwidth, chunk=c) for c in (None, chunk))
    assert chunked.item() == pytest.approx(dense.item(), abs=1e-13)
    torch.testing.assert_close(
        torch.autograd.grad(chunked, (x, y)), torch.autograd.grad(dense, (x, y)), rtol=1e-10, atol=1e-13
    )
    with pytest.raises(InjertoError, match="chunk"):
        mmd2(x, y, chunk=0)


class Elements(TorchDispatchMode):
    """Elements of the largest tensor made inside, and of all that live at once (by their storages)."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.peak = 0
        self.alive: dict[int, tuple[object, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        import weakref

        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = weakref.ref(tensor), storage.nbytes() // tensor.element_size()
        self.alive = {key: entry for key, entry in self.alive.items() if entry[0]() is not None}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def test_memory_is_that_of_the_kernel_matrix_or_of_the_chunk() -> None:
    x, y = (sample(seed, 2000, 512, dtype=torch.float32) for seed in (18, 19))
    x.requires_grad_()
    with Elements() as dense:
        mmd2(x, y).backward()
    assert dense.largest == 4000**2  # and not 2000 * 2000 * 512
    assert dense.peak < 8 * 4000**2
    n, d = 600, 64
    x, y = x[:n, :d].detach().requires_grad_(), y[:n, :d]
    for bandwidth in (median_bandwidth(x, y), 100.0):
        with Elements() as chunked:
            mmd2(x, y, bandwidth=bandwidth, chunk=25).backward()
        assert chunked.largest <= 2 * n * d  # the features themselves
        assert chunked.peak < 12 * 2 * n * d < (2 * n) ** 2
    with Elements() as fourier:
        random_features_mmd2(x, y, bandwidth=100.0, features=500, chunk=25).backward()
    assert fourier.largest <= 2 * n * d


# --- per class --------------------------------------------------------------------------------------------------------


def class_reference(x: np.ndarray, y: np.ndarray, wx: np.ndarray, wy: np.ndarray, sigma2: float | None = None) -> float:
    """Zhu et al. 2021, equation 7, over the classes on both sides."""
    s = median(x, y) if sigma2 is None else sigma2
    total, shared = 0.0, 0
    for c in range(wx.shape[1]):
        if wx[:, c].sum() > 0 and wy[:, c].sum() > 0:
            a, b = wx[:, c] / wx[:, c].sum(), wy[:, c] / wy[:, c].sum()
            shared += 1
            for i in range(len(x)):
                total += sum(a[i] * a[j] * kernel(x[i], x[j], s) for j in range(len(x)))
                total -= 2 * sum(a[i] * b[j] * kernel(x[i], y[j], s) for j in range(len(y)))
            total += sum(b[i] * b[j] * kernel(y[i], y[j], s) for i in range(len(y)) for j in range(len(y)))
    return total / shared


def test_class_mmd_equals_its_formula() -> None:
    x, y = sample(20, 7, 4), sample(21, 5, 4) + 0.5
    hard, soft = one_hot([0, 0, 1, 1, 3, 3, 3], 5), sample(22, 5, 5).softmax(1)
    sparse = soft * torch.tensor([1, 1, 0, 1, 0])
    for wy in (one_hot([0, 1, 1, 2, 0], 5), soft, sparse):
        expected = class_reference(x.numpy(), y.numpy(), hard.numpy(), wy.numpy())
        assert class_mmd2(x, y, hard, wy).item() == pytest.approx(expected, abs=1e-12)
        assert class_mmd2(y, x, wy, hard).item() == pytest.approx(expected, abs=1e-12)
        assert class_mmd2(x, y, 7 * hard, 0.3 * wy).item() == pytest.approx(expected, abs=1e-12)
    everyone = class_mmd2(x, y, torch.ones(7, 1), torch.ones(5, 1))
    assert everyone.item() == pytest.approx(mmd2(x, y, estimator="biased").item(), abs=1e-12)
    a, b, w = x.clone().requires_grad_(), y.clone().requires_grad_(), soft.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *z: class_mmd2(z[0], z[1], hard, z[2], bandwidth=4.0), (a, b, w))


def test_class_mmd_does_not_depend_on_the_classes_a_batch_happens_to_hold() -> None:
    x, y = sample(23, 4, 6), sample(24, 4, 6) + 0.5
    two = class_mmd2(x, y, one_hot([0, 0, 1, 1], 2), one_hot([0, 1, 1, 0], 2)).item()
    assert class_mmd2(x, y, one_hot([3, 3, 9, 9], 50), one_hot([3, 9, 9, 3], 50)).item() == pytest.approx(two)
    doubled = class_mmd2(x, y, *(torch.cat([w, w], 1) for w in (one_hot([0, 0, 1, 1], 2), one_hot([0, 1, 1, 0], 2))))
    assert doubled.item() == pytest.approx(two)


def test_class_mmd_sees_what_the_marginals_hide() -> None:
    """Two classes swapped between the domains: the same marginals, so MMD is blind to it."""
    x, y = sample(25, 100, 5), sample(26, 100, 5)
    labels = [0, 1] * 50
    x[::2] += 3
    y[::2] += 3
    swapped = [1 - label for label in labels]
    aligned = class_mmd2(x, y, one_hot(labels, 2), one_hot(labels, 2)).item()
    assert abs(mmd2(x, y).item()) < 0.05 and aligned < 0.05
    assert class_mmd2(x, y, one_hot(labels, 2), one_hot(swapped, 2)).item() > 0.5


def test_no_shared_class_is_zero_with_a_graph_and_nan_stays_nan() -> None:
    x, y = sample(27, 3, 4).requires_grad_(), sample(28, 2, 4)
    value = class_mmd2(x, y, one_hot([0, 1, 0], 3), one_hot([2, 2], 3))
    value.backward()
    assert value.item() == 0 and x.grad is not None and not x.grad.any()
    bad = one_hot([0, 1], 3)
    bad[0, 2] = torch.nan
    assert class_mmd2(x, y, one_hot([0, 1, 0], 3), bad).isnan()
    with pytest.raises(ValueError, match=r"\(3, C\) and \(2, C\), not \(3, 3\) and \(3, 3\)"):
        class_mmd2(x, y, one_hot([0, 1, 0], 3), one_hot([0, 1, 0], 3))


# --- random features --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_random_features_come_close_and_closer_with_more(estimator: str) -> None:
    x, y = sample(29, 60, 8), sample(30, 40, 8) + 0.4
    exact = mmd2(x, y, estimator=estimator).item()
    errors = [
        np.sqrt(
            np.mean(
                [
                    (random_features_mmd2(x, y, features=count, seed=s, estimator=estimator).item() - exact) ** 2
                    for s in range(20)
                ]
            )
        )
        for count in (64, 4096)
    ]
    assert errors[1] < 0.005 and 4 < errors[0] / errors[1] < 16  # 8 in theory
    one = mmd2(x, y, estimator=estimator, bandwidth=3.0, multipliers=(2.0,)).item()
    near = random_features_mmd2(x, y, features=20000, estimator=estimator, bandwidth=3.0, multipliers=(2.0,)).item()
    assert near == pytest.approx(one, abs=0.005)


def test_random_features_repeat_by_seed_apart_from_the_global_state_and_in_chunks() -> None:
    x, y = sample(31, 20, 5).requires_grad_(), sample(32, 11, 5) + 0.4
    state = torch.get_rng_state()
    value = random_features_mmd2(x, y, features=99)
    assert torch.equal(state, torch.get_rng_state())
    assert (
        value.item()
        == random_features_mmd2(x, y, features=100).item()
        != random_features_mmd2(x, y, features=100, seed=1).item()
    )
    chunked = random_features_mmd2(x, y, features=99, chunk=6)
    assert chunked.item() == pytest.approx(value.item(), abs=1e-14)
    torch.testing.assert_close(torch.autograd.grad(chunked, x), torch.autograd.grad(value, x))
    assert torch.autograd.gradcheck(lambda x: random_features_mmd2(x, y, features=10, bandwidth=2.0), x)
    with pytest.raises(InjertoError, match="from 1 up"):
        random_features_mmd2(x, y, features=0)


# --- the test ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_permuted_values_equal_those_of_permuted_samples(estimator: str) -> None:
    x, y = sample(33, 8, 3), sample(34, 6, 3) + 0.5
    observed, p = permutation_test(x, y, draws=50, seed=5, estimator=estimator)
    assert observed == pytest.approx(reference(x.numpy(), y.numpy(), estimator), abs=1e-12)
    pooled = torch.cat([x, y])
    orders = torch.rand(50, 14, generator=torch.Generator().manual_seed(5)).argsort(1)
    values = [mmd2(pooled[o[:8]], pooled[o[8:]], estimator=estimator).item() for o in orders]
    assert p == (1 + sum(v >= observed - 1e-9 for v in values)) / 51


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_p_is_uniform_without_a_shift(estimator: str) -> None:
    values = np.array(
        [
            permutation_test(sample(2 * i, 12, 4), sample(2 * i + 1, 9, 4), draws=99, seed=i, estimator=estimator)[1]
            for i in range(200)
        ]
    )
    for level in (0.05, 0.25, 0.5, 0.75):
        assert abs((values <= level).mean() - level) < 3 * np.sqrt(level * (1 - level) / 200)


def test_p_is_small_under_a_shift_and_repeats_by_seed_apart_from_the_global_state() -> None:
    x, y = sample(35, 50, 4, dtype=torch.float32).requires_grad_(), sample(36, 40, 4, dtype=torch.float32) + 0.6
    state = torch.get_rng_state()
    value, p = permutation_test(x, y)
    assert torch.equal(state, torch.get_rng_state())
    assert p <= 2 / 201 and value > 0.03 and (value, p) == permutation_test(x, y)
    assert permutation_test(x, x.detach().clone())[1] == 1.0  # the same points: nothing can be closer
    with torch.autocast("cpu", torch.bfloat16):
        assert permutation_test(x, y) == (value, p)


def test_equal_values_count_as_equal() -> None:
    x = torch.full((9, 5), 0.1)
    assert permutation_test(x[:5], x[5:]) == (pytest.approx(0, abs=1e-12), 1.0)
    grid = torch.tensor([[0.0], [0.1], [0.3]])  # 30 points in three places: a permuted value is often the observed one
    x, y = grid[[0] * 6 + [1] * 5 + [2] * 4], grid[[0] * 5 + [1] * 4 + [2] * 6]
    observed, p = permutation_test(x, y, draws=500, seed=1)
    orders = torch.rand(500, 30, generator=torch.Generator().manual_seed(1)).argsort(1)
    pooled = torch.cat([x, y]).double()
    values = np.array([mmd2(pooled[o[:15]], pooled[o[15:]]).item() for o in orders])
    assert (abs(values - observed) < 1e-9).sum() > 10
    assert p == (1 + (values > observed - 1e-9).sum()) / 501


def test_a_dead_bandwidth_is_warned_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    x, y = sample(37, 16, 2048).relu() * 5, sample(38, 16, 2048).relu() * 5
    for loss in (
        mmd2,
        lambda *a, **k: mmd2(*a, estimator="linear", **k),
        lambda *a, **k: mmd2(*a, chunk=4, **k),
        random_features_mmd2,
        permutation_test,
    ):
        monkeypatch.setattr(kernels, "_WARNED", set())
        loss(x, y, bandwidth=1.0)
        assert capsys.readouterr().err.count("warning: the MMD bandwidth 1 leaves every kernel below 1e-6") == 1
        loss(x, y)
        assert capsys.readouterr().err == ""
