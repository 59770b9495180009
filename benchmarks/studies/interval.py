"""How often is a gain claimed between two rows that are equally good? The level of the paired interval, by simulation.

    python benchmarks/studies/interval.py

A seed's mean difference is drawn as its own effect (standard deviation `ratio`, in standard errors of one seed's test)
plus the noise of its test examples; then seeds are resampled, and the noise, as
`injerto.statistics.bootstrap.nested_draws` does: for every seed by itself where each has test examples of its own, once
for all where they have one test set (`shared`). Three ways to count the variance between S seeds, of which resampling
shows (S - 1) / S: as it is; scaled by sqrt(S / (S - 1)) (Davison and Hinkley, Bootstrap Methods, 1997); scaled by
Student's t besides. Writes `interval.json` beside this file.
"""

import json
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from injerto.basics.files import write_text
from injerto.compute.machine import machine
from injerto.statistics.significance import p_value

SEEDS, RATIOS = (1, 2, 3, 5, 10), (0.0, 0.5, 1.0, 2.0, 4.0)
COMPARISONS, DRAWS, EXAMPLES = 4000, 1000, 100


def levels(seeds: int, ratio: float, shared: bool, rng: np.random.Generator) -> dict[str, float]:
    """Share of the comparisons with p < 0.05, by way."""
    factor = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    quantile = student.ppf(0.975, seeds - 1) / student.ppf(0.975, 10**6) if seeds > 1 else 0.0
    ways = {"as it is": 1.0, "scaled": factor, "scaled by t": factor * quantile}
    claimed = dict.fromkeys(ways, 0)
    for _ in range(COMPARISONS):
        tests = 1 if shared else seeds
        means = rng.normal(0, ratio, seeds) + rng.normal(size=tests)
        errors = np.sqrt(rng.chisquare(EXAMPLES - 1, tests) / (EXAMPLES - 1))
        picks = rng.integers(seeds, size=(DRAWS, seeds))
        noise = (errors * rng.normal(size=(DRAWS, tests))).mean(axis=1)
        between = means[picks].mean(axis=1) - means.mean()
        for name, scale in ways.items():
            claimed[name] += p_value(means.mean() + scale * between + noise) < 0.05
    return {name: count / COMPARISONS for name, count in claimed.items() if seeds > 1 or name == "as it is"}


def main() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"seeds": seeds, "ratio": ratio, "shared": shared, **levels(seeds, ratio, shared, rng)}
        for shared in (False, True)
        for seeds in SEEDS
        for ratio in RATIOS
    ]
    about = {"command": "python benchmarks/studies/interval.py", "seed": 0, "machine": str(machine()), "rows": rows}
    write_text(Path(__file__).with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
