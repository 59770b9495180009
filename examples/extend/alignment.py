"""A new alignment: the energy distance between the embeddings of two domains (Szekely and Rizzo, 2013)."""

import torch
from torch import Tensor

from injerto.alignment.base import Alignment, StepOutputs, register_alignment
from injerto.recipe.options import Option


@register_alignment("energy")
class Energy(Alignment):
    """Distances between the domains, less those within each; 0 where the distributions are the same.

    Use it: as ``mmd``, without a bandwidth to choose. Not: where the classes' frequencies differ much.
    """

    needs = frozenset({"domains", "gradient"})  # two domains of whatever role, and an embedding that can move
    options = {"power": Option(1.0, 0.5, 1.9)}  # energy(power=0.5): far examples count less
    matches_frequencies = True  # so that a run warns where the classes' frequencies seem to differ
    power: float

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """The mean over pairs of domains that have two or more examples each in the step."""
        values, pairs = outputs.embedding, [pair for pair in outputs.pairs() if min(map(len, pair)) > 1]
        if not pairs:
            return values.sum() * 0
        return torch.stack([self._distance(values[x], values[y]) for x, y in pairs]).mean()

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        between = self._mean(torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"))
        within = (self._mean(torch.pdist(x)) + self._mean(torch.pdist(y))) / 2
        return 2 * (between - within) / between.detach()  # the same whatever the embedding's scale

    def _mean(self, distances: Tensor) -> Tensor:
        return distances.clamp_min(1e-6).pow(self.power).mean()  # equal examples have no direction to move in
