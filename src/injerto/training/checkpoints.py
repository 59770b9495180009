"""Checkpoints: everything a resumed run needs, in one safetensors file, whole or absent, with a checksum of it all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from injerto.basics.checksums import CHECKSUM, checksum, content_checksum
from injerto.basics.errors import InjertoError
from injerto.basics.files import atomic_path

Tensors = dict[str, torch.Tensor]
LAST, BEST = "last.safetensors", "best.safetensors"


def save_checkpoint(path: Path, tensors: Tensors, state: dict[str, Any]) -> str:
    """Write tensors and a JSON-ready state.

    Args:
        path: The file.
        tensors: By name.
        state: What else the run must remember.

    Returns:
        The checksum of both.

    Raises:
        InjertoError: Where the disk is full.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    found = _checksum(contiguous, json.loads(json.dumps(state)))
    text = json.dumps(state | {CHECKSUM: found})  # one entry: several would be in any order
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={"state": text})
        except SafetensorError as error:  # safetensors wraps "no space left on device"
            raise InjertoError(f"cannot write {path}: {error}; free space or choose another --out") from error
    return found


def load_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Args:
        path: The file.

    Returns:
        Its tensors, in memory of their own, and its state.

    Raises:
        InjertoError: Where it is damaged.
    """
    tensors, state, _ = _load(path)
    return tensors, state


def _load(path: Path) -> tuple[Tensors, dict[str, Any], str]:
    try:
        if not path.is_file():
            raise OSError("it is no file")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  not a dict
        state = json.loads(metadata["state"])
        noted = state.pop(CHECKSUM, None)
        found = _checksum(tensors, state)
        if noted not in (None, found):
            raise ValueError("its checksum does not fit")
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        if "KeyboardInterrupt" in str(error):  # safetensors wraps what is raised while it reads
            raise KeyboardInterrupt from None
        raise unsound(path, f"cannot be read ({str(error)[:300]})") from None
    return tensors, state, found


def _checksum(tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> str:
    """Of names, types, shapes and bytes of all tensors, and of the state."""
    found = content_checksum(state)
    for name, tensor in sorted(tensors.items()):
        found = checksum(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        if tensor.numel():
            found = checksum(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def unsound(path: Path, what: str) -> InjertoError:
    """The error for a checkpoint that a run cannot go on from.

    Args:
        path: The file.
        what: What is wrong with it.
    """
    return InjertoError(
        f"checkpoint {path} {what}; start again with --overwrite (in a comparison or search: "
        f"remove {path.parent.parent})"
    )


class Checkpoints:
    """The two checkpoints of a run: the last step, and the best weights so far; bound to each other and to the run."""

    def __init__(self, folder: Path, run: str) -> None:
        """Nothing is saved yet.

        Args:
            folder: Where they go.
            run: What tells the run from all that would compute something else.
        """
        self.last, self.best, self.run = folder / LAST, folder / BEST, run
        self._noted: str | None = ""  # checksum of the best; None where the last checkpoint is of an earlier version

    def save(self, tensors: Tensors, state: dict[str, Any], best: Tensors | None, best_step: int) -> None:
        """Write the best weights where there are new ones, then the last step.

        Args:
            tensors: Everything that a resumed run needs.
            state: Likewise.
            best: New best weights.
            best_step: Their step.
        """
        if best is not None:
            self._noted = save_checkpoint(self.best, best, {"step": best_step, "run": self.run})
        save_checkpoint(self.last, tensors, state | {"run": self.run, "best": self._noted})

    def load_last(self) -> tuple[Tensors, dict[str, Any]] | None:
        """The last step; None where there is no checkpoint.

        Raises:
            InjertoError: Where it is damaged or another run's, or the best weights do not belong to it.
        """
        if not self.last.exists():
            return None
        tensors, state = load_checkpoint(self.last)
        if state.pop("run", self.run) != self.run:
            raise unsound(self.last, "is another run's")
        self._noted = state.pop("best", None)
        if self._noted:
            _, about, found = _load(self.best)
            later = about.get("run") == self.run and about.get("step", 0) > state["progress"]["step"]
            if found != self._noted and not later:  # killed between the two, a run comes by that step again
                raise unsound(self.best, "does not belong to the last one")
        return tensors, state

    def load_best(self) -> Tensors:
        """The best weights.

        Raises:
            InjertoError: Where they are damaged, or not those that were written.
        """
        tensors, _, found = _load(self.best)
        if self._noted not in (None, found):
            raise unsound(self.best, "is not the one that this run wrote")
        return tensors


def check_names(
    path: Path, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], optimized: set[str]
) -> None:
    """Refuse a checkpoint that holds other tensors than the run has: what does not match would be left out in silence.

    Args:
        path: The file.
        tensors: What it holds.
        wanted: What the model and the objective have.
        optimized: Names of the optimizer's parameters.

    Raises:
        InjertoError: Where a name, a shape or a type differs.
    """
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            if rest.rpartition(".")[0] not in optimized:
                raise unsound(path, f"does not fit: nothing is optimized under '{name}'")
            continue
        known = wanted.get(name)
        if kind == "average":
            known = wanted.get(rest, wanted.get(rest.partition(".")[2]))  # SWAD has several
        if known is None:
            raise unsound(path, f"does not fit: the run has no '{name}'")
        if tensor.shape != known.shape or tensor.dtype != known.dtype:
            raise unsound(path, f"does not fit: '{name}' is {tensor.dtype} {tuple(tensor.shape)} there")
    for name in wanted:
        if name not in tensors:
            raise unsound(path, f"does not fit: '{name}' is missing")


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
