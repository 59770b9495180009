"""From a model and inputs to logits and probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from injerto.compute.cuts import Cut
from injerto.compute.features import Features
from injerto.compute.inference import Continuer, Embedder
from injerto.compute.plan import ComputePlan
from injerto.tasks.model import Model


def predict_logits(
    model: Model, plan: ComputePlan, inputs: Sequence[Any], keys: Sequence[str], title: str = "predicting"
) -> np.ndarray:
    """Logits of raw inputs, float32 (N, C).

    Args:
        model: Backbone, neck and head.
        plan: How to compute.
        inputs: Pictures or texts.
        keys: Their content hashes.
        title: What the progress line says.
    """
    result = np.empty((len(inputs), len(model.labels)), np.float32)
    for positions, values in Embedder(model.backbone, plan, constant=False).embed(inputs, keys, title):
        result[positions] = _classify(model, plan, torch.from_numpy(values))
    return result


def classify_kept(model: Model, plan: ComputePlan, cut: Cut, features: Features) -> np.ndarray:
    """Logits of inputs whose way through the frozen stages is kept, float32 (N, C).

    Args:
        model: What is above the cut, its neck and its head are used.
        plan: How to compute.
        cut: Where the frozen stages end.
        features: What they computed.
    """
    result = np.empty((len(features), len(model.labels)), np.float32)
    for positions, values in Continuer(cut, plan).embed(features):
        result[positions] = _classify(model, plan, torch.from_numpy(values))
    return result


def _classify(model: Model, plan: ComputePlan, embeddings: torch.Tensor) -> np.ndarray:
    modes = model.neck.training, model.head.training
    model.neck.eval()
    model.head.eval()
    with torch.no_grad():
        logits = model.classify(embeddings.to(plan.device)).logits
    model.neck.train(modes[0])
    model.head.train(modes[1])
    return logits.cpu().numpy()


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax in float64, (N, C).

    Args:
        logits: (N, C).
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=1, keepdims=True)
