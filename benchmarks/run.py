"""All benchmarks, one after the other, and the table of their rows.

    python benchmarks/run.py          # make bench: an hour or more, writes results/*.json and results/table.md
    python benchmarks/run.py --quick  # make bench-quick: minutes; are both sides of a row right? writes nothing

A row is ours and a peer's, run in turn in one process on the same inputs, checked to compute the same. The table says
where we lose, too. `--quick` runs the checks of the rows that take seconds, and fails where two sides disagree.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "studies"))
from pages.parts import table  # noqa: E402

RESULTS = HERE / "results"
ALL = (
    "foundation.py", "tuning.py", "lora.py", "losses.py", "alignment.py", "bank.py", "memory.py", "growth.py",
    "limit.py", "latency.py",
)  # fmt: skip
QUICK = (("losses.py",), ("lora.py", "step"), ("bank.py", "mix"), ("foundation.py", "embedding"))


def compared(rows: list[dict[str, Any]], limit: bool) -> str:
    """The rows against peers, or against a limit, as Markdown."""
    headings = [
        "row",
        "of" if limit else "against",
        "share" if limit else "ours is better by",
        "ours",
        "theirs",
        "unit",
    ]
    cells = []
    for one in rows:
        if one.get("limit", False) is not limit:
            continue
        ratio = f"{one['ratio']:.2f} [{one['ratio_low']:.2f}, {one['ratio_high']:.2f}]"
        lost = " (lost)" if one["ratio_high"] < 1 and not limit else ""
        peer = f"{one['peer']} {one['peer_version']}".strip()
        same = [] if limit else ["yes" if one["same_result"] else "NO"]
        cells.append([one["name"], peer, ratio + lost, f"{one['ours']:g}", f"{one['theirs']:g}", one["unit"], *same])
    return table(headings + ([] if limit else ["the same result"]), cells)


def versions() -> str:
    """Of what the rows rest on."""
    names = ("injerto", "torch", "timm", "transformers", "peft", "numpy")
    return ", ".join(f"{name} {version(name)}" for name in names)


def collected() -> list[dict[str, Any]]:
    """The rows of all results that are lists of rows."""
    found: list[dict[str, Any]] = []
    for script in ALL:
        path = RESULTS / f"{Path(script).stem}.json"
        content = json.loads(path.read_text()) if path.exists() else []
        found += content if isinstance(content, list) else []
    return found


def growth() -> str:
    """How things grow, as Markdown."""
    rows = json.loads((RESULTS / "growth.json").read_text())["rows"]
    cells = [
        [one["name"], one["grows"], f"{one['exponent']:g} ({one['expected']:g})", f"{one['memory_exponent']:g}"]
        for one in rows
    ]
    return table(["", "grows with", "exponent of time (due)", "of memory"], cells)


def limit() -> str:
    """How near to the machine's peak, as Markdown."""
    found = json.loads((RESULTS / "limit.json").read_text())
    cells = []
    for one in found["rows"]:
        parts = ", ".join(f"{name.removeprefix('aten::')} {100 * share:.0f} %" for name, share in one["parts"].items())
        cells.append([one["name"], f"{one['gflop_per_second']:g}", f"{100 * one['share_of_peak']:.0f} %", parts])
    kind = f" in {found['type']}" if "type" in found else ""
    peak = f"GEMM peak {found['gemm_peak_gflops']:g} GFLOP/s{kind}, copy {found['copy_gigabytes']:g} GB/s.\n\n"
    return peak + table(["", "GFLOP/s", "of the peak", "where the time goes"], cells)


def latency() -> str:
    """How long one request takes, as Markdown."""
    rows = json.loads((RESULTS / "latency.json").read_text())["rows"]
    cells = [[one["name"], str(one["clients"]), f"{one['p50_ms']:g}", f"{one['p95_ms']:g}"] for one in rows]
    return table(["one text", "clients", "p50, ms", "p95, ms"], cells)


def write_table() -> None:
    """All rows, growth, limit and latency as Markdown, in results/table.md."""
    rows = collected()
    machines = "; ".join(sorted({one["machine"] for one in rows}))
    parts = [
        "## Against peers\n", compared(rows, limit=False),
        "## Against what nobody can do without\n", "1.00 is the limit: the same work without ours around it.\n",
        compared(rows, limit=True),
        "## Growth\n", growth(), "## Against the machine\n", limit(), "## Latency of a request\n", latency(),
        f"{date.today()}, {machines}, {versions()}.\n",
    ]  # fmt: skip
    (RESULTS / "table.md").write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true", help="only write the table of the results that are there")
    given = parser.parse_args()
    if given.table:
        write_table()
        return
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if given.quick:
        environment["BENCH_QUICK"] = "1"
    failed = []
    for words in QUICK if given.quick else [(script,) for script in ALL]:
        print(f"--- {' '.join(words)}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / words[0]), *words[1:]], cwd=HERE, env=environment)
        if done.returncode:
            failed.append(" ".join(words))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if not given.quick:
        write_table()


if __name__ == "__main__":
    main()
