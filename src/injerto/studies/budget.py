"""A comparison within a time budget: rows that look worst are dropped after some seeds, without a target label.

Successive halving (Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
AISTATS 2016) with seeds as the resource: all rows have the first seeds, the better half goes on until it has twice as
many, and so on. All rows of a rung are finished before any is dropped.

Optuna's ``SuccessiveHalvingPruner`` is not used. It is the asynchronous variant: whether a trial goes on is decided as
it reports, by its rank among those that have reported by then (the first ones go on where they are the best so far), so
the order of arrival decides, and a comparison that is taken up again could drop other rows. Here every decision is
written down as it is made, and read again.
"""

import gc
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from injerto.basics.checksums import read_sealed, write_sealed
from injerto.basics.errors import InjertoError
from injerto.basics.progress import format_seconds, quiet
from injerto.studies.choice import choose
from injerto.studies.grid import Planned
from injerto.studies.summary import baseline_of

NAME = "plan.json"
UNITS = {"s": 1, "m": 60, "h": 3600}
AROUND = 1.0
"""Seconds of a run that no plan counts: opening files, choosing a step, writing."""
LEAST = 2
"""Rows that are never halved."""


def read_budget(budget: str | float) -> float:
    """``20m`` -> 1200.0.

    Args:
        budget: A number with ``s``, ``m`` or ``h``; or seconds.

    Returns:
        Seconds.

    Raises:
        InjertoError: Where it is neither, or nothing.
    """
    if isinstance(budget, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
        seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    else:
        seconds = float(budget)
    if not 0 < seconds < float("inf"):
        raise InjertoError(f"--budget {budget} is no time; write for example 90s, 20m or 1h")
    return seconds


def check_axes(axes: Iterable[str], leave_one_out: bool) -> None:
    """Refuse what no single score can rank.

    Args:
        axes: Of the rows.
        leave_one_out: Whether every domain is left out in turn.

    Raises:
        InjertoError: Where rows differ in their domains.
    """
    if leave_one_out:
        raise InjertoError("--budget and --leave-one-out do not go together; leave one of them out")
    for axis in ("source", "target"):
        if axis in axes:
            raise InjertoError(
                f"--budget drops rows by a score, and rows with another {axis} have none in common; "
                f"leave the axis {axis} out, or --budget"
            )


def estimate(planned: Sequence[Planned]) -> dict[str, float]:
    """How long a run of each row takes, in seconds; 0 for a row that cannot even begin.

    What its compute plan says, and :data:`AROUND`.

    Args:
        planned: All runs.

    Raises:
        InjertoError: Where there is neither a target nor a source with ``val`` examples, so that nothing ranks rows.
    """
    from injerto.training.prepare import prepare

    found: dict[str, float] = {}
    for one in planned:
        if one.label in found:
            continue
        try:
            with quiet():
                prepared = prepare(one.recipe, one.recipe.data)
        except InjertoError:  # its runs will say why
            found[one.label] = 0.0
            continue
        if not prepared.targets and not any(len(part) for part in prepared.parts("val").values()):
            raise InjertoError("--budget drops rows by accuracy on source val, and no source has val; leave it out")
        found[one.label] = AROUND + (prepared.plan.seconds or 0.0)
        del prepared
        gc.collect()
    return found


def bases_of(planned: Sequence[Planned]) -> dict[str, str | None]:
    """Every row's baseline.

    Args:
        planned: All runs.
    """
    rows = {one.label: one.axes for one in planned}
    return {label: baseline_of(axes, list(rows)) for label, axes in rows.items()}


def rungs_of(
    seconds: Mapping[str, float], bases: Mapping[str, str | None], seeds: int, first: int
) -> list[dict[str, Any]]:
    """The rungs where all rows have so many first seeds.

    Args:
        seconds: Of a run, by row.
        bases: Every row's baseline; it goes on with its row.
        seeds: Of a row that is never dropped.
        first: Seeds of the first rung.

    Returns:
        Per rung ``seeds``, how many a row then has; ``rows``, how many take part, baselines not counted; and
        ``seconds``, what it takes at most: its dearest rows, and as many of the dearest baselines.
    """
    rungs, rows, before = [], len(seconds), 0
    costs = sorted(seconds.values(), reverse=True)
    bare = sorted((seconds[base] for base in {base for base in bases.values() if base}), reverse=True)
    while before < seeds:
        after = min(seeds, 2 * before if before else first)
        if rows <= LEAST:  # nobody is left to drop
            after = seeds
        most = min(sum(costs), sum(costs[:rows]) + sum(bare[:rows]))
        rungs.append({"seeds": after, "rows": rows, "seconds": (after - before) * most})
        before, rows = after, min(rows, max(LEAST, rows // 2))
    return rungs


class Halving:
    """What is done within the budget, and what was decided so far; kept in ``plan.json``."""

    def __init__(self, path: Path, plan: dict[str, Any], bases: Mapping[str, str | None]) -> None:
        """Go on with a plan.

        Args:
            path: Of ``plan.json``.
            plan: ``budget``, ``rows``, ``seeds``, ``seconds``, ``rungs`` and ``decisions``.
            bases: Every row's baseline.
        """
        self._path, self._plan, self._bases = path, plan, bases

    @property
    def dropped(self) -> list[dict[str, Any]]:
        """Rows that were dropped: ``row``, ``after_seeds`` (how many), ``score`` and ``reason``."""
        return [one for decision in self._plan["decisions"] for one in decision["dropped"]]

    def is_dropped(self, one: Planned) -> bool:
        """Whether a run's row was dropped before its seed.

        Args:
            one: The run.
        """
        after = {row["row"]: row["after_seeds"] for row in self.dropped}
        return one.label in after and one.seed not in self._plan["seeds"][: after[one.label]]

    def is_out(self, one: Planned) -> bool:
        """Whether a run's row was dropped, be it after its seed: a failed run is then not tried again.

        Args:
            one: The run.
        """
        return any(row["row"] == one.label for row in self.dropped)

    def is_due(self, one: Planned) -> bool:
        """Whether a rung before a run's seed has ended undecided.

        Args:
            one: The next run.
        """
        decided = len(self._plan["decisions"])
        rungs = self._plan["rungs"]
        return decided < len(rungs) - 1 and one.seed not in self._plan["seeds"][: rungs[decided]["seeds"]]

    def decide(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """End a rung: those with the best scores of :func:`injerto.studies.choice.choose` go on, with their baselines.

        Args:
            rows: All runs so far, as in ``results.json``.

        Returns:
            The rows that are dropped now. ``plan.json`` has them before anything else is done.
        """
        rung = len(self._plan["decisions"])
        count, keeps = self._plan["rungs"][rung]["seeds"], self._plan["rungs"][rung + 1]["rows"]
        out, seeds = {one["row"] for one in self.dropped}, self._plan["seeds"][:count]
        alive = [label for label in self._plan["rows"] if label not in out]
        own = [row for row in rows if row["row"] in alive and row["seed"] in seeds]
        done = [label for label in alive if _times(own, label) == count]
        choice = choose([row for row in own if row["row"] in done])
        scores: dict[str, float] = choice["scores"] if choice else {}
        turned: set[str] = set()
        best, rule = done or alive, ""
        if choice:
            turned, rule = set(choice["turned_away"]), choice.get("validator") or f"accuracy on {choice['rule']}"
            first = choice["row"]  # also where all are turned away
            best = sorted(scores, key=lambda label: (label != first, label in turned, -scores[label]))[:keeps]
        kept = {*best, *(base for label in best if (base := self._bases[label]))}
        dropped = []
        for label in (label for label in alive if label not in kept):
            reason = f"not among the best {keeps} by {rule}"
            if label in turned:
                reason = f"turned away by the guard of {rule}"
            if label not in done:
                reason = "a run failed"
            dropped.append({"row": label, "after_seeds": count, "score": scores.get(label), "reason": reason})
        self._plan["decisions"].append({"after_seeds": count, "dropped": dropped})
        self.save()
        return dropped

    def save(self) -> None:
        """Write ``plan.json``, whole or not at all."""
        write_sealed(self._path, self._plan)

    @property
    def budget(self) -> float:
        """Seconds that it may take."""
        return float(self._plan["budget"])

    @property
    def words(self) -> str:
        """The plan in a line."""
        rungs, rows, seeds = self._plan["rungs"], len(self._plan["rows"]), self._plan["seeds"]
        about = format_seconds(sum(rung["seconds"] for rung in rungs))
        begin = f"budget {format_seconds(self._plan['budget'])}"
        if len(rungs) == 1:
            return f"{begin}: all {rows} rows have all their seeds ({len(seeds)}), about {about}"
        steps = ", ".join(
            f"the best {after['rows']} after {before['seeds']} of {len(seeds)} seeds"
            for before, after in zip(rungs, rungs[1:], strict=False)
        )
        return f"{begin}: of {rows} rows go on {steps}, each with its baseline; about {about} at most"


def _times(rows: Iterable[Mapping[str, Any]], label: str) -> int:
    """How many runs of a row are finished."""
    return sum(row["row"] == label and row["status"] == "ok" for row in rows)


def plan_halving(
    folder: Path, planned: Sequence[Planned], seeds: Sequence[int], budget: float | None
) -> Halving | None:
    """The plan of a comparison: the one in its folder, else a new one, which is written before anything is done.

    The first rung is the one with the most seeds whose rungs fit the budget at worst, by estimated times.

    Args:
        folder: The comparison's.
        planned: All runs.
        seeds: Their seeds, in the order they are done.
        budget: Seconds; None for a comparison without a plan.

    Raises:
        InjertoError: Where the folder has another plan or runs without one, or the budget is too small for any.
    """
    path, bases = folder / NAME, bases_of(planned)
    if path.exists():
        return Halving(path, _load(path, list(bases), list(seeds), budget), bases)
    if budget is None:
        return None
    if any((folder / "runs").glob("*.json")):
        raise InjertoError(f"--budget plans from the first run on, and {folder} has runs already; name another folder")
    seconds = estimate(planned)
    plans = [rungs_of(seconds, bases, len(seeds), first) for first in range(len(seeds), 0, -1)]
    totals = [sum(rung["seconds"] for rung in rungs) for rungs in plans]
    fits = next((rungs for rungs, total in zip(plans, totals, strict=True) if total <= budget), None)
    if fits is None:
        raise InjertoError(
            f"--budget {format_seconds(budget)} is too little: however soon rows are dropped, {len(seconds)} of them "
            f"take about {format_seconds(min(totals))}; give that much, or fewer rows, seeds or --steps"
        )
    plan = {"budget": budget, "rows": list(bases), "seeds": list(seeds), "seconds": seconds}
    found = Halving(path, {**plan, "rungs": fits, "decisions": []}, bases)
    found.save()
    return found


def _load(path: Path, rows: list[str], seeds: list[int], budget: float | None) -> dict[str, Any]:
    """Read a plan and check that it is the one that is asked for."""
    plan = read_sealed(path, "name another folder")
    try:
        before, same = plan["budget"], plan["rows"] == rows and plan["seeds"] == seeds
        _ = plan["rungs"], plan["decisions"]
        before = float(before)
    except (ValueError, LookupError, TypeError):
        raise InjertoError(f"{path} is damaged; name another folder") from None
    if budget != before:
        now = "none" if budget is None else format_seconds(budget)
        raise InjertoError(
            f"--out {path.parent} was planned with --budget {format_seconds(before)}, now {now}; repeat it, or name "
            "another folder"
        )
    if not same:
        raise InjertoError(
            f"--out {path.parent} was planned for other rows or seeds; repeat them, or name another folder"
        )
    return plan
