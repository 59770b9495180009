"""The grammar of the two dials.

``TUNING = head | last:K | full | gradual | lp-ft | bitfit | norm | lora[(key=value,...)][:last:K]``
``ALIGNMENT = none | TERM{+TERM}``, ``TERM = name[(key=value,...)][:weight]``

Spaces are ignored; lists inside parentheses are written with ``/``.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.plugins import plugins

TUNINGS = ("head", "last", "full", "gradual", "lp-ft", "bitfit", "norm", "lora")
"""The tunings that come with Injerto."""
GROUP = "injerto.tunings"
"""Entry points of packages that add tunings."""
_ADDED: set[str] = set()
_NAME = re.compile(r"^([a-z][a-z0-9-]*)(?:\(([^()]*)\))?((?::[^:()]+)*)$")


HEAVIEST = 10_000
"""Largest weight of a term."""


@dataclass(frozen=True)
class TuningSpec:
    """What may move.

    Attributes:
        kind: One of :data:`TUNINGS`, or one from elsewhere.
        last: K where the setting names the last K stages, else None.
        options: ``key=value`` pairs inside the parentheses; a value with ``/`` is a tuple.
    """

    kind: str
    last: int | None = None
    options: dict[str, str | tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        """The setting as a user would write it."""
        return self.kind + _options_text(self.options) + (_last_text(self))


@dataclass(frozen=True)
class AlignmentTerm:
    """One thing that must match across domains.

    Attributes:
        name: The alignment's name.
        options: ``key=value`` pairs inside the parentheses; a value with ``/`` is a tuple.
        weight: Its weight in the loss, None for the table's default.
    """

    name: str
    options: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    weight: float | None = None

    def __str__(self) -> str:
        """The term as a user would write it."""
        return self.name + _options_text(self.options) + ("" if self.weight is None else f":{self.weight:g}")


def _last_text(spec: TuningSpec) -> str:
    if spec.last is None:
        return ""
    return f":{spec.last}" if spec.kind == "last" else f":last:{spec.last}"


def _options_text(options: dict[str, str | tuple[str, ...]]) -> str:
    if not options:
        return ""
    pairs = (f"{key}={'/'.join(value) if isinstance(value, tuple) else value}" for key, value in options.items())
    return f"({','.join(pairs)})"


def _split(text: str, what: str) -> tuple[str, dict[str, str | tuple[str, ...]], list[str]]:
    """``name(options):a:b`` -> name, options, [a, b]."""
    match = _NAME.match(re.sub(r"\s+", "", text))
    if not match:
        small = "" if text == text.lower() else f" (names are written small: {text.strip().lower()})"
        raise InjertoError(f"{what} '{text}' cannot be read; write name, name(key=value) or name:number{small}")
    name, inside, rest = match.groups()
    options: dict[str, str | tuple[str, ...]] = {}
    for pair in (inside or "").split(","):
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise InjertoError(f"{what} '{text}': '{pair}' is not key=value")
        if key in options:
            raise InjertoError(f"{what} '{text}': '{key}' is given twice")
        options[key] = tuple(value.split("/")) if "/" in value else value
    return name, options, rest.split(":")[1:] if rest else []


def _positive(text: str, whole: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InjertoError(f"tuning '{whole}': '{text}' is not a number of stages; write for example last:2")
    return int(text)


def is_ours(thing: object) -> bool:
    """Whether a registered class or function comes with Injerto."""
    return str(getattr(thing, "__module__", "")).startswith("injerto.")


def check_name(name: str, what: str, taken: Collection[str]) -> None:
    """Refuse a name that could not be written, or that means something else already.

    Args:
        name: What another package wants to be called.
        what: ``tuning`` or ``alignment``, for the message.
        taken: The names that come with Injerto.

    Raises:
        InjertoError: Where it is no name of the grammar, or taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise InjertoError(
            f"'{name}' cannot be the name of your {what}: use small letters, digits and '-', a letter first"
        )
    if name in taken:
        raise InjertoError(f"{what} '{name}' comes with Injerto; choose another name for yours")


def add_tuning(kind: str) -> None:
    """Let the grammar know a tuning from elsewhere (:func:`injerto.tuning.base.register_tuning` calls this).

    Args:
        kind: Its name.

    Raises:
        InjertoError: Where the name cannot be written or comes with Injerto.
    """
    check_name(kind, "tuning", TUNINGS)
    _ADDED.add(kind)


def parse_tuning(text: str) -> TuningSpec:
    """Read a tuning setting.

    Args:
        text: For example ``head``, ``last:2``, ``lora(r=8,alpha=16):last:2``.

    Returns:
        The parsed setting. Whether the kind exists is checked where kinds are registered.

    Raises:
        InjertoError: Where the text does not follow the grammar.
    """
    name, options, rest = _split(text, "tuning")
    if options and name in TUNINGS and name != "lora":
        raise InjertoError(f"tuning '{text}': '{name}' takes no options in parentheses")
    if name == "last":
        if len(rest) != 1:
            raise InjertoError(f"tuning '{text}': say how many stages, for example last:2")
        return TuningSpec("last", _positive(rest[0], text), options)
    added = _ADDED | plugins(GROUP).keys()
    if name not in TUNINGS and name not in added:
        known = [*TUNINGS[:1], "last:K", *TUNINGS[2:], *sorted(added)]
        raise InjertoError(f"unknown tuning '{text}'; {suggest(name, known)}")
    if name == "lora" and len(rest) == 2 and rest[0] == "last":
        return TuningSpec("lora", _positive(rest[1], text), options)
    if rest:
        raise InjertoError(f"tuning '{text}': nothing may follow '{name}' here")
    return TuningSpec(name, None, options)


def parse_alignment(text: str) -> tuple[AlignmentTerm, ...]:
    """Read an alignment setting.

    Args:
        text: For example ``none``, ``mmd``, ``mmd(stages=5/6):0.5+mcc``.

    Returns:
        The terms, empty for ``none``. Whether a name exists is checked where alignments are registered.

    Raises:
        InjertoError: Where the text does not follow the grammar.
    """
    if text.strip() == "none":
        return ()
    terms = []
    for part in re.split(r"\+(?![^()]*\))", text):
        if not part.strip():
            raise InjertoError(f"alignment '{text}': a term is missing; write none, or terms such as mmd:0.5+mcc")
        name, options, rest = _split(part, "alignment")
        if name == "none" or len(rest) > 1:
            raise InjertoError(f"alignment '{text}' cannot be read; write none, or terms such as mmd:0.5+mcc")
        weight = None
        if rest:
            try:
                weight = float(rest[0])
            except ValueError:
                raise InjertoError(f"alignment '{text}': weight '{rest[0]}' is not a number") from None
            if not 0 <= weight <= HEAVIEST:
                raise InjertoError(f"alignment '{text}': weight {rest[0]} must be a number from 0 to {HEAVIEST}")
        terms.append(AlignmentTerm(name, options, weight))
    return tuple(terms)
