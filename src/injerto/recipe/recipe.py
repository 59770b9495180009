"""Recipe: flags, YAML and keyword arguments all become one of these; it is saved with every run."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from injerto.basics.errors import InjertoError, shown, suggest
from injerto.basics.files import write_text
from injerto.basics.limits import NECK_WIDTH as WIDEST_NECK
from injerto.basics.limits import PICTURE_SIDE, TEXT_TOKENS
from injerto.recipe.defaults import BACKBONES, DEFAULTS_VERSION, RSLORA_ALPHA, augmentation_for, defaults_for
from injerto.recipe.grammar import TUNINGS, AlignmentTerm, TuningSpec, parse_alignment, parse_tuning
from injerto.recipe.mapping import read_mapping
from injerto.recipe.shipped import ABOUT, shipped_recipes

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


NECK = 256
"""Width of the neck that an alignment acts on where the backbone does not move."""
POLICIES = ("auto", "none", "light", "standard")
MIXING = ("mixup", "mixstyle")
LANGUAGE_TUNINGS = ("lora", "last", "full", "bitfit", "norm")
"""Tunings of a language model among those that come with Injerto."""
UNUSED_BY_LANGUAGE: dict[str, Any] = {
    "target": (),
    "shots": None,
    "alignment": "none",
    "head": "linear",
    "neck": None,
    "objective": "erm",
    "target_labels": None,
    "norm": None,
    "head_lr": None,
    "class_weights": "none",
    "label_smoothing": 0.0,
    "image_size": None,
    "augment": None,
    "views": None,
    "slider": False,
    "remember": None,
}
"""Settings that a language model has no use for, with the value that says nothing."""


class Recipe(BaseModel):
    """One run, completely described. A field left at None takes the table's default when the run starts.

    Attributes:
        data: Folder, archive, table, saved Hugging Face data set, or a sample's name.
        task: ``classification``, or ``causal-lm`` for a language model's next tokens.
        source: Domains that are labelled and trained on.
        target: Domains that are trained on without labels; ``NAME=PATH`` adds one from elsewhere.
        input: Column of the texts or image paths.
        label: Column of the labels.
        domain: Column of the domain names.
        group: Column, or regular expression on the path or text, of what must not be parted by a split.
        split_column: Column that says train, val, test or unlabeled.
        split_file: CSV ``path,split``.
        allow_outside: Let a table's pictures lie outside of its folder.
        shots: Train and val examples a class; all where not given.
        backbone: The pretrained model, ``timm:...``, ``hf:...``, ``packaged:...`` or a folder.
        tuning: What may move.
        target_labels: Target examples a class whose labels may be used, or a CSV ``path,label``; none where not given.
        alignment: What must match across domains.
        objective: How the sources' losses become one: ``erm``, ``group-dro``, ``vrex`` or ``irm``.
        head: ``linear``, ``mlp``, ``probe`` (converged logistic regression) or ``native`` (the model's own kind).
        neck: ``none`` or the width of a trainable projection before the head; 256 where a frozen embedding is to be
            aligned.
        norm: ``frozen``, ``train`` or ``recalibrate[:source|:target]``.
        epochs: Passes over the source's train split (excludes ``steps``).
        steps: Optimizer steps (excludes ``epochs``).
        batch_size: Labelled source examples per step.
        lr: Learning rate of what was pretrained (of the head, where nothing else moves); ``auto`` for a range test.
        head_lr: Learning rate of the new layers.
        layer_decay: Factor on ``lr`` from each stage to the one below it.
        weight_decay: Decoupled weight decay.
        l2_sp: Decoupled pull of what was pretrained to where it started, in place of its weight decay.
        optimizer: ``adamw`` or ``sgd`` (momentum 0.9).
        warmup: Share of the steps in which the rate rises linearly.
        clip: Largest norm of the gradient; 0 switches clipping off.
        accumulate: Parts a step is computed in, to save memory.
        class_weights: ``none`` or ``balanced`` (inverse frequency in the source's train split); then what is chosen on
            source ``val`` is chosen by balanced accuracy.
        label_smoothing: Share of the target probability spread over all classes.
        image_size: Pixels a side.
        max_length: Longest text in tokens.
        augment: ``none``, ``light``, ``standard``, or ``auto`` by modality and size of the data; ``+mixup`` or
            ``+mixstyle`` mixes examples besides (``mixup`` alone is ``auto+mixup``).
        views: Augmented versions of each example; 0 means a new one every epoch.
        average: ``none``, ``ema`` or ``swad``: which average of the weights is evaluated and kept.
        slider: Keep the probe on the pretrained backbone too, so that the run can be scaled back to it.
        remember: Data whose classes the backbone should still be able to tell apart afterwards.
        track: Trackers that follow the run: ``tensorboard``, ``wandb``, ``mlflow``.
        select: Which checkpoint is kept: ``best-source-val``, ``last``, or the best by a validator that needs no target
            label (:mod:`injerto.evaluation.validators`), such as ``infomax``.
        patience: Evaluations without improvement after which training stops.
        precision: ``auto``, ``fp32`` or ``bf16``.
        threads: CPU threads of the computation.
        seed: Seed of initialization, order, augmentation and dropout.
        split_seed: Seed of the splits; the run's seed where not given.
        skip_bad: Go on without examples that cannot be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    task: Literal["classification", "causal-lm"] = "classification"
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    input: str | None = None
    label: str | None = None
    domain: str | None = None
    group: str | None = None
    split_column: str | None = None
    split_file: str | None = None
    allow_outside: bool = False
    shots: Count | None = None
    backbone: str | None = None
    tuning: str = ""
    target_labels: str | None = None
    alignment: str = "none"
    objective: str = "erm"
    head: Literal["linear", "mlp", "probe", "native"] = "linear"
    neck: str | None = None
    norm: str | None = None
    epochs: Positive | None = None
    steps: Count | None = None
    batch_size: Count | None = None
    lr: Positive | Literal["auto"] | None = None
    head_lr: Positive | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    l2_sp: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    accumulate: Count = 1
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    image_size: Annotated[int, Field(ge=16, le=PICTURE_SIDE)] | None = None
    max_length: Annotated[int, Field(ge=8, le=TEXT_TOKENS)] | None = None
    augment: str | None = None
    views: Annotated[int, Field(ge=0, le=100)] | None = None
    average: Literal["none", "ema", "swad"] = "none"
    slider: bool = False
    remember: str | None = None
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    select: str | None = None
    patience: Count | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: Count | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    skip_bad: bool = False
    defaults_version: int = DEFAULTS_VERSION

    @field_validator("source", "target", "track", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, dict):
            name, path = next(iter(value.items()), ("NAME", "PATH"))
            raise InjertoError(f"a domain from elsewhere is written '{name}={path}', not as a mapping")
        items = (value,) if isinstance(value, str | int) else value
        if not isinstance(items, list | tuple):
            return items
        return tuple(str(item) if type(item) is int else item for item in items)

    @field_validator("tuning")
    @classmethod
    def _tuning(cls, value: str) -> str:
        return str(parse_tuning(value))

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, fields: Any) -> Any:
        """Without a tuning a classifier learns its head, a language model a low-rank pair per layer."""
        if isinstance(fields, dict) and fields.get("tuning") is None:
            fields = fields | {"tuning": "lora" if fields.get("task") == "causal-lm" else "head"}
        return fields

    @field_validator("alignment")
    @classmethod
    def _alignment(cls, value: str) -> str:
        parse_alignment(value)
        return "".join(value.split())

    @field_validator("norm")
    @classmethod
    def _norm(cls, value: str | None) -> str | None:
        known = ["frozen", "train", "recalibrate", "recalibrate:source", "recalibrate:target"]
        if value is not None and value not in known:
            raise InjertoError(f"unknown --norm '{value}'; {suggest(value, known)}")
        return "recalibrate:source" if value == "recalibrate" else value

    @field_validator("objective")
    @classmethod
    def _objective(cls, value: str) -> str:
        parse_alignment(value)
        return "".join(value.split())

    @field_validator("target_labels", mode="before")
    @classmethod
    def _target_labels(cls, value: Any) -> Any:
        if isinstance(value, int | str) and str(value).lstrip("-").isdecimal() and int(value) < 1:
            raise InjertoError(f"--target-labels {value} must be 1 or more, or a CSV path,label")
        return str(value) if isinstance(value, int) else value

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: str | None) -> str | None:
        parts = [] if value is None else "".join(value.split()).split("+")
        for part in parts:
            if part not in (*POLICIES, *MIXING):
                raise InjertoError(f"unknown --augment '{part}'; {suggest(part, [*POLICIES, *MIXING])}")
        if len([part for part in parts if part in POLICIES]) > 1 or len(set(parts)) < len(parts):
            raise InjertoError(f"--augment '{value}' must be one policy and mixings, such as light+mixup")
        return "+".join(sorted(parts, key=lambda part: part in MIXING)) if parts else None

    @field_validator("neck")
    @classmethod
    def _neck(cls, value: str | None) -> str | None:
        if value not in (None, "none") and not (value.isdecimal() and 0 < int(value) <= WIDEST_NECK):
            raise InjertoError(f"--neck '{value}' must be none or a width such as 256, at most {WIDEST_NECK}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> "Recipe":
        if self.epochs is not None and self.steps is not None:
            raise InjertoError("--epochs and --steps exclude each other; give one")
        if self.head == "probe" and (self.tuning_spec.kind != "head" or self.neck_width):
            raise InjertoError("--head probe is solved, not trained: it goes with --tuning head and no neck")
        linear = self.head in ("linear", "native") and not self.neck_width
        if self.tuning_spec.kind == "lp-ft" and not linear:
            raise InjertoError("--tuning lp-ft starts from a linear probe: it goes with --head linear and no neck")
        if self.slider and (self.tuning_spec.kind == "head" or not linear):
            raise InjertoError(
                "--slider runs from the probe to a tuned backbone: it needs a --tuning that moves it, "
                "--head linear and no neck"
            )
        if self.tuning_spec.kind == "head" and (self.layer_decay != 1 or self.l2_sp):
            raise InjertoError(
                "--tuning head moves nothing of the backbone: --layer-decay and --l2-sp have nothing to act on; "
                "leave them out or choose another --tuning"
            )
        if self.average == "swad" and self.select not in (None, "last"):
            raise InjertoError("--average swad chooses its own weights; leave --select out")
        if self.head == "probe" and (self.average != "none" or self.lr == "auto"):
            raise InjertoError("--head probe is solved, not trained: --average and --lr auto have nothing to act on")
        if self.head == "probe" and (self.alignment != "none" or self.objective != "erm" or self.mixing):
            raise InjertoError("--head probe is solved, not trained: it cannot be aligned; use --head linear")
        if self.target_labels is not None and not self.target:
            raise InjertoError("--target-labels needs a --target whose labels these are")
        if self.task == "causal-lm":
            self._language()
        return self

    def _language(self) -> None:
        """Refuse what a language model has no use for."""
        if self.tuning_spec.kind in TUNINGS and self.tuning_spec.kind not in LANGUAGE_TUNINGS:
            raise InjertoError(
                f"--tuning {self.tuning} needs a head, and --task causal-lm has none; choose "
                f"{', '.join(LANGUAGE_TUNINGS)}"
            )
        if self.select not in (None, "best-source-val", "last"):
            raise InjertoError(f"--select {self.select} judges classes; with causal-lm use best-source-val or last")
        for name, plain in UNUSED_BY_LANGUAGE.items():
            if getattr(self, name) != plain:
                raise InjertoError(f"--{name.replace('_', '-')} has no meaning with --task causal-lm; leave it out")

    def kind_of_data(self, modality: str) -> str:
        """The first key of the table of defaults.

        Args:
            modality: ``image`` or ``text``.
        """
        return "language" if self.task == "causal-lm" else modality

    @property
    def tuning_spec(self) -> TuningSpec:
        """The parsed tuning."""
        return parse_tuning(self.tuning)

    @property
    def alignment_terms(self) -> tuple[AlignmentTerm, ...]:
        """The parsed alignment, empty for ``none``."""
        return parse_alignment(self.alignment)

    @property
    def neck_width(self) -> int | None:
        """The neck's width, None without a neck."""
        return None if self.neck in (None, "none") else int(self.neck)

    @property
    def policy(self) -> str:
        """The augmentation of single examples, of a resolved recipe."""
        first = (self.augment or "none").split("+")[0]
        return first if first in POLICIES else "none"

    @property
    def balanced(self) -> bool:
        """Whether classes count equally: in the loss, and where something is chosen on ``val``."""
        return is_balanced({"class_weights": self.class_weights})

    @property
    def mixing(self) -> tuple[str, ...]:
        """The augmentations that mix examples."""
        return tuple(part for part in (self.augment or "").split("+") if part in MIXING)

    def resolved(self, modality: str, examples: int = 0) -> "Recipe":
        """The recipe with every open field filled from the table of defaults.

        Args:
            modality: ``image`` or ``text``.
            examples: Labelled source examples.

        Returns:
            A recipe that says everything (``image_size`` stays None for the model's own size).
        """
        modality = self.kind_of_data(modality)
        row = defaults_for(modality, self.tuning_spec.kind)
        frozen = self.tuning_spec.kind == "head"
        mixing = self.mixing
        augment = self.augment.split("+")[0] if self.augment is not None else row.augment
        if augment in MIXING:
            augment = row.augment
        if augment == "auto":
            augment = augmentation_for(modality, examples)
        fill: dict[str, Any] = {
            "backbone": BACKBONES[modality],
            "norm": row.norm,
            "epochs": row.epochs if self.steps is None else None,
            "batch_size": row.batch_size,
            "lr": row.lr,
            "head_lr": (self.lr if frozen and self.lr not in (None, "auto") else row.head_lr),
            "weight_decay": row.weight_decay,
            "views": 1 if augment == "none" else row.views if row.augment != "none" else 4,
            "select": "last" if self.alignment != "none" or self.average == "swad" else "best-source-val",
            "split_seed": self.seed,
            "neck": str(NECK) if frozen and self.alignment != "none" else "none",
        }
        filled = {key: value for key, value in fill.items() if getattr(self, key) is None} | self._alpha()
        if self.task == "causal-lm":
            return self.model_copy(update={k: v for k, v in filled.items() if k not in UNUSED_BY_LANGUAGE})
        if augment == "none" and self.views:
            filled["views"] = 1  # all versions are the same
        return self.model_copy(update=filled | {"augment": "+".join([augment, *mixing])})

    def _alpha(self) -> dict[str, str]:
        """The tuning with rslora's alpha written out: it was 2 r once, and a resumed run keeps what it began with."""
        spec = self.tuning_spec
        variants = spec.options.get("variant", ())
        asked = "rslora" in ((variants,) if isinstance(variants, str) else variants)
        if spec.kind != "lora" or not asked or "alpha" in spec.options:
            return {}
        return {"tuning": str(TuningSpec(spec.kind, spec.last, {**spec.options, "alpha": str(RSLORA_ALPHA)}))}

    def save(self, path: Path) -> None:
        """Write the recipe as YAML.

        Args:
            path: The file.
        """
        import yaml

        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def is_balanced(fields: Mapping[str, Any]) -> bool:
    """Whether a recipe's fields ask for balanced class weights.

    Args:
        fields: By name.
    """
    return fields.get("class_weights") == "balanced"


def make_recipe(**fields: Any) -> Recipe:
    """Build a recipe from keyword arguments, with one-line errors.

    Args:
        **fields: The recipe's fields by name; None means not given.

    Returns:
        The validated recipe.

    Raises:
        InjertoError: Where a name is unknown or a value is out of bounds.
    """
    known = list(Recipe.model_fields)
    for name in fields:
        if name not in known:
            raise InjertoError(f"unknown setting {shown(name)}; {suggest(name, known)}")
    try:
        return Recipe(**{key: value for key, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "recipe"
        raise InjertoError(f"{name} {shown(first.get('input'))}: {first['msg'].lower()}") from None


def merge_settings(config: str | PathLike[str] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A file's settings, and over them those given by name.

    Args:
        config: The file, None for none.
        settings: By name; None means not given.

    Returns:
        Fields for :func:`make_recipe`.

    Raises:
        InjertoError: As :func:`load_recipe`.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    fields = {**(load_recipe(Path(config)) if config else {}), **given}
    for one, other in (("steps", "epochs"), ("epochs", "steps")):  # what is given wins over the file's
        if one in given and other not in given:
            fields.pop(other, None)
    return fields


def load_recipe(path: Path) -> dict[str, Any]:
    """Read the fields of a recipe from YAML.

    Args:
        path: The file; where there is none, the name of a recipe that comes with the package.

    Returns:
        Fields for :func:`make_recipe`.

    Raises:
        InjertoError: Where the file is missing or is not a mapping.
    """
    shipped = {} if path.exists() else shipped_recipes()
    try:
        fields = read_mapping(shipped.get(str(path), path))
    except OSError as error:
        named = f"; it is no shipped recipe either: {suggest(str(path), list(shipped))}" if "." not in str(path) else ""
        raise InjertoError(f"cannot read {path}: {error.strerror}{named}") from None
    except ValueError as error:
        raise InjertoError(f"{path} {error}") from None
    return {key: value for key, value in fields.items() if key != ABOUT}
