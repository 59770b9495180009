"""Averages of the weights over training: EMA and SWAD."""

from collections.abc import Mapping
from typing import Any

import torch

from injerto.training.checkpoints import Tensors

HORIZON = 0.1
"""Share of the run that an exponential average looks back on."""
EVALUATIONS = 25
"""Evaluations in a run with SWAD, at least: it looks for a valley in their losses."""


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
                self.losses, self.count = [], 1
                self.mean = {}
                _follow(self.mean, self._latest, 1.0)
            self.losses.append(loss)
            if len(self.losses) < self.optimum:
                return
            self.threshold = self.tolerance * sum(self.losses) / self.optimum
        if loss <= self.threshold:
            self.above, self.valley, self.valley_count = 0, {}, self.count
            _follow(self.valley, self.mean, 1.0)
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
        names = ("losses", "threshold", "above", "ended", "count", "valley_count")
        return tensors, {name: getattr(self, name) for name in names}

    def load(self, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Args:
            tensors: From :meth:`state`.
            state: From :meth:`state`.
        """
        for which in ("mean", "valley"):
            prefix = f"{which}."
            setattr(self, which, {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        for name, value in state.items():
            setattr(self, name, value)


def _follow(mean: Tensors, weights: Tensors, share: float) -> None:
    """Move a mean towards weights; integers (counters of BatchNorm) are taken over."""
    for name, tensor in weights.items():
        if name not in mean or share == 1.0 or not tensor.is_floating_point():
            mean[name] = tensor.detach().clone()
        else:
            mean[name].lerp_(tensor.detach(), share)
