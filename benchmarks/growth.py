"""How time and memory grow with data, domains, adapters and classes: exponents fitted over 1x, 4x and 16x.

    python benchmarks/growth.py

Time is `c * n^k`; `k` is taken between 4x and 16x, where fixed costs weigh least: 1 is linear. What is looked at is
done once per example, domain or class; the backbone itself, linear by nature, is left out. The exact MMD of a step
and the confusion of C classes are tables of n x n and C x C by definition. `tests/test_growth.py` fails where
something that should be linear is not. Writes `results/growth.json`.
"""

import csv
import gc
import json
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import injerto
from injerto.basics.files import write_text
from injerto.basics.progress import set_quiet
from injerto.compute.machine import machine
from injerto.domains.domain import Domain
from injerto.domains.splits import split_domains
from injerto.evaluation.metrics import classification_metrics
from injerto.statistics.bootstrap import bootstrap_interval
from injerto.statistics.mmd import mmd2
from injerto.statistics.twosample import two_sample_test
from injerto.tasks.probe import fit_probe

TIMES = (1, 4, 16)
Action = Callable[[], Any]
Case = tuple[str, str, int, float, Callable[[int], Action]]
"""Name, what grows, its size at 1x, the exponent it should have, and the work at a size."""


def table(folder: Path, rows: int) -> Path:
    """A CSV of short texts."""
    path = folder / f"texts-{rows}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        write = csv.writer(stream).writerow
        write(("text", "label", "domain"))
        for i in range(rows):
            write((f"text number {i} about {i % 97}", "ab"[i % 2], "xy"[i // 2 % 2]))
    return path


def domain(name: str, size: int) -> Domain:
    ids = tuple(f"{name}-{i}" for i in range(size))
    labels = tuple("ab"[i % 2] for i in range(size))
    return Domain(name, ids, labels, ids, ids, ids, (None,) * size, ids)


def predicted(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(classes), rows)
    return (
        probabilities,
        rng.integers(0, classes, rows),
        [f"c{c}" for c in range(classes)],
        [str(i) for i in range(rows)],
    )


def cases(folder: Path) -> Iterator[Case]:
    """Everything that is measured."""
    rng = np.random.default_rng(0)

    def read(n: int) -> Action:
        path = table(folder, n)
        return lambda: injerto.load_domains(path)

    def split(n: int) -> Action:
        found = {name: domain(name, n // 2) for name in "xy"}
        return lambda: split_domains(found, ["x"], 0)

    def many(n: int) -> Action:
        found = {f"d{k}": domain(f"d{k}", 500) for k in range(n)}
        return lambda: split_domains(found, ["d0"], 0)

    def metrics(n: int) -> Action:
        given = predicted(n, 10)
        return lambda: classification_metrics(*given)

    def classes(n: int) -> Action:
        given = predicted(20_000, n)
        return lambda: classification_metrics(*given)

    def interval(n: int) -> Action:
        values, groups = rng.random(n), np.arange(n)
        return lambda: bootstrap_interval(values, groups)

    def two(n: int) -> Action:
        x, y = (rng.standard_normal((n, 64)).astype(np.float32) for _ in range(2))
        return lambda: two_sample_test(x, y, draws=20)

    def probe(n: int) -> Action:
        labels = rng.integers(0, 4, n)
        x = (np.eye(64)[labels] * 2 + rng.standard_normal((n, 64))).astype(np.float32)
        return lambda: fit_probe(x, labels, [(x[:500], labels[:500])], 4)

    def step(n: int) -> Action:
        x, y = torch.randn(n, 64), torch.randn(n, 64)
        return lambda: mmd2(x, y)

    yield "read a table", "examples", 2_500, 1, read
    yield "splits", "examples", 10_000, 1, split
    yield "splits", "domains of 500", 20, 1, many
    yield "metrics with intervals", "examples", 10_000, 1, metrics
    yield "metrics with intervals", "classes", 10, 1, classes
    yield "bootstrap interval", "examples", 10_000, 1, interval
    yield "MMD test above 4,000 rows", "examples", 5_000, 1, two
    yield "probe", "examples", 1_000, 1, probe
    yield "MMD of a step, exact", "examples", 128, 2, step


def seconds(action: Action) -> float:
    """CPU seconds of the quickest of three runs: what else the machine does only adds."""
    found = []
    for _ in range(3):
        gc.collect()
        begun = time.process_time()
        action()
        found.append(time.process_time() - begun)
    return min(found)


def megabytes(action: Action) -> float:
    """What Python and numpy took at most; torch is not seen."""
    tracemalloc.start()
    action()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 1e6


def exponent(values: list[float]) -> float:
    return math.log(values[-1] / values[-2]) / math.log(TIMES[-1] / TIMES[-2])


def grown(case: Case, memory: bool = True) -> dict[str, Any]:
    """One case at all sizes."""
    name, what, base, expected, make = case
    took, most = [], []
    for times in TIMES:
        action = make(base * times)
        took.append(seconds(action))
        if memory:
            most.append(megabytes(action))
    row = {"name": name, "grows": what, "at": base, "seconds": [round(one, 4) for one in took]}
    row |= {"exponent": round(exponent(took), 2), "expected": expected}
    if memory:
        row |= {"megabytes": [round(one, 2) for one in most], "memory_exponent": round(exponent(most), 2)}
    return row


def main() -> None:
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for case in cases(Path(folder)):
            rows.append(grown(case))
            print(rows[-1], flush=True)
    content = {"command": "python benchmarks/growth.py", "machine": str(machine()), "times": TIMES, "rows": rows}
    write_text(Path(__file__).parent / "results" / "growth.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
