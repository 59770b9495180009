"""The optimizer: every parameter with its own rate; what was pretrained may be pulled back to where it started."""

from collections.abc import Iterable

import torch
from torch import nn

from injerto.recipe.recipe import Recipe
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model
from injerto.training.schedule import rate_factor
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
        The optimizer. A group knows its rate without schedule (``peak``), the share of the steps after which its
        schedule begins (``begins``), and under L2-SP where its parameters started (``start``, empty otherwise).
    """
    backbone, stage_of = dict(model.backbone.model.named_parameters()), model.backbone.stage_of
    pulled = recipe.l2_sp > 0
    rated = [
        (backbone[name], lr * rate, not pulled, tuned.thaws_at(stage_of(name))) for name, rate in tuned.rates.items()
    ]
    rated += [(parameter, head_lr, True, 0.0) for parameter in (*model.new_layers().values(), *own)]
    groups: dict[tuple[float, bool, bool, float], list[nn.Parameter]] = {}
    for parameter, rate, free, begins in rated:
        groups.setdefault((rate, free and parameter.ndim > 1, free, begins), []).append(parameter)
    described = [
        {
            "params": parameters,
            "lr": rate,
            "peak": rate,
            "begins": begins,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "start": [] if free else [parameter.detach().clone() for parameter in parameters],
        }
        for (rate, decays, free, begins), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(described, momentum=0.9)
    return torch.optim.AdamW(described, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, step: int, steps: int, recipe: Recipe, factor: float = 1.0) -> None:
    """Give every group its rate at a step.

    The schedule of what thaws on the way begins when it thaws, warm-up and all, and ends with the run: ULMFiT restarts
    its slanted triangle for the layers that it thaws.

    Args:
        optimizer: From :func:`make_optimizer`.
        step: The step about to be taken, from 0.
        steps: Steps in the whole run.
        recipe: Resolved.
        factor: Of ``--lr auto``, on all rates.
    """
    for group in optimizer.param_groups:
        first = round(group["begins"] * steps)
        share = rate_factor(step - first, steps - first, recipe.warmup, recipe.average == "swad")
        group["lr"] = group["peak"] * factor * (share if step >= first else 0.0)


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
