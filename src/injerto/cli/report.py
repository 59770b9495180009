"""The command ``report``: one page for a comparison or for a run."""

from pathlib import Path
from typing import Annotated

import typer

from injerto.basics.progress import say
from injerto.cli.commands import Json, _option, app


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="Folder of a comparison or of a run.", show_default=False)],
    out: Annotated[Path | None, _option("The page; report.html in that folder where not given.")] = None,
    examples: Annotated[
        bool, _option("Show pictures and texts in the page, or leave them out.", "--examples/--no-examples")
    ] = True,
    seed: Annotated[int, _option("Seed of the map.")] = 0,
    as_json: Json = False,
) -> None:
    """One page to look at: verdict, table, costs, maps, mistakes; a single file without outside parts."""
    from injerto.cli.show import print_json
    from injerto.reporting.report import report as write

    page = write(path, out, examples=examples, seed=seed)
    if as_json:
        print_json({"page": str(page)})
    else:
        say(f"page: {page}")
