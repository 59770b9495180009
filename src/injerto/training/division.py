"""Which example is in which split, and whether that leaves enough to learn from; settled before a model is loaded."""

from collections.abc import Mapping, Sequence

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.basics.progress import warn
from injerto.domains.check import no_classes
from injerto.domains.domain import Domain, Domains
from injerto.domains.splits import keep_shots, split_domains
from injerto.recipe.recipe import Recipe

Sides = Mapping[str, np.ndarray]
"""``train``, ``val``, ``test`` or ``""`` for every example of every domain."""


def divide(recipe: Recipe, domains: Domains, sources: Sequence[str]) -> dict[str, np.ndarray]:
    """The side of every example; with ``shots`` a few a class are left in a source's ``train``.

    Args:
        recipe: Resolved.
        domains: All.
        sources: Names of the sources.
    """
    assert recipe.split_seed is not None
    sides = split_domains(domains, sources, recipe.split_seed)
    if recipe.shots:
        for name in sources:
            keep_shots(sides[name], domains[name], recipe.shots, recipe.split_seed)
    return sides


def part_of(domain: Domain, sides: np.ndarray, side: str, labelled: bool) -> Domain:
    """One split of a domain.

    Args:
        domain: The domain.
        sides: The side of each of its examples.
        side: ``train``, ``val`` or ``test``.
        labelled: Leave out examples without a label.
    """
    keep = sides == side
    if labelled:
        keep = keep & np.asarray([label is not None for label in domain.labels])
    return domain.subset([int(index) for index in np.flatnonzero(keep)])


def check_division(
    recipe: Recipe, domains: Domains, sides: Sides, sources: Sequence[str], targets: Sequence[str]
) -> None:
    """Refuse roles without examples to learn from; warn of a target that is a copy of a source.

    Args:
        recipe: Resolved.
        domains: All.
        sides: From :func:`divide`.
        sources: Names of the sources.
        targets: Names of the targets.

    Raises:
        InjertoError: Where a source has no labelled train example, or a target too few to align with.
    """
    for name in sources:
        if not len(part_of(domains[name], sides[name], "train", labelled=True)):
            raise InjertoError(f"source '{name}' has no labelled train examples; {_why(domains[name], sides[name])}")
    _check_classes(recipe, domains, sides, sources)
    known = {content for name in sources for content in domains[name].contents}
    for name in targets:
        if recipe.alignment_terms and (sides[name] == "train").sum() < 2:
            raise InjertoError(f"target '{name}' has fewer than two train examples to align with; add more")
        copies = sum(content in known for content in domains[name].contents)
        if 2 * copies > len(domains[name]):
            warn(
                f"{copies} of the {len(domains[name])} examples of target '{name}' are in a source too: how good it "
                "gets there says nothing of other data"
            )


def check_labels(recipe: Recipe, domains: Domains, sources: Sequence[str]) -> int:
    """Refuse labels that are hardly classes.

    Args:
        recipe: As the user gave it.
        domains: All.
        sources: Names of the sources.

    Returns:
        How many examples of the sources have a label.

    Raises:
        InjertoError: Where the labels are numbers, identifiers or free text by all appearance.
    """
    labels = [label for name in sources for label in domains[name].labels if label is not None]
    if why := no_classes(labels, domains.used.get("label"), recipe.label is not None):
        raise InjertoError(why)
    return len(labels)


def _check_classes(recipe: Recipe, domains: Domains, sides: Sides, sources: Sequence[str]) -> None:
    """Refuse train splits of one class, and name what has divided the examples so."""
    learned = {
        label
        for name in sources
        for label, side in zip(domains[name].labels, sides[name], strict=True)
        if label is not None and side == "train"
    }
    if len(learned) != 1:
        return
    if recipe.split_column or recipe.split_file:
        by = f"--split-column {recipe.split_column}" if recipe.split_column else f"--split-file {recipe.split_file}"
        cure = f"put examples of other classes into train ({by} says what is train)"
    elif any(side is not None for name in sources for side in domains[name].given):
        cure = "put examples of other classes into train (the data say what is train)"
    else:
        cure = "add different examples of other classes, or choose another --split-seed"
    raise InjertoError(f"every labelled train example is of the class '{learned.pop()}': {cure}")


def _why(domain: Domain, sides: np.ndarray) -> str:
    rows = [i for i, label in enumerate(domain.labels) if label is not None]
    listed = any(side is not None for side in domain.given)
    if rows and len({domain.groups[i] for i in rows}) == 1 and not listed:
        return (
            f"all its {len(rows)} labelled examples are one group (identical, or of one --group), which fell into "
            f"{sides[rows[0]]}: add different ones"
        )
    if not rows:
        return "it has no label at all: add some, or learn from other sources"
    if listed:
        return "none of its labelled examples is in train by the given splits: put some there"
    return f"its {len(rows)} labelled examples all fell into other splits: add more, or choose another --split-seed"
