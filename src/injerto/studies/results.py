"""What the runs of a comparison found: a row for every run, means with intervals, as JSON, CSV and Markdown."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from injerto.adapters.card import load_card
from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256, write_text
from injerto.basics.progress import format_seconds
from injerto.recipe.recipe import load_recipe
from injerto.statistics.bootstrap import nested_interval
from injerto.studies.choice import choose
from injerto.studies.grid import Planned, label_of, text_of

BOTH = "train+test"
"""All examples of a target: those it was adapted on, and the others."""
MEASURED = ("forgetting", "alignment", "validators")
"""Blocks of ``metrics.json`` that become columns."""
ROLES = ("source", "target", "unseen")
ORACLE = "oracle: needed labels of a domain that was not learned from"
Key = tuple[str, str]


@dataclass(frozen=True)
class Answers:
    """What one run said of one split of one domain, without examples that it cannot be right on.

    Attributes:
        role: ``source``, ``target`` or ``unseen``.
        right: 1 for right, 0 for wrong, (N,).
        groups: Numbers of their groups, (N,).
        examples: Digest of the examples, in their order.
    """

    role: str
    right: np.ndarray
    groups: np.ndarray
    examples: str


def read_answers(run: Path) -> dict[Key, Answers]:
    """The predictions of a finished run by domain and split; of a target also on :data:`BOTH` together.

    Args:
        run: Its folder.

    Raises:
        InjertoError: Where ``predictions.csv`` is missing or damaged.
    """
    classes = set(load_card(run / "adapter")["labels"])
    found: dict[Key, tuple[str, list[dict[str, str]]]] = {}
    path = run / "predictions.csv"
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for line in csv.DictReader(stream):
                name, role, split = line["domain"], line["role"], line["split"]
                sides = (split, BOTH) if role == "target" and split in BOTH.split("+") else (split,)
                for side in sides:
                    lines = found.setdefault((name, side), (role, []))[1]
                    if line["label"] in classes:
                        lines.append(line)
    except (OSError, KeyError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise InjertoError(f"cannot read {path}: {reason}; remove {run} to do the run again") from None
    return {key: _answers(*value) for key, value in found.items()}


def _answers(role: str, lines: Sequence[Mapping[str, str]]) -> Answers:
    columns = [[line[name] for line in lines] for name in ("content", "group", "label")]
    right = np.asarray([line["predicted"] == line["label"] for line in lines], dtype=np.float64)
    groups = np.unique(columns[1], return_inverse=True)[1] if lines else np.zeros(0, dtype=np.int64)
    return Answers(role, right, groups, sha256(*(text for column in columns for text in column)))


def row_of(planned: Planned, run: Path, failed: Mapping[str, Any] | None) -> dict[str, Any]:
    """One run as a row of ``results.json``.

    Args:
        planned: The run.
        run: Its folder.
        failed: ``reason`` and ``fault`` where it failed.
    """
    row: dict[str, Any] = {"row": planned.label, "axes": dict(planned.axes), "seed": planned.seed}
    recipe = run / "recipe.yaml"
    fields = load_recipe(recipe) if recipe.exists() else planned.recipe.model_dump(mode="json")
    split_seed = fields["split_seed"] if fields["split_seed"] is not None else planned.seed
    metrics: dict[str, Any] = {} if failed else json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    row |= {"split_seed": split_seed, "splits": metrics.get("splits"), "status": "failed" if failed else "ok"}
    row |= {"reason": failed["reason"] if failed else None, "fault": bool(failed and failed["fault"])}
    row |= {"run": f"{run.parent.name}/{run.name}", "recipe": fields}
    if failed:
        return row
    domains = {
        name: {
            "role": entry["role"],
            "oracle": entry["oracle"],
            "splits": {side: _scalars(values) for side, values in entry["splits"].items()},
        }
        for name, entry in metrics["domains"].items()
    }
    row |= {"domains": domains, "selection": _scalars(metrics["selection"])}
    row["trainable"] = metrics["parameters"]["trainable"]
    row["adapter_bytes"] = metrics["adapter_bytes"]
    row["seconds"] = sum(metrics["seconds"].values())
    for block in MEASURED:
        row[block] = _flat(metrics.get(block) or {})
    return row


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

    def __init__(self, folder: Path, about: Mapping[str, Any], planned: Sequence[Planned]) -> None:
        """Nothing is known yet.

        Args:
            folder: The comparison's.
            about: What ``results.json`` says besides rows and summary.
            planned: All its runs.
        """
        self.folder, self.about, self.planned = folder, about, planned
        self._rows: dict[str, dict[str, Any]] = {}
        self._answers: dict[str, dict[Key, Answers]] = {}
        self._known: dict[Any, tuple[float, float, float]] = {}

    def add(self, planned: Planned, run: Path, failed: Mapping[str, Any] | None) -> None:
        """Take in a finished or failed run.

        Args:
            planned: The run.
            run: Its folder.
            failed: ``reason`` and ``fault`` where it failed.
        """
        if not failed:
            self._answers[planned.name] = read_answers(run)
        self._rows[planned.name] = row_of(planned, run, failed)

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
        content = {**self.about, "planned": len(self.planned), "rows": rows, "summary": self._summary()}
        content["choice"] = choose(rows)
        write_text(self.folder / "results.csv", csv_of(rows))
        write_text(self.folder / "results.md", markdown_of(content))
        write_text(self.folder / "results.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
        return content

    def _summary(self) -> list[dict[str, Any]]:
        groups: dict[str, list[Planned]] = {}
        for one in self.planned:
            groups.setdefault(one.label, []).append(one)
        found = []
        for label, own in groups.items():
            base = baseline_of(own[0].axes, list(groups))
            statuses = {one.seed: row["status"] for one in own if (row := self._rows.get(one.name))}
            ok = [one for one in own if statuses.get(one.seed) == "ok"]
            entry: dict[str, Any] = {"row": label, "axes": dict(own[0].axes), "baseline": base}
            entry["seeds"] = [one.seed for one in ok]
            entry["failed"] = [seed for seed, status in statuses.items() if status == "failed"]
            seconds = [self._rows[one.name]["seconds"] for one in ok]
            entry["seconds"] = float(np.mean(seconds)) if seconds else None
            entry["domains"] = self._domains(ok, groups[base] if base else [])
            found.append(entry)
        return found

    def _domains(self, own: Sequence[Planned], base: Sequence[Planned]) -> dict[str, Any]:
        keys = dict.fromkeys(key for one in own for key in self._answers[one.name])
        found: dict[str, Any] = {}
        for name, side in keys:
            parts = {one.seed: part for one in own if (part := self._answers[one.name].get((name, side)))}
            role = next(iter(parts.values())).role
            scored = [one for one in own if one.seed in parts and len(parts[one.seed].right)]
            entry = found.setdefault(name, {"role": role, "oracle": role != "source", "splits": {}})
            entry["splits"][side] = self._figures(scored, base, (name, side))
        return found

    def _figures(self, own: Sequence[Planned], base: Sequence[Planned], key: Key) -> dict[str, Any]:
        """Accuracy of a row on one split, and its paired difference to the baseline."""
        entry: dict[str, Any] = {"n": [len(self._answers[one.name][key].right) for one in own]}
        entry |= dict(zip(("accuracy", "low", "high"), self._interval(own, None, key), strict=True))
        if not base:
            return entry
        others = {one.seed: one for one in base if key in self._answers.get(one.name, {})}
        both = [(one, others[one.seed]) for one in own if one.seed in others]
        pairs = [(one, other) for one, other in both if self._alike(one, other, key)]
        found = self._interval([one for one, _ in pairs], [other for _, other in pairs], key)
        entry |= dict(zip(("gain", "gain_low", "gain_high"), found, strict=True))
        entry["gain_seeds"] = [one.seed for one, _ in pairs]
        if len(pairs) < len(both):
            entry["unpaired"] = "other splits or test examples than the baseline's"
        return entry

    def _alike(self, one: Planned, other: Planned, key: Key) -> bool:
        """Whether two runs were asked the same, and learned from the same split (of which ``shots`` takes a part)."""
        asked = [self._answers[run.name][key].examples for run in (one, other)]
        splits = [self._rows[run.name]["splits"] for run in (one, other)]
        return asked[0] == asked[1] and (splits[0] == splits[1] or "shots" in one.axes)

    def _interval(
        self, own: Sequence[Planned], others: Sequence[Planned] | None, key: Key
    ) -> tuple[float | None, float | None, float | None]:
        """A mean or mean difference with its interval, computed once; None without runs."""
        if not own:
            return None, None, None
        what = (tuple(one.name for one in own), tuple(one.name for one in others or ()), key)
        if what not in self._known:
            mine = [self._answers[one.name][key] for one in own]
            right, groups = [part.right for part in mine], [part.groups for part in mine]
            base = None if others is None else [self._answers[one.name][key].right for one in others]
            self._known[what] = nested_interval(right, groups, base)
        return self._known[what]


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


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a line for every run; names of columns that needed labels of other domains begin with ``oracle:``.

    Args:
        rows: As in ``results.json``.
    """
    lines = [_cells(row) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: "" if value is None else text_of(value) for name, value in line.items()})
    return stream.getvalue()


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {**row["axes"], **{name: row[name] for name in ("seed", "split_seed", "splits", "status", "reason", "run")}}
    for name, entry in row.get("domains", {}).items():
        cells |= {f"{name}/role": entry["role"], f"{name}/oracle": entry["oracle"]}
        mark = "oracle:" if entry["oracle"] else ""
        for side, values in entry["splits"].items():
            cells |= {f"{mark}{name}/{side}/{metric}": value for metric, value in values.items()}
    cells |= {name: row[name] for name in ("trainable", "adapter_bytes", "seconds") if name in row}
    for block in ("selection", *MEASURED, "recipe"):
        cells |= {f"{block}/{name}": value for name, value in row.get(block, {}).items()}
    return cells


def _oracle(content: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Name, role and mark of every domain, sources first."""
    domains = {name: entry for row in content["summary"] for name, entry in row["domains"].items()}
    for role in ROLES:
        yield from ((name, role, entry["oracle"]) for name, entry in domains.items() if entry["role"] == role)


def gain_text(figures: Mapping[str, Any]) -> str:
    """A paired difference in points with its interval; in parentheses where the interval holds 0.

    Args:
        figures: Of one split in the summary.
    """
    if figures.get("gain") is None:
        return "-"
    gain, low, high = (
        f"{100 * figures[end]:+.1f}".replace("-0.0", "+0.0") for end in ("gain", "gain_low", "gain_high")
    )
    text = f"{gain} [{low}, {high}]"
    return f"({text})" if figures["gain_low"] <= 0 <= figures["gain_high"] else text


def table_of(content: Mapping[str, Any], both: bool = False) -> tuple[str, list[str], list[list[str]], list[str]]:
    """The summary as a table for people.

    Args:
        content: Of ``results.json``.
        both: Whether targets have a column for all their examples too.

    Returns:
        Title, headings, cells, and lines to stand below.
    """
    axes, summary = list(content["grid"]), content["summary"]
    columns = [(name, side, mark) for name, role, mark in _oracle(content) for side in _sides(role, both)]
    headings = [axis.replace("_", "-") for axis in axes] + ["seeds"]
    for name, side, mark in columns:
        shown = f"{name}{'' if side == 'test' else f' {side}'}{'*' if mark else ''}"
        headings += [shown, f"gain {shown}"]
    cells = []
    for row in summary:
        line = [*(text_of(row["axes"][axis]) for axis in axes), str(len(row["seeds"]))]
        for name, side, _ in columns:
            figures = row["domains"].get(name, {}).get("splits", {}).get(side, {})
            accuracy = figures.get("accuracy")
            line += ["-" if accuracy is None else f"{100 * accuracy:.1f} %", gain_text(figures)]
        cells.append([*line, "-" if row["seconds"] is None else format_seconds(row["seconds"])])
    bases = list(dict.fromkeys(row["baseline"] for row in summary if row["baseline"]))
    over = f" over {bases[0]}" if len(bases) == 1 else " over the same row without alignment" if bases else ""
    title = f"accuracy on test, mean over seeds; gain: paired difference{over}, points [95 % interval]"
    below = [f"* {ORACLE}"] if any(mark for _, _, mark in columns) else []
    if any("(" in cell for line in cells for cell in line[len(axes) :]):
        below.append("a gain in (parentheses) is none: its interval holds 0")
    if any(len(row["seeds"]) == 1 for row in summary):
        below.append("one seed: its interval knows of test examples only")
    if content.get("choice"):
        below.append(_chosen(content["choice"]))
    if any("unpaired" in part for row in summary for d in row["domains"].values() for part in d["splits"].values()):
        below.append("a gain is left out where rows were tested on other examples than their baseline")
    below += [f"failed: {row['row']} seed {row['seed']}: {row['reason']}" for row in content["rows"] if row["reason"]]
    done = sum(row["status"] == "ok" for row in content["rows"])
    if done < content["planned"]:
        below.append(f"{done} of {content['planned']} runs are finished")
    return title, [*headings, "time"], cells, below


def _chosen(choice: Mapping[str, Any]) -> str:
    """What to take without target labels, in words."""
    away = f"; its guard turned {len(choice['turned_away'])} away" if choice["turned_away"] else ""
    rows = f"{len(choice['scores'])} rows{away}"
    return f"chosen without target labels ({choice['validator']}, of {rows}): {choice['row']}"


def _sides(role: str, both: bool) -> tuple[str, ...]:
    return ("test", BOTH) if both and role == "target" else ("test",)


def markdown_of(content: Mapping[str, Any]) -> str:
    """The summary as Markdown.

    Args:
        content: Of ``results.json``.
    """
    title, headings, cells, below = table_of(content, both=True)
    lines = [title[0].upper() + title[1:] + ".", ""]
    for line in (headings, ["---"] * len(headings), *cells):
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |")
    lines.append("")
    lines += [f"- {text.replace('*', chr(92) + '*', 1) if text[0] == '*' else text}" for text in below]
    lines += [f"- {text}" for text in content["fairness"]]
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    lines += ["", f"`{content['command']}`; {content['machine']}; {versions}", ""]
    return "\n".join(lines)
