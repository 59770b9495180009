"""What the runs of a comparison found: a row for every run, means with intervals, as JSON, CSV and Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from injerto.basics.checksums import write_sealed
from injerto.basics.errors import InjertoError
from injerto.basics.files import write_text
from injerto.evaluation.recorded import AGAIN, PLACES, check_recorded, load_metrics
from injerto.recipe.recipe import load_recipe
from injerto.studies.answers import Answers, Key, read_answers
from injerto.studies.budget import Halving
from injerto.studies.choice import choose
from injerto.studies.grid import Planned, text_of
from injerto.studies.rotation import LeftOut
from injerto.studies.summary import Summary
from injerto.studies.tables import MEASURED, csv_of, markdown_of


def row_of(planned: Planned, run: Path, failed: Mapping[str, Any] | None) -> dict[str, Any]:
    """One run as a row of ``results.json``.

    Args:
        planned: The run.
        run: Its folder.
        failed: ``reason`` and ``fault`` where it failed.
    """
    row: dict[str, Any] = {"row": planned.label, "axes": dict(planned.axes), "seed": planned.seed}
    check_recorded(run)
    recipe, wanted = run / "recipe.yaml", planned.recipe.model_dump(mode="json")
    fields = load_recipe(recipe) | {name: wanted[name] for name in PLACES} if recipe.exists() else wanted
    split_seed = fields["split_seed"] if fields["split_seed"] is not None else planned.seed
    metrics = {} if failed else load_metrics(run)
    row |= {"split_seed": split_seed, "splits": metrics.get("splits"), "status": "failed" if failed else "ok"}
    row |= {"reason": failed["reason"] if failed else None, "fault": bool(failed and failed["fault"])}
    row |= {"run": f"{run.parent.name}/{run.name}", "recipe": fields}
    try:
        return row if failed else row | _measured(metrics)
    except (LookupError, TypeError, AttributeError) as error:
        raise InjertoError(f"{run / 'metrics.json'} is damaged ({error!r}); {AGAIN}") from None


def _measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a row takes from a run's metrics."""
    domains = {
        name: {
            "role": entry["role"],
            "oracle": entry["oracle"],
            "splits": {side: _scalars(values) for side, values in entry["splits"].items()},
        }
        for name, entry in metrics["domains"].items()
    }
    row = {"domains": domains, "selection": _scalars(metrics["selection"])}
    row["trainable"] = metrics["parameters"]["trainable"]
    row["adapter_bytes"] = metrics["adapter_bytes"]
    row["seconds"] = sum(metrics["seconds"].values())
    for block in MEASURED:
        row[block] = _flat(metrics.get(block) or {})
    return row


def _check_whole(run: Path, row: Mapping[str, Any], answers: Mapping[Key, Answers]) -> None:
    """Refuse predictions that are not those that the run's metrics were made of: a part of them would pass for all."""
    for name, entry in row["domains"].items():
        for side, values in entry["splits"].items():
            if values.get("accuracy") is None:
                continue
            said = answers.get((name, side))
            if said is None or not len(said.right) or abs(said.mean() - values["accuracy"]) > 1e-6:
                raise InjertoError(
                    f"{run / 'predictions.csv'} and metrics.json do not agree on {name} {side}: one is damaged; remove "
                    f"{run} to do the run again"
                )


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not isinstance(value, dict | list)}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested names joined by ``/``; lists are left out."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{key}/")
        elif not isinstance(value, list):
            found[f"{before}{key}"] = value
    return found


class Results:
    """The rows of a comparison and their summary, kept up to date while runs finish."""

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        planned: Sequence[Planned],
        left_out: Sequence[str] = (),
        plan: Halving | None = None,
    ) -> None:
        """Nothing is known yet.

        Args:
            folder: The comparison's.
            about: What ``results.json`` says besides rows and summary.
            planned: All its runs.
            left_out: The domains that are left out in turn, where it is about that.
            plan: What is dropped, where there is a budget.
        """
        self.folder, self.about, self.planned, self._plan = folder, about, planned, plan
        self._rows: dict[str, dict[str, Any]] = {}
        self._answers: dict[str, dict[Key, Answers]] = {}
        parts: dict[str, list[Planned]] = {}
        for one in planned:  # rows with other sources have other baselines
            parts.setdefault(text_of(one.axes["source"]) if left_out else "", []).append(one)
        self._summaries = [Summary(own) for own in parts.values()]
        self._left_out = LeftOut(left_out, planned) if left_out else None

    def add(self, planned: Planned, run: Path, failed: Mapping[str, Any] | None) -> None:
        """Take in a finished or failed run.

        Args:
            planned: The run.
            run: Its folder.
            failed: ``reason`` and ``fault`` where it failed.
        """
        row = row_of(planned, run, failed)
        if not failed:
            self._answers[planned.name] = answers = read_answers(run)
            _check_whole(run, row, answers)
        self._rows[planned.name] = row

    def row(self, planned: Planned) -> dict[str, Any] | None:
        """The row of a run that was taken in.

        Args:
            planned: The run.
        """
        return self._rows.get(planned.name)

    def write(self) -> dict[str, Any]:
        """Write ``results.json``, ``results.csv`` and ``results.md``, each whole or not at all.

        Returns:
            The content of ``results.json``.
        """
        rows = [self._rows[one.name] for one in self.planned if one.name in self._rows]
        entries = {entry["row"]: entry for part in self._summaries for entry in part.of(self._rows, self._answers)}
        summary = [entries[label] for label in dict.fromkeys(one.label for one in self.planned)]
        planned = sum(not (self._plan and self._plan.is_dropped(one)) for one in self.planned)
        content = {**self.about, "planned": planned, "rows": rows, "summary": summary}
        if self._plan:
            content["dropped"] = self._plan.dropped
            content["budget"] = {"seconds": self._plan.budget, "spent": sum(row.get("seconds", 0.0) for row in rows)}
        content["choice"] = choose(rows)
        if self._left_out:
            content["left_out"] = self._left_out.of(self._rows, self._answers, summary)
        write_text(self.folder / "results.csv", csv_of(rows))
        write_text(self.folder / "results.md", markdown_of(content))
        return write_sealed(self.folder / "results.json", content)
