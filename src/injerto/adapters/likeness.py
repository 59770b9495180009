"""Whether PEFT computes with a low-rank layer's tensors what Injerto does: asked before a file is written for it."""

import copy
from typing import Any

import torch
from torch import nn

from injerto.tuning.lora.base import LowRank
from injerto.tuning.lora.convolution import LowRankConv
from injerto.tuning.lora.lookup import LowRankAttention
from injerto.tuning.lora.tuning import low_rank_layers

TOLERANCE = 1e-3


def unlike_peft(network: nn.Module) -> list[str]:
    """The low-rank layers whose tensors mean something else to PEFT 0.21.

    Convolutions are asked: PEFT builds A from kernel, stride and padding alone, so dilation, a padding mode or a
    forward of the layer's own can part the two. ``nn.MultiheadAttention`` is known: PEFT adds the change of its output
    projection twice.

    Args:
        network: With low-rank layers; left as it is.
    """
    return [
        path
        for path, layer in low_rank_layers(network)
        if isinstance(layer, LowRankAttention) or (isinstance(layer, LowRankConv) and not _alike(layer))
    ]


@torch.no_grad()
def _alike(layer: LowRank) -> bool:
    ours: Any = copy.deepcopy(layer).float().cpu().eval()
    plain, base = type(ours).__bases__[1], ours.__dict__["groups"]
    generator = torch.Generator().manual_seed(0)
    for pair in (ours.lora_A, ours.lora_B):
        pair.copy_(torch.randn(pair.shape, generator=generator))
    ours.lora_magnitude, ours.lora_start_A, ours.lora_start_B, ours.strength = None, None, None, 1.0
    kernel = ours.kernel_size
    size = [(k - 1) * d + 4 for k, d in zip(kernel, ours.dilation, strict=True)]
    inputs = torch.randn(1, ours.in_channels, *size, generator=generator)
    try:
        a, b = ours.pair()
        first = plain(ours.in_channels, len(a), kernel, ours.stride, ours.padding, bias=False)
        ones = (1,) * len(kernel)
        second = plain(len(a), ours.out_channels, ones, ones, groups=base, bias=False)
        first.weight.copy_(a)
        second.weight.copy_(b)
        found = second(first(inputs)) * ours.variant.scaling
        wanted = ours(inputs)
        ours.strength = 0.0
        wanted = wanted - ours(inputs)
    except (RuntimeError, TypeError, ValueError):  # another signature, or sizes that do not fit: PEFT fails likewise
        return False
    return found.shape == wanted.shape and bool(
        (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp_min(1e-6)
    )
