"""What runs that follow each other in one process need not load again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
_KEPT: ContextVar[dict[object, tuple[object, object]] | None] = ContextVar("kept", default=None)


@contextmanager
def shared_loading() -> Iterator[None]:
    """Inside, runs share what they would load alike, for many fits one after another on the same data.

    Shared are the last data set, as read and as checked (it is never changed); the last backbone, of which every run
    gets a copy; and how long it takes for an input, which is only an estimate. What a run computes is the same bit for
    bit. Files that change on the disk meanwhile are not read again. Data and backbones given as objects are not shared,
    and nothing is kept when the block is left.
    """
    if _KEPT.get() is not None:  # the outer block keeps
        yield
        return
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def is_shared() -> bool:
    """Whether what is loaded now may be handed out again."""
    return _KEPT.get() is not None


def load_once(kind: object, key: object, load: Callable[[], T]) -> T:
    """What was loaded last of its kind where it is the same, else what ``load`` returns; outside a block always that.

    Args:
        kind: Of each, one is kept.
        key: Tells it from others of its kind; None for what cannot be told apart.
        load: Makes it.
    """
    kept = _KEPT.get()
    if kept is None or key is None:
        return load()
    if kind not in kept or kept[kind][0] != key:
        kept.pop(kind, None)  # before the next takes its place in memory
        kept[kind] = (key, load())
    found: T = kept[kind][1]  # type: ignore[assignment]
    return found
