"""Adapters of every kind on two tiny bases; what they changed is made large, so that a mix-up shows."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import injerto
import tiny

PICTURE_KINDS = {
    "head": {"tuning": "head"},
    "neck": {"tuning": "head", "neck": "16"},
    "mlp": {"tuning": "head", "head": "mlp"},
    "last": {"tuning": "last:1"},
    "full": {"tuning": "full"},
    "lora": {"tuning": "lora(r=1)"},
    "lora-64": {"tuning": "lora(r=64)"},
    "lora-late": {"tuning": "lora(r=3):last:2"},
    "lora-native": {"tuning": "lora:last:1", "head": "native"},
    "dora": {"tuning": "lora(r=2,variant=dora)"},
    "slider": {"tuning": "lora:last:2", "slider": True},
    "slider-last": {"tuning": "last:1", "slider": True},
    "norms": {"tuning": "head", "norm": "recalibrate"},
    "lora-norms": {"tuning": "lora:last:2", "norm": "recalibrate"},
    "affine": {"tuning": "norm"},
}
TEXT_KINDS = {
    "head": {"tuning": "head"},
    "last": {"tuning": "last:1"},
    "lora": {"tuning": "lora(targets=query/value,r=1)"},
    "lora-64": {"tuning": "lora(r=64)"},
    "lora-late": {"tuning": "lora(r=5):last:1"},
    "short": {"tuning": "lora(r=2)", "max_length": 8},
    "table": {"tuning": "lora(targets=word_embeddings/query,r=2)"},
    "bitfit": {"tuning": "bitfit"},
}


def vary(adapter: Path, out: Path, seed: int) -> Path:
    """A copy of an adapter with other numbers in it: a stranger to the first."""
    shutil.copytree(adapter, out)
    generator = torch.Generator().manual_seed(seed)
    for file in sorted(set(out.glob("*.safetensors")) - {out / "drift.safetensors"}):
        with safe_open(file, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensors[name] = tensor * (1 + noise.abs())
            elif "magnitude" in name:
                tensors[name] = tensor * (1 + 0.1 * noise)
            elif "lora_" in name or file.name == "head.safetensors":
                tensors[name] = tensor + 0.2 * noise * (tensor.std(correction=0) + 0.3)
            else:
                tensors[name] = tensor + 0.1 * noise * (tensor.std(correction=0) + 0.01)
        save_file(tensors, file, metadata={"format": "pt"})
    return tiny.sign(out)


def _adapters(
    root: Path, data: Path, source: str, backbone: Path, kinds: dict[str, Any], quick: Any
) -> dict[str, Path]:
    found = {}
    for number, (name, settings) in enumerate(kinds.items()):
        given = {**quick, "steps": 2, "augment": "none", **settings}
        run = injerto.fit(data, source=source, backbone=backbone, out=root / f"{name}-run", **given)
        found[name] = vary(run.path / "adapter", root / name, number)
    return found


@pytest.fixture(scope="session")
def picture_adapters(tmp_path_factory: Any, pictures: Path, tiny_timm: Path, quick: Any) -> dict[str, Path]:
    """By kind, on the tiny ResNet."""
    return _adapters(tmp_path_factory.mktemp("picture-bank"), pictures, "day", tiny_timm, PICTURE_KINDS, quick)


@pytest.fixture(scope="session")
def text_adapters(tmp_path_factory: Any, reviews: Path, tiny_bert: Path, quick: Any) -> dict[str, Path]:
    """By kind, on the tiny BERT."""
    return _adapters(tmp_path_factory.mktemp("text-bank"), reviews, "films", tiny_bert, TEXT_KINDS, quick)


@pytest.fixture(scope="session")
def varied() -> Callable[[Path, Path, int], Path]:
    """A function: a copy of an adapter with other numbers in it."""
    return vary
