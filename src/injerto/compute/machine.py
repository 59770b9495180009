"""What this machine can do, asked once."""

import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version


@dataclass(frozen=True)
class Machine:
    """The facts the compute plan rests on.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        name: The processor's or accelerator's name.
        cores: CPU cores this process may use.
        bf16: Whether bfloat16 arithmetic is in hardware (AVX512-BF16 or AMX on a CPU, Ampere or later on a GPU).
    """

    device: str
    name: str
    cores: int
    bf16: bool

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.name}, {self.cores} cores, {self.device}, bf16 in hardware: {'yes' if self.bf16 else 'no'}"


def _cpu_flags() -> set[str]:
    """Flags of the first CPU as Linux names them, empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith(("flags", "Features")):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def installed_versions(*more: str) -> dict[str, str]:
    """Versions of the packages a result depends on.

    Args:
        *more: Packages beside the usual ones.
    """
    return {name: version(name) for name in ("injerto", "torch", "timm", "transformers", *more)}


@cache
def machine() -> Machine:
    """The machine this process runs on."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        return Machine("cuda", torch.cuda.get_device_name(), cores, torch.cuda.is_bf16_supported())
    bf16 = bool(_cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
    return Machine("cpu", _cpu_name(), cores, bf16)
