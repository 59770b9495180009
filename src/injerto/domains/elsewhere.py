"""``NAME=PATH``: a domain that comes from another place than the rest of the data."""

from collections.abc import Iterable
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.domains.domain import Domains


def split_name(item: str, flag: str = "--target") -> tuple[str, str | None]:
    """The name of a domain, and its path where it has one of its own.

    A text with ``=`` behind which nothing exists is taken for a name as it stands.

    Args:
        item: ``NAME`` or ``NAME=PATH``.
        flag: For messages.

    Raises:
        InjertoError: Where the path is empty, or the name before one that exists.
    """
    name, equals, path = item.partition("=")
    if equals and not (path and (name or not Path(path).exists())):
        raise InjertoError(f"{flag} {item}: the {'path' if name else 'name'} is missing; write NAME=PATH")
    return (name, path) if equals and Path(path).exists() else (item, None)


def paths_elsewhere(items: Iterable[str], flag: str = "--target") -> dict[str, str]:
    """The paths of domains that come from elsewhere, by name.

    Args:
        items: ``NAME`` or ``NAME=PATH`` each.
        flag: For messages.

    Raises:
        InjertoError: As :func:`split_name`.
    """
    return {name: path for name, path in (split_name(item, flag) for item in items) if path is not None}


def named_in(domains: Domains, items: Iterable[str], flag: str = "--target") -> tuple[str, ...]:
    """The names of domains that are there.

    Args:
        domains: What was read, those from elsewhere too.
        items: ``NAME`` or ``NAME=PATH`` each.
        flag: For messages.

    Raises:
        InjertoError: Where there is no such domain and nothing at a path.
    """
    names = []
    for item in items:
        name, path = split_name(item, flag)
        if path is None and "=" in name and name not in domains:
            wrong = "the name is missing" if name.startswith("=") else f"nothing at '{name.partition('=')[2]}'"
            raise InjertoError(f"{flag} {item}: {wrong}; write NAME=PATH with an existing path")
        names.append(domains.named(name).name)
    return tuple(names)
