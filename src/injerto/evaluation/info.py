"""Facts about a backbone, a run or this machine, for people and programs."""

from pathlib import Path
from typing import Any

from injerto.adapters.card import read_card
from injerto.adapters.load import adapter_folder
from injerto.adapters.snapshot import CARD, LISTED, Place, opened
from injerto.alignment.base import alignments
from injerto.backbones.load import GROUP as BACKBONES
from injerto.backbones.load import load_backbone
from injerto.backbones.packaged import PACKAGED
from injerto.basics.files import file_sha256
from injerto.basics.plugins import plugins
from injerto.compute.machine import machine
from injerto.compute.plan import make_plan
from injerto.evaluation.run import Run
from injerto.recipe.grammar import GROUP, TUNINGS
from injerto.recipe.recipe import load_recipe


def describe(subject: str | None, allow_modified: bool = False) -> dict[str, Any]:
    """What is known about a subject.

    Args:
        subject: A backbone's name or folder, a run's folder, or None for this machine.
        allow_modified: Go on where an adapter's files are not what was written with its card.

    Raises:
        InjertoError: Where there is no such thing, or it is damaged.
    """
    if subject is None:
        return {
            "machine": str(machine()),
            "packaged_backbones": [f"packaged:{name}" for name in PACKAGED],
            "other_backbones": ["timm:NAME", "hf:NAME", *(f"{kind}:NAME" for kind in plugins(BACKBONES))],
            "tunings": [*TUNINGS, *plugins(GROUP)],
            "alignments": alignments(),
        }
    path = Path(subject)
    unfinished = {"state": "not finished; go on with --resume"}
    if path.is_dir() and any((folder / "adapter_card.json").exists() for folder in (path, path / "adapter")):
        card = _card(adapter_folder(path), allow_modified)
        state = {}
        if (path / "recipe.yaml").exists():
            finished = (path / "metrics.json").exists() and Run(path).metrics  # told where it is damaged
            state = {"state": "finished"} if finished else unfinished
        return {"run": str(path), **state, **card, "machine": str(machine())}
    if (path / "recipe.yaml").exists():
        recipe = load_recipe(path / "recipe.yaml")
        return {"run": str(path), **unfinished, **{k: v for k, v in recipe.items() if v not in (None, [], "")}}
    backbone = load_backbone(subject)
    plan = make_plan(backbone)
    sizes = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    return {
        "backbone": backbone.spec,
        "hub_id": backbone.hub_id,
        "licence": backbone.licence,
        "modality": backbone.modality,
        "embedding_dim": backbone.embedding_dim,
        "parameters": sum(sizes.values()),
        "stages": [
            {"stage": index, "name": stage.name, "parameters": sum(sizes.get(name, 0) for name in stage.parameters)}
            for index, stage in enumerate(backbone.stages)
        ],
        "preprocessing": backbone.preprocessing.card(),
        "any_size": getattr(backbone, "any_size", False),
        "fingerprint": backbone.fingerprint,
        "plan": plan.lines(),
    }


def _card(folder: Path, allow_modified: bool) -> dict[str, Any]:
    """An adapter's card, whose files are those that it names."""
    with opened(Place(folder, allow_modified=allow_modified)) as files:
        card = read_card(files)
        sums = card.get("files") or {}
        for name in (name for name in LISTED if name in sums and name in files):
            if file_sha256(folder / name) != sums[name]:
                files.changed(name, f"is not what was written with {CARD}")
    return card
