"""A new backbone: a plain network, and a kind of names (``mine:...``) that loads it."""

import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError
from injerto.domains.preprocessing import ImagePreprocessing

WIDTHS = {"small": 16, "wide": 32}


class Net(nn.Module):
    """Pictures (B, 3, H, W) in, embeddings (B, D) out. Stages are found by themselves: the stem and each block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(3)
        )

    def forward(self, images: Tensor) -> Tensor:
        values = self.stem(images)
        for block in self.blocks:
            values = block(values)
        return values.mean((2, 3))


def load(name: str, image_size: int | None) -> Backbone:
    """What the entry point names: ``mine:small`` calls ``load("small", None)``."""
    if name not in WIDTHS:
        raise InjertoError(f"unknown backbone 'mine:{name}'; choose {' or '.join(WIDTHS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net(WIDTHS[name])  # here yours reads its weights: the same at every call, or adapters are refused
    side = image_size or 32
    looks = ImagePreprocessing(side, side, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    backbone = load_backbone(net, preprocessing=looks)
    backbone.spec = f"mine:{name}"  # what messages and a run's recipe call it
    return backbone
