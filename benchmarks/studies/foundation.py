"""Accuracy of the foundation's tunings over seeds, each seed with its own splits; every row against the probe.

    python benchmarks/studies/foundation.py emoji
    python benchmarks/studies/foundation.py sentiment

Writes `foundation-<study>.json` and `.md` beside this file. A row's interval resamples seeds and, within them, groups
of the test split; `gain` is the paired difference to the first row on the same seeds and splits.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import injerto
from injerto.basics.progress import note
from injerto.compute.machine import machine
from injerto.domains.domain import Domains
from injerto.evaluation.run import Run
from injerto.statistics.bootstrap import nested_interval

HERE = Path(__file__).parent
PROBE = {"tuning": "head", "head": "probe"}
STUDIES: dict[str, dict[str, Any]] = {
    "emoji": {
        "data": "emoji-styles",
        "seeds": 5,
        "common": {"source": ["noto"], "backbone": "packaged:efficientnet-lite0"},
        "rows": {
            "head (probe)": PROBE,
            "head (linear)": {"tuning": "head"},
            "last:2": {"tuning": "last:2"},
            "full": {"tuning": "full"},
        },
    },
    "sentiment": {
        "data": "sentiment-domains",
        "seeds": 3,
        "common": {"source": ["movies", "news", "products", "tweets"], "backbone": "packaged:minilm-l6"},
        "rows": {"head (probe)": PROBE, "full": {"tuning": "full", "steps": 240}},
    },
}


def correct(run: Run, domains: Domains, name: str) -> tuple[np.ndarray, list[str]]:
    """Which test examples the run gets right, and their groups."""
    recorded = run.recorded_splits()
    domain = domains[name]
    part = domain.subset([i for i, content in enumerate(domain.contents) if recorded[content] == "test"])
    chances = run.predict_proba(list(part.inputs))
    truth = np.asarray([run.labels.index(str(label)) for label in part.labels])
    return (chances.argmax(1) == truth).astype(float), list(part.groups)


def study(name: str, data: str) -> dict[str, Any]:
    """Run every row on every seed."""
    plan = STUDIES[name]
    domains = injerto.load_domains(data)
    found: dict[str, dict[str, list[Any]]] = {row: {domain: [] for domain in domains} for row in plan["rows"]}
    runs: dict[str, list[dict[str, Any]]] = {row: [] for row in plan["rows"]}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(plan["seeds"]):
            for row, settings in plan["rows"].items():
                note(f"{name}, seed {seed}, {row}")
                out = Path(place) / f"{row}-{seed}"
                run = injerto.fit(data, seed=seed, out=out, **plan["common"], **settings)
                metrics = run.metrics
                runs[row].append({key: metrics[key] for key in ("selection", "parameters", "adapter_bytes", "seconds")})
                for domain in domains:
                    found[row][domain].append(correct(run, domains, domain))
    first = next(iter(plan["rows"]))
    table: dict[str, Any] = {}
    for row, by_domain in found.items():
        table[row] = {"runs": runs[row], "domains": {}}
        for domain, seeds in by_domain.items():
            scores, groups = [s for s, _ in seeds], [g for _, g in seeds]
            mean, low, high = nested_interval(scores, groups)
            entry = {"accuracy": mean, "low": low, "high": high, "per_seed": [float(s.mean()) for s in scores]}
            if row != first:
                gain, low, high = nested_interval(scores, groups, [s for s, _ in found[first][domain]])
                entry |= {"gain": gain, "gain_low": low, "gain_high": high}
            table[row]["domains"][domain] = entry
    return {
        "study": name,
        "data": Path(data).name,
        "sources": plan["common"]["source"],
        "settings": {row: plan["common"] | settings for row, settings in plan["rows"].items()},
        "seeds": list(range(plan["seeds"])),
        "rows": table,
        "command": f"python benchmarks/studies/foundation.py {name}",
        "machine": str(machine()),
        "versions": {
            package: version(package) for package in ("injerto", "torch", "timm", "transformers", "scikit-learn")
        },
    }


def markdown(result: dict[str, Any]) -> str:
    """The table for people."""
    rows = result["rows"]
    domains = list(next(iter(rows.values()))["domains"])
    domains.sort(key=lambda domain: domain not in result["sources"])
    heads = [f"{domain} (source)" if domain in result["sources"] else domain for domain in domains]
    lines = [f"| {result['data']} | {' | '.join(heads)} |", "| --- |" + " --- |" * len(domains)]
    for row, entry in rows.items():
        cells = []
        for domain in domains:
            value = entry["domains"][domain]
            cell = f"{100 * value['accuracy']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
            if "gain" in value:
                cell += (
                    f"; {100 * value['gain']:+.1f} [{100 * value['gain_low']:+.1f}, {100 * value['gain_high']:+.1f}]"
                )
            cells.append(cell)
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Test accuracy, mean over seeds {result['seeds']}, 95 % interval; then the paired gain over the probe.",
    ]
    lines += [f"`{result['command']}`; {result['machine']}; {result['versions']}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    chosen = sys.argv[1]
    outcome = study(chosen, sys.argv[2] if len(sys.argv) > 2 else STUDIES[chosen]["data"])
    (HERE / f"foundation-{chosen}.json").write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    (HERE / f"foundation-{chosen}.md").write_text(markdown(outcome), encoding="utf-8")
    print(markdown(outcome))
