"""One run from start to finish: prepare, cache, train, ship, measure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from injerto.adapters.artifact import changed_names, save_tensors
from injerto.adapters.card import make_card, save_card
from injerto.adapters.slider import Line, linear
from injerto.alignment.base import Setting, make_alignment
from injerto.basics.files import sha256
from injerto.basics.progress import note
from injerto.compute.batches import BatchMaker
from injerto.compute.crew import crew
from injerto.domains.domain import Domain
from injerto.evaluation.domains import measure, prediction_rows, role_of, save_predictions, warn_of_unknown
from injerto.evaluation.predictor import classify_kept, head_logits, predict_logits
from injerto.evaluation.recorded import FILE, read_rows, save_metrics
from injerto.evaluation.validators import Verdict, judge
from injerto.tasks.classification import balanced_weights
from injerto.tasks.model import Model
from injerto.tasks.probe import Probe, Score, fit_probe, quick_score
from injerto.training.caches import Caches
from injerto.training.clock import Clock
from injerto.training.examples import Examples, Kept
from injerto.training.health import HELD_OUT, Health, label_shift, report, warn_about, warn_of_frequencies
from injerto.training.memory import Memory, snapshot
from injerto.training.objectives import Classification
from injerto.training.prepare import Prepared
from injerto.training.recalibration import recalibrate_norms
from injerto.training.robust import make_objective
from injerto.training.selection import PLAIN, Selection
from injerto.training.sketching import save_sketch
from injerto.training.stepplan import plan_steps
from injerto.training.trainer import Trainer
from injerto.training.watch import Watch

STANDARDIZE = 1024
"""Train examples whose embeddings set the head's scale."""


class Fit:
    """The stages of one run over shared state; :meth:`run` calls them in order."""

    def __init__(self, prepared: Prepared, folder: Path, clock: Clock) -> None:
        """Assemble the model; new layers are drawn from the run's seed.

        Args:
            prepared: What to do.
            folder: The run's folder.
            clock: Collects seconds.
        """
        self.prepared, self.folder, self.clock = prepared, folder, clock
        self.recipe, self.plan = prepared.recipe, prepared.plan
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(sha256(self.recipe.seed, "new layers")[:15], 16))
            self.model = Model(prepared.backbone, prepared.classes, self.recipe.head, self.recipe.neck_width)
        self.model.to(self.plan.device)
        self.train = prepared.parts("train")
        self.labels = prepared.labels(self.train)
        self.caches = Caches(prepared)
        self.examples = Examples(
            prepared.streams,
            BatchMaker(prepared.backbone.preprocessing, self.plan.device, self.plan.channels_last),
            self.recipe.views or 0,
            self.recipe.seed,
            prepared.cuts,
            by_length=not self.recipe.alignment_terms,
        )
        self.trainer: Trainer | None = None
        self.watch = Watch()
        held_out = prepared.held_out(HELD_OUT) if self.recipe.alignment_terms or prepared.targets else {}
        self.health = Health(held_out, self.recipe.seed) if self.recipe.alignment_terms else None
        self.choice: Selection | None = None
        validated = [name for name in prepared.sources if len(prepared.part(name, "val"))]
        if prepared.targets and validated and self.recipe.head != "probe":
            judged = {name: held_out[name] for name in (*validated, *prepared.targets)}
            self.choice = Selection(judged, validated, prepared.classes, self.recipe.seed, self.recipe.balanced)
        self.held_out = held_out if self.health or self.choice else {}
        self.shift: dict[str, float] = {}
        self.memory = Memory(prepared, self.caches, lambda: self._kept)

    def run(self, resume: bool) -> dict[str, Any]:
        """Do all of it.

        Args:
            resume: Whether to go on from the last checkpoint.

        Returns:
            The content of ``metrics.json``, which is written last.
        """
        clock, recipe, prepared = self.clock, self.recipe, self.prepared
        with clock.measure("cache"):
            before = self.memory.before()
            names = changed_names(prepared.backbone, prepared.tuned, recipe.norm or "frozen") if recipe.slider else []
            base = snapshot(prepared, [name for name in names if ".lora_" not in name])
            probe = self._pretrained_probe() if recipe.slider or prepared.tuned.probe_first else None
            if recalibrate_norms(prepared, self.watch, trained=False):
                self.caches.statistics_changed()
            self._cache()
            sample = torch.from_numpy(self.caches.embeddings(self._sample(), "first look")).to(self.plan.device)
            self.model.standardize(sample, moving=bool(prepared.tuned.rates))
            apart = self._apart() if self.health else None
            if probe is not None and prepared.tuned.probe_first:
                probe.install(self.model.head)
        with clock.measure("train"):
            selection = self._solve() if recipe.head == "probe" else self._train(resume)
            recalibrate_norms(prepared, self.watch, trained=True)
            self.model.eval()
            self.model.fold()
        line = None
        if recipe.slider:
            assert probe is not None
            line = self._line(base, probe)
        with clock.measure("evaluate"):
            domains, measured = self._measure()
            seen = self._embed_after(self.held_out)
            save_sketch(self.folder / "adapter", prepared, measured, seen)
            aligned, judged = self._aligned(apart, seen), self._validators(seen)
            if judged and (why := judged["rejected"]) and self.prepared.targets:
                unless = "if that is not so in truth, " if why.startswith("predicts") else ""
                self.watch.say("rejected", f"{why}: {unless}do not trust the model there")
            forgotten = self.memory.after(before, self.model, line, self._accuracy)
        size = self._ship(domains, line)
        return self._report(domains, selection, size, forgotten, aligned, judged)

    # --- caches ---------------------------------------------------------------------------------------------------

    def _cache(self) -> None:
        """Compute everything that frozen stages will be asked for, once; what the cache holds already is read."""
        prepared, examples, views = self.prepared, self.examples, max(1, self.recipe.views or 0)
        assert self.recipe.batch_size is not None
        plan = plan_steps(examples, self.recipe.batch_size, self.recipe.seed, prepared.spans)
        for span in prepared.spans:
            if span.frozen in prepared.cuts:
                last = span is prepared.spans[-1]
                plain = {
                    (name, side): part
                    for name, sides in prepared.reported().items()
                    for side, part in sides.items()
                    if last or (side == "val" and name in self.train)
                }
                if last:
                    plain |= {(name, "held out"): part for name, part in self.held_out.items()}
                counts = {name: max(1, s.versions(views, span.frozen)) for name, s in prepared.streams.items()}
                by_count = {count: plan.drawn(span.first, span.stop, count) for count in set(counts.values())}
                drawn = {name: by_count[counts[name]][s.follows or name] for name, s in prepared.streams.items()}
                if self.recipe.head == "probe":
                    drawn = {name: [np.arange(size)] * views for name, size in examples.sizes().items()}
                examples.kept[span.frozen] = self.caches.keep(
                    prepared.cuts[span.frozen], prepared.streams, drawn, plain
                )

    @property
    def _kept(self) -> Kept | None:
        """What was kept below the stages that are frozen now."""
        span = self.trainer.span if self.trainer else self.prepared.spans[-1]
        return self.examples.kept.get(span.frozen)

    def _sample(self) -> list[Domain]:
        """Up to 1,024 train examples, evenly from the sources."""
        share = max(1, STANDARDIZE // len(self.train))
        return [part.subset(range(min(share, len(part)))) for part in self.train.values()]

    def _pretrained_probe(self) -> Probe:
        """The converged probe on embeddings of the pretrained backbone."""
        parts = self.train, self.prepared.parts("val")
        train, val = (self.caches.embeddings(list(part.values()), "embeddings for the probe") for part in parts)
        sizes = np.cumsum([len(part) for part in parts[1].values()])[:-1]
        labels = self.prepared.labels(parts[1])
        vals = list(zip(np.split(val, sizes), labels.values(), strict=True))
        return self._fit_probe(train, np.concatenate(list(self.labels.values())), vals)

    def _fit_probe(
        self, embeddings: np.ndarray, labels: np.ndarray, vals: list[tuple[np.ndarray, np.ndarray]]
    ) -> Probe:
        return fit_probe(embeddings, labels, vals, len(self.prepared.classes), self.recipe.balanced)

    def _line(self, base: dict[str, torch.Tensor], probe: Probe) -> Line:
        """From the pretrained backbone with its probe to the model as it is now."""
        head = linear(self.model)
        start = (torch.from_numpy(values).to(head.weight) for values in (probe.weight, probe.bias))
        end = head.weight.detach().clone(), head.bias.detach().clone()
        return Line(base, snapshot(self.prepared, list(base)), (next(start), next(start)), end)

    # --- training -------------------------------------------------------------------------------------------------

    def _train(self, resume: bool) -> dict[str, Any]:
        recipe, prepared = self.recipe, self.prepared
        weights = None
        if recipe.balanced:
            weights = balanced_weights(np.concatenate(list(self.labels.values())), len(prepared.classes)).to(
                self.plan.device
            )
        if self.plan.channels_last and prepared.tuned.rates:
            self.model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trainer = Trainer(
            self.model,
            recipe,
            self.plan,
            prepared.tuned,
            self.examples,
            self._objective(weights),
            self._validate,
            self.folder,
            self.watch,
            None if recipe.select in PLAIN else self._judge,
        )
        return self.trainer.run(resume)

    def _objective(self, weights: torch.Tensor | None) -> Classification:
        """The labelled loss and the alignments; their layers are drawn from the run's seed."""
        recipe, prepared = self.recipe, self.prepared
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(sha256(recipe.seed, "alignment")[:15], 16))
            width = self.model.head.shift.numel()
            setting = Setting(width, len(prepared.classes), prepared.roles, prepared.stages)
            terms = [(term.name, make_alignment(term, setting)) for term in recipe.alignment_terms]
            return Classification(
                self.model,
                self.plan,
                weights,
                recipe.label_smoothing,
                terms=terms,
                roles=prepared.roles,
                labelled=make_objective(recipe.objective, len(prepared.roles)),
                mixing=recipe.mixing,
            ).to(self.plan.device)

    def _validate(self) -> Score | None:
        """Accuracy and minus NLL on source ``val``, averaged over the sources; balanced where the class weights are."""
        found: dict[bool, list[Score]] = {False: [], True: []}
        predicted, present = set[int](), set[int]()
        for name in self.prepared.sources:
            part = self.prepared.part(name, "val")
            if len(part):
                logits, labels = self._logits(name, "val", part), self.prepared.labels({name: part})[name]
                for balanced, scores in found.items():
                    scores.append(quick_score(logits, labels, balanced))
                predicted |= set(logits.argmax(axis=1).tolist())
                present |= set(labels.tolist())
        self.watch.predictions(len(predicted), len(present))
        if not found[False]:
            return None
        means = {kind: [float(np.mean(values)) for values in zip(*own, strict=True)] for kind, own in found.items()}
        self.watch.measured = {
            "accuracy": means[False][0],
            "nll": -means[False][1],
            "balanced_accuracy": means[True][0],
        }
        accuracy, minus_nll = means[self.recipe.balanced]
        self.watch.accuracies.append(accuracy)
        return accuracy, minus_nll

    def _judge(self, reference: float) -> Verdict | None:
        """The validator's verdict on the model as it is; None where nothing can be judged."""
        assert self.recipe.select is not None
        evidence = self.choice.evidence(self._look) if self.choice else None
        return judge(self.recipe.select, evidence, reference, self.recipe.seed) if evidence else None

    def _look(self, parts: Mapping[str, Domain]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What the head sees of held-out inputs, and what it says."""
        return self._with_logits(self._embed_after(parts))

    def _with_logits(self, seen: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: (values, head_logits(self.model, self.plan, values)) for name, values in seen.items()}

    def _validators(self, seen: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
        """What every validator says of the finished model, given what its head sees of the held-out inputs."""
        if not self.choice or self.trainer is None:
            return None
        evidence = self.choice.evidence(lambda _: self._with_logits(seen))
        return self.choice.judge_all(evidence, self.trainer.progress.reference) if evidence else None

    def _logits(self, name: str, side: str, part: Domain, what: str = "logits") -> np.ndarray:
        kept, (first, last) = self._kept, crew().share(len(part))
        if kept and (name, side) in kept.plain:
            features = kept.plain[name, side].slice(first, last)
            return crew().collect(classify_kept(self.model, self.plan, kept.cut, features, what))
        inputs, title = part.inputs[first:last], f"checking {name} {side}"
        found = predict_logits(self.model, self.plan, inputs, part.contents[first:last], title, what)
        return crew().collect(found)

    def _solve(self) -> dict[str, Any]:
        """The converged probe: logistic regression, its regularization chosen on source ``val``."""
        kept = self._kept
        assert kept is not None
        embeddings = kept.train[np.arange(len(kept.train))].numpy()
        labels = np.concatenate([np.tile(self.labels[name], kept.views) for name in self.train])
        vals = []
        for name, part in self.prepared.parts("val").items():
            if len(part):
                features = kept.plain[name, "val"]
                truth = self.prepared.labels({name: part})[name]
                vals.append((features[np.arange(len(features))].numpy(), truth))
        probe = self._fit_probe(embeddings, labels, vals)
        probe.install(self.model.head)
        found = probe.score[0] if probe.score else None
        return {"rule": "converged", "step": None, "steps": None, "score": found, "C": probe.strength}

    # --- what an alignment did ------------------------------------------------------------------------------------

    def _embed_before(self, parts: Mapping[str, Domain]) -> dict[str, np.ndarray]:
        """Embeddings by the pretrained backbone."""
        values = self.caches.embeddings(list(parts.values()), "held-out inputs of every domain")
        split = np.split(values, np.cumsum([len(part) for part in parts.values()])[:-1])
        return dict(zip(parts, split, strict=True))

    def _apart(self) -> dict[str, Any] | None:
        """The domains' distance in the pretrained embedding; how their classes seem to differ is kept."""
        assert self.health is not None
        seen, prepared = self._embed_before(self.held_out), self.prepared
        sources = {name: self.held_out[name] for name in prepared.sources}
        labels = np.concatenate(list(prepared.labels(sources).values()))
        values = np.concatenate([seen[name] for name in sources])
        targets = {name: seen[name] for name in prepared.targets}
        groups = [group for part in sources.values() for group in part.groups]
        self.shift = label_shift(values, labels, targets, len(prepared.classes), groups) if targets else {}
        return self.health.measure(seen)

    def _embed_after(self, parts: Mapping[str, Domain]) -> dict[str, np.ndarray]:
        """What the head sees of the same inputs now."""
        return {name: self._logits(name, "held out", part, "embedding") for name, part in parts.items()}

    def _aligned(self, before: dict[str, Any] | None, seen: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
        """The block ``alignment``: the domains' distance now, and what to worry about."""
        if not self.health or self.trainer is None:
            return None
        prepared = self.prepared
        after, objective = self.health.measure(seen), self.trainer.objective
        block = report(before, after, objective.seen, self.shift, len(prepared.roles))
        assert isinstance(objective, Classification)
        scores = self.watch.accuracies or [0.0]
        warn_of_frequencies(block, objective.matching(), self.watch)
        warn_about(block, objective.weights_of_terms(), self.watch, max(scores), scores[-1], len(prepared.classes))
        return block

    # --- results --------------------------------------------------------------------------------------------------

    def _measure(self) -> tuple[dict[str, Any], dict[tuple[str, str], np.ndarray]]:
        """Metrics of every reported split, each prediction written down; and what the head saw of it."""
        found: dict[str, Any] = {}
        measured: dict[tuple[str, str], np.ndarray] = {}
        rows: list[tuple[str, ...]] = []
        for name, sides in self.prepared.reported().items():
            role = role_of(name, self.prepared.sources, self.prepared.targets)
            splits = {}
            for side, part in sides.items():
                measured[name, side] = self._logits(name, side, part, "embedding")
                logits = head_logits(self.model, self.plan, measured[name, side])
                splits[side] = measure(part, logits, self.prepared.classes)
                rows += prediction_rows(part, role, side, logits, self.prepared.classes)
            found[name] = {"role": role, "oracle": role != "source", "splits": splits}
            warn_of_unknown(sides.values(), self.prepared.classes)
        save_predictions(self.folder, rows)
        return found, measured

    def _accuracy(self) -> dict[str, dict[str, float]]:
        """Accuracy on the test split of every domain with labels by the model as it is now; oracle but for sources."""
        found: dict[str, dict[str, float]] = {"accuracy": {}, "oracle": {}}
        for name, sides in self.prepared.reported().items():
            if "test" in sides:
                labels = self.prepared.labels({name: sides["test"]})[name]
                known = labels >= 0
                if known.any():
                    logits = self._logits(name, "test", sides["test"])
                    kind = "accuracy" if name in self.prepared.sources else "oracle"
                    found[kind][name] = float((logits.argmax(axis=1) == labels)[known].mean())
        return found

    def _ship(self, domains: dict[str, Any], line: Line | None) -> int:
        quality = {
            name: {
                "role": entry["role"],
                "oracle": entry["oracle"],
                **{
                    side: {key: values[key] for key in ("accuracy", "balanced_accuracy", "n")}
                    for side, values in entry["splits"].items()
                },
            }
            for name, entry in domains.items()
        }
        folder = self.folder / "adapter"
        changed = changed_names(self.prepared.backbone, self.prepared.tuned, self.recipe.norm or "frozen")
        size = save_tensors(folder, self.model, changed, line, self.recipe.head == "native")
        columns = self.prepared.domains.used
        save_card(
            folder, make_card(self.prepared.backbone, self.recipe, self.prepared.classes, quality, columns=columns)
        )
        return size + (folder / "adapter_card.json").stat().st_size

    def _report(
        self,
        domains: dict[str, Any],
        selection: dict[str, Any],
        size: int,
        forgotten: dict[str, Any] | None,
        aligned: dict[str, Any] | None,
        judged: dict[str, Any] | None,
    ) -> dict[str, Any]:
        splits = read_rows(self.folder / FILE)[1]
        parameters = list(self.model.parameters())
        metrics = {
            "domains": domains,
            "selection": selection,
            "parameters": {
                "total": sum(parameter.numel() for parameter in parameters),
                "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            },
            "adapter_bytes": size,
            "splits": splits,
            "seconds": {phase: round(seconds, 4) for phase, seconds in self.clock.seconds.items()},
            "forgetting": forgotten,
            "alignment": aligned,
            "validators": judged,
            "target_labels": {name: len(labels) for name, labels in self.prepared.few.items()},
            "warnings": [text for _, text in sorted(self.watch.said.items())],
            "skipped": [
                {"source": problem.source, "reason": problem.reason} for problem in self.prepared.domains.problems
            ],
        }
        metrics = save_metrics(self.folder, metrics)
        note(f"done: {self.folder}")
        return metrics
