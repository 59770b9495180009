"""One process's part in a search: trials are taken, fitted, judged without a target label, and written down."""

import gc
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Trial
from optuna.trial import FrozenTrial, TrialState

from injerto import api
from injerto.basics.checksums import write_sealed
from injerto.basics.errors import InjertoError, system_trouble, why_failed
from injerto.basics.files import write_text
from injerto.basics.progress import format_seconds, note, quiet, warn
from injerto.recipe.recipe import is_balanced, make_recipe
from injerto.studies.found import (
    csv_of,
    entry_of,
    importances,
    kept_rows,
    mean_val,
    read_run,
    rows_of,
    score_of,
    told_value,
    value_of,
    winner,
    with_ties,
)
from injerto.studies.grid import label_of
from injerto.studies.ledger import Ledger, origin_of
from injerto.studies.sampling import distributions
from injerto.studies.space import Dimension, point_at, settings_at
from injerto.training.folder import remove_checkpoints, remove_run

KEPT = {"metrics.json", "recipe.yaml", "base.json"}
"""What stays of a run that does not win."""
TRIALS = 30
"""How many trials there are where neither their number nor a time is given."""
TENTHS = 10
"""Places in a run at which it may be cut short."""
REDRAWN = {"batch_size", "views", "augment", "norm", "image_size", "max_length", "tuning", "backbone", "precision"}
"""Dimensions along which trials do not share what frozen stages compute."""


class Pruned(Exception):
    """A trial is cut short."""


class Plan:
    """What a search tries, checked: its space, what judges, and the point it begins with."""

    def __init__(self, space: Sequence[Dimension], validator: str | None, first: dict[str, Any] | None) -> None:
        """Keep them.

        Args:
            space: The dimensions.
            validator: What judges, None for source ``val``.
            first: The table's defaults as a point, None where they lie outside.
        """
        self.space, self.validator, self.first = tuple(space), validator, first
        self.drawn = distributions(space)


class Worker:
    """One process's part in a search."""

    def __init__(
        self, folder: Path, ledger: Ledger, plan: Plan, about: Mapping[str, Any], fixed: Mapping[str, Any]
    ) -> None:
        """Nothing is done yet.

        Args:
            folder: Where it writes.
            ledger: The trials.
            plan: What is tried.
            about: What ``search.json`` says besides the trials.
            fixed: Settings of all trials.
        """
        self.folder, self.ledger, self.plan = folder, ledger, plan
        self.about, self.fixed = about, fixed
        self.seeds: list[int] = about["seeds"]

    def run(self, most: int | None, minutes: float | None) -> dict[str, Any]:
        """Do trials until there are enough, or the time is over.

        Args:
            most: Trials of the whole search.
            minutes: No trial begins later.

        Returns:
            The content of ``search.json``.
        """
        from injerto.training.shared import shared_loading

        begun = time.monotonic()
        done = sum(trial.state.is_finished() for trial in self.ledger.trials())
        if done:
            note(f"{done}{f' of {most}' if most else ''} trials are finished already")
        with shared_loading():
            while minutes is None or time.monotonic() - begun < 60 * minutes:
                for number in self.ledger.give_back():
                    note(f"trial {number} was killed: it is done again")
                trial = self.ledger.take(self.plan.drawn, most)
                if trial is None:
                    break
                self._do(trial, most)
                self.write()
        return self.write(last=True)

    # --- one trial ------------------------------------------------------------------------------------------------

    def _do(self, trial: Trial, most: int | None) -> None:
        study, begun = self.ledger.study, time.monotonic()
        settings = settings_at(trial.params, self.plan.space, self.fixed)
        shown = point_at(trial.params, self.plan.space)
        place = f"{self.ledger.rank(trial.number) + 1}{f' of {most}' if most else ''}"
        what = f"trial {trial.number} ({place}): {label_of(shown)}"
        note(f"{what}{self._left(most)}")
        try:
            rows = self._rows(trial, settings, shown)
        except Pruned:
            study.tell(trial, state=TrialState.PRUNED)
            note(f"trial {trial.number}: cut short, {format_seconds(time.monotonic() - begun)}")
            return
        except Exception as error:
            if system_trouble(error) is not None:  # a full disk, say: it is done again by the next call
                self.ledger.drop(trial)
                raise
            self._failed(trial, error)
            study.tell(trial, state=TrialState.FAIL)
            return
        except BaseException:  # stopped by the user: it is done again
            self.ledger.drop(trial)
            raise
        finally:
            gc.collect()
        seconds = time.monotonic() - begun
        study.tell(trial, told_value(rows, self._finished(), self.plan.validator))
        score = score_of(rows, self.plan.validator)
        val = 100 * (mean_val(rows) or 0.0)
        said = f"{self.about['objective']} {score:.4f}, " if self.plan.validator else ""
        note(f"trial {trial.number}: {said}source val {val:.1f} %, {format_seconds(seconds)}{self._best()}")

    def _rows(self, trial: Trial, settings: Mapping[str, Any], shown: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row for every seed; those of an earlier trial with the same parameters where there is one."""
        for other in self.ledger.trials():
            if other.state == TrialState.COMPLETE and point_at(other.params, self.plan.space) == shown:
                trial.set_user_attr("same_as", other.user_attrs.get("same_as", other.number))
                rows = rows_of(other)
                trial.set_user_attr("rows", kept_rows(rows, trial.params))
                return rows
        origin, after = origin_of(trial), trial.user_attrs.get("after")
        if after is not None:  # what the pruner knew of the killed one
            for step, value in self.ledger.all()[after].intermediate_values.items():
                trial.report(value, step)
        rows = []
        for seed in self.seeds:
            run = self.folder / "trials" / str(origin) / str(seed)
            rows.append(self._fit(trial, {**settings, "seed": seed}, run, rows))
            trial.set_user_attr("rows", kept_rows(rows, trial.params))
            if score_of(rows, self.plan.validator) is None:
                raise InjertoError(
                    "nothing to judge it by: there are too few held-out examples"
                    if self.plan.validator
                    else "nothing to judge it by: the sources have no val split"
                )
            if len(rows) < len(self.seeds):
                self._report(trial, TENTHS * len(rows), told_value(rows, self._finished(), self.plan.validator))
        return rows

    def _fit(
        self, trial: Trial, settings: Mapping[str, Any], run: Path, before: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Do one run, or go on with it."""
        from injerto.training.cacheplan import shared_by
        from injerto.training.watch import listening

        known, told = [value_of([row]) for row in before], TENTHS * len(before)
        measure = "balanced_accuracy" if is_balanced(self.fixed) else "accuracy"

        def hear(done: float, measured: Mapping[str, float]) -> None:
            step = TENTHS * len(before) + int(TENTHS * done)
            nonlocal told
            if self.plan.validator is None and told < step < TENTHS * (len(before) + 1):
                told = step
                self._report(trial, step, float(np.mean([*known, with_ties(measured[measure], measured["nll"])])))

        alike = not REDRAWN & {one.name for one in self.plan.space}
        with shared_by((self.about["planned"] or TRIALS) if alike else 1), listening(hear), quiet():
            try:
                api.fit(self.about["data"], out=run, resume=True, **settings)
            except Pruned:
                remove_run(run)
                raise
        remove_checkpoints(run)
        return read_run(run, settings["seed"], self.fixed)

    @staticmethod
    def _report(trial: Trial, step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise Pruned

    def _failed(self, trial: Trial, error: Exception) -> None:
        reason, _ = why_failed(error)
        trial.set_user_attr("reason", reason)
        warn(f"trial {trial.number} failed: {reason}")

    # --- what was found -------------------------------------------------------------------------------------------

    def _finished(self) -> dict[int, list[dict[str, Any]]]:
        """Rows of the trials that were finished, by number."""
        trials = [trial for trial in self.ledger.trials() if trial.state == TrialState.COMPLETE]
        return {trial.number: rows_of(trial) for trial in trials}

    def _left(self, most: int | None) -> str:
        """How long the rest takes, from the usual trial so far."""
        trials = self.ledger.trials()
        seconds = [trial.duration.total_seconds() for trial in trials if trial.duration]
        if most is None or not seconds:
            return ""
        rest = most - sum(trial.state.is_finished() for trial in trials)
        return f", {format_seconds(float(np.median(seconds)) * rest)} left"

    def _best(self) -> str:
        number = winner(self._finished(), self.plan.validator)[0]
        return f"; best so far: trial {number}"

    def write(self, last: bool = False) -> dict[str, Any]:
        """Write ``search.json``, ``search.csv`` and ``best.yaml``; keep of runs that do not win what little is needed.

        Args:
            last: Whether nothing follows: then importances are computed too.

        Returns:
            The content of ``search.json``.
        """
        trials, finished = self.ledger.trials(), self._finished()
        best, away = winner(finished, self.plan.validator)
        entries = [entry_of(one, self.plan.space, self.plan.validator) for one in trials]
        by_number = {one.number: one for one in trials}
        content: dict[str, Any] = {**self.about, "trials": entries, "turned_away": away, "best": None}
        judged = [number for number in finished if number not in away]
        scores = [entry["score"] for entry in entries if entry["number"] in judged]
        points = [by_number[number].params for number in judged]
        content["importance"] = importances(points, scores, self.plan.drawn) if last else None
        if best is not None:
            content["best"] = self._winner(by_number[best], next(e for e in entries if e["number"] == best))
            self._slim(by_number, best)
        write_text(self.folder / "search.csv", csv_of(content))
        return write_sealed(self.folder / "search.json", content)

    def _place(self, trial: FrozenTrial) -> Path:
        return self.folder / "trials" / str(origin_of(trial))

    def _winner(self, trial: FrozenTrial, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The best trial, its recipe as a file, and how to fit it again."""
        settings = settings_at(trial.params, self.plan.space, self.fixed)
        recipe = make_recipe(data=self.about["data"], **settings, seed=self.seeds[0])
        recipe.save(self.folder / "best.yaml")
        runs = [self._place(trial) / str(seed) for seed in self.seeds]
        kept = [str(run.relative_to(self.folder)) for run in runs if (run / "adapter").exists()]
        again = ["injerto", "fit", self.about["data"], "--config", str(self.folder / "best.yaml"), "--out", "runs/best"]
        return {**entry, "runs": kept, "recipe": recipe.model_dump(mode="json"), "command": shlex.join(again)}

    def _slim(self, trials: Mapping[int, FrozenTrial], best: int) -> None:
        """Remove what losing runs need no more; another process's trials in this folder are left alone."""
        for trial in trials.values():
            if trial.number == best or not trial.state.is_finished() or trial.user_attrs.get("same_as") is not None:
                continue
            for seed in self.seeds:
                remove_run(self._place(trial) / str(seed), keep=KEPT)
