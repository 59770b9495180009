"""Seconds by phase of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by phase."""

    def __init__(self, load: float) -> None:
        """Start with the seconds that loading took.

        Args:
            load: Seconds.
        """
        self.seconds = {"load": load, "cache": 0.0, "train": 0.0, "evaluate": 0.0}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time spent inside.

        Args:
            phase: ``load``, ``cache``, ``train`` or ``evaluate``.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start
