"""What frozen stages compute, computed once: embeddings and hidden states from the cache, or into it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from injerto.basics.files import sha256
from injerto.compute.batches import augmentation_rng
from injerto.compute.cuts import Cut, make_cut
from injerto.compute.features import Chunk, Features, FeatureStore, cached, room_for, space_key, trim
from injerto.compute.inference import Continuer, Embedder
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
        self._statistics = "/" + sha256(*(layer.running_mean.cpu().numpy().tobytes() for layer in layers))  # type: ignore[union-attr, operator]

    def embeddings(self, parts: Sequence[Domain], title: str) -> np.ndarray:
        """Embeddings of unaugmented inputs by the backbone before training, float32 (N, D).

        Args:
            parts: The inputs, part after part.
            title: What the progress line says.
        """
        whole = make_cut(self.prepared.backbone, len(self.prepared.backbone.stages))
        assert whole is not None
        features = self._fill(whole, parts, None, "none", 0, title)
        return Continuer(whole, self.prepared.plan).all(features)

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
        recipe, backbone, plan = self.prepared.recipe, self.prepared.backbone, self.prepared.plan
        plain = policy == "none"
        described = ("plain" if plain else f"{policy}/{recipe.seed}/{view}") + self._statistics
        if cut.suffix is not None:
            described += f"/below stage {cut.stage}"
        key = space_key(backbone.fingerprint, backbone.preprocessing.card(), described, plan.precision)
        inputs = [item for part in parts for item in part.inputs]
        keys = [content for part in parts for content in part.contents]
        on_disk = cut.suffix is not None or room_for(len(keys), cut.width) is None
        store = FeatureStore(key, cut.width, on_disk)

        is_image = backbone.modality == "image"

        def compute(positions: list[int]) -> Iterator[Chunk]:
            embedder = Embedder(backbone, plan, cut)

            def load(index: int, item: Any) -> np.ndarray:
                rng = augmentation_rng(recipe.seed, keys[positions[index]], view)
                maker = embedder.maker
                return maker.image(item, policy, rng) if is_image else maker.augmented(item, policy, rng)

            chosen = [inputs[position] for position in positions]
            names = [keys[position] for position in positions]
            return embedder.rows(chosen, names, title, None if plain else load)

        if wanted is not None:
            starts = np.cumsum([0, *map(len, parts)])[:-1]
            places = np.concatenate([start + chosen for start, chosen in zip(starts, wanted, strict=True)])
            cached(store, [keys[place] for place in places], lambda some: compute([int(places[i]) for i in some]))
            return store.rows(keys)
        return cached(store, keys, compute)
