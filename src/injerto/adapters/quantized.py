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
    for name in [name for name in tensors if is_pair(name)]:
        tensors[name], tensors[f"{name}{SCALE}"] = quantize(tensors[name].float(), rank_dim(name))
    with atomic_path(out) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
