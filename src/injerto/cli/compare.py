"""The command ``compare``: the flags of ``fit``, an axis for every ``--grid``, a table with gains."""

from pathlib import Path
from typing import Annotated, Any

import typer

from injerto.basics.progress import say
from injerto.cli.commands import Data, Json, _option
from injerto.cli.flags import settings_of, with_flags_of_fit

NOT_HERE = {"data", "out", "task", "slider", "track", "seed", "split_seed", "resume", "overwrite", "as_json"}
"""Parameters of ``fit`` that a comparison does without, or has of its own."""


def compare(
    data: Data,
    grid: Annotated[list[str], _option("AXIS=A,B: a setting and its values; repeat for several.")],
    out: Annotated[Path, _option("The comparison's folder; what is there already is not done again.")],
    row: Annotated[list[str] | None, _option("'AXIS=A AXIS=B': a row beside the grid; repeat for several.")] = None,
    seeds: Annotated[str, _option("How many seeds, or which: 5 or 0,2,7; 3 where not given.")] = "3",
    leave_one_out: Annotated[bool, _option("Every source stays unseen in turn.", "--leave-one-out")] = False,
    budget: Annotated[str | None, _option("Time such as 20m: rows that look worst are dropped to keep it.")] = None,
    engine: Annotated[str, _option("local, or ray for a cluster: many runs at a time.")] = "local",
    report: Annotated[bool, _option("Write report.html, a page to look at.", "--report/--no-report")] = True,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Fit all combinations of some settings with several seeds: which is better, and by how much."""
    from injerto.cli.show import print_json
    from injerto.studies.compare import compare as run
    from injerto.studies.compare import exit_code
    from injerto.studies.grid import parse_grid, parse_rows, parse_seeds

    given = settings_of(settings)
    rows = parse_rows(row or [])
    given |= {"rows": rows, "leave_one_out": leave_one_out, "budget": budget, "engine": engine}
    content = run(data, grid=parse_grid(grid), seeds=parse_seeds(seeds), out=out, **given)
    if as_json:
        print_json(content)
    else:
        print_comparison(content, out)
    if report and any(row["status"] == "ok" for row in content["rows"]):
        from injerto.reporting.report import report as write

        page = write(out)
        if not as_json:
            say(f"page: {page}")
    code = exit_code(content)
    if code:
        raise typer.Exit(code)


def print_comparison(content: dict[str, Any], out: Path) -> None:
    """The table of a comparison.

    Args:
        content: Of ``results.json``.
        out: Its folder.
    """
    from injerto.cli.show import table
    from injerto.studies.tables import table_of

    title, headings, cells, below = table_of(content)
    axes = headings.index("seeds")
    gains = [heading for heading in headings[axes:] if heading.startswith("gain ")]
    table(title, headings, cells, ("time", "seeds", *reversed(gains)), words=axes)
    for line in below:
        say(line)
    say(f"all columns: {out / 'results.md'}; every number: {out / 'results.csv'}")


with_flags_of_fit(compare, NOT_HERE)
