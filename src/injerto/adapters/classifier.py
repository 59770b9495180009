"""transformers' own classification classes with the weights of a finished model, where their head can hold ours."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from injerto.backbones.backbone import probe_batch
from injerto.backbones.pooling import TextEmbed, accepted
from injerto.domains.preprocessing import TextPreprocessing
from injerto.tasks.model import Model

SMALL = 1e-4
"""Factor on what enters a tanh, so that it passes it on as it is (to 1e-8 of it), and is taken back behind it."""
TOLERANCE = 1e-4
"""Largest difference of the logits, relative to the largest, that rounding explains."""


@torch.no_grad()
def own_classifier(model: Model, network: Any) -> nn.Module | None:
    """The network's own classification class with our head, checked on a probe batch.

    Args:
        model: Finished, on a transformers network.
        network: The headless network as it is exported.

    Returns:
        The classifier with ``id2label`` in its configuration; None where the class computes something else: it pools
        otherwise, or has no place for the head's bias.
    """
    if len(model.head.layers) != 1 or not isinstance(model.neck, nn.Identity):
        return None
    image = model.backbone.modality == "image"
    try:
        whole = _build(network, model.labels, image).eval()
    except (ValueError, AttributeError, TypeError):  # transformers has no such class for this network
        return None
    size = model.backbone.preprocessing
    if isinstance(size, TextPreprocessing) and whole.config.pad_token_id is None:
        tokenizer = size.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        whole.config.pad_token_id = pad
    device = next(network.parameters()).device
    whole.to(device)
    batch = probe_batch(model.backbone.preprocessing, device)
    wanted = model(batch).logits.float()
    first: Any = model.head.layers[0]
    weight, bias = first.weight.detach().float(), first.bias.detach().float()
    plain = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    for _ in _fillings(whole, network, weight, bias):
        try:
            found = logits_of(whole, model, batch)
        except Exception:  # the class does not run on what the encoder takes
            return None
        if found.shape == wanted.shape and bool(
            (found - wanted).abs().max() <= TOLERANCE * max(1.0, float(wanted.abs().max()))
        ):
            return whole
        whole.load_state_dict(plain)
    return None


def logits_of(whole: nn.Module, model: Model, batch: Any) -> Tensor:
    """What transformers' class computes, float32 (B, C).

    Args:
        whole: From :func:`own_classifier`.
        model: The finished model.
        batch: What its backbone takes.
    """
    if isinstance(batch, Tensor):
        options = getattr(model.backbone._embed, "options", {})
        return whole(pixel_values=batch, **accepted(whole, options)).logits.float()
    return whole(**accepted(whole, {**batch, "use_cache": False})).logits.float()


def _build(network: Any, labels: Sequence[str], image: bool) -> Any:
    """The class with the network's weights and a random head."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    config = copy.deepcopy(network.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    kind: Any = AutoModelForImageClassification if image else AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        whole = kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    whole.base_model.load_state_dict(network.state_dict(), strict=False)
    return whole


def _fillings(whole: Any, network: Any, weight: Tensor, bias: Tensor) -> Iterator[None]:
    """Ways to put a linear head into the class; each is in the weights when it is yielded."""
    known = set(network.state_dict())
    weight, bias = weight.to(whole.device), bias.to(whole.device)
    prefix = f"{whole.base_model_prefix}."
    linears = [
        (path, layer)
        for path, layer in whole.named_modules()
        if isinstance(layer, nn.Linear) and f"{path.removeprefix(prefix)}.weight" not in known
    ]
    classes, width = weight.shape
    outs: list[Any] = [layer for _, layer in linears if layer.out_features == classes]
    if not outs:
        return
    out = outs[-1]
    dense: list[Any] = [layer for _, layer in linears if layer is not out]
    if not dense and out.in_features in (width, 2 * width):
        for start in range(0, out.in_features, width):
            if out.bias is None and not _shift_norm(whole, weight, bias):
                return
            out.weight.zero_()
            out.weight[:, start : start + width] = weight
            if out.bias is not None:
                out.bias.copy_(bias)
            yield
    elif len(dense) == 1 and dense[0].in_features == width and out.in_features == dense[0].out_features:
        inner = dense[0]
        if out.bias is None or inner.bias is None:
            return
        if inner.out_features == width:  # a tanh between
            inner.weight.copy_(SMALL * torch.eye(width, device=weight.device))
            inner.bias.zero_()
            out.weight.copy_(weight / SMALL)
            out.bias.copy_(bias)
            yield
        if 2 * classes <= inner.out_features:  # x = f(x) - f(-x) for ReLU, GELU and SiLU
            inner.weight.zero_()
            inner.weight[: 2 * classes] = torch.cat([weight, -weight])
            inner.bias.zero_()
            inner.bias[: 2 * classes] = torch.cat([bias, -bias])
            out.weight.zero_()
            eye = torch.eye(classes, device=weight.device)
            out.weight[:, : 2 * classes] = torch.cat([eye, -eye], dim=1)
            out.bias.zero_()
            yield


def _shift_norm(whole: Any, weight: Tensor, bias: Tensor) -> bool:
    """Move a head's bias into the last norm's, for a class whose output layer has none: W (x + W^+ b) = W x + b.

    The embedding of the exported encoder moves by a constant.
    """
    norms: list[Any] = [m for m in whole.base_model.modules() if isinstance(m, nn.LayerNorm) and m.bias is not None]
    if not norms or norms[-1].bias.shape[0] != weight.shape[1]:
        return not bool(bias.any())
    shift = torch.linalg.lstsq(weight.double(), bias.double()[:, None]).solution[:, 0]
    norms[-1].bias.add_(shift)
    return True


def save_processor(folder: Any, size: Any) -> None:
    """Write ``preprocessor_config.json``: how a pipeline prepares the pictures.

    Args:
        folder: Where it goes.
        size: The backbone's preprocessing.
    """
    from PIL import Image
    from transformers import BitImageProcessor, ViTImageProcessor

    shared: dict[str, Any] = {
        "resample": int(Image.Resampling[size.interpolation.upper()]),
        "image_mean": list(size.mean),
        "image_std": list(size.std),
        "do_normalize": True,
        "do_rescale": True,
    }
    own = {"height": size.height, "width": size.width}
    if size.squash:
        ViTImageProcessor(size=own, **shared).save_pretrained(folder)
    else:
        edge = {"shortest_edge": round(min(size.height, size.width) / size.crop)}
        BitImageProcessor(size=edge, crop_size=own, do_center_crop=True, **shared).save_pretrained(folder)


def save_pooling(folder: Any, embed: TextEmbed, width: int, length: int) -> None:
    """Write the pooling as sentence-transformers does, so that it and Injerto pool the folder's network alike.

    Args:
        folder: Where it goes.
        embed: The pooling.
        width: Numbers in a hidden state.
        length: The longest text in tokens.
    """
    import json

    from injerto.basics.files import write_text

    flags = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    modes = {f"pooling_mode_{flags.get(mode, mode)}": True for mode in embed.modes}
    if "mean" not in embed.modes:
        modes["pooling_mode_mean_tokens"] = False
    (folder / "1_Pooling").mkdir(exist_ok=True)
    config = {"word_embedding_dimension": width, **modes}
    write_text(folder / "1_Pooling" / "config.json", json.dumps(config, indent=1) + "\n")
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    write_text(folder / "modules.json", json.dumps(modules, indent=1) + "\n")
    limits = {"max_seq_length": length, "do_lower_case": False}
    write_text(folder / "sentence_bert_config.json", json.dumps(limits) + "\n")
