"""What stands inside the parentheses of a term: ``mmd(stages=5/6)``, ``group-dro(eta=0.1)``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from injerto.basics.errors import InjertoError, suggest


@dataclass(frozen=True)
class Option:
    """One option of a term.

    Attributes:
        default: Its value where it is not given.
        least: Smallest number.
        most: Largest number.
        choices: The words it may be, for an option that is no number.
        several: Whether it is a list of whole numbers.
    """

    default: Any
    least: float = 0.0
    most: float = 1e6
    choices: tuple[str, ...] = ()
    several: bool = False

    def read(self, value: str | tuple[str, ...]) -> Any:
        """The value of what the user wrote; None where it is out of bounds.

        Args:
            value: A word, a number, or a list of them.
        """
        words = value if isinstance(value, tuple) else (value,)
        if self.choices:
            return words[0] if len(words) == 1 and words[0] in self.choices else None
        if self.several:
            return tuple(map(int, words)) if all(word.isdecimal() for word in words) else None
        try:
            number = type(self.default)(*words)
        except (TypeError, ValueError):
            return None
        return number if self.least <= number <= self.most else None

    def __str__(self) -> str:
        """What may be written."""
        if self.choices:
            return " or ".join(self.choices)
        if self.several:
            return "whole numbers with / between them"
        whole = "whole " if isinstance(self.default, int) else ""
        return f"a {whole}number from {self.least:g} to {self.most:g}"


def read_options(where: str, given: Mapping[str, str | tuple[str, ...]], known: Mapping[str, Option]) -> dict[str, Any]:
    """The values of all options of a term.

    Args:
        where: The term, for messages: ``--alignment mmd``.
        given: What the user wrote in the parentheses.
        known: The term's options by name.

    Raises:
        InjertoError: Where an option is unknown or out of bounds.
    """
    values = {name: option.default for name, option in known.items()}
    for name, text in given.items():
        if name not in known:
            known_text = suggest(name, list(known)) if known else "it takes none"
            raise InjertoError(f"{where}: unknown option '{name}'; {known_text}")
        value = known[name].read(text)
        if value is None:
            written = "/".join(text) if isinstance(text, tuple) else text
            raise InjertoError(f"{where}: {name}={written} must be {known[name]}")
        values[name] = value
    return values
