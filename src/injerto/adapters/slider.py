"""Between the pretrained model and the tuned one: weights interpolated along a straight line."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from injerto.basics.errors import InjertoError
from injerto.tasks.model import Model
from injerto.tuning.lora.tuning import low_rank_layers


@dataclass(frozen=True)
class Line:
    """The straight line from the pretrained backbone with its probe (0) to the tuned model (1).

    Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, section 3, eq. 1.

    Attributes:
        base: Tensors of the pretrained network that tuning changed, by name; low-rank layers have a strength instead.
        tuned: The same of the tuned network.
        base_head: Weight (C, D) and bias (C,) of the probe on the pretrained embeddings.
        tuned_head: Of the trained head, its standardization folded in.
    """

    base: dict[str, Tensor]
    tuned: dict[str, Tensor]
    base_head: tuple[Tensor, Tensor]
    tuned_head: tuple[Tensor, Tensor]

    @torch.no_grad()
    def move(self, model: Model, t: float) -> None:
        """Put the model at a point of the line.

        Args:
            model: Changed in place.
            t: 0 for the pretrained backbone with the probe, 1 for the tuned model.

        Raises:
            InjertoError: Where t is outside 0..1.
        """
        set_strength(model.backbone.model, t)
        state = model.backbone.model.state_dict()
        for name, tuned in self.tuned.items():
            state[name].copy_(tuned if t == 1 else torch.lerp(self.base[name], tuned, t))
        for tensor, base, tuned in zip(linear(model).parameters(), self.base_head, self.tuned_head, strict=True):
            tensor.copy_(tuned if t == 1 else torch.lerp(base, tuned, t))


def set_strength(network: nn.Module, t: float) -> bool:
    """Set the strength of all low-rank layers.

    Args:
        network: Changed in place.
        t: 0 for the pretrained weights, 1 for the tuned ones.

    Returns:
        Whether there are any.

    Raises:
        InjertoError: Where t is outside 0..1.
    """
    if not 0 <= t <= 1:
        raise InjertoError(f"the slider runs from 0 (pretrained) to 1 (tuned), not {t}")
    layers = list(low_rank_layers(network))
    for _, layer in layers:
        layer.strength = float(t)
    return bool(layers)


def linear(model: Model) -> nn.Linear:
    """The one linear layer of a linear head.

    Args:
        model: With a linear head.
    """
    layer = model.head.layers[0]
    assert isinstance(layer, nn.Linear) and len(model.head.layers) == 1
    return layer
