"""Full, read-only and broken disks at every write, rename and fsync; then a whole disk, and the command again."""

import ctypes
import errno
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.campaign.cases import Case, Verdict, rng_of
from benchmarks.campaign.kit import Kit
from benchmarks.campaign.scenarios import (
    SCENARIOS,
    Scenario,
    describe,
    earlier_is_kept,
    faults,
    finish,
    lay,
    lost,
    reference,
    run,
    tree_of,
    verdict,
)
from benchmarks.campaign.watched import ANSWER, Event, problem

LEAST = 150
JOBS = 2
ROUNDS = 14
"""Cases of a scenario of weight 1; the deadline cuts the last ones off."""
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES, errno.EDQUOT)
WORDS = {errno.ENOSPC: ("No space left", "no space left")}
"""Of which a sentence must hold one; the system's own words where not given."""
ALWAYS_DONE = ("unlink", "rmdir", "chmod")
"""Changes that a full disk still lets happen."""
OF_SQLITE = ("disk I/O error", "readonly database", "database or disk is full", "unable to open database file")
"""How SQLite says that a disk does not take what is written; it keeps the system's own words to itself."""


def cases(kit: Kit) -> Iterator[Case]:
    """All scenarios in turn, so that a deadline cuts off repetitions, not kinds."""
    if why := problem():
        print(f"disks: skipped: {why}", flush=True)
        return
    for index in range(ROUNDS):
        for scenario in SCENARIOS:
            for part in range(scenario.weight):
                number, total = index * scenario.weight + part, ROUNDS * scenario.weight
                yield Case(f"{scenario.name}/{number}", _fail(kit, scenario, number, total), 120)
        if index % 4 == 0:
            names = [one.name for one in SCENARIOS if one.name.startswith("fit-") and not one.over]
            yield Case(f"full disk/{index}", _full(kit, names[index // 4 % len(names)], index), 120)


class Disk:
    """Answers changes with an error, once or from one of them on."""

    def __init__(self, at: int, error: int, once: bool, root: Path) -> None:
        self.at, self.error, self.once, self.root = at, error, once, f"{root}/"
        self.seen, self.hit = 0, list[Event]()

    def __call__(self, event: Event) -> ANSWER:
        """What becomes of the next change."""
        self.seen += 1
        if self.seen < self.at or not f"{event.path}/".startswith(self.root) or (self.once and self.hit):
            return None
        if self.error in (errno.ENOSPC, errno.EDQUOT) and event.kind in ALWAYS_DONE:
            return None
        if self.error in (errno.EROFS, errno.EACCES) and event.kind in ("write", "writev", "fsync", "copy"):
            return None  # an open file may be written to
        self.hit.append(event)
        return self.error


def _fail(kit: Kit, scenario: Scenario, number: int, total: int) -> Callable[[Path], Verdict]:
    def attack(place: Path) -> Verdict:
        rng = rng_of(kit.seed, "disks", scenario.name, number)
        bystanders = rng.random() < 0.7
        lay(kit, scenario, place, bystanders)
        where = rng.choice(("out", "out", "cache", ""))
        disk = Disk(
            reference(kit, scenario).draw(rng, number, total), rng.choice(ERRORS), rng.random() < 0.4, place / where
        )
        ended = run(place, scenario.words(kit), disk)
        if not disk.hit:
            disk.hit.append(Event("no", "change", 0))
        name, times = errno.errorcode[disk.error], "once" if disk.once else "from then on"
        trail = f"{name} {times} in {where or 'both'} at change {disk.at} ({disk.hit[0]})"
        outcome, detail = _judge(kit, scenario, place, ended, disk, where, bystanders)
        kept = re.search(r"what it held is in (\S+);", ended.said)
        if kept and earlier_is_kept(kit, place):
            shutil.rmtree(place / Path(kept[1]).name)  # as somebody would who has read that, and wants it no more
        if outcome in ("same", "refused"):
            after, later = finish(kit, scenario, place, rng, trail, bystanders, cached=False)
            if after not in ("same", "refused"):
                return verdict(after, f"{later} (first: {ended.code} {ended.last})", 1)
            return verdict(outcome, detail, 1)
        return verdict(outcome, f"{trail}: {detail}", 1)

    return attack


def _judge(
    kit: Kit, scenario: Scenario, place: Path, ended: Any, disk: Disk, where: str, bystanders: bool
) -> tuple[str, str]:
    """How the command ended that had to do with the broken disk."""
    said = " ".join(ended.said.split())
    if fault := faults(ended):
        return "fault", fault
    if ended.code < 0:
        return "crash", f"ended with {ended.code}: {said[-300:]}"
    if gone := lost(place, bystanders):
        return "lost", ", ".join(gone)
    if scenario.over and not earlier_is_kept(kit, place):
        return "lost", "the earlier run"
    if ended.code == 0:
        found, expected = tree_of(place), tree_of(reference(kit, scenario).place)
        here = describe(_results(found), _results(expected))
        if here:
            return "wrong", f"says that it is done: {here}; {said[-300:]}"
        return "same", ""
    if ended.code != 2:
        return "wrong", f"ended with {ended.code}: {said[-400:]}"
    if where == "cache":
        return "wrong", f"stopped though only the cache is broken: {ended.last}"
    if not _true(ended.said, disk.error):
        return "wrong", f"does not say what is wrong with the disk: {said[-400:]}"
    return "refused", ended.last


def _results(tree: dict[str, Any]) -> dict[str, Any]:
    """What lies in ``out``, without half-written files and a lock that could not be removed."""
    return {
        name: value
        for name, value in tree.items()
        if name.startswith("out/") and ".tmp" not in name and not name.endswith(".injerto.lock")
    }


def _true(said: str, error: int) -> bool:
    lines = [line for line in said.splitlines() if line.strip()]
    words = WORDS.get(error, (os.strerror(error), "cannot be written"))
    return bool(lines) and any(word in said for word in (*words, *OF_SQLITE))


# --- a real file system -----------------------------------------------------------------------------------------


def _full(kit: Kit, name: str, number: int) -> Callable[[Path], list[Verdict]]:
    """A small file system of its own, of a size at which the run fills it; then a larger one."""

    def attack(place: Path) -> list[Verdict]:
        rng = rng_of(kit.seed, "full", number)
        scenario = next(one for one in SCENARIOS if one.name == name)
        expected = tree_of(reference(kit, scenario).place)
        if why := _own_mounts():
            print(f"disks: no file system of its own: {why}", flush=True)
            return []
        used = sum(path.stat().st_size + 4096 for path in reference(kit, scenario).place.rglob("*"))
        small, found = place / "small", []
        small.mkdir()
        for size in sorted(int(used * share) for share in (0.05, *(rng.uniform(0.1, 1.0) for _ in range(5)))):
            _mount(small, size)
            inner = small / "work"
            inner.mkdir()
            ended = run(inner, scenario.words(kit))
            found.append(_judge_full(ended, tree_of(inner), expected, f"{name} with {size:,} bytes"))
            _remount(small, 50_000_000)
            if found[-1].outcome in ("same", "refused"):
                outcome, detail = finish(kit, scenario, inner, random.Random(0), f"{name} with {size:,} bytes", False)
                if outcome not in ("same", "refused"):
                    found[-1] = Verdict(outcome, f"{detail} (first: {ended.code} {ended.last})")
            _libc().umount2(os.fsencode(small), 2)
        return found

    return attack


def _judge_full(ended: Any, found: dict[str, Any], expected: dict[str, Any], trail: str) -> Verdict:
    if fault := faults(ended):
        return Verdict("fault", f"{trail}: {fault}")
    if ended.code == 0:
        different = describe(_results(found), _results(expected))
        return Verdict("wrong", f"{trail}: {different}") if different else Verdict("same")
    if ended.code != 2 or not _true(ended.said, errno.ENOSPC):
        return Verdict("wrong", f"{trail}: ended with {ended.code}: {ended.said[-400:]}")
    return Verdict("refused", ended.last)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _own_mounts() -> str | None:
    """From here on this process mounts for itself alone; why not, where it may not."""
    user, group = os.getuid(), os.getgid()
    if _libc().unshare(0x10000000 | 0x00020000) != 0:  # user, mounts
        return os.strerror(ctypes.get_errno())
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        return str(error)
    return None


def _mount(place: Path, size: int) -> None:
    if _libc().mount(b"none", os.fsencode(place), b"tmpfs", 0, f"size={max(size, 8192)}".encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def _remount(place: Path, size: int) -> None:
    if _libc().mount(b"none", os.fsencode(place), b"tmpfs", 32, f"size={size}".encode()) != 0:
        raise OSError(ctypes.get_errno(), "remount")
