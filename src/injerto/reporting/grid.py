"""A grid of right and wrong predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.files import atomic_path
from injerto.domains.images import read_image

RIGHT, WRONG = "#1a7f37", "#b3261e"


@dataclass(frozen=True)
class Shown:
    """One picture of the grid.

    Attributes:
        image: What :func:`injerto.domains.images.read_image` takes.
        truth: The true class.
        predicted: The predicted class.
        chance: The predicted class' probability.
    """

    image: Any
    truth: str
    predicted: str
    chance: float


def prediction_grid(path: Path, rows: Mapping[str, list[Shown]], title: str) -> None:
    """Draw one row of pictures per domain, each with its predicted class in words, right or wrong also by a sign.

    Args:
        path: The PNG to write.
        rows: Domain to its pictures, the same number each.
        title: What is shown.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = max(len(shown) for shown in rows.values())
    figure = Figure(figsize=(1.35 * width + 1.8, 1.75 * len(rows) + 0.7), dpi=110)
    FigureCanvasAgg(figure)
    axes = np.atleast_2d(np.asarray(figure.subplots(len(rows), width, squeeze=False)))
    for row, (domain, pictures) in zip(axes, rows.items(), strict=True):
        for axis in row:
            axis.axis("off")
        for axis, shown in zip(row, pictures, strict=False):
            right = shown.predicted == shown.truth
            axis.imshow(np.asarray(read_image(shown.image)))
            text = f"\u2713 {shown.predicted}" if right else f"\u2717 {shown.predicted}\n(is {shown.truth})"
            axis.set_title(
                f"{text} {100 * shown.chance:.0f} %" if right else text, fontsize=8, color=RIGHT if right else WRONG
            )
        row[0].text(-0.25, 0.5, domain, transform=row[0].transAxes, ha="right", va="center", fontsize=10, weight="bold")
    figure.suptitle(title, fontsize=11)
    figure.subplots_adjust(
        left=1.7 / (1.35 * width + 1.8), right=0.99, top=1 - 0.75 / (1.75 * len(rows) + 0.7), bottom=0.02, hspace=0.5
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
