"""Pooled outputs of a backbone's stages, taken on the way of a forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone, probe_batch
from injerto.compute.batches import Inputs


class Taps:
    """Listens to stages. Every output is float32 (B, D of the stage).

    Feature maps are averaged over space, sequences over tokens (padding left out).
    """

    def __init__(self, backbone: Backbone, stages: Sequence[int]) -> None:
        """Choose the stages.

        Args:
            backbone: The pretrained model.
            stages: Which; none for no taps at all.
        """
        self.backbone, self.stages = backbone, tuple(stages)

    @contextmanager
    def open(self, inputs: Inputs) -> Iterator[dict[int, Tensor]]:
        """Inside, one forward pass of the backbone (or of its part above a cut) is listened to.

        Args:
            inputs: What it is given.

        Yields:
            What the pass leaves, by stage.
        """
        taken: dict[int, Tensor] = {}
        mask = inputs["attention_mask"] if isinstance(inputs, dict) else None

        def listen(stage: int) -> Any:
            def take(module: nn.Module, args: Any, output: Any) -> None:
                values = output[0] if isinstance(output, tuple) else output
                taken[stage] = pooled(values, mask)

            return take

        model = self.backbone.model
        found = {stage: model.get_submodule(self.backbone.stages[stage].name) for stage in self.stages}
        handles = [module.register_forward_hook(listen(stage)) for stage, module in found.items()]
        try:
            yield taken
        finally:
            for handle in handles:
                handle.remove()


def pooled(values: Tensor, mask: Tensor | None) -> Tensor:
    """One vector per example, float32 (B, D).

    Args:
        values: Maps (B, C, H, W), tokens (B, T, D) or vectors (B, D).
        mask: 1 on tokens, (B, T); None for pictures.
    """
    values = values.float()
    if values.ndim == 4:
        return values.mean((2, 3))
    if values.ndim == 3 and mask is not None:
        weights = mask.to(values.dtype)[:, :, None]
        return (values * weights).sum(1) / weights.sum(1).clamp_min(1)
    return values.mean(1) if values.ndim == 3 else values


@torch.no_grad()
def stage_widths(backbone: Backbone, first: int) -> dict[int, int]:
    """Numbers in the pooled output of every stage from ``first`` on that is one module, by stage.

    Args:
        backbone: The pretrained model, in eval mode.
        first: The first stage that moves.
    """
    modules = dict(backbone.model.named_modules())
    wanted = [stage for stage in range(first, len(backbone.stages)) if backbone.stages[stage].name in modules]
    inputs = probe_batch(backbone.preprocessing, next(backbone.model.parameters()).device)
    with Taps(backbone, wanted).open(inputs) as stages:
        backbone(inputs)
    return {stage: values.shape[1] for stage, values in stages.items() if values.ndim == 2}
