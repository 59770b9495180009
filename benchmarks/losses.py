"""MMD, CORAL and the permutation test against the forms in which others compute them: value, gradient and time.

    python benchmarks/losses.py

1,280 numbers an example, forward and backward in float32. The peers: MMD by an intermediate of n x n x d differences
(as in several adaptation libraries), and by torch.cdist, both with the same five kernels and bandwidth; CORAL by
centring with an n x n matrix; a permutation test that computes its kernel anew for every permutation. Where a peer's
intermediate does not fit into 4 GB it is left out. Where they are installed, pytorch-adapt's MMD and CORAL and skada's
CORAL are peers too (`pip install pytorch-adapt skada skorch torchmetrics`); skada's MMD takes its kernel of distances
that are not squared, so there is nothing of ours to hold it against. Writes `results/losses.json`.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from measure import QUICK, interleave, row, save
from torch import Tensor

from injerto.statistics.covariance import coral
from injerto.statistics.kernels import MULTIPLIERS, median_bandwidth
from injerto.statistics.mmd import mmd2, permutation_test

WIDTH = 1280
SIZES = (32, 64) if QUICK else (32, 256, 2048)
MOST = 4e9
Function = Callable[[Tensor, Tensor], Tensor]


def samples(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(n, WIDTH, generator=generator) for _ in range(2))
    return x.requires_grad_(), (y + 0.1).requires_grad_()


def kernels(distances: Tensor, sigma2: Tensor) -> Tensor:
    return torch.stack([torch.exp(-distances / (2 * factor * sigma2)) for factor in MULTIPLIERS]).mean(0)


def of_matrix(distances: Callable[[Tensor], Tensor], sigma2: Tensor) -> Function:
    """The biased MMD^2 as most write it, given how distances are computed."""

    def value(x: Tensor, y: Tensor) -> Tensor:
        n = len(x)
        kernel = kernels(distances(torch.cat([x, y])), sigma2)
        return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()

    return value


def by_differences(pooled: Tensor) -> Tensor:
    return (pooled[:, None] - pooled[None]).square().sum(2)


def by_cdist(pooled: Tensor) -> Tensor:
    return torch.cdist(pooled, pooled).square()


def plain_coral(x: Tensor, y: Tensor) -> Tensor:
    covariances = []
    for sample in (x, y):
        n = len(sample)
        centre = torch.eye(n) - torch.full((n, n), 1 / n)
        covariances.append(sample.T @ centre @ sample / (n - 1))
    return (covariances[0] - covariances[1]).square().sum() / (4 * WIDTH**2)


def installed(sigma2: Tensor, ours: Function) -> list[tuple[str, str, Function, Function, float]]:
    """The losses of libraries for adaptation that are there; none is needed."""
    cases: list[tuple[str, str, Function, Function, float]] = []
    if find_spec("pytorch_adapt"):
        from pytorch_adapt.layers import CORALLoss, MMDLoss

        scales = torch.tensor([1 / (2 * factor * float(sigma2)) for factor in MULTIPLIERS])
        peer = MMDLoss(kernel_scales=scales, mmd_type="quadratic", bandwidth=1.0)
        cases += [("MMD", "pytorch-adapt", ours, peer, 0.0), ("CORAL", "pytorch-adapt", coral, CORALLoss(), 0.0)]
    if find_spec("skada") and find_spec("skorch"):
        from skada.deep.losses import deepcoral_loss

        cases.append(("CORAL", "skada", coral, deepcoral_loss, 0.0))
    return cases


def step(function: Function, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    x.grad = y.grad = None
    value = function(x, y)
    value.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return float(value.detach()), x.grad


def agree(ours: Function, theirs: Function, x: Tensor, y: Tensor) -> bool:
    (a, mine), (b, others) = step(ours, x, y), step(theirs, x, y)
    near = torch.allclose(mine, others, rtol=1e-2, atol=1e-3 * float(others.abs().max()))
    return near and abs(a - b) < 1e-3 * max(abs(b), 1e-3)  # float32, means over millions of kernel values


def loss_rows() -> list[dict[str, Any]]:
    rows = []
    for n in SIZES:
        x, y = samples(n)
        sigma2 = median_bandwidth(x, y)  # of large samples some rows are drawn: the same for both
        ours = partial(mmd2, estimator="biased", bandwidth=sigma2)
        cases: list[tuple[str, str, Function, Function, float]] = [
            ("MMD", "n x n x d differences", ours, of_matrix(by_differences, sigma2), 8.0 * (2 * n) ** 2 * WIDTH),
            ("MMD", "torch.cdist", ours, of_matrix(by_cdist, sigma2), 0.0),
            ("CORAL", "n x n centring", coral, plain_coral, 0.0),
        ]
        cases += installed(sigma2, partial(mmd2, estimator="unbiased", bandwidth=sigma2))
        for name, peer, mine, theirs, size in cases:
            if size > MOST:
                continue
            same = agree(mine, theirs, x, y)
            pairs = 3 if size > 1e9 else 9
            took = interleave(partial(step, mine, x, y), partial(step, theirs, x, y), pairs)
            number = version(peer) if peer in ("pytorch-adapt", "skada") else ""
            rows.append(row(f"{name}, forward and backward, n = {n}", peer, number, *took, 1.0, "losses/s", same))
    return rows


def anew(x: Tensor, y: Tensor, draws: int) -> tuple[float, float]:
    """A permutation test that computes everything again for every permutation."""
    generator = torch.Generator().manual_seed(0)
    pooled, n, sigma2 = torch.cat([x, y]), len(x), float(median_bandwidth(x, y))
    observed = float(mmd2(x, y, bandwidth=sigma2))
    above = 0
    for _ in range(draws):
        order = torch.randperm(len(pooled), generator=generator)
        above += float(mmd2(pooled[order[:n]], pooled[order[n:]], bandwidth=sigma2)) >= observed
    return observed, (1 + above) / (1 + draws)


def test_row() -> dict[str, Any]:
    x, y = (sample.detach() for sample in samples(256))
    found, expected = permutation_test(x, y, draws=200), anew(x, y, 200)
    same = abs(found[0] - expected[0]) < 1e-5 and abs(found[1] - expected[1]) < 0.1
    took = interleave(lambda: permutation_test(x, y, draws=200), lambda: anew(x, y, 200), 5)
    return row("permutation test, 200 draws, n = 256", "kernel anew each draw", "", *took, 1.0, "tests/s", same)


if __name__ == "__main__":
    np.random.seed(0)
    save("losses.json", [*loss_rows(), test_row()])
