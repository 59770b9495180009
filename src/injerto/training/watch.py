"""Early warnings in plain words: training that runs but learns nothing, or the wrong thing."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from injerto.basics.progress import warn

EARLY = 20
"""Steps before which nothing can be said."""
SLIGHT = 0.05
"""A loss, or a rise of the NLL, that is not worth a warning."""
Listener = Callable[[float, Mapping[str, float]], None]
"""Hears the share of the run that is done, and what the evaluation measured."""
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, somebody hears of every evaluation of a run; what they raise ends it.

    Args:
        listener: Who.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@dataclass
class Watch:
    """Looks at every evaluation and says each warning once.

    Attributes:
        steps: Of the whole run.
        said: The warnings so far, by kind; part of ``metrics.json``.
        accuracies: On source ``val``, one per evaluation; balanced where the class weights are.
        measured: What the last evaluation measured on source ``val``: ``accuracy``, ``balanced_accuracy`` and ``nll``.
    """

    steps: int = 0
    said: dict[str, str] = field(default_factory=dict)
    first_loss: float | None = None
    best_nll: float = math.inf
    rising: int = 0
    losses: list[float] = field(default_factory=list)
    predicted: tuple[int, int] | None = None
    accuracies: list[float] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)

    def step(self, loss: float) -> None:
        """Note a step's loss.

        Args:
            loss: Of the labelled examples, without what an alignment adds.
        """
        self.losses.append(loss)

    def predictions(self, found: int, present: int) -> None:
        """Note how many classes an evaluation predicted.

        Args:
            found: Different classes among the predictions.
            present: Different classes among the labels.
        """
        self.predicted = (found, present)

    def evaluated(self, step: int, nll: float | None) -> None:
        """Look at the training so far.

        Args:
            step: Steps done.
            nll: On source ``val``, None where there is none.
        """
        loss = sum(self.losses) / max(1, len(self.losses))
        self.losses = []
        if self.predicted and self.predicted[0] == 1 < self.predicted[1] and step >= max(EARLY, self.steps / 4):
            self.say(
                "collapsed",
                f"every source val example gets the same class at step {step}; lower --lr, or use "
                "--class-weights balanced where one class is most of the data",
            )
        if self.first_loss is None:
            self.first_loss = loss
        elif (
            "collapsed" not in self.said  # whose cure is the opposite
            and step >= max(EARLY, self.steps / 2)
            and loss > max(0.98 * self.first_loss, SLIGHT)
        ):
            risen = loss > 1.5 * self.first_loss
            how = "risen" if risen else "not fallen"
            cure = "lower --head-lr, --lr or an alignment's weight" if risen else "raise --head-lr or --lr"
            self.say(
                "not learning",
                f"the loss has {how} by step {step} ({self.first_loss:.3f} to {loss:.3f}): the head is not learning; "
                f"{cure}, or check that the labels belong to their inputs",
            )
        if nll is not None:
            self.rising = self.rising + 1 if nll > self.best_nll else 0
            self.best_nll = min(self.best_nll, nll)
            worse = nll > 1.2 * self.best_nll and nll > self.best_nll + SLIGHT
            if self.rising >= 3 and worse and loss < 0.5 * nll:
                self.say(
                    "over-fitting",
                    f"over-fitting: the NLL on source val rose from {self.best_nll:.3f} to {nll:.3f} while the loss on "
                    f"train is {loss:.3f}; use fewer --steps or --epochs, stronger --augment or a smaller --tuning, or "
                    "without an alignment --patience 3",
                )
        listener = _LISTENER.get()
        if listener and nll is not None and self.measured:
            listener(step / max(1, self.steps), self.measured)

    def say(self, kind: str, text: str) -> None:
        """Warn once.

        Args:
            kind: What about; a kind is warned about once.
            text: The warning.
        """
        if kind not in self.said:
            self.said[kind] = text
            warn(text)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        best = None if math.isinf(self.best_nll) else self.best_nll
        state = {"said": self.said, "first_loss": self.first_loss, "best_nll": best, "rising": self.rising}
        return state | {"accuracies": self.accuracies, "losses": self.losses}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Args:
            state: From :meth:`state`.
        """
        self.said, self.first_loss, self.rising = dict(state["said"]), state["first_loss"], state["rising"]
        self.accuracies, self.losses = list(state["accuracies"]), list(state.get("losses", ()))
        self.best_nll = math.inf if state["best_nll"] is None else state["best_nll"]
