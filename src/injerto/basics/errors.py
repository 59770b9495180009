"""The one exception a user is meant to read, and the words it is made of."""

import errno
import os
import re
import traceback

from injerto.basics.escapes import visible
from injerto.basics.limits import MESSAGE, VALUE_CHARACTERS


def shorten(text: str, length: int = MESSAGE) -> str:
    """A text without its middle where it is longer than it may be.

    Args:
        text: Any.
        length: Most characters.
    """
    return text if len(text) <= length else f"{text[: length // 2 - 3]} ... {text[len(text) - length // 2 + 2 :]}"


class InjertoError(Exception):
    """Something the user can mend: one line that says what, where and what to do.

    The command line prints the message and exits with 2; a library user catches it. Names and shapes in it may come
    from a stranger's file: a message is never longer than a page, and holds no control characters.
    """

    def __init__(self, message: object = "") -> None:
        """Keep a message.

        Args:
            message: What the user is told.
        """
        super().__init__(shorten(visible(" ".join(shorten(str(message)).splitlines()))))


def shown(value: object, most: int = VALUE_CHARACTERS) -> str:
    """How a message shows a value of unknown size: its representation, shortened.

    Args:
        value: Any.
        most: Characters.
    """
    try:
        return shorten(repr(value), most)
    except (ValueError, RecursionError):  # a number of more digits than Python writes, or a deep structure
        return f"a {type(value).__name__} that is too large to be shown"


def suggest(word: str, known: list[str]) -> str:
    """Say which known names exist, the closest first.

    Args:
        word: What the user wrote.
        known: The names that exist.

    Returns:
        ``"did you mean 'x'? known: a, b, c"``, or only the known names where nothing is close.
    """
    from difflib import get_close_matches

    listing = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
    close = get_close_matches(word, known, n=1)
    return (f"did you mean '{close[0]}'? " if close else "") + f"known: {listing}"


def first_line(error: BaseException) -> str:
    """The first line of what a library said, shortened, or the kind of its error where it said nothing.

    Args:
        error: What it raised.
    """
    return shorten((str(error).strip() or type(error).__name__).splitlines()[0], 300)


def system_trouble(error: BaseException | None) -> str | None:
    """What the operating system refused, in a line; None where an error does not come from there.

    Args:
        error: Whatever was raised; what it was raised from is looked at, too.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _CURES:
            place = shorten(str(error.filename2 or error.filename or "a file"), VALUE_CHARACTERS)
            return f"{place}: {error.strerror}; {_CURES[error.errno]}"
        plain = type(error) is Exception or type(error).__name__ == "SafetensorError"  # of libraries in Rust
        if plain and (found := re.search(r"\(os error (\d+)\)", str(error))) and int(found[1]) in _CURES:
            return f"a file: {os.strerror(int(found[1]))}; {_CURES[int(found[1])]}"
        if type(error).__module__ == "sqlite3" and type(error).__name__ in ("OperationalError", "DatabaseError"):
            return f"an SQLite file: {error}; {_ELSEWHERE}"
        error = getattr(error, "orig", None) or error.__cause__
    return None


_ELSEWHERE = "check the disk and the permissions, or choose another path"
_CURES = {
    getattr(errno, name): cure
    for cure, names in {
        "free space or choose another folder": ("ENOSPC", "EDQUOT", "EFBIG"),
        "raise the limit of open files (ulimit -n)": ("EMFILE", "ENFILE"),
        _ELSEWHERE: ("EIO", "EROFS", "EACCES", "EPERM", "ENAMETOOLONG", "ENOTDIR", "ESTALE"),
    }.items()
    for name in names
    if hasattr(errno, name)
}
"""What helps against what the operating system refuses; its other errors may be our fault."""


def why_failed(error: Exception) -> tuple[str, bool]:
    """Why one of many runs failed, in a line, and whether that is our own fault; its trace with INJERTO_DEBUG.

    Args:
        error: What it raised.
    """
    trouble = None if isinstance(error, InjertoError) else system_trouble(error)
    fault = trouble is None and not isinstance(error, InjertoError)
    if fault and os.environ.get("INJERTO_DEBUG"):
        traceback.print_exception(error)
    text = trouble or (f"{type(error).__name__}: {error}" if fault else str(error))
    return " ".join(text.split())[:500], fault
