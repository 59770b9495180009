"""From a folder back to a working model, on the right base or not at all."""

from pathlib import Path
from typing import Any

from injerto.adapters.artifact import load_tensors
from injerto.adapters.card import load_card
from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError
from injerto.recipe.recipe import load_recipe
from injerto.tasks.model import Model


def adapter_folder(path: Path) -> Path:
    """The adapter's own folder, from a run's folder or itself.

    Args:
        path: RUN or RUN/adapter.

    Raises:
        InjertoError: Where there is no such folder.
    """
    if not path.is_dir():
        raise InjertoError(f"no run at {path}; give the folder that 'injerto fit --out' made")
    return path / "adapter" if (path / "adapter").is_dir() else path


def load_model(path: Path, backbone: Any = None) -> tuple[Model, dict[str, Any]]:
    """Open an adapter on its base model.

    Args:
        path: RUN or RUN/adapter.
        backbone: The base (spec, folder or module) where the card cannot name it on this machine.

    Returns:
        The model and the card.

    Raises:
        InjertoError: Where the base is not the one the adapter was made for, or a file does not fit.
    """
    folder = adapter_folder(path)
    card = load_card(folder)
    base = _base(path, card, backbone)
    if base.fingerprint != card["base"]["fingerprint"]:
        raise InjertoError(
            f"{path} was made for the base model {card['base']['name']} with fingerprint "
            f"{card['base']['fingerprint'][:12]}; {base.spec} has {base.fingerprint[:12]}: it is refused"
        )
    neck = None if card["neck"] == "none" else int(card["neck"])
    model = Model(base, tuple(card["labels"]), card["head"], neck)
    load_tensors(folder, model)
    return model.eval(), card


def _base(path: Path, card: dict[str, Any], backbone: Any) -> Backbone:
    if isinstance(backbone, Backbone):
        return backbone
    recipe = path / "recipe.yaml" if (path / "recipe.yaml").exists() else path.parent / "recipe.yaml"
    spec = backbone or card["base"]["spec"] or (load_recipe(recipe).get("backbone") if recipe.exists() else None)
    if not spec:
        raise InjertoError(f"{path} needs its base model {card['base']['name']}; say where it is with --backbone")
    return load_backbone(spec, image_size=_image_size(card))


def _image_size(card: dict[str, Any]) -> int | None:
    size = card["preprocessing"].get("height")
    return int(size) if isinstance(size, int) and 16 <= size <= 4096 else None
