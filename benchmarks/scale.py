"""The gap between two domains of 50,000 embeddings of 1,280 numbers: seconds, and memory above the data.

    python benchmarks/scale.py

Made up embeddings (float32, falling spectrum, a slight shift); no network is run. Each function once, alone, on all
cores. The goal: test, A-distance and Frechet together within 30 seconds and 2 GB above the data on two cores. Writes
`results/gap.json`.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.files import write_text
from injerto.compute.machine import machine
from injerto.statistics.distance import a_distance, frechet_distance
from injerto.statistics.twosample import two_sample_test

HERE = Path(__file__).parent
ROWS, WIDTH = 50_000, 1280


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measured(function: Callable[..., Any], x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Seconds and peak memory above what is there already."""
    base, peak, stop = resident(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=watch)
    thread.start()
    start, cpu = time.perf_counter(), time.process_time()
    found = function(x, y)
    took, spent = time.perf_counter() - start, time.process_time() - cpu
    stop.set()
    thread.join()
    above = (peak[0] - base) / 1e9
    row = {"function": function.__name__, "seconds": round(took, 1), "cpu_seconds": round(spent, 1)}
    print(f"{function.__name__}: {took:.1f} s, {spent:.1f} s of processor time, {above:.2f} GB above the data; {found}")
    return row | {"gigabytes_above": round(above, 2)}


def main() -> None:
    rng = np.random.default_rng(0)
    spectrum = np.sqrt(np.arange(1, WIDTH + 1, dtype=np.float32))
    x, y = (rng.standard_normal((ROWS, WIDTH), dtype=np.float32) / spectrum for _ in range(2))
    y[:, 600:620] += 0.01
    functions = (two_sample_test, a_distance, frechet_distance)
    for function in functions:  # warm up
        function(x[:50], y[:50])
    rows = [measured(function, x, y) for function in functions]
    total = {"seconds": round(sum(row["seconds"] for row in rows), 1)}
    total["gigabytes_above"] = max(row["gigabytes_above"] for row in rows)
    content = {"command": "python benchmarks/scale.py", "machine": str(machine()), "rows": rows, "together": total}
    write_text(HERE / "results" / "gap.json", json.dumps(content, indent=1) + "\n")
    print(total)


if __name__ == "__main__":
    main()
