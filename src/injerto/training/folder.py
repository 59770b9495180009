"""The folder of a run: whether it may be written into, and the earlier run beside it until a new one is finished."""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.files import LEFTOVER, check_writable, entries, remove_leftovers, write_text
from injerto.basics.lock import set_aside, writer_of
from injerto.basics.progress import note
from injerto.basics.removal import remove_file, remove_listed

EARLIER = ".earlier.json"
"""Names the folder that an earlier run was moved to, in the folder of the run that replaces it."""
FILES = {
    "recipe.yaml",
    "metrics.json",
    "log.jsonl",
    "splits.csv",
    "base.json",
    "predictions.csv",
    "forgetting.png",
    "report.html",
    "mlflow.db",
    EARLIER,
}
"""What a run and its trackers write into its folder."""
FOLDERS = {
    "checkpoints": r"(last|best)\.safetensors",
    "adapter": r"adapter_card\.json|adapter_config\.json|README\.md|"
    r"(adapter_model|adapter_int8|head|drift)\.safetensors",
    "injerto": r"events\.out\.tfevents\..+|[0-9]+\.[0-9]+/.+",  # TensorBoard's
    "wandb": r"((offline-)?run-|latest-run|debug|settings).*",
    "mlruns": r"([0-9]+|\.trash|models)/.+",
}
"""Folders in it, and the paths that are the run's or a tracker's there."""
OWN = FILES | FOLDERS.keys()


def list_files(folder: Path) -> tuple[list[str], list[str]]:
    """Files and links below a run's folder: those that a run or its trackers wrote, and all others.

    Args:
        folder: A run's; links in it are not followed.

    Returns:
        Paths below it, with slashes; locks and half-written files are in neither.
    """
    own: list[str] = []
    foreign: list[str] = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders[:] = [name for name in folders if not LEFTOVER.fullmatch(name)]
        for name in (*files, *links):
            path = (Path(place) / name).relative_to(folder).as_posix()
            top, _, rest = path.partition("/")
            if not LEFTOVER.fullmatch(name):
                ours = re.fullmatch(FOLDERS[top], rest) if rest and top in FOLDERS else path in FILES
                (own if ours else foreign).append(path)
    return own, sorted(foreign)


def remove_run(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove what a run wrote into its folder, and the folder where it is empty then; what else is in it stays.

    Args:
        folder: A run's, which nobody else writes into.
        keep: Names of its files and folders that stay.
    """
    if folder.is_dir() and not folder.is_symlink():
        tidy(folder)
        remove_listed(folder, [path for path in list_files(folder)[0] if path.partition("/")[0] not in keep])


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run, which needs them no more.

    Args:
        folder: A finished run's.
    """
    remove_run(folder, OWN - {"checkpoints"})


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
    if overwrite and (foreign := list_files(folder)[1]):
        raise InjertoError(f"--overwrite: {folder} holds '{foreign[0]}', which no run wrote; move it away first")


def tidy(folder: Path) -> None:
    """Remove half-written files of a killed process.

    Args:
        folder: Of a run; held.
    """
    for place in (folder, *(folder / name for name in FOLDERS)):
        if not place.is_symlink() or place == folder:
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
        remove_run(folder, keep=[EARLIER])  # its lock is in it, so that it stays
        return earlier_of(folder)
    before = earlier_of(folder)
    if before is not None:  # the run that replaced it is finished
        _remove_noted(folder, before)
    names = (f"{folder.name}.before{'' if number == 1 else f'-{number}'}" for number in range(1, 1000))
    aside = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    set_aside(folder, aside, {EARLIER: json.dumps({"folder": aside.name, "inode": folder.stat().st_ino}) + "\n"})
    return aside


def earlier_of(folder: Path) -> Path | None:
    """The folder of the earlier run that a run replaces; None where there is none, or it is no such run any more.

    Args:
        folder: Of the run that replaces it.
    """
    earlier = _noted(folder)
    try:
        noted = json.loads((folder / EARLIER).read_text(encoding="utf-8"))
        ours = earlier is not None and earlier.stat().st_ino == noted["inode"] and not earlier.is_symlink()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if earlier is None or not ours:
        return None
    if noted.get("removed") is not True and not {"metrics.json", "recipe.yaml"} <= entries(earlier):
        return None
    return earlier if not writer_of(earlier) and not list_files(earlier)[1] else None


def remove_earlier(folder: Path) -> None:
    """Remove the run that a finished one has replaced.

    Args:
        folder: Of the finished one; held.
    """
    if not (folder / EARLIER).exists():
        return
    earlier = earlier_of(folder)
    if earlier is not None:
        _remove_noted(folder, earlier)
    elif (left := _noted(folder)) and left.is_dir():
        note(f"{left} is kept: it is no longer only the run that was replaced; remove it by hand")
    remove_file(folder / EARLIER)


def _remove_noted(folder: Path, earlier: Path) -> None:
    """Remove an earlier run, having noted that what is left of it, should this process be killed, is to go, too."""
    note_of = {"folder": earlier.name, "inode": earlier.stat().st_ino, "removed": True}
    write_text(folder / EARLIER, json.dumps(note_of) + "\n")
    remove_run(earlier)


def _noted(folder: Path) -> Path | None:
    """Where the earlier run was moved to, as the run that replaces it noted it; whatever is there now."""
    try:
        name = str(json.loads((folder / EARLIER).read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    alone = name not in ("", ".", "..") and Path(name).name == name
    return folder.resolve().with_name(name) if alone else None
