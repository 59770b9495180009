"""mixup beside alignments: the labelled loss sees mixtures, the terms see the examples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from injerto.alignment.base import Alignment, Setting, StepOutputs, make_alignment
from injerto.compute.plan import make_plan
from injerto.recipe.grammar import parse_alignment
from injerto.statistics.mmd import permutation_test
from injerto.tasks.model import Model
from injerto.training.examples import Batch
from injerto.training.mixing import mixup
from injerto.training.objectives import Classification


class Seen(Alignment):
    """A term that keeps what it is given."""

    def loss(self, outputs: StepOutputs, p: float) -> torch.Tensor:
        self.outputs = outputs
        return outputs.logits.sum() * 0


class Whole:
    """Stands for frozen stages: what was kept is the embedding."""

    suffix = None

    @staticmethod
    def embed(inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def objective(make_backbone: Callable[..., Any], **more: Any) -> tuple[Classification, Model]:
    backbone = make_backbone()
    model = Model(backbone, ("a", "b"), "linear", None)
    head = model.head.layers[0]
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    roles = ("source", "source", "target")
    return Classification(model, make_plan(backbone, "fp32", 1), roles=roles, mixing=("mixup",), **more), model


def batch(count: int, width: int) -> Batch:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(3 * count, width, generator=generator)
    labels = torch.cat([torch.randint(2, (2 * count,), generator=generator), torch.full((count,), -1)])
    domain = torch.arange(3).repeat_interleave(count)
    return Batch(inputs, labels, domain, torch.zeros(3 * count, dtype=torch.int64), Whole())  # type: ignore[arg-type]


def test_terms_see_the_examples_as_they_are(make_backbone: Callable[..., Any]) -> None:
    term = Seen(Setting(12, 2, ("source", "source", "target")), 1.0)
    both, model = objective(make_backbone, terms=[("seen", term)])
    part = batch(400, 12)
    torch.manual_seed(5)
    loss = both(part, 0.5)
    with torch.no_grad():
        assert torch.equal(term.outputs.embedding, model.classify(part.inputs).embedding)
        assert torch.equal(term.outputs.labels, part.labels) and torch.equal(term.outputs.domain, part.domain)
        assert len(term.outputs.logits) == 1200
    source, target = (term.outputs.embedding[part.domain == k].detach() for k in (0, 2))
    assert permutation_test(source, target, draws=100)[1] > 0.05  # one distribution, and seen as one
    mixed = mixup(part.inputs, part.labels, 2)[0][part.domain == 0]
    assert mixed.var() < 0.9 * source.var()  # mixtures vary less: 0.857 in theory
    # the labelled loss is that of the mixtures alone, as without any term
    alone, other = objective(make_backbone)
    other.load_state_dict(model.state_dict())
    torch.manual_seed(5)
    torch.testing.assert_close(loss, alone(part, 0.5))
    torch.manual_seed(5)
    inputs, soft = mixup(part.inputs, part.labels, 2)
    known = part.labels >= 0
    logits = model.classify(inputs[known]).logits.detach().double().numpy()
    each = -(soft[known].double().numpy() * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
    assert float(loss.detach()) == pytest.approx(each.mean(), rel=1e-5)


def test_class_weights_weigh_every_class_of_a_mixture(make_backbone: Callable[..., Any]) -> None:
    weights = torch.tensor([0.1, 1.9])
    alone, model = objective(make_backbone, weights=weights, smoothing=0.1)
    part = batch(20, 12)
    torch.manual_seed(1)
    loss = alone(part, 0.5)
    torch.manual_seed(1)
    inputs, soft = mixup(part.inputs, part.labels, 2)
    known = part.labels >= 0
    expected = functional.cross_entropy(
        model.classify(inputs[known]).logits, soft[known], weights, reduction="sum", label_smoothing=0.1
    )
    torch.testing.assert_close(loss, expected / known.sum())  # by examples, not by their weights


@pytest.mark.parametrize("term", ["mmd", "coral", "dann", "mcc", "lmmd", "self-training"])
def test_a_term_is_worth_the_same_with_and_without_mixup(term: str, make_backbone: Callable[..., Any]) -> None:
    values = []
    setting = Setting(12, 2, ("source", "source", "target"))
    for mixing in ((), ("mixup",)):
        torch.manual_seed(0)
        one = make_alignment(parse_alignment(f"{term}:1")[0], setting)
        both, _ = objective(make_backbone, terms=[(term, one)])
        both.mixing = mixing
        both.watching = True
        torch.manual_seed(2)
        both(batch(12, 12), 0.7)
        values.append(both.seen[f"loss/{term}"])
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6)
