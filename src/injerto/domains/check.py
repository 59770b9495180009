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
from injerto.domains.domain import Domains, Input, Problem
from injerto.domains.images import DECODING, decode, reason
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
        / sha256(DECODING, PIL.__version__, *(key for domain in domains.values() for key in domain.contents))
    )
    if domains.modality == "image" and not marker.exists():
        bad = _undecodable([item for domain in domains.values() for item in domain.inputs])
        kept, first = {}, 0
        for name, domain in domains.items():
            own = {index: bad[first + index] for index in range(len(domain)) if first + index in bad}
            found += [Problem(domain.sources[index], why) for index, why in own.items()]
            keep = [index for index in range(len(domain)) if index not in own]
            if keep:
                kept[name] = domain.subset(keep) if own else domain
            first += len(domain)
        if not found:
            write_text(marker, "")
        domains = Domains(kept, domains.modality, domains.name, domains.problems, domains.used)
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


def readable(paths: Sequence[str]) -> list[str]:
    """Those of some pictures that can be decoded; of the others it is told why not.

    Args:
        paths: Files of pictures.

    Raises:
        InjertoError: Where none can.
    """
    bad = _undecodable([Path(path) for path in paths])
    told = [f"{paths[index]}: {why}" for index, why in bad.items()]
    for line in told[:LISTED]:
        warn(line)
    if len(bad) == len(paths):
        raise InjertoError(f"none of {len(paths)} images can be read, first: {told[0]}")
    if bad:
        note(f"{len(bad)} of {len(paths)} images cannot be read and are left out (--skip-bad)")
    return [path for index, path in enumerate(paths) if index not in bad]


def _undecodable(items: Sequence[Input]) -> dict[int, str]:
    """Position and reason of every picture that cannot be decoded, in order."""

    def chunk(indices: range) -> dict[int, str]:
        bad = {}
        for index in indices:
            item = items[index]
            assert not isinstance(item, str)  # the modality is image
            try:
                decode(item, (8, 8))
            except Exception as error:  # a picture's decoder may raise anything
                bad[index] = reason(error)
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
