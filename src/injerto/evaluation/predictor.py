"""From a model and inputs to logits and probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from injerto.basics.errors import InjertoError
from injerto.compute.cuts import Cut
from injerto.compute.features import Features
from injerto.compute.inference import Continuer, Embedder
from injerto.compute.plan import ComputePlan
from injerto.tasks.model import Model


def predict_logits(
    model: Model,
    plan: ComputePlan,
    inputs: Sequence[Any],
    keys: Sequence[str],
    title: str = "predicting",
    what: str = "logits",
) -> np.ndarray:
    """Logits of raw inputs, float32 (N, C).

    Args:
        model: Backbone, neck and head.
        plan: How to compute.
        inputs: Pictures or texts.
        keys: Their content hashes.
        title: What the progress line says.
        what: ``embedding`` for what the head sees instead, (N, D).
    """
    result = np.empty((len(inputs), _width(model, what)), np.float32)
    for positions, values in Embedder(model.backbone, plan, constant=False).embed(inputs, keys, title):
        result[positions] = _classify(model, plan, torch.from_numpy(values), what)
    return result


def classify_kept(model: Model, plan: ComputePlan, cut: Cut, features: Features, what: str = "logits") -> np.ndarray:
    """Logits of inputs whose way through the frozen stages is kept, float32 (N, C).

    Args:
        model: What is above the cut, its neck and its head are used.
        plan: How to compute.
        cut: Where the frozen stages end.
        features: What they computed.
        what: ``embedding`` for what the head sees instead, (N, D).
    """
    result = np.empty((len(features), _width(model, what)), np.float32)
    for positions, values in Continuer(cut, plan).embed(features):
        result[positions] = _classify(model, plan, torch.from_numpy(values), what)
    return result


def _width(model: Model, what: str) -> int:
    return len(model.labels) if what == "logits" else model.head.shift.numel()


def _classify(model: Model, plan: ComputePlan, embeddings: torch.Tensor, what: str) -> np.ndarray:
    modes = model.neck.training, model.head.training
    model.neck.eval()
    model.head.eval()
    with torch.no_grad():
        found = getattr(model.classify(embeddings.to(plan.device)), what)
    model.neck.train(modes[0])
    model.head.train(modes[1])
    return found.cpu().numpy()


def head_logits(model: Model, plan: ComputePlan, embeddings: np.ndarray) -> np.ndarray:
    """Logits (N, C) of what the head's layers see.

    Args:
        model: Its head is used.
        plan: How to compute.
        embeddings: From :func:`predict_logits` or :func:`classify_kept` with ``what="embedding"``, (N, D).
    """
    training = model.head.training
    model.head.eval()
    with torch.no_grad():
        found = model.head.layers(torch.from_numpy(embeddings).to(plan.device))
    model.head.train(training)
    return found.cpu().numpy()


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax in float64, (N, C).

    Args:
        logits: (N, C).

    Raises:
        InjertoError: Where they are no numbers: weights or inputs are out of range.
    """
    odd = int((~np.isfinite(logits)).any(axis=1).sum())
    if odd:
        raise InjertoError(
            f"the model computes NaN or infinity for {odd} of {len(logits)} inputs: its weights, or these inputs, are "
            "out of range; try --precision fp32, or another adapter"
        )
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=1, keepdims=True)
