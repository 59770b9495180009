"""The adapter card: everything a stranger needs to use the adapter, and nothing about who made it when or where."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from injerto.adapters.snapshot import CARD, LISTED, Place, Snapshot, opened
from injerto.backbones.backbone import Backbone
from injerto.backbones.identity import is_identity
from injerto.basics.errors import InjertoError
from injerto.basics.escapes import visible
from injerto.basics.files import file_sha256, sha256, write_text
from injerto.basics.json import load_json
from injerto.basics.lock import writer_of
from injerto.basics.progress import note
from injerto.compute.machine import installed_versions
from injerto.recipe.recipe import WIDEST_NECK, Recipe

FORMAT = 1
_PUBLIC = re.compile(r"(packaged|timm|hf):(hf-hub:)?[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w.-]+)?", re.ASCII)
"""A base that a card may name: never a path."""
ROLES = ("input", "label", "domain")
"""What a column of a table may have been read as."""


def base_name(backbone: Backbone) -> str:
    """How the card names the base: the hub id where known, else a spec without any path.

    Args:
        backbone: The pretrained model.
    """
    if backbone.hub_id:
        return backbone.hub_id
    prefix, _, rest = backbone.spec.rpartition(":")
    return (f"{prefix}:" if prefix else "") + Path(rest).name


def make_card(
    backbone: Backbone,
    recipe: Recipe,
    labels: tuple[str, ...],
    quality: dict[str, Any],
    responses: bool = False,
    columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The card of a finished run.

    Args:
        backbone: The pretrained model.
        recipe: Resolved.
        labels: Class names in the order of the logits; empty for a language model.
        quality: Metrics by domain, with their role.
        responses: Whether a language model learned to respond, not to go on with a text.
        columns: The column of the table that was read in each role (``input``, ``label``, ``domain``).
    """
    public = _PUBLIC.fullmatch(backbone.spec) and not Path(backbone.spec.partition(":")[2]).exists()
    return {
        "format": FORMAT,
        "task": recipe.task,
        "labels": list(labels),
        "responses": responses,
        "columns": dict(columns or {}),
        "base": {
            "name": base_name(backbone),
            "spec": backbone.spec if public else "",
            "fingerprint": backbone.fingerprint,
            "identity": backbone.identity.card(),
            "embedding_dim": backbone.embedding_dim,
            "licence": backbone.licence,
        },
        "preprocessing": backbone.preprocessing.card(),
        "tuning": recipe.tuning,
        "alignment": recipe.alignment,
        "head": recipe.head,
        "neck": recipe.neck or "none",
        "norm": recipe.norm,
        "selection": recipe.select,
        "metrics": quality,
        "seed": recipe.seed,
        "split_seed": recipe.split_seed,
        "defaults_version": recipe.defaults_version,
        "versions": installed_versions(),
        "licence_note": "The licences of the base model and of the training data apply to what is derived from them.",
    }


def save_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card, after the files that it describes; equal cards are equal bytes.

    Args:
        folder: The adapter's folder.
        card: From :func:`make_card`; the SHA-256 of every other file that is read is added, and one of the card itself.
    """
    files = {name: file_sha256(folder / name) for name in LISTED if (folder / name).exists()}
    card = json.loads(json.dumps(card | {"files": files}))
    card["checksum"] = card_sum(card)
    write_text(folder / CARD, json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def card_sum(card: Mapping[str, Any]) -> str:
    """The SHA-256 of a card's content, however it is laid out.

    Args:
        card: With or without its own ``checksum``, which is left out.
    """
    content = {key: value for key, value in card.items() if key != "checksum"}
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")))


def load_card(folder: Path, allow_modified: bool = False) -> dict[str, Any]:
    """Read and check a card, which may come from a stranger.

    Args:
        folder: The adapter's folder.
        allow_modified: Go on where the card is not as it was written.

    Raises:
        InjertoError: Where it is missing, too large, damaged, changed or of a newer format.
    """
    if not folder.is_dir():
        raise _unfinished(folder)
    with opened(Place(folder, allow_modified=allow_modified), [CARD]) as files:
        return read_card(files, False)


def read_card(files: Snapshot, whole: bool = True) -> dict[str, Any]:
    """The card of an adapter that is open; from now on every other file is compared with its checksums.

    Args:
        files: Open.
        whole: Whether the other files are wanted, too.

    Raises:
        InjertoError: As :func:`load_card`; where a file that it names is missing, or there is one that it does not.
    """
    folder, path = files.folder, files.folder / CARD
    if CARD not in files:
        raise _unfinished(folder)
    card = load_json(files.read(CARD), str(path))
    told = card_sum(card) if isinstance(card, dict) and "checksum" in card else None
    _check(card, path)
    if told is not None and card["checksum"] != told and (whole or not files.place.allow_modified):
        files.changed(CARD, "does not have the content that it was written with")
    files.sums = card.get("files")
    if not whole:
        return card
    if told is None:
        note(f"{folder} is of an earlier version and has no checksum of everything: it is read as it is")
        return card
    for name in LISTED:
        if (name in files) != (name in card["files"]):
            files.changed(name, f"is not among the files that {CARD} names" if name in files else "is missing")
    return card


def _unfinished(folder: Path) -> InjertoError:
    if writer := writer_of(folder) or writer_of(folder.parent):
        return InjertoError(f"{folder} holds no finished adapter: it is being written by {writer}; wait for its end")
    return InjertoError(
        f"{folder} holds no finished adapter ({CARD} is missing); give the folder of a finished run, "
        "or finish it with its command and --resume"
    )


def _check(card: Any, path: Path) -> None:
    wanted = {"format": int, "labels": list, "base": dict, "preprocessing": dict, "head": str, "neck": str, "task": str}
    for key, kind in wanted.items():
        if not isinstance(card, dict) or not isinstance(card.get(key), kind):
            raise InjertoError(f"{path} is damaged: '{key}' is missing or of the wrong kind")
    if type(card["format"]) is not int or card["format"] < 1:
        raise InjertoError(f"{path} is damaged: 'format' must be a number from 1")
    if card["format"] > FORMAT:
        raise InjertoError(f"{path} was written by a newer Injerto (format {card['format']}); upgrade to read it")
    if card["task"] not in ("classification", "causal-lm"):
        raise InjertoError(f"{path} is for the task {card['task'][:40]!r}, which this version does not know")
    sums, own = card.get("files"), card.get("checksum")
    summed = isinstance(sums, dict) and all(isinstance(text, str) for text in sums.values())
    if not (summed or (sums is None and own is None)) or not isinstance(own or "", str):
        raise InjertoError(f"{path} is damaged: 'files' and 'checksum' must hold checksums")
    labels = card["labels"]
    metrics = card.setdefault("metrics", {})
    if not isinstance(metrics, dict) or not all(isinstance(entry, dict) for entry in metrics.values()):
        raise InjertoError(f"{path} is damaged: 'metrics' is of the wrong kind")
    columns = card.get("columns", {})  # cards of earlier versions have none
    if not isinstance(columns, dict) or not all(key in ROLES and isinstance(columns[key], str) for key in columns):
        raise InjertoError(f"{path} is damaged: 'columns' must name the columns of {', '.join(ROLES)}")
    least = 2 if card["task"] == "classification" else 0
    if type(card.setdefault("responses", False)) is not bool:
        raise InjertoError(f"{path} is damaged: 'responses' must be true or false")
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels) or len(labels) < least:
        raise InjertoError(f"{path} is damaged: 'labels' must be two or more different names")
    if any(visible(label) != label or {"\t", "\n"} & set(label) for label in labels):
        raise InjertoError(f"{path} is damaged: 'labels' hold control characters")
    number = card["neck"].isdecimal() and len(card["neck"]) < 9
    neck_ok = card["neck"] == "none" or (number and 0 < int(card["neck"]) <= WIDEST_NECK)
    if card["head"] not in ("linear", "mlp", "probe", "native") or not neck_ok:
        raise InjertoError(f"{path} is damaged: head '{card['head'][:40]}' or neck '{card['neck'][:40]}' is unknown")
    for key in ("name", "spec", "fingerprint"):
        if not isinstance(card["base"].get(key), str):
            raise InjertoError(f"{path} is damaged: base '{key}' is missing")
    identity = card["base"].get("identity")
    if identity is not None and not is_identity(identity):
        raise InjertoError(f"{path} is damaged: base 'identity' is of the wrong kind")
    spec = card["base"]["spec"]
    if spec and not _PUBLIC.fullmatch(spec):
        raise InjertoError(f"{path}: base spec {spec[:80]!r} is no public model's name; name the base with --backbone")
