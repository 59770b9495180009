"""Pictures of docs/methods. What they show is computed by the library's own functions, on toy data.

    python docs/figures.py             all of them, into docs/images/methods
    python docs/figures.py mmd coral   some of them

One colour per domain, one marker per class, white background, text as text. Equal runs write equal files.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor, nn
from torch.nn import functional

from injerto.alignment.adversarial import Discriminator
from injerto.alignment.base import Setting, StepOutputs, make_alignment
from injerto.alignment.schedule import ramp, reverse_gradient
from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.recipe.grammar import parse_alignment, parse_tuning
from injerto.statistics.covariance import coral as coral_loss
from injerto.statistics.covariance import covariance
from injerto.statistics.kernels import gaussian, median_bandwidth, squared_distances
from injerto.statistics.mmd import class_mmd2, mmd2
from injerto.tasks.heads import solve_probe
from injerto.training.averages import Swad
from injerto.training.mixing import MIXUP_ALPHA, mix_styles
from injerto.training.robust import make_objective
from injerto.tuning.base import Tuned, apply_tuning
from injerto.tuning.lora.linear import LowRankLinear

OUT = Path(__file__).parent / "images" / "methods"
STUDIES = Path(__file__).parents[1] / "benchmarks" / "studies"
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


def decided(setting: str, decay: float = 1.0) -> tuple[Backbone, Tuned]:
    """EfficientNet-Lite0 and what a tuning decides for it."""
    backbone = load_backbone("packaged:efficientnet-lite0", image_size=64)
    return backbone, apply_tuning(backbone, parse_tuning(setting), decay)


def share(backbone: Backbone, tuned: Tuned) -> float:
    """The share of the backbone's weights that learn, in percent."""
    sizes = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    return 100 * sum(sizes[name] for name in tuned.rates) / sum(sizes.values())


def row(axis: Any, setting: str, y: float, x: float = 0.0, height: float = 0.7, head: bool = True) -> float:
    """Stages as boxes: grey is frozen, yellow moves; a stripe is a low-rank pair. Returns the share that learns."""
    backbone, tuned = decided(setting)
    thaws = dict(reversed([(stage, t) for t, frozen in tuned.thaws for stage in range(frozen, len(backbone.stages))]))
    pairs = setting.startswith("lora")
    moving = {backbone.stage_of(name) for name in tuned.rates}
    for stage in range(len(backbone.stages)):
        moves = stage in moving and not pairs
        axis.add_patch(Rectangle((x + stage, y), 0.9, height, fc=MOVES if moves else FROZEN, ec=QUIET, lw=0.8))
        if pairs and stage in moving:
            axis.add_patch(Rectangle((x + stage + 0.66, y), 0.24, height, fc=MOVES, ec=QUIET, lw=0.8))
        text = f"{100 * thaws[stage]:.0f} %" if tuned.thaws else str(stage)
        centre = x + stage + (0.33 if pairs and stage in moving else 0.45)
        axis.text(centre, y + height / 2, text, ha="center", va="center", fontsize=8)
    if head:
        left = x + len(backbone.stages) + 0.1
        axis.add_patch(Rectangle((left, y), 1.1, height, fc=MOVES, ec=QUIET, lw=0.8))
        text = "probe" if tuned.probe_first else "head"
        axis.text(left + 0.55, y + height / 2, text, ha="center", va="center", fontsize=8)
    return share(backbone, tuned)


@drawn
def tunings(figure: Figure) -> None:
    """Every tuning as a row of stages."""
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    names = ("head", "last:2", "gradual", "lp-ft", "full", "lora", "lora:last:2")
    empty(axis, 14.2, len(names) + 0.95)
    for index, name in enumerate(names):
        y = len(names) - 1 - index + 0.1
        part = row(axis, name, y, x=2.3)
        axis.text(2.1, y + 0.35, name, ha="right", va="center", family="monospace", fontsize=9)
        axis.text(11.85, y + 0.35, f"{part:.0f} %", va="center")
    top = len(names) + 0.55
    axis.text(2.3, top, "input side: stage 0", va="center", color=QUIET)
    axis.text(10.2, top, "stage 7", va="center", ha="right", color=QUIET)
    axis.text(11.85, top, "learns, of the\nbackbone", va="center", color=QUIET, linespacing=1.1)


@drawn
def head(figure: Figure) -> None:
    """Embeddings computed once, and the probe that divides them."""
    axis = figure.add_axes((0.01, 0.05, 0.6, 0.85))
    empty(axis, 10, 6)
    axis.text(0, 5.6, "frozen: each example goes through once", color=QUIET)
    row(axis, "head", 4.2, height=0.9, head=False)
    arrow(axis, (4, 4.1), (4, 3.15))
    box(axis, 1.4, 2.2, 5.2, 0.9, "its embedding, kept on disk", "#ffffff")
    arrow(axis, (4, 2.1), (4, 1.2))
    box(axis, 2.6, 0.2, 2.8, 0.95, "head", MOVES)
    axis.text(6.0, 0.67, "all epochs\nhappen here", va="center", color=QUIET)
    plane = figure.add_axes((0.64, 0.08, 0.34, 0.8))
    rng = np.random.default_rng(1)
    centres = np.array([[-1.2, 0.9], [1.2, 1.0], [0.1, -1.2]])
    labels = np.repeat([0, 1, 2], 16)
    points = centres[labels] + 0.5 * rng.standard_normal((48, 2))
    weight, bias, _ = solve_probe(points, labels, None)
    grid = np.stack(np.meshgrid(np.linspace(-3, 3, 160), np.linspace(-3, 3, 160)), -1)
    plane.contour(*grid.transpose(2, 0, 1), (grid @ weight.T + bias).argmax(-1), levels=[0.5, 1.5], colors=MOVES)
    cloud(plane, points, SOURCE, labels)
    bare(plane, "the probe divides the embeddings")
    same_view([plane], [points])


@drawn
def last(figure: Figure) -> None:
    """What is frozen, kept and trained."""
    axis = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    empty(axis, 9.6, 5)
    row(axis, "last:2", 2.3, height=0.9)
    axis.text(2.95, 3.95, "first time: through every stage", ha="center", color=QUIET)
    arrow(axis, (0, 3.6), (5.9, 3.6), QUIET)
    axis.text(7.6, 3.95, "every epoch", ha="center")
    arrow(axis, (6, 3.6), (9.2, 3.6))
    box(axis, 3.6, 0.45, 2.6, 0.9, "cache: what stage 5 gave\nfor each example", "#ffffff")
    arrow(axis, (5.45, 2.2), (5.1, 1.42), QUIET)
    arrow(axis, (5.7, 1.42), (6.1, 2.2))
    arrow(axis, (9.2, 1.95), (6.5, 1.95), GRADIENT)
    axis.text(7.9, 1.5, "gradient: no further back\nthan stage 6", ha="center", va="top", color=GRADIENT)
    axis.text(0, 1.95, "frozen: always gives the same", color=QUIET, va="top")
    axis.text(0, 4.75, "last:2 on EfficientNet-Lite0, stages 0 to 7", fontsize=9, va="center")


@drawn
def gradual(figure: Figure) -> None:
    """Which stages move when."""
    axis = figure.add_axes((0.12, 0.16, 0.84, 0.7))
    backbone, tuned = decided("gradual")
    count = len(backbone.stages)
    for span in tuned.spans(100):
        for stage in range(count + 1):
            moves = stage >= span.frozen
            size = (span.stop - span.first - 0.6, 0.84)
            axis.add_patch(Rectangle((span.first + 0.3, stage - 0.42), *size, fc=MOVES if moves else FROZEN))
    axis.set_xlim(0, 100)
    axis.set_ylim(-0.6, count + 0.6)
    axis.set_xticks([0, 20, 40, 60, 80, 100], [f"{t} %" for t in (0, 20, 40, 60, 80, 100)])
    axis.set_yticks(range(count + 1), [*(f"stage {stage}" for stage in range(count)), "head"])
    axis.set_xlabel("steps of the run that are done")
    axis.set_title("yellow moves, grey is frozen (EfficientNet-Lite0)")
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)


@drawn
def lp_ft(figure: Figure) -> None:
    """Two phases, and how much of the embedding is left, from the committed results."""
    axis = figure.add_axes((0.01, 0.03, 0.53, 0.9))
    empty(axis, 9.6, 5.4)
    axis.text(0, 5.0, "first: the probe is solved on frozen embeddings", va="center")
    row(axis, "head", 3.6, height=0.9)
    arrow(axis, (8.65, 3.5), (8.65, 2.0))
    axis.text(8.4, 2.75, "is the head to start from", ha="right", va="center", color=QUIET)
    row(axis, "lp-ft", 1.0, height=0.9)
    axis.text(0, 0.4, "then: everything moves", va="center")
    plot = figure.add_axes((0.63, 0.16, 0.35, 0.66))
    names = {"emoji": "drawings", "pacs": "photos", "sentiment": "texts"}
    for tuning, offset, colour in (("full", -0.2, FROZEN), ("lp-ft", 0.2, MOVES)):
        found = [json.loads((STUDIES / f"fewshot-{name}.json").read_text()) for name in names]
        kept = [study["shots"]["all"]["rows"][tuning]["cka"] for study in found]
        plot.bar(np.arange(3) + offset, kept, 0.38, color=colour, edgecolor=QUIET, linewidth=0.8, label=tuning)
    plot.set_xticks(range(3), names.values(), fontsize=8.5, color=INK)
    plot.tick_params(axis="x", length=0)
    plot.set_ylim(0, 1.3)
    plot.set_yticks([0, 0.5, 1])
    plot.legend(loc="upper right", ncols=2, borderaxespad=0, columnspacing=1)
    plot.set_title("how like the pretrained embedding\nthe tuned one still is (CKA, measured)", loc="right")


@drawn
def full(figure: Figure) -> None:
    """Rates by stage."""
    axis = figure.add_axes((0.11, 0.72, 0.87, 0.16))
    empty(axis, 9.4, 1)
    row(axis, "full", 0.05, height=0.9)
    axis.set_title("full: every stage moves", loc="left")
    bars = figure.add_axes((0.11, 0.14, 0.87, 0.48))
    for decay, offset, colour in ((1.0, 0.2, FROZEN), (0.7, 0.68, MOVES)):
        backbone, tuned = decided("full", decay)
        rates = [max(r for n, r in tuned.rates.items() if backbone.stage_of(n) == i) for i in range(8)]
        name = f"--layer-decay {decay:g}" + (" (default)" if decay == 1 else "")
        bars.bar(np.arange(8) + offset, rates, 0.42, color=colour, edgecolor=QUIET, linewidth=0.8, label=name)
    bars.set_xlim(0, 9.4)
    bars.set_xticks(np.arange(8) + 0.45, range(8))
    bars.text(8.65, 0.1, "head:\n--head-lr", ha="center", color=QUIET)
    bars.set_xlabel("stage")
    bars.set_ylabel("times --lr")
    bars.legend(loc="upper right", ncols=1, bbox_to_anchor=(1.0, 1.05), borderaxespad=0)
    bars.set_ylim(0, 1.25)
    bars.tick_params(axis="x", length=0)


@drawn
def lora(figure: Figure) -> None:
    """W, B and A to scale."""
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    empty(axis, 640, 300)
    wide, rank = 384, 8
    layer = nn.Linear(wide, wide)
    a, b = LowRankLinear.shapes(layer, rank)
    scale = 192 / wide
    top = 250

    def sheet(x: float, shape: tuple[int, ...], name: str, colour: str) -> None:
        height, width = shape[0] * scale, shape[1] * scale
        axis.add_patch(Rectangle((x, top - height), width, height, fc=colour, ec=QUIET, lw=0.8))
        axis.text(x + width / 2, top + 10, f"{name}\n{shape[0]} x {shape[1]}", ha="center", va="bottom")

    sheet(30, (wide, wide), "W, frozen", FROZEN)
    axis.text(255, top - 96, "+", fontsize=18, ha="center", va="center")
    axis.text(310, top - 96, "alpha / r  x", ha="center", va="center", fontsize=10)
    sheet(380, b, "B", MOVES)
    sheet(420, a, "A", MOVES)
    few, many = int(np.prod(a) + np.prod(b)), wide * wide
    axis.text(420, 160, f"{few:,} numbers learn", fontsize=10)
    axis.text(420, 140, f"beside {many:,} that stay:", fontsize=10)
    axis.text(420, 120, f"{100 * few / many:.1f} %", fontsize=10)
    axis.text(420, 85, "B starts at zero: the first step\nstarts from the pretrained model", color=QUIET, va="top")
    axis.text(30, 30, "to scale: a query layer of MiniLM, r = 8", color=QUIET)


# ------------------------------------------------------------------------------------------------------- alignments


def _two_clouds(seed: int = 0, count: int = 45) -> tuple[np.ndarray, np.ndarray]:
    """A source, and a target elsewhere and of another shape."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 2)) * [0.9, 0.9]
    y = rng.standard_normal((count, 2)) @ np.array([[0.9, 0.5], [0.0, 0.35]]) + [2.3, 1.1]
    return x, y


def _trails(axis: Any, path: list[np.ndarray], every: int = 1) -> None:
    for one in range(0, len(path[0]), every):
        line = np.stack([step[one] for step in path[:: max(1, len(path) // 10)]])
        axis.plot(*line.T, color=TARGET, alpha=0.25, lw=0.7, zorder=0)


@drawn
def mmd(figure: Figure) -> None:
    """The witness function, and clouds before and after."""
    axes = [figure.add_axes((x, 0.1, 0.3, 0.74)) for x in (0.02, 0.35, 0.68)]
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.normal(m, s, (300, 1)), dtype=torch.float32) for m, s in ((-0.7, 0.7), (0.9, 0.5)))
    line = torch.linspace(-3, 3, 121)[:, None]
    sigma2 = median_bandwidth(x, y)
    witness = [gaussian(squared_distances(line, one), sigma2).mean(1) for one in (x, y)]
    for one, colour in ((x, SOURCE), (y, TARGET)):
        axes[0].hist(one[:, 0].numpy(), bins=18, density=True, color=colour, alpha=0.35)
    axes[0].plot(line[:, 0], 1.2 * (witness[0] - witness[1]), color=INK, lw=1.5)
    axes[0].axhline(0, color=QUIET, lw=0.6)
    axes[0].text(-2.9, 0.62, "witness", fontsize=8.5)
    bare(axes[0], "where one is more often\nthan the other")
    x2, y2 = _two_clouds()
    fixed = torch.tensor(x2, dtype=torch.float32)
    path = encode(lambda points: mmd2(fixed, points), y2, 120)
    for axis, points, name in ((axes[1], path[0], "before"), (axes[2], path[-1], "after 120 steps of mmd")):
        cloud(axis, x2, SOURCE, label="source")
        cloud(axis, points, TARGET, label="target")
        value = float(mmd2(fixed, torch.tensor(points)))
        bare(axis, f"{name}\nMMD² = {value:.2f}".replace("-0.00", "0.00"))
    _trails(axes[2], path)
    same_view(axes[1:], [x2, y2])
    axes[1].legend(loc="lower right", borderaxespad=0.2)


@drawn
def lmmd(figure: Figure) -> None:
    """Clouds of two classes: before, after MMD, after local MMD."""
    axes = [figure.add_axes((x, 0.06, 0.3, 0.78)) for x in (0.02, 0.35, 0.68)]
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], 22)
    x = np.array([[-1.3, 0.0], [1.3, 0.0]])[labels] + 0.4 * rng.standard_normal((44, 2))
    y = np.array([[0.9, 1.7], [-0.5, 3.0]])[labels] + 0.4 * rng.standard_normal((44, 2))
    fixed = torch.tensor(x, dtype=torch.float32)
    known = functional.one_hot(torch.tensor(labels), 2).float()
    guess = 0.75 * known + 0.25 * (1 - known)
    whole = encode(lambda points: mmd2(fixed, points), y, 150)
    parts = encode(lambda points: class_mmd2(fixed, points, known, guess), y, 150)
    titles = ("before", "mmd: the whole clouds", "lmmd: class by class")
    for axis, points, title in zip(axes, (y, whole[-1], parts[-1]), titles, strict=True):
        cloud(axis, x, SOURCE, labels, label="source")
        cloud(axis, points, TARGET, labels, label="target")
        bare(axis, title)
    _trails(axes[1], whole, 2)
    _trails(axes[2], parts, 2)
    same_view(axes, [x, y])
    axes[0].legend(loc="upper right", borderaxespad=0.2)


@drawn
def coral(figure: Figure) -> None:
    """Clouds and their covariances: before and after, without and with the means."""
    axes = [figure.add_axes((x, 0.06, 0.3, 0.78)) for x in (0.02, 0.35, 0.68)]
    x, y = _two_clouds(2)
    fixed = torch.tensor(x, dtype=torch.float32)
    plain = encode(lambda points: coral_loss(fixed, points), y, 200)
    both = encode(lambda points: coral_loss(fixed, points, mean=True), y, 200)
    titles = ("before", "coral: the same spread", "coral(mean=true)")
    for axis, points, title in zip(axes, (y, plain[-1], both[-1]), titles, strict=True):
        for one, colour, name in ((x, SOURCE, "source"), (points, TARGET, "target")):
            cloud(axis, one, colour, label=name, alpha=0.55)
            values, vectors = np.linalg.eigh(covariance(torch.tensor(one)).numpy())
            angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
            size = 4 * np.sqrt(values[::-1])
            axis.add_patch(Ellipse(one.mean(0), *size, angle=angle, fill=False, ec=colour, lw=1.8))
        bare(axis, title)
    same_view(axes, [x, y, plain[-1]], 0.3)
    axes[0].legend(loc="lower right", borderaxespad=0.2)


@drawn
def dann(figure: Figure) -> None:
    """The way of the gradient, and where it pushes the points."""
    axis = figure.add_axes((0.01, 0.02, 0.6, 0.96))
    empty(axis, 10, 7.6)
    box(axis, 0.1, 4.3, 1.5, 1.0, "inputs")
    box(axis, 2.3, 4.3, 2.1, 1.0, "backbone", MOVES)
    box(axis, 5.1, 4.3, 0.9, 1.0, "z", "#ffffff")
    box(axis, 6.9, 5.9, 1.6, 1.0, "head", MOVES)
    box(axis, 6.9, 2.7, 1.6, 1.0, "D", MOVES)
    axis.text(8.8, 6.4, "class", va="center")
    axis.text(8.8, 3.2, "domain", va="center")
    arrow(axis, (1.65, 4.8), (2.25, 4.8))
    arrow(axis, (4.45, 4.8), (5.05, 4.8))
    arrow(axis, (6.05, 5.1), (6.85, 6.3))
    arrow(axis, (6.05, 4.5), (6.85, 3.3))
    arrow(axis, (7.25, 5.85), (7.25, 3.75), QUIET, linestyle=(0, (3, 2)))
    axis.text(7.45, 4.8, "cdan: guess q\ncdann: class y", va="center", ha="left", color=QUIET)
    path = {"connectionstyle": "arc3,rad=-0.28", "lw": 1.6}
    arrow(axis, (7.7, 2.6), (3.4, 4.2), GRADIENT, **path)
    axis.text(4.6, 1.55, "gradient of the domain loss,\ntimes -weight · lambda(p) on its way back", ha="center",
              va="top", color=GRADIENT)  # fmt: skip
    plane = figure.add_axes((0.65, 0.07, 0.33, 0.77))
    x, y = _two_clouds(5, 32)
    x, y = x * 0.8, y * [0.9, 1.0] - [0.4, 0.1]
    points = torch.tensor(np.vstack([x, y]), dtype=torch.float32)
    domain = torch.tensor([0] * len(x) + [1] * len(y))
    torch.manual_seed(0)
    network = Discriminator(2, 2, 24)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(network(points), domain).backward()
        optimizer.step()
    moved = points.clone().requires_grad_()
    functional.cross_entropy(network(reverse_gradient(moved, 1.0)), domain, reduction="sum").backward()
    assert moved.grad is not None
    step = -moved.grad.numpy()
    low, high = points.numpy().min(0) - 0.6, points.numpy().max(0) + 0.6
    grid = np.stack(np.meshgrid(np.linspace(low[0], high[0], 80), np.linspace(low[1], high[1], 80)), -1)
    with torch.no_grad():
        chance = network(torch.tensor(grid, dtype=torch.float32)).softmax(-1)[..., 1].numpy()
    plane.contour(*grid.transpose(2, 0, 1), chance, levels=[0.5], colors=INK, linewidths=1.5)
    cloud(plane, x, SOURCE, label="source")
    cloud(plane, y, TARGET, label="target")
    plane.quiver(*points.numpy().T, *step.T, color=GRADIENT, angles="xy", scale_units="xy", scale=1.8, width=0.008)
    bare(plane, "black: D's border; arrows:\nwhere the encoder is pushed")
    same_view([plane], [points.numpy()])
    plane.legend(loc="lower right", borderaxespad=0.2)


def _outputs(embedding: Tensor, logits: Tensor, labels: Tensor, domain: Tensor) -> StepOutputs:
    return StepOutputs(embedding, logits, labels, domain, ("source", "target"), torch.zeros(len(domain)).long())


@drawn
def mcc(figure: Figure) -> None:
    """How often classes are guessed together: before and after."""
    axes = [figure.add_axes((x, 0.1, 0.29, 0.62)) for x in (0.1, 0.58)]
    (term,) = parse_alignment("mcc")
    alignment: Any = make_alignment(term, Setting(2, 4, ("source", "target")))
    generator = torch.Generator().manual_seed(1)
    truth = torch.arange(40) % 4
    pull = torch.tensor([[3.2, 1.8, 0, 0], [1.8, 3.2, 0, 0], [0, 0, 3.4, 1.2], [0, 0.5, 1.2, 3.4]])
    logits = 1.1 * pull[truth] + 0.9 * torch.randn(40, 4, generator=generator)
    none = torch.full((40,), -1)

    def loss(values: Tensor) -> Tensor:
        return alignment.loss(_outputs(values, values, none, torch.ones(40).long()), 1.0)

    path = descend(loss, logits, 200, 8.0)
    names = ("animal", "food", "building", "object")
    for axis, values, title in ((axes[0], path[0], "before"), (axes[1], path[-1], "after 200 steps of mcc")):
        guess = (torch.tensor(values) / alignment.temperature).softmax(1)
        weight = 1 + torch.exp((guess * guess.log()).sum(1))
        table = guess.T @ (weight[:, None] * guess)
        table = (table / table.sum(1, keepdim=True)).numpy()
        axis.imshow(table, cmap="Blues", vmin=0, vmax=1)
        for i in range(4):
            for j in range(4):
                axis.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", fontsize=8,
                          color="white" if table[i, j] > 0.55 else INK)  # fmt: skip
        axis.set_xticks(range(4), names, rotation=0, fontsize=7)
        axis.set_yticks(range(4), names)
        axis.tick_params(length=0, colors=INK)
        for side in axis.spines.values():
            side.set_visible(False)
        axis.set_title(f"{title}\nloss {float(loss(torch.tensor(values))):.2f}", pad=8)


@drawn
def self_training(figure: Figure) -> None:
    """Two views of an example, and which guesses are sure enough."""
    axis = figure.add_axes((0.01, 0.02, 0.52, 0.96))
    empty(axis, 10, 8)
    box(axis, 0.2, 5.6, 2.4, 1.2, "plain view", "#ffffff")
    box(axis, 0.2, 1.8, 2.4, 1.2, "strong view", "#ffffff")
    for y in (6.2, 2.4):
        arrow(axis, (2.7, y), (3.5, y))
        box(axis, 3.6, y - 0.6, 2.0, 1.2, "model", MOVES)
        arrow(axis, (5.7, y), (6.5, y))
    box(axis, 6.6, 5.6, 2.9, 1.2, "guess q'", "#ffffff")
    box(axis, 6.6, 1.8, 2.9, 1.2, "cross-entropy", "#ffffff")
    arrow(axis, (8.05, 5.5), (8.05, 3.1), INK)
    axis.text(7.75, 4.3, "is the label,\nif it is sure enough", ha="right", va="center")
    axis.text(0.2, 7.4, "one target example, twice", color=QUIET)
    axis.text(0.2, 0.9, "no gradient through the guess", color=QUIET)
    plot = figure.add_axes((0.62, 0.17, 0.36, 0.68))
    rng = np.random.default_rng(3)
    known = torch.tensor(rng.standard_normal((60, 3)) + 3.0 * np.eye(3)[np.arange(60) % 3]).softmax(1)
    guess = torch.tensor(rng.standard_normal((60, 3)) + 1.9 * np.eye(3)[np.arange(60) % 3]).softmax(1)
    guess = guess * known.mean(0) / guess.mean(0)
    sure = np.sort((guess / guess.sum(1, keepdim=True)).max(1).values.numpy())[::-1]
    threshold = 0.9 * float(known.max(1).values.mean())
    places = np.arange(60)
    for keep, colour in ((sure >= threshold, TARGET), (sure < threshold, "#f3c9ad")):
        plot.bar(places[keep], sure[keep], 0.8, color=colour)
    plot.axhline(threshold, color=INK, lw=1.2)
    plot.text(59, threshold + 0.02, "t", ha="right", fontsize=9)
    plot.set_ylim(0, 1.08)
    plot.set_xticks([])
    plot.set_xlabel("target examples, surest first")
    plot.set_title("how sure the guesses are; those above\nt = 0.9 x mean on the source count", loc="right")


@drawn
def supcon(figure: Figure) -> None:
    """Embeddings on the circle: before and after."""
    axes = [figure.add_axes((x, 0.05, 0.36, 0.8)) for x in (0.06, 0.48)]
    (term,) = parse_alignment("supcon")
    alignment: Any = make_alignment(term, Setting(2, 3, ("source", "target")))
    rng = np.random.default_rng(8)
    labels, domain = np.arange(36) % 3, np.arange(36) // 18
    angle = 2.1 * labels + 0.9 * domain + 0.75 * rng.standard_normal(36)
    start = np.stack([np.cos(angle), np.sin(angle)], 1)
    fixed = torch.tensor(labels), torch.tensor(domain)

    def loss(points: Tensor) -> Tensor:
        return alignment.loss(_outputs(points, points @ torch.ones(2, 3), *fixed), 1.0)

    end = descend(loss, start, 200, 0.2)[-1]
    end = end / np.linalg.norm(end, axis=1, keepdims=True)
    for axis, points, title in ((axes[0], start, "before"), (axes[1], end, "after 200 steps of supcon")):
        axis.add_patch(Ellipse((0, 0), 2, 2, fill=False, ec="#c9ced6"))
        for index, colour in enumerate((SOURCE, TARGET)):
            own = domain == index
            radius = 1 + 0.07 * (2 * index - 1)
            cloud(axis, radius * points[own], colour, labels[own], label=f"domain {index + 1}", s=26)
        bare(axis, title)
        axis.set_aspect("equal")
        axis.set_xlim(-1.3, 1.3)
        axis.set_ylim(-1.3, 1.3)
    figure.text(0.9, 0.5, "marker:\nclass", color=QUIET, va="center")
    axes[0].legend(loc="center", borderaxespad=0.2)


# ------------------------------------------------------------------------------------- objectives, and what is beside


def _objective(text: str, losses: Tensor, objective: Any = None) -> float:
    """The objective of sources with one example of this loss each."""
    rows = torch.arange(len(losses))
    found = (objective or make_objective(text, len(losses)))(
        losses, torch.zeros(len(losses), 2), rows * 0, rows, rows >= 0, 1.0
    )
    return float(found)


@drawn
def objectives(figure: Figure) -> None:
    """What each objective looks at."""
    axes = [figure.add_axes((x, 0.17, 0.25, 0.64)) for x in (0.06, 0.395, 0.73)]
    colours = (SOURCE, TARGET, THIRD)
    dro, weights = make_objective("group-dro", 3), []
    losses = torch.tensor([0.3, 0.6, 1.3])
    for _ in range(40):
        _objective("", losses, dro)
        weights.append(dro.weights.numpy().copy())
    for index, colour in enumerate(colours):
        axes[0].plot(np.stack(weights)[:, index], color=colour)
        axes[0].lines[-1].set_label(f"loss {losses[index]:.1f}")
    axes[0].legend(loc="upper left", borderaxespad=0, handlelength=1.2, labelspacing=0.3)
    axes[0].set_ylim(0, 1.25)
    axes[0].set_xlabel("steps")
    axes[0].set_title("group-dro: the worst\nsource weighs most")

    theta = torch.linspace(-0.9, 3.1, 161)
    each = torch.stack([0.25 + 0.5 * (theta - 0.1) ** 2, 0.35 + 0.22 * (theta - 2.3) ** 2])
    curves = {"erm": [], "vrex": []}
    for column in each.T:
        for name, values in curves.items():
            values.append(_objective(name if name == "erm" else "vrex(anneal=0)", column))
    for curve, colour in zip(each, colours, strict=False):
        axes[1].plot(theta, curve, color=colour)
    for name, side, gap in (("erm", "right", -0.1), ("vrex", "left", 0.1)):
        best = float(theta[int(np.argmin(curves[name]))])
        axes[1].axvline(best, color=INK, lw=1, ls=":" if name == "erm" else "-")
        axes[1].text(best + gap, 1.85, name, fontsize=8.5, ha=side)
    axes[1].set_ylim(0, 2)
    axes[1].set_xticks([])
    axes[1].set_xlabel("a weight of the model")
    axes[1].set_title("vrex: where the sources'\nlosses are alike")

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    scales = torch.linspace(0.2, 2.2, 61)
    for colour, strength, noise in ((SOURCE, 1.1, 0.5), (TARGET, 1.1, 1.7)):
        logits = strength * functional.one_hot(labels, 2) + noise * torch.randn(80, 2, generator=generator)
        curve = [float(functional.cross_entropy(logits * s, labels)) for s in scales]
        one = torch.ones((), requires_grad=True)
        here = functional.cross_entropy(logits * one, labels)
        (slope,) = torch.autograd.grad(here, one)
        axes[2].plot(scales, curve, color=colour)
        ends = torch.tensor([0.6, 1.4])
        axes[2].plot(ends, here.item() + slope.item() * (ends - 1), color=INK, lw=2)
    axes[2].axvline(1, color=QUIET, lw=0.7, ls=":")
    axes[2].set_xticks([1])
    axes[2].set_yticks([])
    axes[2].set_xlabel("scale s on the logits")
    axes[2].set_title("irm: no slope at s = 1\nfor any source")
    for axis in axes[:2]:
        axis.set_yticks([])
    axes[0].set_ylabel("weight of a source")
    axes[1].set_ylabel("loss of a source")


@drawn
def beside(figure: Figure) -> None:
    """Statistics, mixtures and averages."""
    figure.set_size_inches(WIDTH, 430 / 96)
    places = [(x, y, 0.4, 0.32) for y in (0.6, 0.1) for x in (0.07, 0.57)]
    norm, mixup, style, swad = (figure.add_axes(place) for place in places)
    rng = np.random.default_rng(0)
    line = np.linspace(-4, 7, 200)

    def bell(mean: float, deviation: float) -> np.ndarray:
        return np.exp(-0.5 * ((line - mean) / deviation) ** 2) / deviation

    norm.fill_between(line, bell(0, 1), color=SOURCE, alpha=0.3)
    norm.plot(line, bell(2.6, 1.5), color=TARGET, ls="--")
    norm.plot(line, bell(0.1, 1.02), color=TARGET)
    norm.text(2.9, 0.75, "target, by the\nsource's statistics", color=TARGET)
    norm.text(-0.2, 1.04, "target, by its own", color=TARGET, ha="left")
    norm.text(-3.9, 0.6, "source", color=SOURCE)
    norm.set_ylim(0, 1.2)
    norm.set_xlabel("what a BatchNorm gives")
    norm.set_title("--norm recalibrate:target")

    shares = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA, 4000)
    mixup.hist(shares, bins=25, color=MOVES, edgecolor="white", linewidth=0.4)
    mixup.set_xticks([0, 0.5, 1], ["0", "1/2", "1"])
    mixup.set_xlabel("share of the one; the rest is the other")
    mixup.set_title("mixup: of two examples")

    torch.manual_seed(1)
    domain = torch.arange(24) // 12
    level = torch.where(domain == 0, 0.0, 2.0)[:, None, None, None]
    wide = torch.where(domain == 0, 0.6, 1.6)[:, None, None, None] * (1 + 0.15 * torch.randn(24, 1, 1, 1))
    maps = level + 0.25 * torch.randn(24, 1, 1, 1) + wide * torch.randn(24, 1, 8, 8)
    mixed = mix_styles(maps, domain)
    before, after = (torch.stack([m.mean((1, 2, 3)), m.std((1, 2, 3))], 1).numpy() for m in (maps, mixed))
    for index, colour in enumerate((SOURCE, TARGET)):
        own = (domain == index).numpy()
        cloud(style, before[own], colour, label=f"domain {index + 1}")
        style.scatter(*after[own].T, facecolors="none", edgecolors=colour, s=20, label="mixed" if index else None)
        for one, other in zip(before[own], after[own], strict=True):
            style.plot(*np.stack([one, other]).T, color=colour, lw=0.6, alpha=0.5)
    style.set_xlabel("mean of a channel")
    style.set_ylabel("deviation", labelpad=2)
    style.set_xticks([])
    style.legend(loc="upper left", borderaxespad=0, handlelength=1)
    style.set_title("mixstyle: styles between domains")

    steps = np.arange(30)
    losses = 0.5 + 1.3 * np.exp(-steps / 4) + 0.004 * np.maximum(0, steps - 12) ** 2 + 0.02 * rng.standard_normal(30)
    average = Swad()
    for step, loss in zip(steps, losses, strict=True):
        average.step({"step": torch.tensor(float(step))})
        average.evaluated(float(loss))
    middle, half = float(average.weights()["step"]), (average.count - 1) / 2
    swad.plot(steps, losses, color=INK)
    swad.axvspan(middle - half, middle + half, color=MOVES, alpha=0.35, lw=0)
    swad.text(middle, 1.45, "averaged", ha="center")
    swad.set_xlabel("evaluations")
    swad.set_ylabel("loss on val", labelpad=2)
    swad.set_xticks([])
    swad.set_title("--average swad: the valley")
    for axis in (norm, mixup, style, swad):
        axis.set_yticks([])


@drawn
def ramp_(figure: Figure) -> None:
    """The ramp over the run."""
    figure.set_size_inches(WIDTH, 200 / 96)
    axis = figure.add_axes((0.1, 0.25, 0.86, 0.65))
    shares = np.linspace(0, 1, 101)
    axis.plot(100 * shares, [ramp(p) for p in shares], color=INK)
    axis.set_xlabel("p: percent of the run that is done")
    axis.set_ylabel("lambda(p)")
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 1.05)


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
