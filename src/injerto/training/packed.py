"""Training batches of a language model: rows into which several examples are packed where the model takes that."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from injerto.compute.crew import crew
from injerto.tasks.language import Encoded, collate, pack
from injerto.training.examples import Batch
from injerto.training.stepplan import StepPlan
from injerto.tuning.base import Span


class Packed:
    """The train examples of every source, packed, and how they become batches."""

    def __init__(
        self, examples: Mapping[str, Sequence[Encoded]], length: int, filler: int, device: str, alone: bool
    ) -> None:
        """Pack each source for itself.

        Args:
            examples: Of each source.
            length: Tokens of a row, at most.
            filler: The padding token.
            device: Where batches go.
            alone: Whether each example has a row of its own, for a model that does not take packed rows.
        """
        self.rows = {
            name: [[example] for example in found]
            if alone
            else [[found[i] for i in row] for row in pack(found, length)]
            for name, found in examples.items()
        }
        self.filler, self.device, self.alone = filler, device, alone

    def sizes(self, target: bool = False) -> dict[str, int]:
        """Rows of each source.

        Args:
            target: Of the targets, which a language model does not have.
        """
        return {} if target else {name: len(rows) for name, rows in self.rows.items()}

    def lengths(self, spans: Sequence[Span]) -> dict[str, np.ndarray] | None:
        """Tokens of the rows where they hold one example; None for packed rows, which are of nearly equal length.

        Args:
            spans: The run's.
        """
        if not self.alone:
            return None
        return {name: np.asarray([len(row[0].ids) for row in rows]) for name, rows in self.rows.items()}

    def batches(self, plan: StepPlan, spans: Sequence[Span], first: int = 0) -> Iterator[Batch]:
        """The batches of a run.

        Args:
            plan: Which rows each step sees.
            spans: What is frozen when.
            first: The first step that is still to be done.
        """
        names = list(self.rows)
        for step in range(first, spans[-1].stop):
            draws = plan.draw(step)
            rows = [self.rows[name][i] for name, draw in draws.items() for i in draw.positions]
            inputs, targets = collate(rows, self.filler)
            dealt = crew().deal(len(rows))
            if dealt is not None:
                inputs = {name: value[torch.from_numpy(dealt[crew().rank])] for name, value in inputs.items()}
            domain = np.concatenate([np.full(len(d.positions), names.index(n)) for n, d in draws.items()])
            yield Batch(
                {name: value.to(self.device) for name, value in inputs.items()},
                targets.to(self.device),
                torch.from_numpy(domain).to(self.device),
                torch.zeros(len(rows), dtype=torch.int64, device=self.device),
                dealt=dealt,
            )
