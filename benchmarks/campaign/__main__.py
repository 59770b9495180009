"""``python -m benchmarks.campaign``: every attack, seeded, resumable, its figures as a file."""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # the cases share the cores: who waits is not to spin
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # tiny networks and data
PARTS = {"kills": 5.0, "disks": 2.5, "flips": 5.0, "inputs": 8.0, "settings": 5.0, "server": 4.5}
"""Parts and their minutes, of thirty."""
RESULT = ROOT / "benchmarks" / "results" / "campaign.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this one; may be given again")
    parser.add_argument("--cases", type=int, help="only so many cases of each part, to see that they run")
    parser.add_argument("--work", type=Path, default=ROOT / "campaign", help="folder of the ledger and of the cases")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    from benchmarks.campaign.cases import BAD, Ledger, run_cases
    from benchmarks.campaign.kit import RUNS, Kit

    given.work.mkdir(parents=True, exist_ok=True)
    os.environ["INJERTO_CACHE"] = str(given.work.resolve() / "cache")
    ledger = Ledger(given.work / f"ledger-{given.seed}.jsonl")
    begun = time.monotonic()
    kit = Kit(given.work.resolve() / "kit", given.seed)
    kit.prepare(() if given.cases else RUNS)
    names = given.part or list(PARTS)
    minutes = {name: given.minutes * PARTS[name] / sum(PARTS[one] for one in names) for name in names}
    left, figures = 0.0, {}
    for name in names:
        module = importlib.import_module(f"benchmarks.campaign.{name}")
        start = time.monotonic()
        print(f"{name}: up to {minutes[name] + left:.1f} min", flush=True)
        deadline = start + 60 * (minutes[name] + left)
        run_cases(name, islice(module.cases(kit), given.cases), ledger, given.work.resolve(), deadline, module.JOBS)
        left += minutes[name] - (time.monotonic() - start) / 60
        figures[name] = ledger.figures(name) | {"least": module.LEAST}
        own = figures[name]
        print(f"{name}: {own['attacks']} attacks in {own['cases']} cases, {own['outcomes']}", flush=True)
    bad = sum(own["outcomes"][kind] for own in figures.values() for kind in BAD)
    few = [name for name, own in figures.items() if own["attacks"] < own["least"] and not given.cases]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    sittings = given.work / f"sittings-{given.seed}.jsonl"
    with sittings.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"commit": commit, "minutes": round((time.monotonic() - begun) / 60, 1)}) + "\n")
    done = [json.loads(line) for line in sittings.read_text(encoding="utf-8").splitlines()]
    result = {
        "command": "make campaign",
        "seed": given.seed,
        "minutes": round(sum(one["minutes"] for one in done), 1),
        "commit": commit,
        "sittings": done,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("torch", "pillow", "safetensors", "starlette", "uvicorn")},
        "parts": figures,
        "bad": bad,
        "too_few": few,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{bad} bad; too few attacks in: {', '.join(few) or 'no part'}; written to {given.out}")
    sys.exit(1 if bad or few else 0)


if __name__ == "__main__":
    main()
