"""Distances as terms: pairs, roles, stages, and that the terms equal the pure functions."""

from dataclasses import replace

import pytest
import torch

from injerto.alignment.base import Alignment, Setting, StepOutputs, make_alignment
from injerto.alignment.schedule import ramp
from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import parse_alignment
from injerto.statistics.covariance import coral
from injerto.statistics.mmd import class_mmd2, mmd2

DISTANCES = {"mmd": mmd2, "coral": coral}


def step(roles: tuple[str, ...], each: int = 6, width: int = 4, seed: int = 0) -> StepOutputs:
    generator = torch.Generator().manual_seed(seed)
    count = each * len(roles)
    domain = torch.arange(len(roles)).repeat_interleave(each)
    x = torch.randn(count, width, generator=generator) + domain[:, None]
    logits = torch.randn(count, 3, generator=generator)
    labels = torch.arange(count) % 3
    labels = torch.where(torch.tensor([role == "target" for role in roles])[domain], -1, labels)
    view = torch.zeros(count, dtype=torch.int64)
    return StepOutputs(x.requires_grad_(), logits, labels, domain, roles, view, {2: x[:, :2] * 3})


def build(text: str, roles: tuple[str, ...]) -> Alignment:
    return make_alignment(parse_alignment(text)[0], Setting(4, 3, roles, {2: 2}))


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize(
    ("roles", "pairs"),
    [
        (("source", "target"), [(0, 1)]),
        (("source", "source", "target"), [(0, 2), (1, 2)]),
        (("source", "target", "target"), [(0, 1), (0, 2)]),
        (("source", "source", "source"), [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_the_mean_over_pairs_of_sources_and_targets_or_else_of_sources(
    name: str, roles: tuple[str, ...], pairs: list[tuple[int, int]]
) -> None:
    outputs = step(roles)
    parts = [outputs.embedding[outputs.domain == index] for index in range(len(roles))]
    expected = torch.stack([DISTANCES[name](parts[i], parts[j]) for i, j in pairs]).mean()
    torch.testing.assert_close(build(f"{name}:0.3", roles)(outputs, 0.1), 0.3 * expected)


def test_estimated_frequencies_weigh_the_source() -> None:
    """Guesses are sure and right: a target of which two thirds are class 0 makes class 0 of the source count double."""
    roles = ("source", "target")
    outputs = step(roles)
    guessed = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 1, 2])
    outputs = replace(outputs, logits=50.0 * torch.nn.functional.one_hot(guessed, 3))
    term = build("mmd(frequencies=estimated)", roles)
    for _ in range(200):  # until the running averages have settled
        value = term(outputs, 0.5)
    x, y = outputs.embedding[:6], outputs.embedding[6:]
    weights = torch.tensor([4.0, 1.0, 1.0, 4.0, 1.0, 1.0])
    torch.testing.assert_close(value, mmd2(x, y, weights=weights), rtol=1e-3, atol=1e-4)
    again = build("mmd(frequencies=estimated)", roles)
    again.load_state_dict(term.state_dict())  # a resumed run
    torch.testing.assert_close(again(outputs, 0.5), term(outputs, 0.5), rtol=0, atol=0)


def test_frequencies_between_sources_are_those_of_their_labels() -> None:
    outputs = step(("source", "source"))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 1, 2])
    term = build("mmd(frequencies=estimated)", ("source", "source"))
    for _ in range(200):
        value = term(replace(outputs, labels=labels), 0.5)
    weights = torch.tensor([4.0, 1.0, 1.0, 4.0, 1.0, 1.0])
    expected = mmd2(outputs.embedding[:6], outputs.embedding[6:], weights=weights)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mmd", "coral", "lmmd"])
def test_the_order_of_domains_and_examples_changes_nothing(name: str) -> None:
    roles = ("source", "source", "target")
    outputs, term = step(roles), build(name, roles)
    shuffled = outputs.select(torch.randperm(18, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(term(shuffled, 0.5), term(outputs, 0.5))
    swapped = StepOutputs(
        outputs.embedding, outputs.logits, outputs.labels, torch.tensor([1, 0, 2])[outputs.domain], roles, outputs.view
    )
    torch.testing.assert_close(term(swapped, 0.5), term(outputs, 0.5))


def test_stages_are_added() -> None:
    roles = ("source", "target")
    outputs = step(roles)
    x, y = (outputs.domain == index for index in (0, 1))
    expected = mmd2(outputs.embedding[x], outputs.embedding[y]) + mmd2(outputs.stages[2][x], outputs.stages[2][y])
    torch.testing.assert_close(build("mmd(stages=2)", roles)(outputs, 0.5), expected)
    with pytest.raises(InjertoError, match="stage 1 cannot be aligned; stages that move under this --tuning: 2"):
        build("mmd(stages=1/2)", roles)


def test_the_estimator_is_an_option_with_an_effect() -> None:
    roles = ("source", "target")
    outputs = step(roles)
    values = {float(build(f"mmd(estimator={name})", roles)(outputs, 0)) for name in ("unbiased", "biased", "linear")}
    assert len(values) == 3


def test_lmmd_uses_true_classes_and_detached_guesses() -> None:
    roles = ("source", "target")
    outputs = step(roles)
    x, y = (outputs.domain == index for index in (0, 1))
    known = torch.nn.functional.one_hot(outputs.labels[x], 3).float()
    expected = class_mmd2(outputs.embedding[x], outputs.embedding[y], known, outputs.logits[y].softmax(1))
    logits = outputs.logits.clone().requires_grad_()
    whole = StepOutputs(outputs.embedding, logits, outputs.labels, outputs.domain, roles, outputs.view)
    value = build("lmmd:2", roles)(whole, 0.3)
    torch.testing.assert_close(value, 2 * ramp(0.3) * expected)
    value.backward()
    assert logits.grad is None
    assert outputs.embedding.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["mmd", "coral", "lmmd"])
def test_a_domain_with_too_few_examples_in_a_step_is_left_out(name: str) -> None:
    roles = ("source", "source", "target")
    outputs = step(roles)
    rows = torch.tensor([0, 1, 2, 6, 12, 13, 14, 15])  # one example of the second source
    some = outputs.select(rows)
    without = outputs.select(torch.tensor([0, 1, 2, 12, 13, 14, 15]))
    torch.testing.assert_close(build(name, roles)(some, 0.5), build(name, roles)(without, 0.5))
    alone = outputs.select(torch.tensor([0, 12]))
    value = build(name, roles)(alone, 0.5)
    value.backward()
    assert float(value) == 0.0


@pytest.mark.parametrize("name", ["mmd", "coral", "lmmd"])
def test_descending_the_term_brings_the_domains_together(name: str) -> None:
    roles = ("source", "target")
    outputs, term = step(roles, each=30), build(name, roles)
    shift = torch.zeros(4, requires_grad=True)
    scale = torch.ones(4, requires_grad=True)
    target = (outputs.domain == 1).float()[:, None]
    x = outputs.embedding.detach() * (1 + target)  # twice as wide, and shifted
    optimizer = torch.optim.Adam([shift, scale], lr=0.05)
    values = []
    for _ in range(150):
        moved = x * (1 + target * (scale - 1)) + target * shift
        now = StepOutputs(moved, outputs.logits, outputs.labels, outputs.domain, roles, outputs.view)
        value = term.loss(now, 1.0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value))
    assert values[-1] < 0.25 * values[0]
