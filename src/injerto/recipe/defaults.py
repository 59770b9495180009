"""The one table of defaults. A change here is a change of results: raise the version, and the test that pins it.

Rates were chosen on the source ``val`` split of ``noto`` (lr 1e-4 and 3e-4, head_lr 3e-4 and 1e-3, three seeds, by the
NLL: accuracies differed by less than their error), never on a test split. Those of LoRA are in
benchmarks/studies/rates.md.
"""

import math
from dataclasses import dataclass

DEFAULTS_VERSION = 3
RSLORA_ALPHA = 16
"""LoRA's alpha with ``variant=rslora`` where none is given: a constant, for alpha / sqrt(r) to suit every rank."""


@dataclass(frozen=True)
class Defaults:
    """What a recipe leaves open.

    Attributes:
        lr: Learning rate of what was pretrained.
        head_lr: Learning rate of the new layers.
        weight_decay: Decoupled weight decay; never on biases and norms.
        epochs: Passes over the source's train split.
        batch_size: Labelled source examples per step.
        least_steps: Optimizer steps that few examples are gone through again for.
        augment: Augmentation policy, ``auto`` for :func:`augmentation_for`.
        views: How many augmented versions of an example there are; 0 means a new one every epoch.
        norm: Norm policy.
    """

    lr: float
    head_lr: float
    weight_decay: float
    epochs: float
    batch_size: int
    least_steps: int
    augment: str
    views: int
    norm: str = "frozen"


TABLE: dict[tuple[str, str], Defaults] = {
    ("image", "head"): Defaults(1e-3, 1e-3, 1e-2, 30, 32, 300, "none", 1),
    ("image", "last"): Defaults(3e-4, 3e-4, 1e-2, 10, 32, 60, "auto", 4),
    ("image", "full"): Defaults(1e-4, 3e-4, 1e-2, 8, 32, 60, "auto", 0),
    ("image", "gradual"): Defaults(1e-4, 3e-4, 1e-2, 10, 32, 60, "auto", 0),
    ("image", "lora"): Defaults(1e-3, 3e-4, 1e-2, 10, 32, 60, "auto", 4),
    ("image", "bitfit"): Defaults(1e-3, 3e-4, 1e-2, 10, 32, 60, "auto", 0),
    ("image", "norm"): Defaults(1e-3, 3e-4, 1e-2, 10, 32, 60, "auto", 0),
    ("text", "head"): Defaults(1e-3, 1e-3, 1e-2, 30, 32, 300, "none", 1),
    ("text", "last"): Defaults(1e-4, 1e-3, 1e-2, 3, 32, 60, "auto", 4),
    ("text", "full"): Defaults(1e-4, 1e-3, 1e-2, 2, 32, 60, "auto", 0),
    ("text", "gradual"): Defaults(1e-4, 1e-3, 1e-2, 3, 32, 60, "auto", 0),
    ("text", "lora"): Defaults(1e-3, 1e-3, 1e-2, 3, 32, 60, "auto", 4),
    ("text", "bitfit"): Defaults(1e-3, 1e-3, 1e-2, 3, 32, 60, "auto", 0),
    ("text", "norm"): Defaults(1e-3, 1e-3, 1e-2, 3, 32, 60, "auto", 0),
    ("language", "full"): Defaults(3e-5, 3e-5, 1e-2, 1, 8, 1, "none", 0),
    ("language", "last"): Defaults(1e-4, 1e-4, 1e-2, 1, 8, 1, "none", 0),
    ("language", "lora"): Defaults(1e-3, 1e-3, 1e-2, 1, 8, 1, "none", 0),
}

RANGES: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("image", "head"): {"head_lr": (1e-4, 1e-2), "weight_decay": (1e-4, 1e-1)},
    ("image", "last"): {"lr": (3e-5, 3e-3), "head_lr": (3e-5, 3e-3), "weight_decay": (1e-4, 1e-1)},
    ("image", "full"): {"lr": (1e-5, 1e-3), "head_lr": (3e-5, 3e-3), "weight_decay": (1e-4, 1e-1)},
    ("image", "lora"): {"lr": (1e-4, 1e-2), "head_lr": (3e-5, 3e-3), "weight_decay": (1e-4, 1e-1)},
    ("text", "head"): {"head_lr": (1e-4, 1e-2), "weight_decay": (1e-4, 1e-1)},
    ("text", "last"): {"lr": (1e-5, 1e-3), "head_lr": (1e-4, 1e-2), "weight_decay": (1e-4, 1e-1)},
    ("text", "full"): {"lr": (1e-5, 1e-3), "head_lr": (1e-4, 1e-2), "weight_decay": (1e-4, 1e-1)},
    ("text", "lora"): {"lr": (1e-4, 1e-2), "head_lr": (1e-4, 1e-2), "weight_decay": (1e-4, 1e-1)},
}
"""What a search tries where it is not told: ten times less to ten times more than the table above has."""
SAME_RANGES = {"bitfit": "lora", "norm": "lora"}
"""Tunings with the ranges of another."""

SAMPLE_IMAGE_SIZE = 128
"""Pixels a side for the bundled pictures (they are 64 px drawings) where the backbone takes any size."""

BACKBONES = {
    "image": "packaged:efficientnet-lite0",
    "text": "packaged:minilm-l6",
    "language": "packaged:smollm2-135m",
}
"""What ``--backbone`` is where it is not given."""


AUGMENTATION: dict[str, tuple[tuple[float, str], ...]] = {
    "image": ((2000, "light"), (math.inf, "standard")),
    "text": ((math.inf, "none"),),
    "language": ((math.inf, "none"),),
}
"""Augmentation where the backbone moves: up to so many labelled source examples, this policy."""


def augmentation_for(modality: str, examples: int) -> str:
    """The preset for a modality and a size of data.

    Few pictures are gone through few times, and a strong policy would hide what they show; with many, variety pays.
    Dropped words rarely help a pretrained language model (Longpre et al., Findings of EMNLP 2020).

    Args:
        modality: ``image`` or ``text``.
        examples: Labelled source examples.
    """
    return next(policy for limit, policy in AUGMENTATION[modality] if examples <= limit)


def defaults_for(modality: str, tuning: str) -> Defaults:
    """The row of the table.

    Args:
        modality: ``image`` or ``text``.
        tuning: The tuning's kind; kinds without a row of their own use that of ``full``.
    """
    return TABLE.get((modality, tuning)) or TABLE[modality, "full"]


def ranges_for(modality: str, tuning: str) -> dict[str, tuple[float, float]]:
    """Fields that a search tries by default, and from where to where.

    Args:
        modality: ``image`` or ``text``.
        tuning: The tuning's kind; kinds without ranges of their own use those of ``full``.
    """
    kind = SAME_RANGES.get(tuning, tuning)
    return RANGES.get((modality, kind)) or RANGES[modality, "full"]
