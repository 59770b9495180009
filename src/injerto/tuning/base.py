"""What a tuning is, and where new kinds come in."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError, suggest
from injerto.basics.files import sha256
from injerto.basics.plugins import load_plugin, plugins
from injerto.recipe.grammar import GROUP, TuningSpec, add_tuning, is_ours


@dataclass(frozen=True)
class Span:
    """Steps in which the same stages are frozen.

    Attributes:
        first: The first step.
        stop: One past the last step.
        frozen: How many stages, from the bottom, do not move.
    """

    first: int
    stop: int
    frozen: int


@dataclass(frozen=True)
class Tuned:
    """What a tuning decided.

    Attributes:
        frozen_stages: How many stages, from the bottom, stay exactly as they are in the whole run.
        rates: Factor on the learning rate of every trained parameter of the backbone's network, by name.
        thaws: Where stages thaw on the way: share of the steps done, and stages still frozen from there on.
        probe_first: Whether the head starts from the converged probe on the pretrained embeddings.
    """

    frozen_stages: int
    rates: dict[str, float]
    thaws: tuple[tuple[float, int], ...] = ()
    probe_first: bool = False

    def thaws_at(self, stage: int) -> float:
        """The share of the steps that are done when a stage begins to move; 1 where it never does.

        Args:
            stage: Its number.
        """
        thaws = self.thaws or ((0.0, self.frozen_stages),)
        return next((share for share, frozen in thaws if stage >= frozen), 1.0)

    def spans(self, steps: int) -> tuple[Span, ...]:
        """The run's steps by what is frozen in them.

        Args:
            steps: Of the whole run.
        """
        marks = [(round(share * steps), frozen) for share, frozen in self.thaws or ((0.0, self.frozen_stages),)]
        stops = [first for first, _ in marks[1:]] + [steps]
        found = [Span(first, stop, frozen) for (first, frozen), stop in zip(marks, stops, strict=True)]
        return tuple(span for span in found if span.stop > span.first)


Tuning = Callable[[Backbone, TuningSpec], Tuned]
_TUNINGS: dict[str, Tuning] = {}


def register_tuning(kind: str) -> Callable[[Tuning], Tuning]:
    """Make a tuning known under a name (an entry point of the group ``injerto.tunings`` does so from other packages).

    Args:
        kind: The name in the grammar.

    Raises:
        InjertoError: When used, where the name cannot be written or comes with Injerto.
    """

    def keep(tuning: Tuning) -> Tuning:
        if not is_ours(tuning):
            add_tuning(kind)
        _TUNINGS[kind] = tuning
        return tuning

    return keep


def find_tuning(spec: TuningSpec) -> Tuning:
    """The tuning of a setting.

    Args:
        spec: The parsed setting.

    Raises:
        InjertoError: Where the kind is not there, or the package that brings it can't be imported.
    """
    import injerto.tuning.lora.tuning
    import injerto.tuning.stages  # noqa: F401  the built-in kinds

    if spec.kind not in _TUNINGS and spec.kind in plugins(GROUP):
        _TUNINGS[spec.kind] = load_plugin(GROUP, spec.kind)
    if spec.kind not in _TUNINGS:
        raise InjertoError(f"tuning '{spec}' is not available yet; {suggest(spec.kind, sorted(_TUNINGS))}")
    return _TUNINGS[spec.kind]


def apply_tuning(backbone: Backbone, spec: TuningSpec, decay: float = 1.0, seed: int = 0) -> Tuned:
    """Freeze what must not move and thaw the rest.

    Args:
        backbone: Its parameters' ``requires_grad`` is set.
        spec: The parsed setting.
        decay: Factor on the rate from each stage to the one below it; the last stage has the full rate (Howard &
            Ruder, ACL 2018, section 3.2, divide by 2.6, which is 0.38).
        seed: Of what a tuning draws (LoRA's A).

    Returns:
        What was decided.

    Raises:
        InjertoError: Where the setting does not fit the backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(sha256(seed, "tuning")[:15], 16))
        tuned = find_tuning(spec)(backbone, spec)
    top = len(backbone.stages) - 1
    rates = {name: rate * decay ** (top - backbone.stage_of(name)) for name, rate in tuned.rates.items()}
    tuned = replace(tuned, rates=rates)
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(name in tuned.rates)
    return tuned


def first_of_last(backbone: Backbone, spec: TuningSpec) -> int:
    """The first of the last K stages.

    Args:
        backbone: The pretrained model.
        spec: A setting that ends in ``last:K``.

    Raises:
        InjertoError: Where the backbone has fewer stages.
    """
    count = len(backbone.stages)
    assert spec.last is not None
    if spec.last > count:
        whole = str(spec).rpartition(":")[0]
        raise InjertoError(f"--tuning {spec}: {backbone.spec} has {count} stages; choose {whole}:1 to {whole}:{count}")
    return count - spec.last


BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
