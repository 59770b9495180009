"""What a search tries: the grammar of its space, the space it takes by default, and the settings of one point."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from injerto.alignment.base import alignments, find_alignment
from injerto.basics.errors import InjertoError, suggest
from injerto.recipe.defaults import ranges_for
from injerto.recipe.grammar import AlignmentTerm, TuningSpec, parse_alignment, parse_tuning
from injerto.recipe.recipe import Recipe, make_recipe
from injerto.training.settings import check_terms
from injerto.tuning.lora.settings import RANKS, read_settings

NOT_SEARCHED = {
    "data",
    "task",
    "source",
    "target",
    "target_labels",
    "input",
    "label",
    "domain",
    "group",
    "split_column",
}
NOT_SEARCHED |= {"split_file", "shots", "seed", "split_seed", "skip_bad", "track", "slider", "remember", "threads"}
NOT_SEARCHED |= {"defaults_version", "allow_outside"}
"""Fields of a recipe that change what is measured, or nothing."""
LORA = ("r", "alpha", "dropout", "plus", "variant")
"""Options of ``lora(...)`` that can be searched."""
DECADE = 10
"""A range that spans more than this factor is searched on a log scale."""
DIGITS = 4
"""Significant digits of a number that is tried."""


@dataclass(frozen=True)
class Dimension:
    """One thing that is searched.

    Attributes:
        name: As the user writes it: a recipe's field, an alignment (its weight), or an option of ``lora``.
        place: Which of the three.
        choices: The values, where they are listed.
        low: The smallest number of a range.
        high: Its largest.
        whole: Whether it is of whole numbers.
    """

    name: str
    place: Literal["field", "weight", "option"]
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @property
    def log(self) -> bool:
        """Whether it is searched on a log scale."""
        return self.low > 0 and self.high / self.low > DECADE

    def __str__(self) -> str:
        """As the user would write it."""
        flag = self.name.replace("_", "-") if self.place == "field" else self.name
        inside = ",".join(map(str, self.choices)) if self.choices else f"{self.low:g}..{self.high:g}"
        return f"{flag}={inside}"

    def ends(self) -> tuple[Any, ...]:
        """The choices, or the ends of the range."""
        return self.choices or (self.rounded(self.low), self.rounded(self.high))

    def rounded(self, value: Any) -> Any:
        """A drawn value as it is tried: with few digits, inside the range.

        Args:
            value: A number of the range or a choice.
        """
        if self.choices:
            return value
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def nearest(self, value: Any) -> Any:
        """A value where the dimension has it (a choice as it is written), else None.

        Args:
            value: Of a recipe.
        """
        if self.choices:
            return next((choice for choice in self.choices if str(choice) == str(value)), None)
        fits = isinstance(value, int | float) and self.low <= value <= self.high
        return (int if self.whole else float)(value) if fits else None


def parse_space(items: Sequence[str]) -> dict[str, str]:
    """Read the space of the command line.

    Args:
        items: Each ``name=low..high`` or ``name=a,b``.

    Returns:
        Name to what stands behind it.

    Raises:
        InjertoError: Where one is not of that form, or is there twice.
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not (name and equals):
            raise InjertoError(f"--space '{item}' cannot be read; write name=low..high or name=a,b")
        if name in found:
            raise InjertoError(f"--space names {name} twice; write it once")
        found[name] = text
    return found


def make_space(given: Mapping[str, Any], settings: Mapping[str, Any], said: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions of a space.

    Args:
        given: Name to ``"low..high"``, ``"a,b"``, a pair of numbers (a range) or a list of values.
        settings: What is the same for all trials, those of a file among them.
        said: The settings that stand beside the space: none of them may be searched too.

    Raises:
        InjertoError: Where a name is unknown or given already, or a range is empty or not of numbers.
    """
    space = [_dimension(name, values, settings) for name, values in given.items()]
    for one in space:
        if one.place == "field" and said.get(one.name) not in (None, (), []):
            flag = one.name.replace("_", "-")
            raise InjertoError(f"--{flag} is given as a flag and in --space; choose one")
    searched = {one.name: one.choices for one in space if one.place == "field"}
    tunings = [parse_tuning(str(text)) for text in searched.get("tuning") or (settings.get("tuning") or "head",)]
    aligned = [parse_alignment(str(text)) for text in searched.get("alignment") or (settings.get("alignment", "none"),)]
    for one in space:
        if one.place == "option" and not all(spec.kind == "lora" for spec in tunings):
            raise InjertoError(f"--space {one.name} is an option of lora: give --tuning lora or lora:last:K")
        if one.place == "option" and any(one.name in spec.options for spec in tunings):
            raise InjertoError(f"--space {one.name} is given in --tuning too; choose one")
        if one.place == "weight" and not all(one.name in [term.name for term in terms] for terms in aligned):
            raise InjertoError(f"--space {one.name} is the weight of an alignment: give --alignment {one.name}")
        if one.place == "weight" and any(t.name == one.name and t.weight is not None for ts in aligned for t in ts):
            raise InjertoError(f"--space {one.name}: its weight is given in --alignment too; choose one")
    return space


def _dimension(name: str, values: Any, settings: Mapping[str, Any]) -> Dimension:
    field = name.replace("-", "_")
    if field in Recipe.model_fields:
        if field in NOT_SEARCHED:
            raise InjertoError(f"--space {name}: it changes what is measured or nothing, and cannot be searched")
        kinds = _kinds(Recipe.model_fields[field].annotation)
        blank = Dimension(field, "field", whole=int in kinds and float not in kinds)
        numbers = bool({int, float} & kinds) and bool not in kinds
    elif name in LORA:
        blank, numbers = Dimension(name, "option", whole=name == "r"), name != "variant"
    elif name in alignments():
        blank, numbers = Dimension(name, "weight"), True
    else:
        known = [one for one in Recipe.model_fields if one not in NOT_SEARCHED]
        raise InjertoError(f"--space {name}: unknown; {suggest(field, [*known, *LORA, *alignments()])}")
    if isinstance(values, tuple) and len(values) == 2 and all(_is_number(value) for value in values):
        values = f"{values[0]}..{values[1]}"
    if isinstance(values, str) and ".." in values:
        return _range(blank, name, values, numbers)
    if isinstance(values, str):
        values = [part.strip() for part in re.split(r",(?![^()]*\))", values)]
    choices = tuple(values) if isinstance(values, list | tuple) else ()
    if "" in choices or not all(isinstance(value, str | int | float) for value in choices):
        raise InjertoError(f"--space {name}: a value is empty or no text or number; write {name}=a,b")
    if len(choices) < 2 or len(set(map(str, choices))) < len(choices):
        raise InjertoError(f"--space {name} needs two or more different values; write {name}=a,b or {name}=low..high")
    return replace(blank, choices=choices)


def _range(blank: Dimension, name: str, text: str, numbers: bool) -> Dimension:
    if not numbers:
        raise InjertoError(f"--space {name}={text}: {name} is no number; write its values: {name}=a,b")
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        raise InjertoError(f"--space {name}={text} cannot be read; write two numbers: {name}=1e-5..1e-2") from None
    if not low < high or not math.isfinite(high - low):
        raise InjertoError(f"--space {name}={text} is empty; write the smaller number first")
    if blank.whole and not (low.is_integer() and high.is_integer()):
        raise InjertoError(f"--space {name}={text}: {name} is a whole number; write whole numbers")
    return replace(blank, low=low, high=high)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kinds(annotation: Any) -> set[Any]:
    """The types in an annotation, and the values of its literals."""
    inside = get_args(annotation)
    return set().union(*map(_kinds, inside)) if inside else {annotation} if annotation.__hash__ else set()


def default_space(recipe: Recipe, modality: str) -> list[Dimension]:
    """What is searched where nothing is said: rates, the weight of every alignment, LoRA's rank, weight decay.

    What the user fixed is left alone. The ranges stand beside the defaults: :data:`injerto.recipe.defaults.RANGES`,
    :attr:`injerto.alignment.base.Alignment.weight_range` and :data:`injerto.tuning.lora.settings.RANKS`.

    Args:
        recipe: What is the same for all trials.
        modality: ``image`` or ``text``.

    Raises:
        InjertoError: Where nothing is left.
    """
    spec, rates = recipe.tuning_spec, dict(ranges_for(modality, recipe.tuning_spec.kind))
    decay = rates.pop("weight_decay")
    fixed = {name for name in ("lr", "head_lr", "weight_decay") if getattr(recipe, name) is not None}
    if "lr" in fixed and spec.kind == "head":
        fixed.add("head_lr")
    space = [Dimension(name, "field", (), *ends) for name, ends in rates.items() if name not in fixed]
    for term in recipe.alignment_terms:
        if term.weight is None:
            space.append(Dimension(term.name, "weight", (), *find_alignment(term)[0].weight_range))
    if spec.kind == "lora" and "r" not in spec.options:
        space.append(Dimension("r", "option", (), *RANKS, whole=True))
    if "weight_decay" not in fixed:
        space.append(Dimension("weight_decay", "field", (), *decay))
    if recipe.head == "probe":
        raise InjertoError("--head probe is solved, not trained: it leaves nothing to search; use --head linear")
    if not space:
        raise InjertoError("every setting is given: nothing is left to search; say what to try with --space")
    return space


def point_at(drawn: Mapping[str, Any], space: Sequence[Dimension]) -> dict[str, Any]:
    """A drawn point as it is tried.

    Args:
        drawn: Name of every dimension to its value, as drawn.
        space: The dimensions.
    """
    return {one.name: one.rounded(drawn[one.name]) for one in space}


def settings_at(point: Mapping[str, Any], space: Sequence[Dimension], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial.

    Args:
        point: Name of every dimension to its value, as drawn.
        space: The dimensions.
        settings: What is the same for all trials.
    """
    found = dict(settings)
    values = {one: one.rounded(point[one.name]) for one in space}
    found |= {one.name: value for one, value in values.items() if one.place == "field"}
    options = {one.name: f"{value}" for one, value in values.items() if one.place == "option"}
    if options:
        spec = parse_tuning(found["tuning"])
        found["tuning"] = str(TuningSpec(spec.kind, spec.last, {**spec.options, **options}))
    weights = {one.name: value for one, value in values.items() if one.place == "weight"}
    if weights:
        terms = parse_alignment(found["alignment"])
        found["alignment"] = "+".join(
            str(AlignmentTerm(term.name, term.options, weights.get(term.name, term.weight))) for term in terms
        )
    return found


def check_space(data: str, space: Sequence[Dimension], settings: Mapping[str, Any]) -> list[Recipe]:
    """Recipes at the ends of every dimension, the others at their first; refuse what a recipe refuses.

    Args:
        data: What is learned from.
        space: The dimensions.
        settings: What is the same for all trials.

    Raises:
        InjertoError: Where a value of a dimension is out of its bounds, or does not go with the settings.
    """
    first = {one.name: one.ends()[0] for one in space}
    recipes = []
    for one in space:
        for value in one.ends():
            try:
                fields = settings_at(first | {one.name: value}, space, settings)
                recipe = make_recipe(data=data, **fields)
                check_terms(recipe)
                if recipe.tuning_spec.kind == "lora":
                    read_settings(recipe.tuning_spec)
            except InjertoError as error:
                raise InjertoError(f"--space {one}: {error}") from None
            recipes.append(recipe)
    return recipes


def default_point(space: Sequence[Dimension], resolved: Recipe) -> dict[str, Any] | None:
    """Where the table's defaults lie in a space; None where they lie outside.

    Args:
        space: The dimensions.
        resolved: A recipe of the fixed settings, every open field filled from the table.
    """
    point = {}
    for one in space:
        if one.place == "field":
            value = getattr(resolved, one.name)
        elif one.place == "weight":
            term = next((term for term in resolved.alignment_terms if term.name == one.name), None)
            value = find_alignment(term)[0].default_weight if term else None
        elif resolved.tuning_spec.kind == "lora":
            settings = read_settings(resolved.tuning_spec)
            variant = settings.variant
            known = {"r": variant.rank, "alpha": variant.alpha, "dropout": variant.dropout, "plus": settings.plus}
            value = known.get(one.name, "plain")
        else:
            value = None
        found = None if value is None else one.nearest(value)
        if found is None:
            return None
        point[one.name] = found
    return point
