"""Training batches: from cached embeddings, from pictures decoded ahead, or from token ids."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from injerto.compute.batches import BatchMaker, Inputs, augmentation_rng, prefetch
from injerto.compute.features import Features
from injerto.domains.domain import Domain
from injerto.domains.preprocessing import ImagePreprocessing
from injerto.training.stepplan import Draw, StepPlan


@dataclass(frozen=True)
class Batch:
    """One step's examples.

    Attributes:
        inputs: What the backbone takes, or embeddings (B, D) where ``embedded``.
        labels: Class indices (B,), -1 where there is none.
        domain: Index of each example's domain (B,).
        embedded: Whether ``inputs`` are embeddings of the backbone.
    """

    inputs: Inputs
    labels: torch.Tensor
    domain: torch.Tensor
    embedded: bool = False

    @property
    def labelled(self) -> torch.Tensor:
        """Which examples have a label (B,)."""
        return self.labels >= 0

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in up to ``count`` nearly equal parts.

        Args:
            count: How many.
        """
        for rows in torch.arange(len(self.labels)).tensor_split(min(count, len(self.labels))):
            inputs = (
                self.inputs[rows]
                if isinstance(self.inputs, torch.Tensor)
                else {name: value[rows] for name, value in self.inputs.items()}
            )
            yield Batch(inputs, self.labels[rows], self.domain[rows], self.embedded)


class Examples:
    """The labelled train examples of every source, and how they become batches."""

    def __init__(
        self,
        domains: Mapping[str, Domain],
        labels: Mapping[str, np.ndarray],
        maker: BatchMaker,
        augment: str,
        views: int,
        seed: int,
        features: Mapping[str, list[Features]] | None = None,
    ) -> None:
        """Keep what batches are made from; texts are tokenized once, here.

        Args:
            domains: Train examples of each source.
            labels: Their class indices.
            maker: Decodes, augments and collates.
            augment: Augmentation policy.
            views: Augmented versions of each example; 0 means a new one every epoch.
            seed: The run's seed.
            features: Cached embeddings of each source, one entry per view.
        """
        self.domains, self.labels, self.maker = domains, labels, maker
        self.augment, self.views, self.seed, self.features = augment, views, seed, features
        self.is_image = isinstance(maker.preprocessing, ImagePreprocessing)
        self.tokens = {} if self.is_image or features else {name: maker.tokens(part) for name, part in domains.items()}

    def sizes(self) -> dict[str, int]:
        """Train examples of each source."""
        return {name: len(part) for name, part in self.domains.items()}

    def lengths(self) -> dict[str, np.ndarray] | None:
        """Tokens of every text, None for pictures and cached embeddings."""
        if not self.tokens:
            return None
        return {name: np.asarray([len(row) for row in rows]) for name, rows in self.tokens.items()}

    def load(self, name: str, position: int, cycle: int) -> np.ndarray:
        """Decode and augment one picture.

        Args:
            name: The source.
            position: Which of its train examples.
            cycle: How often the source had been gone through before.
        """
        part = self.domains[name]
        rng = augmentation_rng(self.seed, part.contents[position], cycle % self.views if self.views else cycle)
        return self.maker.image(part.inputs[position], self.augment, rng)

    def batches(self, plan: StepPlan, first: int, stop: int) -> Iterator[Batch]:
        """The batches of steps ``first`` to ``stop - 1``.

        Args:
            plan: Which examples each step sees.
            first: First step.
            stop: One past the last step.
        """
        draws = (plan.draw(step) for step in range(first, stop))
        if self.features is None and self.is_image:
            yield from self._pictures(draws)
            return
        for draw in draws:
            yield self._batch(draw, self._inputs(draw))

    def _pictures(self, draws: Iterator[dict[str, Draw]]) -> Iterator[Batch]:
        pending: list[dict[str, Draw]] = []

        def jobs() -> Iterator[list[tuple[str, int, int]]]:
            for draw in draws:
                pending.append(draw)
                yield [
                    (name, int(position), int(cycle))
                    for name, part in draw.items()
                    for position, cycle in zip(part.positions, part.cycles, strict=True)
                ]

        for rows in prefetch(jobs(), lambda item: self.load(*item), self.maker.workers):
            yield self._batch(pending.pop(0), self.maker.collate_images(rows))

    def _inputs(self, draw: dict[str, Draw]) -> Inputs:
        if self.features is None:
            texts = [self.tokens[name][position] for name, part in draw.items() for position in part.positions]
            return self.maker.collate_texts(texts)
        parts: list[torch.Tensor] = []
        for name, part in draw.items():
            views = self.features[name]
            rows = torch.empty(len(part.positions), views[0].width)
            for view in np.unique(part.cycles % len(views)):
                chosen = part.cycles % len(views) == view
                rows[torch.from_numpy(chosen)] = views[view][part.positions[chosen]]
            parts.append(rows)
        return torch.cat(parts).to(self.maker.device)

    def _batch(self, draw: dict[str, Draw], inputs: Inputs) -> Batch:
        names = list(self.domains)
        labels = np.concatenate([self.labels[name][part.positions] for name, part in draw.items()])
        domain = np.concatenate([np.full(len(part.positions), names.index(name)) for name, part in draw.items()])
        device: Any = self.maker.device
        return Batch(
            inputs, torch.from_numpy(labels).to(device), torch.from_numpy(domain).to(device), self.features is not None
        )
