"""A finished run, opened again: predict and evaluate."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from injerto.adapters.card import ROLES
from injerto.adapters.load import Loaded, load_model
from injerto.adapters.sketch import Sketch
from injerto.adapters.slider import set_strength
from injerto.adapters.snapshot import CARD
from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256
from injerto.basics.lock import writer_of
from injerto.basics.progress import note, warn
from injerto.compute.inference import inference_plan
from injerto.compute.plan import ComputePlan
from injerto.domains.columns import ColumnNames
from injerto.domains.domain import Domain, Domains
from injerto.evaluation.domains import measure, warn_of_unknown
from injerto.evaluation.files import Inputs
from injerto.evaluation.inputs import read_inputs
from injerto.evaluation.predictor import predict_logits, probabilities
from injerto.evaluation.recorded import BEGUN, FILE, check_recorded, load_metrics, read_rows
from injerto.recipe.recipe import load_recipe
from injerto.tasks.model import Model

TELLING = {"train": 0, "val": 1, "test": 2, "unused": 3}
"""Splits, the least where most is said about an example that has several."""


class Run:
    """A run's folder (or an adapter's) with its model, opened when first needed.

    Attributes:
        path: The folder.
    """

    def __init__(
        self,
        path: str | Path,
        backbone: Any = None,
        precision: str = "fp32",
        threads: int | None = None,
        t: float | None = None,
        allow_modified: bool = False,
    ) -> None:
        """Remember where the run is; use :func:`injerto.load`.

        Args:
            path: RUN or RUN/adapter.
            backbone: The base model where it can't be found by name.
            precision: ``fp32``, ``bf16`` or ``auto``.
            threads: CPU threads, None for all cores.
            t: Point between the pretrained (0) and the tuned model (1), None for the model as it is.
            allow_modified: Go on where the adapter's files are not as its card says.
        """
        self.path = Path(path)
        self._backbone, self._precision, self._threads, self._t = backbone, precision, threads, t
        self._allow_modified = allow_modified

    def __repr__(self) -> str:
        """Where it is."""
        return f"<{type(self).__name__} {str(self.path)!r}>"

    @cached_property
    def _opened(self) -> tuple[Loaded[Model], ComputePlan]:
        found = load_model(self.path, self._backbone, self._allow_modified)
        model = found.model
        plan = inference_plan(model.backbone, self._precision, self._threads)
        if self._t is not None:
            if found.line is not None:
                found.line.move(model, self._t)
            elif not set_strength(model.backbone.model, self._t):
                raise InjertoError(f"{self.path} has no slider; fit it with --slider")
        model.to(plan.device)
        return replace(found, line=None), plan

    def scale(self, t: float) -> "Run":
        """The same run at a point between the pretrained and the tuned model (WiSE-FT); opened when first used.

        Args:
            t: 0 for the pretrained backbone with the probe, 1 for the tuned model.

        Raises:
            InjertoError: Where t is no number from 0 to 1; when it is used, where the run has no slider.
        """
        if isinstance(t, bool) or not isinstance(t, int | float) or not 0 <= t <= 1:
            raise InjertoError(f"the slider runs from 0 (pretrained) to 1 (tuned), not {t!r}")
        return type(self)(self.path, self._backbone, self._precision, self._threads, t, self._allow_modified)

    @property
    def model(self) -> Model:
        """The assembled model in eval mode."""
        return self._opened[0].model

    @property
    def plan(self) -> ComputePlan:
        """How it computes."""
        return self._opened[1]

    @property
    def given_backbone(self) -> Any:
        """The base model as it was given or as the run's recipe names it; None where only the card does."""
        recipe = self.path / "recipe.yaml"
        if self._backbone is None and recipe.exists():
            return load_recipe(recipe).get("backbone")
        return self._backbone

    @property
    def changed(self) -> list[str]:
        """Names of the network's tensors that differ from the base."""
        known = self.model.backbone.model.state_dict()
        return [name for name in self._opened[0].changed if name in known]

    @property
    def card(self) -> dict[str, Any]:
        """The adapter card."""
        return self._opened[0].card

    @property
    def sketch(self) -> Sketch | None:
        """What embeddings of inputs that nothing was learned from looked like; None where too few were there."""
        return self._opened[0].sketch

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.model.labels

    @property
    def columns(self) -> dict[str, str]:
        """The column of the table that was read in each role (``input``, ``label``, ``domain``) when it was fitted.

        A run of an earlier version knows the columns that were named then; one of a folder has none.
        """
        recorded = self.card.get("columns")
        recipe = self.path / "recipe.yaml"
        if recorded is not None or not recipe.exists():
            return dict(recorded or {})
        fields = load_recipe(recipe)
        return {role: fields[role] for role in ROLES if fields.get(role)}

    def read(self, inputs: Any, input: str | None = None, allow_outside: bool = False) -> Inputs:
        """Read inputs as :meth:`predict_proba` does, with those that cannot be used.

        Args:
            inputs: As for :meth:`predict_proba`.
            input: As for :meth:`predict_proba`.
            allow_outside: As for :meth:`predict_proba`.

        Raises:
            InjertoError: Where an input is of the wrong kind, or is not there.
        """
        return read_inputs(inputs, self.reading(input, allow_outside))

    def reading(self, input: str | None = None, allow_outside: bool = False) -> ColumnNames:
        """What the run reads of its inputs.

        Args:
            input: The column of a table; that which the run was fitted with where not given.
            allow_outside: As for :meth:`predict_proba`.
        """
        return ColumnNames(
            input=input,
            responses=bool(self.card.get("responses")),
            fitted=tuple(self.columns.items()),
            inputs_only=self.model.backbone.modality,
            allow_outside=allow_outside,
        )

    def predict_proba(self, inputs: Any, input: str | None = None, allow_outside: bool = False) -> np.ndarray:
        """Probabilities, float64 (N, C), columns in the order of :attr:`labels`.

        Args:
            inputs: A picture (path, PIL, bytes, open file, array or tensor of (H, W), (H, W, C) or (C, H, W), or N of
                them), a text, or a list of these; or what :func:`injerto.fit` takes: a folder, archive, table, data
                frame, ``datasets`` object, dict of columns, list of dicts, ``Domains``. A file of texts is a ``Path``.
            input: The column of a table to read; that which the run was fitted with where not given.
            allow_outside: Whether the pictures that a table names may lie outside of its folder.

        Raises:
            InjertoError: Where an input can't be read, is empty or missing; its position is named.
        """
        model, plan = self.model, self.plan
        items = self.read(inputs, input, allow_outside).settle().items
        if not items:
            return np.empty((0, len(model.labels)))
        keys = [sha256(index) for index in range(len(items))]
        return probabilities(predict_logits(model, plan, items, keys))

    def predict(self, inputs: Any, input: str | None = None, allow_outside: bool = False) -> list[str]:
        """The most probable class of each input.

        Args:
            inputs: As for :meth:`predict_proba`.
            input: As for :meth:`predict_proba`.
            allow_outside: As for :meth:`predict_proba`.
        """
        return [self.labels[index] for index in self.predict_proba(inputs, input, allow_outside).argmax(axis=1)]

    def embed(self, inputs: Any, input: str | None = None, allow_outside: bool = False) -> np.ndarray:
        """Embeddings as the head sees them, float32 (N, D).

        Args:
            inputs: As for :meth:`predict_proba`.
            input: As for :meth:`predict_proba`.
            allow_outside: As for :meth:`predict_proba`.
        """
        import torch

        from injerto.compute.inference import Embedder

        model, plan = self.model, self.plan
        items = self.read(inputs, input, allow_outside).settle().items
        embedder = Embedder(model.backbone, plan, constant=False)
        width = model.head.shift.numel()
        result = np.empty((len(items), width), np.float32)
        for positions, values in embedder.embed(items, [sha256(index) for index in range(len(items))]):
            with torch.no_grad():
                result[positions] = model.neck(torch.from_numpy(values).to(plan.device)).cpu().numpy()
        return result

    def evaluate(self, domains: Domains, on: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Metrics of domains: on the recorded test split where the content is known, else on all of it.

        Args:
            domains: From :func:`injerto.load_domains`.
            on: Names of domains; all where not given.

        Returns:
            Domain name to its metrics.

        Raises:
            InjertoError: Where a domain is not there, or the data are of the other modality.
        """
        model, plan = self.model, self.plan
        if domains.modality != model.backbone.modality:
            raise InjertoError(
                f"{domains.name} holds {domains.modality}s, {self.path} was trained on {model.backbone.modality}s"
            )
        results = {}
        for name, part in self.unseen_parts(domains, on).items():
            logits = predict_logits(model, plan, part.inputs, part.contents, f"evaluating {name}")
            results[name] = measure(part, logits, model.labels)
            warn_of_unknown([part], model.labels)
        if results and not any(values["accuracy"] is not None for values in results.values()):
            raise InjertoError(f"{_why_unlabelled(domains, list(results), model.labels)}, or predict instead")
        return results

    @property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json``.

        Raises:
            InjertoError: Where the run is not finished.
        """
        path = self.path / "metrics.json"
        if not path.exists():
            if (self.path / CARD).exists():
                raise InjertoError(f"{self.path} is a bare adapter without metrics.json; its card has the main figures")
            if writer := writer_of(self.path):
                raise InjertoError(f"{self.path} is not finished: it is being written by {writer}; wait for its end")
            raise InjertoError(
                f"{self.path} has no metrics.json: the run is not finished; go on with its command (fit: with --resume)"
            )
        return load_metrics(self.path)

    def recorded_splits(self) -> dict[str, str]:
        """Content hash to its split in this run; empty for a bare adapter.

        Of what is in several domains, the split that tells most counts: an example that one of them leaves out is a
        test example where another tests on it, and one that was learned from in any of them is none.
        """
        known: dict[str, str] = {}
        for _, content, side in self.recorded_rows():
            known[content] = min(side, known.get(content, side), key=lambda one: TELLING.get(one, 0))
        return known

    def recorded_rows(self) -> list[tuple[str, str, str]]:
        """Domain, content hash and split of every example; empty for a bare adapter.

        Raises:
            InjertoError: Where the record was lost or changed, so that learned examples could pass for new ones.
        """
        run = self.path.parent if self.path.name == "adapter" else self.path
        path = run / FILE
        if not path.exists():
            if (run / "metrics.json").exists():
                raise InjertoError(f"{path} is missing: what the run learned from cannot be told from new examples")
            return []
        check_recorded(run, BEGUN[1:])
        rows, found = read_rows(path)
        noted = Run(run).metrics.get("splits") if (run / "metrics.json").exists() else None
        if noted not in (None, found) or rows is None:
            raise InjertoError(f"{path} is damaged: what the run learned from cannot be told from new examples")
        return rows

    def unseen_part(self, domain: Domain) -> Domain:
        """What of a domain the run may be tested on: its test split, and what it has never seen.

        Args:
            domain: Any.

        """
        recorded = self.recorded_splits()
        role = (self.card.get("metrics") or {}).get(domain.name, {}).get("role")
        if not recorded and role in ("source", "target"):
            warn(
                f"the adapter learned from a domain '{domain.name}', and without its run's folder it is not known "
                "which examples: some of these may be among them"
            )
        own = {content: side for name, content, side in self.recorded_rows() if name == domain.name}
        sides = [own.get(content) or recorded.get(content, "test") for content in domain.contents]
        return domain.subset([i for i, side in enumerate(sides) if side == "test"])

    def unseen_parts(self, domains: Domains, on: Sequence[str] | None) -> dict[str, Domain]:
        """What of each domain the run may be tested on; a domain of which nothing is left is named and left out.

        Args:
            domains: From :func:`injerto.load_domains`.
            on: Names of domains; all where not given.

        Raises:
            InjertoError: Where a domain is not there, or nothing is left of any.
        """
        parts = {name: self.unseen_part(domains.named(name)) for name in on or list(domains)}
        empty = [name for name, part in parts.items() if not len(part)]
        if len(empty) == len(parts):
            raise InjertoError(
                f"domain '{empty[0]}': every example was in the run's train or val split; nothing to test on"
            )
        for name in empty:
            note(f"domain '{name}': every example was in the run's train or val split; it is not measured")
        return {name: part for name, part in parts.items() if len(part)}


def _why_unlabelled(domains: Domains, names: Sequence[str], classes: Sequence[str]) -> str:
    """Why nothing could be measured: there are no labels, or none is a class of the run."""
    labels = sorted({label for name in names for label in domains[name].labels if label is not None})
    how = "name another column with --label" if domains.used else "put the pictures in folders of its classes"
    if not labels:
        column = f" (column '{domains.used['label']}' is empty)" if "label" in domains.used else ""
        return f"no example of {', '.join(names)} has a label{column}; {how}"
    return (
        f"no label of {', '.join(names)} is a class of the run: {', '.join(map(repr, labels[:5]))}"
        f"{', ...' if len(labels) > 5 else ''} against {', '.join(map(repr, classes[:5]))}"
        f"{', ...' if len(classes) > 5 else ''}; {how}"
    )
