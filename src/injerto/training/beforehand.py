"""What many runs share is checked before the first of them, and refused once."""

from collections.abc import Sequence
from typing import Any

from injerto.basics.progress import quiet, silent
from injerto.compute.spaces import check_cache
from injerto.domains.domain import Domains
from injerto.recipe.recipe import Recipe
from injerto.tasks.classification import class_map
from injerto.training.division import check_division, check_labels, divide
from injerto.training.prepare import backbone_of, settle_roles
from injerto.training.reading import data_key, read_domains
from injerto.training.settings import check_terms
from injerto.training.shared import load_once
from injerto.training.tracking import check_trackers
from injerto.tuning.base import find_tuning


def check_shared(recipes: Sequence[Recipe], data: str) -> None:
    """Refuse what would end many runs alike: cache settings, settings, data, roles, splits and the backbone.

    Examples that cannot be decoded are reported here, and not by the runs; call this inside
    :func:`injerto.training.shared.shared_loading`, so that the runs find what was loaded.

    Args:
        recipes: One of every row, as the user gave them.
        data: What they learn from.

    Raises:
        InjertoError: Where one of them cannot begin.
    """
    check_cache()
    first = recipes[0]
    loaded = read_domains(first, data)
    for name in dict.fromkeys(name for recipe in recipes for name in recipe.source or ()):
        loaded.named(name)
    with quiet():  # a row without alignment is what its target is for
        for recipe in recipes:
            find_tuning(recipe.tuning_spec)
            check_terms(recipe)
            check_trackers(recipe.track)
            class_map(loaded, settle_roles(recipe, loaded)[0])
    key = data_key(first, data, first.skip_bad)
    domains = load_once("checked", key, lambda: loaded.check(first.skip_bad))
    seen: list[Any] = []
    with silent():  # every run says these things of itself
        for recipe in recipes:
            if data_key(recipe, data, recipe.skip_bad) == key:
                _check_split(recipe, domains, seen)
        if len({(recipe.backbone, recipe.image_size, recipe.max_length) for recipe in recipes}) == 1:
            backbone_of(first.resolved(domains.modality), data, domains)


def _check_split(recipe: Recipe, domains: Domains, seen: list[Any]) -> None:
    """Check the division of the data for every choice of roles and splits once."""
    sources, targets = settle_roles(recipe, domains)
    resolved = recipe.resolved(domains.modality, check_labels(recipe, domains, sources))
    choice = (sources, targets, recipe.shots, resolved.split_seed, bool(recipe.alignment_terms))
    if choice not in seen:
        seen.append(choice)
        check_division(resolved, domains, divide(resolved, domains, sources), sources, targets)
