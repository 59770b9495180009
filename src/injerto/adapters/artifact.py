"""The shipped tensors: written byte-identically for equal runs, read with every check before anything is used."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from injerto.adapters.card import base_name
from injerto.adapters.patterns import names_module
from injerto.adapters.peft import (
    PREFIX,
    Planned,
    install,
    is_pair,
    is_part,
    load_config,
    peft_name,
    peft_tensors,
    plain_names,
    plan_pairs,
    save_config,
    settle_groups,
    tied_pair,
)
from injerto.adapters.quantized import SCALE, dequantize, rank_dim
from injerto.adapters.slider import Line, linear
from injerto.adapters.snapshot import ADAPTER, CONFIG, HEAD, Snapshot
from injerto.adapters.tensors import Tensors
from injerto.backbones.backbone import Backbone
from injerto.backbones.heads import transformers_head_keys
from injerto.basics.errors import InjertoError, shorten
from injerto.basics.files import atomic_path
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model
from injerto.tuning.base import Tuned
from injerto.tuning.lora.tuning import low_rank_layers
from injerto.tuning.norms import norm_layers

PROBE = ("probe.weight", "probe.bias")
"""In the head's file: the probe on the pretrained backbone, where the run has a slider."""


Read = tuple[Planned | None, dict[str, torch.Tensor], dict[str, torch.Tensor]]
"""What :func:`read_tensors` gives."""


def changed_names(backbone: Backbone, tuned: Tuned, norm: str) -> list[str]:
    """Names of the network's tensors that differ from the base: trained parameters and re-estimated statistics.

    Args:
        backbone: The tuned model.
        tuned: What the tuning decided.
        norm: The norm policy.
    """
    names = list(tuned.rates)
    for layer in norm_layers(backbone):
        trained = backbone.stage_of(f"{layer}.running_mean") >= tuned.frozen_stages
        if norm.startswith("recalibrate") or (norm == "train" and trained):
            names += [f"{layer}.running_mean", f"{layer}.running_var"]
    return sorted(names)


def save_tensors(
    folder: Path,
    model: Model | LanguageModel,
    changed: Sequence[str],
    line: Line | None = None,
    native: bool = False,
) -> int:
    """Write what changed in the base, and the new layers; with low-rank layers as files that PEFT reads.

    Args:
        folder: The adapter's folder.
        model: The finished model, its head folded.
        changed: Names of the network's tensors that differ from the base.
        line: From the pretrained to the tuned model, where the run has a slider: the probe at its start is kept.
        native: Whether the head is the network's own kind; PEFT then finds it under its own name.

    Returns:
        Bytes written.
    """
    network = model.backbone.model
    state = network.state_dict()
    base = {name: state[name] for name in changed}
    new = new_tensors(model)
    if line is not None:
        new |= dict(zip(PROBE, line.base_head, strict=True))
    if not any(low_rank_layers(network)):
        return save_parts(folder, base, new)
    norms = sorted({name.rpartition(".")[0] for name in base if ".lora_" not in name})
    base = peft_tensors(network) | {
        peft_name(name): tensor for name, tensor in state.items() if name.rpartition(".")[0] in norms
    }
    language = isinstance(model, LanguageModel)
    own = native_names(model) if native and isinstance(model, Model) else {}
    base |= {name: new.pop(key) for key, name in own.items()}
    whole = [*norms, *([model.backbone.native_head or ""] if own else [])]
    task = "CAUSAL_LM" if language else None
    return save_config(folder, network, base_name(model.backbone), tuple(whole), task) + save_parts(folder, base, new)


def new_tensors(model: Model | LanguageModel) -> dict[str, torch.Tensor]:
    """What ships of neck and head: a folded head needs no standardization.

    Args:
        model: Finished, its head folded.
    """
    skipped = ("head.shift", "head.scale", "neck.shift", "neck.scale")
    return {name: tensor for name, tensor in _new_state(model).items() if name not in skipped}


def _new_state(model: Model | LanguageModel) -> dict[str, torch.Tensor]:
    """The state dict without the backbone's part, which is not gone through."""
    own = [(name, child) for name, child in model.named_children() if name != "backbone"]
    return {f"{name}.{key}": tensor for name, child in own for key, tensor in child.state_dict().items()}


def native_names(model: Model) -> dict[str, str]:
    """Names of the head's tensors, and PEFT's for them; empty where the network's own class has no such head.

    Args:
        model: With a linear head.
    """
    head = model.backbone.native_head
    if model.backbone.library != "timm" or head is None:
        return {}
    return {f"head.layers.0.{part}": peft_name(f"{head}.{part}") for part in ("weight", "bias")}


def save_parts(folder: Path, base: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> int:
    """Write an adapter's two files.

    Args:
        folder: The adapter's folder.
        base: Tensors of the network, by its own names.
        new: Those of neck and head.

    Returns:
        Bytes written.
    """
    files = [(ADAPTER, base), *([(HEAD, new)] if new else [])]
    return sum(_save(folder / file, tensors) for file, tensors in files)


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> int:
    with atomic_path(path) as temporary:
        try:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata={"format": "pt"}
            )
        except SafetensorError as error:
            raise InjertoError(f"cannot write {path}: {error}; free space or choose another --out") from error
    return path.stat().st_size


def shipped_names(files: Snapshot) -> list[str]:
    """Names of the network's tensors that an adapter replaces; low-rank pairs are not among them.

    Args:
        files: Open, and read before.
    """
    names = [name for name in files.tensors(files.main, 0) if not name.endswith(SCALE)]
    return plain_names(names) if CONFIG in files else names


def read_tensors(files: Snapshot, model: Model, native: bool = False) -> Read:
    """An adapter's tensors, every name, shape, dtype and number checked against a fresh model, which stays as it is.

    Files larger than the model are refused unread.

    Args:
        files: Open, its card read.
        model: Built from the card on the checked base; neck and head may be on the meta device.
        native: Whether the head is the network's own kind.

    Returns:
        Where low-rank pairs belong, None where the adapter has none; tensors of the network, by the file's names; and
        those of neck, head and the slider's probe.

    Raises:
        InjertoError: Where a file is missing, damaged or does not fit.
    """
    expected, planned, head = _new_state(model), None, {}
    if CONFIG in files:
        own = native_names(model) if native else {}
        planned, found = read_pairs(files, model.backbone, {name: expected[key] for key, name in own.items()})
        head = {key: found.pop(name).clone() for key, name in own.items() if name in found}
    else:
        found = _read(files, ADAPTER, model.backbone.model.state_dict())
    allowed = dict(expected)
    if isinstance(model.neck, nn.Identity) and len(model.head.layers) == 1:
        allowed |= dict(zip(PROBE, linear(model).parameters(), strict=True))
    new = head | (_read(files, HEAD, allowed) if not head or HEAD in files else {})
    missing = new_tensors(model).keys() - new.keys()
    if missing:
        raise InjertoError(f"{files.folder / HEAD} lacks '{sorted(missing)[0]}'; the adapter is incomplete")
    return planned, found, new


def put_tensors(read: Read, model: Model) -> Line | None:
    """Put an adapter's tensors into a fresh model.

    Args:
        read: From :func:`read_tensors`.
        model: Built from the card on the checked base; changed in place.

    Returns:
        The line from the pretrained to the tuned model where the adapter has a slider, else None.
    """
    planned, tuned, new = read
    network, line = model.backbone.model, None
    if planned is not None:
        _put_pairs(network, planned, tuned)
        tuned = {}
    if all(name in new for name in PROBE):
        state = network.state_dict()
        start = {name: state[name].clone() for name in tuned}
        end = new["head.layers.0.weight"].clone(), new["head.layers.0.bias"].clone()
        line = Line(start, tuned, (new[PROBE[0]], new[PROBE[1]]), end)
    network.load_state_dict(tuned, strict=False)
    model.load_state_dict({name: tensor for name, tensor in new.items() if name not in PROBE}, strict=False)
    return line


def load_changed(files: Snapshot, backbone: Backbone) -> None:
    """Put an adapter that has no head into a fresh backbone.

    Args:
        files: Open, its card read.
        backbone: Changed in place only after all checks.

    Raises:
        InjertoError: Where a file is missing, damaged or does not fit.
    """
    if CONFIG in files:
        load_low_rank(files, backbone)
    else:
        backbone.model.load_state_dict(_read(files, ADAPTER, backbone.model.state_dict()), strict=False)


def load_low_rank(
    files: Snapshot, backbone: Backbone, others: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Put the low-rank pairs of PEFT's files, ours or a stranger's, into a backbone.

    Args:
        files: Open, with ``adapter_config.json`` and ``adapter_model.safetensors``.
        backbone: Plain; its layers are changed in place.
        others: Tensors that the file may hold beside what belongs to the network, by the file's names.

    Returns:
        Those of them that it holds.

    Raises:
        InjertoError: Where a file is damaged or does not fit the backbone.
    """
    others = others or {}
    planned, found = read_pairs(files, backbone, others)
    _put_pairs(backbone.model, planned, found)
    return {name: found[name] for name in others if name in found}


def read_pairs(
    files: Snapshot, backbone: Backbone, others: dict[str, torch.Tensor] | None = None
) -> tuple[Planned, dict[str, torch.Tensor]]:
    """The low-rank pairs of PEFT's files, ours or a stranger's, checked against a backbone that stays as it is.

    Args:
        files: Open, with ``adapter_config.json`` and ``adapter_model.safetensors``.
        backbone: Plain.
        others: Tensors that the file may hold beside what belongs to the network, by the file's names.

    Returns:
        Where they belong, and all tensors by the file's names.

    Raises:
        InjertoError: Where a file is damaged or does not fit the backbone.
    """
    path, network, others = files.folder / files.main, backbone.model, others or {}
    config = load_config(files)
    file = files.tensors(files.main, backbone.numbers)
    shapes = {name: file.shape(name) for name in file}
    scales = {name for name in shapes if name.endswith(SCALE) and is_pair(name.removesuffix(SCALE))}
    own = {name: shape for name, shape in shapes.items() if name not in others and name not in scales}
    planned = plan_pairs(network, config, own, path, _shares_pair(file, network, own))
    state = network.state_dict() if planned.plain else {}
    like = next(network.parameters())
    pairs = {name: like.new_empty(shape, device="meta") for name, shape in own.items() if is_part(name)}
    allowed = pairs | {name: state[key] for name, key in planned.plain.items()} | others
    rows = {
        name: torch.empty(shapes[part][rank_dim(part)], device="meta")
        for name in scales
        if len(shapes.get(part := name.removesuffix(SCALE), ())) > 1
    }
    found = _read(files, files.main, allowed | rows, cast=True)
    for name in rows:
        part = name.removesuffix(SCALE)
        found[part] = dequantize(found[part].to(torch.int8), found.pop(name).float(), rank_dim(part))
    return planned, found


def _put_pairs(network: nn.Module, planned: Planned, tensors: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, place in install(network, planned).items():
            place.copy_(tensors[name])
    settle_groups(network)


def _shares_pair(file: Tensors, network: nn.Module, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a file gives a table and the output layer that shares its weight one and the same pair."""
    found = tied_pair(network, shapes)
    if found is None or any(shapes[a] != shapes[b][::-1] for a, b in found):
        return False
    return all(torch.equal(file[a], file[b].T) for a, b in found)


def whole_layers(files: Snapshot, backbone: Backbone, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Room for what a file of PEFT's holds for the classifier, which the backbone does not have.

    Args:
        files: Open.
        backbone: Plain.
        config: Of the adapter.
    """
    named = {name for name in config.get("modules_to_save") or [] if isinstance(name, str)}
    network = backbone.model.state_dict()
    heads = {*named, "pooler"} if backbone.library == "transformers" else named
    if backbone.library == "transformers" and not hasattr(backbone.model, "lm_head"):
        with suppress(ValueError):
            keys = transformers_head_keys(backbone.model.config, network, backbone.modality)
            heads |= {key.rpartition(".")[0] for key in keys}
    file = files.tensors(files.main, backbone.numbers)
    return {
        name: torch.empty(file.shape(name), device="meta")
        for name in file
        if (short := name.removeprefix(PREFIX)) not in network and names_module(heads, short)
    }


def _read(files: Snapshot, file: str, allowed: dict[str, torch.Tensor], cast: bool = False) -> dict[str, torch.Tensor]:
    path = files.folder / file
    found = files.tensors(file, sum(tensor.numel() for tensor in allowed.values()))
    for name in found:
        wanted = allowed.get(name)
        if wanted is None:
            raise InjertoError(
                f"{path}: tensor '{shorten(name, 200)}' does not exist in the base model; it is not loaded"
            )
        if found.shape(name) != tuple(wanted.shape):
            raise InjertoError(
                f"{path}: tensor '{name}' has shape {found.shape(name)}, the base model's is {tuple(wanted.shape)}"
            )
    tensors = {name: found[name] for name in found}
    for name, tensor in list(tensors.items()):
        if cast and f"{name}{SCALE}" in allowed and tensor.dtype == torch.int8:
            continue
        if cast and tensor.is_floating_point() and allowed[name].is_floating_point():
            tensor = tensors[name] = tensor.to(allowed[name].dtype)
        if tensor.dtype != allowed[name].dtype:
            raise InjertoError(f"{path}: '{name}' is of type {tensor.dtype}, not {allowed[name].dtype}")
        if not torch.isfinite(tensor).all():
            raise InjertoError(f"{path}: '{name}' holds NaN or infinity; it is not loaded")
    return tensors
