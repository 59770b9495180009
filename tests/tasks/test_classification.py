import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from injerto.basics.errors import InjertoError
from injerto.domains.domain import Domain
from injerto.tasks.classification import (
    balanced_weights,
    class_map,
    classification_loss,
    classification_losses,
    encode,
)


def batch(count: int = 12, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, classes, generator=generator)
    return logits.requires_grad_(), torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_is_torchs(smoothing: float) -> None:
    logits, labels = batch()
    found = classification_loss(logits, labels, smoothing=smoothing)
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    a, b = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, expected))
    torch.testing.assert_close(a, b)


def test_smoothing_by_hand() -> None:
    logits, labels = batch()
    target = 0.9 * functional.one_hot(labels, 4) + 0.1 / 4
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(classification_loss(logits, labels, smoothing=0.1), expected)


def test_class_weights_count_examples_not_weights() -> None:
    logits, labels = batch()
    weights = torch.tensor([0.5, 2.0, 1.0, 4.0])
    expected = functional.cross_entropy(logits, labels, weights, reduction="sum") / len(labels)
    torch.testing.assert_close(classification_loss(logits, labels, weights), expected)


def test_unlabelled_examples_do_not_count_at_all() -> None:
    logits, labels = batch()
    mixed = labels.clone()
    mixed[::3] = -1
    keep = mixed >= 0
    found = classification_loss(logits, mixed)
    torch.testing.assert_close(found, functional.cross_entropy(logits[keep], labels[keep]))
    gradient = torch.autograd.grad(found, logits)[0]
    assert torch.equal(gradient[::3], torch.zeros_like(gradient[::3]))


def test_a_batch_without_labels_costs_nothing() -> None:
    logits, labels = batch()
    found = classification_loss(logits, torch.full_like(labels, -1))
    assert float(found.detach()) == 0
    assert torch.equal(torch.autograd.grad(found, logits)[0], torch.zeros_like(logits))


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.asarray([0] * 10 + [1] * 3 + [2] * 1)
    found = balanced_weights(np.concatenate([labels, [-1, -1]]), 3)
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)
    assert abs(float(found[labels].mean()) - 1) < 1e-6


def test_balanced_weights_with_a_class_without_train_examples() -> None:
    labels = np.asarray([0] * 6 + [2] * 2)
    found = balanced_weights(labels, 4)
    assert found.tolist() == pytest.approx([8 / 12, 0, 2, 0])
    assert float(found[labels].mean()) == pytest.approx(1)


def domain(name: str, labels: list[str | None]) -> Domain:
    blank = tuple(str(i) for i in range(len(labels)))
    return Domain(name, blank, tuple(labels), blank, blank, blank, (None,) * len(labels), blank)


def test_the_class_map_comes_from_the_sources_alone() -> None:
    domains = {"a": domain("a", ["x", None, "z"]), "b": domain("b", ["y", "x"]), "t": domain("t", ["w", "q"])}
    assert class_map(domains, ["a"]) == ("x", "z")
    assert class_map(domains, ["b", "a"]) == ("x", "y", "z")
    assert encode(domains["t"].labels + (None, "x"), ("x", "z")).tolist() == [-2, -2, -1, 0]


def test_sources_without_classes_are_refused() -> None:
    domains = {"a": domain("a", [None, None]), "b": domain("b", ["x", "x", None])}
    with pytest.raises(InjertoError, match="source a has no labels.*--label"):
        class_map(domains, ["a"])
    with pytest.raises(InjertoError, match=r"source a, b has one class only \('x'\)"):
        class_map(domains, ["a", "b"])


def by_hand(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, smoothing: float) -> list[float]:
    """Weighted cross-entropy of soft labels, number by number."""
    found = []
    for row, label in zip(logits.astype(np.float64), labels.astype(np.float64), strict=True):
        total = sum(math.exp(value - row.max()) for value in row)
        loss = 0.0
        for value, share, weight in zip(row, label, weights, strict=True):
            share = (1 - smoothing) * share + smoothing / len(row)
            loss -= weight * share * (value - row.max() - math.log(total))
        found.append(loss)
    return found


def test_mixed_labels_with_class_weights_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    labels, weights = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0.1, 1.9])
    each, known = classification_losses(logits, labels, weights)
    assert known.all() and each.tolist() == pytest.approx([2.027, 0.178], abs=5e-4)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.sampled_from([0.0, 0.1, 0.4]), st.booleans())
def test_the_weighted_loss_of_any_label_is_torchs_and_that_by_hand(
    seed: int, classes: int, smoothing: float, whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (9, classes))).float().requires_grad_()
    weights = torch.from_numpy(rng.gamma(1.0, 1.0, classes)).float()
    index = torch.from_numpy(rng.integers(0, classes, 9))
    soft = torch.from_numpy(rng.dirichlet(np.ones(classes), 9)).float()
    labels = index if whole else soft
    each, _ = classification_losses(logits, labels, weights, smoothing)
    expected = functional.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=smoothing)
    assert torch.equal(each, expected)
    shares = functional.one_hot(index, classes).numpy() if whole else soft.numpy()
    np.testing.assert_allclose(
        each.detach(), by_hand(logits.detach().numpy(), shares, weights.numpy(), smoothing), rtol=2e-4, atol=1e-5
    )
    same = classification_losses(logits, functional.one_hot(index, classes).float(), weights, smoothing)[0]
    torch.testing.assert_close(same, classification_losses(logits, index, weights, smoothing)[0])
