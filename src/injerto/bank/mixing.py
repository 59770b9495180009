"""One forward pass of the base for rows of different adapters: each row gets its own low-rank products and norms.

The rows of a batch are sorted by layout, so that a layer changes a slice of them in place: with the adapters' pairs
stacked to (n, r, in) and (n, out, r), two batched products per layer and layout, whatever the number of adapters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from injerto.bank.resident import NORM, Entry, Layout, Resident, norm_affine
from injerto.tuning.base import BatchNorm


@dataclass(frozen=True)
class Piece:
    """What one layer does to a slice of the rows.

    Attributes:
        rows: Which.
        first: A of every row, (n, ...), or the scales of a norm, (n, C).
        second: B of every row, or the shifts of a norm.
        strength: Of every row's pair, (n, 1, 1); None where all are 1.
        total: Rows of the batch.
    """

    rows: slice
    first: Tensor
    second: Tensor
    strength: Tensor | None
    total: int

    def of(self, values: Tensor) -> Tensor:
        """The slice of a tensor whose leading dimensions are the rows, then what a row was cut into: (n, L, D).

        Args:
            values: (B, ..., D) or (B x windows, ..., D).
        """
        return values.view(self.total, -1, values.shape[-1])[self.rows]


@contextmanager
def mixed(network: nn.Module, rows: Sequence[tuple[Resident | None, float]]) -> Iterator[None]:
    """Let a forward pass compute row i with adapter i.

    Args:
        network: The base.
        rows: Adapter (None for the base) and strength of every row; rows of one layout stand together.
    """
    work: dict[str, tuple[str, list[Piece]]] = {}
    for layout, where in _runs(rows):
        chosen = [rows[i] for i in range(where.start, where.stop)]
        flat = torch.stack([resident.flat for resident, _ in chosen if resident is not None])
        strengths = [strength for _, strength in chosen]
        partly = any(strength != 1 for strength in strengths)
        factor = torch.tensor(strengths, dtype=flat.dtype, device=flat.device).view(-1, 1, 1) if partly else None
        for entry, first, second in _cut(flat, layout):
            work.setdefault(entry.path, (entry.kind, []))[1].append(Piece(where, first, second, factor, len(rows)))
    with replaced(
        (network.get_submodule(path), partial(FORWARDS[kind], network.get_submodule(path), pieces))
        for path, (kind, pieces) in work.items()
    ):
        yield


@contextmanager
def replaced(forwards: Iterable[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Let modules compute otherwise for a while.

    Args:
        forwards: Modules, and what takes the place of their forward.
    """
    before = []
    try:
        for module, forward in forwards:
            before.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in before:
            del module.__dict__["forward"]
            if own is not None:
                module.__dict__["forward"] = own


@contextmanager
def swapped(network: nn.Module, tensors: Mapping[str, Tensor | None]) -> Iterator[None]:
    """Let a network compute with other tensors for a while.

    Args:
        network: The base.
        tensors: By name in the network.
    """
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, tensor in tensors.items():
            path, _, last = name.rpartition(".")
            module = network.get_submodule(path)
            own: dict[str, Any] = module._parameters if last in module._parameters else module._buffers  # type: ignore[assignment]
            before.append((own, last, own[last]))
            own[last] = tensor
        yield
    finally:
        for own, last, tensor in before:
            own[last] = tensor


@torch.no_grad()
def merged(network: nn.Module, resident: Resident, strength: float) -> dict[str, Tensor]:
    """Tensors of a network with one adapter alone, by name.

    Args:
        network: The base.
        resident: The adapter.
        strength: From the base (0) to the adapter (1).
    """
    state = network.state_dict()
    if resident.whole:
        if strength == 1:
            return resident.whole
        return {
            name: torch.lerp(state[name].float(), tensor.float(), strength).to(tensor.dtype)
            for name, tensor in resident.whole.items()
            if tensor.is_floating_point()
        }
    found: dict[str, Tensor] = {}
    for entry, a, b in _cut(resident.flat[None], resident.layout):
        if entry.kind == "norm":
            found |= _merged_norm(network.get_submodule(entry.path), entry.path, a[0], b[0])
            continue
        name = f"{entry.path}.weight"
        weight = state[name]
        delta = b[0].flatten(1).float() @ a[0].flatten(1).float()
        if entry.kind == "linear" and not isinstance(network.get_submodule(entry.path), nn.Linear):
            delta = delta.T  # transformers' Conv1D
        found[name] = (weight.float() + strength * delta.view(weight.shape)).to(weight.dtype)
    return found


def _merged_norm(layer: Any, path: str, scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """A norm that computes ``scale x + shift``, with the base's statistics where it has an affine."""
    mean, scale, shift = layer.running_mean, scale.to(layer.running_mean.dtype), shift.to(layer.running_mean.dtype)
    if not layer.affine:
        return {f"{path}.running_mean": -shift / scale, f"{path}.running_var": scale.square().reciprocal() - layer.eps}
    weight = scale * (layer.running_var + layer.eps).sqrt()
    return {f"{path}.weight": weight, f"{path}.bias": shift + mean * scale}


def _runs(rows: Sequence[tuple[Resident | None, float]]) -> Iterator[tuple[Layout, slice]]:
    start = 0
    for i in range(1, len(rows) + 1):
        own, other = rows[start][0], rows[i][0] if i < len(rows) else None
        layout = own.layout if own else ()
        if i < len(rows) and (other.layout if other else ()) is layout:
            continue
        if layout:
            yield layout, slice(start, i)
        start = i


def _cut(flat: Tensor, layout: Layout) -> Iterator[tuple[Entry, Tensor, Tensor]]:
    """The parts of flat rows (n, P), each (n, ...)."""
    start = 0
    for entry in layout:
        parts = []
        for shape in (entry.first, entry.second):
            size = torch.Size(shape).numel()
            parts.append(flat[:, start : start + size].view(len(flat), *shape))
            start += size
        yield entry, parts[0], parts[1]


def _linear(layer: nn.Module, pieces: Sequence[Piece], inputs: Tensor) -> Tensor:
    """A linear layer on (B, ..., in): the pair is added to its rows' outputs where they stand."""
    found: Tensor = type(layer).forward(layer, inputs)
    for piece in pieces:
        inner = torch.bmm(piece.of(inputs.contiguous()), piece.first.transpose(1, 2))
        if piece.strength is not None:
            inner.mul_(piece.strength)
        piece.of(found).baddbmm_(inner, piece.second.transpose(1, 2))
    return found


def _conv(layer: nn.Module, pieces: Sequence[Piece], inputs: Tensor) -> Tensor:
    """A convolution on (B, in, H, W)."""
    found: Tensor = type(layer).forward(layer, inputs)
    assert isinstance(layer, nn.Conv2d)
    for piece in pieces:
        rows, out, count = inputs[piece.rows], found[piece.rows], len(piece.first)
        if layer.kernel_size == (1, 1) and layer.padding in ((0, 0), 0):
            down, right = layer.stride
            inner = rows[:, :, ::down, ::right].permute(0, 2, 3, 1).reshape(count, -1, rows.shape[1])
            inner = torch.bmm(inner, piece.first.flatten(2).transpose(1, 2))
        else:
            rank = piece.first.shape[1]
            one = rows.reshape(1, -1, *rows.shape[2:])
            kernels = piece.first.reshape(count * rank, *piece.first.shape[2:])
            inner = functional.conv2d(one, kernels, None, layer.stride, layer.padding, layer.dilation, count)
            inner = inner.view(count, rank, -1).transpose(1, 2)
        if piece.strength is not None:
            inner = inner * piece.strength
        b = piece.second.flatten(2).transpose(1, 2)
        if out.permute(0, 2, 3, 1).is_contiguous():  # channels last
            out.permute(0, 2, 3, 1).view(count, -1, out.shape[1]).baddbmm_(inner, b)
        else:
            out.view(count, out.shape[1], -1).baddbmm_(b.transpose(1, 2), inner.transpose(1, 2))
    return found


def _norm(layer: nn.Module, pieces: Sequence[Piece], inputs: Tensor) -> Tensor:
    """A BatchNorm (with what its class does after) on (B, C, ...), whose rows have statistics of their own."""
    assert isinstance(layer, BatchNorm)
    own = norm_affine({part: getattr(layer, part) for part in NORM}, layer.eps)
    scale, shift = (part.to(inputs.dtype).repeat(len(inputs), 1) for part in own)
    for piece in pieces:
        scale[piece.rows], shift[piece.rows] = piece.first, piece.second
    shape = (len(inputs), -1, *[1] * (inputs.ndim - 2))
    mean = torch.zeros_like(scale[0])
    plain = {"running_mean": mean, "running_var": mean + (1 - layer.eps), "weight": None, "bias": None}
    with swapped(layer, plain):
        found: Tensor = type(layer).forward(layer, torch.addcmul(shift.view(shape), inputs, scale.view(shape)))
    return found


FORWARDS = {"linear": _linear, "conv": _conv, "norm": _norm}
