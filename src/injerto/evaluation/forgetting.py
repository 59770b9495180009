"""What a tuned backbone still is of the pretrained one, on held-out inputs."""

from typing import Any

import numpy as np
import torch
from torch import nn

from injerto.statistics.bootstrap import bootstrap_interval
from injerto.statistics.similarity import linear_cka


def forgetting(before: np.ndarray, after: np.ndarray, classifier: nn.Module | None) -> dict[str, Any]:
    """Compare embeddings of the same held-out inputs by the pretrained and by the tuned backbone.

    Args:
        before: Of the pretrained backbone, (n, D).
        after: Of the tuned one, (n, D).
        classifier: The pretrained model's own classifier on embeddings, None where it has none.

    Returns:
        ``agreement``, the share of inputs that the original classifier still gives the class it gave before (None
        without classifier); ``cka``, the linear CKA of the embeddings (None where it is not defined), 1 being no
        drift; and ``n``. All three are oracle-free: no label is used.
    """
    agreement = None
    if classifier is not None and len(before):
        with torch.no_grad():
            old, new = (classifier(torch.from_numpy(values)).argmax(1) for values in (before, after))
        agreement = float((old == new).float().mean())
    cka = linear_cka(before, after) if len(before) > 1 else float("nan")
    return {"agreement": agreement, "cka": None if np.isnan(cka) else cka, "n": len(before)}


def compare_probes(before: np.ndarray, after: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Accuracy of probes fitted on the pretrained and on the tuned embeddings of the same test examples.

    Args:
        before: Logits by the probe on the pretrained embeddings, (n, C).
        after: By the probe on the tuned ones, (n, C).
        labels: Class indices (n,).
        groups: (n,) group per example; the interval resamples groups.

    Returns:
        ``before`` and ``after``, accuracies; ``difference`` with its paired 95 % ``interval``; ``n``. The numbers are
        None without test examples.
    """
    if not len(labels):
        return {"before": None, "after": None, "difference": None, "interval": None, "n": 0}
    old, new = (logits.argmax(axis=1) == labels for logits in (before, after))
    change = new.astype(np.float64) - old
    return {
        "before": float(old.mean()),
        "after": float(new.mean()),
        "difference": float(change.mean()),
        "interval": list(bootstrap_interval(change, groups)),
        "n": len(labels),
    }
