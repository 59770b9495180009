"""One door for everything that comes in."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError, shown, suggest
from injerto.domains.archives import archive_stem, is_archive, unpack
from injerto.domains.columns import ColumnNames, apply_group_pattern, rows_from_columns
from injerto.domains.domain import Domains
from injerto.domains.folders import read_folder
from injerto.domains.given import apply_split_file
from injerto.domains.rows import Rows, build_domains
from injerto.domains.samples import SAMPLES
from injerto.domains.tables import is_table, read_table, table_stem

READING = ("input", "label", "domain", "group", "split_column", "split_file", "allow_outside")
"""Settings by which data are read."""
FORMS = (
    "a folder of pictures or tables, a .zip or .tar of pictures, a .csv .tsv .json .jsonl .parquet .arrow .xlsx table "
    "(also .gz .xz .bz2 .zst .zip) or a saved data set"
)


def load_domains(
    data: Any,
    *,
    input: str | None = None,
    label: str | None = None,
    domain: str | None = None,
    group: str | None = None,
    split_column: str | None = None,
    split_file: str | PathLike[str] | None = None,
    extra: Mapping[str, str | PathLike[str]] | None = None,
    responses: bool = False,
    fitted: Mapping[str, str] | None = None,
    allow_outside: bool = False,
) -> Domains:
    """Read domains of pictures or texts from wherever they are; pictures are hashed, not yet decoded.

    Args:
        data: A path (folder of pictures, archive of one, table, folder of ``save_to_disk``), the name of a bundled
            sample, or a table in memory: a data frame of pandas or polars, an Arrow table, a dict of columns, a list of
            dicts, a ``datasets.Dataset``, or a dict of these by split or domain. ``Domains`` are handed through.
        input: A table's column of texts or picture paths (relative to the table).
        label: A table's column of classes; an empty cell is no label.
        domain: A table's column of domains; without one there is a single domain, named after the table.
        group: A table's column, or a regular expression (its first group, or the whole match) that is searched in a
            picture's source or in a text: examples with one key stay on one side of every split.
        split_column: A table's column with ``train``, ``val``, ``test`` or ``unlabeled``.
        split_file: A CSV file ``path,split``.
        extra: Further domains by name, each from a path of its own.
        responses: Whether labels are what a language model is to say to an input; not given, they are looked for in
            columns such as ``response``, and texts without any are learned whole.
        fitted: The columns that a run was fitted with (:attr:`injerto.evaluation.run.Run.columns`); a table must have
            them where no other column is named.
        allow_outside: Whether a table's pictures may lie outside of its folder, be it by ``..``, an absolute path or a
            link. A table in memory names any file.

    Returns:
        The domains. Ids, order and groups do not depend on labels.

    Raises:
        InjertoError: Where something is missing, broken or contradictory.

    Examples:
        >>> load_domains("emoji-styles")["noto"].sources[0].startswith("noto/")
        True
    """
    if isinstance(data, Domains):
        return data
    names = ColumnNames(input, label, domain, group, split_column, responses, tuple((fitted or {}).items()))
    names = replace(names, allow_outside=allow_outside)
    sample = SAMPLES.get(data) if isinstance(data, str) and not Path(data).exists() else None
    if sample is not None:
        rows = replace(read_rows(sample.path, names), name=data)
        group = group or sample.group
    else:
        rows = read_rows(data, names)
    named = {"input": input, "label": label, "domain": domain}
    unused = next((name for name, column in named.items() if column is not None), None)
    if unused is not None and not rows.columns:
        raise InjertoError(f"--{unused} names a column, and {rows.name} is a folder of pictures; leave it out")
    by_column = group is not None and group in rows.columns
    if split_column is not None and not rows.columns:
        raise InjertoError(
            f"--split-column '{split_column}' needs a table, and {rows.name} is a folder of pictures; use --split-file"
        )
    for name, path in (extra or {}).items():
        if name in rows.domains:
            raise InjertoError(f"the domain '{name}' is in {rows.name} already; give the one from {path} another name")
        other = read_rows(path, names, optional=True)
        if other.modality != rows.modality:
            raise InjertoError(
                f"{path} holds {other.modality}s and {rows.name} {rows.modality}s; domains must be of one kind"
            )
        rows.extend(other, name)
    if group is not None and not by_column:
        apply_group_pattern(rows, group)
    if split_file is not None:
        apply_split_file(rows, Path(split_file))
    return build_domains(rows)


def check_reading(reading: Mapping[str, Any]) -> None:
    """Refuse keywords that :func:`load_domains` does not know, in words.

    Args:
        reading: What was given beside the caller's own arguments.

    Raises:
        InjertoError: For a name that is none of them.
    """
    for name in reading:
        if name not in READING:
            raise InjertoError(f"unknown setting {shown(name)}; {suggest(name, list(READING))}")


def read_rows(data: Any, names: ColumnNames, optional: bool = False) -> Rows:
    """Read the examples of any supported data in their own order, without hashing or splitting them.

    Args:
        data: As :func:`load_domains` takes it, except ``Domains`` and names of samples.
        names: Which column of a table is what.
        optional: Whether only the input column must exist.

    Returns:
        The examples in the order of the table, or of the sorted file names of a folder.

    Raises:
        InjertoError: Where the data cannot be read.
    """
    if not isinstance(data, (str, PathLike)):
        from injerto.domains.frames import read_object

        return read_object(data, names)
    path = Path(data)
    if not str(data).strip():
        raise InjertoError(f"no data named: give {FORMS}, or a sample: {', '.join(SAMPLES)}")
    if not path.exists():
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        near = [entry.name for entry in beside if entry.is_dir() or is_archive(entry) or is_table(entry)]
        raise InjertoError(f"no file, folder or sample '{data}'; {suggest(path.name, [*SAMPLES, *sorted(near)])}")
    if path.is_dir():
        from injerto.domains.huggingface import is_saved_dataset, read_saved_dataset

        if is_saved_dataset(path):
            return read_saved_dataset(path, names)
        from injerto.domains.table_folder import read_table_folder

        rows = read_table_folder(path, names)
        return read_folder(path) if rows is None else rows
    if is_archive(path) and not is_table(path):
        return _read_archive(path, names)
    if not is_table(path):
        raise InjertoError(f"cannot read domains from the file {path}{_other_kind(path)}; give {FORMS}")
    columns, numbers = read_table(path)
    if optional:
        kept = {
            key: value for key, value in asdict(names).items() if key in ("input", "allow_outside") or value in columns
        }
        names = ColumnNames(**kept)
    places = [f"{path.name}:{number}" for number in numbers]
    return rows_from_columns(columns, table_stem(path), names, base=path.parent, file=path.name, places=places)


def _read_archive(path: Path, names: ColumnNames) -> Rows:
    """Tables, pictures or texts in an archive, seen through a folder around all of it."""
    from injerto.domains.table_folder import read_table_folder

    root = inner = unpack(path)
    while len(entries := list(inner.iterdir())) == 1 and entries[0].is_dir():
        inner = entries[0]
    rows = read_table_folder(inner, names, archive_stem(path))
    return read_folder(root, archive_stem(path)) if rows is None else rows


def _other_kind(path: Path) -> str:
    """What a file is that is like a table and is not read."""
    kinds = {".xls": "an old spreadsheet: save it as .xlsx or CSV", ".xlsm": "a spreadsheet: save it as .xlsx or CSV"}
    kinds |= {".ods": "a spreadsheet: save it as .xlsx or CSV", ".numbers": "a spreadsheet: export it as CSV"}
    kinds |= {kind: "not read, for unpickling runs code: save it as Parquet" for kind in (".pkl", ".pickle")}
    why = kinds.get(path.suffix.lower())
    return f" ({why})" if why else ""
