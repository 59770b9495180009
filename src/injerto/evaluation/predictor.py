"""From a model and inputs to logits and probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from injerto.compute.features import Features
from injerto.compute.inference import Embedder
from injerto.compute.plan import ComputePlan
from injerto.tasks.model import Model

ROWS = 1024


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
    for positions, values in Embedder(model.backbone, plan).embed(inputs, keys, title):
        result[positions] = _classify(model, plan, torch.from_numpy(values))
    return result


def classify_features(model: Model, plan: ComputePlan, features: Features) -> np.ndarray:
    """Logits of cached embeddings, float32 (N, C).

    Args:
        model: Its neck and head are used.
        plan: How to compute.
        features: Embeddings of the backbone.
    """
    parts = [np.empty((0, len(model.labels)), np.float32)]
    for start in range(0, len(features), ROWS):
        rows = np.arange(start, min(start + ROWS, len(features)))
        parts.append(_classify(model, plan, features[rows]))
    return np.concatenate(parts)


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
