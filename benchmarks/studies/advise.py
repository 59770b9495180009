"""Is the recipe that `injerto advise` puts first a good one? Judged on pairs of domains it was not made on.

    python benchmarks/studies/advise.py WORK --minutes 3 --pacs PACS.tar --reviews FDU.jsonl.xz

WORK is the folder of `benchmarks/studies/alignment.py`, whose comparisons `pacs` and `reviews-lora` are the grid:
tunings by alignments, the same steps for all. `advise` sees the data without the target's labels; the tuning and the
alignment of its first recipe name a row. That row is held against the best one, chosen with the target's labels
(oracle): mean difference of accuracy on train and test together, 95 % interval over seeds and test groups. A pair is
*near* where the mean difference is above -2 points and the interval ends above -2 too. Writes `advise.json` and
`advise.md`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import injerto
from alignment import prepared_data
from injerto.basics.files import write_text
from injerto.basics.progress import note
from injerto.compute.machine import machine
from injerto.statistics.bootstrap import nested_interval
from injerto.studies.answers import BOTH, read_answers

HERE = Path(__file__).parent
NEAR = -0.02


def judged(folder: Path, data: str, minutes: float) -> dict[str, Any] | None:
    """The advised row against the best; None for a comparison without a target."""
    content = json.loads((folder / "results.json").read_text())
    if len(content["target"]) != 1 or len(content["source"]) != 1:
        return None
    (source,), (target,) = content["source"], content["target"]
    note(f"{source} -> {target}")
    fixed = {name: content["settings"].get(name) for name in ("image_size", "max_length")}
    found = injerto.advise(data, source=source, target=target, minutes=minutes, **fixed)
    first = {name: found["recipes"][0][name] for name in ("tuning", "alignment")}
    gap = found["facts"]["gap"]
    accuracy = {}
    for row in content["summary"]:
        accuracy[row["axes"]["tuning"], row["axes"]["alignment"]] = row["domains"][target]["splits"][BOTH]["accuracy"]
    entry = {
        "source": source, "target": target, "data": Path(content["data"]).stem, "advised": first,
        "level": gap["level"] if gap else None, "seeds": content["seeds"],
    }  # fmt: skip
    own, best = (first["tuning"], first["alignment"]), max(accuracy, key=lambda key: accuracy[key])
    if own not in accuracy:
        return {**entry, "near": False, "why": "not in the grid"}
    answers = {}
    for row in content["rows"]:
        key = (row["axes"]["tuning"], row["axes"]["alignment"])
        if key in (own, best):
            answers[key, row["seed"]] = read_answers(folder / row["run"])[target, BOTH]
    mine, others = ([answers[key, seed] for seed in content["seeds"]] for key in (own, best))
    difference, low, high = nested_interval(
        [one.right for one in mine], [one.named() for one in mine], [one.right for one in others]
    )
    return {
        **entry, "accuracy": accuracy[own], "best": dict(zip(("tuning", "alignment"), best, strict=True)),
        "best_accuracy": accuracy[best], "difference": difference, "low": low, "high": high,
        "near": difference > NEAR and low > NEAR, "none": accuracy[own[0], "none"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--pacs", required=True)
    parser.add_argument("--reviews", required=True)
    given = parser.parse_args()
    rows = []
    for study, path in (("pacs", given.pacs), ("reviews-lora", given.reviews)):
        data = prepared_data(study, given.work, path)
        for folder in sorted(given.work.glob(f"{study}-????????")):
            entry = judged(folder, data, given.minutes)
            if entry:
                rows.append(entry)
    assert rows, "no comparison with a target in there"
    command = f"python benchmarks/studies/advise.py WORK --minutes {given.minutes:g} --pacs ... --reviews ..."
    near = sum(row["near"] for row in rows)
    about = {"command": command, "machine": str(machine()), "pairs": rows}
    write_text(HERE / "advise.json", json.dumps(about, indent=1) + "\n")
    lines = [
        f"The first recipe is within 2 points of the best row of the grid on {near} of {len(rows)} pairs.",
        "",
        "| pair | gap | advised | accuracy | without alignment | best row (oracle) | accuracy | difference |  |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        name = f"{row['source']} -> {row['target']}"
        words = [
            f"`{one['tuning']}`, `{one['alignment']}`" for one in (row["advised"], row.get("best", row["advised"]))
        ]
        if "difference" not in row:
            lines.append(f"| {name} | {row['level']} | {words[0]} | - | - | - | - | {row['why']} | |")
            continue
        own, none, best = (f"{100 * row[what]:.1f}" for what in ("accuracy", "none", "best_accuracy"))
        apart = " ".join(f"{100 * row[what]:+.1f}" for what in ("difference", "low", "high"))
        mark = "near" if row["near"] else ""
        lines.append(
            f"| {name} | {row['level']} | {words[0]} | {own} | {none} | {words[1]} | {best} | {apart} | {mark} |"
        )
    seeds = sorted({len(row["seeds"]) for row in rows})
    lines += ["", f"Seeds: {', '.join(map(str, seeds))}. `{command}`; {machine()}", ""]
    write_text(HERE / "advise.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
