"""Learning rates of LoRA, chosen on source `val`: the figures behind the rows of `recipe/defaults.py`.

    python benchmarks/studies/rates.py WORK

Every finished run is kept in the folder WORK. Writes `rates.md` beside this file; no test split is looked at.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import injerto
from injerto.basics.files import write_text

HERE = Path(__file__).parent
GRIDS: dict[str, dict[str, Any]] = {
    "emoji-styles": {
        "common": {"source": ["noto"], "backbone": "packaged:efficientnet-lite0", "image_size": 96},
        "tuning": ("lora", "lora:last:2"),
        "lr": (5e-4, 1e-3, 3e-3),
        "head_lr": (3e-4,),
        "seeds": (0, 1, 2),
    },
    "sentiment-domains": {
        "common": {
            "source": ["movies", "news", "products", "tweets"],
            "backbone": "packaged:minilm-l6",
            "shots": 200,
        },
        "tuning": ("lora",),
        "lr": (5e-4, 1e-3, 2e-3),
        "head_lr": (1e-3,),
        "seeds": (0,),
    },
}


def main() -> None:
    """Run what is not there yet, and write the table."""
    work = Path(sys.argv[1])
    only = sys.argv[2:] or list(GRIDS)
    for data in only:
        grid = GRIDS[data]
        for seed, tuning, lr, head_lr in itertools.product(grid["seeds"], grid["tuning"], grid["lr"], grid["head_lr"]):
            path = work / f"{data}_{tuning.replace(':', '-')}_{lr:g}_{head_lr:g}_{seed}.json"
            if path.exists():
                continue
            with tempfile.TemporaryDirectory() as place:
                settings = grid["common"] | {"tuning": tuning, "lr": lr, "head_lr": head_lr, "seed": seed}
                run = injerto.fit(data, out=Path(place) / "run", **settings)
                score = run.metrics["selection"]
                names = [name for name, entry in run.metrics["domains"].items() if entry["role"] == "source"]
                nll = [run.metrics["domains"][name]["splits"]["val"]["nll"] for name in names]
                write_text(path, json.dumps({"val": score["score"], "nll": float(np.mean(nll))}))
    lines = [
        "| data | tuning | lr | head_lr | val accuracy | val NLL | seeds |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for data, grid in GRIDS.items():
        for tuning, lr, head_lr in itertools.product(grid["tuning"], grid["lr"], grid["head_lr"]):
            found = [
                json.loads(path.read_text())
                for path in sorted(work.glob(f"{data}_{tuning.replace(':', '-')}_{lr:g}_{head_lr:g}_*.json"))
            ]
            if found:
                accuracy, nll = (float(np.mean([one[key] for one in found])) for key in ("val", "nll"))
                lines.append(
                    f"| {data} | {tuning} | {lr:g} | {head_lr:g} | {100 * accuracy:.1f} % | {nll:.3f} | {len(found)} |"
                )
    write_text(HERE / "rates.md", "\n".join([*lines, "", "`python benchmarks/studies/rates.py WORK`", ""]))


if __name__ == "__main__":
    main()
