"""The drift sketch that an adapter ships with."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from injerto.adapters.sketch import FEWEST, SKETCH, Sketch
from injerto.training.prepare import Prepared


def save_sketch(
    folder: Path,
    prepared: Prepared,
    measured: Mapping[tuple[str, str], np.ndarray],
    held_out: Mapping[str, np.ndarray],
) -> None:
    """Write what inputs look like to the finished model: those of the targets, where there are none of the sources.

    Taken are ``val`` and ``test``, as examples that a model was trained on look different to it; of too few there is
    no sketch.

    Args:
        folder: The adapter's folder.
        prepared: The run's data.
        measured: What the head sees of each measured split, by domain and split.
        held_out: The same of held-out examples, by domain.
    """
    rows = list[np.ndarray]()
    for name in prepared.targets or prepared.sources:
        rows += [measured[name, side] for side in ("val", "test") if (name, side) in measured]
        if (name, "val") not in measured and name in held_out and len(prepared.part(name, "val")):
            rows.append(held_out[name])
    if sum(map(len, rows)) >= FEWEST and all(np.isfinite(part).all() for part in rows):
        Sketch.of(np.concatenate(rows)).save(folder / SKETCH)
