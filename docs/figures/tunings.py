"""What may move: the tunings."""

import json
from typing import Any

import numpy as np
from brush import FROZEN, GRADIENT, INK, MOVES, QUIET, SOURCE, STUDIES, arrow, bare, box, cloud, drawn, empty, same_view
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.recipe.grammar import parse_tuning
from injerto.tasks.heads import solve_probe
from injerto.tuning.base import Tuned, apply_tuning
from injerto.tuning.lora.linear import LowRankLinear


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
