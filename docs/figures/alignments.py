"""What must match: the alignments with a target."""

from typing import Any

import numpy as np
import torch
from brush import (
    GRADIENT,
    INK,
    MOVES,
    QUIET,
    SOURCE,
    TARGET,
    arrow,
    bare,
    box,
    cloud,
    descend,
    drawn,
    empty,
    encode,
    same_view,
)
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor
from torch.nn import functional

from injerto.alignment.adversarial import Discriminator
from injerto.alignment.base import Setting, StepOutputs, make_alignment
from injerto.alignment.schedule import reverse_gradient
from injerto.recipe.grammar import parse_alignment
from injerto.statistics.covariance import coral as coral_loss
from injerto.statistics.covariance import covariance
from injerto.statistics.kernels import gaussian, median_bandwidth, squared_distances
from injerto.statistics.mmd import class_mmd2, mmd2


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
