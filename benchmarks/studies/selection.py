"""Which step of an aligned run is kept: what each rule gains or loses against the last step.

    python benchmarks/studies/selection.py WORK

`injerto compare` with `--grid select=...`: pictures (three shifts of `emoji-styles`, five seeds) and texts (six pairs
of `sentiment-domains`, three seeds), MMD and DANN, head with neck. Rows of a seed share everything but the rule, so
their differences are paired. Target accuracy on train and test together is an oracle number, used for this table only.
The mean over comparisons; 95 % intervals by resampling comparisons, and seeds within. Every run is kept in the folder
WORK: a stopped study goes on. Writes `selection.json` and `selection.md` beside this file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from validators import on_target, over_comparisons

import injerto
from alignment import EMOJI, LITE0, MINILM, sentences
from injerto.basics.files import sha256, write_text
from injerto.basics.progress import note
from injerto.compute.machine import machine
from injerto.evaluation.validators import VALIDATORS

HERE = Path(__file__).parent
RULES = ["last", "best-source-val", *VALIDATORS]
TEXTS = [
    ("movies", "tweets"), ("news", "products"), ("news", "tweets"), ("products", "news"), ("products", "tweets"),
    ("tweets", "movies"),
]  # fmt: skip


def one(work: Path, data: str, pair: tuple[str, str], alignment: str, seeds: int, settings: dict[str, Any]) -> Any:
    """Accuracy on the target of every rule and seed, (rules, seeds)."""
    source, target = pair
    note(f"{Path(data).stem}: {source} -> {target}, {alignment}")
    out = work / f"select-{sha256(Path(data).stem, source, target, alignment)[:8]}"
    content = injerto.compare(
        data, source=source, target=target, grid={"select": RULES}, seeds=seeds, out=out, threads=1,
        tuning="head", alignment=alignment, neck="256", **settings,
    )  # fmt: skip
    found = np.full((len(RULES), seeds), np.nan)
    for row in content["rows"]:
        if row["status"] == "ok":
            found[RULES.index(row["axes"]["select"]), row["seed"]] = on_target(row, target)
    return found


def gains(found: list[np.ndarray], rule: int) -> tuple[float, float, float]:
    """Mean gain of a rule over the last step, and its interval."""
    return over_comparisons([values[rule] - values[0] for values in found])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work
    texts = sentences(work / "sentences.csv")
    columns: dict[str, list[np.ndarray]] = {}
    for alignment in ("mmd", "dann"):
        columns[f"pictures, {alignment}"] = [
            one(work, "emoji-styles", pair, alignment, 5, {"steps": 300, "image_size": 128, **LITE0}) for pair in EMOJI
        ]
        columns[f"texts, {alignment}"] = [
            one(work, texts, pair, alignment, 3, {"steps": 100, "batch_size": 16, **MINILM}) for pair in TEXTS
        ]
    columns["all"] = [values for several in columns.values() for values in several]
    rows = {rule: {name: gains(found, k) for name, found in columns.items()} for k, rule in enumerate(RULES)}
    command = "python benchmarks/studies/selection.py WORK"
    about = {"command": command, "machine": str(machine()), "rows": rows}
    write_text(HERE / "selection.json", json.dumps(about, indent=1) + "\n")
    last = {name: 100 * float(np.mean([values[0].mean() for values in found])) for name, found in columns.items()}
    lines = [
        "Points of target accuracy gained over keeping the last step, by the rule that keeps one; 95 % interval.",
        "",
        f"| rule | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        f"| `last`: accuracy | {' | '.join(f'{value:.1f}' for value in last.values())} |",
    ]
    for rule in RULES[1:]:
        cells = [f"{100 * m:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for m, low, high in rows[rule].values()]
        lines.append(f"| `{rule}` | {' | '.join(cells)} |")
    lines += ["", f"`{command}`; {machine()}", ""]
    write_text(HERE / "selection.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
