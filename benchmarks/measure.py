"""Interleaved timing, peaks of memory, ratios with an interval, rows as files."""

import ctypes
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from injerto.compute.machine import machine

RESULTS = Path(__file__).parent / "results"
QUICK = bool(os.environ.get("BENCH_QUICK"))
"""Whether only the sameness of both sides is looked at: each runs once, and nothing is written."""


BEST = torch.bfloat16 if machine().bf16 else torch.float32
"""The type in which this machine computes fastest."""
TOLERANCE = 2e-2 if machine().bf16 else 1e-3
"""By how much losses of two sides may differ, as a share, where one computes in the machine's best type."""


def best_type() -> torch.autocast:
    """What a hand-tuned loop does around its forward pass: bfloat16 where the hardware has it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=machine().bf16)


def interleave(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of both, A B B A A B ..., after one uncounted run of each."""
    ours(), theirs()
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for pair in range(1 if QUICK else pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (ours, theirs)[which]()
            seconds[which].append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def peak_of(run: Callable[[], Any]) -> float:
    """Megabytes by which a call raises this process's peak above what it holds before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back: the call must ask for its own
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = peak()
    run()
    return (peak() - before) / 2**20


def peak() -> int:
    """Most bytes that this process has held; not ``ru_maxrss``, which a child inherits from its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def row(
    name: str,
    peer: str,
    peer_version: str,
    ours: list[float],
    theirs: list[float],
    per: float | None,
    unit: str,
    same: bool,
    limit: bool = False,
) -> dict[str, Any]:
    """A benchmark row.

    Args:
        name: What is done.
        peer: How else.
        peer_version: Of the peer's package.
        ours: Seconds, or an amount of which less is better.
        theirs: The same of the peer, pair by pair.
        per: Items in so many seconds; None for amounts, which are shown as they are.
        unit: Of what is shown.
        same: Whether both computed the same.
        limit: Whether the peer is no other way to do it, but a part of it that nobody can do without.
    """
    ratios = np.asarray(theirs) / np.asarray(ours)
    rng = np.random.default_rng(0)
    draws = np.median(ratios[rng.integers(0, len(ratios), (2000, len(ratios)))], axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "name": name,
        "peer": peer,
        "peer_version": peer_version,
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_low": round(float(low), 3),
        "ratio_high": round(float(high), 3),
        "ours": _shown(ours, per),
        "theirs": _shown(theirs, per),
        "unit": unit,
        "same_result": same,
        "limit": limit,
        "machine": str(machine()),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def _shown(values: list[float], per: float | None) -> float:
    middle = statistics.median(values)
    return round(middle if per is None else per / middle, 3)


def save(file: str, rows: list[dict[str, Any]], whole: bool = True) -> None:
    """Write the rows and print them.

    Args:
        file: Under `results/`.
        rows: What was measured.
        whole: Whether that is all; else rows of the file with other names or peers stay.
    """
    if not QUICK:
        RESULTS.mkdir(exist_ok=True)
        path, new = RESULTS / file, {(one["name"], one["peer"]) for one in rows}
        old = [] if whole or not path.exists() else json.loads(path.read_text())
        kept = [one for one in old if (one["name"], one["peer"]) not in new]
        path.write_text(json.dumps(kept + rows, indent=1) + "\n", encoding="utf-8")
    for entry in rows:
        print(
            f"{entry['name']} against {entry['peer']}: {entry['ratio']}x "
            f"[{entry['ratio_low']}, {entry['ratio_high']}], "
            f"{entry['ours']} and {entry['theirs']} {entry['unit']}, same result: {entry['same_result']}"
        )
    wrong = [entry["name"] for entry in rows if not entry["same_result"]]
    if wrong:
        sys.exit(f"not the same result: {', '.join(wrong)}")
