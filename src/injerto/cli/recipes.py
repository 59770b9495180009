"""The command ``recipes``: what comes with the package, and how well it was measured to do."""

from typing import Annotated

import typer

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.progress import say
from injerto.cli.commands import Json, app


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one; all where not given.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Recipes that come with Injerto, with measured scores; --config takes their names."""
    from injerto.basics.progress import format_bytes
    from injerto.cli.show import print_json
    from injerto.recipe.shipped import describe_recipes, measured_text, shipped_recipes

    known = describe_recipes()
    if name is not None and name not in known:
        raise InjertoError(f"no recipe '{name}'; {suggest(name, list(known))}")
    if as_json:
        print_json(known if name is None else known[name])
        return
    if name is not None:
        print(shipped_recipes()[name].read_text(encoding="utf-8"), end="")
        return
    for title, entry in known.items():
        about, measured = entry["about"], entry["about"]["measured"]
        roles = f"{', '.join(measured['source'])} -> {measured['domain']}"
        say(f"{title}: {about['for']}")
        say(f"  measured  {measured_text(about)}")
        say(f"            on {measured['data']}, {roles} ({measured['split']})")
        if "trainable" in about:
            say(f"  size      trains {about['trainable']:,} parameters, ships {format_bytes(about['adapter_bytes'])}")
        say(f"  command   {about['command']}")
