"""Every picture is decoded once before any compute is spent; a sound data set is remembered."""

import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import PIL
from PIL import Image, ImageFile

from injerto.basics.errors import InjertoError
from injerto.basics.files import cache_root, sha256, write_text
from injerto.basics.progress import note, progress, warn
from injerto.domains.domain import Domains, Input, Problem
from injerto.domains.formats import openable
from injerto.domains.images import DECODING, decode, reason, warn_dark
from injerto.domains.rows import threads

LISTED = 20
CHUNK = 64
MANY = 20
"""Classes that a table may have without a question."""

Remarks = Mapping[str, tuple[int, str]]
"""Kind to how many pictures are of it, and the content hash of the first."""


def no_classes(labels: Sequence[str], column: str | None, named: bool) -> str | None:
    """Why labels are hardly classes, None where they may be.

    Folders are classes, also where each holds one picture. A column of a table whose values are there once, most of
    them, may hold numbers, identifiers or free text.

    Args:
        labels: Of all labelled examples of the sources.
        column: The column of a table that they stand in, None for folders and lists.
        named: Whether the user has named that column.
    """
    different = set(labels)
    if column is None or len(different) <= MANY or 2 * len(different) <= len(labels):
        return None
    numbers = sum(_is_number(label) for label in different)
    what = f"column '{column}' holds {len(different)} different values in {len(labels)} labelled rows"
    if numbers > 0.9 * len(different):
        return f"{what}, nearly all of them numbers: these are no classes; name a column of classes with --label"
    if not named:
        return (
            f"{what}: are these classes, or identifiers or free text? name the column of classes with --label, "
            f"also where it is '{column}'"
        )
    return None


def _is_number(label: str) -> bool:
    try:
        float(label.replace(",", "."))
    except ValueError:
        return False
    return True


def check_domains(domains: Domains, skip_bad: bool) -> Domains:
    """See :meth:`injerto.domains.domain.Domains.check`."""
    noun = "images" if domains.modality == "image" else "texts"
    total = sum(map(len, domains.values())) + len(domains.problems)
    found: list[Problem] = []
    if domains.modality == "image":
        marker = cache_root() / "verified" / _key(domains)
        remarks = _remembered(marker)
        if remarks is None:
            domains, found, remarks = _without_bad(domains)
            if not found:
                with suppress(InjertoError):  # it is decoded again next time where nothing can be kept
                    write_text(marker, f"{json.dumps(remarks)}\n{sha256(json.dumps(remarks))}\n")
        _say(domains, remarks)
    problems = (*domains.problems, *found)
    if not problems:
        return domains
    if skip_bad or len(problems) > 1:  # the error names a single one by itself
        for problem in problems[:LISTED]:
            warn(f"{problem.source}: {problem.reason}")
    example = f"first: {problems[0].source} ({problems[0].reason})"
    if not skip_bad:
        raise InjertoError(
            f"{len(problems)} of {total} {noun} cannot be read, {example}; mend or remove them, or add --skip-bad"
        )
    if not domains:
        raise InjertoError(f"none of {total} {noun} can be read, {example}; mend them or name other data")
    note(f"{len(problems)} of {total} {noun} cannot be read and are left out (--skip-bad)")
    return Domains(domains, domains.modality, domains.name, problems, domains.used)


def _key(domains: Domains) -> str:
    """Everything that decides whether the pictures can be decoded, and what is remarked about them."""
    return sha256(
        PIL.__version__,
        DECODING,
        str(Image.MAX_IMAGE_PIXELS),
        str(ImageFile.LOAD_TRUNCATED_IMAGES),
        " ".join(openable()),
        *(key for domain in domains.values() for key in domain.contents),
    )


def _remembered(marker: Path) -> Remarks | None:
    """The remarks of a check that found no fault; None where there was none."""
    try:
        text, known = marker.read_text(encoding="utf-8").splitlines()
        if known != sha256(text):
            return None
        return {kind: (count, content) for kind, (count, content) in json.loads(text).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _without_bad(domains: Domains) -> tuple[Domains, list[Problem], Remarks]:
    """The domains without the pictures that cannot be decoded, those pictures, and remarks about the others."""
    kinds: dict[int, set[str]] = {}
    bad = undecodable([item for domain in domains.values() for item in domain.inputs], kinds)
    problems: list[Problem] = []
    kept, remarks, first = {}, dict[str, tuple[int, str]](), 0
    for name, domain in domains.items():
        keep = [index for index in range(len(domain)) if first + index not in bad]
        for index in range(len(domain)):
            if first + index in bad:
                problems.append(Problem(domain.sources[index], bad[first + index]))
            for kind in kinds.get(first + index, ()):
                count, content = remarks.get(kind, (0, domain.contents[index]))
                remarks[kind] = (count + 1, content)
        if keep:
            kept[name] = domain.subset(keep) if len(keep) < len(domain) else domain
        first += len(domain)
    return Domains(kept, domains.modality, domains.name, domains.problems, domains.used), problems, remarks


def _say(domains: Domains, remarks: Remarks) -> None:
    """One line for each kind of remark."""
    for kind, (count, content) in sorted(remarks.items()):
        places = (
            source
            for domain in domains.values()
            for source, key in zip(domain.sources, domain.contents, strict=True)
            if key == content
        )
        place = next(places, "a picture")
        if kind == "dark":
            warn_dark(place, count - 1)
        else:
            note(f"{count} pictures hold several frames or pages; the first of each is used (first: {place})")


def undecodable(items: Sequence[Input], kinds: dict[int, set[str]] | None = None) -> dict[int, str]:
    """Position and reason of every picture that cannot be decoded, in order.

    Args:
        items: Paths, encoded pictures or PIL images.
        kinds: Gets, by position, what is remarkable about a picture: ``dark`` or ``frames``.
    """

    def chunk(indices: range) -> dict[int, str]:
        bad = {}
        for index in indices:
            item = items[index]
            assert not isinstance(item, str)  # the modality is image
            seen: set[str] = set()
            try:
                decode(item, (8, 8), seen)
            except Exception as error:  # a picture's decoder may raise anything
                bad[index] = reason(error)
            else:
                if seen and kinds is not None:
                    kinds[index] = seen
        return bad

    found: dict[int, str] = {}
    chunks = [range(start, min(start + CHUNK, len(items))) for start in range(0, len(items), CHUNK)]
    with warnings.catch_warnings(), progress("checking", len(items), "images") as bar:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # decode() raises instead
        warnings.simplefilter("ignore", UserWarning)  # broken EXIF and the like: the pixels decide
        with ThreadPoolExecutor(threads()) as pool:
            for indices, bad in zip(chunks, pool.map(chunk, chunks), strict=True):
                found |= bad
                bar.advance(len(indices))
    return found
