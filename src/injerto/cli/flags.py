"""The flags of ``fit`` for commands that make many runs, so that all speak one language."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from injerto.cli.commands import _number, app, fit


def with_flags_of_fit(command: Callable[..., None], not_here: Collection[str]) -> None:
    """Register a command that takes the flags of ``fit`` beside its own; they reach it as keywords.

    Args:
        command: Its function, with ``**settings``.
        not_here: Parameters of ``fit`` that it does without, or has of its own.
    """
    own = inspect.signature(command).parameters
    more = [part for name, part in inspect.signature(fit).parameters.items() if name not in not_here]
    flags = [*(part for part in own.values() if part.kind is not part.VAR_KEYWORD), *more]
    required = [part for part in flags if part.default is part.empty]
    optional = [part for part in flags if part.default is not part.empty]
    signature = inspect.Signature([*required, *optional])
    setattr(command, "__signature__", signature)  # noqa: B010  mypy knows no such attribute
    command.__annotations__ = {name: part.annotation for name, part in signature.parameters.items()}
    app.command()(command)


def settings_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among those flags that the user gave.

    Args:
        flags: As the command has them.
    """
    given = {name: value for name, value in flags.items() if value is not None and value is not False}
    if given.get("lr") not in (None, "auto"):
        given["lr"] = _number(given["lr"], "--lr")
    return given
