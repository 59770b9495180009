"""Which checkpoint is kept: the best by source ``val``, the last, or the best by a validator without target labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError, suggest
from injerto.domains.domain import Domain
from injerto.evaluation.validators import VALIDATORS, Evidence, judge
from injerto.tasks.classification import encode

PLAIN = ("best-source-val", "last")
"""Rules that need no target."""
Look = Callable[[Mapping[str, Domain]], Mapping[str, tuple[np.ndarray, np.ndarray]]]
"""Examples by domain to what the head sees of them (n, D) and their logits (n, C)."""


def check_rule(select: str | None, targets: int) -> None:
    """Refuse a rule that is not there, or that needs a target.

    Args:
        select: As the user gave it.
        targets: Number of targets.

    Raises:
        InjertoError: Where it is unknown, or judges unlabelled target examples and there are none.
    """
    if select is None or select in PLAIN:
        return
    if select not in VALIDATORS:
        raise InjertoError(f"unknown --select '{select}'; {suggest(select, [*PLAIN, *VALIDATORS])}")
    if not targets:
        raise InjertoError(f"--select {select} judges a model by unlabelled target examples: it needs a --target")


class Selection:
    """Judges the model as it is, on held-out examples: labelled ones of the sources, unlabelled ones of the targets."""

    def __init__(
        self,
        parts: Mapping[str, Domain],
        sources: Sequence[str],
        classes: tuple[str, ...],
        seed: int,
        balanced: bool = False,
    ) -> None:
        """Say who is looked at.

        Args:
            parts: Held-out examples of every domain that is trained on.
            sources: Names of those whose labels are used.
            classes: The class map.
            seed: The run's.
            balanced: Whether classes count equally.
        """
        self.parts, self.sources, self.seed, self.balanced = parts, tuple(sources), seed, balanced
        self.labels = np.concatenate([encode(parts[name].labels, classes) for name in self.sources])

    def evidence(self, look: Look) -> Evidence | None:
        """What the model says of the held-out examples; None where there are too few to judge by.

        Args:
            look: Asks the model.
        """
        seen = look(self.parts)
        own = [seen[name] for name in self.sources]
        others = [seen[name] for name in self.parts if name not in self.sources]
        known = self.labels >= 0
        if not others or len(np.unique(self.labels[known])) < 2 or sum(len(x) for x, _ in others) < 2:
            return None
        embeddings, logits = (np.concatenate([pair[i] for pair in own])[known] for i in (0, 1))
        there = [np.concatenate([pair[i] for pair in others]) for i in (0, 1)]
        return Evidence(logits, self.labels[known], embeddings, there[1], there[0], balanced=self.balanced)

    def judge_all(self, evidence: Evidence, reference: float) -> dict[str, Any]:
        """Every validator's score of one model, as in ``metrics.json``.

        Args:
            evidence: Of the model.
            reference: The best source accuracy during the run.
        """
        found = {name: judge(name, evidence, reference, self.seed) for name in VALIDATORS}
        rejected = next(iter(found.values())).rejected
        return {"rejected": rejected, "scores": {name: verdict.raw for name, verdict in found.items()}}
