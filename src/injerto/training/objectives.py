"""What a step minimizes: from a part of a batch to the mean loss over what is labelled in it."""

from collections.abc import Callable

import torch
from torch import Tensor

from injerto.compute.plan import ComputePlan
from injerto.tasks.classification import classification_loss
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model
from injerto.training.examples import Batch, embed_by_length

Objective = Callable[[Batch], Tensor]


def classification(model: Model, plan: ComputePlan, weights: Tensor | None = None, smoothing: float = 0.0) -> Objective:
    """Cross-entropy of the head on the embedding.

    Args:
        model: What is trained.
        plan: How to compute.
        weights: Weight of each class.
        smoothing: Share of the probability spread over all classes.
    """

    def loss(part: Batch) -> Tensor:
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.precision == "bf16"):
            embedding = embed_by_length(part.cut.embed if part.cut else model.backbone, part.inputs)
        return classification_loss(model.classify(embedding).logits, part.labels, weights, smoothing)

    return loss


def language_modelling(model: LanguageModel, plan: ComputePlan) -> Objective:
    """Cross-entropy of the next token, over the tokens that are learned.

    Args:
        model: What is trained.
        plan: How to compute.
    """

    def loss(part: Batch) -> Tensor:
        assert not isinstance(part.inputs, Tensor)
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.precision == "bf16"):
            return model.losses(part.inputs, part.labels).mean()

    return loss
