"""JSON from outside: bounded in bytes, depth and number of values, and meant in one way only."""

import json
from typing import Any, NoReturn

from injerto.basics.errors import InjertoError
from injerto.basics.limits import JSON_DEPTH, JSON_NODES


def load_json(data: bytes | bytearray | memoryview, what: str) -> Any:
    """Parse a JSON file that may come from a stranger.

    Refused are, beside what is no JSON: NaN and infinity, a key that is there twice (which of the two is meant?), text
    that is not UTF-8, and more nesting or values than any of our files has.

    Args:
        data: The file's bytes, whose number the caller has bounded.
        what: The file, for messages.

    Raises:
        InjertoError: Where it is damaged or out of bounds.
    """
    data = bytes(data)
    if sum(data.count(sign) for sign in b",[{") > JSON_NODES:
        raise InjertoError(f"{what} holds more than {JSON_NODES:,} values; it is not read")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise InjertoError(f"{what} is damaged: nested more than {JSON_DEPTH} deep") from None
    except ValueError as error:
        reason = f" ({error})" if isinstance(error, _Unclear) else ""
        raise InjertoError(f"{what} is damaged: not valid JSON{reason}") from None
    level = [found]
    for _ in range(JSON_DEPTH):
        level = [part for value in level for part in _parts(value) if isinstance(part, dict | list)]
        if not level:
            return found
    raise InjertoError(f"{what} is damaged: nested more than {JSON_DEPTH} deep")


class _Unclear(ValueError):
    """What Python would read, and other programs otherwise or not at all."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Unclear(f"'{twice[:60]}' is there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise _Unclear(f"{text} is no number")


def _parts(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
