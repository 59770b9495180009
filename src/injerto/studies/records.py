"""What a comparison's folder says of its runs: recipes as planned, failures, and what may stand beside them."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from injerto import api
from injerto.basics.checksums import read_sealed, write_sealed
from injerto.basics.errors import InjertoError, why_failed
from injerto.basics.progress import quiet, warn
from injerto.recipe.recipe import Recipe, make_recipe
from injerto.studies.grid import Planned, text_of

OWN = {"runs", "results.json", "results.csv", "results.md", "report.html", "plan.json"}
"""What a comparison writes into its folder."""


def check_results(folder: Path) -> None:
    """Refuse a folder whose ``results.json`` is something else's.

    Args:
        folder: The comparison's.

    Raises:
        InjertoError: Where it is; one that is merely damaged is written anew from the runs.
    """
    path = folder / "results.json"
    if path.exists() and not (folder / "runs").is_dir():
        raise InjertoError(f"{path} belongs to no comparison: there are no runs beside it; name another folder")


def record_of(runs: Path, name: str) -> Path:
    """What is known of a run before and beside its own folder: its recipe as planned, and why it failed.

    Args:
        runs: The folder of all runs.
        name: The run's.
    """
    return runs / f"{name}.json"


def load_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Args:
        path: From :func:`record_of`.

    Returns:
        ``recipe`` and ``failed``: None, or ``reason`` and ``fault``.

    Raises:
        InjertoError: Where it is damaged.
    """
    cure = f"remove it and {path.parent / path.name.removesuffix('.json')} to do the run again"
    record = read_sealed(path, cure)
    recipe, failed = record.get("recipe"), record.get("failed")
    told = failed is None or (isinstance(failed, dict) and isinstance(failed.get("reason"), str) and "fault" in failed)
    if not isinstance(recipe, dict) or not recipe.keys() <= {*Recipe.model_fields} or not told:
        raise InjertoError(f"{path} is damaged: it is no record of a run; {cure}")
    return {"recipe": recipe, "failed": failed}


def write_record(runs: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write a record.

    Args:
        runs: The folder of all runs.
        name: The run's.
        record: As :func:`load_record` gives it.
    """
    write_sealed(record_of(runs, name), record)


def check_records(runs: Path, planned: Sequence[Planned]) -> list[Planned]:
    """Find finished runs of earlier calls that belong beside the planned ones.

    Args:
        runs: The folder of all runs.
        planned: Runs of this call.

    Raises:
        InjertoError: Where there are runs with other settings.
    """
    axes, earlier = list(planned[0].axes), []
    wanted = {one.name: one.recipe.model_dump(mode="json") for one in planned}
    some = planned[0].recipe.model_dump(mode="json")
    labels = {(one.label, one.seed) for one in planned}
    for name in wanted:
        if (runs / name / "recipe.yaml").exists() and not record_of(runs, name).exists():
            raise InjertoError(f"{record_of(runs, name)} is missing: remove {runs / name} to do the run again")
    for path in sorted(runs.glob("*.json")):
        before = load_record(path)["recipe"]
        name = path.name.removesuffix(".json")
        alike = [row for row in wanted.values() if row["tuning"] == before.get("tuning")]
        now, free = wanted.get(name) or (alike or [some])[0], () if name in wanted else (*axes, "seed")
        if not alike:  # only the tuning `head` has a neck
            free = (*free, "neck")
        different = [field for field in Recipe.model_fields if before.get(field) != now[field] and field not in free]
        if different:
            words = ", ".join(
                f"{field} (was {text_of(before.get(field))}, now {text_of(now[field])})" for field in different[:3]
            )
            fair = set(different) <= {"neck", "select"} and not {"neck", "select"} & set(axes)
            why = " (rows beside an aligned one have a neck where they must, and keep their last step)" if fair else ""
            raise InjertoError(
                f"--out {runs.parent}: {path.stem} was done with other settings: {words}{why}; repeat them (results.md "
                "has the command), or name another folder"
            )
        if name not in wanted and (runs / name / "metrics.json").exists():
            one = Planned({axis: before[axis] for axis in axes}, make_recipe(**before), name)
            if (one.label, one.seed) in labels:
                raise InjertoError(
                    f"--out {runs.parent}: {name} was done with other axes; repeat them, or name another folder"
                )
            earlier.append(one)
    return earlier


def do_run(one: Planned, runs: Path) -> None:
    """Do one run, or go on with it; keep in its record why it failed.

    Args:
        one: What to do.
        runs: The folder of all runs.
    """
    folder, record = runs / one.name, {"recipe": one.recipe.model_dump(mode="json"), "failed": None}
    write_record(runs, one.name, record)
    fields = one.recipe.model_dump(exclude_none=True, exclude={"data"})
    try:
        with quiet():
            api.fit(one.recipe.data, out=folder, resume=True, **fields)
    except Exception as error:
        reason, fault = why_failed(error)
        warn(f"{one.label} seed {one.seed} failed: {reason}")
        write_record(runs, one.name, record | {"failed": {"reason": reason, "fault": fault}})
    finally:
        gc.collect()
