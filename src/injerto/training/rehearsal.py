"""One forward and one backward pass before the first step, as the run will do them."""

from dataclasses import replace

import torch
from torch import Tensor

from injerto.backbones.backbone import Backbone, first_line, probe_batch
from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.compute.plan import ComputePlan
from injerto.recipe.recipe import Recipe
from injerto.tuning.base import Tuned
from injerto.tuning.norms import training_modes


def rehearse(backbone: Backbone, tuned: Tuned, plan: ComputePlan, recipe: Recipe) -> ComputePlan:
    """Try a network with its tuning, in training mode and in the plan's precision; where bf16 fails, in float32.

    Args:
        backbone: Tuned, in eval mode; left as it is.
        tuned: What the tuning decided; nothing is tried where nothing learns.
        plan: How the run will compute.
        recipe: Resolved; a batch of one is tried where a part of a step may be one example, else a batch of two.

    Returns:
        The plan, in float32 where the network does not train in bf16.

    Raises:
        InjertoError: Where it does not train at all.
    """
    if not tuned.rates:
        return plan
    norm, rows = recipe.norm or "frozen", max(1, (recipe.batch_size or 2) // recipe.accumulate)
    why = _try(backbone, tuned, plan, norm, min(rows, 2))
    if why and rows == 1 and norm == "train" and not _try(backbone, tuned, plan, norm, 2):
        raise InjertoError(
            f"{backbone.spec} does not train on one example at a time with --norm train ({why}); raise --batch-size, "
            "lower --accumulate, or leave --norm frozen"
        )
    if why and plan.precision == "bf16":
        note(f"plan: {backbone.spec} does not train in bf16 ({why}); fp32 instead")
        plan = replace(plan, precision="fp32")
        why = _try(backbone, tuned, plan, norm, min(rows, 2))
    if why:
        raise InjertoError(f"{backbone.spec} does not train so ({why}); choose another --tuning, or --head probe")
    return plan


def _try(backbone: Backbone, tuned: Tuned, plan: ComputePlan, norm: str, rows: int) -> str | None:
    """Why a step fails; None where it works."""
    parameters = dict(backbone.model.named_parameters())
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    buffers = {name: buffer.clone() for name, buffer in backbone.model.named_buffers()}
    modes = [(module, module.training) for module in backbone.model.modules()]
    batch = probe_batch(backbone.preprocessing, next(iter(parameters.values())).device)
    batch = batch[:rows] if isinstance(batch, Tensor) else {name: values[:rows] for name, values in batch.items()}
    if isinstance(batch, Tensor) and plan.channels_last:
        batch = batch.to(memory_format=torch.channels_last)
    learned = [parameters[name] for name in tuned.rates if name in parameters]
    device = batch.device.type if isinstance(batch, Tensor) else batch["input_ids"].device.type
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in tuned.rates)
        for module, training in training_modes(backbone, tuned.frozen_stages, norm):
            module.training = training
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            with torch.autocast(device, torch.bfloat16, enabled=plan.precision == "bf16"):
                output = backbone(batch).float()
            if not torch.isfinite(output).all():
                return "the embedding of a probe is NaN or infinite"
            if not output.requires_grad:
                return "no gradient reaches what learns"
            found = torch.autograd.grad(output.square().sum(), learned, allow_unused=True)
        if all(gradient is None for gradient in found):
            return "no gradient reaches what learns"
        if any(gradient is not None and not torch.isfinite(gradient).all() for gradient in found):
            return "the gradient of a probe is NaN or infinite"
    except Exception as error:
        return first_line(error)
    finally:
        for module, training in modes:
            module.training = training
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
        with torch.no_grad():
            for name, buffer in backbone.model.named_buffers():
                buffer.copy_(buffers[name])
    return None
