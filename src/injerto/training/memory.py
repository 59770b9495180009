"""What a run forgets: the backbone before and after, on held-out inputs, on data to remember, and in between."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from injerto.adapters.slider import Line
from injerto.compute.features import Features
from injerto.compute.inference import Continuer, Embedder
from injerto.domains.domain import Domain
from injerto.domains.splits import split_domains
from injerto.evaluation.forgetting import compare_probes, forgetting
from injerto.tasks.classification import class_map, encode
from injerto.tasks.model import Model
from injerto.tasks.probe import fit_probe
from injerto.training.caches import Caches
from injerto.training.examples import Kept
from injerto.training.prepare import Prepared

HELD_OUT = 512
"""Source test examples on which the backbone is compared with what it was."""
PATH = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Points of the line from the pretrained to the tuned model at which it is measured."""


@dataclass
class Before:
    """The pretrained backbone, as it was.

    Attributes:
        held_out: Embeddings of held-out inputs (n, D), None where the backbone does not move.
        remembered: Embeddings of the data to remember (N, D), None where there are none.
    """

    held_out: np.ndarray | None
    remembered: np.ndarray | None


class Memory:
    """Measures forgetting: :meth:`before` training, and :meth:`after` it."""

    def __init__(self, prepared: Prepared, caches: Caches, kept: Callable[[], Kept | None]) -> None:
        """Choose the held-out inputs.

        Args:
            prepared: What to do.
            caches: Embeddings of the pretrained backbone.
            kept: What is kept below the stages that are frozen now.
        """
        self.prepared, self.caches, self.kept = prepared, caches, kept
        tests = [part for part in prepared.parts("test").values() if len(part)]
        share = max(1, HELD_OUT // max(1, len(tests)))
        self.parts = [part.subset(range(min(share, len(part)))) for part in tests]
        norm = prepared.recipe.norm or ""
        self.moves = bool(prepared.tuned.rates) or norm.startswith("recalibrate")

    def before(self) -> Before:
        """Look at the backbone before anything moves."""
        held_out = self.caches.embeddings(self.parts, "held-out inputs") if self.moves else None
        remember = self.prepared.remember
        remembered = self.caches.embeddings(list(remember.values()), "data to remember") if remember else None
        return Before(held_out, remembered)

    def after(
        self, before: Before, model: Model, line: Line | None, accuracy: Callable[[], dict[str, dict[str, float]]]
    ) -> dict[str, Any] | None:
        """Look at it again.

        Args:
            before: From :meth:`before`.
            model: The finished model.
            line: From the pretrained to the tuned model, where the run has a slider.
            accuracy: Accuracy of the model as it is now by domain, on ``test``: of the sources as ``accuracy``, of the
                domains whose labels nothing may be chosen by as ``oracle``.

        Returns:
            The block ``forgetting`` of ``metrics.json``; None where there is nothing held out to see it on.
        """
        if before.held_out is None:  # not a weight has moved
            classifier = self.prepared.backbone.original_head
            result: dict[str, Any] = {"agreement": None if classifier is None else 1.0, "cka": 1.0, "n": 0}
            if before.remembered is not None:
                result["remember"] = self._remember(before.remembered, before.remembered)
            return result
        if not len(before.held_out) and before.remembered is None:
            return None
        result = self._now(before)
        if line is not None:
            path = []
            for t in PATH:
                line.move(model, t)
                now = self._now(before) if t < 1 else result
                point = {"t": t, **accuracy(), "agreement": now["agreement"], "cka": now["cka"]}
                if "remember" in now:
                    point["remember"] = now["remember"]["after"]
                path.append(point)
            result["path"] = path
        return result

    def _now(self, before: Before) -> dict[str, Any]:
        assert before.held_out is not None
        held_out = self._held_out()
        result = forgetting(before.held_out, held_out, self.prepared.backbone.original_head)
        if before.remembered is not None:
            assert self.prepared.remember is not None
            after = self._embed(list(self.prepared.remember.values()), "data to remember")
            result["remember"] = self._remember(before.remembered, after)
        return result

    def _remember(self, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
        """A probe refitted on the embeddings before and after, with the same splits."""
        domains, recipe = self.prepared.remember, self.prepared.recipe
        assert domains is not None and recipe.split_seed is not None
        sides = split_domains(domains, list(domains), recipe.split_seed)
        side = np.concatenate([sides[name] for name in domains])
        classes = class_map(domains, list(domains))
        labels = np.concatenate([encode(domain.labels, classes) for domain in domains.values()])
        groups = np.asarray([group for domain in domains.values() for group in domain.groups])
        where = {name: (side == name) & (labels >= 0) for name in ("train", "val", "test")}

        def logits(values: np.ndarray) -> np.ndarray:
            vals = [(values[where["val"]], labels[where["val"]])]
            probe = fit_probe(values[where["train"]], labels[where["train"]], vals, len(classes))
            return probe.logits(values[where["test"]])

        old, new = logits(before), logits(after)
        return {"data": domains.name, **compare_probes(old, new, labels[where["test"]], groups[where["test"]])}

    def _held_out(self) -> np.ndarray:
        kept = self.kept()
        if kept and all((part.name, "test") in kept.plain for part in self.parts) and self.parts:
            first = [kept.plain[part.name, "test"].slice(0, len(part)) for part in self.parts]
            return Continuer(kept.cut, self.prepared.plan).all(Features.join(first))
        return self._embed(self.parts, "held-out inputs, after")

    def _embed(self, parts: list[Domain], title: str) -> np.ndarray:
        """Embeddings of unaugmented inputs by the backbone as it is now, float32 (N, D)."""
        inputs = [item for part in parts for item in part.inputs]
        keys = [content for part in parts for content in part.contents]
        result = np.empty((len(inputs), self.prepared.backbone.embedding_dim), np.float32)
        if inputs:
            embedder = Embedder(self.prepared.backbone, self.prepared.plan, constant=False)
            for positions, values in embedder.embed(inputs, keys, title):
                result[positions] = values
        return result


def snapshot(prepared: Prepared, names: list[str]) -> dict[str, torch.Tensor]:
    """Copies of some of the backbone's tensors.

    Args:
        prepared: Whose backbone.
        names: In the network's state.
    """
    state = prepared.backbone.model.state_dict()
    return {name: state[name].detach().clone() for name in names}
