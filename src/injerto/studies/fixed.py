"""What all runs of a comparison or a search have in common."""

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.recipe.recipe import merge_settings

SEVERAL = ("source", "target", "track")
"""Fields that hold several names; as values of an axis they have / between them."""


def check_named(data: Any, settings: Mapping[str, Any], who: str) -> None:
    """Refuse data and backbones in memory: runs are told apart, and gone on with, by what their settings say.

    Args:
        data: As given.
        settings: As given.
        who: The function that was called.

    Raises:
        InjertoError: Where they are not named.
    """
    if not isinstance(data, str | PathLike):
        raise InjertoError(f"{who} goes on where it stopped, so its data have a name: give a path, or that of a sample")
    if not isinstance(settings.get("backbone") or "", str | PathLike):
        raise InjertoError(f"{who} tells its runs apart by their settings: give the name or the folder of a backbone")


def fixed_settings(
    config: str | PathLike[str] | None, settings: Mapping[str, Any], varied: Iterable[str]
) -> dict[str, Any]:
    """What is the same for all runs, ready for JSON: a file's settings, and over them those given by name.

    Args:
        config: The file, None for none. Its data and seeds, and what is varied, are left out.
        settings: By name; None and nothing mean not given.
        varied: Names that have another value in every run.

    Returns:
        Fields of the recipe. Those that may have several values are lists.

    Raises:
        InjertoError: As :func:`injerto.recipe.recipe.load_recipe`.
    """
    given = {name: value for name, value in settings.items() if value is not None and value != () and value != []}
    dropped = {"data", "seed", "split_seed", "defaults_version", *varied}
    for one, other in (("steps", "epochs"), ("epochs", "steps")):  # what is varied wins over the file's
        if one in dropped:
            dropped.add(other)
    merged = {name: value for name, value in merge_settings(config, given).items() if value is not None}
    merged = {name: value for name, value in merged.items() if name in given or name not in dropped}
    for name, value in merged.items():
        if isinstance(value, PathLike):
            merged[name] = str(value)
        elif isinstance(value, tuple) or (name in SEVERAL and isinstance(value, str)):
            merged[name] = [value] if isinstance(value, str) else list(value)
    return merged
