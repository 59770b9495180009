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
RESULTS = HERE / "results"
ALL = ("foundation.py", "tuning.py", "lora.py", "losses.py", "alignment.py", "bank.py", "growth.py", "limit.py")
QUICK = (("losses.py",), ("lora.py", "step"), ("bank.py", "mix"), ("foundation.py", "embedding"))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| row | against | ours is faster by [95 %] | ours | theirs | unit | the same result |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        ratio = f"{one['ratio']:.2f} [{one['ratio_low']:.2f}, {one['ratio_high']:.2f}]"
        lost = " (lost)" if one["ratio_high"] < 1 else ""
        peer = f"{one['peer']} {one['peer_version']}".strip()
        same = "yes" if one["same_result"] else "NO"
        lines.append(
            f"| {one['name']} | {peer} | {ratio}{lost} | {one['ours']:g} | {one['theirs']:g} | {one['unit']} | {same} |"
        )
    return "\n".join(lines) + "\n"


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
    lines = ["| | grows with | exponent of time (due) | of memory |", "| --- | --- | --- | --- |"]
    for one in rows:
        cells = (one["name"], one["grows"], f"{one['exponent']:g} ({one['expected']:g})", f"{one['memory_exponent']:g}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def limit() -> str:
    """How near to the machine's peak, as Markdown."""
    found = json.loads((RESULTS / "limit.json").read_text())
    lines = [f"GEMM peak {found['gemm_peak_gflops']:g} GFLOP/s, copy {found['copy_gigabytes']:g} GB/s.", ""]
    lines += ["| | GFLOP/s | of the peak | where the time goes |", "| --- | --- | --- | --- |"]
    for one in found["rows"]:
        parts = ", ".join(f"{name.removeprefix('aten::')} {100 * share:.0f} %" for name, share in one["parts"].items())
        rate, share = f"{one['gflop_per_second']:g}", f"{100 * one['share_of_peak']:.0f} %"
        lines.append(f"| {one['name']} | {rate} | {share} | {parts} |")
    return "\n".join(lines) + "\n"


def write_table() -> None:
    """All rows, growth and limit as Markdown, in results/table.md."""
    machines = "; ".join(sorted({one["machine"] for one in collected()}))
    parts = [table(collected()), growth(), limit(), f"{date.today()}, {machines}, {versions()}.\n"]
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
