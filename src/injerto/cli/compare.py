"""The command ``compare``: the flags of ``fit``, an axis for every ``--grid``, a table with gains."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from injerto.cli.commands import Data, Json, _number, _option, app, fit

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
    report: Annotated[bool, _option("Write report.html, a page to look at.", "--report/--no-report")] = True,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Fit all combinations of some settings with several seeds: which is better, and by how much."""
    from injerto.cli.show import print_json
    from injerto.studies.compare import compare as run
    from injerto.studies.compare import exit_code
    from injerto.studies.grid import parse_grid, parse_rows, parse_seeds

    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    if given.get("lr") not in (None, "auto"):
        given["lr"] = _number(given["lr"], "--lr")
    rows = parse_rows(row or [])
    given |= {"rows": rows, "leave_one_out": leave_one_out, "budget": budget}
    content = run(data, grid=parse_grid(grid), seeds=parse_seeds(seeds), out=out, **given)
    if as_json:
        print_json(content)
    else:
        print_comparison(content, out)
    if report and any(row["status"] == "ok" for row in content["rows"]):
        from injerto.reporting.report import report as write

        page = write(out)
        if not as_json:
            print(f"page: {page}")
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
        print(line)
    print(f"all columns: {out / 'results.md'}; every number: {out / 'results.csv'}")


def _with_flags_of_fit() -> None:
    """Give the command the flags of ``fit``, so that both speak one language."""
    own = inspect.signature(compare).parameters
    more = [part for name, part in inspect.signature(fit).parameters.items() if name not in NOT_HERE]
    flags = [*(part for part in own.values() if part.kind is not part.VAR_KEYWORD), *more]
    required = [part for part in flags if part.default is part.empty]
    optional = [part for part in flags if part.default is not part.empty]
    signature = inspect.Signature([*required, *optional])
    setattr(compare, "__signature__", signature)  # noqa: B010  mypy knows no such attribute
    compare.__annotations__ = {name: part.annotation for name, part in signature.parameters.items()}
    app.command()(compare)


_with_flags_of_fit()
