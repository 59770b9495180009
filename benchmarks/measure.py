"""Interleaved timing, ratios with an interval, rows as files."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from injerto.compute.machine import machine

RESULTS = Path(__file__).parent / "results"
QUICK = bool(os.environ.get("BENCH_QUICK"))
"""Whether only the sameness of both sides is looked at: each runs once, and nothing is written."""


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


def row(
    name: str, peer: str, peer_version: str, ours: list[float], theirs: list[float], per: float, unit: str, same: bool
) -> dict[str, Any]:
    """A benchmark row; `per` turns seconds into the unit (items per second when positive: per / seconds)."""
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
        "ours": round(per / statistics.median(ours), 3),
        "theirs": round(per / statistics.median(theirs), 3),
        "unit": unit,
        "same_result": same,
        "machine": str(machine()),
        "command": "python " + " ".join(sys.argv),
    }


def save(file: str, rows: list[dict[str, Any]]) -> None:
    """Write the rows and print them."""
    if not QUICK:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / file).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for entry in rows:
        print(
            f"{entry['name']} against {entry['peer']}: {entry['ratio']}x "
            f"[{entry['ratio_low']}, {entry['ratio_high']}], "
            f"{entry['ours']} and {entry['theirs']} {entry['unit']}, same result: {entry['same_result']}"
        )
    wrong = [entry["name"] for entry in rows if not entry["same_result"]]
    if wrong:
        sys.exit(f"not the same result: {', '.join(wrong)}")
