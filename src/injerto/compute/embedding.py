"""Embeddings of unaugmented examples, through the feature cache: the same values for whoever asks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError
from injerto.compute.cuts import Cut, make_cut
from injerto.compute.features import HELD_BYTES, Chunk, Features, FeatureStore, Source, Spare, cached, space_key
from injerto.compute.inference import Continuer, Embedder
from injerto.compute.plan import ComputePlan
from injerto.compute.spaces import room_for
from injerto.domains.domain import Domain
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.domains.samples import SAMPLES
from injerto.recipe.defaults import SAMPLE_IMAGE_SIZE


def open_backbone(name: str, data: Any, image_size: int | None = None, max_length: int | None = None) -> Backbone:
    """A pretrained model with the size of input that suits some data.

    Args:
        name: As :func:`injerto.load_backbone` takes it.
        data: What it is for; the bundled pictures are small drawings and get
            :data:`injerto.recipe.defaults.SAMPLE_IMAGE_SIZE` where the model takes any size.
        image_size: Pixels a side; the model's own where not given.
        max_length: Tokens a text, at most; no more than the model takes.
    """
    network = load_backbone(name, image_size=image_size)
    sample = isinstance(data, str) and data in SAMPLES and not Path(data).exists()
    size = network.preprocessing
    if max_length and isinstance(size, TextPreprocessing):
        network.preprocessing = replace(size, max_length=min(max_length, size.max_length))
    if image_size is None and sample and network.any_size and isinstance(size, ImagePreprocessing):
        network.preprocessing = replace(size, height=SAMPLE_IMAGE_SIZE, width=SAMPLE_IMAGE_SIZE)
    return network


def embed_parts(
    backbone: Backbone, plan: ComputePlan, parts: Sequence[Domain], title: str, statistics: str = ""
) -> np.ndarray:
    """Embeddings of some parts' inputs as the backbone gives them, float32 (N, D), part after part.

    Args:
        backbone: The pretrained model.
        plan: How to compute.
        parts: The inputs.
        title: What the progress line says.
        statistics: What tells apart norm statistics that are not the backbone's own.
    """
    whole = make_cut(backbone, len(backbone.stages))
    assert whole is not None
    inputs = [item for part in parts for item in part.inputs]
    keys = [content for part in parts for content in part.contents]
    features = kept(backbone, plan, whole, inputs, keys, f"plain{statistics}", title)
    return Continuer(whole, plan).all(features.held() if features.nbytes <= HELD_BYTES else features)


def kept(
    backbone: Backbone,
    plan: ComputePlan,
    cut: Cut,
    inputs: Sequence[Any],
    keys: Sequence[str],
    described: str,
    title: str,
    *,
    load: Callable[[Embedder, str, Any], Any] | None = None,
    wanted: np.ndarray | None = None,
    spare: Spare | None = None,
    embedder: Callable[[], Embedder] | None = None,
) -> Features:
    """What the stages below a cut make of some inputs: read where it was computed before, else computed and kept.

    Args:
        backbone: The pretrained model.
        plan: How to compute.
        cut: Where its frozen stages end, and where what they compute is kept.
        inputs: Pictures or texts.
        keys: Their content hashes.
        described: Which version of the inputs, and which norm statistics.
        title: What the progress line says.
        load: ``load(embedder, key, item)`` makes an augmented version of an input.
        wanted: Positions that will be asked for; all where not given.
        spare: Memory for what the disk does not take; any amount where not given.
        embedder: Makes what computes, where several share it.

    Raises:
        InjertoError: Where the backbone computes NaN or infinity.
    """
    described += f"/below stage {cut.stage}" if cut.suffix is not None else ""
    key = space_key(backbone.identity.key, backbone.preprocessing.card(), described, plan.arithmetic)
    full = room_for(len(keys), cut.width) is not None if cut.suffix is None else cut.place != "disk"
    store = FeatureStore(key, cut.width, backbone.identity.steady, full, spare)
    made = embedder or cache(lambda: Embedder(backbone, plan, cut))
    asked = np.arange(len(keys)) if wanted is None else wanted

    def version(places: Sequence[int]) -> Callable[[int, Any], Any] | None:
        if load is None:
            return None
        return lambda index, item: load(made(), keys[places[index]], item)

    def compute(places: list[int], title: str = title) -> Iterator[Chunk]:
        chosen, names = [inputs[place] for place in places], [keys[place] for place in places]
        for indices, rows, counts in made().rows(chosen, names, title, version(places)):
            _check_finite(backbone, [chosen[index] for index in indices], rows, counts)
            yield indices, rows, counts

    def lengths(places: list[int]) -> np.ndarray:
        return made().lengths([inputs[place] for place in places], version(places))

    cached(store, [keys[int(place)] for place in asked], lambda some: compute([int(asked[i]) for i in some]))
    return store.rows(keys, Source(lambda places: compute(places, ""), lengths if cut.ragged else None))


def _check_finite(backbone: Backbone, inputs: Sequence[Any], rows: np.ndarray, counts: np.ndarray | None) -> None:
    """Refuse NaN and infinity where they are computed: later they would be blamed on the training."""
    good = np.isfinite(rows).all(axis=1)
    if good.all():
        return
    owner = np.repeat(np.arange(len(inputs)), 1 if counts is None else counts)
    bad = inputs[int(owner[np.flatnonzero(~good)[0]])]
    text = repr(bad) if isinstance(bad, str | Path) else f"an input ({type(bad).__name__})"
    shown = text if len(text) < 120 else f"{text[:120]}..."
    raise InjertoError(
        f"{backbone.spec} computes NaN or infinity from {shown}; leave that input out, or try --precision fp32 or "
        "another backbone"
    )
