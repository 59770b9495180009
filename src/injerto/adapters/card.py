"""The adapter card: everything a stranger needs to use the adapter, and nothing about who made it when or where."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from injerto.backbones.backbone import Backbone
from injerto.backbones.identity import is_identity
from injerto.basics.errors import InjertoError
from injerto.basics.files import file_sha256, write_text
from injerto.basics.lock import writer_of
from injerto.basics.progress import warn
from injerto.compute.machine import installed_versions
from injerto.recipe.recipe import WIDEST_NECK, Recipe

CARD = "adapter_card.json"
ADAPTER = "adapter_model.safetensors"
INT8 = "adapter_int8.safetensors"
"""In place of the former, where pairs are stored as integers: PEFT, which would misread them, does not find it."""
HEAD = "head.safetensors"
TENSORS = (ADAPTER, INT8, HEAD)
"""Files of tensors in an adapter's folder."""
FORMAT = 1
_PUBLIC = re.compile(r"(packaged|timm|hf):(hf-hub:)?[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w.-]+)?", re.ASCII)
"""A base that a card may name: never a path."""
ROLES = ("input", "label", "domain")
"""What a column of a table may have been read as."""
LIMIT = 8_000_000
"""Largest card that is read, in bytes."""


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
    """Write the card, after the tensors that it describes; equal cards are equal bytes.

    Args:
        folder: The adapter's folder.
        card: From :func:`make_card`; the SHA-256 of every file of tensors is added.
    """
    card = card | {"files": {name: file_sha256(folder / name) for name in TENSORS if (folder / name).exists()}}
    write_text(folder / CARD, json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def warn_if_changed(folder: Path, card: dict[str, Any]) -> None:
    """Say it where a file of tensors is not the one that was written with the card: its answers cannot be trusted.

    A warning and no refusal, since weights may be edited on purpose. Cards of earlier versions have no sums.

    Args:
        folder: The adapter's folder, all of whose files were found to be sound.
        card: Its card.
    """
    files = card.get("files")
    if not isinstance(files, dict):
        return
    for name in TENSORS:
        if name in files and (folder / name).exists() and file_sha256(folder / name) != files[name]:
            warn(f"{folder / name} is not what was written with {CARD}: it is damaged, or was changed by hand")


def load_card(folder: Path) -> dict[str, Any]:
    """Read and check a card, which may come from a stranger.

    Args:
        folder: The adapter's folder.

    Raises:
        InjertoError: Where it is missing, too large, damaged or of a newer format.
    """
    path = folder / CARD
    try:
        if path.stat().st_size > LIMIT:
            raise InjertoError(f"{path} is larger than {LIMIT} bytes; this is no adapter card")
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        if writer := writer_of(folder) or writer_of(folder.parent):
            raise InjertoError(
                f"{folder} holds no finished adapter: it is being written by {writer}; wait for its end"
            ) from None
        raise InjertoError(
            f"{folder} holds no finished adapter ({CARD} is missing); give the folder of a finished run, "
            "or finish it with its command and --resume"
        ) from None
    except (ValueError, RecursionError):
        raise InjertoError(f"{path} is damaged: not valid JSON") from None
    _check(card, path)
    return card


def _check(card: Any, path: Path) -> None:
    wanted = {"format": int, "labels": list, "base": dict, "preprocessing": dict, "head": str, "neck": str, "task": str}
    for key, kind in wanted.items():
        if not isinstance(card, dict) or not isinstance(card.get(key), kind):
            raise InjertoError(f"{path} is damaged: '{key}' is missing or of the wrong kind")
    if card["format"] > FORMAT:
        raise InjertoError(f"{path} was written by a newer Injerto (format {card['format']}); upgrade to read it")
    if card["task"] not in ("classification", "causal-lm"):
        raise InjertoError(f"{path} is for the task {card['task'][:40]!r}, which this version does not know")
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
    neck_ok = card["neck"] == "none" or (card["neck"].isdecimal() and 0 < int(card["neck"]) <= WIDEST_NECK)
    if card["head"] not in ("linear", "mlp", "probe", "native") or not neck_ok:
        raise InjertoError(f"{path} is damaged: head '{card['head']}' or neck '{card['neck']}' is unknown")
    for key in ("name", "spec", "fingerprint"):
        if not isinstance(card["base"].get(key), str):
            raise InjertoError(f"{path} is damaged: base '{key}' is missing")
    identity = card["base"].get("identity")
    if identity is not None and not is_identity(identity):
        raise InjertoError(f"{path} is damaged: base 'identity' is of the wrong kind")
    spec = card["base"]["spec"]
    if spec and not _PUBLIC.fullmatch(spec):
        raise InjertoError(f"{path}: base spec {spec[:80]!r} is no public model's name; name the base with --backbone")
