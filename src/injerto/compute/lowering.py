"""A network in bfloat16 whose first convolutions, where rounding does the most harm, stay in float32."""

import copy
from typing import Any

import torch
from torch import nn

FINE = 2
"""Convolutions that stay in float32."""


def lower(network: nn.Module, probe: torch.Tensor | None) -> nn.Module:
    """Cast a network's weights to bfloat16, but for the first convolutions over pixels.

    The eight bits of bfloat16 cost a depthwise-separable network most in its first layers. With all of
    EfficientNet-Lite0 in bfloat16, embeddings of drawings at 224 px have a cosine of 0.9992 to those of float32 (median
    of 64; the worst 0.9970); with its stem and its first depthwise convolution in float32, 0.9997 (the worst 0.9995),
    for a twentieth more time. Rounded weights are most of the error.

    Args:
        network: In float32, for inference; changed in place. Its modules cast what they are given to the type of
            their own weights from here on.
        probe: Pixels, (B, 3, H, W); None for what takes no pixels: all of it is cast. So it is where weights lie
            outside of layers, for what meets them cannot be cast on its way.

    Returns:
        The network.
    """
    fine = [] if probe is None or _has_loose_weights(network) else _over_pixels(network, probe)
    kept = [copy.deepcopy(module.state_dict()) for module in fine]
    network.to(torch.bfloat16)
    for module, state in zip(fine, kept, strict=True):
        module.float().load_state_dict(state)  # what was rounded would stay so
    for module in network.modules():
        if fine and _holds_weights(module):
            module.register_forward_pre_hook(_cast(torch.float32 if module in fine else torch.bfloat16))
    if not fine:
        network.register_forward_pre_hook(_cast(torch.bfloat16))
    return network


def _holds_weights(module: nn.Module) -> bool:
    """Whether it has any of its own, not of its parts."""
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(tensor.is_floating_point() for tensor in tensors)


def _has_loose_weights(network: nn.Module) -> bool:
    return any(_holds_weights(module) and any(module.children()) for module in network.modules())


def _over_pixels(network: nn.Module, probe: torch.Tensor) -> list[nn.Module]:
    """The first convolutions; a later one, or one into patches, whose output is no larger than a quarter, is none."""
    found: list[nn.Module] = []

    def after(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        if 4 * output.shape[-1] > probe.shape[-1]:
            found.append(module)

    handles = [m.register_forward_hook(after) for m in network.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.inference_mode():
            network(probe)
    finally:
        for handle in handles:
            handle.remove()
    return found[:FINE]


def _cast(dtype: torch.dtype) -> Any:
    """A hook that casts a module's first input, where it is a tensor of floating point."""

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].is_floating_point():
            return (inputs[0].to(dtype), *inputs[1:])
        return None

    return before
