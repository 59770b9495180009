"""Whether the base models of finished runs are still what they were: runs that are compared must have the same."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.recipe.recipe import load_recipe


def check_bases(runs: Iterable[Path], data: Any, out: Path) -> None:
    """Refuse to put runs beside finished ones whose base model is another one by now. Each model is loaded once.

    Args:
        runs: Folders of finished runs.
        data: What they learned from.
        out: The folder of all, for the message.

    Raises:
        InjertoError: Where a base model has changed or is gone, or a run's recipe is damaged.
    """
    from injerto.evaluation.recorded import BASE, RECIPE, base_changes, check_recorded
    from injerto.training.prepare import named_backbone

    alike: dict[tuple[Any, ...], list[Path]] = {}
    for run in runs:
        if (run / BASE).exists() and (run / RECIPE).exists():
            check_recorded(run, [RECIPE])
            recipe = load_recipe(run / RECIPE)
            key = tuple(recipe.get(name) for name in ("backbone", "image_size", "max_length"))
            alike.setdefault(key, []).append(run)
    for (name, image_size, max_length), folders in alike.items():
        try:
            base = named_backbone(str(name), data, image_size, max_length)
        except InjertoError as error:
            raise InjertoError(f"the base model that {folders[0] / RECIPE} names: {error}") from error
        for run in folders:
            if words := base_changes(run, base):
                raise InjertoError(
                    f"--out {out}: the base model {name} is another one since {run.name} was done: {words}; bring it "
                    "back, or name another folder"
                )
