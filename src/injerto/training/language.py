"""One run of a language model: read texts or prompts with responses, tune, measure perplexity before and after."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from injerto.adapters.artifact import changed_names, save_tensors
from injerto.adapters.card import make_card, save_card
from injerto.backbones.backbone import Backbone
from injerto.backbones.language import load_language
from injerto.backbones.transformers_models import positions
from injerto.basics.errors import InjertoError
from injerto.basics.progress import note, warn
from injerto.compute.crew import crew
from injerto.compute.plan import ComputePlan, make_plan
from injerto.domains.domain import Domain, Domains
from injerto.domains.load import READING, load_domains
from injerto.domains.preprocessing import TextPreprocessing
from injerto.domains.splits import split_domains
from injerto.evaluation.domains import role_of
from injerto.evaluation.language import encode_domain, merged, perplexity, token_losses
from injerto.evaluation.recorded import FILE, read_rows, save_metrics
from injerto.recipe.recipe import Recipe
from injerto.statistics.bootstrap import ratio_interval
from injerto.tasks.language import Encoded, LanguageModel, generate
from injerto.tasks.probe import Score
from injerto.training.clock import Clock
from injerto.training.objectives import LanguageModelling
from injerto.training.packed import Packed
from injerto.training.prepare import import_libraries, only_domain
from injerto.training.stepplan import count_steps
from injerto.training.tracking import check_trackers
from injerto.training.trainer import Trainer
from injerto.training.watch import Watch
from injerto.tuning.base import Tuned, apply_tuning, find_tuning

SAMPLES = 3
"""Held-out examples for which the model's words before and after are kept."""
SAMPLE_TOKENS = 48
OPENING = 12
"""Tokens of a text that a sample goes on from."""


@dataclass
class PreparedLanguage:
    """A run that is ready to start.

    Attributes:
        recipe: Resolved.
        domains: What was read.
        sources: Names of the sources.
        sides: ``train``, ``val``, ``test`` or ``""`` for every example of every domain.
        backbone: The language model, frozen and thawed as the tuning says.
        tuned: What the tuning decided.
        plan: How to compute.
        responses: Whether responses to prompts are learned, not texts.
        examples: Every domain's examples as tokens.
        seconds: How long loading took.
    """

    recipe: Recipe
    domains: Domains
    sources: tuple[str, ...]
    sides: dict[str, np.ndarray]
    backbone: Backbone
    tuned: Tuned
    plan: ComputePlan
    responses: bool
    examples: dict[str, list[list[Encoded]]]
    seconds: float = 0.0

    def part(self, name: str, side: str) -> tuple[Domain, list[list[Encoded]]]:
        """One split of one domain.

        Args:
            name: The domain.
            side: ``train``, ``val`` or ``test``.

        Returns:
            Its examples as given, and as tokens.
        """
        keep = [int(i) for i in np.flatnonzero(self.sides[name] == side)]
        return self.domains[name].subset(keep), [self.examples[name][i] for i in keep]


def prepare_language(recipe: Recipe, data: Any, backbone: Any = None) -> PreparedLanguage:
    """Read the data, load the model, turn everything into tokens.

    Args:
        recipe: As the user gave it.
        data: What :func:`injerto.load_domains` takes.
        backbone: A loaded language model in place of the recipe's name.

    Raises:
        InjertoError: Where anything does not fit together.
    """
    find_tuning(recipe.tuning_spec)
    check_trackers(recipe.track)
    start = time.perf_counter()
    reading = {key: getattr(recipe, key) for key in READING}
    domains = load_domains(data, **reading, responses=True).check(recipe.skip_bad)
    if domains.modality != "text":
        raise InjertoError(f"{domains.name} holds pictures; --task causal-lm learns from texts")
    sources = recipe.source or only_domain(domains)
    for name in sources:
        domains.named(name)
    spoken = {name: sum(label is not None for label in domains[name].labels) for name in domains}
    responses = any(spoken[name] for name in sources)
    domains = _consistent(domains, responses)
    importing = time.perf_counter()
    import_libraries()
    start += time.perf_counter() - importing
    resolved = recipe.resolved("text")
    if backbone is None:
        assert resolved.backbone is not None
        network = load_language(resolved.backbone, resolved.max_length)
    elif isinstance(backbone, Backbone):
        network = copy.deepcopy(backbone)  # the user's own stays as it is
        network.identify()  # it may have been trained since it was loaded
        resolved = resolved.model_copy(update={"backbone": network.spec})
    else:
        raise InjertoError("backbone: a language model is given by name or folder, or as load_language(...) returns it")
    size = network.preprocessing
    if not isinstance(size, TextPreprocessing):
        raise InjertoError(f"{network.spec} takes pictures; --task causal-lm needs a language model")
    if resolved.max_length and resolved.max_length > positions(network.model):
        warn(
            f"--max-length {resolved.max_length}: {network.spec} has positions for {positions(network.model):g} tokens"
        )
    if resolved.max_length:
        network.preprocessing = size = replace(size, max_length=min(size.max_length, resolved.max_length))
    tuned = apply_tuning(network, resolved.tuning_spec, resolved.layer_decay, resolved.seed)
    assert resolved.split_seed is not None
    blank = {name: replace(part, labels=(None,) * len(part)) for name, part in domains.items()}
    sides = split_domains(blank, (), resolved.split_seed)
    prepared = PreparedLanguage(
        recipe=resolved,
        domains=domains,
        sources=tuple(sources),
        sides=sides,
        backbone=network,
        tuned=tuned,
        plan=make_plan(network, resolved.precision, resolved.threads),
        responses=responses,
        examples={name: encode_domain(part, size) for name, part in domains.items()},
    )
    _announce(prepared, size)
    prepared.plan = replace(prepared.plan, cache="nothing (a language model's batches are packed anew)")
    prepared.seconds = time.perf_counter() - start
    return prepared


def _consistent(domains: Domains, responses: bool) -> Domains:
    """Prompts without a response teach nothing where responses are learned."""
    if not responses:
        return domains
    kept = {
        name: part.subset([i for i, label in enumerate(part.labels) if label is not None])
        for name, part in domains.items()
    }
    lost = sum(len(domains[name]) - len(part) for name, part in kept.items())
    if lost:
        warn(f"{lost} prompts without a response are left out")
    return Domains(
        {name: part for name, part in kept.items() if len(part)}, "text", domains.name, domains.problems, domains.used
    )


def _announce(prepared: PreparedLanguage, size: TextPreprocessing) -> None:
    """Say what was found, and refuse what cannot be learned from."""
    learned = 0
    for name in prepared.domains:
        counts, tokens = [], 0
        for side in ("train", "val", "test"):
            part, examples = prepared.part(name, side)
            counts.append(f"{len(part)} {side}")
            if side == "train":
                tokens = sum(len(piece.ids) - piece.first for pieces in examples for piece in pieces)
        role = role_of(name, prepared.sources, ())
        learned += tokens if role == "source" else 0
        note(f"data: {name} ({role}): {', '.join(counts)}" + (f"; {tokens:,} tokens" if role == "source" else ""))
    pieces = [found for name in prepared.domains for found in prepared.examples[name]]
    if prepared.responses:
        lost, cut = sum(not found for found in pieces), sum(not p.whole for found in pieces for p in found)
        if lost or cut:
            warn(
                f"of {len(pieces)} pairs, {cut} are cut at {size.max_length} tokens and {lost} have prompts as long: "
                "raise --max-length"
            )
    if not learned:
        raise InjertoError(
            f"{', '.join(prepared.sources)}: the train split has no tokens to learn; splits go by content: give "
            "more texts, and different ones"
        )
    if not any(len(prepared.part(name, "test")[0]) for name in prepared.sources):
        warn("no source has a test example: how good the result is will not be measured; add data or give a split")


class LanguageFit:
    """The stages of one run over shared state; :meth:`run` calls them in order."""

    def __init__(self, prepared: PreparedLanguage, folder: Path, clock: Clock) -> None:
        """Pack the train examples.

        Args:
            prepared: What to do.
            folder: The run's folder.
            clock: Collects seconds.
        """
        self.prepared, self.folder, self.clock = prepared, folder, clock
        self.recipe, self.plan = prepared.recipe, prepared.plan
        self.model = LanguageModel(prepared.backbone).to(self.plan.device).eval()
        size = prepared.backbone.preprocessing
        assert isinstance(size, TextPreprocessing)
        self.size = size
        train = {name: [p for found in prepared.part(name, "train")[1] for p in found] for name in prepared.sources}
        why = self.model.unpacked
        if why is not None:
            note(f"packing: {prepared.backbone.spec} takes one example a row ({why}); rows are padded instead")
        filler = size.tokenizer.pad_token_id or 0
        self.packed = Packed(train, size.max_length, filler, self.plan.device, why is not None)
        self.watch = Watch()

    def run(self, resume: bool) -> dict[str, Any]:
        """Do all of it.

        Args:
            resume: Whether to go on from the last checkpoint.

        Returns:
            The content of ``metrics.json``, which is written last.
        """
        clock, prepared = self.clock, self.prepared
        with clock.measure("evaluate"):
            before = {name: self._test(name, "before") for name in prepared.domains}
            samples = self._samples()
            said = self._say(samples)
        with clock.measure("train"):
            selection = self._train(resume)
            self.model.eval()
        with clock.measure("evaluate"), merged(self.model):
            after = {name: self._test(name, "after") for name in prepared.domains}
            now = self._say(samples)
        domains = {name: self._compare(name, before[name], after[name]) for name in prepared.domains}
        size = self._ship(domains)
        splits = read_rows(self.folder / FILE)[1]
        parameters = list(self.model.parameters())
        metrics = {
            "task": "causal-lm",
            "responses": prepared.responses,
            "domains": domains,
            "samples": [
                {"domain": name, "prompt": prompt, "before": old, "after": new}
                for (name, prompt, _), old, new in zip(samples, said, now, strict=True)
            ],
            "selection": selection,
            "parameters": {
                "total": sum(parameter.numel() for parameter in parameters),
                "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            },
            "adapter_bytes": size,
            "splits": splits,
            "seconds": {phase: round(seconds, 4) for phase, seconds in clock.seconds.items()},
            "warnings": [text for _, text in sorted(self.watch.said.items())],
        }
        metrics = save_metrics(self.folder, metrics)
        note(f"done: {self.folder}")
        return metrics

    def _train(self, resume: bool) -> dict[str, Any]:
        rows = sum(self.packed.sizes().values())
        assert self.recipe.batch_size is not None
        recipe = self.recipe.model_copy(update={"batch_size": min(self.recipe.batch_size, rows)})
        steps = count_steps(rows, recipe.batch_size or 1, recipe.steps, recipe.epochs)
        what = "padded" if self.packed.alone else "packed"
        note(f"{what}: {rows} rows of up to {self.size.max_length} tokens, {steps} steps of {recipe.batch_size}")
        trainer = Trainer(
            self.model,
            recipe,
            self.plan,
            self.prepared.tuned,
            self.packed,
            LanguageModelling(self.model, self.plan),
            self._validate,
            self.folder,
            self.watch,
        )
        return trainer.run(resume)

    def _validate(self) -> Score | None:
        """Minus NLL per token on source ``val``, averaged over the sources (twice: there is no accuracy)."""
        found = []
        for name in self.prepared.sources:
            _, examples = self.prepared.part(name, "val")
            nats, tokens = self._losses(examples, f"checking {name}")
            if tokens.sum():
                found.append(float(nats.sum() / tokens.sum()))
        return None if not found else (-float(np.mean(found)), -float(np.mean(found)))

    def _losses(self, examples: Sequence[Sequence[Encoded]], title: str) -> tuple[np.ndarray, np.ndarray]:
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        first, last = crew().share(len(examples))
        try:
            nats, tokens = token_losses(self.model, self.plan, examples[first:last], title)
            return crew().collect(nats), crew().collect(tokens)
        finally:
            for module, mode in modes:
                module.training = mode

    def _test(self, name: str, when: str) -> tuple[np.ndarray, np.ndarray]:
        return self._losses(self.prepared.part(name, "test")[1], f"{when}: {name}")

    def _compare(
        self, name: str, before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]
    ) -> dict[str, Any]:
        part, _ = self.prepared.part(name, "test")
        role = role_of(name, self.prepared.sources, ())
        found = {"before": perplexity(*before, part.groups), "after": perplexity(*after, part.groups)}
        change = None
        if after[1].sum():
            mean, low, high = ratio_interval(after[0] - before[0], after[1], part.groups)
            interval = [float(np.exp(low)), float(np.exp(high))] if len(set(part.groups)) > 1 else None
            change = {"ratio": float(np.exp(mean)), "interval": interval}
        return {"role": role, "splits": {"test": found["after"] | {"before": found["before"], "change": change}}}

    def _samples(self) -> list[tuple[str, str, list[int]]]:
        """Domain, prompt and its tokens of some held-out examples of the sources."""
        found = []
        for name in self.prepared.sources:
            part, examples = self.prepared.part(name, "test")
            for item, pieces in zip(part.inputs, examples, strict=True):
                if pieces:
                    first = pieces[0].first if self.prepared.responses else min(OPENING, (len(pieces[0].ids) + 1) // 2)
                    ids = [int(i) for i in pieces[0].ids[:first]]
                    shown = str(item) if self.prepared.responses else self.size.tokenizer.decode(ids)
                    found.append((name, shown, ids))
                if len(found) == SAMPLES:
                    return found
        return found

    def _say(self, samples: Sequence[tuple[str, str, list[int]]]) -> list[str]:
        return [generate(self.prepared.backbone, ids, SAMPLE_TOKENS) for _, _, ids in samples]

    def _ship(self, domains: Mapping[str, Any]) -> int:
        folder, prepared = self.folder / "adapter", self.prepared
        changed = changed_names(prepared.backbone, prepared.tuned, "frozen")
        size = save_tensors(folder, self.model, changed)
        quality = {
            name: {
                "role": entry["role"],
                "oracle": False,
                "test": {key: entry["splits"]["test"][key] for key in ("perplexity", "tokens", "n")},
            }
            for name, entry in domains.items()
        }
        save_card(
            folder, make_card(prepared.backbone, self.recipe, (), quality, prepared.responses, prepared.domains.used)
        )
        return size + (folder / "adapter_card.json").stat().st_size
