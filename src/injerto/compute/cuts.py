"""A backbone cut at a stage: what the frozen part computes, how it is kept per example, and how the rest goes on."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone
from injerto.compute.batches import Inputs
from injerto.compute.features import Features
from injerto.domains.preprocessing import ImagePreprocessing

HIDDEN = "hidden_states"


@dataclass(frozen=True)
class Cut:
    """What is computed once, below ``stage``, and what goes on from there.

    Attributes:
        stage: The first stage that goes on; the number of stages where the whole backbone is below the cut.
        prefix: Inputs to hidden states; to embeddings where the whole backbone is below.
        suffix: Hidden states to embeddings; None where there is nothing left to do.
        probe: Hidden states of two probe inputs, (2, ...); None for texts.
        shape: Shape of one example's hidden states as they are kept; for texts that of one token's.
        channels_last: Whether maps (C, H, W) are kept as (H, W, C), the layout convolutions are fast on.
        place: Where what is below the cut is kept: ``disk``, ``memory``, or ``nowhere``: it is then computed, to the
            same bits, each time that it is used.
        contiguous: Whether the suffix wants maps as (C, H, W) in memory.
    """

    stage: int
    prefix: nn.Module
    suffix: nn.Module | None
    probe: Tensor | None
    shape: tuple[int, ...]
    channels_last: bool
    place: Literal["disk", "memory", "nowhere"] = "disk"
    contiguous: bool = False

    @property
    def ragged(self) -> bool:
        """Whether an example has one row per token."""
        return self.suffix is not None and self.probe is None

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return int(np.prod(self.shape))

    def rows(self, hidden: Tensor, counts: np.ndarray | None) -> np.ndarray:
        """Hidden states as rows of the store, float32 (sum of counts, width).

        Args:
            hidden: What the prefix returned for the first examples of a batch, (n, ...).
            counts: Tokens of each text; None for pictures and embeddings.
        """
        if counts is not None:
            return torch.cat([row[:count] for row, count in zip(hidden, counts.tolist(), strict=True)]).cpu().numpy()
        if self.channels_last:
            hidden = hidden.permute(0, 2, 3, 1)
        return hidden.reshape(len(hidden), self.width).cpu().numpy()

    def batch(self, features: Features, positions: np.ndarray, device: str, length: int = 0) -> Inputs:
        """What the suffix takes, or embeddings.

        Args:
            features: Kept rows.
            positions: Which examples, (n,).
            device: Where it goes.
            length: Tokens to pad texts to; the longest's where 0.
        """
        if not self.ragged:
            return self.shaped(features[positions]).to(device)
        counts = torch.from_numpy(features.lengths(positions))
        length = length or int(counts.max())
        mask = (torch.arange(length) < counts[:, None]).long()
        return {HIDDEN: features.padded(positions, length).to(device), "attention_mask": mask.to(device)}

    def shaped(self, rows: Tensor) -> Tensor:
        """Rows of pictures in the shape that the suffix takes; nothing is copied but where it wants another layout.

        Args:
            rows: (n, width).
        """
        hidden = rows.view(len(rows), *self.shape)
        hidden = hidden.permute(0, 3, 1, 2) if self.channels_last else hidden
        return hidden.contiguous() if self.contiguous else hidden

    def embed(self, batch: Inputs) -> Tensor:
        """Embeddings (B, D).

        Args:
            batch: From :meth:`batch`.
        """
        return run_suffix(self.suffix, batch)


def run_suffix(suffix: nn.Module | None, batch: Inputs) -> Tensor:
    """Embeddings (B, D) from kept values.

    Args:
        suffix: Hidden states to embeddings; None where the values are embeddings.
        batch: From :meth:`Cut.batch`.
    """
    if suffix is None:
        assert isinstance(batch, Tensor)
        return batch
    if isinstance(batch, Tensor):
        return suffix(batch)
    return suffix(batch[HIDDEN], batch["attention_mask"])


@torch.no_grad()
def make_cut(backbone: Backbone, stage: int) -> Cut | None:
    """Cut a backbone; None where it can't be cut there.

    Args:
        backbone: The pretrained model, in eval mode.
        stage: The first stage above the cut, 1 to the number of stages (nothing is above then).
    """
    if stage >= len(backbone.stages):
        return Cut(len(backbone.stages), backbone, None, None, (backbone.embedding_dim,), False)
    halves = backbone.split(stage)
    if halves is None:
        return None
    prefix, suffix = halves
    size = backbone.preprocessing
    device = next(backbone.parameters()).device
    if isinstance(size, ImagePreprocessing):
        generator = torch.Generator().manual_seed(0)
        hidden = prefix(torch.rand(2, 3, size.height, size.width, generator=generator).to(device))
        cut = Cut(stage, prefix, suffix, hidden, tuple(hidden.shape[1:]), False)
        if hidden.ndim == 4 and any(isinstance(module, nn.Conv2d) for module in suffix.modules()):
            return replace(cut, channels_last=True, shape=tuple(hidden.permute(0, 2, 3, 1).shape[1:]))
        return cut
    ids = torch.zeros((2, 4), dtype=torch.int64, device=device)
    hidden = prefix({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    if hidden.ndim != 3 or hidden.shape[:2] != ids.shape:
        return None
    return Cut(stage, prefix, suffix, None, tuple(hidden.shape[2:]), False)
