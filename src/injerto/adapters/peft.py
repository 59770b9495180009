"""PEFT's adapter files: ``adapter_config.json`` and the names inside ``adapter_model.safetensors``, both ways.

The format as PEFT 0.21 writes it (``peft/utils/save_and_load.py``, ``peft/config.py``).
"""

import json
import math
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from injerto.adapters.patterns import Patterns, is_plain, names_module
from injerto.adapters.snapshot import CONFIG, Snapshot
from injerto.basics.errors import InjertoError, shorten
from injerto.basics.files import write_text
from injerto.basics.json import load_json
from injerto.basics.limits import PATTERNS
from injerto.tuning.lora.attach import attach, kind_of, tie
from injerto.tuning.lora.base import LowRank, Tied, Variant
from injerto.tuning.lora.convolution import LowRankConv
from injerto.tuning.lora.linear import LowRankConv1D
from injerto.tuning.lora.settings import LARGEST_RANK
from injerto.tuning.lora.tuning import low_rank_layers

PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"
LONGEST = 300
"""Characters of a pattern."""
UNKNOWN = (
    "lora_bias", "use_qalora", "use_bdlora", "layer_replication", "megatron_config", "trainable_token_indices",
    "alora_invocation_tokens", "arrow_config", "target_parameters", "monteclora_config", "kasa_config", "velora_config",
)  # fmt: skip
"""Settings that change what the tensors mean in ways not known here."""
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to start after which PEFT takes something off the base's weights again when it loads."""
_PARTS = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)")


def peft_name(path: str) -> str:
    """A layer's name as PEFT writes it.

    Args:
        path: Its name in the network.
    """
    return f"{PREFIX}{path}"


def is_pair(name: str) -> bool:
    """Whether a file's tensor is the A or B of a pair.

    Args:
        name: As the file has it.
    """
    found = _PARTS.fullmatch(name.removeprefix(PREFIX))
    return found is not None and found[2] != MAGNITUDE


def is_part(name: str) -> bool:
    """Whether a file's tensor is the A, the B or the magnitude of a pair.

    Args:
        name: As the file has it.
    """
    return _PARTS.fullmatch(name.removeprefix(PREFIX)) is not None


def plain_names(names: list[str]) -> list[str]:
    """Of a file's tensors, those that are no low-rank pair's, by their names in the network.

    Args:
        names: As the file has them.
    """
    short = [name.removeprefix(PREFIX) for name in names]
    return [name for name in short if not _PARTS.fullmatch(name)]


def peft_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The pairs of all low-rank layers under PEFT's names, such that PEFT's delta on the untouched base is ours.

    A pair that started from principal directions becomes one of twice the rank (PEFT's own conversion), that of slices
    of a fused matrix one of block structure.

    Args:
        network: With low-rank layers.
    """
    tensors = {}
    for path, layer in low_rank_layers(network):
        a, b = layer.pair()
        if layer.lora_start_A is not None and layer.lora_start_B is not None:
            a, b = torch.cat([a, layer.lora_start_A]), torch.cat([b, -layer.lora_start_B], dim=1)
        name = peft_name(_nested(network, path))
        for part, tensor in zip(layer.NAMES, (a, b), strict=True):
            tensors[f"{name}.{part}"] = tensor.detach()
        if layer.lora_magnitude is not None:
            tensors[f"{name}.{MAGNITUDE}"] = layer.lora_magnitude.detach().view(_magnitude_shape(layer))
    output = _output_path(network)
    tied = None if output is None else network.get_submodule(output)
    if isinstance(tied, Tied):  # a pair of its own that is the table's: PEFT ties in some models only
        a, b = tied.table.pair()
        tensors[f"{peft_name(str(output))}.lora_A.weight"] = b.detach().T.contiguous()
        tensors[f"{peft_name(str(output))}.lora_B.weight"] = a.detach().T.contiguous()
    return tensors


def tied_pair(network: nn.Module, names: Iterable[str]) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """A file's tensors that say twice what a table and the output layer that shares its weight have: A as B, B as A.

    Args:
        network: Plain.
        names: Of the file's tensors.

    Returns:
        Pairs of names that hold each other's transpose where the pair is shared; None where the file has no such two.
    """
    output = _output_path(network)
    if output is None:
        return None
    layer = network.get_submodule(output)
    found: dict[tuple[str, str], str] = {}
    for name in names:
        part = _PARTS.fullmatch(name.removeprefix(PREFIX))
        own = None if part is None else _own_path(network, part[1])
        if part is not None and own == output:
            found["output", part[2]] = name
        elif part is not None and part[2].startswith("lora_embedding"):
            try:
                table = network.get_submodule(str(own))
            except AttributeError:
                continue
            if table._parameters.get("weight") is layer._parameters.get("weight"):
                found["table", part[2]] = name
    wanted = (
        ("table", "lora_embedding_A"),
        ("output", "lora_B.weight"),
        ("table", "lora_embedding_B"),
        ("output", "lora_A.weight"),
    )  # noqa: E501
    if not all(key in found for key in wanted):
        return None
    return (found[wanted[0]], found[wanted[1]]), (found[wanted[2]], found[wanted[3]])


def _magnitude_shape(layer: LowRank) -> tuple[int, ...]:
    assert layer.lora_magnitude is not None
    size = len(layer.lora_magnitude)
    return (1, size, *[1] * (layer.base_weight.ndim - 2)) if isinstance(layer, LowRankConv) else (size,)


def _nested(network: nn.Module, path: str) -> str:
    """PEFT keeps an attention's output projection inside the wrapped attention."""
    above, _, last = path.rpartition(".")
    inside = last == "out_proj" and isinstance(network.get_submodule(above), nn.MultiheadAttention)
    return f"{above}.base_layer.out_proj" if inside else path


def save_config(folder: Path, network: nn.Module, base: str, modules: tuple[str, ...], task: str | None) -> int:
    """Write ``adapter_config.json``; equal adapters are equal bytes.

    Args:
        folder: The adapter's folder.
        network: With low-rank layers.
        base: The base model's name.
        modules: Layers that are shipped whole.
        task: PEFT's ``task_type``, None where it has none.

    Returns:
        Bytes written.
    """
    layers = dict(low_rank_layers(network))
    paths = [path for path in layers if _nested(network, path) == path]
    output = _output_path(network)
    if output is not None and isinstance(network.get_submodule(output), Tied):
        paths.append(output)
    tables = [layer for layer in layers.values() if isinstance(layer, nn.Embedding)]
    ranks = {path: _rank(layers.get(path) or tables[0]) for path in {*layers, *paths}}
    alphas = {path: _alpha(layers.get(path) or tables[0]) for path in {*layers, *paths}}
    rank, alpha = (max(set(values.values()), key=list(values.values()).count) for values in (ranks, alphas))
    variant = next(iter(layers.values())).variant
    config = {
        "alpha_pattern": {path: alphas[path] for path in paths if alphas[path] != alpha},
        "base_model_name_or_path": base,
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": any(isinstance(layer, LowRankConv1D) for layer in layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_bias": False,
        "lora_dropout": variant.dropout,
        "modules_to_save": sorted(modules) or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {path: ranks[path] for path in paths if ranks[path] != rank},
        "revision": None,
        "target_modules": _short(network, paths),
        "task_type": task,
        "use_dora": variant.dora,
        "use_rslora": variant.rslora,
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_text(folder / CONFIG, text)
    return len(text.encode())


def _rank(layer: LowRank) -> int:
    return len(layer.lora_A) * (1 if layer.lora_start_A is None else 2)


def _alpha(layer: LowRank) -> float:
    """PEFT's alpha, such that its scaling for the shipped rank is the layer's."""
    rank = _rank(layer)
    alpha = layer.variant.scaling * (math.sqrt(rank) if layer.variant.rslora else rank)
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _short(network: nn.Module, paths: list[str]) -> list[str]:
    """Last parts of the names where they mean exactly the chosen layers, else the whole names; sorted."""
    ends = sorted({path.rpartition(".")[2] for path in paths})
    meant = [name for name, _ in network.named_modules() if name.rpartition(".")[2] in ends]
    return ends if sorted(meant) == sorted(paths) else sorted(paths)


def load_config(files: Snapshot) -> dict[str, Any]:
    """Read and check ``adapter_config.json``, which may come from a stranger.

    Args:
        files: Open.

    Raises:
        InjertoError: Where it is damaged, or asks for what is not known here.
    """
    path = files.folder / CONFIG
    config = load_json(files.read(CONFIG), str(path))
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise InjertoError(f"{path}: peft_type is {str(kind)[:40]!r}; LORA is known here only")
    for key in UNKNOWN:
        if config.get(key):
            raise InjertoError(f"{path}: '{key}' is not known here; the adapter is not loaded")
    for key in ("r", "lora_alpha"):
        _positive(path, key, config.get(key, 8))
    for key in ("use_rslora", "use_dora", "ensure_weight_tying", "fan_in_fan_out"):
        if not isinstance(config.get(key) or False, bool):
            raise InjertoError(f"{path} is damaged: '{key}' must be true or false, not {str(config[key])[:40]!r}")
    if not isinstance(config.get("modules_to_save") or [], list):
        raise InjertoError(f"{path} is damaged: 'modules_to_save' must be a list")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        raise InjertoError(
            f"{path}: the adapter changed its base (init_lora_weights '{start[:20]}'); convert it, as PEFT's "
            "path_initial_model_for_weight_conversion does"
        )
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.setdefault(key, {}) or {}
        if not isinstance(pattern, dict):
            raise InjertoError(f"{path} is damaged: '{key}' is no mapping")
        for value in pattern.values():
            _positive(path, key, value)
        others = [name for name in pattern if not (len(name) <= LONGEST and is_plain(name))]
        if len(others) > PATTERNS:
            raise InjertoError(f"{path}: '{key}' has {len(others)} patterns that are no names, more than {PATTERNS}")
        for name in others:
            _pattern(path, name)
    return config


def _positive(path: Path, key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise InjertoError(f"{path} is damaged: '{key}' must be a positive number, not {str(value)[:40]!r}")


def _pattern(path: Path, name: str) -> None:
    try:
        fine = len(name) <= LONGEST and re.fullmatch(r"[\w.^$\\-]+", name) and re.compile(name)
    except re.error:
        fine = None
    if not fine:
        raise InjertoError(f"{path}: pattern {name[:60]!r} is not known here; the adapter is not loaded")


@dataclass(frozen=True)
class Planned:
    """Where a file's tensors belong, every shape checked.

    Attributes:
        pairs: Layer to part (``lora_A.weight``, ...) to the file's name.
        variants: Layer to how its pair is used.
        plain: The file's name to the network's, of what replaces the base's own tensors.
        tied: The output layer that shares the table's pair, which the file may hold once more; None where none does.
    """

    pairs: dict[str, dict[str, str]]
    variants: dict[str, Variant]
    plain: dict[str, str]
    tied: str | None


def plan_pairs(
    network: nn.Module, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], path: Path, tied_up: bool = False
) -> Planned:
    """Find the layers of a plain network that a file's tensors belong to.

    Args:
        network: Left as it is.
        config: From :func:`load_config`.
        shapes: Of the file's tensors, by name.
        path: The file, for messages.
        tied_up: Whether a table's pair is the output layer's too.

    Raises:
        InjertoError: Where a tensor's layer does not exist, cannot have a pair, or has another shape.
    """
    pairs: dict[str, dict[str, str]] = {}
    plain: dict[str, str] = {}
    tied = _output_path(network) if tied_up or config.get("ensure_weight_tying") else None
    for name in shapes:
        found = _PARTS.fullmatch(name.removeprefix(PREFIX))
        own = _own_path(network, found[1] if found else name.removeprefix(PREFIX))
        if not found:
            plain[name] = own
        elif own != tied:
            pairs.setdefault(own, {})[found[2]] = name
    alphas = _alphas(config, pairs)
    variants = {own: _plan(network, own, parts, config, alphas[own], shapes, path) for own, parts in pairs.items()}
    known = network.state_dict() if plain else {}
    plain = {name: own for name, own in plain.items() if own in known}
    adapted = {*pairs, tied}
    modules = {module for module in config.get("modules_to_save") or [] if isinstance(module, str)}
    for name, own in plain.items():
        _check_whole(path, name, own, adapted, modules, config)
    if not pairs:
        raise InjertoError(f"{path} holds no low-rank pair")
    return Planned(pairs, variants, plain, tied)


def install(network: nn.Module, planned: Planned) -> dict[str, Tensor]:
    """Give a network the planned layers.

    Args:
        network: Plain; changed in place.
        planned: From :func:`plan_pairs`.

    Returns:
        The tensors of the network that the file's are to be copied into, by the file's names.
    """
    places: dict[str, Tensor] = {}
    for own, variant in planned.variants.items():
        layer, parts = attach(network.get_submodule(own), variant), planned.pairs[own]
        if planned.tied is not None and isinstance(layer, nn.Embedding):
            tie(network, layer)
        for part, tensor in zip(layer.NAMES, (layer.lora_A, layer.lora_B), strict=True):
            places[parts[part]] = tensor.data
        if layer.lora_magnitude is not None:
            places[parts[MAGNITUDE]] = layer.lora_magnitude.data.view(_magnitude_shape(layer))
    state = network.state_dict() if planned.plain else {}
    return places | {name: state[own] for name, own in planned.plain.items()}


def _alphas(config: dict[str, Any], paths: Iterable[str]) -> dict[str, float]:
    """PEFT's alpha of each layer: that of the first pattern that fits, else that of all."""
    given = list((config.get("alpha_pattern") or {}).items())
    patterns, plain = Patterns(name for name, _ in given), config.get("lora_alpha", 8)
    found = {path: patterns.first(path) for path in paths}
    return {path: plain if place is None else given[place][1] for path, place in found.items()}


def _check_whole(
    path: Path, name: str, own: str, adapted: Set[str | None], modules: Set[str], config: dict[str, Any]
) -> None:
    """Refuse a tensor that replaces the base's without the configuration saying so."""
    layer, _, part = own.rpartition(".")
    named = names_module(modules, own)
    biased = part.endswith("bias") and config.get("bias", "none") in ("all", "lora_only")
    if not (named or biased or layer in adapted):
        what = f"{path}: '{shorten(name, 200)}' replaces the base's"
        raise InjertoError(f"{what}, and no 'modules_to_save' names it; it is not loaded")


def _output_path(network: nn.Module) -> str | None:
    """The path of a language model's output layer."""
    layer = getattr(network, "get_output_embeddings", lambda: None)()
    if layer is None:
        return None
    return next((path for path, module in network.named_modules() if module is layer), None)


def settle_groups(network: nn.Module) -> None:
    """Once the pairs are there: those of grouped convolutions whose A sees other groups' inputs are used so.

    Args:
        network: With low-rank layers.
    """
    for _, layer in low_rank_layers(network):
        mask = layer.lora_mask if isinstance(layer, LowRankConv) else None
        if mask is not None and bool((layer.lora_A * (1 - mask)).any()):
            layer.lora_mask = None


def _own_path(network: nn.Module, path: str) -> str:
    """A path in the network from one in the model that PEFT wrapped, which may have a head around it."""
    path = path.replace(".base_layer", "")
    around = f"{getattr(network, 'base_model_prefix', '')}."
    first = path.partition(".")[0]
    return path.removeprefix(around) if len(around) > 1 and not hasattr(network, first) else path


def _plan(
    network: nn.Module,
    own: str,
    parts: dict[str, str],
    config: dict[str, Any],
    alpha: float,
    shapes: dict[str, tuple[int, ...]],
    path: Path,
) -> Variant:
    """The variant of one layer, every shape checked."""
    try:
        layer = network.get_submodule(own)
    except AttributeError:
        layer = None
    kind = None if layer is None or isinstance(layer, LowRank) else kind_of(layer)
    if layer is None or kind is None:
        raise InjertoError(f"{path}: the base model has no layer '{own[:200]}' that can have a low-rank pair")
    wanted = {*kind.NAMES, MAGNITUDE} if config.get("use_dora") else set(kind.NAMES)
    if set(parts) != wanted:
        raise InjertoError(
            f"{path}: layer '{own}' needs {', '.join(sorted(wanted))}, the file has {', '.join(sorted(parts))}"
        )
    first = shapes[parts[kind.NAMES[0]]]
    rank = first[0] if first else 0
    if not 1 <= rank <= LARGEST_RANK:
        raise InjertoError(f"{path}: layer '{own}' has rank {rank}; 1 to {LARGEST_RANK} are known here")
    for part, shape in zip(kind.NAMES, kind.shapes(layer, rank), strict=True):
        if shapes[parts[part]] != shape:
            raise InjertoError(f"{path}: '{parts[part]}' has shape {shapes[parts[part]]}, the base model needs {shape}")
    return Variant(rank, float(alpha), 0.0, bool(config.get("use_rslora")), bool(config.get("use_dora")))
