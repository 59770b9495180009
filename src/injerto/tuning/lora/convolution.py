"""Convolutions with a low-rank pair."""

from typing import Any

import torch
from torch import Tensor

from injerto.tuning.lora.base import Weighted, widened


class LowRankConv(Weighted):
    """``nn.Conv1d`` and ``nn.Conv2d`` with all their settings: A (r, in, k...), B (out, r / groups, 1...).

    PEFT's A sees all inputs whatever the groups. One that we make is zero outside its own group's inputs, so the sum is
    again a grouped convolution; for a stranger's that mixes groups, the sum is a convolution without groups.
    """

    @classmethod
    def shapes(cls, layer: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B.

        Args:
            layer: The plain layer.
            rank: r, divisible by the layer's groups.
        """
        ones = (1,) * len(layer.kernel_size)
        return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank // layer.groups, *ones)

    @staticmethod
    def group_mask(layer: Any, rank: int) -> Tensor:
        """What A is multiplied with so that each group's rows see their own inputs only.

        Args:
            layer: The plain layer, with groups.
            rank: r.
        """
        groups = layer.groups
        mask = torch.zeros(rank, layer.in_channels, *[1] * len(layer.kernel_size))
        mask.view(groups, rank // groups, groups, -1)[range(groups), :, range(groups)] = 1
        return mask

    @property
    def groups(self) -> int:
        """One where the pair mixes groups."""
        return 1 if self._mixes else self._groups  # type: ignore[no-any-return]

    @property
    def _groups(self) -> int:
        return self.__dict__["groups"]  # type: ignore[no-any-return]

    @property
    def _mixes(self) -> bool:
        return self._groups > 1 and self.lora_mask is None

    def pair(self) -> tuple[Tensor, Tensor]:
        """A, zero outside its group, and B."""
        return self.lora_A if self.lora_mask is None else self.lora_A * self.lora_mask, self.lora_B

    @property
    def base_weight(self) -> Tensor:
        """The pretrained weight; spread over all inputs where the pair mixes groups."""
        weight = super().base_weight
        if not self._mixes or self._merged is not None:
            return weight
        groups, (out, inner, *kernel) = self._groups, weight.shape
        spread = weight.new_zeros(groups, out // groups, groups, inner, *kernel)
        spread[range(groups), :, range(groups)] = weight.view(groups, out // groups, inner, *kernel)
        return spread.view(out, groups * inner, *kernel)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``B A``, in the weight's shape.

        Args:
            a: (r, in, k...).
            b: (out, r / groups, 1...).
        """
        groups, (rank, wide, *kernel), out = self._groups, a.shape, len(b)
        rows = b.reshape(groups, out // groups, rank // groups)
        if groups == 1 or self.lora_mask is None:
            return (rows @ a.reshape(groups, rank // groups, -1)).view(out, wide, *kernel)
        own = a.view(groups, rank // groups, groups, wide // groups, *kernel)[range(groups), :, range(groups)]
        return (rows @ own.reshape(groups, rank // groups, -1)).view(out, wide // groups, *kernel)

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve with the sum; under dropout what the pair adds sees the dropped inputs, the weight all of them.

        Args:
            inputs: (B, in, ...).
        """
        if not (self._drops and self.low_rank_path):
            return super().forward(inputs)  # type: ignore[misc, no-any-return]
        dropped = self._dropped(inputs)
        changed = super().forward(dropped)  # type: ignore[misc]
        self.__dict__["_without_pair"] = True
        try:
            return super().forward(inputs) + changed - super().forward(dropped)  # type: ignore[misc, no-any-return]
        finally:
            del self.__dict__["_without_pair"]

    def effective(self) -> Tensor:
        """The weight that the layer computes with; without the pair's part while dropout takes that off again."""
        if not self.__dict__.get("_without_pair"):
            return super().effective()
        base = self.base_weight
        if self.lora_magnitude is None:
            return base
        wide = widened(base)
        scaled = wide * self.rescaling(wide + self.delta())
        return torch.lerp(wide, scaled, self.strength).to(base.dtype)
