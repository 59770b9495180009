"""What happens before the first step: data, roles, backbone, splits, plan. All that can fail cheaply fails here."""

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from injerto.alignment.base import check_stages
from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError
from injerto.basics.progress import note, warn
from injerto.compute.cuts import Cut
from injerto.compute.embedding import open_backbone
from injerto.compute.inference import inference_plan
from injerto.compute.plan import ComputePlan
from injerto.compute.spaces import check_cache
from injerto.domains.domain import Domain, Domains
from injerto.domains.elsewhere import named_in
from injerto.domains.labels import look_alikes, means_no_label, several_in_one
from injerto.domains.load import load_domains
from injerto.domains.preprocessing import TextPreprocessing
from injerto.domains.texts import note_cut
from injerto.evaluation.domains import REPORTED, role_of
from injerto.recipe.defaults import defaults_for
from injerto.recipe.recipe import Recipe
from injerto.tasks.classification import class_map, encode
from injerto.training.cacheplan import plan_caches
from injerto.training.division import check_division, check_labels, divide, part_of
from injerto.training.examples import Stream
from injerto.training.reading import data_key, read_domains
from injerto.training.rehearsal import rehearse
from injerto.training.settings import check_mixing, check_roles, check_share, check_terms
from injerto.training.shared import is_shared, load_once
from injerto.training.stepplan import count_steps
from injerto.training.streams import few_labels, make_streams
from injerto.training.taps import stage_widths
from injerto.training.tracking import check_trackers
from injerto.tuning.base import Span, Tuned, apply_tuning, find_tuning
from injerto.tuning.norms import check_norm, norm_layers

REMEMBERED = 5
"""Examples of a class of the data to remember, at least, for a probe to be fitted and tested."""

SHOWN = 12
"""Names of classes in the line that says what was found."""


@dataclass
class Prepared:
    """A run that is ready to start.

    Attributes:
        recipe: Resolved: every open field is filled.
        domains: What was read.
        sources: Names of the sources.
        targets: Names of the targets.
        sides: ``train``, ``val``, ``test`` or ``""`` for every example of every domain.
        classes: The class map, from the sources.
        backbone: The pretrained model, frozen and thawed as the tuning says.
        tuned: What the tuning decided.
        plan: How to compute.
        seconds: How long loading took, imports not counted.
        remember: Labelled examples whose classes the backbone should still tell apart, None for none.
        spans: The run's steps by what is frozen in them.
        cuts: Where what frozen stages compute is kept, by their number.
        streams: What the steps draw from, by name.
        few: The labels of targets that are used, by domain and position in its train split.
        stages: Numbers in the pooled output of each stage that moves; empty where no alignment asks for stages.
    """

    recipe: Recipe
    domains: Domains
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    sides: dict[str, np.ndarray]
    classes: tuple[str, ...]
    backbone: Backbone
    tuned: Tuned
    plan: ComputePlan
    seconds: float = 0.0
    remember: Domains | None = None
    spans: tuple[Span, ...] = ()
    cuts: dict[int, Cut] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    few: dict[str, dict[int, str]] = field(default_factory=dict)
    stages: Mapping[int, int] = field(default_factory=dict)

    def part(self, name: str, side: str) -> Domain:
        """One split of one domain; a source's without its unlabelled examples.

        Args:
            name: The domain.
            side: ``train``, ``val`` or ``test``.
        """
        return part_of(self.domains[name], self.sides[name], side, labelled=name in self.sources)

    def parts(self, side: str, targets: bool = False) -> dict[str, Domain]:
        """One split of every source.

        Args:
            side: ``train``, ``val`` or ``test``.
            targets: Of every target instead.
        """
        return {name: self.part(name, side) for name in (self.targets if targets else self.sources)}

    @property
    def roles(self) -> tuple[str, ...]:
        """``source`` or ``target`` of every domain that is trained on: first the sources, then the targets."""
        return ("source",) * len(self.sources) + ("target",) * len(self.targets)

    def held_out(self, most: int) -> dict[str, Domain]:
        """Examples of every domain that is trained on, from which nothing is learned: of ``val``, or else of ``test``.

        Args:
            most: How many of each, at most.
        """
        found = {}
        for name in (*self.sources, *self.targets):
            part = self.part(name, "val")
            part = part if len(part) else self.part(name, "test")
            found[name] = part.first(most)
        return found

    def _unlearned(self, name: str, side: str) -> Domain:
        """A split, without the target examples whose labels were given away."""
        part, known = self.part(name, side), self.few.get(name, {})
        return part.subset([i for i in range(len(part)) if i not in known]) if side == "train" and known else part

    def labels(self, parts: Mapping[str, Domain]) -> dict[str, np.ndarray]:
        """Class indices of labelled parts.

        Args:
            parts: Domains by name.
        """
        return {name: encode(part.labels, self.classes) for name, part in parts.items()}

    def reported(self) -> dict[str, dict[str, Domain]]:
        """The splits that metrics are reported on, by domain."""
        found: dict[str, dict[str, Domain]] = {}
        for name in self.domains:
            sides = REPORTED[role_of(name, self.sources, self.targets)]
            found[name] = {side: part for side in sides if len(part := self._unlearned(name, side))}
        return found


def import_libraries() -> None:
    """Import what a run needs; it takes seconds that are the interpreter's, not the work's."""
    from importlib import import_module

    for name in ("timm", "transformers", "accelerate", "pandas", "sklearn.linear_model", "sklearn.metrics"):
        import_module(name)


def prepare(recipe: Recipe, data: Any, backbone: Any = None) -> Prepared:
    """Read the data, settle the roles, load the backbone and plan the work.

    Args:
        recipe: As the user gave it.
        data: What :func:`injerto.load_domains` takes.
        backbone: A module or loaded backbone in place of the recipe's name.

    Raises:
        InjertoError: Where anything does not fit together.
    """
    find_tuning(recipe.tuning_spec)
    check_terms(recipe)
    check_trackers(recipe.track)
    check_cache()
    start = time.perf_counter()
    loaded = domains = read_domains(recipe, data)
    sources, targets = settle_roles(recipe, domains)
    classes = class_map(domains, sources)
    domains = load_once("checked", data_key(recipe, data, recipe.skip_bad), lambda: loaded.check(recipe.skip_bad))
    for name in sources:
        domains.named(name)
    classes = class_map(domains, sources)
    resolved = recipe.resolved(domains.modality, check_labels(recipe, domains, sources))
    sides = divide(resolved, domains, sources)
    resolved = _for_few(recipe, resolved, domains, sources, sides)
    check_division(resolved, domains, sides, sources, targets)
    check_share(resolved, len(sources))
    assert resolved.split_seed is not None
    adapted = {name: part_of(domains[name], sides[name], "train", labelled=False) for name in targets}
    few = few_labels(resolved.target_labels, adapted, classes, resolved.split_seed)
    remember = _remember(recipe, domains.modality) if recipe.remember else None
    importing = time.perf_counter()
    import_libraries()
    start += time.perf_counter() - importing
    network = backbone_of(resolved, data, domains, backbone)
    if backbone is not None:
        resolved = resolved.model_copy(update={"backbone": network.spec})
    check_mixing(resolved, network)
    tuned = apply_tuning(network, resolved.tuning_spec, resolved.layer_decay, resolved.seed)
    stages = {}
    if any("stages" in term.options for term in resolved.alignment_terms):
        stages = stage_widths(network, tuned.frozen_stages)
        check_stages(resolved.alignment_terms, stages)
    assert resolved.norm is not None
    check_norm(network, resolved.norm)
    if resolved.norm == "recalibrate:target" and not targets:
        raise InjertoError("--norm recalibrate:target needs a --target")
    if resolved.norm == "train" and not norm_layers(network):
        note(f"--norm train: {network.spec} has no BatchNorm; it changes nothing")
        resolved = resolved.model_copy(update={"norm": "frozen"})
    if resolved.head == "native" and network.native_head is None:
        raise InjertoError(
            f"--head native: {network.spec} has no classifier of its own that fits its embedding; use --head linear "
            "(export --format merged writes transformers' own classifier where it can hold that)"
        )
    prepared = Prepared(
        recipe=resolved,
        domains=domains,
        sources=sources,
        targets=targets,
        sides=sides,
        classes=classes,
        backbone=network,
        tuned=tuned,
        plan=rehearse(network, tuned, inference_plan(network, resolved.precision, resolved.threads), resolved),
        remember=remember,
        few=few,
        stages=stages,
    )
    if resolved.neck != (recipe.neck or "none"):
        note(f"neck: {resolved.neck} numbers between embedding and head; the alignment acts on them")
    terms = resolved.alignment_terms
    prepared.streams = make_streams(prepared.parts("train"), adapted, classes, resolved.policy, terms, few)
    if not any(len(part) for part in prepared.parts("val").values()):
        if resolved.average == "swad":
            raise InjertoError(
                "--average swad looks for a valley on source val, and no source has val examples; use ema"
            )
        if resolved.select == "best-source-val":
            note("no source has a val split: the last checkpoint is kept")
    _announce(prepared)
    if isinstance(network.preprocessing, TextPreprocessing):
        note_cut([str(text) for domain in domains.values() for text in domain.inputs], network.preprocessing)
    _check_measurable(prepared)
    plan_caches(prepared)
    prepared.seconds = time.perf_counter() - start
    return prepared


def _check_measurable(prepared: Prepared) -> None:
    """Say where nothing will be measured."""
    chosen = any(side for name in prepared.sources for side in prepared.domains[name].given)
    if not chosen and not any(len(part) for part in prepared.parts("test").values()):
        warn("no source has a test example: how good the result is will not be measured; add data or give a split")


def _for_few(
    recipe: Recipe, resolved: Recipe, domains: Domains, sources: Sequence[str], sides: Mapping[str, np.ndarray]
) -> Recipe:
    """Few examples: the default batch holds each once, and the default epochs become the table's least steps."""
    row = defaults_for(domains.modality, resolved.tuning_spec.kind)
    assert resolved.batch_size is not None
    train = sum(int((sides[name] == "train").sum()) for name in sources)
    if recipe.batch_size is None:
        resolved = resolved.model_copy(update={"batch_size": max(1, min(row.batch_size, train))})
    few = count_steps(train, resolved.batch_size or 1, None, resolved.epochs) < row.least_steps
    if recipe.epochs is None and recipe.steps is None and few:
        resolved = resolved.model_copy(update={"epochs": None, "steps": row.least_steps})
    return resolved


def settle_roles(recipe: Recipe, domains: Domains) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the sources and of the targets.

    Args:
        recipe: As the user gave it.
        domains: What was read.

    Raises:
        InjertoError: Where a name is unknown, or there twice, or a setting needs a domain more.
    """
    targets = named_in(domains, recipe.target)
    sources = recipe.source or only_domain(domains, targets)
    for name in sources:
        domains.named(name)
    for name in set(sources) & set(targets):
        raise InjertoError(f"domain '{name}' is given as --source and as --target; choose one")
    if len(set(targets)) < len(targets):
        raise InjertoError("a --target is named twice; name each domain once")
    if len(set(sources)) < len(sources):
        raise InjertoError("a --source is named twice; name each domain once")
    check_roles(recipe, len(sources), len(targets))
    return sources, targets


def _remember(recipe: Recipe, modality: str) -> Domains:
    """The labelled examples of ``--remember DATA`` or ``DATA:DOMAIN``."""
    data = recipe.remember or ""
    path, colon, name = data.rpartition(":")
    try:
        found = load_domains(path if colon and not Path(data).exists() else data, allow_outside=recipe.allow_outside)
    except InjertoError as error:
        raise InjertoError(f"--remember {data}: {error}") from None
    if found.modality != modality:
        raise InjertoError(f"--remember {data} holds {found.modality}s, the data to learn from are {modality}s")
    parts = [found.named(name)] if colon and not Path(data).exists() else list(found.values())
    kept = {part.name: part.subset([i for i, label in enumerate(part.labels) if label is not None]) for part in parts}
    kept = {name: part for name, part in kept.items() if len(part)}
    counts = Counter(label for part in kept.values() for label in part.labels)
    if len(counts) < 2:
        raise InjertoError(f"--remember {data}: a probe needs examples of two or more classes")
    if sorted(counts.values())[-2] < REMEMBERED:
        raise InjertoError(f"--remember {data}: a probe needs {REMEMBERED} or more examples of two or more classes")
    return Domains(kept, found.modality, data, found.problems).check(recipe.skip_bad)


def only_domain(domains: Domains, targets: Sequence[str] = ()) -> tuple[str, ...]:
    """The one domain to learn from where none is named.

    Args:
        domains: What was read.
        targets: Those of them that are targets.

    Raises:
        InjertoError: Where there are several.
    """
    left = [name for name in domains if name not in targets]
    if len(left) == 1:
        return (left[0],)
    raise InjertoError(
        f"{domains.name} has {len(left)} domains; say which to learn from with --source: {', '.join(left)}"
    )


def backbone_of(recipe: Recipe, data: Any, domains: Domains, given: Any = None) -> Backbone:
    """The pretrained model of a run, for it alone.

    Args:
        recipe: Resolved.
        data: As the user gave them.
        domains: What was read.
        given: A module or loaded backbone in place of the recipe's name.

    Raises:
        InjertoError: Where it cannot be loaded, or takes the other modality.
    """
    network = _backbone(recipe, data, given)
    if network.modality != domains.modality:
        raise InjertoError(
            f"{domains.name} holds {domains.modality}s, {network.spec} takes {network.modality}s; "
            "choose another --backbone"
        )
    return network


def _backbone(recipe: Recipe, data: Any, given: Any) -> Backbone:
    if given is not None:  # copied: the user's own stays as it is
        own = copy.deepcopy(given)
        if not isinstance(own, Backbone):
            return load_backbone(own, image_size=recipe.image_size)
        own.identify()  # it may have been trained since it was loaded
        return own
    name = recipe.backbone
    assert name is not None
    loaded = named_backbone(name, data, recipe.image_size, recipe.max_length)
    return copy.deepcopy(loaded) if is_shared() else loaded


def named_backbone(name: str, data: Any, image_size: int | None, max_length: int | None) -> Backbone:
    """A pretrained model by its name, loaded once where runs share what they load: it must stay as it is then.

    Args:
        name: As :func:`injerto.load_backbone` takes it.
        data: What it is for.
        image_size: Pixels a side; the model's own where not given.
        max_length: Tokens a text, at most.
    """
    key = name, data if isinstance(data, str) else None, image_size, max_length
    return load_once("backbone", key, lambda: open_backbone(name, data, image_size, max_length))


def _announce(prepared: Prepared) -> None:
    """Say what was found, and what no number will be able to show."""
    for name, domain in prepared.domains.items():
        sides = {side: len(prepared.part(name, side)) for side in ("train", "val", "test")}
        blank = sum(label is None for label in domain.labels)
        left_out = " left out" if name in prepared.sources else ""
        extra = f", {blank} without label{left_out}" if blank else ""
        counts = ", ".join(f"{count} {side}" for side, count in sides.items())
        role = role_of(name, prepared.sources, prepared.targets)
        unmeasured = "" if sides["test"] or role != "unseen" else ": nothing of it will be measured"
        note(f"data: {name} ({role}): {counts}{extra}{unmeasured}")
    names = ", ".join(f"'{name}'" if "," in name else name for name in prepared.classes[:SHOWN])
    names += ", ..." if len(prepared.classes) > SHOWN else ""
    note(f"data: {len(prepared.classes)} classes: {names}")
    for called in prepared.classes:
        if means_no_label(called):
            warn(f"'{called}' is taken for a class; where there is none leave it empty (pictures: a folder _unlabeled)")
    for what, names_of in (("classes", prepared.classes), ("domains", prepared.domains)):
        if alike := look_alikes(names_of):
            shown = " and ".join(ascii(one) if one.casefold() != alike[0][0].casefold() else one for one in alike[0])
            warn(f"{what} that look alike are taken for different ones: {shown}")
    if joined := several_in_one(prepared.classes):
        warn(
            f"{len(joined)} classes look like several labels in one cell (first: '{joined[0]}'); each is taken for one "
            "class, as an example has one"
        )
    given: dict[str, set[str]] = {}
    for name in prepared.sources:
        for content, label in zip(prepared.domains[name].contents, prepared.domains[name].labels, strict=True):
            if label is not None:
                given.setdefault(content, set()).add(label)
    for name in prepared.targets:
        same = len(given.keys() & set(prepared.domains[name].contents))
        if same:
            note(f"data: {same} inputs of target '{name}' are in a source too; its numbers say little about transfer")
    torn = [sorted(labels) for labels in given.values() if len(labels) > 1]
    if torn:
        warn(f"inputs that are there with different labels: {len(torn)} (the first as {' and '.join(torn[0])})")
    unlearned = _warn_of_unlearned(prepared)
    for side in ("val", "test"):
        present = {label for part in prepared.parts(side).values() for label in part.labels}
        absent = [label for label in prepared.classes if label not in present and label not in unlearned]
        if present and absent:
            shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            note(f"data: no source has a {side} example of {len(absent)} of {len(prepared.classes)} classes ({shown})")


def _warn_of_unlearned(prepared: Prepared) -> set[str]:
    """Warn of classes that no source has a train example of: no answer will ever be one of them."""
    counts = {
        side: Counter(label for part in prepared.parts(side).values() for label in part.labels)
        for side in ("train", "val", "test")
    }
    absent = [label for label in prepared.classes if not counts["train"][label]]
    if absent:
        held = "; ".join(
            f"{label} ({counts['val'][label]} in val, {counts['test'][label]} in test)" for label in absent[:5]
        )
        more = f"; and {len(absent) - 5} more" if len(absent) > 5 else ""
        warn(
            f"no source has a train example of {len(absent)} of {len(prepared.classes)} classes: {held}{more}: they "
            "cannot be learned, and their examples count as mistakes"
        )
    return set(absent)
