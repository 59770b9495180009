"""Search: settings drawn by Optuna, judged without a target label, in a storage that several processes may share."""

import shlex
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from injerto.basics.checksums import read_sealed
from injerto.basics.errors import InjertoError, suggest
from injerto.basics.files import check_own
from injerto.basics.launcher import check_alone
from injerto.basics.progress import note, quiet
from injerto.evaluation.validators import VALIDATORS
from injerto.recipe.command import flags
from injerto.recipe.recipe import is_balanced, make_recipe
from injerto.studies.bases import check_bases
from injerto.studies.choice import CHOOSER
from injerto.studies.fixed import check_named, fixed_settings
from injerto.studies.ledger import Ledger, differences, hide_password
from injerto.studies.sampling import PRUNERS, check_names, grid_size, make_sampler
from injerto.studies.space import check_space, default_point, default_space, make_space
from injerto.studies.worker import TRIALS, Plan, Worker
from injerto.training.reading import read_domains
from injerto.training.shared import shared_loading

OWN = {"trials", "search.json", "search.csv", "best.yaml", "search.db", "search.db-journal"}
"""What a search writes into its folder."""


def search(
    data: str | PathLike[str],
    *,
    source: str | Sequence[str] = (),
    target: str | Sequence[str] = (),
    space: Mapping[str, Any] | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    seeds: int = 1,
    out: str | PathLike[str],
    storage: str | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    seed: int = 0,
    select_by: str | None = None,
    config: str | PathLike[str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Look for good settings, and keep the best run.

    Trials are judged without a label of a target: by the accuracy on source ``val`` (the NLL where it is equal), with a
    target by a validator behind its guard. The accuracy is the balanced one where all trials have
    ``class_weights="balanced"``; where the space holds both kinds it is the plain one. The first trial is the table's
    defaults, where the space holds them. What was begun with the same ``out`` goes on; finished trials are not done
    again.

    Args:
        data: A path or the name of a sample, as for :func:`injerto.fit`.
        source: Domains that are labelled and trained on.
        target: Domains that are trained on without labels.
        space: Name (a recipe's field, an alignment for its weight, or ``r`` and other options of ``lora``) to
            ``"1e-5..1e-2"`` or a pair of numbers, a range, or to ``"a,b"`` or a list, its values. A range over more
            than a decade is searched on a log scale. A default space for the tuning and alignment where not given.
        trials: Of the whole search, those of earlier calls and other processes among them; 30 where neither this nor
            ``minutes`` is given.
        minutes: No trial begins later than so long after the call.
        seeds: Every trial is the mean over so many seeds (``seed``, ``seed + 1``, ...), each of the splits too.
        out: The search's folder: ``search.json``, ``search.csv``, ``best.yaml`` and the runs.
        storage: An Optuna storage's URL; ``search.db`` in ``out`` where not given. The study's name is the folder's.
        sampler: ``tpe`` (Bergstra et al., NeurIPS 2011), ``random``, ``gp`` or ``grid`` (5 values of a range).
        pruner: ``median`` (cut short where it is below the median of the others), ``halving`` or ``none``.
        seed: Of what is drawn and of the first run.
        select_by: The validator that judges; ``infomax`` with a target, source ``val`` without one.
        config: A YAML file or a shipped recipe with settings; those given here win.
        **settings: Fields of the recipe that are the same for all trials.

    Returns:
        The content of ``search.json``: ``trials``, ``best`` (None where none was finished) and ``importance``.

    Raises:
        InjertoError: Where the space, a recipe or the data does not fit, or ``out`` or the storage holds another
            search; before the first trial starts.

    Examples:
        >>> found = injerto.search("emoji-styles", source="noto", trials=8, out="rates")  # doctest: +SKIP
        >>> found["best"]["parameters"]  # doctest: +SKIP
    """
    check_alone("searches")
    check_named(data, settings, "search")
    check_names(sampler, pruner)
    _check_numbers(trials, minutes, seeds, seed)
    given = {**settings, "source": source, "target": target}
    said = fixed_settings(None, given, ())
    fixed = fixed_settings(config, given, [name.replace("-", "_") for name in space or ()])
    folder = Path(out)
    with shared_loading():
        plan = _plan(str(data), fixed, said, space, select_by, folder)
        names = {"sampler": sampler, "pruner": pruner, "seeds": list(range(seed, seed + seeds))}
        about: dict[str, Any] = {
            "data": str(data),
            "settings": {name: value for name, value in fixed.items() if name != "threads"},
            "space": {one.name: str(one).partition("=")[2] for one in plan.space},
            **names,
            "objective": plan.validator or f"source val {'balanced ' if is_balanced(fixed) else ''}accuracy",
        }
        _check_same(folder, about)
        most = trials if trials is not None or minutes is not None else TRIALS
        if sampler == "grid":
            size = grid_size(plan.space)
            if most is not None and size < most:
                note(f"the grid has {size} points: no more trials than that")
            most = min(most or size, size)
        url = storage or f"sqlite:///{folder / 'search.db'}"
        if storage is None:
            folder.mkdir(parents=True, exist_ok=True)
        first = None if sampler == "grid" else plan.first
        ledger = Ledger(url, folder.absolute().name, about, first)
        ledger.use(make_sampler(sampler, plan.space, seed, ledger.rank), PRUNERS[pruner]())
        shown = {**fixed, **({"select_by": select_by} if select_by else {})}
        asked: dict[str, Any] = {
            "trials": trials,
            "minutes": minutes,
            "seeds": seeds,
            "sampler": sampler,
            "pruner": pruner,
            "seed": seed,
        }
        spaced = [f"{one}" for one in plan.space] if space else []
        words = ["injerto", "search", str(data), *flags({**shown, "space": spaced, **asked})]
        words += [*(["--storage", hide_password(storage)] if storage else []), "--out", str(out)]
        from injerto.compute.machine import installed_versions, machine

        about |= {
            "planned": most,
            "storage": hide_password(url),
            "command": shlex.join(words),
            "machine": str(machine()),
        }
        about["versions"] = installed_versions("optuna")
        return Worker(folder, ledger, plan, about, fixed).run(most, minutes)


def _plan(
    data: str,
    fixed: Mapping[str, Any],
    said: Mapping[str, Any],
    given: Mapping[str, Any] | None,
    select_by: str | None,
    folder: Path,
) -> Plan:
    base = make_recipe(data=data, **fixed)
    if base.task != "classification":
        raise InjertoError(f"--task {base.task}: search judges classifiers; leave --task out")
    if select_by is not None and select_by not in VALIDATORS:
        raise InjertoError(f"unknown --select-by '{select_by}'; {suggest(select_by, list(VALIDATORS))}")
    if select_by is not None and not base.target:
        raise InjertoError(f"--select-by {select_by} judges by unlabelled target examples: it needs a --target")
    if base.target and base.head == "probe":
        raise InjertoError("--head probe has no validator scores to judge it by with a --target; use --head linear")
    if given is not None and not given:
        raise InjertoError("the space is empty: name something to search, for example lr=1e-5..1e-2")
    space = make_space(given, fixed, said) if given else []
    if given:
        recipes = check_space(data, space, fixed)
        domains = read_domains(base, data)
    else:
        domains = read_domains(base, data)
        space = default_space(base, domains.modality)
        recipes = check_space(data, space, fixed)
    from injerto.evaluation.recorded import FILE, check_sibling
    from injerto.training.beforehand import check_shared
    from injerto.training.prepare import settle_roles

    done = sorted(folder.glob("trials/*/*/"))
    for earlier in [run for run in done if (run / FILE).exists()][:1]:  # losing runs do not keep it
        check_sibling(earlier, domains, folder, base.skip_bad)
    check_bases((run for run in done if (run / "metrics.json").exists()), data, folder)
    check_shared(list({recipe.model_dump_json(): recipe for recipe in recipes}.values()), data)
    with quiet():
        sources, _ = settle_roles(base, domains)
    examples = sum(label is not None for name in sources for label in domains[name].labels)
    first = default_point(space, base.resolved(domains.modality, examples))
    if given is None:
        note(f"no --space is given; searching {', '.join(map(str, space))}")
    return Plan(space, (select_by or CHOOSER) if base.target else None, first)


def _check_numbers(trials: int | None, minutes: float | None, seeds: int, seed: int) -> None:
    for name, value in (("trials", trials), ("seeds", seeds), ("seed", seed)):
        if value is not None and not isinstance(value, int):
            raise InjertoError(f"{name}: a whole number, not {value!r}")
    if trials is not None and trials < 1:
        raise InjertoError("--trials must be 1 or more")
    if minutes is not None and not minutes > 0:
        raise InjertoError(f"--minutes is a number above 0, not {minutes:g}")
    if seeds < 1:
        raise InjertoError("--seeds must be 1 or more")
    if seed < 0:
        raise InjertoError("--seed must be 0 or more")


def _check_same(folder: Path, about: Mapping[str, Any]) -> None:
    check_own(folder, OWN, ("search.json", "search.db"), "search")
    path = folder / "search.json"
    if not path.exists():
        return
    before = read_sealed(path, "remove it, the trials are in the storage")
    try:
        different = differences({name: before[name] for name in about}, about)
    except (LookupError, TypeError, AttributeError):
        raise InjertoError(f"{folder / 'search.json'} is damaged; remove it, the trials are in the storage") from None
    if different:
        raise InjertoError(
            f"--out {folder} holds a search with other settings: {different}; repeat them, or name another folder"
        )


def exit_code(content: Mapping[str, Any]) -> int:
    """0 where a trial was finished, else 2: there is nothing to choose from.

    Args:
        content: Of ``search.json``.
    """
    return 0 if content["best"] or not content["trials"] else 2
