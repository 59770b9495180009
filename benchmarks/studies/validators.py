"""Choosing without target labels: how much accuracy does each validator lose against the oracle?

    python benchmarks/studies/validators.py WORK

WORK is the folder of `benchmarks/studies/alignment.py`. In each of its comparisons with a target, the rows of one
seed are the candidates (alignments and tunings): a validator picks the row with its highest score among those that its
guard lets pass (reference: the best source accuracy of the candidates), and loses the difference to the row that is
truly best on the target. Without the guard the same, to show what it is for. Rank correlation (Spearman) is between
score and target accuracy over the candidates. Means over comparisons and seeds; 95 % intervals by resampling
comparisons, and seeds within.

Target accuracy is on train and test together; target labels serve this table only. Writes `validators.json` and `.md`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from injerto.basics.files import write_text
from injerto.compute.machine import machine
from injerto.evaluation.validators import VALIDATORS
from injerto.statistics.bootstrap import nested_interval
from injerto.studies.choice import choose

HERE = Path(__file__).parent


def on_target(row: dict[str, Any], target: str) -> float:
    """Accuracy of a row on the target's train and test examples together."""
    sides = [row["domains"][target]["splits"][side] for side in ("train", "test")]
    return float(np.average([side["accuracy"] for side in sides], weights=[side["n"] for side in sides]))


def over_comparisons(each: list[np.ndarray]) -> tuple[float, float, float]:
    """Mean and 95 % interval of values by comparison and seed: comparisons are resampled, and seeds within."""
    groups = [[f"{place} {seed}" for seed in range(len(values))] for place, values in enumerate(each)]
    return nested_interval(each, groups)


def candidates_of(folder: Path) -> list[dict[str, Any]]:
    """One entry for every seed of a comparison: name, and arrays over its rows."""
    content = json.loads((folder / "results.json").read_text())
    if not content["target"] or "alignment" not in content["grid"]:
        return []
    (target,) = content["target"]
    found = []
    for seed in content["seeds"]:
        own = [row for row in content["rows"] if row["seed"] == seed and row["status"] == "ok"]
        rows = [row for row in own if row.get("validators")]
        if len(rows) < 3:
            continue
        truth = [on_target(row, target) for row in rows]
        scores = {name: np.asarray([row["validators"][f"scores/{name}"] for row in rows]) for name in VALIDATORS}
        found.append(
            {
                "comparison": f"{'/'.join(content['source'])} -> {target}, {Path(content['data']).stem}",
                "rows": rows,
                "labels": [row["row"] for row in rows],
                "truth": np.asarray(truth),
                "scores": scores,
                "last": next((i for i, row in enumerate(rows) if row["axes"]["alignment"] == "mmd"), 0),
            }
        )
    return found


def figures(entries: list[dict[str, Any]], name: str, guarded: bool) -> dict[str, Any]:
    """Loss and rank correlation of one validator; `mmd` and `worst` are rules that look at nothing."""
    losses: dict[str, list[float]] = {}
    ranks = []
    for entry in entries:
        truth = entry["truth"]
        if name == "always mmd":
            chosen = entry["last"]
        elif name == "worst":
            chosen = int(truth.argmin())
        else:
            chosen = int(entry["scores"][name].argmax())
            if guarded:
                choice = choose(entry["rows"], name)
                assert choice is not None
                chosen = entry["labels"].index(choice["row"])
            ranks.append(float(spearmanr(entry["scores"][name], truth).statistic))
        losses.setdefault(entry["comparison"], []).append(float(truth.max() - truth[chosen]))
    groups = [np.asarray(values) for values in losses.values()]
    loss, low, high = over_comparisons(groups)
    return {
        "validator": name,
        "guarded": guarded,
        "loss": loss,
        "low": low,
        "high": high,
        "most": float(max(values.max() for values in groups)),
        "rank": float(np.nanmean(ranks)) if ranks else None,
    }


def lost(row: dict[str, Any]) -> str:
    loss, low, high, most = (100 * row[what] for what in ("loss", "low", "high", "most"))
    return f"{loss:.1f} [{low:.1f}, {high:.1f}] | {most:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work
    entries = [entry for path in sorted(work.glob("*/results.json")) for entry in candidates_of(path.parent)]
    assert entries, "no comparison with a target in there"
    rows = [figures(entries, name, guarded) for name in VALIDATORS for guarded in (True, False)]
    rows += [figures(entries, name, True) for name in ("always mmd", "worst")]
    comparisons: dict[str, int] = {}
    for entry in entries:
        comparisons[entry["comparison"]] = comparisons.get(entry["comparison"], 0) + 1
    command = "python benchmarks/studies/validators.py WORK"
    about = {"command": command, "machine": str(machine()), "comparisons": comparisons, "rows": rows}
    write_text(HERE / "validators.json", json.dumps(about, indent=1) + "\n")
    lines = [
        "Points of target accuracy lost by choosing a row with each validator, against the best row (mean over",
        "comparisons and seeds, 95 % interval, and the most that was lost), with the guard and without.",
        "",
        "| validator | lost with guard | most | lost without | most | rank correlation |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for with_guard, without in zip(rows[:-2:2], rows[1:-2:2], strict=True):
        rank = f"{with_guard['rank']:+.2f}"
        lines.append(f"| `{with_guard['validator']}` | {lost(with_guard)} | {lost(without)} | {rank} |")
    lines += [f"| {row['validator']} | {lost(row)} | | | |" for row in rows[-2:]]
    where = "; ".join(f"{name} ({count} seeds)" for name, count in comparisons.items())
    lines += ["", f"{len(entries)} choices: {where}"]
    lines += ["", f"`{command}`; {machine()}", ""]
    write_text(HERE / "validators.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
