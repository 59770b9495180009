"""What an alignment is, what it sees, and where new ones come in."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from injerto.alignment.schedule import ramp
from injerto.basics.errors import InjertoError, suggest
from injerto.basics.plugins import load_plugin, plugins
from injerto.recipe.grammar import AlignmentTerm, check_name, is_ours
from injerto.recipe.options import Option, read_options

PLAIN, SECOND, LABELLED = 0, 1, 2
"""Views of a step: an example, a second (stronger) view of it, a target example drawn for its label."""


@dataclass(frozen=True)
class StepOutputs:
    """What one step's forward pass yields, for all domains at once.

    Attributes:
        embedding: What the classifying layer sees: standardized, after the neck, float32 (B, D).
        logits: (B, C).
        labels: Class indices (B,), -1 where there is none (always for unlabelled targets); or weights of the classes
            (B, C), rows summing to 1, or to 0 where there is none. Under mixup these are the examples before it.
        domain: Index of each example's domain, (B,).
        roles: ``source`` or ``target`` of every domain.
        view: :data:`PLAIN`, :data:`SECOND` or :data:`LABELLED` of each example, (B,).
        stages: Pooled outputs of stages that terms asked for, (B, D of the stage) by stage.
    """

    embedding: Tensor
    logits: Tensor
    labels: Tensor
    domain: Tensor
    roles: tuple[str, ...]
    view: Tensor
    stages: Mapping[int, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor) -> "StepOutputs":
        """Some of the examples.

        Args:
            rows: A mask (B,) or positions (n,).
        """
        return StepOutputs(
            self.embedding[rows],
            self.logits[rows],
            self.labels[rows],
            self.domain[rows],
            self.roles,
            self.view[rows],
            {stage: values[rows] for stage, values in self.stages.items()},
        )

    def weights(self) -> Tensor:
        """The labels as weights of the classes (B, C), zero where there is none."""
        if self.labels.ndim == 2:
            return self.labels
        known = functional.one_hot(self.labels.clamp_min(0), self.logits.shape[1]).to(self.logits.dtype)
        return known * (self.labels >= 0)[:, None]

    @property
    def labelled(self) -> Tensor:
        """Which examples have a label, (B,)."""
        return self.labels >= 0 if self.labels.ndim == 1 else self.labels.sum(1) > 0

    def rows_by_domain(self, role: str | None = None) -> dict[int, Tensor]:
        """Positions of the examples of every domain that is in the step.

        Args:
            role: ``source`` or ``target``; both where not given.
        """
        wanted = [index for index, own in enumerate(self.roles) if role in (None, own)]
        found = {index: torch.nonzero(self.domain == index).flatten() for index in wanted}
        return {index: rows for index, rows in found.items() if len(rows)}

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions of two domains to be compared: every source with every target, or the sources with each other."""
        sources, targets = self.rows_by_domain("source"), self.rows_by_domain("target")
        if targets:
            yield from ((x, y) for x in sources.values() for y in targets.values())
            return
        rows = list(sources.values())
        yield from ((rows[i], rows[j]) for i in range(len(rows)) for j in range(i + 1, len(rows)))


@dataclass(frozen=True)
class Setting:
    """What an alignment is built for.

    Attributes:
        width: Numbers in an embedding.
        classes: Number of classes.
        roles: ``source`` or ``target`` of every domain.
        stages: Numbers in the pooled output of each stage that moves.
    """

    width: int
    classes: int
    roles: tuple[str, ...]
    stages: Mapping[int, int] = field(default_factory=dict)


class Alignment(nn.Module):
    """One thing that must match across domains: ``weight * loss(outputs, p)``, added to the labelled loss.

    Where the loss rests on guesses (:attr:`ramped`) the weight grows from 0 over the run: early ones are poor.

    It owns no optimizer, no counter and no global state; ``p``, the share of the run that is done, is the trainer's.

    Attributes:
        needs: ``target``, ``domains`` (two or more, of whatever role), ``sources`` (two or more), ``labels`` (hard
            ones), ``views`` (a second view of the targets), ``gradient`` (an embedding that can move).
        options: What may stand in the parentheses.
        default_weight: Its weight where none is given.
        weight_range: The weights that a search tries where it is not told.
        ramped: Whether its weight grows over the run.
        stages: The stages whose outputs it wants.
        weight: Its weight in this run.
        matches_frequencies: Whether it takes the classes to be as frequent in one domain as in the other.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    options: ClassVar[Mapping[str, Option]] = {}
    default_weight: ClassVar[float] = 1.0
    weight_range: ClassVar[tuple[float, float]] = (0.1, 10.0)
    ramped: ClassVar[bool] = False
    matches_frequencies: bool = False

    def __init__(self, setting: Setting, weight: float, **options: Any) -> None:
        """Keep the weight and the options.

        Args:
            setting: What it is built for.
            weight: Its weight.
            **options: One value per entry of :attr:`options`.
        """
        super().__init__()
        self.setting, self.weight = setting, weight
        self.stages: tuple[int, ...] = ()
        for name, value in options.items():
            setattr(self, name, value)

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """The term without its weight, a scalar.

        Args:
            outputs: The step's.
            p: Share of the run that is done, in [0, 1].
        """
        raise NotImplementedError

    def forward(self, outputs: StepOutputs, p: float) -> Tensor:
        """What is added to the labelled loss.

        Args:
            outputs: The step's.
            p: Share of the run that is done, in [0, 1].
        """
        return self.weight * (ramp(p) if self.ramped else 1.0) * self.loss(outputs, p)

    @torch.no_grad()
    def health(self, outputs: StepOutputs) -> dict[str, float]:
        """Numbers that show whether the term works; logged now and then.

        Args:
            outputs: A step's.
        """
        return {}


Kind = type[Alignment]
GROUP = "injerto.alignments"
"""Entry points by which other packages bring alignments."""
_ALIGNMENTS: dict[str, Kind] = {}


def register_alignment(name: str) -> Callable[[Kind], Kind]:
    """Make an alignment known under a name (an entry point of :data:`GROUP` does so from other packages).

    Args:
        name: In the grammar.

    Raises:
        InjertoError: When used, where the name cannot be written or comes with Injerto.
    """

    def keep(kind: Kind) -> Kind:
        if not is_ours(kind):
            _load_own()
            check_name(name, "alignment", ["none", *(own for own, one in _ALIGNMENTS.items() if is_ours(one))])
        _ALIGNMENTS[name] = kind
        return kind

    return keep


@cache
def _load_own() -> None:
    import injerto.alignment.adversarial
    import injerto.alignment.classes
    import injerto.alignment.distances  # noqa: F401


def alignments() -> list[str]:
    """The names of all that are known; what other packages announce is not imported for it."""
    _load_own()
    return sorted({*_ALIGNMENTS, *plugins(GROUP)})


def find_alignment(term: AlignmentTerm) -> tuple[Kind, dict[str, Any]]:
    """The alignment of a term, and the values of its options.

    Args:
        term: Parsed.

    Raises:
        InjertoError: Where the name or an option is unknown, or the package that brings it can't be imported.
    """
    known = alignments()
    if term.name not in known:
        raise InjertoError(f"unknown alignment '{term.name}'; {suggest(term.name, ['none', *known])}")
    if term.name not in _ALIGNMENTS:
        _ALIGNMENTS[term.name] = load_plugin(GROUP, term.name)
    kind = _ALIGNMENTS[term.name]
    return kind, read_options(f"--alignment {term.name}", term.options, kind.options)


def check_needs(terms: Sequence[AlignmentTerm], sources: int, targets: int) -> None:
    """Refuse what the data cannot give, before compute is spent.

    Args:
        terms: Parsed.
        sources: Number of source domains.
        targets: Number of target domains.

    Raises:
        InjertoError: Where a term is unknown, is there twice or needs domains that are not there.
    """
    names = [term.name for term in terms]
    for term in terms:
        kind, _ = find_alignment(term)
        if names.count(term.name) > 1:
            raise InjertoError(f"--alignment names {term.name} twice; write each term once")
        if "target" in kind.needs and not targets:
            raise InjertoError(f"--alignment {term.name} needs a --target: unlabelled examples to adapt to")
        if "sources" in kind.needs and sources < 2:
            raise InjertoError(f"--alignment {term.name} needs two or more --source domains with labels")
        if "domains" in kind.needs and sources + targets < 2:
            raise InjertoError(f"--alignment {term.name} needs two domains: add a --target or a second --source")


def make_alignment(term: AlignmentTerm, setting: Setting) -> Alignment:
    """Build one; its layers draw from torch's generator, so seed it.

    Args:
        term: Parsed.
        setting: What it is built for.

    Raises:
        InjertoError: Where its stages do not move.
    """
    check_stages([term], setting.stages)
    kind, options = find_alignment(term)
    return kind(setting, kind.default_weight if term.weight is None else term.weight, **options)


def check_stages(terms: Sequence[AlignmentTerm], moving: Collection[int]) -> None:
    """Refuse terms on stages whose outputs do not move.

    Args:
        terms: Parsed.
        moving: The stages that move.

    Raises:
        InjertoError: Where a term names another one.
    """
    for term in terms:
        for stage in find_alignment(term)[1].get("stages", ()):
            if stage not in moving:
                listed = ", ".join(map(str, sorted(moving))) or "none"
                raise InjertoError(
                    f"--alignment {term.name}: stage {stage} cannot be aligned; stages that move under this --tuning: "
                    f"{listed}; choose among them, or a --tuning such as last:K that moves more"
                )
