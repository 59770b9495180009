"""Finished models in the formats of others: PEFT, plain transformers and timm folders, ONNX, int8 adapters."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from injerto.adapters.artifact import native_names, new_tensors, save_tensors
from injerto.adapters.card import base_name, save_card
from injerto.adapters.classifier import own_classifier, save_pooling, save_processor
from injerto.adapters.likeness import unlike_peft
from injerto.adapters.load import adapter_folder
from injerto.adapters.quantized import quantize_file
from injerto.adapters.sketch import Sketch
from injerto.adapters.snapshot import ADAPTER, CONFIG, HEAD, INT8, SKETCH
from injerto.backbones.backbone import Backbone
from injerto.backbones.pooling import TextEmbed, VisionEmbed
from injerto.backbones.transformers_models import quiet
from injerto.basics.errors import InjertoError, suggest
from injerto.basics.files import write_text
from injerto.basics.progress import note
from injerto.basics.removal import remove_file
from injerto.compute.batches import Inputs
from injerto.compute.fold import settled
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model

FORMATS = ("peft", "int8", "merged", "onnx")
LOW_RANK = ("peft", "int8")
OPSET = 18


def export_peft(folder: Path, model: Model | LanguageModel, card: dict[str, Any], changed: Sequence[str]) -> None:
    """Write a low-rank adapter as PEFT does, with a README that says how to load it; our card stands beside it.

    Args:
        folder: Where it goes.
        model: With low-rank layers.
        card: The adapter's.
        changed: Names of the network's other tensors that differ from the base.

    Raises:
        InjertoError: Where PEFT would compute something else with the same tensors.
    """
    unlike = unlike_peft(model.backbone.model)
    if unlike:
        more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
        raise InjertoError(
            f"PEFT computes something else with the pair of {unlike[0]}{more} (it knows no dilation, padding mode or "
            "standardized weights, and adds an nn.MultiheadAttention's output projection twice): use --format merged, "
            "or fit with targets= that leave it out"
        )
    save_tensors(folder, model, changed, None, card["head"] == "native")
    save_card(folder, card)
    backbone, name = model.backbone, base_name(model.backbone)
    local = None if backbone.hub_id else "FOLDER_OF_THE_BASE"
    kind = "AutoModelForCausalLM" if isinstance(model, LanguageModel) else "AutoModel"
    load = f'base = {kind}.from_pretrained("{local or name}")\n'
    imports = f"from transformers import {kind}"
    if model.backbone.library == "timm":
        classes = len(model.labels) if native_names(model) and card["head"] == "native" else 0  # type: ignore[arg-type]
        source = f"local-dir:{local}" if local else f"hf-hub:{name}"
        imports, load = "import timm", f'base = timm.create_model("{source}", pretrained=True, num_classes={classes})\n'
    if backbone.spec.startswith("packaged:"):
        load = f'# without a hub: base = injerto.load_backbone("{backbone.spec}").model\n{load}'
    text = f'{imports}\nfrom peft import PeftModel\n\n{load}model = PeftModel.from_pretrained(base, "THIS_FOLDER")\n'
    head = f"\nThe classifier on the embedding is in `{HEAD}`.\n" if (folder / HEAD).exists() else ""
    top = f"---\nbase_model: {name}\nlibrary_name: peft\ntags:\n- lora\n---\n\n"
    write_text(folder / "README.md", f"{top}A low-rank adapter.\n\n```python\n{text}```\n{head}")


def export_int8(
    folder: Path,
    model: Model | LanguageModel,
    card: dict[str, Any],
    changed: Sequence[str],
    sketch: Sketch | None = None,
) -> None:
    """Write a low-rank adapter with A and B as 8-bit integers.

    Args:
        folder: Where it goes; Injerto loads it like any other.
        model: With low-rank layers.
        card: The adapter's.
        changed: Names of the network's other tensors that differ from the base.
        sketch: The adapter's, where it has one.
    """
    save_tensors(folder, model, changed, None, card["head"] == "native")
    quantize_file(folder / ADAPTER, folder / INT8)
    remove_file(folder / ADAPTER)  # made above, for the smaller form
    if sketch is not None:
        sketch.save(folder / SKETCH)
    save_card(folder, card)


def check_form(path: Path, form: str) -> None:
    """Refuse a form that an adapter cannot have, before its base is loaded.

    Args:
        path: RUN or RUN/adapter.
        form: One of :data:`FORMATS`.

    Raises:
        InjertoError: For an unknown form, and for ``peft`` and ``int8`` where there are no low-rank pairs.
    """
    if form not in FORMATS:
        raise InjertoError(f"unknown --format '{form}'; {suggest(form, list(FORMATS))}")
    if form in LOW_RANK and not (adapter_folder(path) / CONFIG).exists():
        raise InjertoError(f"{path}: --format {form} is for LoRA, and this has no low-rank layers; use --format merged")


def export_merged(folder: Path, model: Model | LanguageModel, card: dict[str, Any]) -> None:
    """Write the whole model as its own library saves it.

    A timm network with a linear head gets it as its classifier; other heads stand beside the network, with a loader of
    ten lines in the README.

    Args:
        folder: Where it goes.
        model: Finished; left as it is.
        card: The adapter's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backbone, network = model.backbone, settled(model.backbone.model)
    if isinstance(model, LanguageModel):
        _save_transformers(folder, network, backbone)
        write_text(folder / "README.md", _readme(backbone, LANGUAGE_LOADER))
        return
    plain = len(model.head.layers) == 1 and isinstance(model.neck, nn.Identity)
    own = backbone.native_head if backbone.library == "timm" and plain else None
    whole = own_classifier(model, network) if backbone.library == "transformers" else None
    if own is not None:
        _save_timm(folder, network, backbone, model)
        write_text(folder / "README.md", _readme(backbone, TIMM_LOADER))
    elif whole is not None:
        _save_transformers(folder, whole, backbone)
        image = backbone.modality == "image"
        write_text(folder / "README.md", _readme(backbone, PICTURE_LOADER if image else TEXT_LOADER))
    else:
        if backbone.library == "transformers":
            _save_transformers(folder, network, backbone)
            note(
                f"--format merged: transformers' own classifier for {backbone.spec} cannot hold this head (it pools "
                "otherwise, or has no bias): the folder is the encoder, and pipeline() or AutoModelFor... "
                f"would give it a random head; the README's lines load it with {HEAD}"
            )
        elif backbone.library == "timm":
            _save_timm(folder, network, backbone, None)
        else:
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
        new = {name: tensor.contiguous() for name, tensor in new_tensors(model).items()}
        save_file(new, folder / HEAD, metadata={"format": "pt"})
        write_text(folder / "README.md", _readme(backbone, _loader(backbone, model)))
    write_text(folder / "labels.json", json.dumps({"labels": card["labels"], **backbone.preprocessing.card()}) + "\n")


def _save_transformers(folder: Path, network: Any, backbone: Backbone) -> None:
    with quiet():
        network.save_pretrained(folder)
    size = backbone.preprocessing
    if isinstance(size, TextPreprocessing):
        tokenizer = copy.deepcopy(size.tokenizer)
        if tokenizer.pad_token is None and tokenizer.eos_token is not None:
            tokenizer.pad_token = tokenizer.eos_token  # the mask hides it; without one nothing is batched
        tokenizer.save_pretrained(folder)
        if isinstance(backbone._embed, TextEmbed):
            width = backbone.embedding_dim // len(backbone._embed.modes)
            save_pooling(folder, backbone._embed, width, size.max_length)
    else:
        save_processor(folder, size)


def _save_timm(folder: Path, network: Any, backbone: Backbone, model: Model | None) -> None:
    """Timm's own folder, which ``local-dir:`` loads."""
    from timm.models import save_for_hf

    size = backbone.preprocessing
    assert isinstance(size, ImagePreprocessing)
    network = network if network is not backbone.model else copy.deepcopy(network)
    if model is not None:
        assert backbone.native_head is not None
        network.reset_classifier(len(model.labels))
        state = model.head.layers[0].state_dict()
        network.get_submodule(backbone.native_head).load_state_dict(state)
        network.pretrained_cfg = dict(network.pretrained_cfg) | {"num_classes": len(model.labels)}
    facts = {
        "input_size": (3, size.height, size.width),
        "mean": size.mean,
        "std": size.std,
        "interpolation": size.interpolation,
        "crop_pct": size.crop,
        "crop_mode": "squash" if size.squash else "center",
    }
    network.pretrained_cfg = dict(network.pretrained_cfg) | facts
    labels = {"label_names": list(model.labels)} if model is not None else {}
    save_for_hf(network, str(folder), model_config=labels or None, safe_serialization=True)


LANGUAGE_LOADER = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
"""
TEXT_LOADER = """from transformers import pipeline

classify = pipeline("text-classification", model=FOLDER)
"""
PICTURE_LOADER = """from transformers import pipeline

classify = pipeline("image-classification", model=FOLDER)
"""
TIMM_LOADER = """import timm

model = timm.create_model(f"local-dir:{FOLDER}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
"""
_POOLS = {
    "cls": "hidden[:, 0]",
    "max": 'hidden.masked_fill(mask == 0, float("-inf")).amax(1)',
    "mean": "(hidden * mask).sum(1) / mask.sum(1)",
    "mean_sqrt_len_tokens": "(hidden * mask).sum(1) / mask.sum(1).sqrt()",
    "weightedmean": "(hidden * mask * mask.cumsum(1)).sum(1) / (mask * mask.cumsum(1)).sum(1)",
    "lasttoken": "hidden[range(len(hidden)), mask[:, :, 0].sum(1).long() - 1]",
}
_VIEWS = {
    "pooler": "out.pooler_output.flatten(1)",
    "cls": "out.last_hidden_state[:, 0]",
    "mean": "out.last_hidden_state.mean(1)",
    "map": "out.last_hidden_state.mean((2, 3))",
}


def _loader(backbone: Backbone, model: Model) -> str:
    """Ten lines that give the logits."""
    lines = ["import torch", "from safetensors.torch import load_file"]
    embed = backbone._embed
    if backbone.library == "transformers":
        lines.append(f"from transformers import AutoModel{', AutoTokenizer' if isinstance(embed, TextEmbed) else ''}")
        poolless = "pooler" not in dict(backbone.model.named_children()) and hasattr(backbone.model, "pooler")
        option = ", add_pooling_layer=False" if poolless else ""
        lines += ["", f"encoder = AutoModel.from_pretrained(FOLDER{option}).eval()"]
    elif backbone.library == "timm":
        lines += ["import timm", "", 'encoder = timm.create_model(f"local-dir:{FOLDER}", pretrained=True).eval()']
    else:
        lines += ["", 'encoder = ...  # your own module, with load_file(f"{FOLDER}/model.safetensors")']
    lines.append(f'head = load_file(f"{{FOLDER}}/{HEAD}")')
    if isinstance(embed, TextEmbed):
        size = backbone.preprocessing
        assert isinstance(size, TextPreprocessing)
        pools = ", ".join(_POOLS[mode] for mode in embed.modes)
        lines += [
            'tokenizer = AutoTokenizer.from_pretrained(FOLDER, padding_side="right")',
            "tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token",
            "batch = tokenizer(TEXTS, padding=True, truncation=True, "
            f'max_length={size.max_length}, return_tensors="pt")',
            'mask = batch["attention_mask"].unsqueeze(-1).float()',
            'hidden = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state',
            f"x = torch.cat([{pools}], dim=-1)",
        ]
    elif isinstance(embed, VisionEmbed):
        options = "".join(f", {key}={value!r}" for key, value in embed.options.items())
        lines.append(f"out = encoder(pixel_values=IMAGES{options})  # (B, 3, H, W), normalized")
        lines.append(f"x = {_VIEWS[embed.kind]}")
    elif backbone.library == "timm":
        lines.append("x = encoder.forward_head(encoder.forward_features(IMAGES), pre_logits=True)")
    else:
        lines.append("x = encoder(IMAGES)  # (B, D), or averaged over space to that")
    lines.append("linear = torch.nn.functional.linear")
    if not isinstance(model.neck, nn.Identity):
        lines.append('x = linear(x, head["neck.layers.0.weight"], head["neck.layers.0.bias"])')
        lines.append(
            'x = torch.nn.functional.layer_norm(x, x.shape[1:], head["neck.layers.1.weight"], '
            'head["neck.layers.1.bias"]).relu()'
        )
    if len(model.head.layers) == 1:
        lines.append('logits = linear(x, head["head.layers.0.weight"], head["head.layers.0.bias"])')
    else:
        lines.append(
            'x = torch.nn.functional.gelu(linear(x, head["head.layers.0.weight"], head["head.layers.0.bias"]))'
        )
        lines.append('logits = linear(x, head["head.layers.2.weight"], head["head.layers.2.bias"])')
    return "\n".join(lines) + "\n"


def _readme(backbone: Backbone, loader: str) -> str:
    top = f"---\nbase_model: {base_name(backbone)}\n---\n\nThe whole model; `FOLDER` is this folder.\n\n"
    return f"{top}```python\n{loader}```\n"


class _Logits(nn.Module):
    """A model as ONNX wants it: tensors in, logits out."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits (B, C)."""
        inputs: Inputs = dict(zip(self.names, tensors, strict=True)) if self.names else tensors[0]
        logits: Tensor = self.model(inputs).logits
        return logits


def export_onnx(folder: Path, model: Model, card: dict[str, Any], example: Inputs) -> Path:
    """Write the whole model as ONNX; the number of examples, and of tokens, is free.

    Args:
        folder: Where it goes.
        model: Finished; left as it is.
        card: The adapter's.
        example: A batch of two or more, as the backbone takes it.

    Returns:
        The file.

    Raises:
        InjertoError: Where the packages are not installed, or a layer has no ONNX form.
    """
    import importlib.util

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InjertoError(f"--format onnx needs {package}; pip install 'injerto[export]'")
    folder.mkdir(parents=True, exist_ok=True)
    names = () if isinstance(example, Tensor) else ("input_ids", "attention_mask")
    tensors = (example,) if isinstance(example, Tensor) else tuple(example[name] for name in names)
    whole = _Logits(settled(model), names).eval()  # type: ignore[arg-type]
    batch = torch.export.Dim.DYNAMIC
    free: Any = {0: batch} if isinstance(example, Tensor) else {0: batch, 1: batch}
    path = folder / "model.onnx"
    try:
        with torch.no_grad():
            torch.onnx.export(
                whole,
                tensors,
                str(path),
                input_names=list(names) or ["pixel_values"],
                output_names=["logits"],
                dynamic_shapes={"tensors": tuple(free for _ in tensors)},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise InjertoError(f"{model.backbone.spec} has no ONNX form here ({first}); use --format merged") from error
    write_text(folder / "labels.json", json.dumps({"labels": card["labels"], **card["preprocessing"]}) + "\n")
    size = model.backbone.preprocessing
    if isinstance(size, TextPreprocessing):
        size.tokenizer.save_pretrained(folder)
    return path
