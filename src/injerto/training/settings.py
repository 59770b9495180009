"""Settings of the second dial that must fit the data and the backbone; checked before compute is spent."""

from injerto.alignment.base import check_needs, check_stages, find_alignment
from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.recipe.recipe import Recipe
from injerto.training.mixing import has_maps
from injerto.training.robust import read_objective
from injerto.training.selection import check_rule


def check_terms(recipe: Recipe) -> None:
    """Refuse terms that are not there.

    Args:
        recipe: As the user gave it.

    Raises:
        InjertoError: Where a name or an option is unknown, or settings exclude each other.
    """
    read_objective(recipe.objective)
    if "mixup" in recipe.mixing and recipe.objective.startswith("irm"):
        raise InjertoError("--objective irm needs whole labels, and --augment mixup mixes them")
    if "mixstyle" in recipe.mixing and (recipe.tuning_spec.kind == "head" or recipe.tuning_spec.last is not None):
        raise InjertoError(
            f"--augment mixstyle acts below what --tuning {recipe.tuning} moves; use --tuning full or lora"
        )
    if recipe.alignment_terms and recipe.patience:
        raise InjertoError("--patience chooses by source val, and an aligned run keeps its last step; leave it out")
    for term in recipe.alignment_terms:
        kind, options = find_alignment(term)
        if recipe.tuning_spec.kind == "head":
            check_stages([term], ())
        if options.get("frequencies") == "estimated" and options["estimator"] == "linear":
            raise InjertoError(
                f"--alignment {term.name}: frequencies=estimated has no estimator=linear; leave one of them out"
            )
        if term.weight == 0:
            note(f"--alignment {term.name}:0 changes nothing: its weight is 0; it is only measured")
        if "labels" in kind.needs and "mixup" in recipe.mixing:
            raise InjertoError(f"--alignment {term.name} needs whole labels, and --augment mixup mixes them")
        moves = recipe.tuning_spec.kind != "head" or recipe.neck != "none"
        if "gradient" in kind.needs and not moves:
            raise InjertoError(
                f"--alignment {term.name}: --tuning head with --neck none leaves no embedding that can move; leave "
                "--neck out"
            )


def check_roles(recipe: Recipe, sources: int, targets: int) -> None:
    """Refuse terms whose domains are not there.

    Args:
        recipe: As the user gave it.
        sources: Number of sources.
        targets: Number of targets.

    Raises:
        InjertoError: Where a term needs a domain more.
    """
    check_needs(recipe.alignment_terms, sources, targets)
    check_rule(recipe.select, targets)
    if targets and not (recipe.alignment_terms or recipe.target_labels or "target" in (recipe.norm or "")):
        note("--alignment none: the target is only measured, nothing is learned from it")
    if recipe.objective != "erm" and sources < 2:
        name = recipe.objective.split("(")[0]
        raise InjertoError(f"--objective {name} compares sources: it needs two or more --source domains")


def check_share(recipe: Recipe, sources: int) -> None:
    """Refuse steps in which a domain has too few examples to be compared with another.

    Args:
        recipe: Resolved.
        sources: Number of sources.

    Raises:
        InjertoError: Where a part of a step holds fewer than two examples of a source.
    """
    assert recipe.batch_size is not None
    if recipe.alignment_terms and recipe.batch_size // sources // recipe.accumulate < 2:
        least = 2 * sources * recipe.accumulate
        parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
        raise InjertoError(
            f"--batch-size {recipe.batch_size}{parts} leaves fewer than two examples of a source to align; use "
            f"{least} or more"
        )
    if recipe.alignment_terms and recipe.accumulate > 1:
        note(f"--accumulate {recipe.accumulate}: every part of a step is aligned for itself, on fewer examples")


def check_mixing(recipe: Recipe, backbone: Backbone) -> None:
    """Refuse to mix what cannot be mixed.

    Args:
        recipe: Resolved.
        backbone: The pretrained model.

    Raises:
        InjertoError: Where mixup meets token ids, or MixStyle a network without feature maps.
    """
    frozen = recipe.tuning_spec.kind == "head"
    if "mixup" in recipe.mixing and backbone.modality == "text" and not frozen:
        raise InjertoError("--augment mixup mixes pictures or embeddings, not texts; with texts use --tuning head")
    if "mixstyle" in recipe.mixing and not has_maps(backbone):
        raise InjertoError(f"--augment mixstyle mixes feature maps, and {backbone.spec} has none; leave it out")
