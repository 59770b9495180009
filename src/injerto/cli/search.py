"""The command ``search``: the flags of ``fit``, a range for every ``--space``, the best trials and their recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer

from injerto.basics.progress import say
from injerto.cli.commands import Data, Json, _option
from injerto.cli.flags import settings_of, with_flags_of_fit

NOT_HERE = {"data", "out", "task", "slider", "track", "seed", "resume", "overwrite", "as_json"}
"""Parameters of ``fit`` that a search does without, or has of its own."""


def search(
    data: Data,
    out: Annotated[Path, _option("The search's folder; what is there already is not done again.")],
    space: Annotated[list[str] | None, _option("NAME=LOW..HIGH or NAME=A,B; repeat. A small default space.")] = None,
    trials: Annotated[int | None, _option("Trials of the whole search; 30 where no --minutes are given.")] = None,
    minutes: Annotated[float | None, _option("Begin no trial after so many minutes.")] = None,
    seeds: Annotated[int, _option("Every trial is the mean over so many seeds; 1 where not given.")] = 1,
    storage: Annotated[str | None, _option("An Optuna storage's URL; OUT/search.db where not given.")] = None,
    sampler: Annotated[str, _option("tpe, random, gp or grid.")] = "tpe",
    pruner: Annotated[str, _option("median, halving or none.")] = "median",
    seed: Annotated[int, _option("Seed of what is drawn and of the first run.")] = 0,
    select_by: Annotated[str | None, _option("With a target: the validator that judges; infomax.")] = None,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Search good settings with Optuna; no label of a target is looked at."""
    from injerto.cli.show import print_json
    from injerto.studies.search import exit_code
    from injerto.studies.search import search as run
    from injerto.studies.space import parse_space

    given = settings_of(settings)
    given |= {"space": parse_space(space) if space else None, "trials": trials, "minutes": minutes, "seeds": seeds}
    given |= {"storage": storage, "sampler": sampler, "pruner": pruner, "seed": seed, "select_by": select_by}
    content = run(data, out=out, **given)
    if as_json:
        print_json(content)
    else:
        print_search(content, out)
    code = exit_code(content)
    if code:
        raise typer.Exit(code)


def print_search(content: dict[str, Any], out: Path) -> None:
    """The best trials, and how to fit the winner again.

    Args:
        content: Of ``search.json``.
        out: Its folder.
    """
    from injerto.cli.show import table
    from injerto.studies.found import table_of

    title, headings, cells, below = table_of(content)
    if cells:
        table(title, headings, cells, words=0)
    for line in below:
        say(line)
    say(f"every trial: {out / 'search.csv'}")
    if content["best"]:
        say(f"fit the best again: {content['best']['command']}")


with_flags_of_fit(search, NOT_HERE)
