"""The optimizer: every parameter with its own rate; what was pretrained may be pulled back to where it started."""

from collections.abc import Iterable

import torch
from torch import nn

from injerto.recipe.recipe import Recipe
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model
from injerto.tuning.base import Tuned


def make_optimizer(
    model: Model | LanguageModel,
    tuned: Tuned,
    recipe: Recipe,
    lr: float,
    head_lr: float,
    own: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """AdamW or SGD with one group per rate; no weight decay on vectors (biases, norms).

    Args:
        model: Backbone, neck and head.
        tuned: Which of the backbone's parameters learn, and their factors on ``lr``.
        recipe: Resolved.
        lr: Peak rate of what was pretrained.
        head_lr: Peak rate of the new layers.
        own: Parameters of the objective (discriminators); they learn at ``head_lr``.

    Returns:
        The optimizer. A group knows its rate without schedule (``peak``), and under L2-SP where its parameters started
        (``start``, empty otherwise).
    """
    backbone = dict(model.backbone.model.named_parameters())
    pulled = recipe.l2_sp > 0
    rated = [(backbone[name], lr * rate, not pulled) for name, rate in tuned.rates.items()]
    rated += [(parameter, head_lr, True) for parameter in (*model.new_layers().values(), *own)]
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for parameter, rate, free in rated:
        groups.setdefault((rate, free and parameter.ndim > 1, free), []).append(parameter)
    described = [
        {
            "params": parameters,
            "lr": rate,
            "peak": rate,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "start": [] if free else [parameter.detach().clone() for parameter in parameters],
        }
        for (rate, decays, free), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(described, momentum=0.9)
    return torch.optim.AdamW(described, fused=True)


@torch.no_grad()
def pull(optimizer: torch.optim.Optimizer, strength: float) -> None:
    """L2-SP (Li et al., ICML 2018, eq. 4), decoupled from the gradient as AdamW decouples weight decay.

    Args:
        optimizer: From :func:`make_optimizer`, about to do a step.
        strength: Of the pull; times the learning rate it is the share of the way back.
    """
    for group in optimizer.param_groups:
        for parameter, start in zip(group["params"], group["start"], strict=False):  # no start: not pulled
            if parameter.grad is not None:
                parameter.lerp_(start, min(1.0, group["lr"] * strength))
