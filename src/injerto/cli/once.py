"""Commands that take every flag once and with a value: what the user typed is what happens."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from injerto.basics.errors import InjertoError


def _check(command: Any, context: Any, arguments: list[str]) -> None:
    """Refuse an option that is given twice or with an empty value, unless it may be repeated."""
    values, _, order = command.make_parser(context).parse_args(args=list(arguments))
    for option, times in Counter(part for part in order if part.param_type_name == "option").items():
        flag = max(option.opts, key=len)
        if times > 1 and not option.multiple:
            other = f" (or {option.secondary_opts[0]})" if option.secondary_opts else ""
            raise InjertoError(f"{flag}{other} is given {times} times; give it once")
        given = values.get(option.name)
        if any(isinstance(value, str) and not value.strip() for value in (given if option.multiple else [given])):
            raise InjertoError(f"{flag} is empty; give it a value, or leave it out")


class Command(TyperCommand):
    """A command that refuses a flag given twice, and an empty one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See :func:`_check`."""
        _check(self, ctx, args)
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """All commands, with the flags that stand before a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See :func:`_check`."""
        if args:
            _check(self, ctx, args)
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """A :class:`typer.Typer` whose commands are of that kind."""

    def __init__(self, **settings: Any) -> None:
        """Pass on the settings."""
        super().__init__(cls=Group, **settings)

    def command(self, *names: Any, **settings: Any) -> Callable[[Any], Any]:
        """Register a command."""
        return super().command(*names, **{"cls": Command, **settings})
