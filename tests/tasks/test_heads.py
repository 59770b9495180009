import warnings

import numpy as np
import pytest
import torch
from torch import nn

from injerto.tasks.heads import Head, Neck, solve_probe


def embeddings(count: int = 200, width: int = 10, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-3, 3, width)
    return torch.randn(count, width, generator=generator) * scales + 5 * scales


def shaken(head: Head) -> Head:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return head


@pytest.mark.parametrize("kind", ["linear", "mlp", "native", "probe"])
def test_a_folded_head_is_the_same_function(kind: str) -> None:
    head = shaken(Head(10, 4, "mlp" if kind == "mlp" else kind))
    head.standardize(embeddings())
    x = embeddings(seed=1)
    with torch.no_grad():
        before = head(x)
        head.fold()
        after = head(x)
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
        plain = head.layers(x)  # what ships needs no shift and no scale
    assert torch.equal(plain, after)
    assert torch.equal(head.shift, torch.zeros(10)) and torch.equal(head.scale, torch.ones(10))
    head.fold()  # folding twice changes nothing
    assert torch.equal(head(x), after)


def test_standardize_is_mean_and_deviation() -> None:
    head, x = Head(10, 3), embeddings()
    head.standardize(x)
    z = (x - head.shift) * head.scale
    keep = x.std(0, correction=0) > 0.01 * x.std(0, correction=0).mean()
    torch.testing.assert_close(z.mean(0)[keep], torch.zeros(int(keep.sum())), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std(0, correction=0)[keep], torch.ones(int(keep.sum())), rtol=1e-4, atol=1e-4)


def test_a_dimension_that_hardly_varies_is_not_blown_up() -> None:
    head, x = Head(3, 2), torch.randn(100, 3)
    x[:, 1] = 4.0
    x[:, 2] = 4.0 + 1e-7 * torch.randn(100)
    head.standardize(x)
    assert float(((x + 1e-3 - head.shift) * head.scale).abs().max()) < 10


def test_under_a_moving_backbone_all_dimensions_share_one_scale() -> None:
    head, x = Head(10, 3), embeddings()
    x[:, 0] = 4.0  # still now, but training may wake it up
    head.standardize(x, moving=True)
    z = (x - head.shift) * head.scale
    assert len(head.scale.unique()) == 1
    torch.testing.assert_close(z.var(0, correction=0).mean(), torch.tensor(1.0))
    awake = x + torch.eye(10)[0] * x.std()  # the still dimension moves as far as the others do
    assert float(((awake - head.shift) * head.scale).abs().max()) < 10


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_first_prediction_is_undecided_for_every_seed(kind: str) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        assert torch.equal(Head(5, 4, kind)(torch.randn(3, 5)), torch.zeros(3, 4))


def test_bf16_embeddings_are_classified_in_float32() -> None:
    head = shaken(Head(5, 4))
    assert head(torch.randn(3, 5, dtype=torch.bfloat16)).dtype == torch.float32


# --- the converged probe ----------------------------------------------------------------------------------------------


def problem(classes: int, count: int = 150, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.arange(count) % classes
    return rng.normal(size=(count, width)) + 0.8 * rng.normal(size=(classes, width))[labels], labels


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_probe_is_scikit_learns_with_the_chosen_c(classes: int, balanced: bool) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = problem(classes)
    x, y = x[: -classes * 3], y[: -classes * 3]
    keep = np.ones(len(y), bool)
    keep[np.flatnonzero(y == 0)[5:]] = False  # one rare class
    x, y = x[keep], y[keep]
    for wanted in (0.001, 3.0):
        strengths = (0.001, 0.1, 3.0)
        calls: list[float] = []

        def score(weight: np.ndarray, bias: np.ndarray) -> tuple[float, float]:
            calls.append(strengths[len(calls)])
            return (1.0 if calls[-1] == wanted else 0.0), 0.0  # noqa: B023

        weight, bias, chosen = solve_probe(x, y, score, balanced, strengths)
        assert chosen == wanted and calls == list(strengths)
        reference = LogisticRegression(
            C=wanted, max_iter=10_000, tol=1e-9, class_weight="balanced" if balanced else None
        ).fit(x, y)
        assert weight.shape == (classes, 6) and bias.shape == (classes,)
        np.testing.assert_allclose(softmax(x @ weight.T + bias), reference.predict_proba(x), atol=2e-4)
        if classes > 2:
            np.testing.assert_allclose(weight, reference.coef_, atol=2e-3)


def test_ties_go_to_the_stronger_regularization_and_nan_never_wins() -> None:
    x, y = problem(3)
    assert solve_probe(x, y, lambda *_: (0.5, -1.0))[2] == 0.001
    scores = iter([(0.5, -2.0), (0.5, -1.0), (0.5, -1.0), (0.4, 0.0)] + [(0.0, 0.0)] * 10)
    assert solve_probe(x, y, lambda *_: next(scores))[2] == 0.003


def test_without_val_there_is_one_strength() -> None:
    x, y = problem(3)
    assert solve_probe(x, y, None)[2] == 0.1


def test_the_probe_converges_without_a_warning() -> None:
    x, y = problem(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve_probe(x, y, lambda *_: (0.0, 0.0))


def test_neck_is_linear_layernorm_relu() -> None:
    neck = Neck(6, 4)
    x = torch.randn(3, 6)
    linear, norm = neck.layers[0], neck.layers[1]
    assert isinstance(linear, nn.Linear) and isinstance(norm, nn.LayerNorm)
    expected = torch.relu(nn.functional.layer_norm(x @ linear.weight.T + linear.bias, (4,)))
    torch.testing.assert_close(neck(x), expected)
