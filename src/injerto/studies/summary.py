"""The summary of a comparison: for every row means over its seeds, with paired gains over its baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from injerto.studies.answers import BOTH, Answers, Key
from injerto.studies.figures import Figures, Part, correct
from injerto.studies.grid import Planned, label_of

METRICS = ("ece", "nll", "macro_f1", "balanced_accuracy")
"""Of a run's own metrics, those that the summary averages over seeds."""
FORGETTING = ("agreement", "cka")


class Summary:
    """Sums up rows as far as their runs are there."""

    def __init__(self, planned: Sequence[Planned]) -> None:
        """Nothing is known yet.

        Args:
            planned: All runs.
        """
        self._groups: dict[str, list[Planned]] = {}
        for one in planned:
            self._groups.setdefault(one.label, []).append(one)
        self._figures = Figures(len(self._groups))

    def of(
        self, rows: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Mapping[Key, Answers]]
    ) -> list[dict[str, Any]]:
        """The block ``summary`` of ``results.json``.

        Args:
            rows: Those of finished and failed runs, by the run's name.
            answers: Of finished runs, by the run's name.
        """
        found = []
        for label, own in self._groups.items():
            base = baseline_of(own[0].axes, list(self._groups))
            statuses = {one.seed: rows[one.name]["status"] for one in own if one.name in rows}
            ok = [one for one in own if statuses.get(one.seed) == "ok"]
            mine = [rows[one.name] for one in ok]
            entry: dict[str, Any] = {"row": label, "axes": dict(own[0].axes), "baseline": base}
            entry["seeds"] = [one.seed for one in ok]
            entry["failed"] = [seed for seed, status in statuses.items() if status == "failed"]
            entry["seconds"] = min((row["seconds"] for row in mine), default=None)  # the first may fill a cache
            entry |= {name: mine[0][name] if mine else None for name in ("trainable", "adapter_bytes")}
            entry["forgetting"] = {name: _mean([row["forgetting"].get(name) for row in mine]) for name in FORGETTING}
            others = [one for one in self._groups[base] if one.name in answers] if base else None
            entry["domains"] = self._domains(ok, others, rows, answers)
            found.append(entry)
        for key in dict.fromkeys(key for entry in found for key in _splits(entry)):
            correct([_splits(entry)[key] for entry in found if key in _splits(entry)])
        return found

    def _domains(
        self,
        own: Sequence[Planned],
        base: Sequence[Planned] | None,
        rows: Mapping[str, Mapping[str, Any]],
        answers: Mapping[str, Mapping[Key, Answers]],
    ) -> dict[str, Any]:
        def parts(runs: Sequence[Planned], key: Key) -> list[Part]:
            there = [(one, answers[one.name][key]) for one in runs if key in answers[one.name]]
            return [
                Part(f"{one.name} {'/'.join(key)}", one.seed, rows[one.name]["splits"], said)
                for one, said in there
                if len(said.right)
            ]

        found: dict[str, Any] = {}
        for name, side in dict.fromkeys(key for one in own for key in answers[one.name]):
            role = next(said[name, side].role for one in own if (name, side) in (said := answers[one.name]))
            entry = found.setdefault(name, {"role": role, "oracle": role != "source", "splits": {}})
            others = None if base is None else parts(base, (name, side))
            figures = self._figures.of(parts(own, (name, side)), others, "shots" in own[0].axes)
            if side != BOTH:
                splits = [rows[one.name]["domains"].get(name, {}).get("splits", {}).get(side, {}) for one in own]
                figures |= {metric: _mean([values.get(metric) for values in splits]) for metric in METRICS}
            entry["splits"][side] = figures
        return found


def _splits(entry: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """The figures of a row by domain and split."""
    return {(name, side): f for name, domain in entry["domains"].items() for side, f in domain["splits"].items()}


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is there."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def baseline_of(axes: Mapping[str, Any], rows: Sequence[str]) -> str | None:
    """The row that a row is compared with: itself without alignment where there is one, else the first.

    Args:
        axes: Of the row.
        rows: Labels of all rows, in order.

    Returns:
        The label, None for a row that is a baseline itself.
    """
    plain = label_of({**axes, "alignment": "none"}) if "alignment" in axes else rows[0]
    base = plain if plain in rows else rows[0]
    return None if base == label_of(axes) else base
