"""What stands inside the parentheses of ``lora(...)``."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.limits import LORA_RANK as LARGEST_RANK
from injerto.recipe.defaults import RSLORA_ALPHA
from injerto.recipe.grammar import TuningSpec
from injerto.tuning.lora.attach import pattern_matches
from injerto.tuning.lora.base import Variant

OPTIONS = ("r", "alpha", "dropout", "variant", "plus", "targets", "ranks", "alphas")
VARIANTS = ("plain", "rslora", "dora", "pissa")
RANKS = (2, 32)
"""The ranks that a search tries where it is not told."""
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class LoraSettings:
    """One setting of low-rank adaptation.

    Attributes:
        variant: What holds for every layer.
        pissa: Whether the pairs start from the weights' principal directions.
        plus: How many times faster B learns than A (LoRA+, Hayou et al., ICML 2024, section 4); 1 is plain LoRA.
        targets: Names of layers; empty for the default.
        ranks: Other ranks, by pattern.
        alphas: Other alphas, by pattern.
    """

    variant: Variant
    pissa: bool = False
    plus: float = 1.0
    targets: tuple[str, ...] = ()
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)

    def of(self, path: str) -> Variant:
        """What holds for one layer.

        Args:
            path: Its name.
        """
        found = self.variant
        for pattern, rank in self.ranks.items():
            if pattern_matches(pattern, path):
                found = replace(found, rank=rank)
                break
        for pattern, alpha in self.alphas.items():
            if pattern_matches(pattern, path):
                return replace(found, alpha=alpha)
        return found


def read_settings(spec: TuningSpec) -> LoraSettings:
    """Read ``lora(r=8,alpha=16,dropout=0,variant=rslora/dora,plus=16,targets=query/value,ranks=key:4,alphas=key:8)``.

    Args:
        spec: The parsed tuning.

    Raises:
        InjertoError: Where an option is unknown or out of bounds.
    """
    options = spec.options
    for name in options:
        if name not in OPTIONS:
            raise InjertoError(f"--tuning {spec}: unknown option '{name}'; {suggest(name, list(OPTIONS))}")
    variants = _several(options.get("variant"))
    for name in variants:
        if name not in VARIANTS:
            raise InjertoError(f"--tuning {spec}: unknown variant '{name}'; {suggest(name, list(VARIANTS))}")
    if "pissa" in variants and "dora" in variants:
        raise InjertoError(f"--tuning {spec}: pissa and dora exclude each other; choose one")
    rank = _number(spec, "r", options.get("r", "8"), int, 1, LARGEST_RANK)
    usual = RSLORA_ALPHA if "rslora" in variants else 2 * rank
    alpha = _number(spec, "alpha", options.get("alpha", str(usual)), float, 1e-3, 1e6)
    dropout = _number(spec, "dropout", options.get("dropout", "0"), float, 0, 0.95)
    return LoraSettings(
        variant=Variant(rank, alpha, dropout, "rslora" in variants, "dora" in variants),
        pissa="pissa" in variants,
        plus=_number(spec, "plus", options.get("plus", "1"), float, 1e-3, 1e3),
        targets=_several(options.get("targets")),
        ranks=_pattern(spec, "ranks", options.get("ranks"), int, 1, LARGEST_RANK),
        alphas=_pattern(spec, "alphas", options.get("alphas"), float, 1e-3, 1e6),
    )


def _several(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else value


def _number(
    spec: TuningSpec, name: str, value: str | tuple[str, ...], kind: Callable[[str], N], least: N, most: N
) -> N:
    try:
        found = kind(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = None
    if found is None or not least <= found <= most:
        raise InjertoError(f"--tuning {spec}: {name}={value} must be a number from {least:g} to {most:g}")
    return found


def _pattern(
    spec: TuningSpec, name: str, value: str | tuple[str, ...] | None, kind: Callable[[str], N], least: N, most: N
) -> dict[str, N]:
    found = {}
    for item in _several(value):
        pattern, colon, number = item.rpartition(":")
        if not colon:
            raise InjertoError(f"--tuning {spec}: {name} is written as layer:number, several with / between them")
        try:
            re.compile(pattern)
        except re.error:
            raise InjertoError(f"--tuning {spec}: {name}: '{pattern}' is no layer's name and no pattern") from None
        if pattern in found:
            raise InjertoError(f"--tuning {spec}: {name} names '{pattern}' twice")
        found[pattern] = _number(spec, name, number, kind, least, most)
    return found
