"""Names of layers in PEFT's configurations: whether one of many fits, in time that does not grow with their product."""

import re
from collections.abc import Iterable, Sequence, Set

import numpy as np

from injerto.tuning.lora.attach import pattern_matches

DEEPEST = 64
"""Dots in a tensor's name up to which its parts are looked at."""
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)


def is_plain(pattern: str) -> bool:
    """Whether a pattern is a name, in which a dot stands for any character.

    Args:
        pattern: A key of ``rank_pattern`` or ``alpha_pattern``.
    """
    return _PLAIN.fullmatch(pattern) is not None


def names_module(modules: Set[str], path: str) -> bool:
    """Whether one of the modules is a part of a name, from a dot to a dot.

    Args:
        modules: Names of modules, whole or their ends.
        path: Of a tensor.
    """
    parts = path.split(".", DEEPEST)
    return any(".".join(parts[i:j]) in modules for j in range(1, len(parts) + 1) for i in range(j))


class Patterns:
    """Patterns in their order; the first that fits counts, as :func:`pattern_matches` says.

    Those that are names are compared with a layer's all at once, by length: a model of experts has thousands of each.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Sort them.

        Args:
            patterns: Checked before, in their order.
        """
        self._others: list[tuple[int, str]] = []
        sorted_: dict[int, list[tuple[int, bytes]]] = {}
        for place, pattern in enumerate(patterns):
            if is_plain(pattern):
                sorted_.setdefault(len(pattern), []).append((place, pattern.encode()))
            else:
                self._others.append((place, pattern))
        self._names = {length: _Names(length, entries) for length, entries in sorted_.items()}

    def first(self, path: str) -> int | None:
        """The place of the first pattern that fits a layer's name; None where none does.

        Args:
            path: The layer's name in the network.
        """
        starts = [0, *(match.end() for match in re.finditer(r"\.", path))]
        ends = (path[start:] for start in starts)
        found = [self._names[len(end)].first(end) for end in ends if len(end) in self._names]
        best = min((place for place in found if place is not None), default=None)
        for place, pattern in self._others:
            if best is not None and place > best:
                break
            if pattern_matches(pattern, path):
                return place
        return best


class _Names:
    """Names of one length, as a table of their characters."""

    def __init__(self, length: int, entries: Sequence[tuple[int, bytes]]) -> None:
        self._places = [place for place, _ in entries]
        self._table = np.frombuffer(b"".join(name for _, name in entries), np.uint8).reshape(-1, length)
        self._any = self._table == ord(".")

    def first(self, name: str) -> int | None:
        wanted = np.array([ord(sign) if ord(sign) < 128 else 255 for sign in name], np.uint8)
        fits = ((self._table == wanted) | self._any).all(axis=1)
        return self._places[int(fits.argmax())] if fits.any() else None
