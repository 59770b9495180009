"""A backbone cut at every stage: the two halves are the whole, in values, in gradients and in what is computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.domains.preprocessing import ImagePreprocessing

TIMM = ["resnet", "efficientnet", "convnext", "vit", "swin"]
TEXT = ["bert", "distilbert", "roberta", "deberta", "deberta-v2"]
VISION = ["vit", "swin", "convnext", "resnet"]


def batch(backbone: Backbone, count: int = 5) -> Any:
    generator = torch.Generator().manual_seed(7)
    size = backbone.preprocessing
    if isinstance(size, ImagePreprocessing):
        return torch.randn(count, 3, size.height, size.width, generator=generator)
    mask = (torch.arange(11)[None] < torch.tensor([11, 4, 7, 2, 9])[:, None]).long()
    return {"input_ids": torch.randint(5, 19, (count, 11), generator=generator) * mask, "attention_mask": mask}


def mask_of(inputs: Any) -> Tensor | None:
    return inputs["attention_mask"] if isinstance(inputs, dict) else None


def ran(model: nn.Module, call: Callable[[], Any]) -> set[int]:
    """The modules with parameters of their own whose real forward ran."""
    seen: set[int] = set()
    handles = [
        module.register_forward_hook(
            lambda module, *_: seen.add(id(module)) if "forward" not in module.__dict__ else None
        )
        for module in model.modules()
        if list(module.parameters(recurse=False))
    ]
    call()
    for handle in handles:
        handle.remove()
    return seen


def check(backbone: Backbone, cheap: bool = True) -> None:
    inputs = batch(backbone)
    for k in range(1, len(backbone.stages)):
        halves = backbone.split(k)
        assert halves is not None, f"no cut at stage {k}"
        prefix, suffix = halves
        hidden = prefix(inputs).detach()
        if isinstance(inputs, dict):  # nothing may depend on what stands at padded tokens
            hidden = hidden * inputs["attention_mask"][..., None]
        expected, found = backbone(inputs), suffix(hidden, mask_of(inputs))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(backbone.stage_of(name) >= k)
        weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
        backbone.model.zero_grad()
        (backbone(inputs) * weights).sum().backward()
        whole = {n: p.grad for n, p in backbone.model.named_parameters() if p.grad is not None}
        backbone.model.zero_grad()
        (suffix(hidden, mask_of(inputs)) * weights).sum().backward()
        half = {n: p.grad for n, p in backbone.model.named_parameters() if p.grad is not None}
        assert whole.keys() == half.keys() and whole
        for name in whole:
            limit = 1e-4 * float(whole[name].abs().max()) + 1e-6
            torch.testing.assert_close(half[name], whole[name], rtol=1e-3, atol=limit)
        names = {id(module): name for name, module in backbone.model.named_modules()}
        with torch.no_grad():
            called = {names[i] for i in ran(backbone.model, lambda: suffix(hidden, mask_of(inputs)))}
        stages = {
            backbone.stage_of(f"{name}.{own}")
            for name in called
            for own, _ in backbone.model.get_submodule(name).named_parameters(recurse=False)
        }
        assert stages >= {len(backbone.stages) - 1}
        if cheap:
            assert min(stages) >= k, f"stage {min(stages)} ran above a cut at {k}"
        with torch.no_grad():  # and the whole is whole again
            torch.testing.assert_close(backbone(inputs), expected)
        assert not any("forward" in module.__dict__ for module in backbone.model.modules())


@pytest.mark.parametrize("family", TIMM)
def test_timm(family: str, timm_folder: Callable[..., Path]) -> None:
    check(load_backbone(str(timm_folder(family))))


@pytest.mark.parametrize("family", TEXT)
def test_texts(family: str, text_folder: Callable[..., Path]) -> None:
    check(load_backbone(f"hf:{text_folder(family)}"), cheap="deberta" not in family)  # its shared tables are made anew


@pytest.mark.parametrize("family", VISION)
def test_transformers_vision(family: str, vision_folder: Callable[..., Path]) -> None:
    check(load_backbone(str(vision_folder(family))))


def test_a_network_that_cannot_be_cut_says_so() -> None:
    class Skips(nn.Module):
        """The last block reads what the first one read, past the cut."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, 2)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()) for _ in range(3))

        def forward(self, images: Tensor) -> Tensor:
            first = x = self.stem(images)
            for block in self.blocks:
                x = block(x)
            return (x + first).mean((2, 3))

    torch.manual_seed(0)
    backbone = load_backbone(Skips(), preprocessing=ImagePreprocessing(32, 32, (0.5,) * 3, (0.5,) * 3))
    assert len(backbone.stages) == 4
    assert backbone.split(1) is not None  # there the stem's output is what enters the cut
    assert backbone.split(2) is None and backbone.split(3) is None
