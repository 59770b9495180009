"""What a bank is asked, and what it answers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from injerto.adapters.sketch import Sketch


@dataclass(frozen=True)
class Question:
    """An input and the adapter that is to answer.

    Attributes:
        input: A text, a picture (path, bytes, PIL), or one that is prepared as the adapter's preprocessing says, uint8
            (H, W, 3).
        adapter: Its name in the bank.
        strength: From the base (0) to the adapter (1).
    """

    input: Any
    adapter: str
    strength: float = 1.0


@dataclass(frozen=True)
class Answer:
    """What an adapter says of an input.

    Attributes:
        adapter: Its name.
        labels: Class names.
        probabilities: Of the classes, float64 (C,).
        embedding: As the adapter's head sees it, float32 (E,): that of :meth:`injerto.evaluation.run.Run.embed`.
        sketch: What such embeddings looked like when the adapter was made, where it knows.
    """

    adapter: str
    labels: tuple[str, ...]
    probabilities: np.ndarray
    embedding: np.ndarray = field(repr=False)
    sketch: Sketch | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[int(self.probabilities.argmax())]
