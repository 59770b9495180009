"""The norm policy, and the mode every module trains in."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.tuning.base import BatchNorm


def norm_layers(backbone: Backbone) -> dict[str, nn.Module]:
    """The backbone's BatchNorms that keep running statistics, by module name.

    Args:
        backbone: The pretrained model.
    """
    return {
        name: module
        for name, module in backbone.model.named_modules()
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }


def training_modes(backbone: Backbone, frozen: int, policy: str) -> list[tuple[nn.Module, bool]]:
    """The mode of every module while training: what learns is in training mode, everything frozen in eval mode.

    A module is in training mode when all parameters below it belong to trained stages; one without parameters
    (dropout, stochastic depth) follows the module it sits in. BatchNorms train their statistics under ``train`` only.

    Args:
        backbone: The tuned model.
        frozen: How many stages, from the bottom, do not move.
        policy: The norm policy.

    Returns:
        Every module of the network with its ``training`` flag.
    """
    modes: dict[str, bool] = {}
    modules = dict(backbone.model.named_modules())
    for name, module in modules.items():  # parents come before their children
        prefix = f"{name}." if name else ""
        stages = {backbone.stage_of(prefix + own) for own, _ in module.named_parameters()}
        modes[name] = min(stages) >= frozen if stages else modes.get(name.rpartition(".")[0], False)
    if policy != "train":
        modes |= dict.fromkeys(norm_layers(backbone), False)
    return [(modules[name], mode) for name, mode in modes.items()]


def check_norm(backbone: Backbone, policy: str) -> None:
    """Refuse to re-estimate statistics that are not there.

    Args:
        backbone: The pretrained model.
        policy: The norm policy.

    Raises:
        InjertoError: Where ``recalibrate`` meets a backbone without BatchNorm.
    """
    if policy.startswith("recalibrate") and not norm_layers(backbone):
        raise InjertoError(f"--norm {policy}: {backbone.spec} has no BatchNorm to re-estimate; leave --norm out")


@torch.no_grad()
def recalibrate(
    backbone: Backbone,
    batches: Iterable[Any],
    only: set[str] | None = None,
    forward: Callable[[Any], Any] | None = None,
) -> None:
    """Re-estimate BatchNorm statistics as the plain average over batches (AdaBN, Li et al. 2017, section 3.2).

    Args:
        backbone: Its running means and variances are replaced.
        batches: Inputs of the domain the statistics are to fit.
        only: Names of the layers; all where not given.
        forward: What a batch is given to; the backbone where not given.
    """
    forward = forward or backbone
    layers = {name: layer for name, layer in norm_layers(backbone).items() if only is None or name in only}
    backbone.eval()
    before = {}
    for name, layer in layers.items():
        assert isinstance(layer, BatchNorm)
        before[name] = layer.momentum
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.training = True
    for inputs in batches:
        forward(inputs)
    for name, layer in layers.items():
        assert isinstance(layer, BatchNorm)
        layer.momentum = before[name]
        layer.training = False
