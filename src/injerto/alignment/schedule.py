"""How strongly a term acts at a point of the run, and the layer that turns a gradient around."""

import math
from typing import Any

import torch
from torch import Tensor


def ramp(p: float, gamma: float = 10.0) -> float:
    """From 0 to 1 over the run: 2 / (1 + exp(-gamma p)) - 1 (Ganin et al., JMLR 2016, section 5.2.2).

    Args:
        p: Share of the run that is done, in [0, 1].
        gamma: Steepness.
    """
    return 2 / (1 + math.exp(-gamma * p)) - 1


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * -ctx.strength, None


def reverse_gradient(values: Tensor, strength: float) -> Tensor:
    """The values as they are; their gradient times ``-strength`` (Ganin & Lempitsky, ICML 2015, eq. 11-12).

    Args:
        values: Any tensor.
        strength: Weight times ramp.
    """
    return _Reverse.apply(values, strength)
