"""Recipes that come with the package: YAML in ``injerto/recipes``, each with its measured score beside it."""

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "recipes"
ABOUT = "about"
"""The entry of such a file that is no setting: what it is for, what was measured, where that is written down."""


def shipped_recipes() -> dict[str, Path]:
    """Their files by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def describe_recipes() -> dict[str, dict[str, Any]]:
    """What stands in each: ``about`` and ``settings``, by name."""
    import yaml

    found = {}
    for name, path in shipped_recipes().items():
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[name] = {"about": settings.pop(ABOUT), "settings": settings}
    return found


def measured_text(about: dict[str, Any]) -> str:
    """The measured score for people.

    Args:
        about: Of a recipe.
    """
    measured = about["measured"]
    seeds = f"{measured['seeds']} seeds"
    if "perplexity" in measured:
        ratio, low, high = (f"{measured[name]:.2f}" for name in ("ratio", "low", "high"))
        return f"perplexity {measured['before']:.1f} -> {measured['perplexity']:.1f}, x{ratio} [{low}, {high}], {seeds}"
    accuracy, low, high = (f"{100 * measured[name]:.1f}" for name in ("accuracy", "low", "high"))
    text = f"{accuracy} % [{low}, {high}], {seeds}"
    if "gain" not in measured:
        return text
    gain, low, high = (f"{100 * measured[name]:+.1f}" for name in ("gain", "gain_low", "gain_high"))
    none = "no certain difference: " if measured["gain_low"] <= 0 <= measured["gain_high"] else ""
    return f"{text}; {none}{gain} [{low}, {high}] points over {measured['over']}"
