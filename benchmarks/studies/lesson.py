"""Runs the lesson: the commands of docs/lesson.md as they stand there, and the few figures that the page shows.

    python benchmarks/studies/lesson.py WORK
    python benchmarks/studies/lesson.py WORK --only brightness --only register

The page is the one source of the commands: its ```bash lines that begin with `injerto` and its ```python blocks are run
in their order in the folder WORK. Runs and comparisons that are there already are not done again. `--only` runs what
contains one of the texts (the first python block always: later ones build on its imports), `--collect` nothing. Writes
`lesson.json` beside this file, with what WORK then holds; `tables.py` puts it into the pages.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pages.blocks import blocks, commands
from safetensors import safe_open

from injerto.basics.files import write_text
from injerto.basics.progress import note
from injerto.compute.machine import machine

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "lesson.md"
RUNS = ("probe", "untrained", "full", "few", "lora")
COMPARISONS = ("unseen", "night", "register")
GAPS = ("emoji-styles", "brightness")
LAYER = "blocks.5.0.conv_pw"
"""The layer that the page looks into."""


def steps_of(page: str) -> Iterator[tuple[str, str]]:
    """What the page has the reader run: `bash` and a command, or `python` and a block."""
    for language, block in blocks(page):
        if language == "python":
            yield language, block
        elif language == "bash":
            yield from ((language, command) for command in commands(language, block))


def call(command: str, work: Path) -> None:
    """Run one command of the page; what `gap` finds is kept as JSON."""
    words = shlex.split(command)[1:]
    kept = work / f"gap-{words[1]}.json" if words[0] == "gap" else None
    if kept is not None and kept.exists():
        return
    extra = {"fit": ["--resume"], "gap": ["--json"]}.get(words[0], [])
    done = subprocess.run(
        [sys.executable, "-m", "injerto", *words, *extra], cwd=work, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{command}: exit code {done.returncode}")
    if kept is not None:
        write_text(kept, done.stdout)


def go(work: Path, only: list[str]) -> dict[str, float]:
    """Run the page; seconds by command, of those that ran now."""
    space: dict[str, Any] = {}
    seconds = {}
    for number, (language, what) in enumerate(steps_of(PAGE.read_text(encoding="utf-8"))):
        first = language == "python" and not space
        if only and not first and not any(text in what for text in only):
            continue
        note(what.splitlines()[0] if language == "bash" else f"python block ({number})")
        start = time.perf_counter()
        if language == "bash":
            call(what, work)
            seconds[what] = round(time.perf_counter() - start, 1)
        else:
            with chdir(work):
                exec(compile(what, PAGE.name, "exec"), space)
    return seconds


def run_of(folder: Path) -> dict[str, Any] | None:
    """What the page shows of one run; None where it was not done."""
    if not (folder / "metrics.json").exists():
        return None
    metrics = json.loads((folder / "metrics.json").read_text())
    domains = {}
    for name, entry in metrics["domains"].items():
        test = entry["splits"]["test"]
        low, high = test["accuracy_interval"]
        domains[name] = {"role": entry["role"], "accuracy": test["accuracy"], "low": low, "high": high, "n": test["n"]}
    found = {
        "domains": domains,
        "parameters": metrics["parameters"],
        "adapter_bytes": metrics["adapter_bytes"],
        "forgetting": metrics["forgetting"],
        "seconds": sum(metrics["seconds"].values()),
        "seed": 0,
    }
    adapter = folder / "adapter" / "adapter_model.safetensors"
    if adapter.exists():
        with safe_open(adapter, "np") as tensors:
            pair = {
                side: tensors.get_slice(name).get_shape()[:2]
                for side in ("A", "B")
                for name in tensors.keys()  # noqa: SIM118  not a mapping
                if name.endswith(f"{LAYER}.lora_{side}.weight")
            }
        if pair:
            found["pair"] = {"layer": LAYER, **pair}
    return found


def comparison_of(folder: Path) -> dict[str, Any] | None:
    """What the page shows of one comparison; None where it was not done, or not to its end."""
    if not (folder / "results.json").exists():
        return None
    content = json.loads((folder / "results.json").read_text())
    if sum(row["status"] == "ok" for row in content["rows"]) < content["planned"]:
        return None
    kept = ("n", "accuracy", "low", "high", "gain", "gain_low", "gain_high")
    rows = []
    for row in content["summary"]:
        figures = {
            name: {"role": entry["role"], **{key: entry["splits"]["test"].get(key) for key in kept}}
            for name, entry in row["domains"].items()
        }
        names = [one["run"] for one in content["rows"] if one["axes"] == row["axes"] and one["status"] == "ok"]
        apart = [json.loads((folder / name / "metrics.json").read_text())["alignment"] for name in names]
        seen = {}
        if all(apart):
            seen["probe"] = {key: mean([one["probe"][key] for one in apart]) for key in ("before", "after", "chance")}
            seen["mmd2"] = {
                side: mean([pair[side]["value"] for one in apart for pair in one["mmd"]])
                for side in ("before", "after")
            }
        rows.append({"axes": row["axes"], "domains": figures, **seen})
    about = {key: content[key] for key in ("source", "target", "seeds", "command")}
    return {**about, "rows": rows, "choice": content["choice"]}


def gap_of(path: Path) -> dict[str, Any] | None:
    """What the page shows of a gap."""
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    kept = ("a", "b", "n", "mmd2", "mmd2_low", "mmd2_high", "p_value", "a_distance", "level", "transfer")
    pairs = [{key: pair[key] for key in kept} | {"causes": pair["causes"]} for pair in content["pairs"]]
    return {"pairs": pairs, "seed": content["seed"]}


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def positive(path: Path) -> dict[str, float] | None:
    """The share of positive sentences by domain of the table that the page writes."""
    if not path.exists():
        return None
    labels: dict[str, list[bool]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            labels.setdefault(row["domain"], []).append(row["label"] == "positive")
    return {name: mean([float(one) for one in found]) for name, found in labels.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--collect", action="store_true")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    seconds = {} if given.collect else go(work, given.only)
    parts = {
        "runs": {name: run_of(work / "runs" / name) for name in RUNS},
        "comparisons": {name: comparison_of(work / "runs" / name) for name in COMPARISONS},
        "gaps": {name: gap_of(work / f"gap-{name}.json") for name in GAPS},
        "positive": positive(work / "register.csv"),
    }
    result = {
        "command": "python benchmarks/studies/lesson.py WORK",
        "page": "docs/lesson.md",
        "seconds": seconds,
        **parts,
        "machine": str(machine()),
        "versions": {name: version(name) for name in ("injerto", "torch", "timm", "transformers", "scikit-learn")},
    }
    write_text(HERE / "lesson.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
