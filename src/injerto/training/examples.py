"""Training batches: from what frozen stages computed once, from pictures decoded ahead, or from token ids."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from injerto.alignment.base import PLAIN, SECOND
from injerto.compute.batches import BatchMaker, Inputs, augmentation_rng, prefetch
from injerto.compute.crew import crew
from injerto.compute.cuts import Cut
from injerto.compute.features import Features
from injerto.domains.domain import Domain
from injerto.domains.preprocessing import ImagePreprocessing
from injerto.training.stepplan import Draw, StepPlan
from injerto.tuning.base import Span

SECOND_VERSIONS = 8
"""Versions of a second view where stages are frozen, whose results can then be kept."""


@dataclass(frozen=True)
class Kept:
    """What frozen stages computed once.

    Attributes:
        cut: Where they end.
        train: The train examples: source after source, of each version after version.
        first: Where each source begins.
        views: Augmented versions of an example; a second view has its own number, see :meth:`Stream.versions`.
        plain: Unaugmented examples that are evaluated, by domain and split.
    """

    cut: Cut
    train: Features
    first: Mapping[str, int]
    views: int
    plain: Mapping[tuple[str, str], Features]


@dataclass(frozen=True)
class Batch:
    """One step's examples.

    Attributes:
        inputs: What the backbone takes, or what was kept below ``cut``.
        labels: Class indices (B,), -1 where there is none.
        domain: Index of each example's domain (B,).
        view: Which view of it the example is (B,), see :data:`injerto.alignment.base.PLAIN`.
        cut: Where frozen stages ended whose results ``inputs`` are; None where they are raw.
        dealt: Where several processes compute a step: the rows that each has, of which ``inputs`` are this one's.
    """

    inputs: Inputs
    labels: torch.Tensor
    domain: torch.Tensor
    view: torch.Tensor
    cut: Cut | None = None
    dealt: tuple[np.ndarray, ...] | None = None

    @property
    def labelled(self) -> torch.Tensor:
        """Which examples have a label (B,)."""
        return self.labels >= 0

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in up to ``count`` nearly equal parts, each with its share of every domain.

        A second view of an example is in the part of its plain view.

        Args:
            count: How many.
        """
        place = self._places()
        count = min(count, int(place.max()) + 1)
        if count == 1:
            yield self
            return
        for first in range(count):
            chosen = np.flatnonzero(place % count == first)
            rows = own = torch.from_numpy(chosen)
            dealt = self.dealt
            if dealt is not None:
                own = torch.from_numpy(np.flatnonzero(place[dealt[crew().rank]] % count == first))
                dealt = tuple(np.searchsorted(chosen, has[place[has] % count == first]) for has in dealt)
            inputs = (
                self.inputs[own]
                if isinstance(self.inputs, torch.Tensor)
                else {name: value[own] for name, value in self.inputs.items()}
            )
            yield Batch(inputs, self.labels[rows], self.domain[rows], self.view[rows], self.cut, dealt)

    def _places(self) -> np.ndarray:
        """The number of each example (B,); the second views of a domain have the numbers of its unlabelled examples."""
        domain, view, labelled = (values.cpu().numpy() for values in (self.domain, self.view, self.labelled))
        pairs = []
        for index in np.unique(domain[view == SECOND]):
            own = domain == index
            plain, second = (np.flatnonzero(own & (view == which) & ~labelled) for which in (PLAIN, SECOND))
            if len(plain) == len(second):
                pairs.append((plain, second))
        alone = np.ones(len(view), bool)
        for _, second in pairs:
            alone[second] = False
        place = np.cumsum(alone) - 1
        for plain, second in pairs:
            place[second] = place[plain]
        return place


@dataclass(frozen=True)
class Stream:
    """Train examples that steps draw from.

    Attributes:
        part: The examples.
        labels: Class indices, -1 where there is none or where it must not be seen.
        domain: Index of their domain.
        augment: Augmentation policy.
        target: Whether it adds to the batch instead of sharing it.
        view: Which view the examples are, see :data:`injerto.alignment.base.PLAIN`.
        follows: The stream whose draws it repeats; None for draws of its own.
    """

    part: Domain
    labels: np.ndarray
    domain: int
    augment: str = "none"
    target: bool = False
    view: int = 0
    follows: str | None = None

    def versions(self, views: int, frozen: int) -> int:
        """How many augmented versions of an example there are; 0 means a new one every cycle.

        What the recipe says; for a second view :data:`SECOND_VERSIONS` where stages are frozen and their results may be
        kept. It does not depend on whether they are, so that a resumed run sees the same.

        Args:
            views: The recipe's.
            frozen: How many stages are frozen.
        """
        if self.follows is None:
            return views
        return SECOND_VERSIONS if frozen and views else 0


class Examples:
    """The train examples, stream by stream, and how they become batches."""

    def __init__(
        self,
        streams: Mapping[str, Stream],
        maker: BatchMaker,
        views: int,
        seed: int,
        cuts: Mapping[int, Cut] | None = None,
        by_length: bool = True,
    ) -> None:
        """Remember what batches are made from.

        Args:
            streams: What steps draw from, by name.
            maker: Decodes, augments and collates.
            views: Augmented versions of each example; 0 means a new one every epoch.
            seed: The run's seed.
            cuts: Where what frozen stages compute is kept, by their number; :attr:`kept` is to hold it.
            by_length: Whether texts of similar length are drawn together; an alignment would compare lengths.
        """
        self.by_length = by_length
        self.streams, self.maker, self.views, self.seed = dict(streams), maker, views, seed
        self.cuts, self.kept = dict(cuts or {}), dict[int, Kept]()
        self.is_image = isinstance(maker.preprocessing, ImagePreprocessing)

    @cached_property
    def tokens(self) -> dict[str, list[np.ndarray]]:
        """Token ids of every text."""
        return {name: self.maker.tokens(stream.part) for name, stream in self.streams.items()}

    def sizes(self, target: bool = False) -> dict[str, int]:
        """Examples of each stream that shares the batch.

        Args:
            target: Of those that add to it instead.
        """
        own = {name: stream for name, stream in self.streams.items() if stream.follows is None}
        return {name: len(stream.part) for name, stream in own.items() if stream.target == target}

    def lengths(self, spans: Sequence[Span]) -> dict[str, np.ndarray] | None:
        """Tokens of every text; None where nothing depends on them: pictures, and embeddings all the way.

        Args:
            spans: The run's.
        """
        embedded = all(span.frozen in self.cuts and self.cuts[span.frozen].suffix is None for span in spans)
        if self.is_image or embedded or not self.by_length:
            return None
        return {name: np.asarray([len(row) for row in rows]) for name, rows in self.tokens.items()}

    def load(self, name: str, position: int, cycle: int) -> np.ndarray:
        """Decode and augment one picture, or the token ids of one text.

        Args:
            name: The stream.
            position: Which of its examples.
            cycle: How often the stream had been gone through before; for one that follows another, the version.
        """
        stream = self.streams[name]
        if not self.is_image and stream.augment == "none":
            return self.tokens[name][position]
        repeated = stream.follows is None and self.views  # the draws that follow others say their version themselves
        version = cycle % self.views if repeated else cycle
        rng = augmentation_rng(self.seed, stream.part.contents[position], version, stream.view)
        if not self.is_image:
            return self.maker.augmented(self.tokens[name][position], stream.augment, rng)
        return self.maker.image(stream.part.inputs[position], stream.augment, rng)

    def batches(self, plan: StepPlan, spans: Sequence[Span], first: int = 0) -> Iterator[Batch]:
        """The batches of a run.

        Args:
            plan: Which examples each step sees.
            spans: What is frozen when.
            first: The first step that is still to be done.
        """
        for span in spans:
            draws = (self._followed(plan.draw(step), span.frozen) for step in range(max(first, span.first), span.stop))
            kept = self.kept.get(span.frozen)
            if kept is None and self.is_image:
                yield from self._pictures(draws)
                continue
            for draw in draws:
                yield self._batch(draw, self._texts(draw) if kept is None else self._read(kept, draw), kept)

    def _followed(self, draw: dict[str, Draw], frozen: int) -> dict[str, Draw]:
        """The draws of all streams: those that follow another see the same examples, in versions of their own."""
        more = {}
        for name, stream in self.streams.items():
            if stream.follows is not None:
                same, versions = draw[stream.follows], stream.versions(self.views, frozen)
                more[name] = Draw(same.positions, same.cycles % versions if versions else same.cycles)
        return draw | more

    def _pictures(self, draws: Iterator[dict[str, Draw]]) -> Iterator[Batch]:
        pending: list[dict[str, Draw]] = []

        def jobs() -> Iterator[list[tuple[str, int, int]]]:
            for draw in draws:
                pending.append(draw)
                yield self._own(draw)

        for rows in prefetch(jobs(), lambda item: self.load(*item), self.maker.workers):
            yield self._batch(pending.pop(0), self.maker.collate_images(rows))

    def _texts(self, draw: dict[str, Draw]) -> Inputs:
        return self.maker.collate_texts([self.load(*job) for job in self._own(draw)])

    def _own(self, draw: dict[str, Draw]) -> list[tuple[str, int, int]]:
        """Stream, position and cycle of the examples that this process computes."""
        jobs = [
            (name, int(position), int(cycle))
            for name, part in draw.items()
            for position, cycle in zip(part.positions, part.cycles, strict=True)
        ]
        dealt = crew().deal(len(jobs))
        return jobs if dealt is None else [jobs[row] for row in dealt[crew().rank]]

    def _read(self, kept: Kept, draw: dict[str, Draw]) -> Inputs:
        places = []
        for name, part in draw.items():
            stream = self.streams[name]
            version = part.cycles % kept.views if stream.follows is None else part.cycles
            places.append(kept.first[name] + version * len(stream.part) + part.positions)
        rows, dealt = np.concatenate(places), crew().deal(sum(map(len, places)))
        return kept.cut.batch(kept.train, rows if dealt is None else rows[dealt[crew().rank]], self.maker.device)

    def _batch(self, draw: dict[str, Draw], inputs: Inputs, kept: Kept | None = None) -> Batch:
        drawn = [(self.streams[name], part.positions) for name, part in draw.items()]
        labels = np.concatenate([stream.labels[positions] for stream, positions in drawn])
        domain, view = (
            np.concatenate([np.full(len(positions), getattr(stream, name)) for stream, positions in drawn])
            for name in ("domain", "view")
        )
        device: Any = self.maker.device
        known, index, seen = (torch.from_numpy(array).to(device) for array in (labels, domain, view))
        return Batch(inputs, known, index, seen, kept.cut if kept else None, crew().deal(len(known)))


def embed_by_length(embed: Callable[[Inputs], torch.Tensor], inputs: Inputs) -> torch.Tensor:
    """Embeddings (B, D) of one batch; texts in four parts of similar length, where that saves a sixth of the tokens.

    Args:
        embed: The backbone, or its part above a cut.
        inputs: What that takes.
    """
    if isinstance(inputs, torch.Tensor):
        return embed(inputs)
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(stable=True)
    groups = order.tensor_split(min(4, len(order)))
    if 6 * sum(len(rows) * int(lengths[rows[-1]]) for rows in groups) > 5 * len(order) * int(lengths.max()):
        return embed(inputs)
    parts = []
    for rows in groups:
        longest = int(lengths[rows].max())
        parts.append(embed({name: value[rows, :longest] for name, value in inputs.items()}))
    return torch.cat(parts)[order.argsort()]
