"""The data of a run, read once where runs share what they load."""

from typing import Any

from injerto.domains.domain import Domains
from injerto.domains.elsewhere import paths_elsewhere
from injerto.domains.load import READING, load_domains
from injerto.recipe.recipe import Recipe
from injerto.training.shared import load_once


def read_domains(recipe: Recipe, data: Any) -> Domains:
    """The data that a recipe names, with domains from elsewhere; not yet decoded.

    Args:
        recipe: As the user gave it.
        data: What :func:`injerto.load_domains` takes.

    Raises:
        InjertoError: Where they cannot be read.
    """
    given = {name: getattr(recipe, name) for name in READING}
    extra = paths_elsewhere(recipe.target)
    return load_once("domains", data_key(recipe, data), lambda: load_domains(data, **given, extra=extra))


def data_key(recipe: Recipe, data: Any, *more: Any) -> Any:
    """What tells data that are read by name from others.

    Args:
        recipe: As the user gave it.
        data: What :func:`injerto.load_domains` takes.
        *more: What else tells them apart.

    Returns:
        None for an object, which cannot be told from others.
    """
    if not isinstance(data, str):
        return None
    return data, *(getattr(recipe, name) for name in READING), tuple(paths_elsewhere(recipe.target).items()), *more
