"""Pictures of docs/methods. What they show is computed by the library's own functions, on toy data.

    python docs/figures             all of them, into docs/images/methods
    python docs/figures mmd coral   some of them

One colour per domain, one marker per class, white background, text as text. Equal runs write equal files.
"""

import re
import sys
from collections.abc import Sequence

import alignments  # noqa: F401  registers its pictures, as the next two do
import beside  # noqa: F401
import matplotlib
import torch
import tunings  # noqa: F401
from brush import FIGURES, HEIGHT, OUT, STYLE, WIDTH
from matplotlib.figure import Figure


def main(names: Sequence[str]) -> None:
    """Draw.

    Args:
        names: Of the pictures; all where there are none.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with matplotlib.rc_context(STYLE):
        for name in names or FIGURES:
            figure = Figure(figsize=(WIDTH, HEIGHT))
            FIGURES[name](figure)
            path = OUT / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
            text = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}", path.read_text())
            path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
