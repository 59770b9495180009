"""Optuna's samplers and pruners by short names, made so that a search stopped and resumed draws what it would have."""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from random import Random
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.files import sha256
from injerto.studies.space import Dimension

GRID = 5
"""Values of a range that the grid has."""
WARM_UP = 3
"""Tenths of a run before which it is not pruned."""
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "median": lambda: MedianPruner(n_warmup_steps=WARM_UP),
    "halving": SuccessiveHalvingPruner,
    "none": NopPruner,
}
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
}
"""By name; ``grid`` besides."""


def distributions(space: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """The space as Optuna has it.

    Args:
        space: The dimensions.
    """
    found: dict[str, BaseDistribution] = {}
    for one in space:
        if one.choices:
            found[one.name] = CategoricalDistribution(one.choices)
        elif one.whole:
            found[one.name] = IntDistribution(int(one.low), int(one.high), log=one.log)
        else:
            found[one.name] = FloatDistribution(one.low, one.high, log=one.log)
    return found


def grid_of(space: Sequence[Dimension]) -> dict[str, list[Any]]:
    """The values of a grid: all choices, :data:`GRID` numbers of a range, evenly on its scale.

    Args:
        space: The dimensions.
    """
    found = {}
    for one in space:
        steps = [] if one.choices else (np.geomspace if one.log else np.linspace)(one.low, one.high, GRID).tolist()
        values = [round(step) if one.whole else one.rounded(step) for step in steps]
        found[one.name] = list(dict.fromkeys(one.choices or values))
    return found


def grid_size(space: Sequence[Dimension]) -> int:
    """How many points the grid has.

    Args:
        space: The dimensions.
    """
    return prod(map(len, grid_of(space).values()))


def check_names(sampler: str, pruner: str) -> None:
    """Refuse what is not there.

    Args:
        sampler: Its name.
        pruner: Its name.

    Raises:
        InjertoError: Where one is unknown.
    """
    for flag, name, known in (("sampler", sampler, [*SAMPLERS, "grid"]), ("pruner", pruner, list(PRUNERS))):
        if name not in known:
            raise InjertoError(f"unknown --{flag} '{name}'; {suggest(name, known)}")


def make_sampler(name: str, space: Sequence[Dimension], seed: int, rank: Callable[[int], int]) -> "Anew":
    """A sampler by name.

    Args:
        name: One of :data:`SAMPLERS`, or ``grid``.
        space: The dimensions.
        seed: Of the search.
        rank: A trial's number to how many trials of the search came before it.
    """
    if name == "grid":  # one point a trial: Optuna's own way through a grid depends on which trials were stopped
        grid = grid_of(space)
        points = list(product(*grid.values()))
        Random(seed).shuffle(points)
        return Anew(
            lambda place: GridSampler(
                {one: [value] for one, value in zip(grid, points[place % len(points)], strict=True)}
            ),
            rank,
        )
    return Anew(lambda place: SAMPLERS[name](int(sha256(seed, "search", place)[:8], 16)), rank)


class Anew(BaseSampler):
    """A sampler that is made anew for every trial, from the trial's place in the search.

    What is drawn then depends on the seed, the place and the finished trials only, not on how often the search was
    stopped; and two processes, whose trials have different places, do not draw the same.
    """

    def __init__(self, make: Callable[[int], BaseSampler], rank: Callable[[int], int]) -> None:
        """Nothing is drawn yet.

        Args:
            make: A place to its sampler.
            rank: A trial's number to its place.
        """
        self._make, self._rank = make, rank
        self._now: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._now is None or self._now[0] != trial.number:
            self._now = trial.number, self._make(self._rank(trial.number))
        return self._now[1]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """As :class:`optuna.samplers.BaseSampler` has it.

        Args:
            study: Of the search.
            trial: To be drawn.
        """
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As :class:`optuna.samplers.BaseSampler` has it.

        Args:
            study: Of the search.
            trial: To be drawn.
        """
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As :class:`optuna.samplers.BaseSampler` has it.

        Args:
            study: Of the search.
            trial: To be drawn.
            search_space: What is drawn together.
        """
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As :class:`optuna.samplers.BaseSampler` has it.

        Args:
            study: Of the search.
            trial: To be drawn.
            param_name: What is drawn.
            param_distribution: From what.
        """
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)
