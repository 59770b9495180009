"""What `torchrun` and `accelerate launch` say of the processes that they start together."""

import os

from injerto.basics.errors import InjertoError


def started() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is the one that speaks for all."""
    return started() == 1 or os.environ.get("RANK", "0") == "0"


def check_alone(what: str) -> None:
    """Refuse to be started together with others.

    Args:
        what: Is done, in the plural.

    Raises:
        InjertoError: Where a launcher has started several processes.
    """
    if started() > 1:
        raise InjertoError(f"{what} are no work for a launcher of several processes: start it without torchrun")
