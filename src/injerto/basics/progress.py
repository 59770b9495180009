"""Notes and progress on standard error: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from injerto.basics.escapes import visible

_QUIET = False
_SILENT = False


def set_quiet(quiet: bool) -> None:
    """Switch notes and progress off or on for this process (warnings stay).

    Args:
        quiet: True for silence.
    """
    global _QUIET
    _QUIET = quiet


@contextmanager
def quiet() -> Iterator[None]:
    """No notes and no progress inside (warnings stay)."""
    before = _QUIET
    set_quiet(True)
    try:
        yield
    finally:
        set_quiet(before)


@contextmanager
def silent() -> Iterator[None]:
    """No notes, no progress and no warnings inside."""
    global _SILENT
    before, _SILENT = _SILENT, True
    try:
        with quiet():
            yield
    finally:
        _SILENT = before


def say(message: object = "") -> None:
    """Print for people on standard output; names in it cannot steer the terminal.

    Args:
        message: One line or several.
    """
    print(visible(str(message)))


def note(message: str) -> None:
    """Print one plain line.

    Args:
        message: The line.
    """
    if not _QUIET:
        print(visible(message), file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print one line that begins with ``warning:``.

    Args:
        message: What the user should know, and what to do.
    """
    if not _SILENT:
        print(visible(f"warning: {message}"), file=sys.stderr, flush=True)


class Bar:
    """Counts work done and says how fast it goes and how long it will still take.

    Silent for the first two seconds; then a line rewritten in place on a terminal, or a plain line every ten seconds.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        """Start the clock.

        Args:
            title: What is being done.
            total: How many units there are.
            unit: The unit's name, plural.
        """
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self.extra = ""
        self.start = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()
        self.printed = False

    def advance(self, count: int = 1, extra: str = "") -> None:
        """Add ``count`` finished units.

        Args:
            count: How many.
            extra: What to show behind the numbers, such as the loss.
        """
        self.done += count
        self.extra = extra or self.extra
        now = time.monotonic()
        if now - self.start > 2 and now - self.shown > (0.2 if self.live else 10):
            self.shown = now
            self._show()

    def _show(self, last: bool = False) -> None:
        if _QUIET:
            return
        seconds = max(time.monotonic() - self.start, 1e-9)
        rate = self.done / seconds
        left = "" if last else f", {format_seconds((self.total - self.done) / max(rate, 1e-9))} left"
        text = f"{self.title}: {self.done}/{self.total} {self.unit}, {rate:.3g}/s{left}"
        text += f", {self.extra}" if self.extra else ""
        end = "\n" if last or not self.live else ""
        print(("\r\x1b[2K" if self.live else "") + visible(text), end=end, file=sys.stderr, flush=True)
        self.printed = True

    def close(self) -> None:
        """Print the last line if any was printed."""
        if self.printed:
            self._show(last=True)


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Bar]:
    """A :class:`Bar` that closes itself.

    Args:
        title: What is being done.
        total: How many units there are.
        unit: The unit's name, plural.

    Yields:
        The bar.
    """
    bar = Bar(title, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def format_seconds(seconds: float) -> str:
    """A duration for people: ``8 s``, ``3 min 20 s``, ``2 h 5 min``.

    Args:
        seconds: The duration in seconds.
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_bytes(count: float) -> str:
    """A size for people: ``812 B``, ``5.2 KB``, ``18.6 MB`` (powers of 1000).

    Args:
        count: The size in bytes.
    """
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
