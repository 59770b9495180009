"""Peak memory of ours and of the peers: by how much a computation raises what its process holds.

    python benchmarks/memory.py

Each side of each row runs three times in a process of its own: everything is built, the peak set back, the computation
done. The same models, data and callables as in the rows of time, where both sides were seen to compute the same. Writes
`results/memory.json`.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import foundation
import lora
import losses
from measure import peak_of, row, save

import bank
import tuning
from injerto.basics.progress import set_quiet
from injerto.statistics.kernels import median_bandwidth
from injerto.statistics.mmd import mmd2

TIMES = 3
Run = Callable[[], Any]


def pictures(side: str, place: Path) -> Run:
    ours, eager = foundation.picture_runs()[:2]
    return ours if side == "ours" else eager


def texts(side: str, place: Path) -> Run:
    ours, plain = foundation.text_runs()[:2]
    return ours if side == "ours" else plain


def full_step(side: str, place: Path) -> Run:
    trainer = tuning.ready(place, tuning="full", **tuning.MINILM)
    return tuning.epoch(trainer, 8) if side == "ours" else tuning.trainer_epoch(trainer, place, 8)


def lora_steps(name: str, side: str, place: Path) -> Run:
    batches = lora.text_batches() if "minilm" in name else lora.image_batches()
    mine, _ = lora.ours(name, f"lora(r={lora.RANK})")
    backbone = mine if side == "ours" else lora.theirs(name, mine)[0]
    return lora.loop(backbone, batches, frozen=side == "ours" and "minilm" not in name)[0]


def mmd(n: int, side: str, place: Path) -> Run:
    x, y = losses.samples(n)
    sigma2 = median_bandwidth(x, y)
    ours = partial(mmd2, estimator="biased", bandwidth=sigma2)
    theirs = losses.of_matrix(losses.by_differences if n < 1000 else losses.by_cdist, sigma2)
    return partial(losses.step, ours if side == "ours" else theirs, x, y)


def mixed(side: str, place: Path) -> Run:
    paths = bank.adapters(place, 64)
    names = [f"a{i}" for i in range(64)]
    return (bank.our_mix if side == "ours" else bank.their_mix)(paths, names, "fp32")


def fit(kind: str, side: str, place: Path) -> Run:
    epochs = {"last:1": 6, "full": 2}[kind]
    mine = partial(tuning.fit_once, place, kind, epochs)
    return mine if side == "ours" else tuning.hand_pictures(mine(), kind, epochs)


CASES: dict[str, tuple[str, str, Callable[[str, Path], Run]]] = {
    "frozen embedding, 224 px": ("timm eager float32", "timm", pictures),
    "frozen embedding, MiniLM": ("transformers, batches as they come", "transformers", texts),
    "full steps, MiniLM": ("transformers.Trainer", "transformers", full_step),
    "LoRA steps, MiniLM": ("peft", "peft", partial(lora_steps, "packaged:minilm-l6")),
    "LoRA steps, Lite0": ("peft", "peft", partial(lora_steps, "packaged:efficientnet-lite0")),
    "MMD, forward and backward, n = 256": ("n x n x d differences", "", partial(mmd, 256)),
    "MMD, forward and backward, n = 2048": ("torch.cdist", "", partial(mmd, 2048)),
    "64 adapters in a batch of 64": ("PEFT adapter_names", "peft", mixed),
    "fit from files, Lite0 last:1": ("hand-tuned loop", "", partial(fit, "last:1")),
    "fit from files, Lite0 full": ("hand-tuned loop", "", partial(fit, "full")),
}


def main() -> None:
    if sys.argv[1:]:
        name, side = sys.argv[1:]
        with tuning.fresh_cache(), tempfile.TemporaryDirectory() as place:
            print(peak_of(CASES[name][2](side, Path(place))))
        return
    rows = []
    for name, (peer, package, _) in CASES.items():
        found: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(TIMES):
            for side, values in found.items():
                said = subprocess.run([sys.executable, __file__, name, side], capture_output=True, text=True)
                if said.returncode:
                    sys.exit(f"{name}, {side}: {said.stderr[-2000:]}")
                values.append(float(said.stdout.split()[-1]))
        number = version(package) if package else ""
        rows.append(row(f"peak memory: {name}", peer, number, found["ours"], found["theirs"], None, "MB", True))
        print(rows[-1], flush=True)
    save("memory.json", rows)


if __name__ == "__main__":
    set_quiet(True)
    main()
