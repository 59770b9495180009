"""Inputs that are files: tables, folders and archives as ``fit`` reads them, pictures, and lines of texts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.domains.archives import is_archive, unpack
from injerto.domains.characters import is_blank
from injerto.domains.columns import ColumnNames
from injerto.domains.compressed import read_bytes
from injerto.domains.domain import Input, Modality, Problem
from injerto.domains.folders import is_hidden, list_pictures
from injerto.domains.load import read_rows
from injerto.domains.rows import Rows
from injerto.domains.samples import SAMPLES
from injerto.domains.tables import is_table


@dataclass
class Inputs:
    """Inputs in their own order, and those that cannot be used.

    Attributes:
        modality: ``image`` or ``text``.
        items: Texts, or pictures as paths, encoded bytes or PIL images.
        sources: Where each came from: ``reviews.csv:17``, a picture's path, ``inputs[3]``.
        problems: Inputs that are empty, missing or not decodable.
        columns: Names of a table's columns; empty where there was none.
        settled: Whether the problems were left out with a note.
    """

    modality: Modality
    items: list[Input] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    settled: bool = False

    def add(self, item: Input, source: str) -> None:
        """Append one; an empty text is a problem.

        Args:
            item: A text or a picture.
            source: Where it came from.
        """
        if isinstance(item, str) and is_blank(item):
            self.problems.append(Problem(source, "the text is empty"))
            return
        self.items.append(item)
        self.sources.append(source)

    def extend(self, other: "Inputs | Rows") -> None:
        """Append all of another reading.

        Args:
            other: Of the same modality.
        """
        self.items += other.items if isinstance(other, Inputs) else other.inputs
        self.sources += other.sources
        self.problems += other.problems
        self.columns += other.columns

    def settle(self, skip_bad: bool = False) -> "Inputs":
        """Refuse inputs that cannot be used.

        Args:
            skip_bad: Leave them out with a note instead.

        Raises:
            InjertoError: Where there are any and ``skip_bad`` is False, or no others.
        """
        if not self.problems or self.settled:
            return self
        total, noun, most = len(self.items) + len(self.problems), f"{self.modality}s", 20 if skip_bad else 3
        places = "; ".join(f"{problem.source}: {problem.reason}" for problem in self.problems[:most])
        more = f"; and {len(self.problems) - most} more" if len(self.problems) > most else ""
        if total == 1:
            raise InjertoError(f"cannot read {places.replace(': ', ' (', 1)}); correct it or give another")
        if not self.items:
            raise InjertoError(f"none of {total} {noun} can be read ({places}{more}); correct them or give others")
        if not skip_bad:
            raise InjertoError(
                f"{len(self.problems)} of {total} {noun} cannot be read ({places}{more}); correct them, or leave them "
                "out (on the command line with --skip-bad)"
            )
        note(f"{len(self.problems)} of {total} {noun} cannot be read and are left out (--skip-bad): {places}{more}")
        self.settled = True
        return self


def read_path(path: Path, names: ColumnNames) -> Inputs:
    """Read a file or folder as ``fit`` does, or a picture, or a ``.txt`` file of one text a line.

    Args:
        path: Where it is; the name of a bundled sample too.
        names: Which column of a table is read, and the modality.

    Raises:
        InjertoError: Where nothing is there, or it holds nothing of the modality.
    """
    modality = modality_of(names)
    if not exists(path):
        if str(path) in SAMPLES:
            return read_path(SAMPLES[str(path)].path, names)
        raise no_such(path, modality)
    if path.is_dir():
        return _folder(path, names)
    if path.suffix.lower() == ".txt" and modality == "text":
        return _text_file(path, names)
    if is_table(path) or (is_archive(path) and modality == "text"):
        return rows_read(read_rows(path, names), modality)
    if modality == "text":
        raise InjertoError(
            f"cannot read texts from {path}; give a table (.csv .tsv .jsonl .parquet) or a .txt file of one text a line"
        )
    return _pictures(unpack(path), f"{path}/") if is_archive(path) else Inputs(modality, [path], [str(path)])


def _folder(path: Path, names: ColumnNames) -> Inputs:
    """A saved data set, pictures wherever they lie, or what ``fit`` reads."""
    from injerto.domains.huggingface import is_saved_dataset

    modality = modality_of(names)
    tables = any(is_table(file) and not is_hidden(file.name) for file in path.iterdir())
    if modality == "text" or is_saved_dataset(path) or (tables and not list_pictures(path)[0]):
        return rows_read(read_rows(path, names), modality)
    return _pictures(path, f"{path}/")


def _text_file(path: Path, names: ColumnNames) -> Inputs:
    """One text a line; a table where its first line is a heading; one text for a run that was fitted on no table."""
    text = _decoded(read_bytes(path), path.name)
    lines = _lines(text)
    if names.input is None and not names.fitted:
        found = Inputs("text")
        found.add("\n".join(lines), str(path))
        if len(lines) > 1:
            note(f"{path} is read as one text of {len(lines)} lines, as the run was not fitted on a table")
        return found
    if lines and _is_heading(lines[0], names) and is_table(path):
        return rows_read(read_rows(path, names), "text")
    if len(lines) > 1:
        note(f"{path} is read as {len(lines)} texts, one a line")
    return _of_lines(lines, path.name, names)


def read_lines(data: bytes, name: str, names: ColumnNames) -> Inputs:
    """One text a line; lines that are empty are problems but for those at the end.

    Args:
        data: UTF-8, or UTF-16 with its mark.
        name: What messages call it: the sources are its lines.
        names: The column that the run was fitted with, for which a heading is looked through.

    Raises:
        InjertoError: Where it is no text, or a table.
    """
    return _of_lines(_lines(_decoded(data, name)), name, names)


def _of_lines(lines: Sequence[str], name: str, names: ColumnNames) -> Inputs:
    if len(lines) > 1 and _is_heading(lines[0], names):
        raise InjertoError(
            f"{name} begins with a table's heading ({lines[0][:60]}), each line would be one text; save the "
            "table with its ending (.csv, .tsv, .jsonl) and name that file"
        )
    found = Inputs("text")
    for number, text in enumerate(lines, 1):
        found.add(text, f"{name}:{number}")
    return found


def _decoded(data: bytes, name: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data or data.startswith(b"\x1f\x8b"):
        raise InjertoError(f"{name} holds no text but a binary file; name a table or an archive by its file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = 1 + len(re.findall(rb"\r\n|\n|\r", data[: error.start])), data[error.start]
        raise InjertoError(f"line {line} of {name} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from error


def _lines(text: str) -> list[str]:
    lines = re.split(r"\r\n|\n|\r", text)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _is_heading(line: str, names: ColumnNames) -> bool:
    """Whether a line has several cells (or is JSON), one of them the column that the run reads."""
    cells = {cell.strip().strip('"{} ') for cell in re.split(r'[,;\t]|": ', line)}
    return len(cells) > 1 and (names.input or dict(names.fitted).get("input")) in cells


def rows_read(rows: Rows, modality: Modality) -> Inputs:
    """The inputs of rows.

    Args:
        rows: As a reader found them.
        modality: What the run takes.

    Raises:
        InjertoError: Where they are of the other modality.
    """
    if rows.modality != modality:
        raise InjertoError(f"{rows.name} holds {rows.modality}s, and this run takes {modality}s")
    found = Inputs(modality)
    found.extend(rows)
    return found


def _pictures(root: Path, shown: str) -> Inputs:
    """All pictures below a folder, sorted by path, whatever its folders mean; other files are counted."""
    pictures, others = list_pictures(root)
    endings = ", ".join(f"{count} {ending}" for ending, count in others.most_common(4))
    if not pictures:
        raise InjertoError(f"no images in {shown.rstrip('/')}" + (f" (it holds {endings})" if endings else ""))
    if others:
        note(f"{shown.rstrip('/')}: {others.total()} files that are no images are ignored ({endings})")
    return Inputs("image", list(pictures), [shown + file.relative_to(root).as_posix() for file in pictures])


def no_such(path: Any, modality: Modality, more: str = "") -> InjertoError:
    """The error for a path where nothing is.

    Args:
        path: As given.
        modality: What the run takes.
        more: How many others there are.
    """
    hint = "; download it first" if "://" in str(path) or re.match(r"https?:/", str(path)) else ""
    return InjertoError(f"no such {'image' if modality == 'image' else 'file of texts'}: {path}{more}{hint}")


def modality_of(names: ColumnNames) -> Modality:
    """The modality of the inputs that are read.

    Args:
        names: With ``inputs_only``.
    """
    assert names.inputs_only is not None
    return names.inputs_only


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; False for a name that none can have.

    Args:
        path: Any.
    """
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
