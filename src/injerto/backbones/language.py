"""Causal language models behind the same interface; their embedding is the mean of the last hidden states."""

import contextlib
import io
from importlib.metadata import version
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone
from injerto.backbones.hub import check_layers, reading
from injerto.backbones.packaged import PACKAGED, locate
from injerto.backbones.probing import embedding_rows
from injerto.backbones.transformers_models import licence_of, positions, quiet
from injerto.basics.errors import InjertoError
from injerto.basics.files import cache_root, file_sha256, sha256
from injerto.basics.manifest import FILES, make_kept, open_kept
from injerto.basics.progress import note
from injerto.domains.preprocessing import TextPreprocessing

LONGEST = 512
"""Tokens of an example where nothing else is said."""


def load_language(spec: str | PathLike[str], max_length: int | None = None) -> Backbone:
    """Load a causal language model, in eval mode and float32. Code that comes with a model is never run.

    Args:
        spec: ``packaged:smollm2-135m``, ``hf:NAME`` or a folder saved by transformers.
        max_length: Longest example in tokens; 512, or what the model has positions for, where not given.

    Returns:
        The whole model with its output layer.

    Raises:
        InjertoError: Where the model is not to be had or is no causal language model.
    """
    spec = fspath(spec)
    prefix, colon, name = spec.partition(":")
    hub_id, licence = None, None
    if colon and prefix == "packaged":
        if name not in PACKAGED or not PACKAGED[name].language:
            known = ", ".join(f"packaged:{key}" for key, entry in PACKAGED.items() if entry.language)
            raise InjertoError(f"{spec} is no causal language model; choose {known}, hf:NAME or a folder")
        entry = PACKAGED[name]
        hub_id, licence = entry.hub_id, entry.licence
        name = str(_converted(locate(name), spec))
    elif colon and prefix == "hf":
        hub_id = None if Path(name).is_dir() else name
    elif Path(spec).expanduser().is_dir():
        name = str(Path(spec).expanduser())
    else:
        raise InjertoError(
            f"no causal language model '{spec}'; give packaged:smollm2-135m, hf:NAME or a folder saved by transformers"
        )
    with reading(spec), quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, tokenizer = _read(name, spec)
        licence = licence or licence_of(name)
    length = int(min(max_length or LONGEST, positions(model)))
    size = TextPreprocessing(tokenizer, length, hub_id or Path(name).resolve().name, rows=embedding_rows(model))
    return Backbone(model, embed, spec=spec, library="transformers", preprocessing=size, hub_id=hub_id, licence=licence)


def _read(name: str, spec: str) -> tuple[nn.Module, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_layers(config.to_dict(), spec)
    kind = config.model_type
    if kind not in CAUSAL or (kind in MASKED and not getattr(config, "is_decoder", False)):
        raise InjertoError(f"{spec} is no causal language model ({kind}); such as packaged:smollm2-135m")
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(name, **options)
    return model.eval(), AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def _converted(path: Path, spec: str) -> Path:
    """A GGUF file as a folder of transformers, made once: reading the file itself takes twenty seconds every time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    digest = sha256(path.name, file_sha256(path), version("transformers"))[:16]
    folder = cache_root() / "models" / f"{path.stem}-{digest}"
    if (found := open_kept(folder)) is not None:
        return found
    note(f"{spec}: reading {path.name} once, about half a minute")
    options: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    with reading(spec), quiet(), make_kept(folder) as temporary:
        screen = io.StringIO()  # a progress bar of its own, which no setting switches off
        with contextlib.redirect_stderr(screen):
            model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
            del model.config.quantization_config  # it is float32 now
            plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
            plain.load_state_dict(model.state_dict())
            plain.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(path.parent, **options).save_pretrained(temporary)
    return folder / FILES


def body(model: nn.Module) -> nn.Module:
    """A causal language model without its output layer.

    Args:
        model: A transformers model.
    """
    found: nn.Module = getattr(model, str(model.base_model_prefix), model)
    return found


def embed(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The mean of the last hidden states, (B, D).

    Args:
        model: A transformers model.
        inputs: ``input_ids`` and ``attention_mask``, (B, T).
    """
    hidden = body(model)(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp_min(1)
