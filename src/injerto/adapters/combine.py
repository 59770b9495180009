"""Weighted sums of adapters on one base: low-rank pairs side by side, everything else along straight lines."""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model
from injerto.tuning.lora.attach import attach, tie
from injerto.tuning.lora.base import LowRank, Tied, Variant, widened
from injerto.tuning.lora.settings import LARGEST_RANK
from injerto.tuning.lora.tuning import low_rank_layers

M = TypeVar("M", Model, LanguageModel)


@torch.no_grad()
def combine(models: Sequence[M], weights: Sequence[float], base: Backbone) -> M:
    """The base plus a weighted sum of what adapters changed in it; the head is the weighted mean of theirs.

    Low-rank pairs are put side by side (their ranks add up), which gives the sum of the products exactly, as averaging
    A and B would not: "cat" of PEFT's ``add_weighted_adapter``; task arithmetic (Ilharco et al., ICLR 2023, section 2).

    Args:
        models: On one base, with the same classes and kind of head.
        weights: One for each; not all need be positive, their sum must not be 0.
        base: The base, plain.

    Returns:
        A new model.

    Raises:
        InjertoError: Where the sum is no low-rank pair: with DoRA, or in grouped convolutions.
    """
    total = sum(weights)
    result = copy.deepcopy(models[0])
    if not total and _new_state(result):
        raise InjertoError("the weights add up to 0: no head comes out of that")
    pairs = [dict(low_rank_layers(model.backbone.model)) for model in models]
    network = result.backbone.model
    for module in network.modules():
        if isinstance(module, Tied):
            module.strip()
    for _, pair in list(low_rank_layers(network)):
        pair.strip()
    states = [_plain_state(model.backbone.model) for model in models]
    start = base.model.state_dict()
    dense: dict[str, Tensor] = {}
    for path in dict.fromkeys(path for found in pairs for path in found):
        parts = [(weight, found[path]) for weight, found in zip(weights, pairs, strict=True) if path in found]
        name = f"{path}.{parts[0][1].WEIGHT}"
        whole = [key for key in start if key.rpartition(".")[0] == path]
        if all(torch.equal(state[key], start[key]) for key in whole for state in states):
            _attach(network, path, parts)
        else:  # another adapter changes the layer itself
            dense[name] = _delta(path, parts)
    if any(isinstance(module, Tied) for model in models for module in model.modules()):
        for layer in network.modules():
            if isinstance(layer, LowRank) and isinstance(layer, nn.Embedding):
                tie(network, layer)
    own = network.state_dict()
    for name, origin in start.items():
        if origin.is_floating_point():
            wide = widened(origin)  # of half precision, the sum is rounded once, at the end
            change = sum((w * (state[name] - wide) for w, state in zip(weights, states, strict=True)), wide * 0)
            own[name].copy_(wide + change + dense.get(name, 0))
    new = [dict(_new_state(model)) for model in models]
    for name, tensor in _new_state(result):
        if tensor.is_floating_point():
            tensor.copy_(sum(w * found[name] for w, found in zip(weights, new, strict=True)) / total)  # type: ignore[arg-type]
    return result


def _delta(path: str, parts: Sequence[tuple[float, LowRank]]) -> Tensor:
    """The weighted sum of what pairs add to a layer's weight."""
    _check(path, parts)
    return sum((weight * layer.strength * layer.delta() for weight, layer in parts), torch.zeros(()))


def _check(path: str, parts: Sequence[tuple[float, LowRank]]) -> None:
    if any(layer.lora_magnitude is not None for _, layer in parts):
        raise InjertoError(f"{path}: DoRA's rescaled weights do not add up to a low-rank pair; it can't be combined")


def _attach(network: nn.Module, path: str, parts: Sequence[tuple[float, LowRank]]) -> None:
    _check(path, parts)
    rows, columns = [], []
    for weight, layer in parts:
        if getattr(layer, "groups", 1) > 1:
            raise InjertoError(f"{path}: pairs of a grouped convolution can't be put side by side")
        a, b = layer.pair()
        if layer.lora_start_A is not None and layer.lora_start_B is not None:
            a, b = torch.cat([a, layer.lora_start_A]), torch.cat([b, -layer.lora_start_B], dim=1)
        rows.append(a)
        columns.append(b * (weight * layer.variant.scaling * layer.strength))
    a, b = torch.cat(rows), torch.cat(columns, dim=1)
    if len(a) > LARGEST_RANK:
        raise InjertoError(f"{path}: the ranks add up to {len(a)}, more than {LARGEST_RANK}; combine fewer adapters")
    layer = attach(network.get_submodule(path), Variant(len(a), float(len(a))))
    layer.lora_A.copy_(a)
    layer.lora_B.copy_(b)


def _plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state without any low-rank pair's tensors; the weights below them are the base's."""
    return {name: tensor for name, tensor in network.state_dict().items() if ".lora_" not in name}


def _new_state(model: Model | LanguageModel) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in model.state_dict().items() if not name.startswith("backbone.")]
