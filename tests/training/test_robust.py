"""The penalty of IRM against its definition, differentiated numerically."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from injerto.tasks.classification import classification_losses
from injerto.training.robust import Irm


def loss_at(scale: float, row: np.ndarray, label: int, weights: np.ndarray, smoothing: float) -> float:
    """Weighted, smoothed cross-entropy of one example with its logits scaled, in float64."""
    row = scale * row.astype(np.float64)
    total = math.log(sum(math.exp(value - row.max()) for value in row)) + row.max()
    shares = [(1 - smoothing) * (index == label) + smoothing / len(row) for index in range(len(row))]
    return sum(weight * share * (total - value) for weight, share, value in zip(weights, shares, row, strict=True))


def slope(row: np.ndarray, label: int, weights: np.ndarray, smoothing: float) -> float:
    step = 1e-5
    ends = [loss_at(1 + sign * step, row, label, weights, smoothing) for sign in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([0.0, 0.1, 0.3]), st.integers(1, 7))
def test_the_penalty_has_the_weights_and_the_smoothing_of_the_risk(
    seed: int, weighted: bool, smoothing: float, count: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (3 * count, 4))).float().requires_grad_()
    labels = torch.from_numpy(rng.integers(0, 4, 3 * count))
    labels[-1] = -1  # an unlabelled one
    domain = torch.arange(3).repeat(count)
    weights = torch.from_numpy(rng.gamma(2.0, 0.5, 4)).float() if weighted else None
    each, known = classification_losses(logits, labels, weights, smoothing)
    found = Irm(3, penalty=7.0, anneal=0.2)(each, logits, labels, domain, known, 0.5)
    factors = np.ones(4) if weights is None else weights.numpy().astype(np.float64)
    risks, penalties = [], []
    for name in range(3):
        rows = [i for i in range(3 * count) if int(domain[i]) == name and labels[i] >= 0]
        if not rows:
            continue
        values = [(logits[i].detach().numpy(), int(labels[i]), factors, smoothing) for i in rows]
        risks.append(np.mean([loss_at(1.0, *value) for value in values]))
        slopes = [slope(*value) for value in values]
        halves = (slopes[0::2], slopes[1::2]) if len(slopes) > 1 else (slopes, slopes)
        penalties.append(np.mean(halves[0]) * np.mean(halves[1]))
    expected = (np.mean(risks) + 7.0 * np.mean(penalties)) / 7.0
    assert float(found.detach()) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert torch.isfinite(torch.autograd.grad(found, logits)[0]).all()


def test_without_weights_and_smoothing_it_is_domainbeds() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 3, requires_grad=True), torch.randint(3, (20,))
    domain = torch.arange(2).repeat_interleave(10)
    each, known = classification_losses(logits, labels)
    found = Irm(2, penalty=1.0, anneal=0.0)(each, logits, labels, domain, known, 0.5)
    risks, penalties = [], []
    for name in range(2):
        x, y = logits[domain == name], labels[domain == name]
        scale = torch.ones((), requires_grad=True)
        losses = [torch.nn.functional.cross_entropy(x[part] * scale, y[part]) for part in (slice(0, None, 2), slice(1, None, 2))]  # fmt: skip # noqa: E501
        one, other = (torch.autograd.grad(loss, scale, create_graph=True)[0] for loss in losses)
        penalties.append(one * other)
        risks.append(torch.nn.functional.cross_entropy(x, y))
    expected = torch.stack(risks).mean() + torch.stack(penalties).mean()
    torch.testing.assert_close(found, expected)
    one, other = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, expected))
    torch.testing.assert_close(one, other)
