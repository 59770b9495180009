"""Low-rank pairs as 8-bit integers: one scale for each of the r rows of A and columns of B."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from injerto.adapters.peft import is_pair
from injerto.basics.files import atomic_path

SCALE = ".scale"
"""What the name of a tensor's scales ends in."""
LEVELS = 127


def quantize(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Symmetric rounding to -127..127 with one scale per slice.

    Args:
        tensor: A or B.
        dim: Which of its dimensions is r.

    Returns:
        Integers of the tensor's shape, and scales (r,).
    """
    others = [i for i in range(tensor.ndim) if i != dim]
    scale = tensor.abs().amax(dim=others).clamp_min(1e-30) / LEVELS
    return (tensor / _along(scale, tensor.ndim, dim)).round().to(torch.int8), scale


def dequantize(integers: Tensor, scale: Tensor, dim: int) -> Tensor:
    """What integers and scales stand for.

    Args:
        integers: int8.
        scale: (r,).
        dim: Which of the integers' dimensions is r.
    """
    return integers.to(scale.dtype) * _along(scale, integers.ndim, dim)


def _along(scale: Tensor, ndim: int, dim: int) -> Tensor:
    return scale.view([-1 if i == dim else 1 for i in range(ndim)])


def balance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The same product from its singular vectors, each of the two with the root of the singular values.

    A pair that is the difference of two (PiSSA's) would lose that difference in the rounding of each.

    Args:
        a: (r, ...).
        b: (out, r, ...).

    Returns:
        Of the same shapes.
    """
    left, right = torch.linalg.qr(b.flatten(1).double()), torch.linalg.qr(a.flatten(1).T.double())
    u, values, v = torch.linalg.svd(left.R @ right.R.T)
    root = values.sqrt()
    rank = len(root)
    new_b, new_a = torch.zeros_like(b).flatten(1), torch.zeros_like(a).flatten(1)
    new_b[:, :rank] = (left.Q @ u[:, :rank] * root).to(b.dtype)
    new_a[:rank] = ((right.Q @ v[:rank].T) * root).T.to(a.dtype)
    return new_a.view_as(a), new_b.view_as(b)


def rank_dim(name: str) -> int:
    """Which dimension of a pair's tensor is r.

    Args:
        name: As PEFT calls it.
    """
    return 0 if name.endswith(("lora_A.weight", "lora_embedding_A")) else 1


def quantize_file(source: Path, out: Path) -> None:
    """Store the pairs of an adapter's file as integers; magnitudes and whole layers stay as they are.

    Args:
        source: PEFT's file.
        out: The new one.
    """
    tensors = load_file(source)
    for name in [name for name in tensors if is_pair(name) and rank_dim(name) == 0]:
        other = name.replace("lora_A.weight", "lora_B.weight").replace("lora_embedding_A", "lora_embedding_B")
        if tensors[name].shape[0] == tensors[other].shape[1]:  # no groups
            tensors[name], tensors[other] = balance(tensors[name], tensors[other])
    for name in [name for name in tensors if is_pair(name)]:
        tensors[name], tensors[f"{name}{SCALE}"] = quantize(tensors[name].float(), rank_dim(name))
    with atomic_path(out) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
