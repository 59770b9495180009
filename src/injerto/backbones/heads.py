"""Heads found by comparing a network with and without one, never by a table of names."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import torch


def head_keys(full: Iterable[str], headless: Iterable[str]) -> list[str]:
    """The names of a full network that its headless twin lacks.

    The full network may hold the headless one under a prefix (``bert.``): the one that most names agree on.

    Args:
        full: Names of the network with a head.
        headless: Names of the network without.

    Returns:
        Full names of the head's tensors, in the order of ``full``.
    """
    full, body = list(full), set(headless)
    prefixes = Counter(name[: len(name) - len(tail)] for name in full for tail in _tails(name) if tail in body)
    prefix = max(prefixes, key=lambda p: (prefixes[p], -len(p)), default="")
    return [name for name in full if not (name.startswith(prefix) and name[len(prefix) :] in body)]


def _tails(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def common_path(keys: Iterable[str]) -> str | None:
    """The module that holds all the keys: ``head.fc`` for ``head.fc.weight, head.fc.bias``.

    Args:
        keys: Parameter names.

    Returns:
        The path, or None where there are no keys or they share no module.
    """
    owners = [key.split(".")[:-1] for key in keys]
    if not owners:
        return None
    shared = []
    for parts in zip(*owners, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or None


def transformers_head_keys(config: Any, headless: Iterable[str], modality: Literal["image", "text"]) -> list[str]:
    """The head of a transformers model's own classification class, built on the meta device (no memory, no weights).

    Layers of the class's body that the headless network lacks count as head: BERT's pooler, where it was dropped.

    Args:
        config: The model's configuration.
        headless: Names of the headless network.
        modality: Which classification class to build.

    Returns:
        Full names: ``["pre_classifier.weight", ..., "classifier.bias"]`` for DistilBERT.

    Raises:
        ValueError: Where transformers has no classification class for this model.
    """
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    kind = AutoModelForImageClassification if modality == "image" else AutoModelForSequenceClassification
    with torch.device("meta"):
        full = kind.from_config(config, trust_remote_code=False)
    return head_keys(full.state_dict(), headless)
