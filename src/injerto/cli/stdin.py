"""What ``predict`` is given on the command line: files, folders, globs, tables, texts, standard input."""

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.domains.archives import is_archive
from injerto.domains.columns import ColumnNames
from injerto.domains.domain import Modality
from injerto.domains.folders import is_hidden
from injerto.domains.samples import SAMPLES
from injerto.domains.tables import is_table
from injerto.domains.texts import clean_text
from injerto.evaluation.files import Inputs, read_lines, read_path
from injerto.evaluation.inputs import checked


def expand(arguments: Sequence[str], names: ColumnNames, skip_bad: bool = False) -> Inputs:
    """The inputs one by one, in the order of the arguments and of what each holds.

    Args:
        arguments: As given; ``-`` stands for the lines of standard input: texts, or paths of pictures.
        names: What the run reads (:meth:`injerto.evaluation.run.Run.reading`).
        skip_bad: Leave out inputs that are empty or cannot be decoded, with a note.

    Raises:
        InjertoError: Where a path is not there, or an input is empty, not UTF-8 or not a picture, or none is given.
    """
    modality: Modality = names.inputs_only or "text"
    found = Inputs(modality)
    for place, argument in enumerate(arguments, 1):
        if not argument.strip():
            raise InjertoError(f"input {place} is empty; leave it out")
        if argument == "-":
            lines = read_lines(sys.stdin.buffer.read(), "standard input", names)
            if modality == "text":
                found.extend(lines)
                continue
            found.problems += lines.problems
            paths = [path for line in lines.items for path in _paths(str(line), modality)]
        else:
            paths = _paths(argument, modality)
            if not paths:
                found.add(clean_text(argument), f"input {place}")
        for path in paths:
            found.extend(read_path(path, names))
    if not found.items and not found.problems:
        raise InjertoError("nothing to predict on: no input given")
    return checked(found, names).settle(skip_bad)


def _paths(argument: str, modality: Modality) -> list[Path]:
    """The files and folders that an argument names; none where it is a text."""
    path = Path(argument)
    try:
        if path.exists():
            return [path]
        matches = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else []
    except (OSError, ValueError):  # a text that no file can be called
        return []
    fixed = {part for part in path.parts if not glob.has_magic(part)}
    matches = [match for match in matches if not any(is_hidden(part) for part in set(Path(match).parts) - fixed)]
    if modality == "image":
        return [Path(match) for match in matches] or [path]
    data = is_table(path) or is_archive(path) or path.suffix.lower() == ".txt"
    if argument in SAMPLES or (data and not any(letter.isspace() for letter in argument)):
        return [Path(match) for match in matches] or [path]  # hardly a text: a name that was mistyped is refused
    return []
