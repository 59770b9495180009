"""Depthwise convolutions on small maps: a gradient several times faster than the library's."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

LARGEST = 36
"""Largest map (H x W) for which it pays: above, the library's own gradient is as fast."""


def small_depthwise(convolution: nn.Conv2d, inputs: torch.Tensor) -> bool:
    """Whether a convolution is one that :class:`SmallDepthwise` computes, on a map where that pays.

    Args:
        convolution: Any convolution.
        inputs: What it is called with, (B, C, H, W).
    """
    kernel = convolution.kernel_size
    return (
        convolution.groups == convolution.in_channels == convolution.out_channels > 1
        and convolution.stride == convolution.dilation == (1, 1)
        and kernel[0] == kernel[1] >= 5
        and convolution.padding == (kernel[0] // 2, kernel[1] // 2)
        and convolution.padding_mode == "zeros"
        and inputs.shape[2] * inputs.shape[3] <= LARGEST
        and inputs.dtype == torch.float32
        and inputs.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
    )


class SmallDepthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1 that keeps the size; the same function, another way to its gradients.

    The gradient of the input is a convolution with the turned kernel, that of the kernel one product and sum per tap.
    """

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
        """Convolve.

        Args:
            ctx: Where the gradient finds what it needs.
            inputs: (B, C, H, W).
            weight: (C, 1, k, k), k odd.
            padding: Zeros on each side, (k // 2, k // 2).
        """
        ctx.save_for_backward(inputs, weight)
        ctx.padding = padding
        return functional.conv2d(inputs, weight, None, 1, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Gradients of input and weight.

        Args:
            ctx: From :meth:`forward`.
            *gradients: Of the output, (B, C, H, W).
        """
        inputs, weight = ctx.saved_tensors
        (gradient,) = gradients
        turned = None
        if ctx.needs_input_grad[0]:
            turned = functional.conv2d(gradient, weight.flip(2, 3), None, 1, ctx.padding, 1, len(weight))
        taps = _taps(inputs, gradient, weight.shape[2], ctx.padding[0]) if ctx.needs_input_grad[1] else None
        return turned, taps, None


def _taps(inputs: torch.Tensor, gradient: torch.Tensor, size: int, padding: int) -> torch.Tensor:
    """Gradient of the kernel, (C, 1, k, k)."""
    x, g = inputs.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    height, width = x.shape[1:3]
    result = x.new_zeros(size, size, x.shape[3])
    for row in range(size):
        top, bottom = max(0, padding - row), min(height, height + padding - row)
        for column in range(size):
            left, right = max(0, padding - column), min(width, width + padding - column)
            if bottom > top and right > left:
                down, over = row - padding, column - padding
                seen = x[:, top + down : bottom + down, left + over : right + over]
                result[row, column] = (seen * g[:, top:bottom, left:right]).sum((0, 1, 2))
    return result.permute(2, 0, 1).unsqueeze(1)
