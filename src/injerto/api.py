"""One function per job: fit, load, evaluate, predict, info."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from injerto.basics.errors import InjertoError
from injerto.basics.files import as_path, check_new
from injerto.basics.launcher import started
from injerto.basics.lock import hold
from injerto.basics.progress import note, warn
from injerto.domains.load import load_domains
from injerto.recipe.recipe import Recipe, load_recipe, make_recipe, merge_settings
from injerto.training.folder import check_folder, earlier_of, remove_earlier, replace_run, tidy

if TYPE_CHECKING:
    from injerto.evaluation.run import Run

__all__ = ["evaluate", "export", "fit", "info", "load", "load_domains", "predict"]


def fit(
    data: Any,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    config: str | PathLike[str] | None = None,
    backbone: Any = None,
    **settings: Any,
) -> "Run":
    """Adapt a pretrained model to data.

    Args:
        data: A folder, archive, table, saved Hugging Face data set, the name of a sample, or an object: a DataFrame, a
            ``datasets`` object, ``Domains``.
        out: The run's folder; ``runs/<data>-<tuning>-<seed>`` where not given.
        resume: Go on from the last checkpoint; a missing or empty folder starts at 0, a finished run is returned.
        overwrite: Replace an earlier run in ``out``.
        config: A YAML file with settings; those given here win.
        backbone: A name (see ``injerto info``), a folder, or any ``nn.Module``.
        **settings: The fields of :class:`injerto.recipe.recipe.Recipe`; the command line's flags have the same names.

    Returns:
        The finished run.

    Raises:
        InjertoError: Where something does not fit; before compute is spent wherever that is possible.

    Examples:
        >>> run = injerto.fit("emoji-styles", source="noto", tuning="head", head="probe")  # doctest: +SKIP
        >>> run.predict("cat.png")  # doctest: +SKIP
    """
    fields = merge_settings(config, settings)
    named = backbone if isinstance(backbone, str | PathLike) else None
    if named is not None:
        fields["backbone"] = str(named)
    fields["data"] = str(data) if isinstance(data, str | PathLike) else type(data).__name__
    recipe = make_recipe(**fields)
    folder = as_path(out, "out") if out is not None else _default_folder(recipe)
    given = str(data) if isinstance(data, PathLike) else data, None if named is not None else backbone
    if started() > 1:
        from injerto.training.together import fit_together

        return fit_together(lambda place: _fit(recipe, given, place, resume, overwrite), folder)
    return _fit(recipe, given, folder, resume, overwrite)


def _fit(recipe: Recipe, given: tuple[Any, Any], folder: Path, resume: bool, overwrite: bool) -> "Run":
    with hold(folder, "injerto fit", lambda: check_folder(folder, resume, overwrite)):
        tidy(folder)
        return _fit_held(recipe, given, folder, resume, overwrite)


def _fit_held(recipe: Recipe, given: tuple[Any, Any], folder: Path, resume: bool, overwrite: bool) -> "Run":
    prepared, run_kind, fit_kind = _kinds(recipe, *given)
    from injerto.evaluation.recorded import base_changes, changes, check_recorded, save_base, save_splits
    from injerto.training.clock import Clock

    clock = Clock(prepared.seconds)
    run: Run = run_kind(folder, backbone=given[1])
    if (folder / "recipe.yaml").exists() and not overwrite:
        check_recorded(folder)
        _check_recipe(folder, prepared.recipe)
        changed = changes(folder, prepared.domains, prepared.sides)
        other = base_changes(folder, prepared.backbone, recipe.task == "causal-lm")
        if (folder / "metrics.json").exists():
            note(f"{folder} is finished already; nothing to do")
            if changed:
                warn(f"its figures are of other data than these: {changed}; --overwrite makes it anew")
            if other:
                warn(f"its figures are of a base model that is another one now: {other}; --overwrite makes it anew")
            remove_earlier(folder)
            return run
        if changed:
            raise InjertoError(
                f"cannot go on with {folder}: it was started on other data: {changed}; bring them back, or start again "
                f"with --overwrite (in a comparison or search: remove {folder})"
            )
        if other:
            raise InjertoError(
                f"cannot go on with {folder}: its base {prepared.backbone.spec} has changed since it was started: "
                f"{other}; bring it back, or start again with --overwrite (in a comparison or search: remove {folder})"
            )
    for line in prepared.plan.lines():
        note(line)
    before = replace_run(folder) if overwrite else earlier_of(folder)
    if not (folder / "recipe.yaml").exists():
        prepared.recipe.save(folder / "recipe.yaml")
    if not (folder / "splits.csv").exists():
        save_splits(folder, prepared.domains, prepared.sides)
    save_base(folder, prepared.backbone)
    try:
        fit_kind(prepared, folder, clock).run(resume)
    except BaseException:
        if before is not None:
            note(f"the earlier run is kept in {before}")
        raise
    remove_earlier(folder)
    return run


def load(
    path: str | PathLike[str],
    *,
    backbone: Any = None,
    precision: str = "fp32",
    threads: int | None = None,
    slider: float | None = None,
    allow_modified: bool = False,
) -> "Run":
    """Open a finished run or a bare adapter.

    Args:
        path: RUN or RUN/adapter.
        backbone: The base model where the card cannot name it on this machine.
        precision: ``fp32``, ``bf16`` or ``auto``.
        threads: CPU threads, None for all cores.
        slider: Point between the pretrained model with its probe (0) and the tuned one (1), of a run with a slider.
        allow_modified: Go on, with a warning, where files are not as they were written with the adapter's card.

    Raises:
        InjertoError: Where nothing is there, the base is another one, or a file was changed.
    """
    from injerto.adapters.card import load_card
    from injerto.adapters.load import adapter_folder

    kind: Any
    if load_card(adapter_folder(as_path(path)), allow_modified)["task"] == "causal-lm":
        from injerto.evaluation.language import LanguageRun as kind
    else:
        from injerto.evaluation.run import Run as kind
    run: Run = kind(Path(path), backbone, precision, threads, slider, allow_modified)
    _ = run.card  # opened now, so that a wrong base shows here
    return run


def evaluate(
    path: str | PathLike[str], data: Any, *, on: str | Sequence[str] | None = None, **options: Any
) -> dict[str, Any]:
    """Metrics of a run on domains, on the recorded test split where the content is known, else on all of it.

    Args:
        path: RUN or RUN/adapter.
        data: What :func:`fit` takes.
        on: Names of domains; all where not given.
        **options: ``input``, ``label``, ``domain`` (those that the run was fitted with where not given), ``skip_bad``,
            ``allow_outside`` as in :func:`fit`; ``backbone``, ``precision``, ``threads``, ``slider``,
            ``allow_modified`` as in
            :func:`load`.

    Returns:
        Domain name to its metrics.
    """
    names = ("input", "label", "domain", "allow_outside")
    reading: dict[str, Any] = {key: options.pop(key) for key in names if key in options}
    skip_bad = options.pop("skip_bad", False)
    run = load(path, **options)
    responses = run.card["task"] == "causal-lm"
    domains = load_domains(data, **reading, responses=responses, fitted=run.columns).check(skip_bad)
    return run.evaluate(domains, [on] if isinstance(on, str) else on)


def predict(path: str | PathLike[str], inputs: Any, **options: Any) -> list[str]:
    """The most probable class of each input.

    Args:
        path: RUN or RUN/adapter.
        inputs: As for :meth:`injerto.evaluation.run.Run.predict_proba`.
        **options: ``input`` and ``allow_outside`` as there; the others as for :func:`load`.
    """
    column, outside = options.pop("input", None), options.pop("allow_outside", False)
    opened = load(path, **options)
    return opened.predict(opened.read(inputs, column, outside) if outside else inputs, input=column)


def export(
    path: str | PathLike[str],
    out: str | PathLike[str],
    *,
    format: str = "merged",
    data: Any = None,
    backbone: Any = None,
    threads: int | None = None,
    allow_modified: bool = False,
) -> dict[str, Any]:
    """Write a run for other tools.

    Args:
        path: RUN or RUN/adapter.
        out: The new folder.
        format: ``peft`` (an adapter that PEFT loads), ``int8`` (an adapter a quarter of the size, for Injerto),
            ``merged`` (the whole model, for plain transformers or timm) or ``onnx``.
        data: What to check the result on; what the run's recipe names where not given.
        backbone: The base model where the card cannot name it on this machine.
        threads: CPU threads.
        allow_modified: As for :func:`load`.

    Returns:
        Bytes written, and what the check found.

    Raises:
        InjertoError: Where the run has no such form, ``out`` holds something, or the result does not compute the same.
    """
    from injerto.adapters.export import check_form
    from injerto.evaluation.export import export as write

    check_form(Path(path), format)
    folder = Path(out)
    with hold(folder, "injerto export", lambda: check_new(folder)):
        run = load(path, backbone=backbone, threads=threads, allow_modified=allow_modified)
        return write(run, folder, format, _real_inputs(run, data))


def _real_inputs(run: "Run", data: Any) -> list[Any]:
    """Up to 64 inputs of the given data, or of the data that a run's recipe names where it is still there."""
    from injerto.domains.check import undecodable

    recipe = run.path / "recipe.yaml"
    if data is None:
        if not recipe.exists():
            return []
        data = load_recipe(recipe)["data"]
    fitted = {role: name for role, name in run.columns.items() if role != "label"}
    outside = recipe.exists() and bool(load_recipe(recipe).get("allow_outside"))
    try:
        domains = load_domains(data, fitted=fitted, allow_outside=outside)
    except InjertoError:
        if recipe.exists() and data == load_recipe(recipe)["data"]:
            return []
        raise
    if domains.modality != run.model.backbone.modality:
        raise InjertoError(f"{domains.name} holds {domains.modality}s, {run.path} takes {run.model.backbone.modality}s")
    share = max(1, 64 // len(domains))
    items = [item for domain in domains.values() for item in domain.inputs[:share]]
    bad = undecodable(items) if domains.modality == "image" else {}
    return [item for place, item in enumerate(items) if place not in bad]


def info(subject: str | PathLike[str] | None = None, allow_modified: bool = False) -> Mapping[str, Any]:
    """What is known about a backbone, a run, or this machine.

    Args:
        subject: A backbone's name or a run's folder; this machine and the offline backbones where not given.
        allow_modified: As for :func:`load`.
    """
    from injerto.evaluation.info import describe

    return describe(str(subject) if subject is not None else None, allow_modified)


def _kinds(recipe: Recipe, data: Any, backbone: Any) -> tuple[Any, Any, Any]:
    """What is prepared, and the classes of the run and of its training, by task."""
    if recipe.task == "causal-lm":
        from injerto.evaluation.language import LanguageRun
        from injerto.training.language import LanguageFit, prepare_language

        return prepare_language(recipe, data, backbone), LanguageRun, LanguageFit
    from injerto.evaluation.run import Run
    from injerto.training.fit import Fit
    from injerto.training.prepare import prepare

    return prepare(recipe, data, backbone), Run, Fit


def _default_folder(recipe: Recipe) -> Path:
    name = Path(recipe.data).name.split(".")[0] or "data"
    return Path("runs") / f"{name}-{recipe.tuning.replace(':', '-')}-{recipe.seed}"


def _check_recipe(folder: Path, recipe: Recipe) -> None:
    """Refuse to go on with another recipe than the one the run was started with."""
    before = make_recipe(**load_recipe(folder / "recipe.yaml"))
    different = [name for name in Recipe.model_fields if getattr(before, name) != getattr(recipe, name)]
    if different:
        names = ", ".join(
            f"{name} (was {getattr(before, name)!r}, now {getattr(recipe, name)!r})" for name in different[:3]
        )
        raise InjertoError(
            f"cannot go on with {folder}: it was started with another recipe: {names}; repeat its settings, or start "
            f"again with --overwrite (in a comparison or search: remove {folder})"
        )
