"""One domain, all domains of a data set, and what could not be read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from PIL import Image

from injerto.basics.errors import InjertoError, suggest

ImageInput = Path | bytes | Image.Image
Input = ImageInput | str
Modality = Literal["image", "text"]


@dataclass(frozen=True)
class Domain:
    """A named collection of examples from one distribution, as columns of equal length ordered by id.

    Attributes:
        name: The domain's name.
        inputs: Texts, or pictures as paths, encoded bytes or PIL images.
        labels: Class names; None where an example has no label.
        ids: SHA-256 of the content; for the k-th (k >= 2) byte-identical example, of content hash and k.
        contents: SHA-256 of the content, what caches are keyed by.
        groups: Examples of one group are always on the same side of a split, over all domains.
        given: ``train``, ``val`` or ``test`` from a split column or list; ``""`` for an example that such a list leaves
            out; None where no split was given.
        sources: Where each example came from, for messages: ``photo/dog/1.jpg`` or ``reviews.csv:17``.
    """

    name: str
    inputs: tuple[Input, ...]
    labels: tuple[str | None, ...]
    ids: tuple[str, ...]
    contents: tuple[str, ...]
    groups: tuple[str, ...]
    given: tuple[str | None, ...]
    sources: tuple[str, ...]

    def __repr__(self) -> str:
        """Name and size, not all examples."""
        labelled = sum(label is not None for label in self.labels)
        return f"<Domain {self.name!r}: {len(self)} examples, {labelled} with labels>"

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.ids)

    def first(self, most: int) -> "Domain":
        """The first examples by id: a choice that no label, name or file order decides.

        Args:
            most: How many, at most.
        """
        return self.subset(range(min(most, len(self))))

    def subset(self, indices: Sequence[int]) -> "Domain":
        """The domain with only some examples.

        Args:
            indices: Positions to keep, in the order wanted (a list or an integer array).
        """
        keep = [int(index) for index in indices]
        columns = {
            field.name: tuple(map(getattr(self, field.name).__getitem__, keep))
            for field in fields(self)
            if field.name != "name"
        }
        return Domain(self.name, **columns)


@dataclass(frozen=True)
class Problem:
    """An example that cannot be used.

    Attributes:
        source: Where it came from.
        reason: Why it cannot be used.
    """

    source: str
    reason: str


class Domains(Mapping[str, Domain]):
    """All domains of a data set by name, in alphabetical order.

    Attributes:
        modality: ``image`` or ``text``.
        name: The data set's name.
        problems: Examples left out because they cannot be used.
        used: The column of the table that was read in each role (``input``, ``label``, ``domain``); empty for folders.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        modality: Modality,
        name: str,
        problems: Sequence[Problem] = (),
        used: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the domains.

        Args:
            domains: The domains by name.
            modality: ``image`` or ``text``.
            name: The data set's name.
            problems: Examples left out because they cannot be used.
            used: The column of the table that was read in each role.
        """
        self._domains = {key: domains[key] for key in sorted(domains)}
        self.modality = modality
        self.name = name
        self.problems = tuple(problems)
        self.used = dict(used or {})

    def __getitem__(self, key: str) -> Domain:
        """The domain of that name; KeyError where there is none."""
        return self._domains[key]

    def __iter__(self) -> Iterator[str]:
        """The domains' names."""
        return iter(self._domains)

    def __len__(self) -> int:
        """The number of domains."""
        return len(self._domains)

    def __repr__(self) -> str:
        """Name, modality and the domains' sizes."""
        sizes = ", ".join(f"{name}: {len(domain)}" for name, domain in self.items())
        return f"Domains({self.name!r}, {self.modality}, {{{sizes}}})"

    def named(self, name: str) -> Domain:
        """The domain of that name.

        Args:
            name: The domain's name.

        Raises:
            InjertoError: Where there is none; it names those that are there.
        """
        if name not in self._domains:
            if list(self._domains) == [self.name]:
                raise InjertoError(
                    f"{self.name} has no domain '{name}': all of it is one; --domain names a table's column of them"
                )
            raise InjertoError(f"{self.name} has no domain '{name}'; {suggest(name, list(self._domains))}")
        return self._domains[name]

    def check(self, skip_bad: bool = False) -> "Domains":
        """Decode every picture once and settle what is to be done about examples that cannot be used.

        A data set that was found sound is remembered in the cache folder and not decoded again.

        Args:
            skip_bad: Go on without unusable examples instead of raising.

        Returns:
            These domains without unusable examples; those are in ``problems``.

        Raises:
            InjertoError: Where an example cannot be used and ``skip_bad`` is False, or nothing would be left.
        """
        from injerto.domains.check import check_domains

        return check_domains(self, skip_bad)
