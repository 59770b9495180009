"""Where a run stands: part of every checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path

from injerto.evaluation.validators import FLOOR, Verdict
from injerto.tasks.probe import Score

LOG = "log.jsonl"
"""One line for every evaluation, in the run's folder."""
REJECTED = -1e30
"""Stands for minus infinity in a checkpoint."""


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint.

    Attributes:
        step: Steps done.
        best_step: Step of the best evaluation so far.
        best: What it was chosen by, None before the first.
        accuracy: Its accuracy on source ``val``.
        reference: The best accuracy on source ``val`` so far.
        stale: Evaluations since then.
        stopped: Whether early stopping ended the run.
    """

    step: int = 0
    best_step: int = 0
    best: Score | None = None
    accuracy: float = 0.0
    reference: float = 0.0
    stale: int = 0
    stopped: bool = False

    def better(self, score: Score, verdict: Verdict | None) -> bool:
        """Whether a checkpoint is the best so far, by source ``val`` or by a validator behind its guard.

        Args:
            score: On source ``val``; the best accuracy so far is known already.
            verdict: The validator's; None where source ``val`` decides.
        """
        key, fallen = score, False
        if verdict is not None:
            key = (REJECTED if verdict.rejected else verdict.score, score[0])
            fallen = self.accuracy < self.reference - FLOOR and not verdict.rejected  # the best would be refused now
        if self.best is not None and key <= self.best and not fallen:
            return False
        self.best, self.best_step, self.accuracy = key, self.step, score[0]
        return True


def times_of(log: Path) -> dict[int, float]:
    """When each evaluation in a log was made, by its step: what a checkpoint leaves out, to be the same every time.

    Args:
        log: The file; it need not be there, and lines that a kill has cut off are left out.
    """
    times: dict[int, float] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        try:
            entry = json.loads(line)
            times[int(entry["step"])] = float(entry["time"])
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    return times
