"""What an alignment costs: a step with it against a plain step on as many examples.

    python benchmarks/alignment.py

32 source and 32 target examples with a term, against 64 labelled source examples without one: as many go through the
network. Writes `results/alignment.json`; a ratio of 0.95 means that the aligned step takes 5 % longer.
"""

import tempfile
from pathlib import Path

from measure import interleave, row, save

from tuning import LITE0, MINILM, epoch, ready

TERMS = ("mmd", "coral", "lmmd", "dann", "cdan-e", "mcc", "mmd+mcc")
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
            plain = ready(Path(place), batch_size=64, steps=1000, threads=1, **settings)
            for term in TERMS:
                aligned = ready(
                    Path(place), batch_size=32, steps=1000, threads=1, target=target, alignment=term, **settings
                )
                ours, theirs = interleave(epoch(aligned, steps), epoch(plain, steps), PAIRS)
                rows.append(
                    row(f"a step with {term}, {name}", "a plain step", "", ours, theirs, 64 * steps, "examples/s", True)
                )
    save("alignment.json", rows)


if __name__ == "__main__":
    main()
