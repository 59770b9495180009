"""The drift sketch that an adapter ships with."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from injerto.adapters.sketch import FEWEST, Sketch
from injerto.adapters.snapshot import SKETCH
from injerto.basics.errors import InjertoError
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
    rows, groups = list[np.ndarray](), list[str]()
    for name in prepared.targets or prepared.sources:
        for side in ("val", "test"):
            if (name, side) in measured:
                rows.append(measured[name, side])
                groups += prepared.part(name, side).groups
        val = prepared.part(name, "val")
        if (name, "val") not in measured and name in held_out and len(val):
            rows.append(held_out[name])
            groups += val.groups[: len(held_out[name])]
    if sum(map(len, rows)) < FEWEST or not all(np.isfinite(part).all() for part in rows):
        return
    with suppress(InjertoError):  # many rows of a few groups are too few
        Sketch.of(np.concatenate(rows), groups=groups).save(folder / SKETCH)
