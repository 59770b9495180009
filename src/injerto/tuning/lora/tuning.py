"""The tunings ``lora`` and ``lora:last:K``, and the tiny baselines ``bitfit`` and ``norm``."""

from collections.abc import Iterator

from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import TuningSpec
from injerto.tuning.base import Tuned, first_of_last, register_tuning
from injerto.tuning.lora.attach import attach, pattern_matches, tie
from injerto.tuning.lora.base import LowRank
from injerto.tuning.lora.settings import read_settings
from injerto.tuning.lora.targets import find_targets


@register_tuning("lora")
def lora(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Low-rank adaptation: every chosen layer gets a pair, nothing else of the backbone learns.

    Args:
        backbone: Its chosen layers are changed in place.
        spec: The parsed setting.

    Raises:
        InjertoError: Where an option does not fit the backbone.
    """
    settings = read_settings(spec)
    first = 0 if spec.last is None else first_of_last(backbone, spec)
    rates: dict[str, float] = {}
    targets = find_targets(backbone, settings.targets, first)
    for pattern in (*settings.ranks, *settings.alphas):
        if not any(pattern_matches(pattern, target.path) for target in targets):
            raise InjertoError(f"--tuning {spec}: '{pattern}' is the name of no layer that gets a low-rank pair")
    for target in targets:
        paths = [target.path]
        layer = backbone.model.get_submodule(target.path)
        if isinstance(layer, nn.MultiheadAttention):
            paths.append(f"{target.path}.out_proj")
        for path in paths:
            start = "pissa" if settings.pissa else "zero"
            try:
                rows = target.rows if path == target.path else ()
                attach(backbone.model.get_submodule(path), settings.of(path), start, rows)
            except InjertoError as error:
                raise InjertoError(f"--tuning {spec}: {path}: {error}; leave it out with targets=") from None
        for path, layer in low_rank_layers(backbone.model.get_submodule(target.path), target.path):
            if isinstance(layer, nn.Embedding):
                tie(backbone.model, layer)
            for name in layer.learned():
                backbone.adopt(f"{path}.{name}", f"{path}.{layer.WEIGHT}")
                rates[f"{path}.{name}"] = settings.plus if name == "lora_B" else 1.0
    return Tuned(first, rates)


def low_rank_layers(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, LowRank]]:
    """The low-rank layers of a network, by path.

    Args:
        network: Any module.
        prefix: Its own path.
    """
    for path, module in network.named_modules(prefix=prefix):
        if isinstance(module, LowRank):
            yield path, module


@register_tuning("bitfit")
def bitfit(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Only the biases learn (Ben Zaken et al., "BitFit", ACL 2022).

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.

    Raises:
        InjertoError: Where the backbone has none.
    """
    names = [name for name, _ in backbone.model.named_parameters() if name.rpartition(".")[2].endswith("bias")]
    return _only(backbone, spec, names, "biases")


@register_tuning("norm")
def norm(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Only the scales and shifts of the norms learn (Frankle et al., "Training BatchNorm and only BatchNorm", 2021).

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.

    Raises:
        InjertoError: Where the backbone has none.
    """
    names = [
        f"{path}.{name}"
        for path, module in backbone.model.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 1
    ]
    return _only(backbone, spec, names, "norms with weights")


def _only(backbone: Backbone, spec: TuningSpec, names: list[str], what: str) -> Tuned:
    if not names:
        raise InjertoError(f"--tuning {spec}: {backbone.spec} has no {what}; choose another tuning")
    return Tuned(min(backbone.stage_of(name) for name in names), dict.fromkeys(names, 1.0))
