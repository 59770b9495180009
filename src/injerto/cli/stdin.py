"""What ``predict`` is given on the command line: paths, folders, globs, texts, standard input."""

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.domains.folders import is_image_name


def expand(inputs: Sequence[str], modality: str, skip_bad: bool = False) -> list[str]:
    """The inputs one by one; empty lines at the end of standard input are left out.

    Args:
        inputs: As given; ``-`` stands for the lines of standard input.
        modality: ``image`` or ``text``.
        skip_bad: Leave out empty lines of standard input, with a note.

    Raises:
        InjertoError: Where a path holds no image, or an input is empty or not UTF-8, or none is given.
    """
    lines: list[str] = []
    for place, item in enumerate(inputs, 1):
        if not item.strip():
            raise InjertoError(f"input {place} is empty; leave it out")
        lines += _standard_input(skip_bad) if item == "-" else [item]
    if modality == "image":
        lines = [path for line in lines for path in _images(line)]
    else:
        _refuse_files(inputs)
    if not lines:
        raise InjertoError("nothing to predict on: no input given")
    return lines


def _standard_input(skip_bad: bool) -> list[str]:
    """Its lines; as many answers as lines, so one that is empty is told, not left out."""
    lines: list[str] = []
    for number, line in enumerate(sys.stdin.buffer.read().splitlines(), 1):
        try:
            lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise InjertoError(
                f"line {number} of standard input is not UTF-8 (byte 0x{line[error.start]:02x}); save it as UTF-8"
            ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    empty = [number for number, text in enumerate(lines, 1) if not text.strip()]
    if empty and not skip_bad:
        raise InjertoError(f"line {empty[0]} of standard input is empty; leave it out, or add --skip-bad")
    if empty:
        note(f"empty lines of standard input are left out: {len(empty)}, the first is line {empty[0]} (--skip-bad)")
    return [text for text in lines if text.strip()]


def _refuse_files(items: Sequence[str]) -> None:
    """A file's name is hardly the text that somebody wants classified."""
    for item in items:
        if "\n" not in item and len(item) < 256 and item.strip() and Path(item).is_file():
            raise InjertoError(
                f"{item} is a file, and this run takes texts; pipe its lines in (injerto predict RUN - < {item}), "
                "or measure a table with injerto evaluate"
            )


def _images(place: str) -> list[str]:
    path = Path(place)
    if path.is_dir():
        found = sorted(str(file) for file in path.rglob("*") if file.is_file() and is_image_name(file.name))
        if not found:
            raise InjertoError(f"no images in {place}")
        return found
    if path.exists():
        return [place]
    found = sorted(glob.glob(place, recursive=True)) if glob.has_magic(place) else []
    if not found:
        raise InjertoError(f"no such image: {place}")
    return [name for match in found for name in _images(match)]
