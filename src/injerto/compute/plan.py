"""The compute plan: decided from the machine, the model and the data, and printed before work starts."""

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.basics.progress import format_seconds, note
from injerto.compute.crew import threads_each
from injerto.compute.machine import Machine, machine


@dataclass(frozen=True)
class ComputePlan:
    """How the work is done.

    Attributes:
        device: Where tensors live.
        precision: ``fp32`` or ``bf16`` (autocast in training, weights cast for frozen inference).
        channels_last: Whether images are laid out as (B, H, W, C) in memory.
        threads: CPU threads of the computation.
        cache: What is cached, or why nothing is.
        seconds: Expected duration, None where it is not known yet.
    """

    device: str
    precision: str
    channels_last: bool
    threads: int
    cache: str = "nothing"
    seconds: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the arithmetic."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def arithmetic(self) -> str:
        """What decides the numbers of a computation, but for their last digits."""
        return f"{self.precision}/{self.device}/{'channels_last' if self.channels_last else 'contiguous'}"

    @property
    def text_chunk(self) -> int:
        """Tokens in one pass of frozen inference: as many texts of L tokens as fit, one at least.

        The last chunk of every length is padded to the same size, so a small one wastes least. On a processor 512 is
        as fast as 2048 (MiniLM, within 12 % from 256 to 2048 tokens); a card wants more at a time.
        """
        return 512 if self.device == "cpu" else 2048

    def lines(self) -> list[str]:
        """The plan for people, a line each."""
        layout = "channels_last" if self.channels_last else "contiguous"
        text = [f"plan: {machine()}", f"plan: {self.precision}, {layout}, {self.threads} threads; cached: {self.cache}"]
        if self.seconds is not None:
            text.append(f"plan: about {format_seconds(self.seconds)}")
        return text

    def card(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return {
            "device": self.device,
            "precision": self.precision,
            "channels_last": self.channels_last,
            "threads": self.threads,
        }


_FORKED = False
"""Whether this process was forked from one that had computed."""


def _in_child() -> None:
    global _FORKED
    _FORKED = True
    torch.set_num_threads(1)


@cache
def _survive_forks() -> None:
    """Let a forked child compute with one thread: torch's other threads do not exist there, and it would wait for them.

    Registered once, when this process computes for the first time.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)


def make_plan(backbone: Backbone, precision: str = "auto", threads: int | None = None) -> ComputePlan:
    """Decide precision, layout and threads.

    bfloat16 is used only where the hardware has it: elsewhere it is emulated and slower than float32.

    Args:
        backbone: The pretrained model.
        precision: ``auto``, ``fp32`` or ``bf16``.
        threads: CPU threads, None for ``OMP_NUM_THREADS`` or all cores.

    Returns:
        The plan; nothing is cached and no duration is known yet. Torch's thread count is set as a side effect.

    Raises:
        InjertoError: Where bf16 is asked of a machine without it.
    """
    here: Machine = machine()
    if precision == "bf16" and not here.bf16:
        raise InjertoError(f"--precision bf16: {here.name} has no bfloat16 in hardware; use --precision fp32")
    if precision == "auto":
        precision = "bf16" if here.bf16 else "fp32"
    if _FORKED and (threads or 1) > 1:
        note(f"--threads {threads}: a process forked from one that has computed uses 1 thread")
    threads = 1 if _FORKED else threads or threads_each(here.cores)
    _survive_forks()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    channels_last = backbone.modality == "image" and bool(convolutions)
    unsafe = [one for one in convolutions if _odd_groups(one) or (threads > 1 and _narrow_steps(one))]
    if channels_last and here.device == "cpu" and unsafe:
        note(
            f"plan: {len(unsafe)} convolutions of {backbone.spec} are of a shape that channels_last is unsafe for on a "
            "processor; the layout is contiguous"
        )
        channels_last = False
    return ComputePlan(here.device, precision, channels_last, threads)


def _narrow_steps(convolution: nn.Conv2d) -> bool:
    """Whether a convolution of one pixel takes steps over fewer channels than fill a vector.

    In channels_last and with several threads, the backward pass of such ones has overwritten memory that is not its own
    (torch 2.14.1, inputs of 3 to 15 channels, two examples and more). Pretrained networks have no such ones.
    """
    narrow = convolution.in_channels // convolution.groups < 16
    return convolution.kernel_size == (1, 1) and max(convolution.stride) > 1 and narrow


def _odd_groups(convolution: nn.Conv2d) -> bool:
    """Whether a convolution has groups, of several channels each, whose number does not fill the vectors.

    Torch has crashed the process on such ones in channels_last (a tiny RegNet of random weights at 224 px), and a crash
    cannot be caught; the groups of pretrained networks hold a multiple of 4 channels, a depthwise one's hold 1.
    """
    groups = convolution.groups
    sizes = convolution.in_channels // groups, convolution.out_channels // groups
    return groups > 1 and max(sizes) > 1 and any(size % 4 for size in sizes)
