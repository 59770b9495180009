"""Does the drift alarm ring when it should, and what is gained by heeding it?

    python benchmarks/studies/drift.py WORK

`emoji-styles`: an adapter is made on `noto`; then each style's pictures come in, as they would at a server, and windows
of them are tested. Those of `openmoji-line` that raised an alarm are the unlabelled target of a second run, whose
accuracy on other pictures of that style (its `test`) is held against the first one's. Pictures that come in are those
of each style's `train`; `noto`'s own are halves of its `val` and `test`, held against a sketch of the other half.
Writes `drift.json` beside this file.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import injerto
from injerto.adapters.sketch import Sketch
from injerto.bank.bank import AdapterBank
from injerto.bank.questions import Question
from injerto.basics.files import write_text
from injerto.basics.progress import note
from injerto.compute.batches import BatchMaker
from injerto.compute.machine import machine
from injerto.serving.drift import Drifts

HERE = Path(__file__).parent
SEEDS = 3
HALVES = 50
FIT: dict[str, Any] = {"source": "noto", "tuning": "lora:last:2"}
BEFORE, DRIFTED = "styles", "openmoji-line"


def once(work: Path, seed: int) -> dict[str, Any]:
    """One seed: the alarms of each style, and the accuracy before and after."""
    shutil.rmtree(work, ignore_errors=True)
    first = injerto.fit("emoji-styles", **FIT, seed=seed, out=work / BEFORE)
    bank = AdapterBank.of(first.path)
    sides, rng = first.recorded_splits(), np.random.default_rng(seed)
    alarms = {}
    for name, domain in injerto.load_domains("emoji-styles").items():
        part = [domain.inputs[i] for i, content in enumerate(domain.contents) if sides[content] == "train"]
        if name == "noto":
            own = [x for x, content in zip(domain.inputs, domain.contents, strict=True) if sides[content] != "train"]
            alarms[name] = halves(first.embed(own), first.sketch.window // 2, rng)
            continue
        drifts = Drifts(work / "drifted" if name == DRIFTED else None)
        maker = BatchMaker(bank[BEFORE].preprocessing, "cpu")
        asked = [Question(maker.image(part[i]), BEFORE) for i in rng.permutation(len(part))]
        drifts.see(zip(asked, bank.answer(asked), strict=True))
        drifts.close()
        about = drifts.about(BEFORE, first.sketch)
        alarms[name] = {"windows": about["windows"], "alarms": about["alarms"], "window": about["window"]}
    live = f"live={work / 'drifted' / BEFORE}"
    second = injerto.fit("emoji-styles", **FIT, seed=seed, target=live, alignment="mmd", out=work / "live")
    test = [run.metrics["domains"][DRIFTED]["splits"]["test"]["accuracy"] for run in (first, second)]
    kept = len(list((work / "drifted" / BEFORE).iterdir()))
    return {"alarms": alarms, "kept": kept, "before": test[0], "after": test[1]}


def halves(rows: np.ndarray, size: int, rng: np.random.Generator) -> dict[str, int]:
    """Alarms of windows that nothing has changed for."""
    found = 0
    for _ in range(HALVES):
        order = rng.permutation(len(rows))
        found += Sketch.of(rows[order[size:]]).test(rows[order[:size]]).alarm()
    return {"windows": HALVES, "alarms": found, "window": size}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    given = parser.parse_args()
    seeds = []
    for seed in range(SEEDS):
        note(f"seed {seed}")
        seeds.append(once(given.work / f"drift-{seed}", seed))
    command = "python benchmarks/studies/drift.py WORK"
    write_text(
        HERE / "drift.json",
        json.dumps({"command": command, "machine": str(machine()), "seeds": seeds}, indent=1) + "\n",
    )
    print(json.dumps(seeds, indent=1))


if __name__ == "__main__":
    main()
