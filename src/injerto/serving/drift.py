"""Do inputs still look as they did when an adapter was made? Windows of live traffic, tested one after the other."""

import io
import json
import queue
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from injerto.adapters.sketch import LARGEST_WINDOW, LEVEL, SMALLEST_WINDOW, Drift, Sketch
from injerto.bank.questions import Answer, Question
from injerto.basics.errors import InjertoError
from injerto.basics.files import atomic_path, sha256, write_text
from injerto.basics.limits import DRIFTED_BYTES as MOST_SAVED
from injerto.basics.progress import warn

REMEMBERED = 5_000
"""Last inputs of an adapter that count once, however often they come."""
BEHIND = 64
"""Full windows that may wait to be tested; more are let go."""


class Watch:
    """The traffic of one adapter.

    Attributes:
        sketch: What it is held against.
        size: Different inputs of a window.
        keep: Whether the inputs themselves are kept until their window is tested.
        windows: How many were tested.
        alarms: How many of them looked changed.
        last: The last window's test.
    """

    def __init__(self, sketch: Sketch, size: int | None = None, keep: bool = False) -> None:
        """Begin with an empty window.

        Args:
            sketch: The adapter's.
            size: Different inputs of a window; as many as the sketch can judge well where not given.
            keep: Whether inputs are kept.
        """
        self.sketch, self.size, self.keep = sketch, size or sketch.window, keep
        self.windows, self.alarms = 0, 0
        self.last: Drift | None = None
        self._window: list[tuple[np.ndarray, Any]] = []
        self._lately: dict[int, None] = {}

    @property
    def drifted(self) -> bool:
        """Whether the last window raised an alarm."""
        return self.last is not None and self.last.alarm()

    def add(self, given: Any, embedding: np.ndarray) -> list[tuple[np.ndarray, Any]] | None:
        """Take an input; one that was there lately does not count again, as many from one hand are no change.

        Args:
            given: A text or a prepared picture.
            embedding: Its own.

        Returns:
            The window, once it is full: embeddings and inputs.
        """
        key = hash(given) if isinstance(given, str) else hash(given.tobytes())
        if key in self._lately:
            return None
        self._lately[key] = None
        if len(self._lately) > REMEMBERED:
            del self._lately[next(iter(self._lately))]
        self._window.append((embedding.copy(), given if self.keep else None))
        if len(self._window) < self.size:
            return None
        full, self._window = self._window, []
        return full

    def about(self) -> dict[str, Any]:
        """What is told of it."""
        return {
            "window": self.size, "gathered": len(self._window), "windows": self.windows, "alarms": self.alarms,
            "by_chance": round(self.windows * LEVEL, 2), "drifted": self.drifted,
            "p_value": self.last.p_value if self.last else None, "mmd2": self.last.statistic if self.last else None,
        }  # fmt: skip


class Drifts:
    """The traffic of all adapters; a thread of its own does the testing, no answer waits for it."""

    def __init__(self, folder: Path | None = None, size: int | None = None) -> None:
        """Start the thread.

        Args:
            folder: Where inputs of changed windows are written; None for nowhere.
            size: Different inputs of a window; as many as each sketch can judge well where not given.

        Raises:
            InjertoError: Where the size is off.
        """
        if size is not None and not SMALLEST_WINDOW <= size <= LARGEST_WINDOW:
            raise InjertoError(f"--window is from {SMALLEST_WINDOW} to {LARGEST_WINDOW} inputs, not {size}")
        self._folder, self._size = folder, size
        self._watches: dict[str, Watch] = {}
        self._lock = threading.Lock()
        self._full: queue.Queue[tuple[str, Watch, list[tuple[np.ndarray, Any]]] | None] = queue.Queue(BEHIND)
        self._thread = threading.Thread(target=self._work, name="injerto-drift", daemon=True)
        self._thread.start()

    def see(self, pairs: Iterable[tuple[Question, Answer]]) -> None:
        """Note what was asked and answered. Only whole adapters are looked at, not those that are turned down.

        Args:
            pairs: Questions with their answers.
        """
        for question, answer in pairs:
            if answer.sketch is None or question.strength != 1:
                continue
            with self._lock:
                watch = self._watches.get(answer.adapter)
                if watch is None or not watch.sketch.same(answer.sketch):  # it has been replaced
                    watch = Watch(answer.sketch, self._size, self._folder is not None)
                    self._watches[answer.adapter] = watch
                full = watch.add(question.input, answer.embedding)
            if full and not self._full.full():
                self._full.put((answer.adapter, watch, full))

    def about(self, name: str, sketch: Sketch | None) -> dict[str, Any] | None:
        """What is told of an adapter's traffic; None where it has no sketch.

        Args:
            name: The adapter's.
            sketch: Its sketch.
        """
        with self._lock:
            watch = self._watches.get(name)
            if sketch is not None and (watch is None or not watch.sketch.same(sketch)):
                watch = Watch(sketch, self._size)
            return watch.about() if watch and sketch is not None else None

    def forget(self, name: str) -> None:
        """Let go of an adapter's traffic.

        Args:
            name: The adapter's.
        """
        with self._lock:
            self._watches.pop(name, None)

    def all(self) -> dict[str, Watch]:
        """The traffic by adapter."""
        with self._lock:
            return dict(self._watches)

    def close(self) -> None:
        """Test what waits, and stop."""
        self._full.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._full.get()) is not None:
            name, watch, window = task
            try:
                self._test(name, watch, window)
            except (InjertoError, OSError, ValueError) as error:  # a full disk, a file that somebody changed
                warn(f"drift of '{name}': {error}")

    def _test(self, name: str, watch: Watch, window: list[tuple[np.ndarray, Any]]) -> None:
        found = watch.sketch.test(np.stack([embedding for embedding, _ in window]))
        watch.last, watch.windows, watch.alarms = found, watch.windows + 1, watch.alarms + found.alarm()
        if watch.drifted and watch.alarms == 1:
            warn(
                f"'{name}': the last {found.n} inputs look different from those it was made for (p = "
                f"{found.p_value:.2g}; by chance one window in {1 / LEVEL:.0f} does); /v1/adapters tells how it goes on"
            )
        if watch.drifted and self._folder is not None:
            save_inputs(self._folder / safe_name(name), [given for _, given in window])


def safe_name(name: str) -> str:
    """A file name for an adapter: its own where that is plain, and never a path.

    Args:
        name: The adapter's.
    """
    plain = re.sub(r"[^\w-]", "_", name)
    return plain if plain == name else f"{plain}-{sha256(name)[:8]}"


def save_inputs(place: Path, inputs: list[Any]) -> None:
    """Add inputs to what can be given to ``injerto fit --target NAME=PLACE``; none stands there twice.

    Args:
        place: A folder for pictures, PNG files named by their content; texts go into ``PLACE.jsonl``.
        inputs: Texts, or pictures as the model takes them, uint8 (H, W, 3).

    Raises:
        InjertoError: Where it cannot be written.
    """
    if isinstance(inputs[0], str):
        file = place.with_name(f"{place.name}.jsonl")
        before = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        if sum(map(len, before)) < MOST_SAVED:
            lines = [json.dumps({"text": text}) for text in inputs]
            write_text(file, "".join(f"{line}\n" for line in dict.fromkeys([*before, *lines])))
        return
    if place.is_dir() and sum(file.stat().st_size for file in place.iterdir()) >= MOST_SAVED:
        return
    for picture in inputs:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        file = place / f"{sha256(stream.getvalue())[:32]}.png"
        if not file.exists():
            with atomic_path(file) as temporary:
                temporary.write_bytes(stream.getvalue())
