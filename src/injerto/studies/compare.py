"""Compare: every combination of some settings, several seeds each, under one protocol, with paired intervals."""

import time
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.basics.files import check_own
from injerto.basics.launcher import check_alone
from injerto.basics.lock import hold
from injerto.basics.progress import format_seconds, note
from injerto.studies.bases import check_bases
from injerto.studies.budget import Halving, check_axes, plan_halving, read_budget
from injerto.studies.cluster import check_cluster, run_all
from injerto.studies.fixed import check_named, fixed_settings
from injerto.studies.grid import Planned, check_grid, command_of, describe, list_seeds, plan_rows
from injerto.studies.records import OWN, check_records, check_results, do_run, load_record, record_of
from injerto.studies.results import Results
from injerto.studies.rotation import rotate, without_source
from injerto.studies.tables import dropped_text
from injerto.training.folder import remove_checkpoints

KEPT = ("backbone", "image_size", "max_length", "augment", "views", "batch_size", "shots", "norm", "precision", "seed")
"""Settings that runs must agree in to share what their frozen stages compute."""


def compare(
    data: str | PathLike[str],
    *,
    source: str | Sequence[str] = (),
    target: str | Sequence[str] = (),
    grid: Mapping[str, Sequence[Any]],
    rows: Sequence[Mapping[str, Any]] = (),
    seeds: int | Sequence[int] = 3,
    out: str | PathLike[str],
    leave_one_out: bool = False,
    budget: str | float | None = None,
    engine: str = "local",
    config: str | PathLike[str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fit every combination of the axes' values with every seed, and say which row is better by how much.

    Rows share splits, steps and the rule that a step is chosen by. Seed by seed, those that are likely to be cheap come
    first. What is in ``out`` already is not computed again and stays in the results: called once more after an
    interruption, with another seed or with another value on an axis, only what is missing is done. A run that fails
    does not stop the others, and is tried again by the next call.

    Args:
        data: A path or the name of a sample, as for :func:`injerto.fit`.
        source: Domains that are labelled and trained on.
        target: Domains that are trained on without labels.
        grid: Any of the recipe's fields to the values it is to have: ``{"tuning": ["head", "lora"]}``.
        rows: Rows beside that grid, each with a value on every axis: ``[{"tuning": "full", "alignment": "none"}]``.
        seeds: How many (0, 1, ...), or which; each is the seed of the splits too.
        out: The comparison's folder: ``results.json``, ``results.csv``, ``results.md`` and the runs.
        leave_one_out: Whether every source (where none is given: every domain with labels) stays unseen in turn, while
            the others are learned from.
        budget: Time that it may take, such as ``"20m"``, or seconds: where all rows with all seeds take longer, the
            worse half is dropped after some seeds, without a target label (:mod:`injerto.studies.budget`).
        engine: ``local``: one run after the other; ``ray``: as many at a time as the cluster of ``RAY_ADDRESS`` (else
            this machine) has cores, each with ``threads`` of them, 1 where not given.
        config: A YAML file with settings; those given here win.
        **settings: Fields of the recipe that are the same for all rows.

    Returns:
        The content of ``results.json``. ``rows`` has every run that was done, in the order of the grid, then those of
        earlier calls. ``summary`` has
        for every row, domain and split the mean accuracy over the seeds, and the paired difference to ``baseline``
        (the same row with alignment ``none`` where alignment is an axis, else the first row), with 95 % intervals
        over seeds and test groups (:func:`injerto.statistics.bootstrap.nested_interval`), ``p`` of the same resamples
        and ``p_adjusted`` by Holm for all rows with a gain on that split. ``choice`` is the row that is taken without
        a label of a domain that is not learned from (:func:`injerto.studies.choice.choose`). With ``leave_one_out``
        every row is there once for each domain, with an axis ``source``, and ``left_out`` has the strategies on the
        domains that they have not seen, and on their mean (:class:`injerto.studies.rotation.LeftOut`). With ``budget``
        ``dropped`` has the rows that were dropped, when and why.

    Raises:
        InjertoError: Where a row's recipe or the data does not fit, or ``out`` holds something else; before the first
            run starts.

    Examples:
        >>> grid = {"tuning": ["head", "lora"], "lr": [3e-4, 1e-3]}
        >>> found = injerto.compare("emoji-styles", source="noto", grid=grid, out="rates")  # doctest: +SKIP
        >>> found["summary"][1]["domains"]["noto"]["splits"]["test"]["gain"]  # doctest: +SKIP
    """
    check_alone("comparisons")
    check_named(data, settings, "compare")
    if settings.get("seed") is not None:
        raise InjertoError("a comparison has several seeds: give --seeds in place of --seed")
    check_cluster(engine, budget)
    if engine == "ray":
        settings["threads"] = settings.get("threads") or 1
    given = fixed_settings(config, {**settings, "source": source, "target": target}, grid)
    from injerto.training.shared import shared_loading

    folder = Path(out)
    with (
        hold(folder, "injerto compare", lambda: check_own(folder, OWN, ("results.json",), "comparison")),
        shared_loading(),
    ):
        return _compare(str(data), given, grid, rows, list_seeds(seeds), folder, leave_one_out, budget, engine)


def _compare(
    data: str,
    given: dict[str, Any],
    grid: Mapping[str, Sequence[Any]],
    beside: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    folder: Path,
    leave_one_out: bool,
    budget: str | float | None,
    engine: str,
) -> dict[str, Any]:
    """Plan all runs and do those that are missing."""
    limit = None
    if budget is not None:
        limit = read_budget(budget)
        check_axes(grid, leave_one_out)
    names: list[str] = list(given.get("source", ()))
    if leave_one_out:
        grid, beside, names = rotate(data, given, grid, beside)
        given.pop("source", None)
    planned, fairness = plan_rows(data, check_grid(grid, given), numbers, given, beside)
    runs = folder / "runs"
    check_results(folder)
    earlier = check_records(runs, planned)
    if leave_one_out and any(one.axes["source"] not in grid["source"] for one in earlier):
        raise InjertoError(f"--out {folder} has runs with other sources; repeat them, or name another folder")
    order = sorted(planned, key=lambda one: (numbers.index(one.seed), _cost(one)))
    missing = [one for one in order if not (runs / one.name / "metrics.json").exists()]
    from injerto.compute.machine import installed_versions, machine

    if missing:
        _check_needs(missing, [*(one for one in order if one not in missing), *earlier], folder)
    plan = plan_halving(folder, planned, numbers, limit)
    axes, beside = describe(planned, len(beside), earlier)
    given.pop("source", None)
    about = {
        "data": data,
        "source": names,
        "target": given.pop("target", []),
        "grid": axes,
        "beside": beside,
        "settings": given,
        "seeds": sorted({*numbers, *(one.seed for one in earlier)}),
        "fairness": [*fairness, *([plan.words] if plan else [])],
    }
    named = {"source": names, "target": about["target"], "leave_one_out": leave_one_out}
    named |= {"budget": f"{limit}s" if isinstance(budget, int | float) else budget} | given
    written = without_source(axes, beside) if leave_one_out else (axes, beside)
    about["command"] = command_of(data, written[0], numbers if plan else about["seeds"], named, str(folder), written[1])
    about |= {"machine": str(machine()), "versions": installed_versions()}
    results = Results(folder, about, [*planned, *earlier], names if leave_one_out else (), plan)
    return _work(results, [*order, *earlier], missing, runs, plan, engine)


def _work(
    results: Results,
    order: Sequence[Planned],
    missing: Sequence[Planned],
    runs: Path,
    plan: Halving | None,
    engine: str,
) -> dict[str, Any]:
    """Take in what is there, do what is missing and was not dropped; the results are up to date after every run."""
    from injerto.training.cacheplan import shared_by

    seconds: dict[str, list[float]] = {}

    def take_in(one: Planned, spent: float | None = None) -> None:
        _take_in(results, one, runs)
        row = results.row(one)
        if row and row["status"] == "ok":
            seconds.setdefault(one.label, []).append(row["seconds"] if spent is None else spent)

    for one in order:
        take_in(one)
    content = results.write()
    if len(missing) < len(order):
        note(f"{len(order) - len(missing)} of {len(order)} runs are finished already")
    for line in content["fairness"] if missing else ():
        note(line)
    tried = len(order) - len(missing)
    if engine == "ray":
        for one, spent in run_all(missing, runs) if missing else ():
            tried += 1
            take_in(one, spent)
            content = results.write()
            row = results.row(one)
            ended = format_seconds(spent) if row and row["status"] == "ok" else f"failed: {row and row['reason']}"
            note(f"run {tried} of {content['planned']}: {one.label} seed {one.seed}, {ended}")
        return content
    for done, one in enumerate(missing):
        while plan and plan.is_due(one):
            for row in plan.decide(content["rows"]):
                note(dropped_text(row))
            content = results.write()
        if plan and plan.is_out(one):
            continue
        rest = [other for other in missing[done:] if not (plan and plan.is_out(other))]
        tried += 1
        note(f"run {tried} of {content['planned']}: {one.label} seed {one.seed}{_left(rest, seconds)}")
        begun = time.monotonic()
        with shared_by(sum(_keeps(other) == _keeps(one) for other in order)):
            do_run(one, runs)
        take_in(one, time.monotonic() - begun)
        content = results.write()
    return content


def _check_needs(planned: Sequence[Planned], done: Sequence[Planned], folder: Path) -> None:
    """Refuse what would end every run, and other data than a finished run's."""
    from injerto.evaluation.recorded import check_sibling
    from injerto.training.beforehand import check_shared
    from injerto.training.reading import read_domains

    first = planned[0].recipe
    domains = read_domains(first, first.data)
    if alike := [one.name for one in done if one.recipe.target == first.target]:
        check_sibling(folder / "runs" / alike[0], domains, folder, first.skip_bad)
    wanted = {one.recipe.backbone for one in planned}
    check_bases((folder / "runs" / one.name for one in done if one.recipe.backbone in wanted), first.data, folder)
    check_shared(list({one.label: one.recipe for one in reversed(planned)}.values()), first.data)


def _cost(one: Planned) -> int:
    """A rank by what moves, the cheapest first."""
    spec = one.recipe.tuning_spec
    if spec.kind == "head" or spec.last is not None:
        return 0 if spec.kind == "head" else 1
    return 2 if spec.kind in ("lora", "bitfit", "norm") else 3


def _keeps(one: Planned) -> list[Any]:
    return [one.recipe.tuning_spec.last, *(getattr(one.recipe, name) for name in KEPT)]


def _take_in(results: Results, one: Planned, runs: Path) -> None:
    """Add a run that is finished (without its checkpoints, which it needs no more) or failed to the results."""
    folder, record = runs / one.name, record_of(runs, one.name)
    if (folder / "metrics.json").exists():
        remove_checkpoints(folder)
        results.add(one, folder, None)
    elif record.exists() and (failed := load_record(record)["failed"]):
        results.add(one, folder, failed)


def _left(rest: Iterable[Planned], seconds: Mapping[str, Sequence[float]]) -> str:
    """How long the rest takes, from the fastest run of the same row where there is one: the first may fill a cache."""
    if not seconds:
        return ""
    fastest = {label: min(own) for label, own in seconds.items()}
    usual = float(np.median(list(fastest.values())))
    total = sum(fastest.get(one.label, usual) for one in rest)
    return f", {format_seconds(total)} left"


def exit_code(content: Mapping[str, Any]) -> int:
    """0 where every run is finished, 2 where the user can mend all that failed, else 1.

    Args:
        content: Of ``results.json``.
    """
    failed = [row["fault"] for row in content["rows"] if row["status"] == "failed"]
    return 0 if not failed else 1 if any(failed) else 2
