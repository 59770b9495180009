"""Tables for people, JSON and CSV for programs."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from injerto.basics.escapes import visible, write_guarded
from injerto.basics.progress import format_bytes, format_seconds, say

if TYPE_CHECKING:
    from injerto.evaluation.files import Inputs


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object on standard output.

    Args:
        content: JSON-ready.
    """
    as_utf8()
    print(json.dumps(content, ensure_ascii=False, allow_nan=False))


def as_utf8() -> None:
    """Write data for programs to standard output as UTF-8, whatever the encoding of the terminal or locale."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = (), words: int = 1
) -> None:
    """A table on standard output; a terminal too narrow for it loses columns, never parts of words or numbers.

    Args:
        title: What it shows.
        columns: Headings.
        rows: Cells.
        spare: Headings of columns that a narrow terminal does without, the first to go first.
        words: How many columns from the left hold words; the others are numbers and stand on the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def draw(shown: Sequence[str]) -> Table:
        drawn = Table(
            title=Text(visible(title)), title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False
        )
        places = [index for index, column in enumerate(columns) if column in shown]
        for index in places:
            justify: Literal["left", "right"] = "left" if index < words else "right"
            drawn.add_column(Text(visible(columns[index])), justify=justify, no_wrap=True)
        for row in rows:
            drawn.add_row(*(Text(visible(row[index])) for index in places))
        return drawn

    console = Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 160)
    endless = Console(width=10_000)
    shown = list(columns)
    for column in spare:
        if column in shown and endless.measure(draw(shown)).maximum > console.width:
            shown.remove(column)
    console.print(draw(shown))


def percent(value: float | None) -> str:
    """A share for people, ``79.3 %``.

    Args:
        value: In 0..1, None where there are no labels.
    """
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(metrics: Mapping[str, Any]) -> str:
    pair = metrics.get("accuracy_interval")
    return "-" if not pair or pair[0] is None else f"{100 * pair[0]:.0f} - {100 * pair[1]:.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.3f}".replace("-0.000", "0.000")


COLUMNS = ("accuracy", "95 % interval", "balanced", "macro F1", "NLL", "calibration error", "n")
SPARE = ("calibration error", "macro F1", "NLL", "balanced", "n", "95 % interval")


def _cells(metrics: Mapping[str, Any]) -> list[str]:
    return [
        percent(metrics["accuracy"]),
        _interval(metrics),
        percent(metrics["balanced_accuracy"]),
        _number(metrics["macro_f1"]),
        _number(metrics["nll"]),
        _number(metrics["ece"]),
        str(metrics["n"]),
    ]


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """The table of a finished run.

    Args:
        metrics: The content of ``metrics.json``.
    """
    if metrics.get("task") == "causal-lm":
        _print_language(metrics)
        return
    rows = []
    for name, entry in metrics["domains"].items():
        for side, values in entry["splits"].items():
            mark = " (no labels)" if values["accuracy"] is None else " (oracle)" if entry["oracle"] else ""
            rows.append([name, entry["role"] + mark, side, *_cells(values)])
    order = {"source": 0, "target": 1, "unseen": 2}
    rows.sort(key=lambda row: (order[row[1].split()[0]], row[0]))
    table("accuracy by domain", ("domain", "role", "split", *COLUMNS), rows, SPARE, words=3)
    _print_work(metrics)
    _print_forgetting(metrics["forgetting"], {name for name, entry in metrics["domains"].items() if entry["oracle"]})


def _print_work(metrics: Mapping[str, Any]) -> None:
    from injerto.evaluation.validators import VALIDATORS

    counts, seconds = metrics["parameters"], metrics["seconds"]
    chosen = metrics["selection"]
    rule = chosen["rule"]
    if rule in VALIDATORS and chosen["score"] is None:  # its guard let none pass
        rule = f"best on source val ({rule} turned every checkpoint away)"
    step = "" if chosen["step"] is None else f", step {chosen['step']} of {chosen['steps']}"
    say(
        f"trained {counts['trainable']:,} of {counts['total']:,} parameters; "
        f"adapter {format_bytes(metrics['adapter_bytes'])}; "
        f"selected: {rule}{step}; {format_seconds(sum(seconds.values()))}"
    )


def _print_language(metrics: Mapping[str, Any]) -> None:
    rows = []
    for name, entry in metrics["domains"].items():
        test = entry["splits"]["test"]
        change = test["change"]
        ends = [f"{100 * (end - 1):+.1f}" for end in change["interval"] or ()] if change else []
        rows.append(
            [
                name,
                entry["role"],
                _perplexity(test["before"]),
                _perplexity(test),
                f"{100 * (change['ratio'] - 1):+.1f} %" + (f" [{', '.join(ends)}]" if ends else "") if change else "-",
                f"{test['tokens']:,}",
                str(test["n"]),
            ]
        )
    rows.sort(key=lambda row: (row[1] != "source", row[0]))
    headings = ("domain", "role", "before", "after", "change (95 %)", "tokens", "n")
    table("perplexity of the test split", headings, rows, ("n", "tokens"), words=2)
    for sample in metrics["samples"]:
        say(f"{sample['domain']}: {_line(sample['prompt'])}")
        say(f"  before: {_line(sample['before'])}")
        say(f"  after:  {_line(sample['after'])}")
    _print_work(metrics)


def _perplexity(metrics: Mapping[str, Any]) -> str:
    return "-" if metrics["perplexity"] is None else f"{metrics['perplexity']:.2f}"


def _measured(metrics: Mapping[str, Any]) -> str:
    return _perplexity(metrics) if "perplexity" in metrics else percent(metrics["accuracy"])


def _line(text: str, longest: int = 140) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _print_forgetting(lost: Mapping[str, Any] | None, oracle: set[str]) -> None:
    if lost and lost["n"] and lost["cka"] is not None:
        agrees = (
            "" if lost["agreement"] is None else f"the original classifier agrees on {percent(lost['agreement'])}; "
        )
        say(f"forgetting, on {lost['n']} held-out inputs: {agrees}similarity of the embedding (CKA) {lost['cka']:.3f}")
    kept = (lost or {}).get("remember")
    if kept and kept["n"]:
        low, high = kept["interval"]
        say(
            f"remembered, {kept['data']}: a refitted probe scores {percent(kept['after'])}, on the pretrained backbone "
            f"{percent(kept['before'])}; {100 * kept['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        )
    path = (lost or {}).get("path")
    if path:
        from injerto.reporting.path import accuracies_of

        names = list(accuracies_of(path[0]))
        rows = [
            [
                f"{point['t']:g}",
                *(percent(accuracies_of(point)[name]) for name in names),
                percent(point.get("remember")),
                percent(point["agreement"]),
                _number(point["cka"]),
            ]
            for point in path
        ]
        shown = (f"{name} (oracle)" if name in oracle else name for name in names)
        headings = ("t", *shown, "remembers", "agrees", "CKA")
        table("slider: from the pretrained model with a probe (0) to the tuned one (1)", headings, rows, ("CKA",))


def print_evaluation(results: Mapping[str, Mapping[str, Any]]) -> None:
    """The table of an evaluation, and each domain's classes.

    Args:
        results: Domain name to metrics.
    """
    if all("perplexity" in values for values in results.values()):
        rows = [
            [name, _perplexity(values), _ends(values["perplexity_interval"]), f"{values['tokens']:,}", str(values["n"])]
            for name, values in results.items()
        ]
        table("perplexity", ("domain", "perplexity", "95 % interval", "tokens", "n"), rows)
        return
    cells = [[name, *_cells(values)] for name, values in results.items()]
    table("accuracy by domain", ("domain", *COLUMNS), cells, SPARE)
    for name, values in results.items():
        if values.get("per_class"):
            rows = [
                [label, percent(row["recall"]), percent(row["precision"]), _number(row["f1"]), str(row["n"])]
                for label, row in values["per_class"].items()
            ]
            table(f"classes of {name}", ("class", "recall", "precision", "F1", "n"), rows)


def print_predictions(
    inputs: "Inputs", labels: Sequence[str], chances: np.ndarray, as_csv: bool, as_json: bool
) -> None:
    """Class and probabilities of each input.

    Args:
        inputs: As read.
        labels: Class names.
        chances: (N, C).
        as_csv: A CSV table instead of plain lines.
        as_json: One JSON object instead.
    """
    best = chances.argmax(axis=1)
    if as_json:
        answers = [
            {"class": labels[top], "probabilities": dict(zip(labels, map(float, row), strict=True))}
            for top, row in zip(best, chances, strict=True)
        ]
        _print_answers(inputs, answers)
    elif as_csv:
        cells = [(labels[top], *(f"{value:.6f}" for value in row)) for top, row in zip(best, chances, strict=True)]
        _print_rows(inputs, ("class", *labels), cells)
    else:
        for item, top, row in zip(_shown(inputs), best, chances, strict=True):
            leading = ", ".join(f"{labels[index]} {row[index]:.3f}" for index in np.argsort(-row, kind="stable")[:3])
            say(f"{item}\t{labels[top]}\t{leading}")


def print_texts(inputs: "Inputs", texts: Sequence[str], as_csv: bool, as_json: bool) -> None:
    """What a language model said to each input.

    Args:
        inputs: As read.
        texts: What it said.
        as_csv: A CSV table instead of plain lines.
        as_json: One JSON object instead.
    """
    if as_json:
        _print_answers(inputs, [{"text": text} for text in texts])
    elif as_csv:
        _print_rows(inputs, ("text",), [(text,) for text in texts])
    else:
        for item, text in zip(_shown(inputs), texts, strict=True):
            say(f"{item}\t{_line(text, 10_000)}")


def _print_answers(inputs: "Inputs", answers: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object: each answer with its input and where that came from, and what was left out."""
    entries = [
        {"input": item, "source": source, **answer}
        for item, source, answer in zip(_written(inputs), inputs.sources, answers, strict=True)
    ]
    left = [{"source": problem.source, "reason": problem.reason} for problem in inputs.problems]
    print_json({"predictions": entries} | ({"left_out": left} if left else {}))


def _print_rows(inputs: "Inputs", headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """A CSV table; its last column says where inputs came from, unless they are paths or stood on the command line."""
    items = _written(inputs)
    placed = [
        "" if source == item or source.startswith("input ") else source
        for item, source in zip(items, inputs.sources, strict=True)
    ]
    as_utf8()
    rows = zip(items, cells, placed, strict=True)
    headings = ("input", *headings, *(("source",) if any(placed) else ()))
    print(
        write_guarded([headings, *((item, *row, *((source,) if any(placed) else ())) for item, row, source in rows)]),
        end="",
    )


def _written(inputs: "Inputs") -> list[str]:
    """Texts and paths as they are; nothing for a picture that stands in a table itself."""
    return [str(item) if isinstance(item, str | Path) else "" for item in inputs.items]


def _shown(inputs: "Inputs") -> list[str]:
    """In one line each: texts and paths, or else the source."""
    shown = zip(_written(inputs), inputs.sources, strict=True)
    return [
        item if item and not re.search(r"[\t\r\n]", item) else _line(item, 10_000) or source for item, source in shown
    ]


def _ends(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.2f} - {interval[1]:.2f}"


def print_info(facts: Mapping[str, Any]) -> None:
    """Facts, a line each; stages as a table.

    Args:
        facts: From :func:`injerto.info`.
    """
    for name, value in facts.items():
        if name == "stages":
            rows = [[str(row["stage"]), str(row["name"]), f"{row['parameters']:,}"] for row in value]
            table("stages (last:K trains the last K)", ("stage", "name", "parameters"), rows, words=2)
        elif name == "metrics":
            cells = [
                [domain, entry["role"] + (" (oracle)" if entry["oracle"] else ""), side, _measured(values)]
                for domain, entry in value.items()
                for side, values in entry.items()
                if isinstance(values, dict)
            ]
            what = "perplexity" if facts.get("task") == "causal-lm" else "accuracy"
            table("measured when it was made", ("domain", "role", "split", what), cells, words=3)
        elif name == "plan":
            say("\n".join(value))
        elif isinstance(value, dict):
            say(f"{name}: " + ", ".join(f"{key} {inner}" for key, inner in value.items() if inner not in (None, "")))
        elif isinstance(value, list | tuple):
            say(f"{name}: {', '.join(map(str, value))}")
        elif value is not None:
            say(f"{name}: {value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{name}: {value}")
