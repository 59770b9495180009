"""What adapters are called."""

from collections.abc import Sequence
from pathlib import Path

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.limits import ADAPTER_NAME as LONGEST_NAME


class UnknownAdapter(InjertoError):
    """No adapter of that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        """Say which there are.

        Args:
            name: As it was asked for.
            known: Names of all.
        """
        super().__init__(f"no adapter '{name[:LONGEST_NAME]}'; {suggest(name[:LONGEST_NAME], list(known))}")


def check_name(name: str) -> str:
    """Refuse what an adapter cannot be called.

    Args:
        name: As it was asked for.

    Raises:
        InjertoError: Where it is empty, too long, or could be taken for a path.
    """
    plain = name.isprintable() and not set(name) & set("/\\") and name not in (".", "..")
    if not (plain and 0 < len(name) <= LONGEST_NAME):
        rule = f"1 to {LONGEST_NAME} printable characters, no slash or backslash, and is not . or .."
        raise InjertoError(f"an adapter's name has {rule}; not {name[:40]!r}")
    return name


def name_of(path: Path) -> str:
    """What a run is called: by its folder.

    Args:
        path: RUN or RUN/adapter.
    """
    return (path.parent if path.name == "adapter" else path).absolute().name
