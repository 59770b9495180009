"""What stands beside the alignments: objectives of several sources, norms, mixing, averages, the ramp."""

from typing import Any

import numpy as np
import torch
from brush import INK, MOVES, QUIET, SOURCE, TARGET, THIRD, WIDTH, cloud, drawn
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from injerto.alignment.schedule import ramp
from injerto.training.averages import Swad
from injerto.training.mixing import MIXUP_ALPHA, mix_styles
from injerto.training.robust import make_objective


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
