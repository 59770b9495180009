"""What ``predict`` is given on the command line: paths, folders, globs, texts, standard input."""

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.domains.folders import is_image_name


def expand(inputs: Sequence[str], modality: str) -> list[str]:
    """The inputs one by one; empty lines of standard input are left out.

    Args:
        inputs: As given; ``-`` stands for the lines of standard input.
        modality: ``image`` or ``text``.

    Raises:
        InjertoError: Where a path holds no image, or an input is empty, or none is given.
    """
    lines: list[str] = []
    for place, item in enumerate(inputs, 1):
        if not item.strip():
            raise InjertoError(f"input {place} is empty; leave it out")
        lines += [line.rstrip("\r\n") for line in sys.stdin] if item == "-" else [item]
    lines = [line for line in lines if line.strip()]
    if modality == "image":
        lines = [path for line in lines for path in _images(line)]
    else:
        _refuse_files(inputs)
    if not lines:
        raise InjertoError("nothing to predict on: no input given")
    return lines


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
