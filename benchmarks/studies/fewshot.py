"""Few-shot curves: which tuning for how many examples, on new data, on other domains, and by what is forgotten.

    python benchmarks/studies/fewshot.py emoji WORK
    python benchmarks/studies/fewshot.py sentiment WORK --remember FDU.jsonl.xz
    python benchmarks/studies/fewshot.py pacs WORK --data PACS.tar

Every finished run is kept in the folder WORK, so a stopped study goes on. Writes `fewshot-<study>.json`, `.md` and
`.png` beside this file, from the runs there are. Intervals are 95 %, resampling seeds and, within them, groups of the
test split; a gain is the paired difference to the probe on the same seeds and splits.
"""

import argparse
import json
import lzma
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import injerto
from injerto.basics.files import sha256, write_text
from injerto.basics.progress import note
from injerto.compute.machine import machine
from injerto.domains.domain import Domain, Domains
from injerto.statistics.bootstrap import nested_interval
from injerto.training import fit

HERE = Path(__file__).parent
SHOTS = (1, 5, 10, 30, None)
PARTS = ("new", "others")
TUNINGS: dict[str, dict[str, Any]] = {
    "head": {"tuning": "head", "head": "probe"},
    "last:2": {"tuning": "last:2"},
    "gradual": {"tuning": "gradual"},
    "lp-ft": {"tuning": "lp-ft"},
    "full": {"tuning": "full"},
}
STUDIES: dict[str, dict[str, Any]] = {
    "emoji": {
        "data": "emoji-styles",
        "source": "noto",
        "settings": {"backbone": "packaged:efficientnet-lite0", "image_size": 96},
        "most": {},
    },
    "sentiment": {
        "data": "sentiment-domains",
        "source": "movies",
        "settings": {"backbone": "packaged:minilm-l6"},
        "most": {"movies": 1500, "news": 1500, "products": 1500, "tweets": 1500},
    },
    "pacs": {
        "data": None,
        "source": "photo",
        "settings": {"backbone": "packaged:efficientnet-lite0", "image_size": 96},
        "most": {"photo": 600, "art_painting": 1000, "cartoon": 1000, "sketch": 1000},
    },
}


def smaller(domains: Domains, most: dict[str, int]) -> Domains:
    """At most so many examples of each domain, chosen by their content's hash."""
    kept = {}
    for name, domain in domains.items():
        order = sorted(range(len(domain)), key=lambda i: sha256("study", domain.contents[i]))
        kept[name] = domain.subset(sorted(order[: most.get(name, len(domain))]))
    return Domains(kept, domains.modality, domains.name)


def topics(path: Path, out: Path) -> Path:
    """A table of 16 product categories, 40 texts each, their first 200 characters: something to remember."""
    by_topic: dict[str, list[str]] = defaultdict(list)
    with lzma.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            entry = json.loads(line)
            by_topic[entry["domain"]].append(" ".join(entry["text"].split())[:200])
    rows = [
        {"text": text, "label": topic}
        for topic, texts in sorted(by_topic.items())
        for text in sorted(set(texts), key=lambda text: sha256("study", text))[:40]
    ]
    write_text(out, "".join(json.dumps(row) + "\n" for row in rows))
    return out


def correct(part: Domain, logits: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Which test examples a run gets right, and their groups."""
    best = [classes[index] for index in logits.argmax(1)]
    right = [int(found == label) for found, label in zip(best, part.labels, strict=True)]
    return {"right": right, "groups": [sha256(group)[:12] for group in part.groups]}


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Right and wrong predictions of each domain's last measured split, which is test."""
    found: dict[str, Any] = {}

    def measure(part: Domain, logits: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        found[part.name] = correct(part, logits, classes)
        return original(part, logits, classes)

    original = fit.measure
    with patch.object(fit, "measure", measure):
        yield found


def go(name: str, work: Path, data: str, remember: str | None, seeds: list[int]) -> None:
    """Do the runs that are not there yet."""
    plan = STUDIES[name]
    domains = smaller(injerto.load_domains(data), plan["most"])
    for seed in seeds:
        for shots in SHOTS:
            for row, tuning in TUNINGS.items():
                path = work / f"{_stem(name, row, shots)}{seed}.json"
                if path.exists():
                    continue
                note(f"{name}, seed {seed}, {shots or 'all'} a class, {row}")
                settings = plan["settings"] | tuning | {"source": plan["source"], "seed": seed, "shots": shots}
                with tempfile.TemporaryDirectory() as place, watched() as found:
                    run = injerto.fit(domains, out=Path(place) / "run", remember=remember, threads=1, **settings)
                    metrics = run.metrics
                kept = {key: metrics[key] for key in ("selection", "forgetting", "seconds")}
                write_text(path, json.dumps({"domains": found, **kept}) + "\n")


def _stem(name: str, row: str, shots: int | None) -> str:
    return f"{name}-{row.replace(':', '-')}-{shots or 'all'}-"


def _finished(work: Path, name: str, row: str, shots: int | None) -> dict[int, Path]:
    """Runs that are there, by seed."""
    stem = _stem(name, row, shots)
    return {int(path.stem.removeprefix(stem)): path for path in work.glob(f"{stem}*.json")}


def collect(name: str, work: Path, command: str) -> dict[str, Any]:
    """The table, from the seeds for which every run of a number of examples is there."""
    plan, result = STUDIES[name], {}
    for shots in SHOTS:
        files = {row: _finished(work, name, row, shots) for row in TUNINGS}
        seeds = sorted(set.intersection(*(set(found) for found in files.values())))
        if not seeds:
            continue
        runs = {row: [json.loads(found[seed].read_text()) for seed in seeds] for row, found in files.items()}
        result[str(shots or "all")] = {
            "seeds": seeds,
            "rows": {row: row_of(runs, row, plan["source"]) for row in TUNINGS},
        }
    return {
        "study": name,
        "source": plan["source"],
        "settings": {row: plan["settings"] | tuning for row, tuning in TUNINGS.items()},
        "at_most": plan["most"],
        "shots": result,
        "command": command,
        "machine": str(machine()),
        "versions": {package: version(package) for package in ("injerto", "torch", "timm", "transformers")},
    }


def row_of(
    runs: dict[str, list[dict[str, Any]]], row: str, source: str, base: str = "head", parts: Sequence[str] = PARTS
) -> dict[str, Any]:
    """One row's figures, its gains being paired differences to the row `base`."""
    entry: dict[str, Any] = {}
    for what in parts:
        scores, groups = zip(*(_scores(run, source, what) for run in runs[row]), strict=True)
        mean, low, high = nested_interval(scores, groups)
        entry[what] = {"accuracy": mean, "low": low, "high": high}
        if row != base:
            others = [_scores(run, source, what)[0] for run in runs[base]]
            gain, low, high = nested_interval(scores, groups, others)
            entry[what] |= {"gain": gain, "gain_low": low, "gain_high": high}
    for key in ("agreement", "cka"):
        values = [run["forgetting"][key] for run in runs[row]]
        entry[key] = None if None in values else float(np.mean(values))
    if "remember" in runs[row][0]["forgetting"]:
        entry["remember"] = float(np.mean([run["forgetting"]["remember"]["difference"] for run in runs[row]]))
    entry["seconds"] = float(np.mean([sum(run["seconds"].values()) for run in runs[row]]))
    return entry


def _scores(run: dict[str, Any], source: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong on the source's test split, or on those of all other domains (each domain weighs the same)."""
    names = [name for name in run["domains"] if (name == source) == (what == "new")]
    parts = [np.asarray(run["domains"][name]["right"], float) for name in names]
    whole = sum(map(len, parts))
    scores = np.concatenate([part * whole / (len(parts) * len(part)) for part in parts])
    groups = np.concatenate([[f"{name}/{group}" for group in run["domains"][name]["groups"]] for name in names])
    return scores, groups


def markdown(result: dict[str, Any]) -> str:
    """The table for people."""
    lines = [
        f"Learned from `{result['source']}`: accuracy on new data, paired gain over the probe (head), mean accuracy on",
        "the other domains (never seen), agreement with the original classifier, CKA, change of a refitted probe on",
        "data to remember.",
        "",
        "| a class | tuning | new data | gain | other domains | gain | agrees | CKA | remembers | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for shots, block in result["shots"].items():
        for row, entry in block["rows"].items():
            cells = [shots, row]
            for what in ("new", "others"):
                value = entry[what]
                cells.append(f"{100 * value['accuracy']:.1f} %")
                gain = "" if "gain" not in value else (
                    f"{100 * value['gain']:+.1f} [{100 * value['gain_low']:+.1f}, {100 * value['gain_high']:+.1f}]"
                )  # fmt: skip
                cells.append(gain)
            cells.append("-" if entry["agreement"] is None else f"{100 * entry['agreement']:.0f} %")
            cells.append("-" if entry["cka"] is None else f"{entry['cka']:.2f}")
            cells.append(f"{100 * entry['remember']:+.1f}" if "remember" in entry else "-")
            cells.append(f"{entry['seconds']:.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    seeds = {shots: len(block["seeds"]) for shots, block in result["shots"].items()}
    lines += ["", f"Seeds: {seeds}. `{result['command']}`; {result['machine']}; {result['versions']}", ""]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy on new data and on the other domains over the number of examples."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    names = list(result["shots"])
    for axis, what, title in zip(axes, ("new", "others"), ("new data", "other domains, never seen"), strict=True):
        for offset, row in enumerate(TUNINGS):
            entries = [result["shots"][shots]["rows"][row][what] for shots in names]
            middle = np.asarray([100 * entry["accuracy"] for entry in entries])
            spread = [[100 * abs(entry[end] - entry["accuracy"]) for entry in entries] for end in ("low", "high")]
            places = np.arange(len(names)) + 0.09 * (offset - 2)
            axis.errorbar(places, middle, yerr=spread, marker="o", markersize=4, capsize=2, linewidth=1.2, label=row)
        axis.set_xticks(range(len(names)), names)
        axis.set_xlabel("labelled examples a class")
        axis.set_ylabel("accuracy, %")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{result['study']}: learned from {result['source']}", fontsize=11)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=list(STUDIES))
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
        go(given.study, given.work, data, remember, [int(seed) for seed in given.seeds.split(",")])
    options = "".join(
        f" --{key} {Path(value).name}" for key, value in (("data", given.data), ("remember", given.remember)) if value
    )
    result = collect(given.study, given.work, f"python benchmarks/studies/fewshot.py {given.study} WORK{options}")
    write_text(HERE / f"fewshot-{given.study}.json", json.dumps(result, indent=1) + "\n")
    write_text(HERE / f"fewshot-{given.study}.md", markdown(result))
    draw(result, HERE / f"fewshot-{given.study}.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
