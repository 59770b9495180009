"""One run by several processes: all compute, the first one keeps."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from injerto.basics.errors import InjertoError
from injerto.basics.lock import LOCK, check_free
from injerto.basics.progress import silent
from injerto.basics.removal import remove_temporary, scratch_folder
from injerto.compute.crew import joined
from injerto.recipe.recipe import Recipe

if TYPE_CHECKING:
    from injerto.evaluation.run import Run


def fit_together(fit: Callable[[Path], "Run"], folder: Path) -> "Run":
    """Fit with the processes that a launcher has started beside this one.

    The first one works in the run's folder. The others work in copies of it, which are thrown away: every process goes
    through the same steps, and what one of them reads at the end of training must be there for all.

    Args:
        fit: From a folder to a finished run.
        folder: The run's; the same for all processes, on a disk that all see.

    Returns:
        The run in the run's folder.

    Raises:
        InjertoError: Where another job writes into the folder; each of the processes refuses that by itself.
    """
    check_free(folder)
    with joined() as crew:
        if crew.leads:
            crew.wait()
            run = fit(folder)
            crew.wait()
            return run
        place = scratch_folder()
        try:
            if folder.is_dir():
                shutil.copytree(folder, place / "run", ignore=shutil.ignore_patterns(LOCK))
            crew.wait()
            with silent():
                run = fit(place / "run")
            crew.wait()
        finally:
            remove_temporary(place)
        run.path = folder
        return run


def check_together(recipe: Recipe, size: int) -> None:
    """Refuse what several processes cannot compute as one does.

    Args:
        recipe: Resolved.
        size: How many processes there are.

    Raises:
        InjertoError: Where a step needs rows of several processes below the embedding, or has too few rows.
    """
    assert recipe.batch_size is not None
    if recipe.norm == "train":
        raise InjertoError("--norm train takes statistics of a whole batch, and each process has a part; use frozen")
    if recipe.mixing:
        raise InjertoError(f"--augment {recipe.augment} mixes examples of different processes; leave the mixing out")
    if recipe.batch_size < size * recipe.accumulate:
        raise InjertoError(
            f"--batch-size {recipe.batch_size} is too small for {size} processes and --accumulate {recipe.accumulate}"
        )
