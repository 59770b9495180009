"""What an alignment costs: a step with it against the same step without its term.

    python benchmarks/alignment.py

32 source and 32 target examples go through the network in both; the one adds the term, the other has the labelled loss
alone. Writes `results/alignment.json`; a ratio of 0.95 means that the aligned step takes 5 % longer.
"""

import tempfile
from pathlib import Path

from measure import interleave, row, save
from torch import nn

from tuning import LITE0, MINILM, epoch, ready

TERMS = ("mmd", "coral", "dann", "cdan-e", "mcc")
STEPS, PAIRS = 2, 5
CASES = {
    "Lite0 full, 64 px": (LITE0 | {"tuning": "full", "image_size": 64}, "openmoji-line"),
    "MiniLM full": (MINILM | {"tuning": "full"}, "tweets"),
    "MiniLM head with neck, cached": (MINILM | {"tuning": "head", "neck": "256"}, "tweets"),
}


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for name, (settings, target) in CASES.items():
            steps = 30 * STEPS if "cached" in name else STEPS
            settings = settings | {"batch_size": 32, "steps": 1000, "threads": 1, "target": target}
            plain = ready(Path(place), alignment="mmd", **settings)
            plain.objective.terms = nn.ModuleDict()
            for term in TERMS:
                aligned = ready(Path(place), alignment=term, **settings)
                ours, theirs = interleave(epoch(aligned, steps), epoch(plain, steps), PAIRS)
                rows.append(
                    row(
                        f"a step with {term}, {name}",
                        "the same step without it",
                        "",
                        ours,
                        theirs,
                        64 * steps,
                        "examples/s",
                        True,
                        limit=True,
                    )
                )
    save("alignment.json", rows)


if __name__ == "__main__":
    main()
