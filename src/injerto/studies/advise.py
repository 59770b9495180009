"""What to try first: a short ranked list of recipes, each with its reason, its minutes here and its command.

The rules were fixed on `emoji-styles` (docs/alignment.md, benchmarks/studies) and look at no label of a target:

1. **alignment.** :func:`injerto.evaluation.verdict.choose_alignment`: ``mmd``, ``mcc`` where the classes of texts
   seem to be distributed differently, none where no difference can be shown, and without a target.
2. **tuning.** The more may move, the more is gained: the first of ``full``, ``last:2`` (pictures: 71.4 % of line
   drawings with ``mmd``, LoRA 67.6 %), ``lora:last:2`` and ``head`` that is done within the time given. For a text
   model with few labels ``head`` first: nothing else beat it.
3. The first recipe without its alignment is always there: what it must beat.
"""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.basics.progress import quiet, silent
from injerto.compute.embedding import open_backbone
from injerto.domains.domain import Domains
from injerto.domains.elsewhere import paths_elsewhere
from injerto.domains.load import check_reading, load_domains
from injerto.evaluation.gap import measure_gap
from injerto.evaluation.verdict import choose_alignment
from injerto.recipe.command import fit_command
from injerto.recipe.defaults import BACKBONES
from injerto.recipe.recipe import make_recipe
from injerto.training.prepare import prepare, settle_roles

TUNINGS = {"image": ("full", "last:2", "lora:last:2", "head"), "text": ("full", "lora:last:2", "head")}
"""By modality, most gain first."""
WHY = {
    "full": "everything moves: most accurate where there is time",
    "last:2": "the last stages move: frozen ones run once",
    "lora:last:2": "a small adapter on the last stages: frozen ones run once",
    "head": "only the new layers move: seconds, and an honest baseline",
}
STEPS = 200
"""Steps of a recipe with a target whose backbone moves; measured: enough for most of the gain."""
FEW = 30
"""Labelled examples a class below which a text model's head is trained alone."""


def advise(
    data: Any,
    *,
    source: str | Sequence[str] = (),
    target: str | Sequence[str] = (),
    backbone: str | PathLike[str] | None = None,
    minutes: float = 30,
    image_size: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    skip_bad: bool = False,
    **reading: Any,
) -> dict[str, Any]:
    """Recipes worth trying on some data, best guess first.

    Args:
        data: What :func:`injerto.fit` takes.
        source: Domains that are labelled and trained on.
        target: Domains that are trained on without labels.
        backbone: A name or a folder; the modality's default where not given.
        minutes: What a run may take on this machine.
        image_size: Pixels a side.
        max_length: Tokens a text.
        seed: Of the measured gap and of the splits.
        threads: CPU threads, all cores where not given.
        skip_bad: Leave out inputs that cannot be read.
        **reading: ``input``, ``label``, ``domain``, ``group`` as for :func:`injerto.load_domains`.

    Returns:
        ``facts`` (what was measured) and ``recipes``: each with ``backbone``, ``tuning``, ``alignment``, ``settings``,
        ``minutes`` (estimated), ``why`` and ``command``.

    Raises:
        InjertoError: Where the data or the names do not fit.

    Examples:
        >>> found = injerto.advise("emoji-styles", source="noto", target="openmoji-line")  # doctest: +SKIP
        >>> print(found["recipes"][0]["command"])  # doctest: +SKIP
    """
    shown = str(data) if isinstance(data, str | PathLike) else "DATA"
    check_reading(reading)
    recipe = make_recipe(data=shown, source=source, target=target)
    roles = {"source": list(recipe.source), "target": list(recipe.target)}
    if minutes <= 0:
        raise InjertoError(f"--minutes is a number above 0, not {minutes:g}")
    sizes = {"image_size": image_size, "max_length": max_length, "threads": threads, "skip_bad": skip_bad}
    domains = load_domains(data, **reading, extra=paths_elsewhere(recipe.target)).check(skip_bad)
    with quiet():
        sources, targets = settle_roles(recipe, domains)
    name = str(backbone or BACKBONES[domains.modality])
    network = open_backbone(name, data, image_size, max_length)
    facts = _facts(domains, sources, targets, network, seed, threads)
    given = {**roles, "backbone": name if backbone else None, **sizes, "seed": seed, **reading}

    def entry(tuning: str, alignment: str, why: str) -> dict[str, Any]:
        settings: dict[str, Any] = {"tuning": tuning, "alignment": alignment}
        if targets and tuning != "head":
            settings["steps"] = STEPS
        everything = {name: value for name, value in {**given, **settings}.items() if value}
        with silent():  # what is to be said of the data has been said
            plan = prepare(make_recipe(data=shown, **everything), domains, network).plan
        found = {"backbone": name, "tuning": tuning, "alignment": alignment, "settings": settings}
        return found | {"minutes": (plan.seconds or 0.0) / 60, "why": why, "command": fit_command(shown, everything)}

    alignment, reason = _alignment(facts)
    recipes = [entry(tuning, alignment, f"{reason}; {WHY[tuning]}") for tuning in TUNINGS[facts["modality"]]]
    few = facts["modality"] == "text" and facts["a_class"] < FEW

    def place(one: dict[str, Any]) -> tuple[float, bool]:
        """What fits into the time, then the rest, quickest first."""
        return one["minutes"] if one["minutes"] > minutes else 0, few and one["tuning"] != "head"

    recipes.sort(key=place)
    if alignment != "none":
        recipes.append(entry(recipes[0]["tuning"], "none", "the first one without its alignment: what it must beat"))
    return {"data": shown, "facts": facts, "minutes": minutes, "recipes": recipes}


def _facts(
    domains: Domains, sources: Sequence[str], targets: Sequence[str], network: Any, seed: int, threads: int | None
) -> dict[str, Any]:
    """The widest gap between a source and a target, and how many labels there are."""
    labels = [label for name in sources for label in domains[name].labels if label is not None]
    a_class = len(labels) / max(1, len(set(labels)))
    pairs: list[dict[str, Any]] = []
    if targets:
        blind = {name: domains[name] for name in sources}
        blind |= {name: replace(domains[name], labels=(None,) * len(domains[name])) for name in targets}
        seen = Domains(blind, domains.modality, domains.name)
        gap = measure_gap(seen, backbone=network, seed=seed, threads=threads)
        pairs = [p for p in gap.content["pairs"] if {p["a"], p["b"]} & set(targets) and {p["a"], p["b"]} & set(sources)]
    widest = max(pairs, key=lambda pair: pair["mmd2"], default=None)
    measured = {"modality": domains.modality, "labelled": len(labels), "a_class": a_class, "sources": list(sources)}
    return measured | {"targets": list(targets), "gap": widest}


def _alignment(facts: dict[str, Any]) -> tuple[str, str]:
    """What must match, and why."""
    if not facts["targets"]:
        return "none", "no target: plain training on the sources is hard to beat"
    if facts["gap"] is None:
        return "none", "too few examples to measure a gap"
    return choose_alignment(facts["gap"], facts["modality"])
