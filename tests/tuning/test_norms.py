"""The norm policies against hand computations."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import parse_tuning
from injerto.tuning.base import apply_tuning
from injerto.tuning.norms import check_norm, norm_layers, recalibrate, training_modes

torch.set_num_threads(1)


def modes_of(backbone: Any, tuning: str, policy: str) -> dict[str, bool]:
    for module, mode in training_modes(backbone, apply_tuning(backbone, parse_tuning(tuning)).frozen_stages, policy):
        module.training = mode
    return {name: module.training for name, module in backbone.model.named_modules()}


def statistics(backbone: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in backbone.model.state_dict().items() if "running" in name}


@pytest.mark.parametrize("policy", ["frozen", "train", "recalibrate:source"])
def test_what_is_frozen_is_in_eval_mode_dropout_too(make_backbone: Callable[..., Any], policy: str) -> None:
    norm = policy == "train"
    head = modes_of(make_backbone(dropout=0.5), "head", policy)
    assert not any(head.values())
    last = modes_of(make_backbone(dropout=0.5), "last:1", policy)
    trained = {name for name, mode in last.items() if mode}
    assert trained == {"blocks.2", "blocks.2.0", "blocks.2.2", "blocks.2.3"} | ({"blocks.2.1"} if norm else set())
    full = modes_of(make_backbone(dropout=0.5), "full", policy)
    assert {name for name, mode in full.items() if not mode} == (
        set() if norm else {"stem.1", "blocks.0.1", "blocks.1.1", "blocks.2.1"}
    )


def test_frozen_dropout_is_really_off_and_the_trained_one_on(make_backbone: Callable[..., Any]) -> None:
    backbone = make_backbone(dropout=0.5)
    modes_of(backbone, "last:1", "frozen")
    x = torch.randn(4, 3, 32, 32)
    before_last = nn.Sequential(backbone.model.stem, *backbone.model.blocks[:2])
    assert torch.equal(before_last(x), before_last(x))
    assert not torch.equal(backbone(x), backbone(x))


def test_one_step_of_train_moves_statistics_as_by_hand(make_backbone: Callable[..., Any]) -> None:
    backbone = make_backbone()
    reference = copy.deepcopy(backbone).eval()
    modes_of(backbone, "last:2", "train")
    before, x = statistics(backbone), torch.randn(6, 3, 32, 32)
    backbone(x)
    after = statistics(backbone)
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith(("stem", "blocks.0")))
    with torch.no_grad():  # blocks.1 sees what the frozen stages give; blocks.2 what blocks.1 gives in training mode
        h = reference.model.blocks[0](reference.model.stem(x))
        for index in (1, 2):
            convolution, norm = reference.model.blocks[index][0], reference.model.blocks[index][1]
            h = convolution(h)
            mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), unbiased=True)
            old_mean, old_variance = before[f"blocks.{index}.1.running_mean"], before[f"blocks.{index}.1.running_var"]
            torch.testing.assert_close(after[f"blocks.{index}.1.running_mean"], 0.9 * old_mean + 0.1 * mean)
            torch.testing.assert_close(after[f"blocks.{index}.1.running_var"], 0.9 * old_variance + 0.1 * variance)
            biased = h.var((0, 2, 3), unbiased=False)
            h = (h - mean.view(1, -1, 1, 1)) / (biased.view(1, -1, 1, 1) + norm.eps).sqrt()
            h = torch.relu(h * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1))


@pytest.mark.parametrize("tuning", ["head", "last:2", "full"])
@pytest.mark.parametrize("policy", ["frozen", "recalibrate:source"])
def test_other_policies_move_no_statistics_in_a_step(
    make_backbone: Callable[..., Any], tuning: str, policy: str
) -> None:
    backbone = make_backbone()
    modes_of(backbone, tuning, policy)
    before = statistics(backbone)
    backbone(torch.randn(6, 3, 32, 32))
    after = statistics(backbone)
    assert all(torch.equal(before[name], after[name]) for name in before)


def direct_average(backbone: Any, batches: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mean and unbiased variance of every norm's input per batch, averaged; each norm normalizes with its batch."""
    sums: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for x in batches:
            h = x
            layers = {"stem": backbone.model.stem} | {f"blocks.{i}": b for i, b in enumerate(backbone.model.blocks)}
            for name, layer in layers.items():
                h = layer[0](h)
                mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), unbiased=True)
                for key, value in (("running_mean", mean), ("running_var", variance)):
                    sums[f"{name}.1.{key}"] = sums.get(f"{name}.1.{key}", 0) + value / len(batches)
                h = nn.functional.batch_norm(h, None, None, layer[1].weight, layer[1].bias, training=True)
                h = torch.relu(h)
    return sums


def test_recalibrate_is_the_direct_average(make_backbone: Callable[..., Any]) -> None:
    backbone = make_backbone()
    reference = copy.deepcopy(backbone)
    batches = [torch.randn(5, 3, 32, 32) * (i + 1) for i in range(3)]
    recalibrate(backbone, batches)
    expected = direct_average(reference, batches)
    found = statistics(backbone)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
    layers = norm_layers(backbone).values()
    assert all(not layer.training and layer.momentum == 0.1 for layer in layers)
    assert not any(module.training for module in backbone.modules())


def test_recalibrate_only_touches_what_is_named(make_backbone: Callable[..., Any]) -> None:
    backbone = make_backbone()
    before = statistics(backbone)
    recalibrate(backbone, [torch.randn(5, 3, 32, 32)], only={"blocks.1.1"})
    changed = {name for name, value in statistics(backbone).items() if not torch.equal(value, before[name])}
    assert changed == {"blocks.1.1.running_mean", "blocks.1.1.running_var"}


def test_recalibrate_leaves_parameters_alone(make_backbone: Callable[..., Any]) -> None:
    backbone = make_backbone(dropout=0.5)
    before = {name: value.clone() for name, value in backbone.named_parameters()}
    state = torch.get_rng_state()
    recalibrate(backbone, [torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))])
    assert torch.equal(torch.get_rng_state(), state)  # dropout stays off
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_parameters())


def test_recalibrate_is_refused_where_there_is_no_batchnorm(tiny_bert: Any, make_backbone: Callable[..., Any]) -> None:
    from injerto.backbones.load import load_backbone

    with pytest.raises(InjertoError, match="has no BatchNorm to re-estimate; leave --norm out"):
        check_norm(load_backbone(f"hf:{tiny_bert}"), "recalibrate:source")
    check_norm(load_backbone(f"hf:{tiny_bert}"), "frozen")
    check_norm(make_backbone(), "recalibrate:target")
