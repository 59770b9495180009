"""A network is tried with its tuning before the first step, and left as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import injerto
from injerto.basics.errors import InjertoError
from injerto.compute.plan import ComputePlan, make_plan
from injerto.recipe.grammar import parse_tuning
from injerto.recipe.recipe import make_recipe
from injerto.training.rehearsal import rehearse
from injerto.tuning.base import apply_tuning


class Net(nn.Module):
    """A small convolutional network with BatchNorm and something between its parts."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.between = between or nn.Identity()
        self.second = nn.Conv2d(4, 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.between(self.first(images))).mean((2, 3))


class OnlyFloat32(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        if values.dtype != torch.float32:
            raise RuntimeError("no kernel for this dtype")
        return values


class BrokenBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError("no backward here")


class Broken(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return BrokenBackward.apply(values)


def tried(
    between: nn.Module | None, precision: str, tuning: str = "full", norm: str = "frozen", rows: int = 2
) -> tuple[Any, ComputePlan, ComputePlan]:
    torch.manual_seed(0)
    backbone = injerto.load_backbone(Net(between), image_size=32)
    plan = make_plan(backbone, "fp32", 1)
    plan = type(plan)(**{**vars(plan), "precision": precision})
    recipe = make_recipe(data="x", norm=norm, batch_size=rows)
    tuned = apply_tuning(backbone, parse_tuning(tuning), 1.0, 0)
    return backbone, plan, rehearse(backbone, tuned, plan, recipe)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sound_network_keeps_its_plan_and_its_state(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    before = Net().state_dict()
    backbone, plan, after = tried(None, precision)
    assert after == plan and capsys.readouterr().err == ""
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not backbone.model.training
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_what_bf16_lacks_is_computed_in_fp32_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    _, plan, after = tried(OnlyFloat32(), "bf16")
    assert (plan.precision, after.precision) == ("bf16", "fp32")
    assert capsys.readouterr().err.count("does not train in bf16 (no kernel for this dtype); fp32 instead") == 1


def test_a_network_that_cannot_train_is_refused_in_one_line() -> None:
    with pytest.raises(InjertoError, match="does not train so \\(no backward here\\)") as error:
        tried(Broken(), "fp32")
    assert "\n" not in str(error.value)


def test_a_frozen_backbone_is_not_tried() -> None:
    _, plan, after = tried(Broken(), "fp32", "head")
    assert after == plan


def test_statistics_of_one_example_are_refused_by_their_cause() -> None:
    small = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Upsample(scale_factor=4))
    with pytest.raises(InjertoError, match="one example at a time with --norm train .*--batch-size"):
        tried(small, "fp32", norm="train", rows=1)
    for norm, rows in (("train", 2), ("frozen", 1)):
        backbone, plan, after = tried(small, "fp32", norm=norm, rows=rows)
        assert after == plan and not any(module.training for module in backbone.model.modules())
