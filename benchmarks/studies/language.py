"""Perplexity matrix: SmolLM2 adapted by LoRA to each of two text domains, measured on both, before and after.

    python benchmarks/studies/language.py WORK

Every finished run is kept in the folder WORK. Writes `language.json` and `.md` beside this file. Entries are ratios of
perplexities (after / before) with their 95 % interval, resampling seeds and, within them, groups of the test split.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from fewshot import smaller

import injerto
from injerto.basics.files import sha256, write_text
from injerto.basics.progress import note
from injerto.compute.machine import machine
from injerto.domains.domain import Domains
from injerto.training import language

HERE = Path(__file__).parent
DOMAINS = ("movies", "tweets")
MOST = 400
SEEDS = (0, 1, 2, 3, 4)
SETTINGS = {"task": "causal-lm", "tuning": "lora", "max_length": 128, "epochs": 3, "lr": 1e-3}


def go(work: Path) -> None:
    """Do the runs that are not there yet."""
    found = smaller(injerto.load_domains("sentiment-domains", responses=True), dict.fromkeys(DOMAINS, MOST))
    domains = Domains({name: found[name] for name in DOMAINS}, "text", "sentiment-domains")
    original = language.LanguageFit._compare
    for seed in SEEDS:
        for source in DOMAINS:
            path = work / f"language-{source}-{seed}.json"
            if path.exists():
                continue
            note(f"{source}, seed {seed}")
            kept: dict[str, Any] = {}

            def compare(self: Any, name: str, before: Any, after: Any, kept: dict[str, Any] = kept) -> Any:
                part, _ = self.prepared.part(name, "test")
                kept[name] = {
                    "before": before[0].tolist(),
                    "after": after[0].tolist(),
                    "tokens": after[1].tolist(),
                    "groups": [sha256(group)[:12] for group in part.groups],
                }
                return original(self, name, before, after)

            with tempfile.TemporaryDirectory() as place, patch.object(language.LanguageFit, "_compare", compare):
                run = injerto.fit(domains, source=source, seed=seed, out=Path(place) / "run", threads=1, **SETTINGS)
                metrics = run.metrics
            size = {"parameters": metrics["parameters"], "bytes": metrics["adapter_bytes"]}
            write_text(path, json.dumps({"domains": kept, "samples": metrics["samples"], **size}))


def ratio(runs: list[dict[str, Any]], name: str, draws: int = 2000) -> tuple[float, float, float, float, float]:
    """Perplexity before and after, and their ratio with its interval: seeds and groups are resampled."""
    rng = np.random.default_rng(0)
    tables = []
    for run in runs:
        entry = run["domains"][name]
        group = np.unique(np.asarray(entry["groups"]), return_inverse=True)[1]
        columns = [np.bincount(group, weights=np.asarray(entry[key])) for key in ("before", "after", "tokens")]
        tables.append(np.stack(columns, axis=1))

    def mean(picked: list[np.ndarray]) -> np.ndarray:
        sums = np.stack([table.sum(0) for table in picked])
        return (sums[:, :2] / sums[:, 2:]).mean(0)

    before, after = mean(tables)
    drawn = []
    for _ in range(draws):
        seeds = rng.integers(len(tables), size=len(tables))
        b, a = mean([tables[s][rng.integers(len(tables[s]), size=len(tables[s]))] for s in seeds])
        drawn.append(np.exp(a - b))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.exp(before)), float(np.exp(after)), float(np.exp(after - before)), float(low), float(high)


def main() -> None:
    work = Path(sys.argv[1])
    if "--collect" not in sys.argv:
        go(work)
    table: dict[str, Any] = {}
    lines = [
        "Perplexity on the test split of each domain, of SmolLM2-135M (before) and with a LoRA adapter for one domain.",
        "",
        f"| adapter for | {' | '.join(DOMAINS)} |",
        f"| --- |{' --- |' * len(DOMAINS)}",
    ]
    runs: dict[str, list[dict[str, Any]]] = {
        source: [json.loads(path.read_text()) for path in sorted(work.glob(f"language-{source}-*.json"))]
        for source in DOMAINS
    }
    first = [ratio(runs[DOMAINS[0]], name)[0] for name in DOMAINS]
    lines.append(f"| none | {' | '.join(f'{value:.1f}' for value in first)} |")
    for source in DOMAINS:
        cells = []
        for name in DOMAINS:
            before, after, change, low, high = ratio(runs[source], name)
            table[f"{source} -> {name}"] = {
                "before": before, "after": after, "ratio": change, "low": low, "high": high
            }  # fmt: skip
            cells.append(f"{after:.1f} (x{change:.2f} [{low:.2f}, {high:.2f}])")
        lines.append(f"| {source} | {' | '.join(cells)} |")
    some = runs[DOMAINS[0]][0]
    result = {
        "settings": SETTINGS,
        "texts_a_domain": MOST,
        "seeds": {source: len(found) for source, found in runs.items()},
        "matrix": table,
        "parameters": some["parameters"],
        "bytes": some["bytes"],
        "command": "python benchmarks/studies/language.py WORK",
        "machine": str(machine()),
        "versions": {package: version(package) for package in ("injerto", "torch", "transformers")},
    }
    lines += ["", f"Seeds {result['seeds']}. `{result['command']}`; {result['machine']}; {result['versions']}", ""]
    write_text(HERE / "language.json", json.dumps(result, indent=1) + "\n")
    write_text(HERE / "language.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
