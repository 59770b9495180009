"""Which spec is which model: the one way to a backbone."""

import copy
import json
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone, pool
from injerto.backbones.packaged import ENCODERS, load_packaged
from injerto.backbones.probing import check_weights
from injerto.backbones.timm_models import embed as timm_embed
from injerto.backbones.timm_models import image_preprocessing, load_timm, pretrained_cfg
from injerto.backbones.transformers_models import default_preprocessing, is_causal, load_transformers, vision_embed
from injerto.basics.errors import InjertoError, suggest
from injerto.basics.plugins import load_plugin, plugins
from injerto.basics.progress import note
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing

GROUP = "injerto.backbones"
"""Entry points by which other packages bring backbones: ``prefix:NAME``."""


def load_backbone(
    spec: str | PathLike[str] | nn.Module,
    *,
    image_size: int | None = None,
    preprocessing: ImagePreprocessing | TextPreprocessing | None = None,
) -> Backbone:
    """Load a pretrained network behind the one interface, in eval mode and float32. The random state is left alone.

    Args:
        spec: ``packaged:minilm-l6``, ``timm:resnet18.a1_in1k``, ``hf:bert-base-uncased``, a folder saved by timm or
            transformers (bare, or behind its prefix), or a network: a timm or transformers model, or any module that
            takes pictures and returns (B, D) or (B, C, H, W).
        image_size: Side of the input in pixels; None for the model's own. A network with positions is rebuilt for it.
        preprocessing: For a network given as an object: how its inputs are prepared. Needed for texts; a picture
            network without one is read from its ``pretrained_cfg``, else 224 px with ImageNet's normalization.

    Returns:
        The backbone.

    Raises:
        InjertoError: For an unknown name, a missing package, weights that are not to be had, or a size refused.
    """
    if image_size is not None and image_size < 1:
        raise InjertoError(f"the image size must be at least 1 px, not {image_size}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(spec, nn.Module):
            return _load_module(spec, image_size, preprocessing)
        if preprocessing is not None:
            raise InjertoError(f"{spec} brings its own preprocessing; give one only with a network object")
        return _load_named(fspath(spec), image_size)


def _load_named(spec: str, image_size: int | None) -> Backbone:
    prefix, colon, name = spec.partition(":")
    if colon and (load := _registered(prefix)):
        return load(name, image_size)
    if not colon or prefix not in ("packaged", "timm", "hf"):
        folder = Path(spec).expanduser()
        if folder.is_dir():
            return _load_folder(folder, spec, image_size)
        raise _unknown(spec)
    if not name:
        raise InjertoError(f"'{spec}' names no model; write for example packaged:efficientnet-lite0")
    if prefix == "packaged":
        return load_packaged(name, image_size)
    path = Path(name).expanduser()
    if path.is_dir():
        name = str(path)
        _check_folder(path, spec, "architecture" if prefix == "timm" else "model_type")
    elif _is_path(name):
        raise InjertoError(f"no folder {name} ({spec})")
    if prefix == "timm":
        return load_timm(name, spec=spec, image_size=image_size)
    return load_transformers(name, spec=spec, image_size=image_size)


def _registered(prefix: str) -> Callable[[str, int | None], Backbone] | None:
    """What another package registered for ``prefix:NAME`` by an entry point of :data:`GROUP`."""
    if prefix in ("packaged", "timm", "hf") or prefix not in plugins(GROUP):
        return None
    load: Callable[[str, int | None], Backbone] = load_plugin(GROUP, prefix)
    return load


def _load_folder(folder: Path, spec: str, image_size: int | None) -> Backbone:
    config = _read_config(folder, spec)
    if "architecture" in config or "pretrained_cfg" in config:
        return load_timm(str(folder), spec=spec, image_size=image_size)
    if "model_type" in config:
        return load_transformers(str(folder), spec=spec, image_size=image_size)
    raise InjertoError(f"{folder}/config.json is neither timm's (architecture) nor transformers' (model_type)")


def _read_config(folder: Path, spec: str) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        inner = folder / "0_Transformer" / "config.json"  # older sentence-transformers folders
        if inner.is_file() and (folder / "modules.json").is_file():
            return _read_config(inner.parent, spec)
        raise InjertoError(f"{spec} is a folder without config.json; a model saved by timm or transformers has one")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InjertoError(f"{folder}/config.json is no valid JSON; save the model again") from error
    return config if isinstance(config, dict) else {}


def _check_folder(folder: Path, spec: str, key: str) -> None:
    config = _read_config(folder, spec)
    if key not in config:
        other = "hf" if key == "architecture" else "timm"
        raise InjertoError(f"{folder}/config.json has no '{key}'; is it {other}:{folder}?")


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~", ".\\")) or name.count("/") > 1


def _unknown(spec: str) -> InjertoError:
    prefix, colon, name = spec.partition(":")
    known = [f"packaged:{entry}" for entry in ENCODERS]
    if _is_path(spec):
        return InjertoError(f"no folder {spec}; {suggest(spec, known)}, or timm:NAME, hf:NAME")
    if colon:
        kinds = f"{suggest(spec, known)}, or timm:NAME, hf:NAME"
        return InjertoError(f"unknown kind of backbone '{prefix}' in '{spec}'; {kinds}")
    if spec in ENCODERS:
        return InjertoError(f"backbone '{spec}' needs its prefix: write packaged:{spec}")
    import timm

    models = timm.list_models()
    if spec.partition(".")[0] in models or spec.startswith("timm/"):
        return InjertoError(f"backbone '{spec}' needs its prefix: write timm:{spec.removeprefix('timm/')}")
    hint = suggest(spec, known)
    there = "nothing is at this path; " if "/" in spec else ""
    kinds = f"a Hugging Face model is hf:{spec}, a timm model timm:NAME"
    return InjertoError(f"unknown backbone '{spec}': {there}{kinds}; {hint}")


def _load_module(
    model: nn.Module, image_size: int | None, preprocessing: ImagePreprocessing | TextPreprocessing | None
) -> Backbone:
    inner = getattr(model, "_orig_mod", model)  # torch.compile keeps the network here
    spec = f"module:{type(inner).__name__}"
    if inner is not model:
        note(f"{spec}: the network itself is used, not what torch.compile made of it")
    model = inner
    check_weights(model, spec)
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in model.state_dict().values()):
        note(f"{spec}: a copy of the network in float32 is used; its weights are of half precision")
        model = copy.deepcopy(model).float()
    model.eval()
    if hasattr(model, "config") and hasattr(model, "get_input_embeddings"):
        return _load_transformers_module(model, spec, image_size, preprocessing)
    if isinstance(preprocessing, TextPreprocessing):
        raise InjertoError(f"{spec}: a text network must be a transformers model (config, get_input_embeddings)")
    if hasattr(model, "forward_features") and hasattr(model, "forward_head") and hasattr(model, "pretrained_cfg"):
        return Backbone(
            model,
            timm_embed,
            spec=spec,
            library="timm",
            preprocessing=preprocessing or image_preprocessing(model, image_size),
        )
    if preprocessing is None:
        known = pretrained_cfg(model)
        preprocessing = image_preprocessing(model, image_size) if known else default_preprocessing(None, image_size)

    def embed(network: nn.Module, images: Tensor) -> Tensor:
        return pool(network(images), spec)

    return Backbone(model, embed, spec=spec, library="torch", preprocessing=preprocessing)


def _load_transformers_module(
    model: nn.Module, spec: str, image_size: int | None, preprocessing: ImagePreprocessing | TextPreprocessing | None
) -> Backbone:
    from injerto.backbones.pooling import TextEmbed

    if getattr(model, "main_input_name", "input_ids") == "pixel_values":
        if preprocessing is None:
            preprocessing = default_preprocessing(model.config, image_size)
        if isinstance(preprocessing, TextPreprocessing):
            raise InjertoError(f"{spec} takes pictures, not texts; give an ImagePreprocessing")
        vision, tokens = vision_embed(model, preprocessing, spec, pooler=True)
        return Backbone(
            model, vision, spec=spec, library="transformers", preprocessing=preprocessing, fixed_size=tokens
        )
    if not isinstance(preprocessing, TextPreprocessing):
        raise InjertoError(f"{spec} takes texts; give preprocessing=TextPreprocessing(tokenizer, max_length, name)")
    embed = TextEmbed(("lasttoken",) if is_causal(model.config) else ("mean",))
    return Backbone(model, embed, spec=spec, library="transformers", preprocessing=preprocessing)
