"""From a transformers network's hidden states to one embedding per example."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from injerto.basics.errors import InjertoError

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""In the order in which sentence-transformers concatenates."""


@dataclass(frozen=True)
class TextEmbed:
    """Pools the last hidden states of a text network, padding left out; several modes are concatenated.

    Attributes:
        modes: Some of ``MODES``: the first token, the largest number of each dimension, the mean, the sum over the
            root of the count, the mean with weights that grow by position, the last token.
    """

    modes: tuple[str, ...] = ("mean",)

    @property
    def name(self) -> str:
        """The modes in a word."""
        return "+".join(self.modes)

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Embed a batch.

        Args:
            model: A transformers network.
            inputs: ``input_ids`` and ``attention_mask``, int64 (B, T).

        Returns:
            (B, width x number of modes), float32.
        """
        mask = inputs["attention_mask"]
        given = {"input_ids": inputs["input_ids"], "attention_mask": mask, "use_cache": False}
        hidden = model(**accepted(model, given)).last_hidden_state.float()
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        count = weights.sum(1).clamp(min=1)
        parts = []
        for mode in self.modes:
            if mode == "cls":
                parts.append(hidden[:, 0])
            elif mode == "lasttoken":
                last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
                parts.append(hidden[torch.arange(len(hidden), device=mask.device), last])
            elif mode == "weightedmean":
                rising = weights * weights.cumsum(1)
                parts.append((hidden * rising).sum(1) / rising.sum(1).clamp(min=1))
            elif mode == "max":
                parts.append(hidden.masked_fill(weights == 0, float("-inf")).amax(1))
            else:
                parts.append((hidden * weights).sum(1) / (count if mode == "mean" else count.sqrt()))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class VisionEmbed:
    """Takes the embedding from a vision network's output.

    Attributes:
        kind: ``pooler`` (the network's own), ``cls`` (first token), ``mean`` (over tokens) or ``map`` (over space).
        options: Further arguments of the network's forward.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The kind."""
        return self.kind

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            model: A transformers network.
            images: (B, 3, H, W), normalized.

        Returns:
            (B, D).
        """
        output = model(pixel_values=images, **self.options)
        if self.kind == "pooler":
            return output.pooler_output.flatten(1)
        hidden = output.last_hidden_state
        if self.kind == "cls":
            return hidden[:, 0]
        return hidden.mean(1) if self.kind == "mean" else hidden.mean((2, 3))


def accepted(model: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a network's forward takes, of those given: not every text network takes a mask or a cache.

    Args:
        model: A transformers network.
        given: Arguments by name.
    """
    names, free = _parameters(type(model))  # type: ignore[arg-type]
    return {name: value for name, value in given.items() if name in names or (free and name != "use_cache")}


@lru_cache(maxsize=64)
def _parameters(kind: type[nn.Module]) -> tuple[frozenset[str], bool]:
    """The names of the parameters of a class's forward, and whether it takes any others."""
    parameters = inspect.signature(kind.forward).parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return frozenset(parameters), free


def pooling_modes(config: Mapping[str, Any], spec: str) -> tuple[str, ...]:
    """The modes that a sentence-transformers ``1_Pooling/config.json`` asks for.

    Args:
        config: The file's content: ``pooling_mode``, or one flag per mode.
        spec: The model's name, for the message.

    Returns:
        Modes in the order of concatenation; the mean where the file names none.

    Raises:
        InjertoError: For a mode that is not supported.
    """
    named = config.get("pooling_mode")
    if named:
        modes = (named,) if isinstance(named, str) else tuple(named)
    else:
        flags = {
            "cls_token": "cls",
            "max_tokens": "max",
            "mean_tokens": "mean",
            "weightedmean_tokens": "weightedmean",
        }
        prefix = "pooling_mode_"
        asked = [key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on]
        modes = tuple(flags.get(flag, flag) for flag in asked)
        modes = tuple(sorted(modes, key=lambda mode: MODES.index(mode) if mode in MODES else len(MODES)))
    strange = [mode for mode in modes if mode not in MODES]
    if strange:
        raise InjertoError(f"{spec} pools by '{strange[0]}'; supported are {', '.join(MODES)}; choose another model")
    return modes or ("mean",)
