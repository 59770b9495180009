"""Backbone, neck and head as one module."""

from dataclasses import dataclass

import torch
from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.compute.batches import Inputs
from injerto.tasks.heads import Head


@dataclass(frozen=True)
class Outputs:
    """What a forward pass yields.

    Attributes:
        embedding: What the head sees and alignments act on, (B, D).
        logits: (B, C).
    """

    embedding: torch.Tensor
    logits: torch.Tensor


def make_neck(width_in: int, width: int) -> nn.Module:
    """A trainable projection: Linear, LayerNorm, ReLU.

    Args:
        width_in: Numbers in the backbone's embedding.
        width: Numbers it is projected to.
    """
    return nn.Sequential(nn.Linear(width_in, width), nn.LayerNorm(width), nn.ReLU())


class Model(nn.Module):
    """Backbone, neck and head.

    Attributes:
        labels: Class names, in the order of the logits.
    """

    def __init__(self, backbone: Backbone, labels: tuple[str, ...], head: str, neck: int | None) -> None:
        """Assemble; new layers draw from torch's generator, so seed it.

        Args:
            backbone: The pretrained model.
            labels: Class names.
            head: ``linear``, ``mlp``, ``probe`` or ``native`` (for the models known here a single linear layer).
            neck: Width of the neck, None for none.
        """
        super().__init__()
        self.backbone = backbone
        self.labels = labels
        self.neck = make_neck(backbone.embedding_dim, neck) if neck else nn.Identity()
        self.head = Head(neck or backbone.embedding_dim, len(labels), "mlp" if head == "mlp" else "linear")

    def forward(self, inputs: Inputs) -> Outputs:
        """Embed and classify.

        Args:
            inputs: What the backbone takes.
        """
        return self.classify(self.backbone(inputs))

    def classify(self, embedding: torch.Tensor) -> Outputs:
        """Neck and head on embeddings of the backbone, computed now or long ago.

        Args:
            embedding: (B, D).
        """
        projected = self.neck(embedding.float())
        return Outputs(projected, self.head(projected))

    def new_layers(self) -> dict[str, nn.Parameter]:
        """Parameters of neck and head by name."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("backbone.")}
