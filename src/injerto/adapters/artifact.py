"""The shipped tensors: written byte-identically for equal runs, read with every check before anything is used."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from injerto.adapters.slider import Line, linear
from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.basics.files import atomic_path
from injerto.tasks.model import Model
from injerto.tuning.base import Tuned
from injerto.tuning.norms import norm_layers

ADAPTER = "adapter_model.safetensors"
HEAD = "head.safetensors"
PROBE = ("probe.weight", "probe.bias")
"""In the head's file: the probe on the pretrained backbone, where the run has a slider."""
SLACK = 4_000_000
"""Bytes a file may be larger than its tensors (the header)."""


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


def save_tensors(folder: Path, model: Model, tuned: Tuned, norm: str, line: Line | None = None) -> int:
    """Write what changed in the base, and the new layers.

    Args:
        folder: The adapter's folder.
        model: The finished model, its head folded.
        tuned: What the tuning decided.
        norm: The norm policy.
        line: From the pretrained to the tuned model, where the run has a slider: the probe at its start is kept.

    Returns:
        Bytes written.
    """
    state = model.backbone.model.state_dict()
    base = {name: state[name] for name in changed_names(model.backbone, tuned, norm)}
    new = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
    new = {name: tensor for name, tensor in new.items() if name not in ("head.shift", "head.scale")}
    if line is not None:
        new |= dict(zip(PROBE, line.base_head, strict=True))
    return save_parts(folder, base, new)


def save_parts(folder: Path, base: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> int:
    """Write an adapter's two files.

    Args:
        folder: The adapter's folder.
        base: Tensors of the network, by its own names.
        new: Those of neck and head.

    Returns:
        Bytes written.
    """
    return sum(_save(folder / file, tensors) for file, tensors in ((ADAPTER, base), (HEAD, new)))


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> int:
    with atomic_path(path) as temporary:
        try:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata={"format": "pt"}
            )
        except SafetensorError as error:
            raise InjertoError(f"cannot write {path}: {error}; free space or choose another --out") from error
    return path.stat().st_size


def shipped_names(folder: Path) -> list[str]:
    """Names of the network's tensors that an adapter replaces.

    Args:
        folder: The adapter's folder, checked before.
    """
    with safe_open(folder / ADAPTER, framework="pt") as file:
        return sorted(file.keys())


def load_tensors(folder: Path, model: Model) -> Line | None:
    """Put an adapter's tensors into a fresh model.

    Every name, shape and dtype must be one of the model's own, every number finite; files larger than the model are
    refused unread.

    Args:
        folder: The adapter's folder.
        model: Built from the card on the checked base; changed in place only after all checks.

    Returns:
        The line from the pretrained to the tuned model where the adapter has a slider, else None.

    Raises:
        InjertoError: Where a file is missing, damaged or does not fit.
    """
    expected = model.state_dict()
    base = _read(
        folder / ADAPTER,
        {f"backbone.model.{name}": t for name, t in model.backbone.model.state_dict().items()},
        "backbone.model.",
    )
    allowed = {name: t for name, t in expected.items() if not name.startswith("backbone.")}
    if isinstance(model.neck, nn.Identity) and len(model.head.layers) == 1:
        allowed |= dict(zip(PROBE, linear(model).parameters(), strict=True))
    new = _read(folder / HEAD, allowed, "")
    missing = {
        n for n in expected if not n.startswith("backbone.") and n not in ("head.shift", "head.scale")
    } - new.keys()
    if missing:
        raise InjertoError(f"{folder / HEAD} lacks '{sorted(missing)[0]}'; the adapter is incomplete")
    line = None
    if all(name in new for name in PROBE):
        short = [name.removeprefix("backbone.model.") for name in base]
        start = {name: expected[f"backbone.model.{name}"].clone() for name in short}
        tuned = {name: base[f"backbone.model.{name}"].clone() for name in short}
        end = new["head.layers.0.weight"].clone(), new["head.layers.0.bias"].clone()
        line = Line(start, tuned, (new[PROBE[0]], new[PROBE[1]]), end)
    model.load_state_dict({n: t for n, t in {**base, **new}.items() if n not in PROBE}, strict=False)
    return line


def _read(path: Path, allowed: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    limit = sum(tensor.numel() * 8 for tensor in allowed.values()) + SLACK
    try:
        size = path.stat().st_size
        if size > limit:
            raise InjertoError(f"{path} has {size} bytes, more than its base model could need; it is not loaded")
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for name in names:
                _check(path, name, prefix, file, allowed)
            tensors = {prefix + name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InjertoError(f"{path} is missing; the adapter is incomplete") from None
    except (SafetensorError, OSError, ValueError) as error:
        if "KeyboardInterrupt" in str(error):  # safetensors wraps what is raised while it reads
            raise KeyboardInterrupt from None
        raise InjertoError(f"{path} cannot be read ({error}); it is damaged or no safetensors file") from None
    for name, tensor in tensors.items():
        if tensor.dtype != allowed[name].dtype:
            raise InjertoError(
                f"{path}: '{name.removeprefix(prefix)}' is of type {tensor.dtype}, not {allowed[name].dtype}"
            )
        if not torch.isfinite(tensor).all():
            raise InjertoError(f"{path}: '{name.removeprefix(prefix)}' holds NaN or infinity; it is not loaded")
    return tensors


def _check(path: Path, name: str, prefix: str, file: "safe_open", allowed: dict[str, torch.Tensor]) -> None:
    wanted = allowed.get(prefix + name)
    if wanted is None:
        raise InjertoError(f"{path}: tensor '{name}' does not exist in the base model; it is not loaded")
    shape = tuple(file.get_slice(name).get_shape())
    if shape != tuple(wanted.shape):
        raise InjertoError(f"{path}: tensor '{name}' has shape {shape}, the base model's is {tuple(wanted.shape)}")
