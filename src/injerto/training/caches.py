"""What frozen stages compute, computed once: embeddings and hidden states from the cache, or into it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from injerto.alignment.base import PLAIN, SECOND
from injerto.basics.files import sha256
from injerto.compute.batches import augmentation_rng
from injerto.compute.cuts import Cut
from injerto.compute.embedding import embed_parts, kept
from injerto.compute.features import HELD_BYTES, Features, Spare
from injerto.compute.inference import Embedder
from injerto.compute.spaces import trim
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
        self._embedders: dict[int, Embedder] = {}
        self._spare = Spare(HELD_BYTES)

    def statistics_changed(self) -> None:
        """Norm statistics were re-estimated: from now on values belong to another space."""
        self._embedders.clear()
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
            drawn: Positions that will be used of each stream, version by version.
            plain: Unaugmented examples that are evaluated.
        """
        stages = cut.stage if cut.suffix is not None else 0
        what = f"stages 0-{stages - 1}" if stages > 1 else "stage 0" if stages else "embedding"
        pieces: dict[str, list[Features]] = {name: [] for name in streams}
        looks = {
            name: (stream.augment, stream.view if stream.augment != "none" else PLAIN)
            for name, stream in streams.items()
        }
        for look in dict.fromkeys(looks.values()):
            names = [name for name in streams if looks[name] == look]
            parts = [streams[name].part for name in names]
            versions = len(drawn[names[0]])
            for version in range(versions):
                wanted = [drawn[name][version] for name in names]
                title = (
                    what
                    if versions == 1
                    else f"{what}, {'second ' * (look[1] == SECOND)}view {version + 1} of {versions}"
                )
                found = self._fill(cut, parts, wanted, look, version, title)
                for name, start in zip(names, np.cumsum([0, *map(len, parts)])[:-1].tolist(), strict=True):
                    pieces[name].append(found.slice(start, start + len(streams[name].part)))
        ends = np.cumsum([len(drawn[name]) * len(stream.part) for name, stream in streams.items()]).tolist()
        first = dict(zip(streams, [0, *ends[:-1]], strict=True))
        everything = self._fill(cut, list(plain.values()), None, ("none", PLAIN), 0, f"{what}, for evaluation")
        trim()
        views = max(1, self.prepared.recipe.views or 0)
        joined = Features.join([version for name in streams for version in pieces[name]])
        if joined.nbytes + everything.nbytes <= HELD_BYTES:
            joined, everything = joined.held(), everything.held()
        evaluated, start = {}, 0
        for where, part in plain.items():
            evaluated[where] = everything.slice(start, start + len(part))
            start += len(part)
        if cut.place != "nowhere":  # a copy of the network
            self._embedders.clear()
        return Kept(cut, joined, first, views, evaluated)

    def _embedder(self, cut: Cut) -> Embedder:
        """What computes below a cut, made once for all that the run looks at."""
        if cut.stage not in self._embedders:
            self._embedders[cut.stage] = Embedder(self.prepared.backbone, self.prepared.plan, cut)
        return self._embedders[cut.stage]

    def _fill(
        self,
        cut: Cut,
        parts: Sequence[Domain],
        wanted: Sequence[np.ndarray] | None,
        look: tuple[str, int],
        version: int,
        title: str,
    ) -> Features:
        """Values of all inputs of some parts in one version of a look (policy and view), or of the wanted positions."""
        policy, view = look
        backbone, plan, seed = self.prepared.backbone, self.prepared.plan, self.prepared.recipe.seed
        inputs = [item for part in parts for item in part.inputs]
        keys = [content for part in parts for content in part.contents]
        places = None
        if wanted is not None:
            starts = np.cumsum([0, *map(len, parts)])[:-1]
            places = np.concatenate([start + chosen for start, chosen in zip(starts, wanted, strict=True)])

        def augmented(embedder: Embedder, key: str, item: Any) -> np.ndarray:
            rng, maker = augmentation_rng(seed, key, version, view), embedder.maker
            make = maker.image if backbone.modality == "image" else maker.augmented
            return make(item, policy, rng)

        plain = policy == "none"
        which = f"view {view}/{version}" if view else version
        described = ("plain" if plain else f"{policy}/{seed}/{which}") + self._statistics
        load = None if plain else augmented
        spare = None if cut.suffix is None else Spare(0) if cut.place == "nowhere" else self._spare
        return kept(backbone, plan, cut, inputs, keys, described, title, load=load, wanted=places, spare=spare,
                    embedder=lambda: self._embedder(cut))  # fmt: skip
