"""What frozen stages compute, computed once: embeddings and hidden states from the cache, or into it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from injerto.basics.files import sha256
from injerto.compute.batches import augmentation_rng
from injerto.compute.cuts import Cut
from injerto.compute.embedding import embed_parts, kept
from injerto.compute.features import Features, trim
from injerto.compute.inference import Embedder
from injerto.domains.domain import Domain
from injerto.training.examples import Kept, Stream
from injerto.training.prepare import Prepared
from injerto.tuning.norms import norm_layers

Parts = Mapping[tuple[str, str], Domain]


class Caches:
    """Fills and reads the feature cache for one run."""

    def __init__(self, prepared: Prepared) -> None:
        """Remember the run.

        Args:
            prepared: What to do.
        """
        self.prepared = prepared
        self._statistics = ""

    def statistics_changed(self) -> None:
        """Norm statistics were re-estimated: from now on values belong to another space."""
        layers = norm_layers(self.prepared.backbone).values()
        moments = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
        self._statistics = "/" + sha256(*(moment.cpu().numpy().tobytes() for moment in moments))  # type: ignore[union-attr, operator]

    def embeddings(self, parts: Sequence[Domain], title: str) -> np.ndarray:
        """Embeddings of unaugmented inputs by the backbone before training, float32 (N, D).

        Args:
            parts: The inputs, part after part.
            title: What the progress line says.
        """
        return embed_parts(self.prepared.backbone, self.prepared.plan, parts, title, self._statistics)

    def keep(
        self, cut: Cut, streams: Mapping[str, Stream], drawn: Mapping[str, list[np.ndarray]], plain: Parts
    ) -> Kept:
        """Compute what the run will look at; what the cache holds already is read.

        Args:
            cut: Where the frozen stages end.
            streams: What the steps draw from.
            drawn: Positions that will be used, by version, of each stream with draws of its own.
            plain: Unaugmented examples that are evaluated.
        """
        views = max(1, self.prepared.recipe.views or 0)
        stages = cut.stage if cut.suffix is not None else 0
        what = f"stages 0-{stages - 1}" if stages > 1 else "stage 0" if stages else "embedding"
        versions: dict[str, list[Features]] = {name: [] for name in streams}
        for policy in dict.fromkeys(stream.augment for stream in streams.values()):
            names = [name for name, stream in streams.items() if stream.augment == policy]
            parts = [streams[name].part for name in names]
            for view in range(views):
                wanted = [drawn[streams[name].follows or name][view] for name in names]
                title = what if views == 1 else f"{what}, view {view + 1} of {views}"
                found = self._fill(cut, parts, wanted, policy, view, title)
                for name, start in zip(names, np.cumsum([0, *map(len, parts)])[:-1].tolist(), strict=True):
                    versions[name].append(found.slice(start, start + len(streams[name].part)))
        ends = np.cumsum([views * len(stream.part) for stream in streams.values()]).tolist()
        first = dict(zip(streams, [0, *ends[:-1]], strict=True))
        pieces = [version for name in streams for version in versions[name]]
        everything = self._fill(cut, list(plain.values()), None, "none", 0, f"{what}, for evaluation")
        evaluated, start = {}, 0
        for where, part in plain.items():
            evaluated[where] = everything.slice(start, start + len(part))
            start += len(part)
        trim()
        return Kept(cut, Features.join(pieces), first, views, evaluated)

    def _fill(
        self,
        cut: Cut,
        parts: Sequence[Domain],
        wanted: Sequence[np.ndarray] | None,
        policy: str,
        view: int,
        title: str,
    ) -> Features:
        """Values of all inputs of some parts; of the wanted positions only, where these are given."""
        backbone, plan, seed = self.prepared.backbone, self.prepared.plan, self.prepared.recipe.seed
        inputs = [item for part in parts for item in part.inputs]
        keys = [content for part in parts for content in part.contents]
        places = None
        if wanted is not None:
            starts = np.cumsum([0, *map(len, parts)])[:-1]
            places = np.concatenate([start + chosen for start, chosen in zip(starts, wanted, strict=True)])

        def augmented(embedder: Embedder, key: str, item: Any) -> np.ndarray:
            rng, maker = augmentation_rng(seed, key, view), embedder.maker
            make = maker.image if backbone.modality == "image" else maker.augmented
            return make(item, policy, rng)

        plain = policy == "none"
        described = ("plain" if plain else f"{policy}/{seed}/{view}") + self._statistics
        load = None if plain else augmented
        return kept(backbone, plan, cut, inputs, keys, described, title, load=load, wanted=places)
