"""What the runs of one strategy say example by example: confusion, reliability, confident mistakes, curves."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from injerto.adapters.card import load_card
from injerto.evaluation.calibration import reliability_of
from injerto.evaluation.recorded import check_recorded, load_metrics
from injerto.studies.answers import read_predictions

MISTAKES = 12
"""Of a run on one domain that are shown: those it was surest of."""
MOST_CLASSES = 40
"""Classes up to which the whole confusion is shown; beyond, what is confused most often."""
BINS = 10
"""Of the reliability diagram."""
POINTS = 200
"""Of a training curve, at most."""
Line = Mapping[str, str]


def evidence_of(runs: Sequence[Path]) -> dict[str, Any]:
    """All seeds of a strategy together, on test splits; mistakes and curves are the first seed's.

    Args:
        runs: Folders of its finished runs.

    Returns:
        ``classes``; by domain ``confusion``, ``reliability`` (None for runs without confidences) and ``mistakes``;
        ``curves``; ``warnings`` of the first run.
    """
    classes = list(load_card(runs[0] / "adapter")["labels"])
    found: dict[str, Any] = {"classes": classes, "domains": {}}
    tested: dict[str, list[list[dict[str, str]]]] = {}
    for run in runs:
        own: dict[str, list[dict[str, str]]] = {}
        for line in read_predictions(run):
            if line["split"] == "test" and line["label"] in classes:
                own.setdefault(line["domain"], []).append(line)
        for name, lines in own.items():
            tested.setdefault(name, []).append(lines)
    for name, seeds in tested.items():
        lines = [line for some in seeds for line in some]
        found["domains"][name] = {
            "confusion": _confusion(lines, classes),
            "reliability": _reliability(lines),
            "mistakes": _mistakes(seeds[0]),
        }
    check_recorded(runs[0], ["log.jsonl"])
    metrics = load_metrics(runs[0])
    return {**found, "curves": _curves(runs[0] / "log.jsonl"), "warnings": metrics.get("warnings") or []}


def _confusion(lines: Sequence[Line], classes: Sequence[str]) -> dict[str, Any]:
    """Counts, rows the true class; or with many classes the pairs that are confused most often."""
    if len(classes) <= MOST_CLASSES:
        place = {name: i for i, name in enumerate(classes)}
        counts = np.zeros((len(classes), len(classes)), int)
        for line in lines:
            counts[place[line["label"]], place[line["predicted"]]] += 1
        return {"counts": counts.tolist()}
    wrong = Counter((line["label"], line["predicted"]) for line in lines if line["label"] != line["predicted"])
    total = Counter(line["label"] for line in lines)
    return {"pairs": [[truth, said, count, total[truth]] for (truth, said), count in wrong.most_common(20)]}


def _sure(line: Line) -> float | None:
    try:
        return float(line["confidence"])
    except (KeyError, TypeError, ValueError):
        return None


def _reliability(lines: Sequence[Line]) -> dict[str, Any] | None:
    sure = [_sure(line) for line in lines]
    if None in sure or not sure:
        return None
    right = np.asarray([line["label"] == line["predicted"] for line in lines])
    found = reliability_of(np.asarray(sure, np.float64), right, BINS)
    bins = [
        {"promised": float(p), "kept": float(k), "n": int(n)}
        for p, k, n in zip(found.confidence, found.accuracy, found.count, strict=True)
        if n
    ]
    return {"bins": bins, "ece": found.ece}


def _mistakes(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The wrong answers that were given with the highest probability."""
    wrong = [line for line in lines if line["label"] != line["predicted"] and _sure(line) is not None]
    wrong.sort(key=lambda line: (-(_sure(line) or 0.0), line["content"]))
    return [
        {"example": line["content"], "label": line["label"], "predicted": line["predicted"], "sure": _sure(line)}
        for line in wrong[:MISTAKES]
    ]


def _curves(log: Path) -> dict[str, list[list[float]]]:
    """Series over steps: name to pairs of step and value."""
    series: dict[str, list[list[float]]] = {}
    if not log.exists():
        return series
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            continue  # the last line of a run that was killed while writing
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
            continue
        for name, value in entry.items():
            if name not in ("step", "time", "rate") and isinstance(value, int | float) and np.isfinite(value):
                series.setdefault(name, []).append([entry["step"], round(float(value), 6)])
    return {name: points[:: max(1, -(-len(points) // POINTS))] for name, points in series.items()}
