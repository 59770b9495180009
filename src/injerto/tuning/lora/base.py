"""Layers that compute with ``W + scaling * B A`` in place of ``W``, which stays as it is.

A layer is changed in place: its class becomes one that derives from its own class and from :class:`LowRank`, so
names, ``isinstance`` and everything that reads ``layer.weight`` keep working; ``layer.weight`` is then the sum, while
the state dict still holds the pretrained weight beside ``lora_A`` and ``lora_B``.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from injerto.compute.fold import Composed


@dataclass(frozen=True)
class Variant:
    """How a layer's low-rank pair is used.

    Attributes:
        rank: r, the pair's inner width.
        alpha: The delta is ``alpha / r * B A``.
        dropout: Share of the inputs that the pair does not see while training.
        rslora: Whether the delta is ``alpha / sqrt(r) * B A`` (Kalajdzievski 2023, eq. 4).
        dora: Whether direction and magnitude are parted (Liu et al., ICML 2024, eq. 5).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False

    @property
    def scaling(self) -> float:
        """The factor on ``B A``."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is of half precision, else as it is.

    Args:
        tensor: Of any dtype.
    """
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class LowRank(Composed):
    """What all low-rank layers share; mixed into the layer's own class.

    Attributes:
        variant: How the pair is used.
        strength: Factor on the whole change, 0 to 1; 0 is the pretrained layer.
    """

    WEIGHT: ClassVar[str] = "weight"
    NAMES: ClassVar[tuple[str, str]] = ("lora_A.weight", "lora_B.weight")
    """What PEFT calls A and B in its files."""

    variant: Variant
    strength: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_magnitude: nn.Parameter | None
    lora_mask: Tensor | None
    lora_start_A: Tensor | None
    lora_start_B: Tensor | None
    _merged: nn.Parameter | None

    @classmethod
    def shapes(cls, layer: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B for a layer.

        Args:
            layer: The plain layer.
            rank: r.
        """
        raise NotImplementedError

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``B A`` in the weight's shape.

        Args:
            a: In A's shape.
            b: In B's shape.
        """
        raise NotImplementedError

    @property
    def base_weight(self) -> Tensor:
        """The pretrained weight."""
        if self._merged is not None:
            return self._merged
        weight = self._parameters[self.WEIGHT]
        assert weight is not None
        return weight

    def learned(self) -> list[str]:
        """Names of the layer's own parameters that learn."""
        return [name for name in ("lora_A", "lora_B", "lora_magnitude") if self._parameters.get(name) is not None]

    def delta(self) -> Tensor:
        """What is added to the weight at full strength, in its shape (before DoRA's rescaling), float32 or wider."""
        a, b = self.pair()
        delta = self.product(widened(a), widened(b))
        if self.lora_start_A is not None and self.lora_start_B is not None:
            delta = delta - self.product(widened(self.lora_start_A), widened(self.lora_start_B))
        return delta * self.variant.scaling

    def pair(self) -> tuple[Tensor, Tensor]:
        """A and B; of a slice of a fused matrix, B is zero outside its rows."""
        return self.lora_A, self.lora_B if self.lora_mask is None else self.lora_B * self.lora_mask

    def effective(self) -> Tensor:
        """The weight that the layer computes with: of a base in half precision the sum is rounded once, at the end."""
        base = self.base_weight
        if self.strength == 0:
            return base
        changed = widened(base) + self.delta()
        if self.lora_magnitude is not None:
            changed = changed * self.rescaling(changed)
        if self.strength != 1:
            changed = torch.lerp(widened(base).to(changed.dtype), changed, self.strength)
        return changed.to(base.dtype)

    def rescaling(self, changed: Tensor) -> Tensor:
        """DoRA's magnitude over the norm of each output's weights, which carries no gradient (section 4.3).

        Args:
            changed: The weight with the delta added.

        Returns:
            To be multiplied with the weight.
        """
        assert self.lora_magnitude is not None
        norm = self._norm(changed.detach())
        return (self.lora_magnitude.view_as(norm) / norm).to(changed.dtype)

    def _norm(self, weight: Tensor) -> Tensor:
        return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))

    @property
    def low_rank_path(self) -> bool:
        """Whether the forward is to go through A and B, not through the sum."""
        return self._merged is None and self.strength != 0

    @torch.no_grad()
    def merge(self) -> None:
        """Compute the weight once; the pretrained one is kept aside, so that :meth:`unmerge` gives its very bits."""
        if self._merged is None:
            parameter = self._parameters[self.WEIGHT]
            assert parameter is not None
            changed = self.effective().clone()
            self.__dict__["_merged"] = parameter  # not the module's own: what shares the parameter keeps it
            self._parameters[self.WEIGHT] = nn.Parameter(changed, requires_grad=False)

    def unmerge(self) -> None:
        """Put the pretrained weight back."""
        if self._merged is not None:
            self._parameters[self.WEIGHT] = self._merged
            self._merged = None

    @torch.no_grad()
    def settle(self) -> None:
        """Become a layer of the plain class with the sum as its weight."""
        self.merge()
        self._become_plain()

    def strip(self) -> None:
        """Become the layer of the plain class that it was, with the pretrained weight."""
        self.unmerge()
        self._become_plain()

    def _become_plain(self) -> None:
        groups = getattr(self, "groups", None)
        for name in [*self.learned(), "lora_magnitude", "lora_mask", "lora_start_A", "lora_start_B"]:
            self._parameters.pop(name, None)
            self._buffers.pop(name, None)
        for name in ("variant", "strength", "_merged"):
            del self.__dict__[name]
        self.__class__ = type(self).__bases__[1]  # type: ignore[assignment]
        if groups is not None:
            self.__dict__["groups"] = groups

    @property
    def plainly(self) -> bool:
        """Whether the plain class's forward with the sum is what the layer computes."""
        return self.variant.dropout == 0

    def _weight(self) -> Tensor:
        if self._merged is not None:
            weight = self._parameters[self.WEIGHT]
            assert weight is not None
            return weight
        return self.effective()

    def _dropped(self, inputs: Tensor) -> Tensor:
        return functional.dropout(inputs, self.variant.dropout) if self._drops else inputs

    @property
    def _drops(self) -> bool:
        return self.training and self.variant.dropout > 0

    def extra_repr(self) -> str:
        """The plain layer's, and the pair."""
        return f"{super().extra_repr()}, lora(r={self.variant.rank}, scaling={self.variant.scaling:g})"


class Weighted(LowRank):
    """A layer whose ``weight`` is the sum."""

    bias: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The sum."""
        return self._weight()


class Tied(Composed):
    """An output layer that shares its weight with an embedding table; with the table's low-rank pair, too."""

    _table: tuple[LowRank]

    @property
    def table(self) -> LowRank:
        """The table."""
        return self._table[0]

    @property
    def weight(self) -> Tensor:
        """The table's sum."""
        return self.table._weight()

    @torch.no_grad()
    def settle(self) -> None:
        """Become a layer of the plain class that shares the sum."""
        table = self._table[0]
        if isinstance(table, LowRank):
            table.settle()
        self._parameters["weight"] = table._parameters["weight"]
        self.strip()

    def strip(self) -> None:
        """Become the layer of the plain class that it was."""
        del self.__dict__["_table"]
        self.__class__ = type(self).__bases__[1]  # type: ignore[assignment]

    @property
    def plainly(self) -> bool:
        """A plain layer's forward with the sum is what is computed."""
        return True


def own_forward(layer: nn.Module, plain: type[nn.Module]) -> bool:
    """Whether the layer's own class computes otherwise than the plain one.

    Args:
        layer: A low-rank layer.
        plain: The plain class.
    """
    return type(layer).__bases__[1].forward is not plain.forward  # type: ignore[attr-defined]
