"""Whose examples a step draws from: the sources, the targets without their labels, and the few that are labelled."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from injerto.alignment.base import LABELLED, SECOND, find_alignment
from injerto.basics.errors import InjertoError, suggest
from injerto.basics.files import sha256
from injerto.basics.progress import note
from injerto.domains.columns import word
from injerto.domains.domain import Domain
from injerto.domains.strong_augment import strong_policy
from injerto.domains.tables import is_table, read_table
from injerto.recipe.grammar import AlignmentTerm
from injerto.tasks.classification import encode
from injerto.training.examples import Stream


def make_streams(
    sources: Mapping[str, Domain],
    targets: Mapping[str, Domain],
    classes: Sequence[str],
    augment: str,
    terms: Sequence[AlignmentTerm],
    few: Mapping[str, Mapping[int, str]],
) -> dict[str, Stream]:
    """The streams of a run. No label of a target gets into one, but those in ``few``.

    Args:
        sources: Labelled train examples by domain.
        targets: Train examples by domain.
        classes: The class map.
        augment: Augmentation policy.
        terms: The alignments; without any, targets are not drawn from.
        few: For each target, the labels of a few of its train examples by position.
    """
    streams = {
        name: Stream(part, encode(part.labels, classes), index, augment)
        for index, (name, part) in enumerate(sources.items())
    }
    second = any("views" in find_alignment(term)[0].needs for term in terms)
    for index, (name, part) in enumerate(targets.items(), len(sources)):
        known = few.get(name, {})
        if known:
            labels = encode(list(known.values()), classes)
            streams[f"{name}, labelled"] = Stream(part.subset(list(known)), labels, index, augment, view=LABELLED)
        if terms:
            unknown = np.full(len(part), -1, np.int64)
            streams[name] = Stream(part, unknown, index, augment, target=True)
            if second:
                strong = strong_policy(augment)
                streams[f"{name}, second view"] = Stream(part, unknown, index, strong, True, SECOND, name)
    return streams


def few_labels(
    wanted: str | None, targets: Mapping[str, Domain], classes: Sequence[str], seed: int
) -> dict[str, dict[int, str]]:
    """The labels of targets that ``--target-labels N|FILE`` gives away, by domain and position.

    Args:
        wanted: Examples a class of each target, or a CSV ``path,label`` whose paths end as the examples' own.
        targets: Train examples by domain.
        classes: The class map.
        seed: The split seed: which N are chosen is decided by SHA-256(seed, content).

    Raises:
        InjertoError: Where the file cannot be read, or its labels are none of the classes.
    """
    if wanted is None:
        return {}
    if wanted.isdecimal():
        kept = {name: _first_of_each(part, int(wanted), classes, seed) for name, part in targets.items()}
        for name in kept:
            if not kept[name]:
                raise InjertoError(
                    f"--target-labels {wanted}: '{name}' has no labels of the sources' classes to give away; name a "
                    "CSV path,label"
                )
            note(f"--target-labels {wanted}: {len(kept[name])} labels of '{name}' are learned from")
        return kept
    given = _read(Path(wanted), classes)
    found: dict[str, dict[int, str]] = {name: {} for name in targets}
    used = set()
    for name, part in targets.items():
        for position, source in enumerate(part.sources):
            pieces = source.split("/")
            for start in range(len(pieces)):
                path = "/".join(pieces[start:])
                if path in given:
                    found[name][position] = given[path]
                    used.add(path)
                    break
    missing = sorted(set(given) - used)
    if used and missing:
        note(
            f"--target-labels {wanted}: {len(missing)} of {len(given)} paths are no train example of a target and are "
            f"left out, '{missing[0]}' for one; those in val or test must not be learned from"
        )
    if not used:
        raise InjertoError(
            f"--target-labels {wanted}: none of its paths is a train example of a target ('{missing[0]}', for one); "
            "write paths as DOMAIN/CLASS/FILE or FILE, for tables as TABLE:LINE"
        )
    return found


def _first_of_each(part: Domain, count: int, classes: Sequence[str], seed: int) -> dict[int, str]:
    order = sorted(range(len(part)), key=lambda i: sha256(seed, "target labels", part.contents[i]))
    left, kept = Counter[str](), {}
    for position in order:
        label = part.labels[position]
        if label in classes and label is not None and left[label] < count:
            left[label] += 1
            kept[position] = label
    return dict(sorted(kept.items()))


def _read(path: Path, classes: Sequence[str]) -> dict[str, str]:
    if not path.is_file() or not is_table(path):
        why = "it is no table" if path.is_file() else "No such file"
        raise InjertoError(
            f"--target-labels {path}: {why}; give a whole number (labels of each class) or a CSV path,label"
        )
    columns, _ = read_table(path)
    if not {"path", "label"} <= set(columns):
        raise InjertoError(f"--target-labels {path}: needs the columns path and label (columns: {', '.join(columns)})")
    found: dict[str, str] = {}
    for place, cell in zip(map(str, columns["path"]), columns["label"], strict=True):
        label = word(cell)
        if label not in classes:
            known = suggest(label, list(classes))
            raise InjertoError(f"--target-labels {path}: no source has the class '{label}'; {known}")
        if found.setdefault(place, label) != label:
            raise InjertoError(f"--target-labels {path}: '{place}' has two labels, '{found[place]}' and '{label}'")
    return found
