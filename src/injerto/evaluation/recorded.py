"""What a run began with and ended with, with checksums, so that changes and damage show.

``splits.csv`` has the examples and their splits, ``base.json`` what the base model is and the checksums of what is
written before the first step, ``metrics.json``, written last, the checksums of all that a run reports.
"""

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from injerto.backbones.backbone import Backbone
from injerto.backbones.identity import difference, distance, is_identity
from injerto.basics.checksums import content_checksum, file_checksum, read_sealed, write_sealed
from injerto.basics.errors import InjertoError
from injerto.basics.escapes import read_guarded
from injerto.basics.files import sha256, write_csv
from injerto.basics.progress import note, warn
from injerto.compute.machine import installed_versions
from injerto.domains.domain import Domain
from injerto.recipe.recipe import load_recipe

FILE = "splits.csv"
BASE = "base.json"
METRICS = "metrics.json"
RECIPE = "recipe.yaml"
BEGUN = (RECIPE, FILE)
"""Written before the first step, and never again."""
PLACES = ("data", "backbone", "split_file")
"""Of a recipe, where things lie: they may be moved and the recipe be edited, for what they hold is compared itself."""
MOVED = "recipe.yaml (places)"
"""Key of the checksum of a recipe's places: where they differ it is said, and the rest is refused."""
REPORTED = (*BEGUN, BASE, "predictions.csv", "log.jsonl")
"""What stands beside ``metrics.json`` when it is written."""
SLIMMED = (FILE, "predictions.csv", "log.jsonl")
"""Those of them that a search removes of runs that do not win."""
AGAIN = "make the run again (fit: with --overwrite; in a comparison or search: remove its folder)"
SAME = 1e-4
"""Largest difference between the outputs of a base on the probe before and after an interruption."""
HEADER = ("domain", "content", "split")
Row = tuple[str, str, str]
"""Domain, content hash and split."""


def identity_of(folder: Path, fingerprint: str) -> str:
    """What tells a run from all that would compute something else: its base, recipe and splits.

    Args:
        folder: The run's folder.
        fingerprint: Of the base model.
    """
    return sha256(fingerprint, json.dumps(_sums_of(folder, BEGUN)))


def save_metrics(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``metrics.json`` with the checksums of what stands beside it, which ends a run.

    Args:
        folder: The run's folder.
        metrics: What it is to hold.

    Returns:
        What it holds.
    """
    content = {**metrics, "files": _sums_of(folder, REPORTED) | _places_of(folder)}
    write_sealed(folder / METRICS, content)
    return content


def load_metrics(folder: Path) -> dict[str, Any]:
    """What ``metrics.json`` holds.

    Args:
        folder: A finished run's.

    Raises:
        InjertoError: Where it is damaged.
    """
    return read_sealed(folder / METRICS, AGAIN)


def _sums_of(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: _sum_of(folder / name) for name in names if (folder / name).is_file()}


def _sum_of(path: Path) -> str:
    return file_checksum(path) if path.name != RECIPE else _sum_of_recipe(path, places=False)


def _sum_of_recipe(path: Path, places: bool) -> str:
    fields = {name: value for name, value in load_recipe(path).items() if (name in PLACES) is places}
    return content_checksum(json.loads(json.dumps(fields, default=str)))


def _places_of(folder: Path) -> dict[str, str]:
    return {MOVED: _sum_of_recipe(folder / RECIPE, places=True)} if (folder / RECIPE).is_file() else {}


def check_recorded(folder: Path, names: Sequence[str] = REPORTED) -> None:
    """Refuse files of a run that are not what it wrote; runs of earlier versions have no checksums.

    Args:
        folder: The run's folder.
        names: Those that matter.

    Raises:
        InjertoError: Where one was damaged, changed or removed.
    """
    noted: Any = {}
    if (folder / METRICS).exists():
        noted = load_metrics(folder).get("files") or {}
    elif (folder / BASE).exists():
        noted = read_sealed(folder / BASE, AGAIN).get("files") or {}
    for name in names:
        if isinstance(noted, dict) and name in noted:
            try:
                if name in SLIMMED and not os.path.lexists(folder / name):
                    continue  # whoever needs it says that it is missing
                if not (folder / name).is_file():
                    raise OSError("no such file")
                found = _sum_of(folder / name)
            except OSError as error:
                raise InjertoError(f"cannot read {folder / name}: {error.strerror or error}; {AGAIN}") from None
            if found != noted[name]:
                raise InjertoError(
                    f"{folder / name} is damaged, or was changed since the run wrote it; bring it back, or {AGAIN}"
                )
    if RECIPE in names and isinstance(noted, dict) and noted.get(MOVED) not in (None, *_places_of(folder).values()):
        warn(f"{folder / RECIPE} names other places ({', '.join(PLACES)}) than the run wrote; they are taken as moved")


def save_splits(folder: Path, domains: Mapping[str, Domain], sides: Mapping[str, np.ndarray]) -> str:
    """Write ``splits.csv``: which content was in which split.

    Args:
        folder: The run's folder.
        domains: What was read.
        sides: ``train``, ``val``, ``test`` or ``""`` (written as ``unused``) for every example of every domain.

    Returns:
        The SHA-256 of what was written.
    """
    return save_rows(folder, _rows(domains, sides))


def save_rows(folder: Path, rows: Sequence[Row]) -> str:
    """Write ``splits.csv`` from its rows.

    Args:
        folder: The run's folder.
        rows: Domain, content hash and split.

    Returns:
        The SHA-256 of what was written.
    """
    return sha256(write_csv(folder / FILE, HEADER, rows))


def read_rows(path: Path) -> tuple[list[Row] | None, str]:
    """What stands in a ``splits.csv``.

    Args:
        path: The file; it is there.

    Returns:
        Its rows, None where it is damaged; and the SHA-256 of its text, as :func:`save_rows` returned it.

    Raises:
        InjertoError: Where it cannot be read at all.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise InjertoError(f"cannot read {path}: {error.strerror or error}; {AGAIN}") from None
    try:
        rows = read_guarded(text)
    except csv.Error:
        rows = []
    sound = bool(rows) and tuple(rows[0]) == HEADER
    return [(row[0], row[1], row[2]) for row in rows[1:] if len(row) == 3] if sound else None, sha256(text)


def changes(folder: Path, domains: Mapping[str, Domain], sides: Mapping[str, np.ndarray]) -> str | None:
    """What is different from the data that a run began with, in words; None where nothing is, or no record is there.

    Args:
        folder: The run's folder.
        domains: What was read now.
        sides: As for :func:`save_splits`.
    """
    before = _recorded(folder)
    if before is None or before == _rows(domains, sides):
        return None
    return _difference(before, domains) or "the same examples are divided otherwise"


def save_base(folder: Path, backbone: Backbone) -> None:
    """Write ``base.json``, unless an earlier start of the run has written it.

    Args:
        folder: The run's folder.
        backbone: The base model, as it was loaded or tuned since.
    """
    if not (folder / BASE).exists():
        write_sealed(folder / BASE, _describe(backbone) | {"files": _sums_of(folder, BEGUN)})


def base_changes(folder: Path, backbone: Backbone, chat: bool = False) -> str | None:
    """In what a run's base model is another one by now, in words; None where it is the same, or no record is there.

    Other versions of the libraries are no other base: they are named in a note.

    Args:
        folder: The run's folder.
        backbone: The base model, as it was loaded or tuned since.
        chat: Whether the chat template counts.

    Raises:
        InjertoError: Where the record is damaged.
    """
    path = folder / BASE
    if not path.exists():
        return None
    before = read_sealed(path, f"it cannot be told which base model the run had; {AGAIN}")
    try:
        was, versions = dict(before["preprocessing"]), dict(before["versions"])
        weights, mark, own = str(before["fingerprint"]), before["identity"], str(before["definition"])
    except (ValueError, LookupError, TypeError):
        was, mark = {}, None
    if not is_identity(mark):
        raise InjertoError(f"{path} is damaged: it cannot be told which base model the run had; {AGAIN}")
    now = _describe(backbone)
    if weights != now["fingerprint"]:
        return "other weights"
    if words := difference(mark, now["identity"], chat):
        return words
    for name, value in now["preprocessing"].items():
        if was.get(name) != value and name != "tokenizer":  # a name only: what it does was compared
            return f"another preprocessing ({name} {value}, not {was.get(name)})"
    other = [
        f"{name} {versions.get(name)} -> {new}" for name, new in now["versions"].items() if versions.get(name) != new
    ]
    if not other and own != now["definition"]:
        return "another configuration or code"
    if mark["version"] == now["identity"]["version"] and distance(mark["probe"], now["identity"]["probe"]) > SAME:
        return "another configuration or code (its outputs on a probe differ)"
    if other and not (folder / "metrics.json").exists():
        note(f"{folder} was begun with other versions: {', '.join(other)}; its last digits may not be the same")
    return None


def _describe(backbone: Backbone) -> dict[str, Any]:
    return {
        "spec": backbone.spec,
        "fingerprint": backbone.fingerprint,
        "identity": backbone.identity.card(),
        "definition": backbone.identity.definition,
        "preprocessing": json.loads(json.dumps(backbone.preprocessing.card())),
        "versions": installed_versions("tokenizers", "pillow", "numpy") | {"python": platform.python_version()},
    }


def check_sibling(folder: Path, domains: Mapping[str, Domain], out: Path, skip_bad: bool = False) -> None:
    """Refuse to put runs on other data beside one that is there: what is compared must have seen the same.

    Args:
        folder: The earlier run's folder.
        domains: What was read now, before it was looked for what cannot be decoded.
        out: The folder of all, for the message.
        skip_bad: Whether what cannot be decoded is left out, so that what is there now and was not then says nothing.

    Raises:
        InjertoError: Where examples have come or gone.
    """
    before = _recorded(folder)
    words = None if before is None else _difference(before, domains)
    if words and not (skip_bad and "gone" not in words):
        raise InjertoError(f"--out {out} has runs on other data: {words}; bring the data back, or name another folder")


def _rows(domains: Mapping[str, Domain], sides: Mapping[str, np.ndarray]) -> list[Row]:
    return [
        (name, content, side or "unused")
        for name, domain in domains.items()
        for content, side in zip(domain.contents, sides[name], strict=True)
    ]


def _recorded(folder: Path) -> list[Row] | None:
    path = folder / FILE
    if not path.exists():
        return None
    check_recorded(folder, [FILE])
    rows = read_rows(path)[0]
    if rows is None:
        raise InjertoError(f"{path} is damaged: it cannot be told what the run learned from; {AGAIN}")
    return rows


def _difference(before: Sequence[Row], domains: Mapping[str, Domain]) -> str | None:
    """How many examples have come and gone since."""
    then = {(name, content) for name, content, _ in before}
    now = {(name, content) for name, domain in domains.items() for content in domain.contents}
    words = [f"{len(some)} {what}" for some, what in ((then - now, "are gone"), (now - then, "are new")) if some]
    return f"of {len(then)} examples {' and '.join(words)}" if words else None
