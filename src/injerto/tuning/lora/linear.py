"""Linear layers with a low-rank pair."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from injerto.tuning.lora.base import Weighted


class LowRankLinear(Weighted):
    """``nn.Linear``: A (r, in), B (out, r)."""

    @classmethod
    def shapes(cls, layer: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B.

        Args:
            layer: The plain layer.
            rank: r.
        """
        return (rank, layer.in_features), (layer.out_features, rank)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``B A``, (out, in).

        Args:
            a: (r, in).
            b: (out, r).
        """
        return b @ a

    def forward(self, inputs: Tensor) -> Tensor:
        """``x (W + scaling B A)^T + bias``, without ever forming the sum.

        Args:
            inputs: (..., in).
        """
        if not self.low_rank_path:
            return super().forward(inputs)  # type: ignore[misc, no-any-return]
        a, b = self.pair()
        factor = self.variant.scaling * self.strength
        if self.lora_start_A is not None and self.lora_start_B is not None:
            a, b = torch.cat([a, self.lora_start_A]), torch.cat([b, -self.lora_start_B], dim=1)
        weight, bias = self.base_weight, self.bias
        if self.lora_magnitude is not None:
            return self._magnitude(inputs, a, b)
        if self._drops or torch.is_autocast_enabled(inputs.device.type) or inputs.dtype != weight.dtype:
            found = functional.linear(inputs, weight, bias)
            pair = functional.linear(functional.linear(self._dropped(inputs), a), b)
            return found + pair * factor
        return LinearPair.apply(inputs, weight, bias, a, b, factor)  # type: ignore[no-any-return, no-untyped-call]

    def _magnitude(self, inputs: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """DoRA: the outputs of W + delta, each rescaled (its strength is a straight line in the weights)."""
        if not self._drops:
            return functional.linear(inputs, self.effective(), self.bias)
        rescaling = self.rescaling(self.base_weight + self.delta()).view(-1).to(self.base_weight.dtype)
        pair = functional.linear(functional.linear(self._dropped(inputs), a), b) * self.variant.scaling
        found = (functional.linear(inputs, self.base_weight) + pair) * rescaling
        return found if self.bias is None else found + self.bias


class LinearPair(torch.autograd.Function):
    """``x W^T + bias + factor x A^T B^T`` with frozen W: no pass over the outputs more than the plain layer needs."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, factor: float
    ) -> Tensor:
        """Compute.

        Args:
            ctx: Where the gradient finds what it needs.
            inputs: (..., in).
            weight: (out, in).
            bias: (out,) or None.
            a: (r, in).
            b: (out, r).
            factor: On the pair.
        """
        rows = inputs.reshape(-1, inputs.shape[-1])
        inner = rows @ a.T
        output = inputs.new_empty(*inputs.shape[:-1], len(weight))  # a view of it may not be changed in place later
        found = output.view(-1, len(weight))
        if bias is None:
            torch.mm(rows, weight.T, out=found)
        else:
            torch.addmm(bias, rows, weight.T, out=found)
        found.addmm_(inner, b.T, alpha=factor)
        ctx.save_for_backward(rows, weight, a, b, inner)
        ctx.factor, ctx.shape = factor, inputs.shape
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor, Tensor, None]:
        """Gradients of inputs, bias, A and B.

        Args:
            ctx: From :meth:`forward`.
            *gradients: Of the output, (..., out).
        """
        rows, weight, a, b, inner = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, len(weight))
        narrow = (gradient @ b) * ctx.factor
        back = None
        if ctx.needs_input_grad[0]:
            back = (gradient @ weight).addmm_(narrow, a).view(ctx.shape)
        shift = gradient.sum(0) if ctx.needs_input_grad[2] else None
        return back, None, shift, narrow.T @ rows, (gradient.T @ inner) * ctx.factor, None


class LowRankConv1D(Weighted):
    """transformers' ``Conv1D``, a linear layer whose weight is (in, out)."""

    @classmethod
    def shapes(cls, layer: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B.

        Args:
            layer: The plain layer.
            rank: r.
        """
        wide, out = layer.weight.shape
        return (rank, wide), (out, rank)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``(B A)^T``, (in, out).

        Args:
            a: (r, in).
            b: (out, r).
        """
        return (b @ a).T

    def _norm(self, weight: Tensor) -> Tensor:
        return weight.norm(dim=0)

    def forward(self, inputs: Tensor) -> Tensor:
        """``x (W + scaling (B A)^T) + bias``.

        Args:
            inputs: (..., in).
        """
        whole = self.lora_magnitude is not None or self.lora_start_A is not None
        if not self.low_rank_path or (whole and not self._drops):
            return super().forward(inputs)  # type: ignore[misc, no-any-return]
        a, b = self.pair()
        factor = self.variant.scaling * self.strength
        weight = self.base_weight.T
        if whole:
            return self._dropping(inputs, weight)
        if self._drops or torch.is_autocast_enabled(inputs.device.type) or inputs.dtype != weight.dtype:
            found = functional.linear(inputs, weight, self.bias)
            return found + functional.linear(functional.linear(self._dropped(inputs), a), b) * factor
        return LinearPair.apply(inputs, weight, self.bias, a, b, factor)  # type: ignore[no-any-return, no-untyped-call]

    def _dropping(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """PiSSA or DoRA: what the pair adds sees the dropped inputs, the pretrained weight all of them."""
        delta = self.delta().T.to(weight.dtype)
        scale = torch.ones_like(weight[:, :1])
        if self.lora_magnitude is not None:
            scale = self.rescaling(self.base_weight + self.delta()).view(-1, 1).to(weight.dtype)
        base = torch.lerp(weight, weight * scale, self.strength)
        found = functional.linear(inputs, base, self.bias)
        return found + functional.linear(self._dropped(inputs), delta * scale) * self.strength
