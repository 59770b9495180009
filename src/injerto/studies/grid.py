"""The rows of a comparison: the grammar of its axes, one recipe for every row and seed, and what keeps them fair."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from os import PathLike
from typing import Any

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.files import sha256
from injerto.recipe.command import flags
from injerto.recipe.recipe import NECK, Recipe, make_recipe
from injerto.studies.fixed import SEVERAL

NO_AXIS = {
    "data": "compare reads one data set; call it once for each",
    "seed": "give --seeds",
    "task": "compare measures classifiers",
    "defaults_version": "it is the table's, not the user's",
}
"""Fields of a recipe that cannot be an axis, and why."""
MOST_SEEDS = 1000
LONGEST = 100
"""Characters of the readable part of a run's name."""


@dataclass(frozen=True)
class Planned:
    """One run that is to be done.

    Attributes:
        axes: Its value on every axis, as its recipe has it.
        recipe: What it is fitted with; fields left at None take the table's default.
        name: Of its folder; no two runs share one.
    """

    axes: Mapping[str, Any]
    recipe: Recipe
    name: str

    @property
    def label(self) -> str:
        """The row as people read it: ``tuning=lora alignment=mmd``."""
        return label_of(self.axes)

    @property
    def seed(self) -> int:
        """Its seed, of the splits too."""
        return self.recipe.seed


def label_of(axes: Mapping[str, Any]) -> str:
    """A row as people read it.

    Args:
        axes: Axis to value.
    """
    return " ".join(f"{axis}={text_of(value)}" for axis, value in axes.items())


def text_of(value: Any) -> str:
    """A setting's value as text.

    Args:
        value: Of a recipe's field.
    """
    if isinstance(value, list | tuple):
        return "/".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def split_values(text: str, axis: str) -> list[str]:
    """``none,mmd(kernel=rbf,stages=5/6):0.5`` -> its two values; commas inside parentheses do not split.

    Args:
        text: Values with commas between them.
        axis: Its name, for messages.

    Raises:
        InjertoError: Where a value is empty or a parenthesis is not closed.
    """
    values, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth < 0:
            break
        if letter == "," and not depth:
            values.append("")
        else:
            values[-1] += letter
    if depth:
        raise InjertoError(f"--grid {axis}={text}: a parenthesis is open; write for example mmd(stages=5/6)")
    values = [value.strip() for value in values]
    if not all(values):
        raise InjertoError(f"--grid {axis}={text}: a value is empty; write {axis}=a,b")
    return values


def parse_grid(items: Sequence[str]) -> dict[str, list[str]]:
    """Read the axes of the command line.

    Args:
        items: Each ``axis=a,b``.

    Returns:
        Axis to its values as written.

    Raises:
        InjertoError: Where an axis is not of that form, there twice, or has an empty value.
    """
    grid: dict[str, list[str]] = {}
    for item in items:
        name, equals, text = item.partition("=")
        axis = name.strip().replace("-", "_")
        if not (axis and equals):
            raise InjertoError(f"--grid '{item}' cannot be read; write axis=a,b, for example tuning=head,lora")
        if axis in grid:
            raise InjertoError(f"--grid names {name.strip()} twice; write all its values once: {name.strip()}=a,b,c")
        grid[axis] = split_values(text, name.strip())
    return grid


def parse_rows(items: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows beside the grid of the command line.

    Args:
        items: Each ``axis=value axis=value``; a value with spaces stands in quotes.

    Returns:
        Per row, axis to its value as written.

    Raises:
        InjertoError: Where a row is not of that form, or names an axis twice.
    """
    rows = []
    for item in items:
        try:
            words = shlex.split(item)
        except ValueError:
            words = []
        row: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            axis = name.replace("-", "_")
            if not (axis and equals and value) or axis in row:
                words = []
                break
            row[axis] = value
        if not words:
            raise InjertoError(f"--row '{item}' cannot be read; write each axis once: 'tuning=full alignment=none'")
        rows.append(row)
    return rows


def parse_seeds(text: str) -> int | list[int]:
    """``5`` for five seeds, or the seeds themselves with commas between them.

    Args:
        text: As the user wrote it.

    Raises:
        InjertoError: Where it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InjertoError(f"--seeds '{text}' must be a number of seeds, such as 5, or seeds such as 0,2,7")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def list_seeds(seeds: int | str | Sequence[int]) -> list[int]:
    """The seeds of a comparison.

    Args:
        seeds: How many (0, 1, ...), or which.

    Raises:
        InjertoError: Where there is none, or one is there twice.
    """
    if isinstance(seeds, str):
        if not seeds.isdecimal():
            raise InjertoError(f"--seeds is a number or a list of numbers, not '{seeds}'")
        seeds = int(seeds)
    if isinstance(seeds, int) and seeds > MOST_SEEDS:
        raise InjertoError(f"--seeds {seeds} is no number of seeds; up to {MOST_SEEDS} are done")
    found = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not found:
        raise InjertoError("--seeds must be 1 or more")
    if len(set(found)) < len(found):
        raise InjertoError("--seeds names a seed twice; name each once")
    return found


def check_grid(grid: Mapping[str, Sequence[Any] | str], settings: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The axes with their values.

    Args:
        grid: Axis to values (or to their text).
        settings: What is the same for all rows.

    Raises:
        InjertoError: Where an axis is unknown, has no value, or is a setting too.
    """
    if not isinstance(grid, Mapping):
        raise InjertoError(f"grid is a mapping such as {{'tuning': ['head', 'lora']}}, not {grid!r}")
    if not grid:
        raise InjertoError("nothing to compare: give an axis, for example --grid tuning=head,lora")
    known = [name for name in Recipe.model_fields if name not in NO_AXIS]
    checked = {}
    for axis, values in grid.items():
        flag = axis.replace("_", "-")
        if axis in NO_AXIS:
            raise InjertoError(f"--grid {flag}: {flag} is no axis; {NO_AXIS[axis]}")
        if axis not in known:
            raise InjertoError(f"--grid {flag}: unknown axis; {suggest(axis, known)}")
        if settings.get(axis) not in (None, ()):
            raise InjertoError(f"--{flag} is given as a flag and as an axis of --grid; choose one")
        checked[axis] = [
            _plain(axis, value) for value in (split_values(values, flag) if isinstance(values, str) else values)
        ]
        if not checked[axis]:
            raise InjertoError(f"--grid {flag} has no value; write {flag}=a,b")
    return checked


def _plain(axis: str, value: Any) -> Any:
    if axis in SEVERAL and isinstance(value, str) and "=" not in value:
        return value.split("/")
    return str(value) if isinstance(value, PathLike) else value


def _beside(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows beside the grid, their axes in its order."""
    found = []
    for row in rows:
        shown = label_of(row)
        for axis in row:
            if axis not in axes:
                known = ", ".join(name.replace("_", "-") for name in axes)
                raise InjertoError(f"--row '{shown}': {axis.replace('_', '-')} is no axis of --grid; it has {known}")
        for axis in axes:
            if axis not in row:
                raise InjertoError(f"--row '{shown}' leaves {axis.replace('_', '-')} open; name every axis of --grid")
        found.append({axis: _plain(axis, row[axis]) for axis in axes})
    return found


def plan_rows(
    data: str,
    grid: Mapping[str, Sequence[Any] | str],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    beside: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[Planned], list[str]]:
    """Every run of a comparison, rows in the order of the axes, then those beside them; the seeds of a row together.

    Rows are comparable: where a row is aligned or averaged by SWAD, all keep their last step; where a row with tuning
    ``head`` is aligned, all rows with tuning ``head`` get the neck that the alignment needs. A ``select`` or ``neck``
    that is given, as a setting or an axis, stays.

    Args:
        data: What is compared on.
        grid: Axis to values.
        seeds: Of every row.
        settings: Fields of the recipe that are the same for all rows.
        beside: Further rows, each with a value on every axis.

    Returns:
        The runs, and in words what was done to make them comparable.

    Raises:
        InjertoError: Where a row's recipe is not valid, a row beside the grid does not name its axes, or two rows are
            the same.
    """
    axes = check_grid(grid, settings)
    rows = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] + _beside(beside, list(axes))
    recipes = [_recipe(data, settings, row, {}) for row in rows]
    extra, words = _fair(recipes, {*axes, *(name for name, value in settings.items() if value is not None)})
    planned, seen = [], set()
    for row, plain, more in zip(rows, recipes, extra, strict=True):
        own = {axis: plain.model_dump(mode="json")[axis] for axis in axes}
        if (key := json.dumps(own)) in seen:
            given = "--grid and --row give" if beside else "--grid gives"
            raise InjertoError(f"{given} the row {label_of(own)} twice; name each value once")
        seen.add(key)
        slug = slug_of(own)
        for seed in seeds:
            recipe = _recipe(data, settings, row, {**more, "seed": seed})
            planned.append(Planned(own, recipe, f"{slug}-{seed}"))
    return planned, words


def _recipe(data: str, settings: Mapping[str, Any], row: Mapping[str, Any], more: Mapping[str, Any]) -> Recipe:
    fields = {**settings, **row, **more}
    try:
        recipe = make_recipe(data=data, **fields)
    except InjertoError as error:
        raise InjertoError(f"row {label_of(row)}: {error}") from None
    if recipe.task != "classification":
        raise InjertoError(f"--task {recipe.task}: compare measures classifiers; leave --task out")
    return recipe


def _fair(recipes: Sequence[Recipe], given: set[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """What every row's recipe needs besides, so that rows differ in their axes only."""
    extra: list[dict[str, Any]] = [{} for _ in recipes]
    words = []
    if "select" not in given and any(recipe.alignment_terms or recipe.average == "swad" for recipe in recipes):
        extra = [{"select": "last"} for _ in recipes]
        words.append("every row keeps its last step: aligned rows must, having no labels to choose a better one by")
    heads = [recipe.tuning_spec.kind == "head" for recipe in recipes]
    aligned = any(head and recipe.alignment_terms for head, recipe in zip(heads, recipes, strict=True))
    if "neck" not in given and aligned:
        extra = [own | {"neck": str(NECK)} if head else own for head, own in zip(heads, extra, strict=True)]
        words.append(f"every row with tuning head has a neck of {NECK}, for a frozen embedding cannot be aligned")
    return extra, words


def slug_of(axes: Mapping[str, Any]) -> str:
    """A row as a file name; rows that differ have names that differ.

    Args:
        axes: Axis to value.
    """
    plain, exact = [], True
    for axis, value in axes.items():
        text = text_of(value)
        exact = exact and isinstance(value, str | int | float) and not re.search(r"[^a-z0-9.+:-]", text)
        plain.append(f"{axis.replace('_', '-')}={re.sub(r'[^A-Za-z0-9.+-]', '_', text)}")
    slug = ",".join(plain)
    if exact and len(slug) <= LONGEST:
        return slug
    return f"{slug[:LONGEST]},{sha256(json.dumps(dict(axes), sort_keys=True))[:8]}"


def describe(
    planned: Sequence[Planned], beside: int, earlier: Sequence[Planned]
) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """All rows as a grid, and those that it cannot hold.

    Args:
        planned: Of this call.
        beside: How many of its rows are beside the grid: the last ones.
        earlier: Of earlier calls.

    Returns:
        Axis to its values, and further rows; together they give all rows and no others.
    """
    rows = list({one.label: dict(one.axes) for one in planned}.values())
    inside, further = rows[: len(rows) - beside], rows[len(rows) - beside :]
    known = {label_of(row) for row in rows}
    others = list({one.label: dict(one.axes) for one in earlier if one.label not in known}.values())

    def product_of(some: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]] | None:
        grid = {axis: list({text_of(row[axis]): row[axis] for row in some}.values()) for axis in planned[0].axes}
        return grid if len(list(product(*grid.values()))) == len(some) else None

    for some, left in (([*rows, *others], []), ([*inside, *others], further)):
        if grid := product_of(some):
            return grid, left
    return product_of(inside) or {}, [*further, *others]


def command_of(
    data: str,
    grid: Mapping[str, Iterable[Any]],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    out: str,
    beside: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The comparison as a user would type it.

    Args:
        data: What is compared on.
        grid: Axis to values.
        seeds: Of every row.
        settings: What is the same for all rows.
        out: The folder.
        beside: Rows beside the grid.
    """
    words = ["injerto", "compare", data, *flags(settings)]
    for axis, values in grid.items():
        words += ["--grid", f"{axis.replace('_', '-')}={','.join(map(text_of, values))}"]
    for row in beside:
        pairs = (f"{axis.replace('_', '-')}={text_of(value)}" for axis, value in row.items())
        words += ["--row", " ".join(shlex.quote(pair) if re.search(r"[\s'\"\\]", pair) else pair for pair in pairs)]
    counted = list(seeds) == list(range(len(seeds)))
    words += ["--seeds", str(len(seeds)) if counted else ",".join(map(str, seeds)), "--out", out]
    return shlex.join(words)
