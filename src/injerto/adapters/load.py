"""From a folder back to a working model, on the right base or not at all."""

import copy
import json
import sys
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from injerto.adapters.artifact import (
    load_changed,
    load_low_rank,
    put_tensors,
    read_tensors,
    shipped_names,
    whole_layers,
)
from injerto.adapters.card import load_card, read_card
from injerto.adapters.peft import load_config
from injerto.adapters.sketch import Sketch, load_sketch
from injerto.adapters.slider import Line
from injerto.adapters.snapshot import ADAPTER, CARD, CONFIG, LISTED, Place, opened
from injerto.backbones.backbone import Backbone
from injerto.backbones.identity import difference
from injerto.backbones.language import load_language
from injerto.backbones.load import load_backbone
from injerto.backbones.transformers_models import positions
from injerto.basics.errors import InjertoError, shorten
from injerto.basics.files import as_path
from injerto.basics.limits import HEAD_NUMBERS, TEXT_TOKENS
from injerto.compute.fold import settled
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.recipe.recipe import load_recipe
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model


def adapter_folder(path: Path) -> Path:
    """The adapter's own folder, from a run's folder or itself.

    Args:
        path: RUN or RUN/adapter.

    Raises:
        InjertoError: Where there is no such folder.
    """
    if not path.is_dir():
        raise InjertoError(f"no run at {path}; give the folder that 'injerto fit --out' made")
    return path / "adapter" if (path / "adapter").is_dir() else path


M = TypeVar("M", Model, LanguageModel)


@dataclass(frozen=True, eq=False)
class Loaded(Generic[M]):
    """An adapter on its base model, all of it from one reading of its folder.

    Attributes:
        model: In eval mode.
        card: The adapter's card.
        changed: Names of the network's tensors that the adapter replaces.
        line: To the pretrained model, where a classifier has a slider.
        sketch: Of inputs that nothing was learned from, where there is one.
    """

    model: M
    card: dict[str, Any]
    changed: list[str]
    line: Line | None = None
    sketch: Sketch | None = None


def load_model(path: Path, backbone: Any = None, allow_modified: bool = False) -> Loaded[Model]:
    """Open an adapter on its base model.

    Args:
        path: RUN or RUN/adapter.
        backbone: The base (spec, folder or module) where the card cannot name it on this machine.
        allow_modified: Go on where files are not as the card says.

    Raises:
        InjertoError: Where the base is not the one the adapter was made for, a file does not fit, or is not the one
            that was written with the card.
    """
    with opened(Place(path, allow_modified=allow_modified)) as files:
        card = read_card(files)
        if card["task"] != "classification":
            raise InjertoError(f"{path} is a language model's; it predicts no classes")
        base = load_base(path, backbone, card)
        read = read_tensors(files, frame(card, base), card["head"] == "native")
        sketch, changed = load_sketch(files), shipped_names(files)
    model = make_model(card, base)
    line = put_tensors(read, model)
    return Loaded(model.eval(), card, changed, line, sketch)


def read_files(path: Path) -> dict[str, bytes]:
    """An adapter's files as they were written, to be kept elsewhere.

    Args:
        path: RUN or RUN/adapter, of one's own.

    Raises:
        InjertoError: Where a file is missing, or is not the one that was written with the card.
    """
    with opened(path) as files:
        read_card(files)
        return {name: bytes(files.read(name, sys.maxsize)) for name in (CARD, *LISTED) if name in files}


def make_model(card: dict[str, Any], base: Backbone) -> Model:
    """The model that a classifier's card describes, its new layers untrained.

    Args:
        card: Checked.
        base: Its base.
    """
    neck = None if card["neck"] == "none" else int(card["neck"])
    return Model(base, tuple(card["labels"]), card["head"], neck)


def frame(card: dict[str, Any], base: Backbone) -> Model:
    """The same, its new layers without memory: for shapes to be compared with before any is taken.

    Args:
        card: Checked.
        base: Its base.

    Raises:
        InjertoError: Where they would be larger than any head that is known.
    """
    with torch.device("meta"):
        model = make_model(card, base)
    numbers = sum(part.numel() for name, part in model.named_parameters() if not name.startswith("backbone."))
    if numbers > HEAD_NUMBERS:
        raise InjertoError(
            f"the card's {len(card['labels'])} labels with neck '{card['neck']}' would take {numbers:,} numbers, more "
            f"than {HEAD_NUMBERS:,}; the adapter is not loaded"
        )
    return model


def load_language_model(path: Path, backbone: Any = None, allow_modified: bool = False) -> Loaded[LanguageModel]:
    """Open a language model's adapter on its base model.

    Args:
        path: RUN or RUN/adapter.
        backbone: The base (spec, folder or backbone) where the card cannot name it on this machine.
        allow_modified: Go on where files are not as the card says.

    Raises:
        InjertoError: As :func:`load_model`.
    """
    with opened(Place(path, allow_modified=allow_modified)) as files:
        card = read_card(files)
        if card["task"] != "causal-lm":
            raise InjertoError(f"{path} is a classifier's; it writes no text")
        base = load_base(path, backbone, card)
        base.preprocessing = _text_preprocessing(path, base, card)
        load_changed(files, base)
        changed = shipped_names(files)
    return Loaded(LanguageModel(base).eval(), card, changed)


def load_peft(path: str | PathLike[str], backbone: Any) -> Backbone:
    """A backbone with an adapter of PEFT's, ours or a stranger's, added to its weights: a base like any other.

    Nothing says which weights a stranger's adapter was made for: names and shapes are checked, the rest is trust. A
    classifier that the file holds is left out.

    Args:
        path: The folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        backbone: Its base: a name, a folder, a network or a backbone.

    Returns:
        To be given to :func:`injerto.fit` as ``backbone``.

    Raises:
        InjertoError: Where a file is missing, damaged or does not fit the backbone.
    """
    folder = as_path(path)
    if not isinstance(backbone, str | PathLike | nn.Module):
        raise InjertoError(f"backbone: a name, folder, network or backbone, not {type(backbone).__name__}")
    with opened(folder, (ADAPTER, CONFIG)) as files:
        if CONFIG not in files:
            raise InjertoError(f"{folder} has no {CONFIG}; give the folder that PEFT's save_pretrained made")
        config = load_config(files)
        if isinstance(backbone, Backbone):
            base = copy.deepcopy(backbone)
        elif config.get("task_type") == "CAUSAL_LM":
            if isinstance(backbone, nn.Module):
                raise InjertoError(
                    "backbone: a language model is given by name or folder, or as load_language returns it"
                )
            base = load_language(backbone)
        else:
            base = load_backbone(copy.deepcopy(backbone))
        load_low_rank(files, base, whole_layers(files, base, config))
    base.model = settled(base.model)
    if not all(torch.isfinite(tensor).all() for tensor in base.model.state_dict().values()):
        raise InjertoError(f"{folder}: with the adapter the base's weights are not finite; it is not loaded")
    base.spec, base.hub_id = f"peft:{folder.resolve().name}", None
    base.identify()
    return base


def load_base(path: Path, backbone: Any = None, card: dict[str, Any] | None = None) -> Backbone:
    """The plain base model of an adapter.

    Args:
        path: RUN or RUN/adapter.
        backbone: The base where the card cannot name it on this machine.
        card: The adapter's; read where not given.

    Raises:
        InjertoError: Where the base is not the one the adapter was made for.
    """
    card = load_card(adapter_folder(path)) if card is None else card
    spec = _spec(path, card, backbone)
    if card["task"] == "causal-lm":
        base = spec if isinstance(spec, Backbone) else load_language(spec)
    else:
        base = _base(path, card, spec)
    if isinstance(spec, Backbone):
        base.identify()  # it may have been trained since it was loaded
    check_base(path, card, base)
    return base


def check_base(path: Path, card: dict[str, Any], base: Backbone) -> None:
    """Refuse another base than the one an adapter was made for.

    Args:
        path: RUN or RUN/adapter.
        card: Its card.
        base: The plain base model.

    Raises:
        InjertoError: Where it has other weights, or computes something else with them.
    """
    if base.fingerprint != card["base"]["fingerprint"]:
        raise InjertoError(
            f"{path} was made for the base model {card['base']['name']} with fingerprint "
            f"{card['base']['fingerprint'][:12]}; {base.spec} has {base.fingerprint[:12]}: "
            "other weights, so it is refused"
        )
    if other := misfit(card, base):
        raise InjertoError(
            f"{path} was made for the base model {card['base']['name']}; {base.spec} has the same weights, but "
            f"{other}, so it is refused"
        )


def misfit(card: dict[str, Any], base: Backbone) -> str | None:
    """In what a base differs from the one that an adapter was made for, in words; None where it is the same.

    Args:
        card: The adapter's.
        base: A plain base model.
    """
    if base.fingerprint != card["base"]["fingerprint"]:
        return "other weights"
    return difference(card["base"].get("identity") or {}, base.identity.card(), card["responses"])


def _spec(path: Path, card: dict[str, Any], backbone: Any) -> Any:
    """The base as given, else as the card or the run's recipe names it."""
    recipe = path / "recipe.yaml" if (path / "recipe.yaml").exists() else path.parent / "recipe.yaml"
    spec = card["base"]["spec"] or (load_recipe(recipe).get("backbone") if recipe.exists() else None)
    spec = copy.deepcopy(backbone) if backbone is not None else spec  # the user's own stays as it is
    if not spec or (isinstance(spec, str) and spec.startswith("module:")):
        lost = recipe.with_name("metrics.json").exists() and not recipe.exists()
        why = f", which {recipe} named, and that is missing" if lost else ""
        raise InjertoError(
            f"{path} needs its base model {card['base']['name']}{why}; pass it with --backbone (backbone=)"
        )
    if isinstance(spec, str) and spec.startswith("peft:"):
        raise InjertoError(
            f"{path} was made on a base with an adapter of PEFT's, {spec}: open it in Python, injerto.load(RUN, "
            "backbone=injerto.load_peft(FOLDER, BASE))"
        )
    if backbone is None and isinstance(spec, str) and ":" not in spec and not Path(spec).exists():
        raise InjertoError(f"{path}: its base model was at {spec}, where nothing is now; say where with --backbone")
    return spec


def preprocessing_of(path: Path, base: Backbone, card: dict[str, Any]) -> ImagePreprocessing | TextPreprocessing:
    """How an adapter's inputs are prepared.

    Args:
        path: RUN or RUN/adapter.
        base: The plain base model.
        card: The adapter's.

    Raises:
        InjertoError: Where the card is damaged, or the base cannot take such inputs.
    """
    own = base.preprocessing
    if isinstance(own, TextPreprocessing):
        return _text_preprocessing(path, base, card)
    if card["preprocessing"] == json.loads(json.dumps(own.card())):
        return own
    size = _image_preprocessing(path, card["preprocessing"])
    if (size.height, size.width) != (own.height, own.width) and not base.any_size:
        raise InjertoError(f"{path} takes pictures of {size.height} px, {base.spec} as loaded of {own.height} px")
    return size


def _base(path: Path, card: dict[str, Any], spec: Any) -> Backbone:
    base = spec if isinstance(spec, Backbone) else load_backbone(spec)
    wanted = card["preprocessing"]
    takes = wanted.get("modality")
    if takes in ("image", "text") and takes != base.modality:
        raise InjertoError(f"{path} takes {takes}s, and the base {base.spec} takes {base.modality}s; name its own base")
    if isinstance(base.preprocessing, TextPreprocessing):
        base.preprocessing = _text_preprocessing(path, base, card)
        return base
    if wanted == json.loads(json.dumps(base.preprocessing.card())) or not isinstance(
        base.preprocessing, ImagePreprocessing
    ):
        return base
    size = _image_preprocessing(path, wanted)
    other = (size.height, size.width) != (base.preprocessing.height, base.preprocessing.width)
    if other and not base.any_size and not isinstance(spec, Backbone):
        base = load_backbone(spec, image_size=size.height)
    base.preprocessing = size
    return base


def _text_preprocessing(path: Path, base: Backbone, card: dict[str, Any]) -> TextPreprocessing:
    """The base's own tokenizer with the length that an adapter was trained with."""
    size, length = base.preprocessing, card["preprocessing"].get("max_length")
    fits = type(length) is int and 2 <= length <= min(TEXT_TOKENS, positions(base.model))
    if not isinstance(size, TextPreprocessing) or not fits:
        raise InjertoError(f"{path}: the card's preprocessing is damaged, or another kind of model's")
    return replace(size, max_length=length)


def _image_preprocessing(path: Path, card: dict[str, Any]) -> ImagePreprocessing:
    """The preprocessing an adapter was trained with, every number checked."""
    try:
        return ImagePreprocessing(
            height=int(card["height"]),
            width=int(card["width"]),
            mean=_three(card["mean"]),
            std=_three(card["std"]),
            interpolation=str(card["interpolation"]),
            crop=float(card["crop"]),
            squash=bool(card["squash"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InjertoError(f"{path}: the card's preprocessing is damaged ({shorten(str(error), 200)})") from None


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
