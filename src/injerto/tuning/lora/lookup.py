"""Embedding tables and attention projections with a low-rank pair."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from injerto.tuning.lora.base import LowRank, Weighted, own_forward


class LowRankEmbedding(Weighted):
    """``nn.Embedding``: A (r, vocabulary), zero at first, B (dim, r), random at first."""

    NAMES = ("lora_embedding_A", "lora_embedding_B")
    padding_idx: int | None

    @classmethod
    def shapes(cls, layer: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B.

        Args:
            layer: The plain layer.
            rank: r.
        """
        return (rank, layer.num_embeddings), (layer.embedding_dim, rank)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``(B A)^T``, (vocabulary, dim).

        Args:
            a: (r, vocabulary).
            b: (dim, r).
        """
        return (b @ a).T

    def forward(self, inputs: Tensor) -> Tensor:
        """Look up rows of W and of A; the sum is never formed.

        Args:
            inputs: Indices of any shape.
        """
        if not self.low_rank_path or own_forward(self, nn.Embedding):
            return super().forward(inputs)  # type: ignore[misc, no-any-return]
        a, b = self.pair()
        rows = functional.embedding(inputs, self.base_weight, self.padding_idx)
        return rows + functional.embedding(inputs, a.T, self.padding_idx) @ b.T * (self.variant.scaling * self.strength)


class LowRankAttention(LowRank):
    """The input projection of ``nn.MultiheadAttention``: A (r, E), B (3 E, r).

    Its output projection is a layer of its own.
    """

    WEIGHT = "in_proj_weight"

    @classmethod
    def shapes(cls, layer: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B.

        Args:
            layer: The plain layer.
            rank: r.
        """
        return (rank, layer.embed_dim), (3 * layer.embed_dim, rank)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``B A``, (3 E, E).

        Args:
            a: (r, E).
            b: (3 E, r).
        """
        return b @ a

    @property
    def in_proj_weight(self) -> Tensor:
        """The sum, which torch's slow and fast paths both read."""
        return self._weight()
