"""Which layers get a low-rank pair."""

import re
from dataclasses import dataclass

from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.tuning.lora.attach import kind_of, pattern_matches
from injerto.tuning.lora.convolution import LowRankConv
from injerto.tuning.lora.fused import SLICES, layout_of
from injerto.tuning.lora.lookup import LowRankEmbedding


@dataclass(frozen=True)
class Target:
    """One layer.

    Attributes:
        path: Its name in the network.
        rows: Parts of a fused matrix that may change, the numbers of the rows of each; all where empty.
    """

    path: str
    rows: tuple[tuple[int, ...], ...] = ()


def find_targets(backbone: Backbone, names: tuple[str, ...], first: int) -> list[Target]:
    """Choose layers.

    Without names: every linear layer, attention projection and ungrouped convolution after the stem or embeddings.

    Args:
        backbone: The pretrained model.
        names: ``all-linear``; or what a layer is called, or its name ends in after a dot (``query``), or a regular
            expression that matches all of it; ``qkv.q`` is the query's part of a fused matrix.
        first: The lowest stage that may change.

    Returns:
        The layers in the network's order.

    Raises:
        InjertoError: Where a name matches nothing that may change, or a part of a matrix whose layout is not known.
    """
    layers = _layers(backbone, first)
    found: dict[str, tuple[tuple[int, ...], ...]] = {}
    if not names:
        lowest = max(first, min(1, len(backbone.stages) - 1))
        for path, layer in layers.items():
            plain = kind_of(layer) is not LowRankEmbedding and getattr(layer, "groups", 1) == 1
            if plain and stage_of(backbone, path) >= lowest:
                found[path] = ()
    for name in names:
        hits = _hits(backbone.model, layers, name)
        if not hits:
            known = sorted({path.rpartition(".")[2] for path in layers})
            raise InjertoError(
                f"--tuning lora: no layer that may change is called '{name}'; there are {', '.join(known)}"
            )
        for path, rows in hits.items():
            whole = () in (rows, found.get(path))
            found[path] = () if whole else tuple(dict.fromkeys((*found.get(path, ()), *rows)))
    if not found:
        raise InjertoError(f"--tuning lora: {backbone.spec} has no layer that can have a low-rank pair")
    return [Target(path, found[path]) for path in layers if path in found]


def stage_of(backbone: Backbone, path: str) -> int:
    """The stage that a layer belongs to.

    Args:
        backbone: The pretrained model.
        path: The layer's name.
    """
    layer = backbone.model.get_submodule(path)
    return backbone.stage_of(f"{path}.{next(name for name, _ in layer.named_parameters())}")


def _layers(backbone: Backbone, first: int) -> dict[str, nn.Module]:
    """Layers that can have a pair and may change.

    An attention's own output projection goes with the attention, a language model's output layer with its table.
    """
    found: dict[str, nn.Module] = {}
    output = getattr(backbone.model, "get_output_embeddings", lambda: None)()
    for path, layer in backbone.model.named_modules():
        if path and kind_of(layer) and layer is not output and stage_of(backbone, path) >= first:
            above = backbone.model.get_submodule(path.rpartition(".")[0])
            if not isinstance(above, nn.MultiheadAttention):
                found[path] = layer
    return found


def _hits(network: nn.Module, layers: dict[str, nn.Module], name: str) -> dict[str, tuple[tuple[int, ...], ...]]:
    if name == "all-linear":
        skipped = (LowRankEmbedding, LowRankConv)
        return {path: () for path, layer in layers.items() if kind_of(layer) not in skipped}
    hits: dict[str, tuple[tuple[int, ...], ...]] = {
        path: () for path in layers if pattern_matches(re.escape(name), path)
    }
    fused, _, part = name.rpartition(".")
    if not hits and part in SLICES and fused:
        for path in layers:
            if pattern_matches(re.escape(fused), path):
                hits[path] = (_part(network, path, name, part),)
    if not hits:
        try:
            hits = {path: () for path in layers if re.fullmatch(name, path)}
        except re.error:
            return {}
    return hits


def _part(network: nn.Module, path: str, name: str, part: str) -> tuple[int, ...]:
    layout = layout_of(network, path)
    if layout is None:
        above = type(network.get_submodule(path.rpartition(".")[0])).__name__
        raise InjertoError(
            f"--tuning lora: '{name}' asks for a part of {path}, and how {above} stacks query, key and value in it is "
            f"not known here; adapt the whole of it: targets={name.rpartition('.')[0]}"
        )
    return layout.rows(part)
