"""LoRA beside the head, last:2 and full: accuracy, other domains, forgetting, parameters, bytes, seconds.

    python benchmarks/studies/lora.py emoji WORK
    python benchmarks/studies/lora.py pacs WORK --data PACS.tar
    python benchmarks/studies/lora.py sentiment WORK --remember FDU.jsonl.xz
    python benchmarks/studies/lora.py sentiment-all WORK

`WORK` is that of `fewshot.py`, whose finished runs are used. Writes `lora-<study>.json` and `.md` beside this file.
Intervals are 95 %, resampling seeds and, within them, groups of the test split; a gain is the paired difference to
`full` on the same seeds and splits.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import fewshot
import numpy as np
from fewshot import HERE, PARTS, STUDIES, _finished, row_of, smaller, topics

import injerto
from injerto.basics.files import write_text
from injerto.basics.progress import format_bytes
from injerto.compute.machine import machine

ROWS: dict[str, dict[str, Any]] = {
    "head": {"tuning": "head", "head": "probe"},
    "lora": {"tuning": "lora"},
    "lora:last:2": {"tuning": "lora:last:2"},
    "last:2": {"tuning": "last:2"},
    "full": {"tuning": "full"},
}
ALL = "sentiment-all"
STUDIES[ALL] = STUDIES["sentiment"] | {
    "source": ["movies", "news", "products", "tweets"],
    "most": {},
}
"""All four domains are learned from, 200 examples a class each, and tested on everything left for it."""


def rows_of(study: str) -> list[str]:
    return ["head", "lora", "full"] if study == ALL else list(ROWS)


def shots_of(study: str) -> int | None:
    return 200 if study == ALL else None


def sizes(study: str, row: str, work: Path, data: str) -> dict[str, Any]:
    """Trained parameters and the adapter's bytes, which no seed changes: from a run of one step."""
    path = work / f"size-{study}-{row.replace(':', '-')}.json"
    if not path.exists():
        plan = STUDIES[study]
        settings = plan["settings"] | ROWS[row] | {"source": plan["source"], "shots": 2}
        settings |= {} if row == "head" else {"steps": 1}
        domains = smaller(injerto.load_domains(data), plan["most"])
        with tempfile.TemporaryDirectory() as place:
            metrics = injerto.fit(domains, out=Path(place) / "run", threads=1, **settings).metrics
        write_text(path, json.dumps({"bytes": metrics["adapter_bytes"], **metrics["parameters"]}))
    return dict(json.loads(path.read_text()))


def collect(study: str, work: Path, data: str, command: str) -> dict[str, Any]:
    """The table, from the seeds for which every run is there."""
    plan, shots = STUDIES[study], shots_of(study)
    files = {row: _finished(work, study, row, shots) for row in rows_of(study)}
    seeds = sorted(set.intersection(*(set(found) for found in files.values())))
    runs = {row: [json.loads(found[seed].read_text()) for seed in seeds] for row, found in files.items()}
    table: dict[str, Any] = {}
    for row, found in runs.items():
        parts, source = (("others",), "") if study == ALL else (PARTS, plan["source"])  # all: no single source
        entry = {"size": sizes(study, row, work, data)} | row_of(runs, row, source, "full", parts)
        if study == ALL:
            entry["new"] = entry.pop("others")
        entry["seconds"] = float(np.median([sum(run["seconds"].values()) for run in found]))
        table[row] = entry
    return {
        "study": study,
        "source": plan["source"],
        "seeds": seeds,
        "rows": table,
        "settings": {row: plan["settings"] | ROWS[row] for row in table},
        "command": command,
        "machine": str(machine()),
        "versions": {package: fewshot.version(package) for package in ("injerto", "torch", "timm", "transformers")},
    }


def markdown(result: dict[str, Any]) -> str:
    source = result["source"] if isinstance(result["source"], str) else ", ".join(result["source"])
    lines = [
        f"Learned from {source}; in brackets the paired difference to `full`.",
        "",
        "| tuning | trained | adapter | new data | other domains | agrees | CKA | remembers | seconds |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row, entry in result["rows"].items():
        size = entry["size"]
        cells = [f"`{row}`", f"{100 * size['trainable'] / size['total']:.1f} %", format_bytes(size["bytes"])]
        for what in ("new", "others"):
            if what not in entry:
                cells.append("-")
                continue
            value = entry[what]
            gain = "" if "gain" not in value else (
                f" ({100 * value['gain']:+.1f} [{100 * value['gain_low']:+.1f}, {100 * value['gain_high']:+.1f}])"
            )  # fmt: skip
            cells.append(f"{100 * value['accuracy']:.1f} %{gain}")
        cells.append("-" if entry["agreement"] is None else f"{100 * entry['agreement']:.0f} %")
        cells.append("-" if entry["cka"] is None else f"{entry['cka']:.2f}")
        cells.append(f"{100 * entry['remember']:+.1f}" if "remember" in entry else "-")
        cells.append(f"{entry['seconds']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    seeds = ", ".join(map(str, result["seeds"]))
    return "\n".join(
        [*lines, "", f"Seeds {seeds}. `{result['command']}`; {result['machine']}; {result['versions']}", ""]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=["emoji", "pacs", "sentiment", ALL])
    parser.add_argument("work", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--remember", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--collect", action="store_true", help="only write the table from what is there")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    data = given.data or STUDIES[given.study]["data"]
    if not given.collect:
        remember = str(topics(given.remember, given.work / "topics.jsonl")) if given.remember else None
        fewshot.SHOTS = (shots_of(given.study),)
        fewshot.TUNINGS = {row: ROWS[row] for row in rows_of(given.study)}
        fewshot.go(given.study, given.work, data, remember, [int(seed) for seed in given.seeds.split(",")])
    options = "".join(
        f" --{key} {Path(value).name}" for key, value in (("data", given.data), ("remember", given.remember)) if value
    )
    result = collect(given.study, given.work, data, f"python benchmarks/studies/lora.py {given.study} WORK{options}")
    write_text(HERE / f"lora-{given.study}.json", json.dumps(result, indent=1) + "\n")
    write_text(HERE / f"lora-{given.study}.md", markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
