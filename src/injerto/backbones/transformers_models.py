"""transformers networks, text and vision: by name from the hub or its cache, or from a local folder."""

import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.backbones.hub import check_layers, reading
from injerto.backbones.pooling import TextEmbed, VisionEmbed
from injerto.backbones.probing import embedding_rows
from injerto.basics.errors import InjertoError
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing

LONGEST = 512


def load_transformers(
    name: str, *, spec: str, image_size: int | None, hub_id: str | None = None, licence: str | None = None
) -> Backbone:
    """Load a transformers encoder without its head. Code that comes with a model is never run.

    Args:
        name: A hub name or a folder.
        spec: What the user named.
        image_size: Side of the input in pixels, for vision; None for the model's own.
        hub_id: The model's name on the hub where ``name`` is a folder.
        licence: The weights' licence where it is known already.

    Returns:
        The backbone.

    Raises:
        InjertoError: Where the model is not to be had or is no encoder of pictures or texts.
    """
    local = Path(name).is_dir()
    hub_id = hub_id or (None if local else name)
    with reading(spec), quiet():
        model, embed, preprocessing, tokens = _read(name, spec, image_size, hub_id)
        licence = licence or licence_of(name)
    return Backbone(
        model,
        embed,
        spec=spec,
        library="transformers",
        preprocessing=preprocessing,
        hub_id=hub_id,
        licence=licence,
        fixed_size=tokens,
    )


def _read(
    name: str, spec: str, image_size: int | None, hub_id: str | None
) -> tuple[nn.Module, TextEmbed | VisionEmbed, ImagePreprocessing | TextPreprocessing, bool]:
    """Network, embedding function, preprocessing, and whether the network has one input size of its own."""
    from transformers import MODEL_MAPPING, AutoConfig

    folder = _transformer_folder(name)
    config = AutoConfig.from_pretrained(name, subfolder=folder, trust_remote_code=False)
    check_layers(config.to_dict(), spec)
    _check_kind(config, spec)
    kind: Any = MODEL_MAPPING.get(type(config), None)
    if kind is None:
        raise InjertoError(f"{spec}: transformers has no plain encoder for '{config.model_type}'; choose another")
    kind = kind[0] if isinstance(kind, tuple) else kind
    poolable = "add_pooling_layer" in inspect.signature(kind).parameters
    if kind.main_input_name == "input_ids":
        if image_size:
            raise InjertoError(
                f"{spec} takes texts: for pictures choose another --backbone, for texts leave out --image-size"
            )
        embed = TextEmbed(_pooling_modes(name, spec) or (("lasttoken",) if is_causal(config) else ("mean",)))
        model, _ = _weights(name, folder, spec, **({"add_pooling_layer": False} if poolable else {}))
        return model, embed, _text_preprocessing(name, folder, model, hub_id), False
    if kind.main_input_name != "pixel_values":
        raise InjertoError(f"{spec} reads {kind.main_input_name}; choose a backbone for pictures or texts")
    model, missing = _weights(name, folder, spec)
    if missing and poolable:
        model, _ = _weights(name, folder, spec, add_pooling_layer=False)
    with reading(spec):
        preprocessing = vision_preprocessing(name, config, image_size)
    vision, tokens = vision_embed(model, preprocessing, spec, pooler=not missing)
    return model, vision, preprocessing, tokens


def is_causal(config: Any) -> bool:
    """Whether a token of a text network sees only the tokens before it, so that the last one alone sees the text.

    Args:
        config: The network's configuration.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    kind = config.model_type
    return bool(getattr(config, "is_decoder", False)) or (kind in CAUSAL and kind not in MASKED)


def _check_kind(config: Any, spec: str) -> None:
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise InjertoError(f"{spec} is an encoder-decoder ({kind}); choose an encoder, such as hf:bert-base-uncased")
    if hasattr(config, "text_config") and hasattr(config, "vision_config"):
        raise InjertoError(f"{spec} has a text and a picture tower ({kind}); choose a model of one kind, as timm:NAME")
    if kind == "timm_wrapper":
        raise InjertoError(f"{spec} is a timm model; write timm:{spec.removeprefix('hf:').removeprefix('timm/')}")


def _weights(name: str, folder: str, spec: str, **options: Any) -> tuple[nn.Module, list[str]]:
    """The network in float32 and the pooler weights that its checkpoint lacks; safetensors first, no pickled code."""
    from transformers import AutoModel

    options |= {"subfolder": folder, "dtype": torch.float32, "trust_remote_code": False, "output_loading_info": True}
    try:
        model, info = AutoModel.from_pretrained(name, use_safetensors=True, **options)
    except OSError:
        try:
            model, info = AutoModel.from_pretrained(name, use_safetensors=False, weights_only=True, **options)
        except OSError as error:
            if not Path(name).is_dir():
                raise
            raise InjertoError(f"{spec} has no model.safetensors; save it with save_pretrained") from error
    missing = sorted(info["missing_keys"])
    pooler = [key for key in missing if "pooler" in key.split(".")]
    lost = [key for key in missing if key not in pooler and not key.endswith("mask_token")]
    if lost:
        raise InjertoError(f"{spec} lacks {len(lost)} of its weights, as {lost[0]}; is the checkpoint another model's?")
    return model, pooler


def _read_json(name: str, file: str) -> Any:
    """A JSON file of the model, or None where there is none."""
    from transformers.utils import cached_file

    path = cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else None


def _modules(name: str) -> list[dict[str, Any]]:
    return _read_json(name, "modules.json") or []


def _transformer_folder(name: str) -> str:
    """Where sentence-transformers keeps the network itself; older models have it in ``0_Transformer``."""
    return next((m["path"] for m in _modules(name) if m["type"].rpartition(".")[2] == "Transformer"), "")


def _pooling_modes(name: str, spec: str) -> tuple[str, ...]:
    """The model's own sentence-transformers pooling; empty where it has none."""
    from injerto.backbones.pooling import pooling_modes

    modules = _modules(name)
    kinds = [m["type"].rpartition(".")[2] for m in modules]
    others = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if others:
        raise InjertoError(f"{spec} has a {others[0]} layer behind its pooling, which is not supported; choose another")
    if "Pooling" not in kinds:
        return ()
    config = _read_json(name, os.path.join(modules[kinds.index("Pooling")]["path"], "config.json")) or {}
    return pooling_modes(config, spec)


def _text_preprocessing(name: str, folder: str, model: nn.Module, hub_id: str | None) -> TextPreprocessing:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, subfolder=folder, trust_remote_code=False)
    own = (_read_json(name, os.path.join(folder, "sentence_bert_config.json")) or {}).get("max_seq_length")
    length = min(own or min(tokenizer.model_max_length, LONGEST), positions(model))
    called = hub_id or Path(name).resolve().name
    return TextPreprocessing(tokenizer, int(length), called, rows=embedding_rows(model))


def positions(model: nn.Module) -> float:
    """The longest text that a network has positions for; infinite without a limit.

    RoBERTa counts positions from its padding index on, so that the first ones are never used; such a table has a
    ``padding_idx``.

    Args:
        model: A transformers network.
    """
    config: Any = model.config
    limit = getattr(config, "max_position_embeddings", None)
    if not limit or limit < 0:
        return float("inf")
    for path, module in model.named_modules():
        if (
            isinstance(module, nn.Embedding)
            and module.padding_idx is not None
            and "position" in path.rpartition(".")[2]
        ):
            return limit - module.padding_idx - 1
    return limit


def vision_preprocessing(name: str, config: Any, image_size: int | None) -> ImagePreprocessing:
    """How a vision network wants its pictures, from its ``preprocessor_config.json``.

    Args:
        name: A hub name or a folder.
        config: The network's configuration; its ``image_size`` counts where there is no such file.
        image_size: Side of the input in pixels; None for the model's own.
    """
    from transformers import AutoImageProcessor

    if _read_json(name, "preprocessor_config.json") is None:
        return default_preprocessing(config, image_size)
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    size, cut = processor.size, processor.crop_size if processor.do_center_crop else None
    edge, crop = size.shortest_edge, 1.0
    squash = edge is None
    if cut:
        height, width = cut.height, cut.width
        crop = min(1.0, min(height, width) / (edge or min(size.height, size.width)))
    elif edge:
        height = width = edge
        # ConvNeXT alone has crop_pct: small pictures are cut, large ones squashed. The others' batches need one shape.
        cuts = getattr(processor, "crop_pct", None) and edge < 384
        crop, squash = (processor.crop_pct, False) if cuts else (1.0, True)
    else:
        height, width = size.height, size.width
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    return ImagePreprocessing(
        height=image_size or height,
        width=image_size or width,
        mean=(mean[0] / scale, mean[1] / scale, mean[2] / scale),
        std=(std[0] / scale, std[1] / scale, std[2] / scale),
        interpolation=Image.Resampling(int(processor.resample)).name.lower(),
        crop=crop,
        squash=squash,
    )


def default_preprocessing(config: Any, image_size: int | None) -> ImagePreprocessing:
    """ImageNet's mean and standard deviation, at the size that the configuration names, else 224.

    Args:
        config: A configuration, or None.
        image_size: Side of the input in pixels; None for the model's own.
    """
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    own = getattr(config, "image_size", None) or 224
    height, width = (own, own) if isinstance(own, int) else tuple(own)
    return ImagePreprocessing(image_size or height, image_size or width, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def vision_embed(
    model: nn.Module, preprocessing: ImagePreprocessing, spec: str, pooler: bool
) -> tuple[VisionEmbed, bool]:
    """How a vision network's output becomes an embedding, found by a probe.

    Args:
        model: A transformers network for pictures.
        preprocessing: What it expects.
        spec: Its name, for the message.
        pooler: Whether its own pooler has its weights.

    Returns:
        The embedding function, and True where the network yields tokens and so has one input size of its own.

    Raises:
        InjertoError: Where the network does not run at this size or yields nothing of the kind.
    """
    images = torch.zeros(1, 3, preprocessing.height, preprocessing.width)
    interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    for options in [{}, {"interpolate_pos_encoding": True}] if interpolates else [{}]:
        try:
            with torch.no_grad():
                output = model.eval()(pixel_values=images, **options)
            break
        except Exception:
            continue
    else:
        size = f"{preprocessing.height}x{preprocessing.width}"
        raise InjertoError(f"{spec} does not take pictures of {size} px; leave out the image size")
    hidden = output.last_hidden_state
    tokens = hidden.ndim == 3
    if pooler and getattr(output, "pooler_output", None) is not None:
        kind = "pooler"
    elif tokens:
        kind = "cls" if any("cls_token" in key for key, _ in model.named_parameters()) else "mean"
    else:
        kind = "map"
    return VisionEmbed(kind, options), tokens


def licence_of(name: str) -> str | None:
    """The licence in the head of the model's README, if any."""
    import re

    from transformers.utils import cached_file

    path = cached_file(
        name,
        "README.md",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if not path:
        return None
    head = re.match(r"---\s*\n(.*?)\n---", Path(path).read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' tables of unused weights and bars off the screen."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
