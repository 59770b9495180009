"""Adversaries: the reversal, the discriminators, and that the encoder really becomes blind."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from injerto.alignment.adversarial import Adversary, by_group
from injerto.alignment.base import Setting, StepOutputs, make_alignment
from injerto.alignment.schedule import ramp, reverse_gradient
from injerto.recipe.grammar import parse_alignment

NAMES = ["dann", "cdan", "cdan-e", "cdann"]


def outputs_of(
    embedding: Tensor, domain: list[int], roles: tuple[str, ...], classes: int = 3, labels: list[int] | None = None
) -> StepOutputs:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(embedding), classes, generator=generator)
    known = torch.tensor(labels if labels is not None else [i % classes for i in range(len(embedding))])
    target = torch.tensor([roles[index] == "target" for index in domain])
    known = torch.where(target, -1, known) if labels is None else known
    view = torch.zeros(len(embedding), dtype=torch.int64)
    return StepOutputs(embedding, logits, known, torch.tensor(domain), roles, view)


def build(text: str, roles: tuple[str, ...], width: int = 5, classes: int = 3) -> Adversary:
    torch.manual_seed(0)
    made = make_alignment(parse_alignment(text)[0], Setting(width, classes, roles))
    assert isinstance(made, Adversary)
    return made


def roles_of(name: str, domains: int) -> tuple[str, ...]:
    return ("source",) * domains if name == "cdann" else ("source",) * (domains - 1) + ("target",)


def test_ramp_is_the_papers() -> None:
    assert ramp(0.0) == 0.0
    assert ramp(0.5) == pytest.approx(0.98661, abs=1e-5)
    assert ramp(1.0) == pytest.approx(0.99991, abs=1e-5)


def test_reversal_is_the_identity_forward_and_minus_strength_backward() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    (y * torch.arange(3.0)).sum().backward()
    torch.testing.assert_close(x.grad, -0.3 * torch.arange(3.0).expand(4, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("domains", [2, 3, 5])
def test_encoder_gets_exactly_minus_lambda_times_the_discriminators_input_gradient(name: str, domains: int) -> None:
    roles = roles_of(name, domains)
    x = torch.randn(6 * domains, 5, generator=torch.Generator().manual_seed(2))
    domain = [i % domains for i in range(len(x))]
    found: dict[float, tuple[Tensor, list[Tensor]]] = {}
    for weight, p in ((0.5, 0.2), (2.0, 0.7)):
        term = build(f"{name}:{weight}", roles)
        embedding = x.clone().requires_grad_()
        term(outputs_of(embedding, domain, roles), p).backward()
        own = [parameter.grad.clone() for parameter in term.discriminator.parameters()]
        found[weight * ramp(p)] = embedding.grad.clone(), own
    straight = build(name, roles)  # the same discriminator, the gradient not turned around
    embedding = x.clone().requires_grad_()
    outputs = outputs_of(embedding, domain, roles)
    straight.seen = lambda outputs, strength, seen=straight.seen: seen(outputs, -1.0)  # type: ignore[method-assign]
    straight.loss(outputs, 1.0).backward()
    for strength, (gradient, own) in found.items():
        torch.testing.assert_close(gradient, -strength * embedding.grad)
        for mine, parameter in zip(own, straight.discriminator.parameters(), strict=True):
            torch.testing.assert_close(mine, parameter.grad)  # lambda does not touch the discriminator
            assert mine.abs().sum() > 0
    assert all(gradient.abs().sum() > 0 for gradient, _ in found.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("domains", [2, 3, 5])
def test_discriminator_is_alive_at_the_start(name: str, domains: int) -> None:
    roles = roles_of(name, domains)
    term = build(name, roles)
    outputs = outputs_of(torch.randn(4 * domains, 5), [i % domains for i in range(4 * domains)], roles)
    logits = term.discriminator(term.seen(outputs, 1.0))
    assert logits.shape[1] == domains
    assert logits.std(0).min() > 1e-3  # it varies across inputs


def test_the_loss_is_the_cross_entropy_balanced_by_domain() -> None:
    roles = ("source", "source", "target")
    term = build("dann(penalty=0)", roles)
    outputs = outputs_of(torch.randn(9, 5), [0, 0, 0, 0, 0, 1, 1, 2, 2], roles)
    each = functional.cross_entropy(term.discriminator(outputs.embedding), outputs.domain, reduction="none")
    expected = torch.stack([each[:5].mean(), each[5:7].mean(), each[7:].mean()]).mean()
    torch.testing.assert_close(term(outputs, 0.3), expected)


def test_shares_sum_to_one_whatever_groups_are_there() -> None:
    weights = by_group(torch.tensor([0, 2, 2, 5]), 6, None)
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1 / 6, 1 / 6, 1 / 3]))
    assert float(by_group(torch.tensor([3]), 6, torch.tensor([7.0]))) == 1.0


def test_cdann_weighs_classes_and_in_them_domains_alike() -> None:
    roles = ("source", "source")
    term = build("cdann(penalty=0)", roles)
    domain, labels = [0, 0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 2, 2, 2]
    outputs = outputs_of(torch.randn(7, 5), domain, roles, labels=labels)
    each = functional.cross_entropy(term.discriminator(term.seen(outputs, 1.0)), outputs.domain, reduction="none")
    expected = ((each[:3].mean() + each[3]) / 2 + (each[4] + each[5:].mean()) / 2) / 2
    torch.testing.assert_close(term(outputs, 0.5), expected)
    alone = outputs.select(torch.tensor([0, 1, 2, 3]))  # one class only: weights still sum to 1
    torch.testing.assert_close(term(alone, 0.5), (each[:3].mean() + each[3]) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_one_domain_one_example_and_gaps_in_the_domains_are_fine(name: str) -> None:
    roles = ("source", "source", "target") if name != "cdann" else ("source",) * 3
    term = build(name, roles)
    for domain in ([0], [0, 2, 2], [2, 2]):
        embedding = torch.randn(len(domain), 5, requires_grad=True)
        outputs = outputs_of(embedding, domain, roles, labels=[0] * len(domain))
        value = term(outputs, 0.5)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(embedding.grad).all()


def test_cdan_conditions_on_probabilities_by_the_outer_product() -> None:
    roles = ("source", "target")
    term = build("cdan", roles)
    outputs = outputs_of(torch.randn(4, 5), [0, 0, 1, 1], roles)
    seen = term.seen(outputs, 1.0)
    guess = outputs.logits.softmax(1)
    for i in range(4):
        torch.testing.assert_close(seen[i], torch.outer(guess[i], outputs.embedding[i]).flatten())


def test_a_large_map_is_drawn_once_and_saved() -> None:
    roles = ("source", "target")
    term = build("cdan", roles, width=600, classes=10)
    state = term.state_dict()
    assert state["left"].shape == (600, 1024) and state["right"].shape == (10, 1024)
    outputs = outputs_of(torch.randn(4, 600), [0, 0, 1, 1], roles, classes=10)
    before, global_state = term.seen(outputs, 1.0), torch.get_rng_state()
    assert torch.equal(term.seen(outputs, 1.0), before)
    assert torch.equal(torch.get_rng_state(), global_state)  # no reseeding, no drawing
    # inner products of maps estimate products of inner products
    guess = outputs.logits.softmax(1)
    exact = (outputs.embedding @ outputs.embedding.T) * (guess @ guess.T)
    found = before @ before.T
    assert float((found - exact).abs().max()) < 0.35 * float(exact.abs().max())


def test_entropy_weights_are_tllibs_constants_in_each_domain() -> None:
    """TLlib's ConditionalDomainAdversarialLoss: 1 + exp(-entropy), detached, over its own sum in each domain."""
    roles = ("source", "target")
    term = build("cdan-e(penalty=0):2", roles)
    outputs = outputs_of(torch.randn(6, 5), [0, 0, 0, 0, 1, 1], roles)
    logits = outputs.logits.clone().requires_grad_()
    embedding = outputs.embedding.clone().requires_grad_()
    outputs = StepOutputs(embedding, logits, outputs.labels, outputs.domain, roles, outputs.view)
    guess = logits.detach().double().softmax(1)
    weight = 1 + torch.exp((guess * guess.log()).sum(1))
    each = functional.cross_entropy(term.discriminator(term.seen(outputs, 1.0)), outputs.domain, reduction="none")
    parts = [(weight[rows] * each[rows]).sum() / weight[rows].sum() for rows in (slice(0, 4), slice(4, 6))]
    value = term(outputs, 0.4)
    torch.testing.assert_close(value, ((parts[0] + parts[1]) / 2).float())
    guessed, encoder = torch.autograd.grad(value, (logits, embedding), allow_unused=True)
    assert guessed is None  # neither the map nor the weights train the classifier
    assert float(encoder.abs().sum()) > 0


def test_the_penalty_is_the_discriminators_squared_input_gradient_and_its_alone() -> None:
    roles = ("source", "target")
    x = torch.randn(8, 5)
    domain, gradients, values = [0, 0, 0, 1, 1, 1, 1, 1], [], []
    for penalty in (0, 2):
        term = build(f"dann(penalty={penalty})", roles)
        embedding = x.clone().requires_grad_()
        value = term(outputs_of(embedding, domain, roles), 0.5)
        value.backward()
        gradients.append(embedding.grad.clone())
        values.append(value.detach())
    torch.testing.assert_close(gradients[0], gradients[1])  # the encoder does not pay it
    squares = []
    for i in range(8):
        own = x[i : i + 1].clone().requires_grad_()
        functional.cross_entropy(term.discriminator(own), torch.tensor(domain[i : i + 1])).backward()
        squares.append(own.grad.square().sum())
    expected = (torch.stack(squares[:3]).mean() + torch.stack(squares[3:]).mean()) / 2 * x.var(0, correction=0).sum()
    torch.testing.assert_close(values[1] - values[0], 2 * expected)


def test_alone_the_discriminator_learns_and_with_reversal_the_encoder_hides_the_domain() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(2 * count, 4, generator=generator)
        domain = torch.arange(2 * count) % 2
        x[:, 0] += 5.0 * domain  # linearly separable, in one direction
        return x, domain

    accuracy = {}
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        encoder = nn.Linear(4, 5)
        term = build(f"dann:{strength}", ("source", "target"))
        optimizer = torch.optim.Adam([*encoder.parameters(), *term.parameters()], lr=3e-3)
        for step in range(400):
            x, domain = draw(64)
            outputs = outputs_of(encoder(x), domain.tolist(), ("source", "target"))
            optimizer.zero_grad()
            term(outputs, step / 400).backward()
            optimizer.step()
        x, domain = draw(500)
        outputs = outputs_of(encoder(x), domain.tolist(), ("source", "target"))
        accuracy[strength] = term.health(outputs)["discriminator"]
    assert accuracy[0.0] > 0.95
    assert accuracy[1.0] < 0.62
    assert math.isclose(term.health(outputs)["chance"], 0.5)
