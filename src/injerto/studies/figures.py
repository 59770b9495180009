"""Accuracies and paired gains of rows, with intervals and p-values, each computed once."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from injerto.statistics.bootstrap import nested_draws, percentiles
from injerto.statistics.significance import holm, p_value
from injerto.studies.answers import Answers

DRAWS = 2000
"""Resamples behind an interval."""
A_ROW = 100
"""Resamples behind a p-value for every row, at least: else many rows could not be told from chance however good."""


@dataclass(frozen=True)
class Part:
    """What one row said with one seed.

    Attributes:
        name: Tells it from other parts.
        seed: Of the run.
        splits: Digest of what was trained on and what was left for tests.
        answers: To the examples of one split; with ``strata`` to those of several domains.
    """

    name: str
    seed: int
    splits: str
    answers: Answers


class Figures:
    """Computes what the summary says of rows; remembers what it has computed."""

    def __init__(self, rows: int) -> None:
        """Nothing is known yet.

        Args:
            rows: How many rows the comparison has.
        """
        self._draws = max(DRAWS, A_ROW * rows)
        self._known: dict[Any, tuple[float, float, float, float]] = {}

    def of(self, own: Sequence[Part], base: Sequence[Part] | None, other_splits: bool = False) -> dict[str, Any]:
        """Accuracy of a row, and its paired difference to its baseline.

        Args:
            own: What the row said, a part for each seed.
            base: What its baseline said; None for a row without one.
            other_splits: Whether rows may have been trained on other examples, as long as they were asked the same.

        Returns:
            ``n``, ``accuracy``, ``low``, ``high``, ``deviation`` (over seeds); with a baseline ``gain``, ``gain_low``,
            ``gain_high``, ``gain_seeds`` and ``p``. Numbers are None where there is nothing to say; ``unpaired`` says
            why seeds could not be paired.
        """
        entry: dict[str, Any] = {"n": [len(part.answers.right) for part in own]}
        entry |= dict(zip(("accuracy", "low", "high"), self._test(own, None), strict=False))
        means = [part.answers.mean() for part in own]
        entry["deviation"] = float(np.std(means, ddof=1)) if len(means) > 1 else None
        if base is None:
            return entry
        others = {part.seed: part for part in base}
        both = [(part, others[part.seed]) for part in own if part.seed in others]
        pairs = [(one, other) for one, other in both if _alike(one, other, other_splits)]
        found = self._test([one for one, _ in pairs], [other for _, other in pairs])
        entry |= dict(zip(("gain", "gain_low", "gain_high", "p"), found, strict=True))
        entry["gain_seeds"] = [one.seed for one, _ in pairs]
        if len(pairs) < len(both):
            entry["unpaired"] = "other splits or test examples than the baseline's"
        return entry

    def _test(self, own: Sequence[Part], base: Sequence[Part] | None) -> tuple[float | None, ...]:
        """A mean or mean difference with its interval and p-value; None without runs."""
        if not own:
            return None, None, None, None
        what = tuple(part.name for part in own), None if base is None else tuple(part.name for part in base)
        if what not in self._known:
            mine = [part.answers for part in own]
            others = None if base is None else [part.answers.right for part in base]
            strata = [part.strata for part in mine if part.strata is not None] or None

            def draw(draws: int) -> tuple[float, np.ndarray]:
                right, groups = [part.right for part in mine], [part.named() for part in mine]
                return nested_draws(right, groups, others, labels=strata, draws=draws)

            mean, values = draw(DRAWS)
            p = math.nan  # nobody asks for that of an accuracy
            if base is not None:
                p = p_value(values if self._draws == DRAWS else draw(self._draws)[1])
            self._known[what] = (mean, *percentiles(values), p)
        return self._known[what]


def _alike(one: Part, other: Part, other_splits: bool) -> bool:
    """Whether two runs were asked the same, and learned from the same split."""
    return one.answers.examples == other.answers.examples and (one.splits == other.splits or other_splits)


def correct(figures: Iterable[dict[str, Any]]) -> None:
    """Give those with a p-value a ``p_adjusted`` for their number.

    Args:
        figures: Of all rows on the same split of the same domain.
    """
    tested = [entry for entry in figures if entry.get("p") is not None]
    for entry, value in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_adjusted"] = value
    for entry in figures:
        if "p" in entry:
            entry.setdefault("p_adjusted", None)
