"""Frozen inference as fast as this machine runs it, in fixed chunks so that values never depend on their company."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from injerto.backbones.backbone import Backbone
from injerto.basics.progress import progress
from injerto.compute.batches import BatchMaker, Inputs, bucket, prefetch
from injerto.compute.fold import fold_batch_norm
from injerto.compute.plan import ComputePlan
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.domains.texts import tokenize

IMAGE_CHUNK = 16
"""Pictures in one forward pass: small enough for the activations to stay in cache."""
TEXT_CHUNK_TOKENS = 2048
"""Tokens in one forward pass; a bucket of L tokens holds max(1, 2048 // L) texts."""


class Embedder:
    """A frozen backbone, laid out, folded and cast as the plan says.

    Every chunk has a constant size (the last one is padded), so an input's embedding depends on nothing but the input.
    """

    def __init__(self, backbone: Backbone, plan: ComputePlan) -> None:
        """Make the fast copy; the given backbone is not changed.

        Args:
            backbone: The pretrained or tuned backbone.
            plan: Where and how to compute.
        """
        self.plan = plan
        self.maker = BatchMaker(backbone.preprocessing, plan.device)
        self.width = backbone.embedding_dim
        self._network = self._fast(backbone)

    def _fast(self, backbone: Backbone) -> torch.nn.Module:
        network: torch.nn.Module = backbone
        if isinstance(backbone.preprocessing, ImagePreprocessing):
            size = backbone.preprocessing
            probe = torch.rand(2, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
            network = fold_batch_norm(backbone, probe.to(next(backbone.parameters()).device))
        if self.plan.precision == "bf16" or self.plan.channels_last:
            network = copy.deepcopy(network) if network is backbone else network
            network = network.to(self.plan.dtype)
        if self.plan.channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.to(self.plan.device).eval()

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Embeddings of one batch, float32 (B, D) on the plan's device.

        Args:
            inputs: What :class:`BatchMaker` made.
        """
        with torch.inference_mode():
            if isinstance(inputs, torch.Tensor):
                inputs = inputs.to(self.plan.dtype)
            return self._network(inputs).float()

    def embed(
        self,
        inputs: Sequence[Any],
        keys: Sequence[str],
        title: str = "embedding",
        load: Callable[[int], Any] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Embed inputs in fixed chunks.

        Args:
            inputs: Pictures (path, bytes, PIL) or texts.
            keys: Their content hashes; chunks are formed in this order.
            title: What the progress line says.
            load: How picture i is decoded, where it is not by the plain preprocessing.

        Yields:
            Positions (n,) in ``inputs`` and their embeddings, float32 (n, D).
        """
        stream = self._images(inputs, keys, load) if self._is_image else self._texts(inputs, keys)
        with progress(title, len(inputs), "images" if self._is_image else "texts") as bar:
            for positions, batch in stream:
                values = self.forward(batch)[: len(positions)].cpu().numpy()
                bar.advance(len(positions))
                yield positions, values

    @property
    def _is_image(self) -> bool:
        return isinstance(self.maker.preprocessing, ImagePreprocessing)

    def _images(
        self, inputs: Sequence[Any], keys: Sequence[str], load: Callable[[int], Any] | None
    ) -> Iterator[tuple[np.ndarray, Inputs]]:
        order = sorted(range(len(inputs)), key=keys.__getitem__)
        chunks = [order[start : start + IMAGE_CHUNK] for start in range(0, len(order), IMAGE_CHUNK)]
        loader = load or (lambda position: self.maker.image(inputs[position]))
        for chunk, rows in zip(chunks, prefetch(chunks, loader, self.maker.workers), strict=True):
            filled = rows + [rows[-1]] * (IMAGE_CHUNK - len(rows))
            yield np.asarray(chunk), self.maker.collate_images(filled)

    def _texts(self, inputs: Sequence[Any], keys: Sequence[str]) -> Iterator[tuple[np.ndarray, Inputs]]:
        rows = tokenize([str(text) for text in inputs], self.maker.preprocessing)  # type: ignore[arg-type]
        edges = [self._edge(len(row)) for row in rows]
        order = sorted(range(len(rows)), key=lambda position: (edges[position], keys[position]))
        start = 0
        while start < len(order):
            edge = edges[order[start]]
            size = max(1, TEXT_CHUNK_TOKENS // edge)
            chunk = [p for p in order[start : start + size] if edges[p] == edge]
            filled = [rows[p] for p in chunk] + [rows[chunk[-1]]] * (size - len(chunk))
            yield np.asarray(chunk), self.maker.collate_texts(filled, edge)
            start += len(chunk)

    def _edge(self, length: int) -> int:
        """The length a text is padded to: its bucket's, but never more than the model takes."""
        assert isinstance(self.maker.preprocessing, TextPreprocessing)
        return min(bucket(length), self.maker.preprocessing.max_length)

    def seconds_per_input(self) -> float:
        """Time of one input, measured on a chunk of zeros after a warm-up (texts: 32 tokens)."""
        import time

        size = IMAGE_CHUNK if self._is_image else TEXT_CHUNK_TOKENS // 32
        if isinstance(self.maker.preprocessing, ImagePreprocessing):
            blank = np.zeros((self.maker.preprocessing.height, self.maker.preprocessing.width, 3), np.uint8)
            batch: Inputs = self.maker.collate_images([blank] * size)
        else:
            batch = self.maker.collate_texts([np.zeros(self._edge(32), np.int32)] * size)
        self.forward(batch)
        start = time.perf_counter()
        self.forward(batch)
        return (time.perf_counter() - start) / size


def fp32(plan: ComputePlan) -> ComputePlan:
    """The same plan in float32.

    Args:
        plan: A plan.
    """
    return replace(plan, precision="fp32")
