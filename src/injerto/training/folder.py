"""The folder of a run: whether it may be written into, and the earlier run beside it until a new one is finished."""

import json
import os
from contextlib import suppress
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.files import check_writable, clear_folder, entries, remove_leftovers, remove_tree
from injerto.basics.lock import set_aside
from injerto.basics.removal import remove_file

EARLIER = ".earlier.json"
"""Names the folder that an earlier run was moved to, in the folder of the run that replaces it."""
OWN = {
    "recipe.yaml",
    "metrics.json",
    "log.jsonl",
    "splits.csv",
    "base.json",
    "predictions.csv",
    "checkpoints",
    "adapter",
    "forgetting.png",
    "report.html",
    "injerto",  # TensorBoard's
    "wandb",
    "mlflow.db",
    "mlruns",
    EARLIER,
}
"""What a run and its trackers write into its folder."""


def check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to touch what belongs to others, or a run without its user's consent.

    Args:
        folder: It need not exist.
        resume: Whether the user wants to go on with a run.
        overwrite: Whether the user wants to replace one.

    Raises:
        InjertoError: Where the folder is something else's, or a run is there and neither is wanted.
    """
    if resume and overwrite:
        raise InjertoError("--resume and --overwrite exclude each other; give one")
    if folder.is_file():
        raise InjertoError(f"--out {folder} is a file; name a folder")
    check_writable(folder)
    names = entries(folder)
    if not names - {EARLIER}:
        return
    if not (resume or overwrite):
        if "recipe.yaml" not in names:
            raise InjertoError(f"--out {folder} holds other things than a run (no recipe.yaml); name another folder")
        raise InjertoError(
            f"--out {folder} exists already; add --resume to go on, --overwrite to replace it, or name another folder"
        )
    if "recipe.yaml" not in names:
        flag = "--resume" if resume else "--overwrite"
        raise InjertoError(f"{flag}: {folder} holds other things than a run (no recipe.yaml); name another folder")
    foreign = sorted(names - OWN)
    if overwrite and foreign:
        raise InjertoError(f"--overwrite: {folder} holds '{foreign[0]}', which no run wrote; move it away first")


def tidy(folder: Path) -> None:
    """Remove half-written files of a killed process.

    Args:
        folder: Of a run; held.
    """
    for place in (folder, folder / "adapter", folder / "checkpoints"):
        remove_leftovers(place)


def replace_run(folder: Path) -> Path | None:
    """Empty a run's folder; a finished run is moved beside it until the new one is finished.

    Args:
        folder: Held.

    Returns:
        The folder of the earlier run, None where there is none.

    Raises:
        InjertoError: Where it cannot be moved.
    """
    folder = folder.resolve()  # a link stays a link
    if not (folder / "metrics.json").exists():
        clear_folder(folder, keep=[EARLIER])
        return earlier_of(folder)
    before = earlier_of(folder)
    if before is not None:  # the run that replaced it is finished
        remove_tree(before)
    names = (f"{folder.name}.before{'' if number == 1 else f'-{number}'}" for number in range(1, 1000))
    aside = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    set_aside(folder, aside, {EARLIER: json.dumps({"folder": aside.name, "inode": folder.stat().st_ino}) + "\n"})
    return aside


def earlier_of(folder: Path) -> Path | None:
    """The folder of the earlier run that a run replaces; None where there is none, or it is no such run any more.

    Args:
        folder: Of the run that replaces it.
    """
    try:
        noted = json.loads((folder / EARLIER).read_text(encoding="utf-8"))
        earlier = folder.resolve().with_name(str(noted["folder"]))
        ours = earlier.stat().st_ino == noted["inode"] and earlier.parent == folder.resolve().parent
    except (OSError, ValueError, KeyError, TypeError):
        return None
    names = entries(earlier)
    return earlier if ours and "metrics.json" in names and names <= OWN else None


def remove_earlier(folder: Path) -> None:
    """Remove the run that a finished one has replaced.

    Args:
        folder: Of the finished one; held.
    """
    earlier = earlier_of(folder)
    if earlier is not None:
        remove_tree(earlier)
    with suppress(OSError):
        remove_file(folder / EARLIER)
