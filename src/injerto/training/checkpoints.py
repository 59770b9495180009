"""Checkpoints: everything a resumed run needs, in one safetensors file, whole or absent."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from injerto.basics.errors import InjertoError
from injerto.basics.files import atomic_path

Tensors = dict[str, torch.Tensor]


def save_checkpoint(path: Path, tensors: Tensors, state: dict[str, Any]) -> None:
    """Write tensors and a JSON-ready state.

    Args:
        path: The file.
        tensors: By name.
        state: What else the run must remember.

    Raises:
        InjertoError: Where the disk is full.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={"state": json.dumps(state, sort_keys=True)})
        except SafetensorError as error:  # safetensors wraps "no space left on device"
            raise InjertoError(f"cannot write {path}: {error}; free space or choose another --out") from error


def load_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Args:
        path: The file.

    Raises:
        InjertoError: Where it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if "KeyboardInterrupt" in str(error):  # safetensors wraps what is raised while it reads
            raise KeyboardInterrupt from None
        raise InjertoError(
            f"checkpoint {path} cannot be read ({error}); start again with --overwrite (in a comparison or search: "
            f"remove {path.parent.parent})"
        ) from None


def pack_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Tensors:
    """The optimizer's tensors under ``optimizer.<parameter>.<slot>``.

    Args:
        optimizer: AdamW or SGD.
        names: Parameter name by ``id``.
    """
    packed = {}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if isinstance(value, torch.Tensor):
                packed[f"optimizer.{names[id(parameter)]}.{slot}"] = value
    return packed


def unpack_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str], tensors: Tensors) -> None:
    """Put back what :func:`pack_optimizer` took.

    Args:
        optimizer: A fresh optimizer over the same parameters.
        names: Parameter name by ``id``.
        tensors: The checkpoint's.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"optimizer.{names[id(parameter)]}."
            slots = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            slots = {slot: value for slot, value in slots.items() if "." not in slot}
            if slots:
                optimizer.state[parameter] = {slot: _like(value, parameter) for slot, value in slots.items()}


def _like(value: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """A slot laid out in memory as its parameter: fused optimizers walk through both side by side."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape and value.ndim else value
