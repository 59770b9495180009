"""Every domain left out in turn: who learns when, and how strategies do on average on what they have never seen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.recipe.recipe import make_recipe
from injerto.studies.answers import Answers, Key, join
from injerto.studies.choice import choose_by_source
from injerto.studies.figures import Figures, Part, correct
from injerto.studies.grid import Planned, check_grid, label_of
from injerto.studies.summary import baseline_of


def rotate(
    data: str, given: Mapping[str, Any], grid: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, list[Any]], list[dict[str, Any]], list[str]]:
    """Give every row an axis ``source``: all domains but the one that is left out.

    Args:
        data: What is compared on.
        given: Settings that are the same for all rows. Its sources rotate, else all domains with labels.
        grid: Axis to values.
        beside: Rows beside the grid.

    Returns:
        The grid and the rows beside it with that axis, and the domains.

    Raises:
        InjertoError: Where there is a target, the sources are an axis already, or there are fewer than two domains.
    """
    axes = check_grid(grid, given)
    if given.get("target") or "target" in axes:
        raise InjertoError("--leave-one-out has no target: what is left out stays unseen; leave --target out")
    if "source" in axes or any("source" in row for row in beside):
        raise InjertoError("--leave-one-out decides which sources a row has; leave the axis source out")
    names = list(given.get("source") or _labelled(data, given))
    if len(names) < 2:
        found = f"'{names[0]}' is the only one" if names else "there is none"
        raise InjertoError(f"--leave-one-out needs two domains with labels, better three; {found}")
    if len(set(names)) < len(names):
        raise InjertoError("a --source is named twice; name each domain once")
    sources = [[other for other in names if other != name] for name in names]
    rows = [{**row, "source": one} for row in beside for one in sources]
    return {**axes, "source": sources}, rows, names


def _labelled(data: str, given: Mapping[str, Any]) -> list[str]:
    """The domains with labels."""
    from injerto.domains.load import READING
    from injerto.training.reading import read_domains

    recipe = make_recipe(data=data, **{name: given[name] for name in READING if name in given})
    domains = read_domains(recipe, data)
    return [name for name, domain in domains.items() if any(label is not None for label in domain.labels)]


def without_source(
    grid: Mapping[str, list[Any]], beside: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """Undo :func:`rotate`: the grid and the rows beside it as they were given.

    Args:
        grid: Axis to values.
        beside: Rows beside the grid.
    """
    return strategy_of(grid), list({label_of(row): row for row in map(strategy_of, beside)}.values())


def strategy_of(axes: Mapping[str, Any]) -> dict[str, Any]:
    """A row without its sources.

    Args:
        axes: Axis to value.
    """
    return {axis: value for axis, value in axes.items() if axis != "source"}


class LeftOut:
    """The block ``left_out`` of ``results.json``."""

    def __init__(self, names: Sequence[str], planned: Sequence[Planned]) -> None:
        """Nothing is known yet.

        Args:
            names: The domains that are left out in turn.
            planned: All runs.
        """
        self._names = list(names)
        self._runs: dict[str, dict[str, dict[int, Planned]]] = {}
        for one in planned:
            name = next(name for name in names if name not in one.axes["source"])
            own = self._runs.setdefault(label_of(strategy_of(one.axes)), {})
            own.setdefault(name, {})[one.seed] = one
        self._figures = Figures(len(self._runs))

    def of(
        self,
        rows: Mapping[str, Mapping[str, Any]],
        answers: Mapping[str, Mapping[Key, Answers]],
        summary: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Every strategy on every domain while that was left out, and on average over them.

        The average weighs domains alike and is resampled over seeds and test groups, for a strategy and its baseline
        jointly; the domains stay as they are, so it says nothing of further domains. A seed counts once all domains
        were left out with it.

        Args:
            rows: Those of finished and failed runs, by the run's name.
            answers: Of finished runs, by the run's name.
            summary: Of every row.
        """
        entries = {entry["row"]: entry for entry in summary}
        parts = {label: self._parts(label, rows, answers) for label in self._runs}
        found: list[dict[str, Any]] = []
        for label, own in self._runs.items():
            first = {name: next(iter(runs.values())) for name, runs in own.items()}
            axes = strategy_of(next(iter(first.values())).axes)
            base = baseline_of(axes, list(self._runs))
            mean = self._figures.of(parts[label], None if base is None else parts[base], "shots" in axes)
            shown = {name: entries[one.label] for name, one in first.items()}
            figures = {name: one["domains"].get(name, {}).get("splits", {}).get("test") for name, one in shown.items()}
            seconds = [one["seconds"] for one in shown.values() if one["seconds"] is not None]
            found.append(
                {
                    "row": label,
                    "axes": axes,
                    "baseline": base,
                    "seeds": [part.seed for part in parts[label]],
                    "seconds": float(np.mean(seconds)) if seconds else None,
                    "domains": {name: figures.get(name) for name in self._names},
                    "mean": mean,
                }
            )
        correct([one["mean"] for one in found])
        return {"domains": self._names, "rows": found, "choice": self._choice(rows, found)}

    def _parts(
        self, label: str, rows: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Mapping[Key, Answers]]
    ) -> list[Part]:
        """What a strategy said of all domains while each was left out, a part for every seed that has them all."""
        own, found = self._runs[label], []
        for seed in next(iter(own.values())):
            runs = [own[name][seed].name for name in self._names if seed in own.get(name, {})]
            said = [
                answers[run].get((name, "test")) for name, run in zip(self._names, runs, strict=False) if run in answers
            ]
            known = [part for part in said if part is not None and len(part.right)]
            if len(known) == len(self._names):
                splits = " ".join(rows[run]["splits"] for run in runs)
                found.append(Part(f"{label} {seed}", seed, splits, join(known)))
        return found

    def _choice(
        self, rows: Mapping[str, Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any] | None:
        """For every domain the strategy that is best on the others' ``val``, and how right that is on average."""
        chosen, scores = {}, {}
        for name in self._names:
            runs = [
                {**rows[one.name], "row": label}
                for label, own in self._runs.items()
                for one in own.get(name, {}).values()
                if one.name in rows
            ]
            choice = choose_by_source(runs)
            if choice is None:
                return None
            chosen[name], scores[name] = choice["row"], choice["scores"]
        figures = {one["row"]: one["domains"] for one in found}
        reached = [own["accuracy"] for name in self._names if (own := figures[chosen[name]][name])]
        mean = float(np.mean(reached)) if len(reached) == len(self._names) else None
        return {"rule": "source val", "rows": chosen, "scores": scores, "accuracy": mean}
