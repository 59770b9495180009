"""Embeddings of unaugmented examples, through the feature cache: the same values for whoever asks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.compute.cuts import Cut, make_cut
from injerto.compute.features import Chunk, Features, FeatureStore, cached, room_for, space_key
from injerto.compute.inference import Continuer, Embedder
from injerto.compute.plan import ComputePlan
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
    return Continuer(whole, plan).all(kept(backbone, plan, whole, inputs, keys, f"plain{statistics}", title))


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
) -> Features:
    """What the stages below a cut make of some inputs: read where it was computed before, else computed and kept.

    Args:
        backbone: The pretrained model.
        plan: How to compute.
        cut: Where its frozen stages end.
        inputs: Pictures or texts.
        keys: Their content hashes.
        described: Which version of the inputs, and which norm statistics.
        title: What the progress line says.
        load: ``load(embedder, key, item)`` makes an augmented version of an input.
        wanted: Positions that will be asked for; all where not given.
    """
    described += f"/below stage {cut.stage}" if cut.suffix is not None else ""
    key = space_key(backbone.identity.key, backbone.preprocessing.card(), described, plan.arithmetic)
    on_disk = backbone.identity.steady and (cut.suffix is not None or room_for(len(keys), cut.width) is None)
    store = FeatureStore(key, cut.width, on_disk)

    def compute(positions: list[int]) -> Iterator[Chunk]:
        embedder = Embedder(backbone, plan, cut)
        names = [keys[position] for position in positions]

        def version(index: int, item: Any) -> Any:
            assert load is not None
            return load(embedder, names[index], item)

        chosen = [inputs[position] for position in positions]
        return embedder.rows(chosen, names, title, version if load else None)

    if wanted is None:
        return cached(store, keys, compute)
    cached(store, [keys[place] for place in wanted], lambda some: compute([int(wanted[i]) for i in some]))
    return store.rows(keys)
