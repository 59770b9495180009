"""Which examples a step sees: a pure function of (seed, step), so that resuming needs no sampler state."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from injerto.basics.files import sha256
from injerto.tuning.base import Span

WINDOW = 32
"""Batches of texts among which lengths are sorted, so that a batch holds texts of similar length."""


@dataclass(frozen=True)
class Draw:
    """Examples of one domain in one step.

    Attributes:
        positions: Positions among the domain's train examples, (n,).
        cycles: How often the domain had been gone through before, for each example, (n,).
    """

    positions: np.ndarray
    cycles: np.ndarray


def count_steps(examples: int, batch_size: int, steps: int | None, epochs: float | None) -> int:
    """Optimizer steps of a run.

    Args:
        examples: Train examples of all sources.
        batch_size: Labelled source examples per step.
        steps: As the recipe says it.
        epochs: Passes over the train examples where the recipe does not say steps.
    """
    return steps or max(1, math.ceil(examples / batch_size * (epochs or 1)))


class Drawn(Protocol):
    """Examples that steps draw from."""

    def sizes(self, target: bool = False) -> dict[str, int]:
        """How many there are by name: of those that share a batch, or of those that add to it."""

    def lengths(self, spans: Sequence[Span]) -> dict[str, np.ndarray] | None:
        """Their lengths in tokens, where batches should hold similar ones."""


def plan_steps(examples: Drawn, batch_size: int, seed: int, spans: Sequence[Span]) -> "StepPlan":
    """Which of the examples each step sees.

    Args:
        examples: What steps draw from.
        batch_size: Labelled source examples per step.
        seed: The run's seed.
        spans: What is frozen when.
    """
    return StepPlan(examples.sizes(), batch_size, seed, examples.lengths(spans), examples.sizes(target=True))


class StepPlan:
    """Every source and target runs through its own endless sequence of shuffled cycles.

    A batch is split equally over the sources; the remainder rotates, so that no source is favoured. Each target adds as
    many examples again.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        batch_size: int,
        seed: int,
        lengths: Mapping[str, np.ndarray] | None = None,
        targets: Mapping[str, int] | None = None,
    ) -> None:
        """Describe the data.

        Args:
            sizes: Train examples of each source, in order.
            batch_size: Labelled source examples per step.
            seed: The run's seed.
            lengths: Length of every example in tokens, where batches should hold similar lengths.
            targets: Train examples of each target, in order.
        """
        self.sources, self.batch_size, self.seed, self.lengths = dict(sizes), batch_size, seed, lengths
        self.sizes = self.sources | dict(targets or {})
        self._cycle = lru_cache(maxsize=2 * len(self.sizes) + 2)(self._shuffled)

    @property
    def steps_per_epoch(self) -> float:
        """Source train size divided by the batch size."""
        return sum(self.sources.values()) / self.batch_size

    def drawn(self, first: int, stop: int, views: int) -> dict[str, list[np.ndarray]]:
        """Which examples some steps use, and in which augmented version.

        Args:
            first: The first step.
            stop: One past the last step.
            views: Versions of each example; cycle c uses version c mod ``views``.

        Returns:
            Domain name to the sorted positions (n,) of each version.
        """
        found: dict[str, list[np.ndarray]] = {}
        for name, size in self.sizes.items():
            start, end = self.drawn_before(name, first), self.drawn_before(name, stop)
            kept = [np.zeros(size, bool) for _ in range(views)]
            for cycle in range(start // size, -(-end // size)):
                if not kept[cycle % views].all():
                    low, high = max(start - cycle * size, 0), min(end - cycle * size, size)
                    kept[cycle % views][self._cycle(name, cycle)[low:high]] = True
            found[name] = [np.flatnonzero(chosen) for chosen in kept]
        return found

    def drawn_before(self, name: str, step: int) -> int:
        """How many examples of a source or target all steps before ``step`` have used.

        Args:
            name: The domain.
            step: A step, from 0.
        """
        if name not in self.sources:
            return step * self.batch_size
        count = len(self.sources)
        share, rest = divmod(self.batch_size, count)
        place = list(self.sources).index(name)
        full, tail = divmod(step, count)
        extra = full * rest + sum((place - early) % count < rest for early in range(tail))
        return step * share + extra

    def draw(self, step: int) -> dict[str, Draw]:
        """The examples of a step.

        Args:
            step: From 0.

        Returns:
            Domain name to its examples; a source without any in this step is absent.
        """
        draws = {}
        for name, size in self.sizes.items():
            start, stop = self.drawn_before(name, step), self.drawn_before(name, step + 1)
            if stop == start:
                continue
            cycles, offsets = np.divmod(np.arange(start, stop), size)
            positions = np.empty(stop - start, np.int64)
            for cycle in np.unique(cycles):
                chosen = cycles == cycle
                positions[chosen] = self._cycle(name, int(cycle))[offsets[chosen]]
            draws[name] = Draw(positions, cycles)
        return draws

    def _shuffled(self, name: str, cycle: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key=int(sha256(self.seed, name, cycle)[:32], 16)))
        order = rng.permutation(self.sizes[name])
        if self.lengths is None:
            return order
        share = max(1, self.batch_size // len(self.sizes))
        lengths = self.lengths[name]
        batches: list[np.ndarray] = []
        for start in range(0, len(order), share * WINDOW):
            window = order[start : start + share * WINDOW]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[first : first + share] for first in range(0, len(window), share)]
        full = [batch for batch in batches if len(batch) == share]
        rest = [batch for batch in batches if len(batch) < share]
        shuffled = [full[index] for index in rng.permutation(len(full))]
        return np.concatenate(shuffled + rest)
