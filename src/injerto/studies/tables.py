"""The results of a comparison as tables: CSV with everything, Markdown and the terminal with the summary."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from injerto.basics.escapes import plain_markdown, visible, write_guarded
from injerto.basics.progress import format_seconds
from injerto.studies.answers import BOTH
from injerto.studies.choice import all_turned_away, in_hindsight
from injerto.studies.grid import text_of

MEASURED = ("forgetting", "alignment", "validators")
"""Blocks of ``metrics.json`` that become columns."""
ROLES = ("source", "target", "unseen")
ORACLE = "oracle: needed labels of a domain that was not learned from"
LEVEL = 0.05
"""Below it an adjusted p-value makes a gain bold."""


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a line for every run; names of columns that needed labels of other domains begin with ``oracle:``.

    Args:
        rows: As in ``results.json``.
    """
    lines = [_cells(row) for row in rows]
    return csv_text(lines, list(dict.fromkeys(name for line in lines for name in line)))


def csv_text(lines: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """CSV; what a line lacks stays empty.

    Args:
        lines: Column to value.
        columns: In their order.
    """
    return write_guarded([columns, *([_cell(line.get(name)) for name in columns] for line in lines)])


def _cell(value: Any) -> str:
    """A value as text."""
    return "" if value is None else text_of(value)


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


def gain_text(figures: Mapping[str, Any], bold: bool = False) -> str:
    """A paired difference in points with its interval; in parentheses where the interval holds 0.

    Args:
        figures: Of one split in the summary.
        bold: Whether one that survives the correction for many rows stands between asterisks.
    """
    if figures.get("gain") is None:
        return "-"
    gain, low, high = (
        f"{100 * figures[end]:+.1f}".replace("-0.0", "+0.0") for end in ("gain", "gain_low", "gain_high")
    )
    text = f"{gain} [{low}, {high}]"
    if figures["gain_low"] <= 0 <= figures["gain_high"]:
        return f"({text})"
    return f"**{text}**" if bold and figures["p_adjusted"] < LEVEL else text


def table_of(content: Mapping[str, Any], whole: bool = False) -> tuple[str, list[str], list[list[str]], list[str]]:
    """The summary as a table for people.

    Args:
        content: Of ``results.json``.
        whole: Whether targets have a column for all their examples too, and gains that survive the correction are bold.

    Returns:
        Title, headings, cells, and lines to stand below.
    """
    if content.get("left_out"):
        return _left_out(content, whole)
    axes, summary = list(content["grid"]), content["summary"]
    columns = [(name, side, mark) for name, role, mark in _oracle(content) for side in _sides(role, whole)]
    headings = [axis.replace("_", "-") for axis in axes] + ["seeds"]
    for name, side, mark in columns:
        shown = f"{name}{'' if side == 'test' else f' {side}'}{'*' if mark else ''}"
        headings += [shown, f"gain {shown}"]
    cells = []
    for row in summary:
        line = [*(text_of(row["axes"][axis]) for axis in axes), str(len(row["seeds"]))]
        for name, side, _ in columns:
            figures = row["domains"].get(name, {}).get("splits", {}).get(side, {})
            line += [_accuracy(figures), gain_text(figures, whole)]
        cells.append([*line, "-" if row["seconds"] is None else format_seconds(row["seconds"])])
    title = f"accuracy on test, mean over seeds; gain: paired difference{_over(summary)}, points [95 % interval]"
    below = [f"* {ORACLE}"] if any(mark for _, _, mark in columns) else []
    below += _about_gains(summary, any("(" in cell for line in cells for cell in line[len(axes) :]), whole)
    if content.get("choice"):
        below.append(_chosen(content["choice"]) + _hindsight(content))
    if any("unpaired" in part for row in summary for d in row["domains"].values() for part in d["splits"].values()):
        below.append("a gain is left out where rows were tested on other examples than their baseline")
    return title, [*headings, "time"], cells, below + _unfinished(content)


def _left_out(content: Mapping[str, Any], whole: bool) -> tuple[str, list[str], list[list[str]], list[str]]:
    """The same where every domain is left out in turn: strategies, what they reach on each, and on average."""
    found = content["left_out"]
    names, rows, choice = found["domains"], found["rows"], found["choice"]
    axes = list(rows[0]["axes"])
    headings = [*(axis.replace("_", "-") for axis in axes), "seeds", "mean*", "gain mean*", *(f"{n}*" for n in names)]
    cells = []
    for row in rows:
        line = [*(text_of(row["axes"][axis]) for axis in axes), str(len(row["seeds"]))]
        line += [_accuracy(row["mean"]), gain_text(row["mean"], whole)]
        line += [_accuracy(row["domains"][name] or {}) for name in names]
        cells.append([*line, "-" if row["seconds"] is None else format_seconds(row["seconds"])])
    title = "accuracy on the test of each domain while it is left out, mean over seeds; "
    title += f"gain: paired difference of the mean{_over(rows)}, points [95 % interval]"
    below = [f"* {ORACLE}", *_about_gains(rows, any("(" in line[len(axes) + 2] for line in cells), whole)]
    if choice:
        named = "; ".join(f"{name}: {choice['rows'][name]}" for name in names)
        below.append(f"chosen by accuracy on source val for each domain left out: {named}")
        if choice["accuracy"] is not None:
            below.append(f"mean accuracy with what is chosen so: {100 * choice['accuracy']:.1f} % (oracle)")
    return title, [*headings, "time"], cells, below + _unfinished(content)


def _accuracy(figures: Mapping[str, Any]) -> str:
    accuracy = figures.get("accuracy")
    return "-" if accuracy is None else f"{100 * accuracy:.1f} %"


def _over(rows: Sequence[Mapping[str, Any]]) -> str:
    """What gains are over."""
    bases = list(dict.fromkeys(row["baseline"] for row in rows if row["baseline"]))
    return f" over {bases[0]}" if len(bases) == 1 else " over the same row without alignment" if bases else ""


def _about_gains(rows: Sequence[Mapping[str, Any]], unsure: bool, whole: bool) -> list[str]:
    """How gains are to be read."""
    below = ["a gain in (parentheses) is none: its interval holds 0"] if unsure else []
    if whole and (gains := sum(row["baseline"] is not None for row in rows)):
        below.append(f"**bold**: a gain also after Holm's correction for {gains} row{'s' * (gains > 1)}")
    if any(len(row["seeds"]) == 1 for row in rows):
        below.append("one seed: its interval knows of test examples only")
    return below


def dropped_text(row: Mapping[str, Any]) -> str:
    """A row that the budget left no time for, in words.

    Args:
        row: Of ``dropped`` in ``results.json``.
    """
    count = row["after_seeds"]
    return f"dropped after {count} seed{'s' * (count > 1)}: {row['row']} ({row['reason']})"


def overrun(content: Mapping[str, Any]) -> list[str]:
    """That a comparison took longer than its budget, in a line; none where it did not.

    Args:
        content: Of ``results.json``.
    """
    budget = content.get("budget")
    if not budget or budget["spent"] <= 1.1 * budget["seconds"]:
        return []
    spent, given = (format_seconds(budget[name]) for name in ("spent", "seconds"))
    return [f"the runs took {spent}, more than the budget of {given}: they were planned from estimates"]


def _unfinished(content: Mapping[str, Any]) -> list[str]:
    """What was dropped, what failed, and how much is missing."""
    below = [dropped_text(row) for row in content.get("dropped", ())]
    below += overrun(content)
    below += [f"failed: {row['row']} seed {row['seed']}: {row['reason']}" for row in content["rows"] if row["reason"]]
    done = sum(row["status"] == "ok" for row in content["rows"])
    if done < content["planned"]:
        below.append(f"{done} of {content['planned']} runs are finished")
    return below


def _chosen(choice: Mapping[str, Any]) -> str:
    """What to take without labels of other domains than the sources, in words."""
    count, away = len(choice["scores"]), len(choice["turned_away"])
    rows = f"{count} row{'s' * (count > 1)}"
    if "validator" not in choice:
        kind = "balanced accuracy" if choice["rule"].endswith("balanced") else "accuracy"
        return f"chosen by {kind} on source val, of {rows}: {choice['row']}"
    if all_turned_away(choice):
        return f"the guard of {choice['validator']} turned all {rows} away; best on source val: {choice['row']}"
    words = f"{rows}{f'; its guard turned {away} away' if away else ''}"
    return f"chosen without target labels ({choice['validator']}, of {words}): {choice['row']}"


def _hindsight(content: Mapping[str, Any]) -> str:
    """What the choice lost on the targets, or else on the unseen domains, by their labels."""
    names: dict[str, list[str]] = {}
    for name, role, _ in _oracle(content):
        names.setdefault(role, []).append(name)
    lost = []
    for name in names.get("target") or names.get("unseen") or ():
        best = in_hindsight(content["rows"], content["choice"]["row"], name)
        if best:
            lost.append(f"{100 * best[1]:.1f} points below {best[0]} on {name}")
    return f" (with hindsight, oracle: {', '.join(lost)})" if lost else ""


def _sides(role: str, both: bool) -> tuple[str, ...]:
    return ("test", BOTH) if both and role == "target" else ("test",)


def markdown_of(content: Mapping[str, Any]) -> str:
    """The summary as Markdown.

    Args:
        content: Of ``results.json``.
    """
    title, headings, cells, below = table_of(content, whole=True)
    lines = [plain_markdown(title[0].upper() + title[1:]) + ".", ""]
    for line in (headings, ["---"] * len(headings), *cells):
        lines.append(f"| {' | '.join(plain_markdown(cell) for cell in line)} |")
    lines.append("")
    lines += [f"- {plain_markdown(text)}" for text in (*below, *content["fairness"])]
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    lines += ["", f"{_code(content['command'])}; {plain_markdown(content['machine'])}; {versions}", ""]
    return "\n".join(lines)


def _code(text: str) -> str:
    """A code span that shows a text whatever it holds."""
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if len(marks) > 1 else ""
    return f"{marks}{space}{visible(' '.join(text.splitlines()))}{space}{marks}"
