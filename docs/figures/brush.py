"""What all pictures share: colours, how a picture is registered, and the few shapes they are made of."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn

OUT = Path(__file__).parents[1] / "images" / "methods"
STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"
SOURCE, TARGET, THIRD = "#0072b2", "#d55e00", "#009e73"
INK, QUIET, FROZEN, MOVES, GRADIENT = "#222222", "#6b7280", "#e3e6ea", "#f2b632", "#a8326e"
MARKERS = ("o", "^", "s", "D")
WIDTH, HEIGHT = 640 / 96, 300 / 96  # inches of 96 px
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "injerto",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlepad": 5,
    "axes.labelsize": 8.5,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handletextpad": 0.4,
}
FIGURES: dict[str, Callable[[Figure], None]] = {}


def drawn(draw: Callable[[Figure], None]) -> Callable[[Figure], None]:
    """Make a picture known under its function's name."""
    FIGURES[draw.__name__.rstrip("_").replace("_", "-")] = draw
    return draw


def bare(axis: Any, title: str = "") -> None:
    """No ticks, a light frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title)
    for side in axis.spines.values():
        side.set_visible(True)
        side.set_color("#c9ced6")


def empty(axis: Any, width: float, height: float) -> None:
    """A sheet of so many units to draw on."""
    axis.axis("off")
    axis.set_xlim(-0.005 * width, width)
    axis.set_ylim(0, height)


def cloud(axis: Any, points: Any, colour: str, labels: Any = None, label: str | None = None, **more: Any) -> None:
    """Points of a domain, the marker saying the class."""
    points = np.asarray(points)
    labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    for one in np.unique(labels):
        own = points[labels == one]
        style = {"s": 20, "edgecolors": "white", "linewidths": 0.5} | more
        axis.scatter(own[:, 0], own[:, 1], c=colour, marker=MARKERS[one], label=label, **style)
        label = None


def same_view(axes: Sequence[Any], points: Sequence[Any], pad: float = 0.6) -> None:
    """All axes show the same square piece of the plane, which holds all points."""
    low, high = np.vstack(points).min(0) - pad, np.vstack(points).max(0) + pad
    for axis in axes:
        axis.set_xlim(low[0], high[0])
        axis.set_ylim(low[1], high[1])


def arrow(axis: Any, start: tuple[float, float], end: tuple[float, float], colour: str = INK, **more: Any) -> None:
    """An arrow in data coordinates."""
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 1.2, "shrinkA": 0, "shrinkB": 0} | more
    axis.add_patch(FancyArrowPatch(start, end, color=colour, **style))


def box(axis: Any, x: float, y: float, width: float, height: float, text: str, colour: str = FROZEN) -> None:
    """A box with rounded corners and text in its middle."""
    shape = f"round,pad=0,rounding_size={min(width, height) / 6}"
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, fc=colour, ec=QUIET, lw=0.8))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", linespacing=1.25)


def descend(loss: Callable[[Tensor], Tensor], start: Any, steps: int, rate: float) -> list[np.ndarray]:
    """Points after every gradient step, each of them free to move."""
    points = torch.tensor(np.asarray(start), dtype=torch.float32, requires_grad=True)
    path = [points.detach().numpy().copy()]
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(points), points)
        points = (points - rate * gradient).detach().requires_grad_()
        path.append(points.detach().numpy().copy())
    return path


def encode(loss: Callable[[Tensor], Tensor], start: Any, steps: int, rate: float = 0.03) -> list[np.ndarray]:
    """Points after every step of a small network that moves them all and learns by the loss."""
    points = torch.tensor(np.asarray(start), dtype=torch.float32)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
    nn.init.zeros_(network[2].weight)
    nn.init.zeros_(network[2].bias)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    path = [points.numpy()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss(points + network(points)).backward()
        optimizer.step()
        path.append((points + network(points)).detach().numpy())
    return path


# ---------------------------------------------------------------------------------------------------------- tunings
