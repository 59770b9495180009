"""The one loop."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256, write_text
from injerto.basics.progress import note, progress, warn
from injerto.basics.removal import remove_file
from injerto.compute.crew import crew
from injerto.compute.fold import FrozenNorms
from injerto.compute.plan import ComputePlan
from injerto.domains.preprocessing import ImagePreprocessing
from injerto.evaluation.recorded import identity_of
from injerto.evaluation.validators import Verdict
from injerto.recipe.defaults import defaults_for
from injerto.recipe.recipe import Recipe
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model
from injerto.tasks.probe import Score
from injerto.training.averages import EVALUATIONS, STATISTICS, Ema, Swad, estimate_norms
from injerto.training.checkpoints import Checkpoints, Tensors, check_names, pack_optimizer, unpack_optimizer, unsound
from injerto.training.examples import Batch, Examples
from injerto.training.objectives import Objective
from injerto.training.optimizer import make_optimizer, pull, set_rates
from injerto.training.packed import Packed
from injerto.training.progress import LOG, REJECTED, Progress, times_of
from injerto.training.rangetest import TRIES, range_test
from injerto.training.stepplan import count_steps, plan_steps
from injerto.training.together import check_together
from injerto.training.tracking import prepare_trackers
from injerto.training.watch import Watch
from injerto.tuning.base import Span, Tuned
from injerto.tuning.norms import norm_layers, training_modes

MOST_EVALUATIONS = 30
"""Evaluations in a run, at most: one an epoch, or fewer where an epoch is a step or two."""
SAVE_SECONDS = 5
"""Least time between two checkpoints: where an epoch takes milliseconds, writing one after each would double them."""
UNSAVED_SECONDS = 600
"""Longest time between two, about: an epoch may take hours, and a language model has one only."""


class Trainer:
    """Trains what the tuning left free; resumes to the same bits.

    A step is a pure function of the weights, the optimizer's state and the step's number: its examples come from the
    step plan, its randomness from a generator forked and seeded for it.
    """

    def __init__(
        self,
        model: Model | LanguageModel,
        recipe: Recipe,
        plan: ComputePlan,
        tuned: Tuned,
        examples: Examples | Packed,
        objective: Objective,
        validate: Callable[[], Score | None],
        folder: Path,
        watch: Watch | None = None,
        judge: Callable[[float], Verdict | None] | None = None,
    ) -> None:
        """Set up optimizer and step plan.

        Args:
            model: What is trained, on the plan's device.
            recipe: Resolved.
            plan: How to compute.
            tuned: What the tuning decided.
            examples: The labelled train examples.
            objective: What is minimized.
            validate: Scores the model on source ``val``; None where there is no ``val``.
            folder: The run's folder.
            watch: Looks out for training that goes wrong.
            judge: Scores the model by a validator, given the best accuracy on source ``val`` so far; for a recipe whose
                ``select`` names one.
        """
        from accelerate import Accelerator

        self.model, self.recipe, self.plan, self.tuned = model, recipe, plan, tuned
        self.examples, self.objective, self.validate, self.folder = examples, objective, validate, folder
        self.judge = judge
        prepare_trackers(recipe.track, folder)
        self.accelerator = Accelerator(
            mixed_precision="no", cpu=plan.device == "cpu", log_with=list(recipe.track) or None, project_dir=folder
        )
        assert recipe.batch_size is not None
        if not crew().alone:
            check_together(recipe, crew().size)
        sizes = examples.sizes()
        self.steps = count_steps(sum(sizes.values()), recipe.batch_size, recipe.steps, recipe.epochs)
        self.spans = tuned.spans(self.steps)
        self.steps_plan = plan_steps(examples, recipe.batch_size, recipe.seed, self.spans)
        rarely = max(math.ceil(self.steps_plan.steps_per_epoch), math.ceil(self.steps / MOST_EVALUATIONS))
        self.evaluate_every = max(1, min(self.steps, rarely))
        self.average: Ema | Swad | None = None
        if recipe.average == "ema":
            self.average = Ema(self.steps)
        elif recipe.average == "swad":
            self.average = Swad()
            self.evaluate_every = max(1, min(self.evaluate_every, self.steps // EVALUATIONS))
        self.optimizer = self._optimizer()
        own = {id(parameter) for parameter in objective.parameters()}
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._clipped = [  # a discriminator's gradient must not shrink the model's
            part for of in (False, True) if (part := [p for p in trained if (id(p) in own) == of])
        ]
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.names |= {id(parameter): f"objective.{name}" for name, parameter in objective.named_parameters()}
        self.frozen_norms = self._frozen_norms()
        self.span = self.spans[0]
        self._modes: list[tuple[nn.Module, bool]] = []
        self.progress = Progress()
        self.watch = watch or Watch()
        self.watch.steps = self.steps
        self.factor = 1.0
        self._best: Tensors | None = None  # not yet on disk
        self._entries: list[dict[str, Any]] = []  # of log.jsonl
        self.checkpoints = Checkpoints(folder / "checkpoints", identity_of(folder, model.backbone.fingerprint))
        self._saved = -math.inf

    def _frozen_norms(self) -> AbstractContextManager[None]:
        """How the backbone trains through BatchNorms whose statistics do not move."""
        backbone, size = self.model.backbone, self.model.backbone.preprocessing
        if not self.tuned.rates or self.recipe.norm == "train" or not isinstance(size, ImagePreprocessing):
            return nullcontext()
        probe = torch.rand(2, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
        return FrozenNorms(backbone, probe.to(self.plan.device))

    def _optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(self.model, self.tuned, self.recipe, *self._rates(), self.objective.parameters())

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Train to the end and leave the selected weights in the model.

        Args:
            resume: Whether to go on from the last checkpoint.

        Returns:
            What was selected: rule, step, score.

        Raises:
            InjertoError: Where the loss is not finite, or a checkpoint does not fit.
        """
        self._thaw()
        if not (resume and self._restore()) and self.recipe.lr == "auto":
            self._find_rate()
        self._thaw()
        if self.recipe.track:
            described = {name: str(value) for name, value in self.recipe.model_dump(mode="json").items()}
            self.accelerator.init_trackers("injerto", config=described)
        begun = time.monotonic()
        with progress("training", self.steps, "steps") as bar:
            bar.advance(self.progress.step)
            batches = self.examples.batches(self.steps_plan, self.spans, self.progress.step)
            try:
                while self.progress.step < self.steps and not self.progress.stopped:
                    due = (self.progress.step + 1) % self.evaluate_every == 0 or self.progress.step + 1 == self.steps
                    self.objective.watching = due
                    loss = self._step(next(batches))
                    self.progress.step += 1
                    bar.advance(1, f"loss {loss:.3f}{self.objective.live()}")
                    if due:
                        self._evaluate(loss)
                    elif time.monotonic() - max(begun, self._saved) > UNSAVED_SECONDS:
                        self._save()
            finally:
                batches.close()  # type: ignore[attr-defined]  # stops the decoding threads
                if self.recipe.track:
                    self.accelerator.end_training()
        return self._select()

    def _step(self, batch: Batch) -> float:
        self._thaw()
        set_rates(self.optimizer, self.progress.step, self.steps, self.recipe, self.factor)
        loss, supervised = self._update(batch)
        if not math.isfinite(loss):
            self._diverged(f"the loss became {loss}")
        if self.average:
            self.average.step(self._weights())
        self.watch.step(supervised)
        return loss

    def _update(self, batch: Batch) -> tuple[float, float]:
        """One optimizer step; the loss before it, and its labelled part."""
        if batch.cut is None or batch.cut.suffix is not None:
            for module, mode in self._modes:
                module.__dict__["training"] = mode  # nn.Module's own way to set an attribute is ten times slower
        self.optimizer.zero_grad(set_to_none=True)
        total, supervised = 0.0, 0.0
        with torch.random.fork_rng(devices=None if self.plan.device == "cuda" else []):
            number = int(sha256(self.recipe.seed, self.progress.step, 0)[:15], 16)
            if self.plan.device == "cpu":
                torch.default_generator.manual_seed(number)  # torch.manual_seed costs a millisecond more
            else:
                torch.manual_seed(number)
            labelled, done = int(batch.labelled.sum()), self.progress.step / self.steps
            for index, part in enumerate(batch.parts(self.recipe.accumulate)):
                share = int(part.labelled.sum()) / max(labelled, 1)
                if part.dealt is not None:
                    self.objective.number = int(sha256(number, index)[:15], 16)
                    torch.manual_seed(int(sha256(number, index, crew().rank)[:15], 16))
                with self.frozen_norms:
                    loss = self.objective(part, done) * share
                self.accelerator.backward(loss)
                value, own = float(loss.detach()), self.objective.supervised
                total += value
                supervised += value if own is None else share * float(own)
        if batch.dealt is not None:
            total = self._add_up(total)
            supervised = supervised if self.objective.shared else total
        if not math.isfinite(total):
            return total, supervised
        if self.recipe.clip:
            for trained in self._clipped:
                torch.nn.utils.clip_grad_norm_(trained, self.recipe.clip)
        pull(self.optimizer, self.recipe.l2_sp)
        self.optimizer.step()
        return total, supervised

    def _add_up(self, total: float) -> float:
        """The other processes' share of the gradients, and of the loss."""
        crew().add_up(p.grad for p in self.model.backbone.parameters() if p.requires_grad)
        if self.objective.shared:
            return total
        whole = torch.tensor([total], dtype=torch.float64)
        crew().add_up([whole])
        return float(whole)

    def _find_rate(self) -> None:
        """Sweep the rate over the first steps' batches, choose its factor, and put everything back."""
        before = {name: tensor.detach().clone() for name, tensor in (self._weights() | self._own()).items()}
        batches = self.examples.batches(self.steps_plan, self.spans)

        with progress("looking for a learning rate", TRIES, "steps") as bar:

            def step(index: int, factor: float) -> float:
                self.progress.step = index
                self._thaw()
                bar.advance(1)
                for group in self.optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                return self._update(next(batches))[0]

            self.factor = range_test(step, self.steps)
        batches.close()  # type: ignore[attr-defined]
        self.progress.step = 0
        self._load(before)
        self.optimizer.state.clear()
        lr, head_lr = self._rates()
        note(f"--lr auto: lr {lr * self.factor:.2g}, head_lr {head_lr * self.factor:.2g}")

    def _rates(self) -> tuple[float, float]:
        """Peak rates of what was pretrained and of the new layers, before the factor of ``--lr auto``."""
        lr, head_lr = self.recipe.lr, self.recipe.head_lr
        if lr == "auto":
            lr = defaults_for(self.recipe.kind_of_data(self.model.backbone.modality), self.recipe.tuning_spec.kind).lr
        assert lr is not None
        return lr, head_lr or lr  # a language model has no new layers

    def _thaw(self) -> None:
        """Let move what moves from this step on."""
        span = next((span for span in self.spans if self.progress.step < span.stop), self.spans[-1])
        if span is self.span and self._modes:
            return
        backbone, self.span = self.model.backbone, span
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(name in self.tuned.rates and backbone.stage_of(name) >= span.frozen)
        self._modes = training_modes(backbone, span.frozen, self.recipe.norm or "frozen")

    def _diverged(self, what: str) -> NoReturn:
        lr, head_lr = (rate * self.factor for rate in self._rates())
        rates = f"--lr (now {lr:g}) or --head-lr (now {head_lr:g})"
        raise InjertoError(f"{what} at step {self.progress.step + 1}; lower {rates}, or raise --warmup")

    def _evaluate(self, loss: float) -> None:
        state = self.progress
        with self._averaged(self.recipe.average == "ema"):
            score = self.validate()
            if score is not None and not math.isfinite(score[1]):
                self._diverged(f"the NLL on source val became {-score[1]}")
            verdict, better = None, False
            if score is not None:
                state.reference = max(state.reference, score[0])
                verdict = self.judge(state.reference) if self.judge else None
                better = state.better(score, verdict)
            if better and self.recipe.select != "last":
                self._best = {name: tensor.detach().clone() for name, tensor in self._weights().items()}
        if score is not None and self.average:
            self.average.evaluated(-score[1])
        self.watch.evaluated(state.step, None if score is None else -score[1])
        if better:
            state.stale = 0
        elif score is not None:  # without val there is nothing to wait for
            state.stale += 1
        if self.recipe.patience and state.stale >= self.recipe.patience:
            state.stopped = True
            note(f"stopped at step {state.step}: source val has not improved for {state.stale} evaluations")
        entry = {"step": state.step, "loss": loss, "rate": self.optimizer.param_groups[0]["lr"], "time": time.time()}
        entry |= self.objective.seen
        if score is not None:
            entry |= {"val_nll": -score[1]} | ({} if self.recipe.task == "causal-lm" else {"val_accuracy": score[0]})
            entry |= {f"val_{name}": value for name, value in self.watch.measured.items()}
        if verdict is not None:
            entry |= {"validator": verdict.raw, "rejected": verdict.rejected}
        self._log(entry)  # before the checkpoint: a resumed run drops entries beyond it, but could not add one
        if time.monotonic() - self._saved > SAVE_SECONDS or state.stopped or state.step == self.steps:
            self._save()

    def _save(self) -> None:
        """Write the best weights so far, then everything that a resumed run needs or reports."""
        tensors, state = self._weights() | self._own() | pack_optimizer(self.optimizer, self.names), self._state()
        if self.average:
            means, state["average"] = self.average.state()
            tensors |= {f"average.{name}": tensor for name, tensor in means.items()}
        self.checkpoints.save(tensors, state, self._best, self.progress.best_step)
        self._best, self._saved = None, time.monotonic()

    def _log(self, entry: dict[str, Any]) -> None:
        if self.recipe.track:
            self.accelerator.log({key: value for key, value in entry.items() if key != "time"}, step=entry["step"])
        self._entries.append(entry)
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise InjertoError(f"cannot write {self.folder / LOG}: {error.strerror}; free space") from error

    def _state(self) -> dict[str, Any]:
        state = {"progress": asdict(self.progress), "plan": self.plan.card(), "steps": self.steps}
        state |= {"seen": self.objective.seen, "log": [entry | {"time": None} for entry in self._entries]}
        return state | {"watch": self.watch.state(), "factor": self.factor}

    def _weights(self) -> Tensors:
        """Everything that training may have changed: trained parameters, BatchNorm statistics, the new layers."""
        trained = {f"backbone.model.{name}" for name in self.tuned.rates} | set(self.model.new_layers())
        tensors: Tensors = {name: p for name, p in self.model.named_parameters() if name in trained}
        for name, buffer in self.model.named_buffers():
            if name.startswith(("head.", "neck.")):
                tensors[name] = buffer
        for name, layer in norm_layers(self.model.backbone).items():
            for buffer_name, buffer in layer.named_buffers():
                tensors[f"backbone.model.{name}.{buffer_name}"] = buffer
        return tensors

    def _own(self) -> Tensors:
        """The objective's state: discriminators, weights of groups."""
        return {f"objective.{name}": tensor for name, tensor in self.objective.state_dict(keep_vars=True).items()}

    def _load(self, tensors: Tensors) -> None:
        elsewhere = ("optimizer.", "average.", "objective.")
        state = {name: value for name, value in tensors.items() if not name.startswith(elsewhere)}
        self.model.load_state_dict(state, strict=False)
        prefix = "objective."
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if own:
            self.objective.load_state_dict(own)

    @contextmanager
    def _averaged(self, wanted: bool) -> Iterator[None]:
        """The averaged weights in place of the latest ones."""
        if not (wanted and self.average and self.average.weights()):
            yield
            return
        latest = {name: tensor.detach().clone() for name, tensor in self._weights().items()}
        self._load(self.average.weights())
        self._estimate_norms(max(10, self.evaluate_every))
        try:
            yield
        finally:
            self._load(latest)

    def _estimate_norms(self, most: int = STATISTICS) -> None:
        """BatchNorm statistics of averaged weights, from batches of the last span; see :func:`estimate_norms`."""
        if self.recipe.norm != "train":
            return
        span = self.spans[-1]
        some = Span(span.first, min(span.stop, span.first + min(most, STATISTICS)), span.frozen)
        batches = self.examples.batches(self.steps_plan, [some])
        estimate_norms(self.model.backbone, span.frozen, batches, self.plan)

    def _restore(self) -> bool:
        """Go on from the last checkpoint; False where there is none."""
        found = self.checkpoints.load_last()
        if found is None:
            remove_file(self.folder / LOG)
            return False
        tensors, state = found
        if state.get("plan") != self.plan.card():
            raise InjertoError(
                f"{self.folder} was computed with {state.get('plan')}, this machine would use {self.plan.card()}; "
                "set --threads and --precision as before, or start again with --overwrite (in a comparison or search: "
                f"remove {self.folder})"
            )
        optimized = {self.names[id(p)] for group in self.optimizer.param_groups for p in group["params"]}
        check_names(self.checkpoints.last, tensors, self._weights() | self._own(), optimized)
        try:
            self._put_back(tensors, state)
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # of an earlier version: it has no sum
            raise unsound(self.checkpoints.last, f"does not fit ({type(error).__name__}: {error})") from error
        note(f"resumed at step {self.progress.step} of {self.steps}")
        return True

    def _put_back(self, tensors: Tensors, state: dict[str, Any]) -> None:
        self._load(tensors)
        unpack_optimizer(self.optimizer, self.names, tensors)
        if self.average:
            prefix = "average."
            means = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            self.average.load(means, state["average"])
        self.progress = Progress(**state["progress"])
        self.watch.load(state["watch"])
        self.factor, self.objective.seen = state["factor"], dict(state.get("seen", {}))
        if self.progress.best is not None:
            self.progress.best = (self.progress.best[0], self.progress.best[1])
        if "log" in state:  # entries after the checkpoint will be written again
            times = times_of(self.folder / LOG)
            self._entries = [entry | {"time": times.get(entry["step"])} for entry in state["log"]]
            write_text(self.folder / LOG, "".join(json.dumps(entry) + "\n" for entry in self._entries))

    def _select(self) -> dict[str, Any]:
        state = self.progress
        if self.recipe.select != "last" and state.best is not None:
            best = self.checkpoints.load_best()
            check_names(self.checkpoints.best, best, self._weights(), set())
            self._load(best)
            if self.average:
                self._estimate_norms()
            rule, score = self.recipe.select, state.best[0]
            if score <= REJECTED:
                warn(f"--select {rule}: every checkpoint was turned away; the one best on source val is kept")
            chosen = {"rule": rule, "step": state.best_step, "steps": state.step}
            return chosen | {"score": None if score <= REJECTED else score}
        rule = "last"
        if self.average and self.average.weights():
            rule = self.recipe.average
            self._load(self.average.weights())
            self._estimate_norms()
        return {"rule": rule, "step": state.step, "steps": state.step, "score": None}
