"""Averages of the weights over training: EMA and SWAD."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from injerto.backbones.backbone import Backbone
from injerto.compute.plan import ComputePlan
from injerto.training.checkpoints import Tensors
from injerto.training.examples import Batch
from injerto.tuning.norms import norm_layers, recalibrate

HORIZON = 0.1
"""Share of the run that an exponential average looks back on."""
EVALUATIONS = 25
"""Evaluations in a run with SWAD, at least: it looks for a valley in their losses."""

STATISTICS = 64
"""Batches from which BatchNorm statistics of averaged weights are estimated, at most."""


def estimate_norms(backbone: Backbone, frozen: int, batches: Iterable[Batch], plan: ComputePlan) -> None:
    """Estimate the BatchNorm statistics of averaged weights on training batches, as SWAD's ``update_bn`` does.

    Each network of an average has statistics of its own; their average belongs to none (Izmailov et al., UAI 2018,
    section 3.2).

    Args:
        backbone: With the averaged weights.
        frozen: How many stages, from the bottom, do not move; their statistics are left alone.
        batches: Of the run.
        plan: How to compute.
    """

    def forward(batch: Batch) -> None:
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.precision == "bf16"):
            (batch.cut.embed if batch.cut else backbone)(batch.inputs)

    only = {name for name in norm_layers(backbone) if backbone.stage_of(f"{name}.running_mean") >= frozen}
    if only:
        recalibrate(backbone, batches, only, forward)


class Ema:
    """An exponential moving average of the weights; evaluated and selected in their place.

    Its horizon is a tenth of the run, shorter at the beginning: decay = min(1 - 10 / steps, (1 + t) / (10 + t)).
    """

    def __init__(self, steps: int) -> None:
        """Start empty.

        Args:
            steps: Of the whole run.
        """
        self.decay = max(0.0, 1 - 1 / (HORIZON * steps)) if steps else 0.0
        self.count = 0
        self.mean: Tensors = {}

    @torch.no_grad()
    def step(self, weights: Tensors) -> None:
        """Take in the weights after a step.

        Args:
            weights: By name.
        """
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        _follow(self.mean, weights, 1 - decay)

    def evaluated(self, loss: float) -> None:
        """An evaluation, of which this average makes nothing.

        Args:
            loss: NLL on source ``val``.
        """

    def weights(self) -> Tensors:
        """The average."""
        return self.mean

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything a resumed run needs."""
        return self.mean, {"count": self.count}

    def load(self, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Args:
            tensors: From :meth:`state`.
            state: From :meth:`state`.
        """
        self.mean, self.count = dict(tensors), state["count"]


class Swad:
    """Stochastic weight averaging, densely over a valley of the validation loss (Cha et al., NeurIPS 2021, alg. 1).

    The average begins at the first evaluation whose loss the next ``optimum - 1`` do not undercut, and ends at the
    last one before ``overfit`` in a row lie above ``tolerance`` times the mean loss of those first ``optimum``. Every
    step in between counts equally. Before a valley is found it is the average since the best evaluation so far.
    """

    def __init__(self, optimum: int = 3, overfit: int = 6, tolerance: float = 1.3) -> None:
        """Start empty; the paper's values are the defaults (section 4.1).

        Args:
            optimum: N_s, evaluations that make a minimum.
            overfit: N_e, evaluations above the threshold that end the valley.
            tolerance: r, the threshold over the mean loss at the start.
        """
        self.optimum, self.overfit, self.tolerance = optimum, overfit, tolerance
        self.losses: list[float] = []  # since the candidate for the start
        self.threshold: float | None = None
        self.above = 0
        self.ended = False
        self.count = 0
        self.mean: Tensors = {}
        self.valley_count = 0
        self.valley: Tensors = {}  # the mean up to the last evaluation below the threshold
        self.window: list[Tensors] = []  # the means at the evaluations before a threshold is known
        self.window_counts: list[int] = []

    @torch.no_grad()
    def step(self, weights: Tensors) -> None:
        """Take in the weights after a step.

        Args:
            weights: By name.
        """
        self._latest = weights
        if self.ended:
            return
        self.count += 1
        _follow(self.mean, weights, 1 / self.count)

    @torch.no_grad()
    def evaluated(self, loss: float) -> None:
        """Look at an evaluation of the latest weights.

        Args:
            loss: NLL on source ``val``.
        """
        if self.ended:
            return
        if self.threshold is None:
            if not self.losses or loss < self.losses[0]:  # a better start: forget what came before
                self.losses, self.window, self.window_counts = [], [], []
                self.mean, self.count = _copy(self._latest), 1
            self.losses.append(loss)
            self.window.append(_copy(self.mean))
            self.window_counts.append(self.count)
            if len(self.losses) < self.optimum:
                return
            self.threshold = self.tolerance * sum(self.losses) / self.optimum
            for earlier, mean, count in zip(self.losses, self.window, self.window_counts, strict=True):
                self._compare(earlier, mean, count)
            self.window, self.window_counts = [], []
            return
        self._compare(loss, self.mean, self.count)

    def _compare(self, loss: float, mean: Tensors, count: int) -> None:
        """Below the threshold the valley goes on; so many evaluations above it end it where it was last below."""
        assert self.threshold is not None
        if loss <= self.threshold:
            self.above, self.valley, self.valley_count = 0, _copy(mean), count
            return
        self.above += 1
        if self.above == self.overfit:
            self.ended, self.mean, self.count = True, self.valley, self.valley_count

    def weights(self) -> Tensors:
        """The average."""
        return self.mean

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything a resumed run needs."""
        tensors = {f"mean.{name}": tensor for name, tensor in self.mean.items()}
        tensors |= {f"valley.{name}": tensor for name, tensor in self.valley.items()}
        for index, mean in enumerate(self.window):
            tensors |= {f"window{index}.{name}": tensor for name, tensor in mean.items()}
        names = ("losses", "threshold", "above", "ended", "count", "valley_count", "window_counts")
        return tensors, {name: getattr(self, name) for name in names}

    def load(self, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Args:
            tensors: From :meth:`state`.
            state: From :meth:`state`.
        """

        def taken(prefix: str) -> Tensors:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self.mean, self.valley = taken("mean."), taken("valley.")
        self.window = [taken(f"window{index}.") for index in range(len(state["window_counts"]))]
        for name, value in state.items():
            setattr(self, name, value)


def _copy(weights: Tensors) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def _follow(mean: Tensors, weights: Tensors, share: float) -> None:
    """Move a mean towards weights; integers (counters of BatchNorm) are taken over."""
    for name, tensor in weights.items():
        if name not in mean or share == 1.0 or not tensor.is_floating_point():
            mean[name] = tensor.detach().clone()
        else:
            mean[name].lerp_(tensor.detach(), share)
