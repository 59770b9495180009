"""Stages: every name in exactly one, and training the stages from k on leaves what runs before them as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone, probe_batch
from injerto.backbones.load import load_backbone
from injerto.backbones.stages import find_stages

TIMM = {"resnet": 5, "efficientnet": 8, "convnext": 5, "vit": 4, "swin": 4}
TEXT = ["bert", "distilbert", "roberta", "deberta", "deberta-v2"]
VISION = {"vit": 4, "swin": 4, "convnext": 5, "resnet": 5}


def check(backbone: Backbone, stages: int) -> None:
    model = backbone.model
    names = [name for stage in backbone.stages for name in stage.parameters]
    tensors = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    assert sorted(names) == sorted(tensors)
    assert len(backbone.stages) == stages, [stage.name for stage in backbone.stages]
    check_effect(model, backbone.stages, lambda: backbone(probe_batch(backbone.preprocessing, torch.device("cpu"))))


def check_effect(model: nn.Module, stages: tuple[Any, ...], run: Callable[[], Tensor]) -> None:
    """Changing stage j leaves the input of every block up to j's own as it was, and changes the embedding."""
    inputs: dict[str, Tensor] = {}
    for stage in stages[1:]:

        def keep(module: nn.Module, given: tuple[Any, ...], name: str = stage.name) -> None:
            inputs[name] = given[0].detach().clone()

        model.get_submodule(stage.name).register_forward_pre_hook(keep)
    with torch.no_grad():
        embedding, before = run(), dict(inputs)
        assert set(before) == {stage.name for stage in stages[1:]}
        for j, stage in enumerate(stages):
            kept = {name: p.clone() for name, p in model.named_parameters() if name in stage.parameters}
            for name, parameter in kept.items():
                noise = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(2))
                model.get_parameter(name).add_(noise)
            changed = run()
            for i, other in enumerate(stages[1:], start=1):
                same = torch.equal(inputs[other.name], before[other.name])
                assert same == (i <= j), f"stage {j} ({stage.name}) and the input of {other.name}"
            assert not torch.allclose(changed, embedding)
            for name, parameter in kept.items():
                model.get_parameter(name).copy_(parameter)


@pytest.mark.parametrize("family", TIMM)
def test_timm(family: str, timm_folder: Callable[..., Path]) -> None:
    check(load_backbone(str(timm_folder(family))), TIMM[family])


@pytest.mark.parametrize("family", TEXT)
def test_texts(family: str, text_folder: Callable[..., Path]) -> None:
    backbone = load_backbone(f"hf:{text_folder(family)}")
    check(backbone, 4)
    assert backbone.stages[0].name == "embeddings"
    assert all("pooler" not in name for stage in backbone.stages for name in stage.parameters)


@pytest.mark.parametrize("family", VISION)
def test_transformers_vision(family: str, vision_folder: Callable[..., Path]) -> None:
    check(load_backbone(str(vision_folder(family))), VISION[family])


def test_what_is_read_by_all_layers_is_stage_0(text_folder: Callable[..., Path]) -> None:
    backbone = load_backbone(str(text_folder("deberta-v2")))
    assert {"encoder.rel_embeddings.weight", "encoder.LayerNorm.weight"} <= backbone.stages[0].parameters
    assert backbone.stage_of("encoder.conv.conv.weight") == 1  # runs behind the first layer
    with pytest.raises(KeyError):
        backbone.stage_of("encoder.nothing")


def test_what_stands_around_the_blocks(timm_folder: Callable[..., Path]) -> None:
    vit = load_backbone(str(timm_folder("vit")))
    assert {"cls_token", "pos_embed"} <= vit.stages[0].parameters
    assert "norm.weight" in vit.stages[-1].parameters
    lite = load_backbone(str(timm_folder("efficientnet")))
    assert {"conv_stem.weight", "bn1.running_mean"} <= lite.stages[0].parameters
    assert {"conv_head.weight", "bn2.running_var"} <= lite.stages[-1].parameters


def test_a_pooler_that_is_not_used_is_last(text_folder: Callable[..., Path]) -> None:
    from transformers import AutoModel, AutoTokenizer

    from injerto.domains.preprocessing import TextPreprocessing

    folder = text_folder("bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    preprocessing = TextPreprocessing(tokenizer, 16, "tiny")
    backbone = load_backbone(AutoModel.from_pretrained(folder), preprocessing=preprocessing)
    assert backbone.stage_of("pooler.dense.weight") == 3 == len(backbone.stages) - 1


class Unused(nn.Module):
    """A table that the blocks share, a layer that nobody calls, a tied weight, and a mask on the root."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(8, 8)
        self.spare = nn.Linear(8, 8)
        self.start = nn.Parameter(torch.randn(8))
        self.stem = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.tail = nn.Linear(8, 2)
        self.register_buffer("seen", torch.zeros(1))
        self.blocks[2].bias = self.blocks[1].bias

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images.mean((2, 3))) + self.start
        for block in self.blocks:
            x = torch.relu(block(x @ self.table.weight))
        return self.tail(x)


def test_by_use_not_by_name() -> None:
    model = Unused()
    stages = find_stages(model, lambda: model(torch.randn(2, 3, 4, 4)))
    place = {name: i for i, stage in enumerate(stages) for name in stage.parameters}
    expected = {"table.weight": 0, "table.bias": 3, "spare.weight": 3, "spare.bias": 3, "start": 0, "seen": 0}
    expected |= {"stem.weight": 0, "blocks.0.weight": 1, "blocks.2.weight": 3, "tail.weight": 3}
    expected |= {"blocks.1.bias": 2, "blocks.2.bias": 2}  # one tensor: where it is first needed
    assert {name: place[name] for name in expected} == expected
    assert all(parameter.requires_grad for parameter in model.parameters())


def small(out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())


def test_plain_modules() -> None:
    def names(model: nn.Module, width: int = 3) -> list[str]:
        model.eval()
        return [stage.name for stage in find_stages(model, lambda: model(torch.randn(2, width, 8, 8)))]

    flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    assert names(flat) == ["0", "2", "5"]
    stemmed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), small(8), small(8), nn.Flatten())
    assert names(stemmed) == ["stem", "2", "3"]  # bare layers are no blocks beside composite ones
    assert names(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))) == ["model"]
    normed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten())
    assert names(normed) == ["0", "2"]
    named = nn.Sequential()
    named.add_module("body", small(8))
    named.add_module("neck", nn.Conv2d(8, 4, 1))
    assert names(named, 8) == ["body", "neck"]
    assert names(nn.Identity()) == ["model"]


def test_a_trimmed_torchvision_network_and_one_with_a_projection() -> None:
    torchvision = pytest.importorskip("torchvision")
    resnet = torchvision.models.resnet18(weights=None)
    body = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
    backbone = load_backbone(body, image_size=64)
    assert [stage.name for stage in backbone.stages] == ["stem", "4", "5", "6", "7"]
    projected = load_backbone(nn.Sequential(body, nn.Linear(512, 16)), image_size=64)
    assert [stage.name for stage in projected.stages] == ["stem", "0.4", "0.5", "0.6", "0.7"]
    assert projected.stage_of("1.weight") == 4
    mobile = load_backbone(torchvision.models.mobilenet_v3_small(weights=None).features, image_size=64)
    assert mobile.stages[0].name == "0" and mobile.any_size


def test_blocks_that_a_wide_last_layer_outweighs() -> None:
    import timm

    backbone = load_backbone(timm.create_model("mobilenetv3_small_050", num_classes=0), image_size=64)
    assert [stage.name for stage in backbone.stages] == ["stem", *(f"blocks.{i}" for i in range(6))]
