"""How a layer gets its low-rank pair."""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from injerto.basics.errors import InjertoError
from injerto.tuning.lora.base import LowRank, Tied, Variant
from injerto.tuning.lora.convolution import LowRankConv
from injerto.tuning.lora.linear import LowRankConv1D, LowRankLinear
from injerto.tuning.lora.lookup import LowRankAttention, LowRankEmbedding

KINDS: tuple[tuple[type[nn.Module], type[LowRank]], ...] = (
    (nn.MultiheadAttention, LowRankAttention),
    (nn.Embedding, LowRankEmbedding),
    (nn.Linear, LowRankLinear),
    (nn.Conv1d, LowRankConv),
    (nn.Conv2d, LowRankConv),
)

Rows = tuple[Sequence[int], ...]
"""The numbers of the rows of each part of a fused matrix."""


def pattern_matches(pattern: str, path: str) -> bool:
    """Whether a pattern is a layer's name, or how it ends after a dot, as PEFT's pattern dictionaries are read.

    Args:
        pattern: A regular expression.
        path: The layer's name.
    """
    return re.search(rf"(?:^|\.)(?:{pattern})$", path) is not None


def kind_of(layer: nn.Module) -> type[LowRank] | None:
    """The low-rank class for a layer; None where there is none.

    Args:
        layer: A plain layer.
    """
    if type(layer).__name__ == "Conv1D" and isinstance(getattr(layer, "weight", None), nn.Parameter):
        return LowRankConv1D  # transformers' own, without importing it
    kind = next((kind for plain, kind in KINDS if isinstance(layer, plain)), None)
    computed = kind is not None and kind is not LowRankAttention and layer._parameters.get(kind.WEIGHT) is None
    return None if computed else kind  # weight_norm and other parametrizations compute the weight anew


_mixed: dict[tuple[type, type[nn.Module]], type[nn.Module]] = {}


def _mix(kind: type, plain: type[nn.Module]) -> type[nn.Module]:
    if (kind, plain) not in _mixed:
        _mixed[kind, plain] = type(plain.__name__, (kind, plain), {"__module__": plain.__module__})
    return _mixed[kind, plain]


def attach(layer: nn.Module, variant: Variant, start: str = "zero", rows: Rows = ()) -> LowRank:
    """Give a layer its low-rank pair, drawn from torch's generator; its outputs stay the same.

    Args:
        layer: A plain layer of a known kind; changed in place.
        variant: How the pair is used.
        start: ``zero`` (B zero, A as ``nn.Linear`` is drawn) or ``pissa`` (the pair learns from the weight's own
            principal directions, Meng et al., NeurIPS 2024, eqs. 2 to 5).
        rows: Parts of a fused matrix that may change, the rows of each; all where empty. Each has r columns of its own.

    Returns:
        The layer.

    Raises:
        InjertoError: Where the kind of layer cannot have what is asked.
    """
    kind = kind_of(layer)
    title = type(layer).__name__
    if kind is None or isinstance(layer, LowRank):
        raise InjertoError(f"{title} cannot have a low-rank pair")
    weight = layer._parameters.get(kind.WEIGHT)
    if weight is None:
        raise InjertoError(f"{title} with separate q, k and v weights cannot have a low-rank pair")
    groups = getattr(layer, "groups", 1)
    if variant.rank % groups:
        raise InjertoError(f"rank {variant.rank} is not divisible by the {groups} groups of {title}")
    plain = kind in (LowRankLinear, LowRankConv, LowRankConv1D)
    if variant.dora and not plain or start == "pissa" and not (plain and groups == 1):
        raise InjertoError(f"{title} can have a plain low-rank pair only")
    if variant.dora and rows:
        raise InjertoError(f"DoRA's magnitudes would change all of {title}, not the chosen parts alone")
    if start == "pissa" and rows:
        raise InjertoError(f"PiSSA starts from the principal directions of all of {title}, not of the chosen parts")
    if variant.dropout and kind in (LowRankAttention, LowRankEmbedding):
        raise InjertoError(f"{title} can have a low-rank pair without dropout only")
    rank = variant.rank * max(1, len(rows))
    shape_a, shape_b = kind.shapes(layer, rank)
    a, b = weight.new_zeros(shape_a), weight.new_zeros(shape_b)
    if kind is LowRankEmbedding:
        nn.init.normal_(b)
    else:
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    mask = row_mask(shape_b, rows) if rows else LowRankConv.group_mask(layer, rank) if groups > 1 else None
    layer.__class__ = _mix(kind, type(layer))
    assert isinstance(layer, LowRank)
    layer.variant, layer.strength, layer._merged = variant, 1.0, None
    layer.lora_A, layer.lora_B = nn.Parameter(a), nn.Parameter(b)
    layer.register_parameter("lora_magnitude", None)
    layer.register_buffer("lora_mask", mask, persistent=False)
    layer.register_buffer("lora_start_A", None, persistent=False)
    layer.register_buffer("lora_start_B", None, persistent=False)
    if start == "pissa":
        _principal(layer)
    if variant.dora:
        layer.lora_magnitude = nn.Parameter(layer._norm(layer.base_weight.detach()).flatten())
    weight.requires_grad_(False)
    return layer


def tied_output(network: nn.Module, table: nn.Module) -> nn.Module | None:
    """The output layer that shares an embedding table's weight, None where there is none.

    Args:
        network: A transformers model, or any.
        table: An embedding table in it.
    """
    find = getattr(network, "get_output_embeddings", None)
    layer = find() if callable(find) else None
    own = getattr(layer, "_parameters", {}).get("weight")
    return layer if own is not None and own is table._parameters.get("weight") else None


def tie(network: nn.Module, table: LowRank) -> bool:
    """Let the output layer that shares a table's weight share its low-rank pair.

    Args:
        network: A transformers model, or any; its output layer is changed in place.
        table: An embedding table with a pair.

    Returns:
        Whether there is one.
    """
    layer = tied_output(network, table)
    if layer is None:
        return False
    layer.__class__ = _mix(Tied, type(layer))
    layer.__dict__["_table"] = (table,)
    return True


def row_mask(shape: tuple[int, ...], rows: Rows) -> Tensor:
    """What B is multiplied with: each part's rows see their own columns only.

    Args:
        shape: Of B, (out, parts x r).
        rows: The rows of each part.
    """
    mask = torch.zeros(shape)
    width = shape[1] // len(rows)
    for i, part in enumerate(rows):
        mask[list(part), i * width : (i + 1) * width] = 1
    return mask


@torch.no_grad()
def _principal(layer: LowRank) -> None:
    """Start A and B at the weight's principal directions; what they start with is taken off, so nothing changes yet."""
    weight = layer.base_weight.detach().double()
    matrix = weight.T if isinstance(layer, LowRankConv1D) else weight.flatten(1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = layer.variant.rank
    if len(values) < rank:
        raise InjertoError(f"{type(layer).__name__} {tuple(weight.shape)} has no {rank} principal directions")
    root = (values[:rank] / layer.variant.scaling).sqrt()
    layer.lora_A.copy_((root[:, None] * right[:rank]).view(layer.lora_A.shape))
    layer.lora_B.copy_((left[:, :rank] * root).view(layer.lora_B.shape))
    layer.lora_start_A, layer.lora_start_B = layer.lora_A.detach().clone(), layer.lora_B.detach().clone()
