"""What is kept of what frozen stages compute, and how long the run will take; both stand in the compute plan."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from injerto.basics.progress import format_bytes
from injerto.compute.cuts import Cut, make_cut
from injerto.compute.features import HELD_BYTES
from injerto.compute.inference import Embedder
from injerto.compute.spaces import room_for
from injerto.domains.preprocessing import TextPreprocessing
from injerto.domains.texts import tokenize
from injerto.training.shared import load_once
from injerto.training.stepplan import count_steps
from injerto.tuning.base import Span

if TYPE_CHECKING:
    from injerto.training.prepare import Prepared

WORTH = 1.5
"""How often a value must be used for keeping it to pay."""
_RUNS: ContextVar[int] = ContextVar("runs", default=1)


@contextmanager
def shared_by(runs: int) -> Iterator[None]:
    """Inside, a run knows that others will use the values it keeps: keeping them pays sooner.

    Args:
        runs: How many runs, itself among them, draw the same versions of the same examples.
    """
    token = _RUNS.set(runs)
    try:
        yield
    finally:
        _RUNS.reset(token)


def plan_caches(prepared: "Prepared") -> None:
    """Decide what is cached and how long the run will take; put both into the plan.

    Args:
        prepared: Its spans, cuts and plan are filled in.
    """
    recipe, backbone = prepared.recipe, prepared.backbone
    assert recipe.batch_size is not None
    train = sum(len(stream.part) for stream in prepared.streams.values() if not stream.target)
    added = [stream for stream in prepared.streams.values() if stream.target]
    vals = sum(len(part) for part in prepared.parts("val").values())
    reported = sum(len(part) for sides in prepared.reported().values() for part in sides.values())
    prepared.spans = prepared.tuned.spans(count_steps(train, recipe.batch_size, recipe.steps, recipe.epochs))
    each = _seconds(prepared)
    texts, seconds = [], 0.0
    for span in prepared.spans:
        drawn = (span.stop - span.first) * recipe.batch_size
        used = drawn * (1 + len(added))
        sizes = [(train, recipe.views or 1)]
        sizes += [(len(stream.part), stream.versions(recipe.views or 1, span.frozen) or 1) for stream in added]
        pairs = round(sum(size * min(versions, drawn / max(size, 1)) for size, versions in sizes))
        epochs = drawn / max(train, 1)
        count = pairs + (reported if span is prepared.spans[-1] else vals)
        cut, text = _plan_cache(prepared, span, _RUNS.get() * used / max(pairs, 1), count)
        texts.append(text)
        evaluated = vals * math.ceil(epochs) + (reported if span is prepared.spans[-1] else 0)
        moving = 1 - span.frozen / len(backbone.stages)
        if cut is not None:
            prepared.cuts[span.frozen] = cut
        if cut is None or cut.place == "nowhere":
            seconds += each * (used * (2 + 2 * moving if moving else 1) + evaluated)
            continue
        below = each if cut.suffix is None else _seconds(prepared, cut)
        seconds += below * count + max(0.0, each - below) * (3 * used + evaluated)
    prepared.plan = replace(prepared.plan, cache="; then ".join(dict.fromkeys(texts)), seconds=seconds)


def _plan_cache(prepared: "Prepared", span: Span, uses: float, count: int) -> tuple[Cut | None, str]:
    """Where the frozen stages of some steps end, and where what they compute is kept; and what the plan says of it.

    Whether a run goes on from a cut is for its recipe and backbone to say, and never for the room on a disk or for what
    other runs share: the numbers differ in their last digits from those of the whole network.
    """
    recipe, backbone = prepared.recipe, prepared.backbone
    embeddings = span.frozen >= len(backbone.stages)
    if not span.frozen:
        return None, f"nothing (--tuning {recipe.tuning} freezes no stage)"
    if not recipe.views:
        return None, "nothing (every epoch augments anew; --views 4 keeps four versions)"
    cut = make_cut(backbone, span.frozen)
    if cut is None:
        return None, f"nothing ({backbone.spec} can't be cut below stage {span.frozen})"
    cut = replace(cut, contiguous=not prepared.plan.channels_last)
    what = "embeddings" if embeddings else f"stages 0-{span.frozen - 1}" if span.frozen > 1 else "stage 0"
    rows = round(count * (_mean_tokens(prepared) if cut.ragged else 1))
    if not backbone.identity.steady:
        reason: str | None = "its outputs change from call to call"
        if not embeddings:
            return None, f"nothing ({what} of {count} inputs: {reason})"
    elif not embeddings and uses < WORTH:
        reason = f"no example is used {WORTH} times in the same version"
    else:
        reason = room_for(rows, cut.width)
    size = f"{what} of {count} inputs ({format_bytes(rows * cut.width * 4)}"
    if reason is None:
        return cut, f"{size})"
    if embeddings or rows * cut.width * 4 <= HELD_BYTES:
        return replace(cut, place="memory"), f"{size}, in memory only: {reason})"
    return replace(cut, place="nowhere"), f"nothing ({what} of {count} inputs: {reason})"


def _seconds(prepared: "Prepared", cut: Cut | None = None) -> float:
    """Time of one input, below a cut where there is one."""
    backbone, plan = prepared.backbone, prepared.plan
    size = sorted(backbone.preprocessing.card().items(), key=str)
    key = backbone.fingerprint, repr((size, plan.card(), cut and cut.stage))
    return load_once(key, key, lambda: Embedder(backbone, plan, cut).seconds_per_input())


def _mean_tokens(prepared: "Prepared") -> float:
    """Tokens of a train example, from up to 256 of them."""
    size = prepared.backbone.preprocessing
    assert isinstance(size, TextPreprocessing)
    texts = [str(text) for part in prepared.parts("train").values() for text in part.inputs[:256]][:256]
    return float(np.mean([len(row) for row in tokenize(texts, size)]))
