"""From raw columns, as the readers deliver them, to domains: content hashes, ids, groups and given splits."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from injerto.basics.errors import InjertoError, first_line
from injerto.basics.files import file_sha256, sha256
from injerto.basics.manifest import known_sha256
from injerto.basics.progress import note, progress, warn
from injerto.domains.characters import clean_name, escaped
from injerto.domains.domain import Domain, Domains, Input, Modality, Problem
from injerto.domains.formats import refuse_others

CHUNK = 256
EMPTY = "the text is empty"
FEW_EMPTY = 0.01
"""Up to this share of empty texts is left out with a warning."""
_RANK = {"train": 0, "val": 1, "test": 2}


@dataclass
class Rows:
    """Examples as a reader found them: columns of equal length, one entry per example.

    Attributes:
        modality: ``image`` or ``text``.
        name: The data set's name.
        domains: Domain names.
        inputs: Texts or pictures.
        labels: Class names or None.
        keys: Group keys; None where the content alone decides.
        given: ``train``, ``val``, ``test`` or None.
        sources: Where each example came from.
        problems: Examples that were not taken in.
        columns: Names of a table's columns; empty for folders.
        used: The column that was read in each role (``input``, ``label``, ``domain``); empty for folders.
        responses: Whether labels are texts that a language model is to say, not names of classes.
    """

    modality: Modality
    name: str
    domains: list[str] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    given: list[str | None] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)
    responses: bool = False

    def add(self, domain: str, item: Input, label: str | None, source: str, given: str | None = None) -> None:
        """Append one example without a group key."""
        self.domains.append(domain)
        self.inputs.append(item)
        self.labels.append(label)
        self.keys.append(None)
        self.given.append(given)
        self.sources.append(source)

    def extend(self, other: "Rows", name: str) -> None:
        """Append all examples of ``other`` as the domain ``name``, which also prefixes their sources.

        Args:
            other: The rows to append; consumed.
            name: The name of the new domain.
        """
        self.domains += [name] * len(other.inputs)
        self.inputs += other.inputs
        self.labels += other.labels
        self.keys += other.keys
        self.given += other.given
        self.sources += [f"{name}/{source}" for source in other.sources]
        self.problems += [Problem(f"{name}/{problem.source}", problem.reason) for problem in other.problems]


def content_of(item: Input) -> str:
    """SHA-256 of an example's content: the file's bytes, the text in UTF-8, or a PIL image's mode, size and pixels.

    Args:
        item: A text, path, encoded picture or PIL image.

    Returns:
        64 hex digits.

    Raises:
        OSError: Where a file cannot be read.
    """
    if isinstance(item, str):
        return hashlib.sha256(item.encode("utf-8", "surrogatepass")).hexdigest()
    if isinstance(item, Path):
        return known_sha256(item) or file_sha256(item)
    if isinstance(item, Image.Image):
        refuse_others(item)
        return sha256(item.mode, item.width, item.height, item.tobytes())
    return hashlib.sha256(item).hexdigest()


def build_domains(rows: Rows) -> Domains:
    """Hash every example's content, form groups and order each domain by id.

    Args:
        rows: The raw examples.

    Returns:
        The domains. Ids, order and groups depend on contents and group keys only, never on labels or class folders.

    Raises:
        InjertoError: Where there is no usable example, or given splits overlap.
    """
    _leave_out_empty(rows)
    contents, problems = _contents(rows.inputs, rows.sources)
    problems = rows.problems + problems
    if not any(contents):
        first = f", first: {problems[0].source} ({problems[0].reason})" if problems else ""
        raise InjertoError(f"{rows.name} has no example that can be used{first}; add some or name other data")
    labels, names, keys = _clean_names(rows)
    groups = _groups(contents, keys)
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        if contents[index] and name is not None:
            members[name].append(index)
    given = list(rows.given)
    for indices in members.values():
        if any(given[index] for index in indices):
            for index in indices:
                given[index] = given[index] or ""
    _settle_overlap(members, contents, groups, given, rows.sources)
    domains = {}
    for name, indices in members.items():
        # Byte-identical examples are told apart by file name, not by the class folder in front of it.
        indices.sort(key=lambda index: (contents[index], rows.sources[index].rpartition("/")[2], rows.sources[index]))
        ids: list[str] = []
        occurrence = 0
        for position, index in enumerate(indices):
            again = position > 0 and contents[index] == contents[indices[position - 1]]
            occurrence = occurrence + 1 if again else 1
            ids.append(contents[index] if occurrence == 1 else sha256(contents[index], occurrence))
        order = sorted(range(len(ids)), key=ids.__getitem__)
        picked = [indices[position] for position in order]
        domains[name] = Domain(
            name=name,
            inputs=tuple(rows.inputs[index] for index in picked),
            labels=tuple(labels[index] for index in picked),
            ids=tuple(ids[position] for position in order),
            contents=tuple(contents[index] for index in picked),
            groups=tuple(groups[index] for index in picked),
            given=tuple(given[index] for index in picked),
            sources=tuple(rows.sources[index] for index in picked),
        )
    return Domains(domains, rows.modality, rows.name, problems, rows.used)


def threads() -> int:
    """How many threads read and decode: two to four."""
    return min(4, max(2, os.cpu_count() or 2))


def _contents(inputs: Sequence[Input], sources: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Content hash per example, ``""`` for one that cannot be read."""

    def chunk(start: int) -> list[str | Problem]:
        found: list[str | Problem] = []
        for index in range(start, min(start + CHUNK, len(inputs))):
            try:
                found.append(content_of(inputs[index]))
            except OSError as error:
                missing = isinstance(error, FileNotFoundError)
                found.append(Problem(sources[index], "no such file" if missing else error.strerror or str(error)))
            except Exception as error:  # a PIL image that is still to be decoded may raise anything
                found.append(Problem(sources[index], first_line(error)))
        return found

    contents: list[str] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor(threads()) as pool, progress("reading", len(inputs), "examples") as bar:
        for found in pool.map(chunk, range(0, len(inputs), CHUNK)):
            for entry in found:
                contents.append(entry if isinstance(entry, str) else "")
                if isinstance(entry, Problem):
                    problems.append(entry)
            bar.advance(len(found))
    return contents, problems


def _leave_out_empty(rows: Rows) -> None:
    """A few empty texts teach nothing and stop nothing: they are left out with one line."""
    empty = [problem.source for problem in rows.problems if problem.reason == EMPTY]
    total = len(rows.inputs) + len(rows.problems)
    if empty and len(empty) <= FEW_EMPTY * total:
        shown = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        warn(f"{len(empty)} of {total} texts are empty ({shown}); they are left out")
        rows.problems[:] = [problem for problem in rows.problems if problem.reason != EMPTY]


def _clean_names(rows: Rows) -> tuple[list[str | None], list[str | None], list[str | None]]:
    """Labels, domains and group keys without what nobody sees in them, with one note that counts.

    In Unicode NFC, a name typed on macOS equals the same name typed elsewhere. Responses are texts and stay.
    """
    changed: list[tuple[str, str]] = []

    def clean(words: Sequence[str | None]) -> list[str | None]:
        forms = {word: word if word in (None, rows.name) else clean_name(word or "") or None for word in set(words)}
        unlike = {word for word, form in forms.items() if word and form != unicodedata.normalize("NFC", word.strip())}
        for word, source in zip(words, rows.sources, strict=True) if unlike else ():
            if word in unlike:
                changed.append((str(word), source))
        return [forms[word] for word in words]

    found = rows.labels if rows.responses else clean(rows.labels), clean(rows.domains), clean(rows.keys)
    if changed:
        word, source = changed[0]
        note(
            f"{rows.name}: {len(changed)} labels, domains or group keys hold invisible characters or repeated spaces "
            f"and are read without them, first: {escaped(word)} ({source})"
        )
    return found


def _groups(contents: Sequence[str], keys: Sequence[str | None]) -> list[str]:
    """Union of "same content" and "same key"; named by the smallest key, without keys by the content.

    The name depends on the set of examples alone, not on their order or labels.
    """
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        root = node
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[node] != root:
            parent[node], node = root, parent[node]
        return root

    for content, key in zip(contents, keys, strict=True):
        if content and key is not None:
            # Key nodes carry a mark that no content hash has. The smaller key becomes the root.
            ends = sorted((find("key:" + key), find(content)), key=lambda node: (not node.startswith("key:"), node))
            parent[ends[1]] = ends[0]
    roots = [find(content) if content else "" for content in contents]
    return [root.removeprefix("key:") for root in roots]


def _settle_overlap(
    members: dict[str, list[int]],
    contents: Sequence[str],
    groups: Sequence[str],
    given: list[str | None],
    sources: Sequence[str],
) -> None:
    """Refuse given splits that overlap; across domains the same content stays in one domain's test.

    Changes ``given`` in place.
    """
    first: dict[str, int] = {}
    winner: dict[str, str] = {}
    for indices in members.values():
        here: dict[str, int] = {}
        for index in indices:
            side = given[index]
            if not side:
                continue
            other = here.setdefault(contents[index], index)
            if given[other] != side:
                raise _overlap(sources, given, other, index, "the same content")
            if _RANK[side] > _RANK.get(winner.get(contents[index], ""), -1):
                winner[contents[index]] = side
    dropped = 0
    for indices in members.values():
        for index in indices:
            side = given[index]
            if side and side != winner[contents[index]]:
                given[index] = ""
                dropped += 1
            elif side:
                other = first.setdefault(groups[index], index)
                if given[other] != side:
                    raise _overlap(sources, given, other, index, f"the group '{groups[index]}'")
    if dropped:
        warn(f"{dropped} examples are in test or val of another domain too by the given splits; they are left out")


def _overlap(sources: Sequence[str], given: Sequence[str | None], one: int, two: int, shared: str) -> InjertoError:
    return InjertoError(
        f"given splits overlap: {sources[one]} ({given[one]}) and {sources[two]} ({given[two]}) share {shared}; "
        "put both on the same side"
    )
