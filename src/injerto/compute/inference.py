"""Frozen inference as fast as this machine runs it, in fixed chunks so that values never depend on their company."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from injerto.backbones.backbone import Backbone, first_line, probe_batch
from injerto.basics.progress import note, progress
from injerto.compute.batches import BatchMaker, Inputs, bucket, prefetch
from injerto.compute.cuts import HIDDEN, Cut, run_suffix
from injerto.compute.features import Chunk, Features
from injerto.compute.fold import fold_batch_norm, settled
from injerto.compute.lowering import lower
from injerto.compute.plan import ComputePlan, make_plan
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.domains.texts import tokenize

IMAGE_CHUNK = 16
"""Pictures in one forward pass: small enough for the activations to stay in cache."""
EMBEDDING_CHUNK = 1024
"""Kept embeddings that are read at once."""


class Embedder:
    """A frozen backbone, or the part of it below a cut, laid out, folded and cast as the plan says.

    What is kept is computed in chunks of constant size (the last one is padded), so that an input's values depend on
    nothing but the input; for values that are used at once the padding would be a waste.
    """

    def __init__(self, backbone: Backbone, plan: ComputePlan, cut: Cut | None = None, constant: bool = True) -> None:
        """Make the fast copy; the given backbone is not changed.

        Args:
            backbone: The pretrained or tuned backbone.
            plan: Where and how to compute.
            cut: Where to stop; the end where not given.
            constant: Whether all chunks have the same size.
        """
        self.plan, self.cut, self.constant = plan, cut, constant
        self.maker = BatchMaker(backbone.preprocessing, plan.device, plan.channels_last)
        probe = None
        if isinstance(backbone.preprocessing, ImagePreprocessing):
            size = backbone.preprocessing
            probe = torch.rand(2, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
        self._network = fast(cut.prefix if cut else backbone, plan, probe, pixels=True)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Embeddings (B, D) or hidden states (B, ...) of one batch, float32 on the plan's device.

        Args:
            inputs: What :class:`BatchMaker` made.
        """
        with torch.inference_mode():
            return self._network(inputs).float()

    def embed(
        self,
        inputs: Sequence[Any],
        keys: Sequence[str],
        title: str = "embedding",
        load: Callable[[int, Any], Any] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Embed inputs in fixed chunks.

        Args:
            inputs: Pictures (path, bytes, PIL) or texts.
            keys: Their content hashes; chunks are formed in this order.
            title: What the progress line says.
            load: ``load(i, item)`` augments picture i, given as it came, or text i, given as token ids.

        Yields:
            Positions (n,) in ``inputs`` and their embeddings, float32 (n, D).
        """
        for positions, _, output in self._run(inputs, keys, title, load):
            yield positions, output.cpu().numpy()

    def rows(
        self,
        inputs: Sequence[Any],
        keys: Sequence[str],
        title: str = "embedding",
        load: Callable[[int, Any], Any] | None = None,
    ) -> Iterator[Chunk]:
        """What the store keeps of inputs, in fixed chunks.

        Args:
            inputs: Pictures (path, bytes, PIL) or texts.
            keys: Their content hashes; chunks are formed in this order.
            title: What the progress line says; empty for none.
            load: ``load(i, item)`` augments picture i, given as it came, or text i, given as token ids.

        Yields:
            Positions, rows and their counts.
        """
        assert self.cut is not None
        for positions, batch, output in self._run(inputs, keys, title, load):
            counts = None
            if self.cut.ragged:
                assert isinstance(batch, dict)
                counts = batch["attention_mask"][: len(positions)].sum(1).cpu().numpy()
            yield positions, self.cut.rows(output, counts), counts

    def _run(
        self, inputs: Sequence[Any], keys: Sequence[str], title: str, load: Callable[[int, Any], Any] | None
    ) -> Iterator[tuple[np.ndarray, Inputs, torch.Tensor]]:
        stream = self._images(inputs, keys, load) if self._is_image else self._texts(inputs, keys, load)
        bar = progress(title, len(inputs), "images" if self._is_image else "texts") if title else nullcontext()
        with bar as shown:
            for positions, batch in stream:
                output = self.forward(batch)[: len(positions)]
                if shown is not None:
                    shown.advance(len(positions))
                yield positions, batch, output

    @property
    def _is_image(self) -> bool:
        return isinstance(self.maker.preprocessing, ImagePreprocessing)

    def _images(
        self, inputs: Sequence[Any], keys: Sequence[str], load: Callable[[int, Any], Any] | None
    ) -> Iterator[tuple[np.ndarray, Inputs]]:
        order = sorted(range(len(inputs)), key=keys.__getitem__)
        chunks = [order[start : start + IMAGE_CHUNK] for start in range(0, len(order), IMAGE_CHUNK)]

        def loader(position: int) -> np.ndarray:
            item = inputs[position]
            return load(position, item) if load else self.maker.image(item)

        for chunk, rows in zip(chunks, prefetch(chunks, loader, self.maker.workers), strict=True):
            filled = rows + [rows[-1]] * (IMAGE_CHUNK - len(rows) if self.constant else 0)
            yield np.asarray(chunk), self.maker.collate_images(filled)

    def _texts(
        self, inputs: Sequence[Any], keys: Sequence[str], load: Callable[[int, Any], Any] | None
    ) -> Iterator[tuple[np.ndarray, Inputs]]:
        rows = self._tokens(inputs, load)
        edges = [self._edge(len(row)) for row in rows]
        order = sorted(range(len(rows)), key=lambda position: (edges[position], keys[position]))
        start = 0
        while start < len(order):
            edge = edges[order[start]]
            size = max(1, self.plan.text_chunk // edge)
            chunk = [p for p in order[start : start + size] if edges[p] == edge]
            filled = [rows[p] for p in chunk] + [rows[chunk[-1]]] * (size - len(chunk) if self.constant else 0)
            yield np.asarray(chunk), self.maker.collate_texts(filled, edge)
            start += len(chunk)

    def _tokens(self, inputs: Sequence[Any], load: Callable[[int, Any], Any] | None) -> list[Any]:
        rows: list[Any] = tokenize([str(text) for text in inputs], self.maker.preprocessing)  # type: ignore[arg-type]
        return [load(position, row) for position, row in enumerate(rows)] if load else rows

    def lengths(self, inputs: Sequence[Any], load: Callable[[int, Any], Any] | None = None) -> np.ndarray:
        """Tokens of texts, (n,): how many rows :meth:`rows` gives them.

        Args:
            inputs: Texts.
            load: As :meth:`rows` takes it.
        """
        return np.asarray([len(row) for row in self._tokens(inputs, load)], np.int64)

    def _edge(self, length: int) -> int:
        """The length a text is padded to: its bucket's, but never more than the model takes."""
        assert isinstance(self.maker.preprocessing, TextPreprocessing)
        return min(bucket(length), self.maker.preprocessing.max_length)

    def seconds_per_input(self) -> float:
        """Time of one input, measured on a chunk of zeros after a warm-up (texts: 32 tokens)."""
        import time

        size = IMAGE_CHUNK if self._is_image else self.plan.text_chunk // 32
        if isinstance(self.maker.preprocessing, ImagePreprocessing):
            blank = np.zeros((self.maker.preprocessing.height, self.maker.preprocessing.width, 3), np.uint8)
            batch: Inputs = self.maker.collate_images([blank] * size)
        else:
            batch = self.maker.collate_texts([np.zeros(self._edge(32), np.int32)] * size)
        self.forward(batch)
        start = time.perf_counter()
        self.forward(batch)
        return (time.perf_counter() - start) / size


class Continuer:
    """The part of a backbone above a cut, made as fast as :class:`Embedder`: kept hidden states to embeddings."""

    def __init__(self, cut: Cut, plan: ComputePlan) -> None:
        """Make the fast copy.

        Args:
            cut: Where; what is above it is not changed.
            plan: How to compute.
        """
        self.cut, self.plan = cut, plan
        self._suffix = None if cut.suffix is None else fast(cut.suffix, plan, cut.probe)

    def embed(self, features: Features) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Embeddings in chunks.

        Args:
            features: Rows below the cut.

        Yields:
            Positions (n,) and embeddings, float32 (n, D).
        """
        for positions, length in self._chunks(features):
            batch = self.cut.batch(features, positions, self.plan.device, length)
            if self._suffix is not None and isinstance(batch, dict):
                batch[HIDDEN] = batch[HIDDEN].to(self.plan.dtype)
            with torch.inference_mode():
                yield positions, run_suffix(self._suffix, batch).float().cpu().numpy()

    def all(self, features: Features) -> np.ndarray:
        """Embeddings, float32 (N, D).

        Args:
            features: Rows below the cut.
        """
        found = list(self.embed(features))
        if not found:
            return np.empty((0, 0), np.float32)
        order = np.argsort(np.concatenate([positions for positions, _ in found]))
        return np.concatenate([values for _, values in found])[order]

    def _chunks(self, features: Features) -> Iterator[tuple[np.ndarray, int]]:
        if not self.cut.ragged:
            size = IMAGE_CHUNK if self._suffix is not None else EMBEDDING_CHUNK
            for start in range(0, len(features), size):
                yield np.arange(start, min(start + size, len(features))), 0
            return
        counts = features.counts
        order, start = np.argsort(counts, kind="stable"), 0
        while start < len(order):
            size = max(1, self.plan.text_chunk // bucket(int(counts[order[start]])))
            chunk = order[start : start + size]
            yield chunk, int(counts[chunk].max())
            start += len(chunk)


def inference_plan(backbone: Backbone, precision: str = "auto", threads: int | None = None) -> ComputePlan:
    """The plan for a backbone that is run frozen: float32 where it does not run with its weights in bfloat16.

    Args:
        backbone: The pretrained model.
        precision: As :func:`injerto.compute.plan.make_plan` takes it.
        threads: As there.

    Returns:
        The plan; a note says so where the precision is another one than was asked for.

    Raises:
        InjertoError: As there.
    """
    plan = make_plan(backbone, precision, threads)
    if plan.precision != "bf16":
        return plan
    embedder = Embedder(backbone, plan, constant=False)
    try:
        found = embedder.forward(probe_batch(backbone.preprocessing, torch.device(plan.device)))
        why = None if torch.isfinite(found).all() else "its output is NaN or infinite"
    except Exception as error:  # whatever an operation without such a kernel raises
        why = first_line(error)
    if why is None:
        return plan
    note(f"plan: {backbone.spec} does not run in bf16 ({why}); fp32 instead")
    return replace(plan, precision="fp32")


def fast(network: nn.Module, plan: ComputePlan, probe: torch.Tensor | None, pixels: bool = False) -> nn.Module:
    """A frozen copy for inference: low-rank layers merged, BatchNorms folded, laid out and cast as the plan says.

    Args:
        network: Left as it is but for being put in eval mode.
        plan: How to compute.
        probe: An input batch of a network for pictures, None for one for texts.
        pixels: Whether the probe, where there is one, is pictures and not what is computed from them.

    Returns:
        The copy; the network itself where there is nothing to change.
    """
    plain = settled(network.eval())
    probe = probe if probe is None else probe.to(next(network.parameters()).device)
    copied = plain if probe is None else fold_batch_norm(plain, probe)
    if plan.precision == "bf16" or plan.channels_last:
        copied = copy.deepcopy(network) if copied is network else copied
    if plan.channels_last:
        copied = copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if plan.precision == "bf16":
        copied = lower(copied, probe if pixels else None)
    return copied.to(plan.device).eval()
