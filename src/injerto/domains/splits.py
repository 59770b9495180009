"""Who learns, who selects, who judges: train, val and test of every domain, decided by sources and hashes alone."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from injerto.basics.errors import InjertoError, suggest
from injerto.basics.files import sha256
from injerto.domains.domain import Domain

Shares = tuple[tuple[str, float], ...]
SHARES: Shares = (("train", 0.6), ("val", 0.8), ("test", 1.0))
QUARTER: Shares = (("train", 0.75), ("val", 1.0))


def split_domains(domains: Mapping[str, Domain], sources: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Put every example of every domain into train, val or test (60/20/20).

    A group with labelled source examples is placed by them: per class (the most frequent of several), groups are sorted
    by SHA-256(seed, group) and cut, at least one in train. Any other group is placed by the same hash alone, so that no
    label of a target or unseen domain touches a split. A given split wins, also for the group's examples in domains
    without given splits; where a domain's given splits have no val, a quarter of its train groups becomes val.

    Args:
        domains: The domains by name.
        sources: Names of the source domains.
        seed: The split seed.

    Returns:
        Per domain an array of ``train``, ``val``, ``test`` or ``""`` (left out by a given split), one per example.

    Raises:
        InjertoError: Where a source is no domain.
    """
    for name in sources:
        if name not in domains:
            raise InjertoError(f"no domain '{name}'; {suggest(name, list(domains))}")
    given = _with_val(domains, sources, seed)
    fixed: dict[str, str] = {}
    for names in (set(sources), set(domains) - set(sources)):  # sources first: the others follow them
        order = {side: rank for rank, (side, _) in enumerate(SHARES)}
        found: dict[str, str] = {}
        for name in names:
            for group, side in zip(domains[name].groups, given[name], strict=True):
                if side and order[side] > order.get(found.get(group, ""), -1):
                    found[group] = side
        fixed = found | fixed
    free = {
        group
        for name, domain in domains.items()
        for group, side in zip(domain.groups, given[name], strict=True)
        if side is None and group not in fixed
    }
    classes = _classes(domains, sources, {name: [side is None for side in given[name]] for name in sources})
    placed = _cut(free, classes, seed, SHARES) | fixed
    return {
        name: np.array(
            [placed[group] if side is None else side for group, side in zip(domain.groups, given[name], strict=True)],
            dtype="<U5",
        )
        for name, domain in domains.items()
    }


def keep_shots(sides: np.ndarray, domain: Domain, shots: int, seed: int) -> None:
    """Leave so many examples of each class in train, and in val; the others are in no split. Test stays whole.

    Args:
        sides: ``train``, ``val`` or ``test`` of every example, changed in place.
        domain: A source.
        shots: Examples a class.
        seed: The split seed: which examples stay is decided by SHA-256(seed, content).
    """
    rank = sorted(range(len(domain)), key=lambda i: sha256(seed, "shots", domain.contents[i]))
    left: Counter[tuple[str, str]] = Counter()
    for index in rank:
        label, side = domain.labels[index], str(sides[index])
        if label is None or side == "test":
            continue
        left[side, label] += 1
        if left[side, label] > shots:
            sides[index] = ""


def _with_val(domains: Mapping[str, Domain], sources: Sequence[str], seed: int) -> dict[str, list[str | None]]:
    """The given splits, with a quarter of train as val in domains that were given no val."""
    given = {name: list(domain.given) for name, domain in domains.items()}
    lacking = [name for name in domains if "train" in given[name] and "val" not in given[name]]
    stays = {
        group
        for name in domains
        if name not in lacking
        for group, side in zip(domains[name].groups, given[name], strict=True)
        if side == "train"
    }
    free = {
        group
        for name in lacking
        for group, side in zip(domains[name].groups, given[name], strict=True)
        if side == "train" and group not in stays
    }
    learners = [name for name in lacking if name in sources]
    classes = _classes(domains, learners, {name: [side == "train" for side in given[name]] for name in learners})
    placed = _cut(free, classes, seed, QUARTER)
    for name in lacking:
        for index, group in enumerate(domains[name].groups):
            if given[name][index] == "train":
                given[name][index] = placed.get(group, "train")
    return given


def _classes(domains: Mapping[str, Domain], names: Iterable[str], use: Mapping[str, Sequence[bool]]) -> dict[str, str]:
    """Each group's most frequent class over the named domains' labelled examples in use (tie: the smallest name)."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name in set(names):
        for group, label, used in zip(domains[name].groups, domains[name].labels, use[name], strict=True):
            if used and label is not None:
                counts[group][label] += 1
    return {group: min(count, key=lambda label: (-count[label], label)) for group, count in counts.items()}


def _cut(groups: Iterable[str], classes: Mapping[str, str], seed: int, shares: Shares) -> dict[str, str]:
    """Place groups: per class by rank of hash, at least one in the first share; without class by the hash alone."""
    hashes = {group: sha256(seed, group) for group in groups}
    members: dict[str, list[str]] = defaultdict(list)
    placed: dict[str, str] = {}
    for group, digest in hashes.items():
        if group in classes:
            members[classes[group]].append(group)
        else:
            position = int(digest, 16) / 2**256
            placed[group] = next((side for side, end in shares if position < end), shares[-1][0])
    for ranked in members.values():
        ranked.sort(key=hashes.__getitem__)
        start = 0
        for rank, (side, end) in enumerate(shares):
            stop = max(start, 1 if rank == 0 else 0, math.floor(end * len(ranked) + 0.5))
            placed.update(dict.fromkeys(ranked[start:stop], side))
            start = stop
    return placed
