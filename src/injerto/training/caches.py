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
from injerto.training.examples import Kept
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
        features = self._fill(whole, parts, None, None, title)
        return Continuer(whole, self.prepared.plan).all(features)

    def keep(self, cut: Cut, train: Mapping[str, Domain], drawn: Mapping[str, list[np.ndarray]], plain: Parts) -> Kept:
        """Compute what the run will look at; what the cache holds already is read.

        Args:
            cut: Where the frozen stages end.
            train: Train examples of each source.
            drawn: Positions of them that will be used, by version.
            plain: Unaugmented examples that are evaluated.
        """
        recipe = self.prepared.recipe
        views = max(1, recipe.views or 0)
        stages = cut.stage if cut.suffix is not None else 0
        what = f"stages 0-{stages - 1}" if stages > 1 else "stage 0" if stages else "embedding"
        unaugmented = recipe.augment == "none"
        parts = list(train.values())
        found: list[Features] = []
        for view in range(views):
            wanted = [drawn[name][view] for name in train]
            title = what if views == 1 else f"{what}, view {view + 1} of {views}"
            found.append(self._fill(cut, parts, wanted, None if unaugmented else view, title))
        pieces, first, place = [], {}, 0
        for name, start in zip(train, np.cumsum([0, *map(len, parts)])[:-1].tolist(), strict=True):
            first[name] = place
            pieces += [version.slice(start, start + len(train[name])) for version in found]
            place += views * len(train[name])
        everything = self._fill(cut, list(plain.values()), None, None, f"{what}, for evaluation")
        evaluated, start = {}, 0
        for where, part in plain.items():
            evaluated[where] = everything.slice(start, start + len(part))
            start += len(part)
        trim()
        return Kept(cut, Features.join(pieces), first, views, evaluated)

    def _fill(
        self, cut: Cut, parts: Sequence[Domain], wanted: Sequence[np.ndarray] | None, view: int | None, title: str
    ) -> Features:
        """Values of all inputs of some parts; of the wanted positions only, where these are given."""
        recipe, backbone, plan = self.prepared.recipe, self.prepared.backbone, self.prepared.plan
        policy = recipe.augment or "none"
        described = ("plain" if view is None else f"{policy}/{recipe.seed}/{view}") + self._statistics
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
                rng = augmentation_rng(recipe.seed, keys[positions[index]], view or 0)
                maker = embedder.maker
                return maker.image(item, policy, rng) if is_image else maker.augmented(item, policy, rng)

            chosen = [inputs[position] for position in positions]
            names = [keys[position] for position in positions]
            return embedder.rows(chosen, names, title, load if view is not None else None)

        if wanted is not None:
            starts = np.cumsum([0, *map(len, parts)])[:-1]
            places = np.concatenate([start + chosen for start, chosen in zip(starts, wanted, strict=True)])
            cached(store, [keys[place] for place in places], lambda some: compute([int(places[i]) for i in some]))
            return store.rows(keys)
        return cached(store, keys, compute)
