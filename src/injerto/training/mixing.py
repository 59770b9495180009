"""Augmentations that mix examples: mixup on the labelled ones, MixStyle inside the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from injerto.backbones.backbone import Backbone
from injerto.compute.batches import Inputs

MIXUP_ALPHA = 0.2
STYLE_ALPHA, STYLE_CHANCE = 0.1, 0.5
STYLE_STAGES = (1, 2)
"""Stages after which styles are mixed: the first two above the stem (Zhou et al. 2021, section 3.1)."""


def mixup(inputs: Inputs, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Labelled examples as mixtures of two (Zhang et al., ICLR 2018, eq. 1), over all sources.

    Args:
        inputs: Pictures, or what frozen stages made of the inputs: float (B, ...).
        labels: Class indices (B,), -1 where there is none.
        classes: Number of classes.

    Returns:
        The inputs with labelled examples mixed, and labels as weights (B, C), 0 where there is none.
    """
    assert isinstance(inputs, Tensor)
    rows = torch.nonzero(labels >= 0).flatten()
    soft = torch.zeros((len(labels), classes), device=labels.device)
    if not len(rows):
        return inputs, soft
    share = torch.distributions.Beta(MIXUP_ALPHA, MIXUP_ALPHA).sample((len(rows),)).to(inputs.device)
    other = rows[torch.randperm(len(rows), device=rows.device)]
    wide = share.view(-1, *[1] * (inputs.ndim - 1))
    mixed = inputs.clone()
    mixed[rows] = wide * inputs[rows] + (1 - wide) * inputs[other]
    own = functional.one_hot(labels[rows], classes), functional.one_hot(labels[other], classes)
    soft[rows] = share[:, None] * own[0] + (1 - share[:, None]) * own[1]
    return mixed, soft


class MixStyle:
    """Mixes channel means and deviations of feature maps between domains (Zhou et al., ICLR 2021, eq. 3-6)."""

    def __init__(self, backbone: Backbone) -> None:
        """Find the stages.

        Args:
            backbone: A convolutional network.
        """
        names = [backbone.stages[index].name for index in STYLE_STAGES if index < len(backbone.stages)]
        self.modules = [backbone.model.get_submodule(name) for name in names]

    @contextmanager
    def mixing(self, domain: Tensor) -> Iterator[None]:
        """Inside, feature maps of a training step are mixed.

        Args:
            domain: Index of each example's domain, (B,).
        """

        def mix(module: nn.Module, args: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or output.ndim != 4 or float(torch.rand(())) >= STYLE_CHANCE:
                return None
            return mix_styles(output, domain)

        handles = [module.register_forward_hook(mix) for module in self.modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def mix_styles(maps: Tensor, domain: Tensor) -> Tensor:
    """Feature maps with the statistics of a mixture of themselves and others, of another domain where there is one.

    Args:
        maps: (B, C, H, W).
        domain: Index of each example's domain, (B,).
    """
    mean = maps.mean((2, 3), keepdim=True)
    deviation = (maps.var((2, 3), keepdim=True, correction=0) + 1e-6).sqrt()
    plain = (maps - mean.detach()) / deviation.detach()
    foreign = (domain[:, None] != domain[None, :]).float()
    chances = torch.where(foreign.sum(1, keepdim=True) > 0, foreign, torch.ones_like(foreign))
    other = torch.multinomial(chances, 1).flatten()
    share = torch.distributions.Beta(STYLE_ALPHA, STYLE_ALPHA).sample((len(maps), 1, 1, 1)).to(maps.device, maps.dtype)
    mean, deviation = mean.detach(), deviation.detach()
    mixed = share * mean + (1 - share) * mean[other], share * deviation + (1 - share) * deviation[other]
    return plain * mixed[1] + mixed[0]


def has_maps(backbone: Backbone) -> bool:
    """Whether the network's early stages yield feature maps whose style can be mixed.

    Args:
        backbone: The pretrained model.
    """
    if backbone.modality != "image" or len(backbone.stages) <= STYLE_STAGES[0]:
        return False
    first = backbone.model.get_submodule(backbone.stages[STYLE_STAGES[0]].name)
    return any(isinstance(module, nn.Conv2d) for module in first.modules())
