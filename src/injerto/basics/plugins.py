"""What other installed packages add, by entry points: looked up by name, imported only where it is used."""

from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from injerto.basics.errors import InjertoError, first_line


@cache
def plugins(group: str) -> dict[str, EntryPoint]:
    """What is announced in a group of entry points, by name; nothing is imported.

    Args:
        group: For example ``injerto.tunings``.
    """
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=group)}


def load_plugin(group: str, name: str) -> Any:
    """Import what a package announces.

    Args:
        group: Of the entry point.
        name: Of the entry point; one of :func:`plugins`.

    Raises:
        InjertoError: Where the package can't be imported.
    """
    point = plugins(group)[name]
    try:
        return point.load()
    except Exception as error:  # noqa: BLE001  any code of anybody runs here
        package = f" of the package {point.dist.name}" if point.dist else ""
        raise InjertoError(
            f"'{name}'{package} ({point.value}, {group}) can't be imported: {first_line(error)}; "
            "mend or uninstall that package"
        ) from error
