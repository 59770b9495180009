"""Every picture is decoded once before any compute is spent; a sound data set is remembered."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.basics.files import cache_root, sha256, write_text
from injerto.basics.progress import note, progress, warn
from injerto.domains.domain import Domain, Domains, ImageInput, Problem
from injerto.domains.images import decode, reason
from injerto.domains.rows import threads

LISTED = 20
CHUNK = 64


def are_numbers(classes: int, labelled: int) -> bool:
    """Whether labels are hardly classes: many, and most there once.

    Args:
        classes: How many different ones.
        labelled: Examples that have one.
    """
    return classes > 20 and 2 * classes > labelled


def check_domains(domains: Domains, skip_bad: bool) -> Domains:
    """See :meth:`injerto.domains.domain.Domains.check`."""
    noun = "images" if domains.modality == "image" else "texts"
    total = sum(map(len, domains.values())) + len(domains.problems)
    found: list[Problem] = []
    marker = (
        cache_root()
        / "verified"
        / sha256(PIL.__version__, *(key for domain in domains.values() for key in domain.contents))
    )
    if domains.modality == "image" and not marker.exists():
        bad = _undecodable(domains)
        kept = {}
        for name, domain in domains.items():
            found += [Problem(domain.sources[index], why) for index, why in bad[name].items()]
            keep = [index for index in range(len(domain)) if index not in bad[name]]
            if keep:
                kept[name] = domain.subset(keep) if bad[name] else domain
        if not found:
            write_text(marker, "")
        domains = Domains(kept, domains.modality, domains.name, domains.problems)
    problems = (*domains.problems, *found)
    if not problems:
        return domains
    if skip_bad or len(problems) > 1:  # the error names a single one by itself
        for problem in problems[:LISTED]:
            warn(f"{problem.source}: {problem.reason}")
    first = f"first: {problems[0].source} ({problems[0].reason})"
    if not skip_bad:
        raise InjertoError(
            f"{len(problems)} of {total} {noun} cannot be read, {first}; mend or remove them, or add --skip-bad"
        )
    if not domains:
        raise InjertoError(f"none of {total} {noun} can be read, {first}; mend them or name other data")
    note(f"{len(problems)} of {total} {noun} cannot be read and are left out (--skip-bad)")
    return Domains(domains, domains.modality, domains.name, problems)


def readable(paths: Sequence[str]) -> list[str]:
    """Those of some pictures that can be decoded; of the others it is told why not.

    Args:
        paths: Files of pictures.

    Raises:
        InjertoError: Where none can.
    """
    with ThreadPoolExecutor(threads()) as pool:
        why = list(pool.map(_why_bad, map(Path, paths)))
    bad = [f"{path}: {words}" for path, words in zip(paths, why, strict=True) if words]
    for line in bad[:LISTED]:
        warn(line)
    if len(bad) == len(paths):
        raise InjertoError(f"none of {len(paths)} images can be read, first: {bad[0]}")
    if bad:
        note(f"{len(bad)} of {len(paths)} images cannot be read and are left out (--skip-bad)")
    return [path for path, words in zip(paths, why, strict=True) if not words]


def _why_bad(item: ImageInput) -> str | None:
    try:
        decode(item, (8, 8))
    except Exception as error:  # a picture's decoder may raise anything
        return reason(error)
    return None


def _undecodable(domains: Domains) -> dict[str, dict[int, str]]:
    """Position and reason of every picture that cannot be decoded, per domain."""

    def chunk(task: tuple[Domain, Sequence[int]]) -> dict[int, str]:
        bad = {}
        for index in task[1]:
            item = task[0].inputs[index]
            assert not isinstance(item, str)  # the modality is image
            if why := _why_bad(item):
                bad[index] = why
        return bad

    result: dict[str, dict[int, str]] = {name: {} for name in domains}
    tasks = [
        (domain, range(start, min(start + CHUNK, len(domain))))
        for domain in domains.values()
        for start in range(0, len(domain), CHUNK)
    ]
    with warnings.catch_warnings(), progress("checking", sum(map(len, domains.values())), "images") as bar:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # decode() raises instead
        warnings.simplefilter("ignore", UserWarning)  # broken EXIF and the like: the pixels decide
        with ThreadPoolExecutor(threads()) as pool:
            for task, bad in zip(tasks, pool.map(chunk, tasks), strict=True):
                result[task[0].name].update(bad)
                bar.advance(len(task[1]))
    return result
