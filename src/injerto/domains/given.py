"""``--split-file``: a CSV ``path,split`` that gives splits by path."""

from collections.abc import Mapping
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.domains.columns import SIDES, UNLABELLED_SIDES
from injerto.domains.rows import Rows
from injerto.domains.tables import read_table


def apply_split_file(rows: Rows, path: Path) -> None:
    """Set given splits from a list; paths are those of the examples' sources, or end as exactly one of them does.

    Args:
        rows: The examples; ``given`` (and the labels of ``unlabeled``) change in place.
        path: A CSV file with the columns ``path`` and ``split``.

    Raises:
        InjertoError: For a missing column, an unknown split, a path that is no example or an ambiguous end of several,
            or a path in two splits.
    """
    if not path.is_file():
        raise InjertoError(f"no split file {path}; name a CSV file with the columns path and split")
    columns, _ = read_table(path)
    missing = [column for column in ("path", "split") if column not in columns]
    if missing:
        raise InjertoError(
            f"{path} has no column '{missing[0]}' (columns: {', '.join(columns)}); a split file is path,split"
        )
    index = {source: position for position, source in enumerate(rows.sources)}
    endings: dict[str, int] | None = None
    sides: dict[int, str] = {}
    unknown: list[str] = []
    for place, side in zip(columns["path"], columns["split"], strict=True):
        place, side = place.strip().removeprefix("./"), side.strip().lower()
        if side not in SIDES:
            raise InjertoError(f"{path}: '{side}' (of {place}) is no split; use train, val, test or unlabeled")
        position = _outer(place, index)
        if position is None:
            endings = _endings(rows.sources) if endings is None else endings
            position = endings.get(place)
        if position is None:
            unknown.append(place)
        elif position < 0:
            raise InjertoError(f"{path}: several examples end in '{place}'; write paths relative to the data's root")
        elif SIDES[sides.setdefault(position, side)] != SIDES[side]:
            raise InjertoError(
                f"{path}: overlap, '{place}' is in {sides[position]} and in {side}; keep one of the lines"
            )
    if unknown:
        example = f"such as '{rows.sources[0]}'" if rows.sources else "relative to the data's root"
        raise InjertoError(
            f"{path}: {len(unknown)} paths are no examples, first: '{unknown[0]}'; expected paths {example}"
        )
    for position, side in sides.items():
        rows.given[position] = SIDES[side]
        if side in UNLABELLED_SIDES:
            rows.labels[position] = None


def _outer(place: str, index: Mapping[str, int]) -> int | None:
    """The example whose source is the listed path, or what is left of it without wrapper folders."""
    while place not in index and "/" in place:
        place = place.partition("/")[2]
    return index.get(place)


def _endings(sources: list[str]) -> dict[str, int]:
    """Every proper end of every source, at a slash; -1 where several examples share it."""
    found: dict[str, int] = {}
    for position, source in enumerate(sources):
        while "/" in source:
            source = source.partition("/")[2]
            found[source] = -1 if source in found else position
    return found
