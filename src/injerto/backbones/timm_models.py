"""timm networks: by name from the hub or its cache, or from a local folder."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone
from injerto.backbones.heads import common_path, head_keys
from injerto.backbones.hub import check_layers, reading
from injerto.basics.errors import InjertoError, suggest
from injerto.domains.preprocessing import ImagePreprocessing

WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
"""Endings of files of weights."""


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """What the network feeds its classifier.

    Args:
        model: A timm network.
        images: (B, 3, H, W), normalized.

    Returns:
        (B, D).
    """
    forward_features: Any = model.forward_features
    forward_head: Any = model.forward_head
    return forward_head(forward_features(images), pre_logits=True)


def image_preprocessing(model: nn.Module, image_size: int | None = None) -> ImagePreprocessing:
    """How a timm network wants its pictures.

    Args:
        model: The network.
        image_size: Side of the input in pixels; None for the model's own size.

    Raises:
        ValueError: Where the network's configuration is damaged; others where it lacks what is needed.
    """
    from timm.data import resolve_data_config

    config = resolve_data_config(pretrained_cfg=pretrained_cfg(model))
    _, height, width = config["input_size"]
    return ImagePreprocessing(
        height=image_size or height,
        width=image_size or width,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop=float(config["crop_pct"]),
        squash=config["crop_mode"] == "squash",
    )


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """The facts that a network carries about its pretraining, timm's ``pretrained_cfg`` or ``default_cfg``.

    Args:
        model: Any network.

    Returns:
        The facts; empty where it carries none.
    """
    cfg = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    return dict(cfg) if isinstance(cfg, dict) else {}


def load_timm(name: str, *, spec: str, image_size: int | None) -> Backbone:
    """Load a pretrained timm network without its classifier.

    Args:
        name: An architecture, with a tag or without (``resnet18.a1_in1k``), a hub's ``owner/name``, or a folder.
        spec: What the user named.
        image_size: Side of the input in pixels; None for the model's own. A network with positions is rebuilt for it.

    Returns:
        The backbone.

    Raises:
        InjertoError: For an unknown name, weights that are not to be had, or a size the network can't take.
    """
    import timm

    local = Path(name).is_dir()
    source = f"local-dir:{name}" if local else f"hf-hub:{name}" if "/" in name else name
    if source == name:
        _check_name(name, spec)
    if local:
        _check_size(source, Path(name), spec)
    model = _create(source, spec, pretrained=True, num_classes=0)
    channels = model.pretrained_cfg.get("input_size", (3,))[0]
    if channels != 3:
        raise InjertoError(f"{spec} takes {channels} channels; choose a backbone for 3-channel pictures")
    with reading(spec):
        preprocessing = image_preprocessing(model, image_size)
    if image_size and not _takes(model, image_size):
        try:
            model = timm.create_model(source, pretrained=True, num_classes=0, img_size=image_size)
        except Exception as error:
            own = image_preprocessing(model).height
            cure = f"leave out the image size (its own is {own})"
            raise InjertoError(f"{spec} can't be built for {image_size} px; {cure}") from error
    cfg = model.pretrained_cfg
    with torch.device("meta"):
        full = timm.create_model(source, pretrained=False, num_classes=2)
    native_head = common_path(head_keys(full.state_dict(), model.state_dict()))
    classifier = native_head if cfg.get("num_classes") else None

    def load_head() -> nn.Module | None:
        return _create(source, spec, pretrained=True).get_submodule(classifier) if classifier else None

    return Backbone(
        model,
        embed,
        spec=spec,
        library="timm",
        preprocessing=preprocessing,
        hub_id=None if local else (name if "/" in name else cfg.get("hf_hub_id")),
        licence=cfg.get("license"),
        native_head=native_head,
        load_head=load_head,
    )


def _check_name(name: str, spec: str) -> None:
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        close = get_close_matches(architecture, known, n=5) or known[:5]
        raise InjertoError(f"unknown backbone '{spec}'; close to it: {', '.join(close)} (all: timm.list_models())")
    names = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in names:
        raise InjertoError(f"unknown weights '{tag}' of timm:{architecture}; {suggest(name, names)}")
    if not names and not timm.is_model_pretrained(architecture):
        raise InjertoError(f"timm has no pretrained weights for '{architecture}'; choose one of timm.list_pretrained()")


def _check_size(source: str, folder: Path, spec: str) -> None:
    """Refuse a folder whose configuration asks for a larger network than its weights can fill, before it is made."""
    import timm

    with reading(spec), torch.device("meta"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        check_layers(config.get("model_args") or {}, spec)
        empty = timm.create_model(source, pretrained=False, num_classes=0)
    numbers = sum(tensor.numel() for tensor in empty.state_dict().values())
    held = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in WEIGHTS)
    if numbers > held:
        size = f"its configuration asks for {numbers:,} numbers, its weights have {held:,} bytes"
        raise InjertoError(f"cannot load {spec}: {size}")


def _create(source: str, spec: str, **options: Any) -> Any:
    import timm

    with reading(spec):
        return timm.create_model(source, **options)


def _takes(model: nn.Module, size: int) -> bool:
    try:
        with torch.no_grad():
            return embed(model.eval(), torch.zeros(1, 3, size, size)).ndim == 2
    except Exception:
        return False
