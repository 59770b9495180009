"""Backbone, neck and head as one module."""

from dataclasses import dataclass

import torch
from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.compute.batches import Inputs
from injerto.tasks.heads import Head, Neck, Standardized


@dataclass(frozen=True)
class Outputs:
    """What a forward pass yields.

    Attributes:
        embedding: What the head's layers see and alignments act on: after the neck, standardized, (B, D).
        logits: (B, C).
    """

    embedding: torch.Tensor
    logits: torch.Tensor


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
        self.neck = Neck(backbone.embedding_dim, neck) if neck else nn.Identity()
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
        seen = self.head.standardized(self.neck(embedding.float()))
        return Outputs(seen, self.head.layers(seen))

    def standardize(self, embeddings: torch.Tensor, moving: bool) -> None:
        """Estimate the standardization of whatever sees the backbone's embedding: the neck, or else the head.

        Args:
            embeddings: Embeddings of source train examples, float32 (n, D).
            moving: Whether training will change the embeddings.
        """
        first = self.neck if isinstance(self.neck, Standardized) else self.head
        first.standardize(embeddings, moving)

    def fold(self) -> None:
        """Put the standardization into the layers, so that what ships needs none."""
        for module in (self.neck, self.head):
            if isinstance(module, Standardized):
                module.fold()

    def new_layers(self) -> dict[str, nn.Parameter]:
        """Parameters of neck and head by name."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("backbone.")}
