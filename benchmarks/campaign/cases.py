"""Cases and how they are run: each in a process of its own, bounded in time and memory, its verdict in a ledger."""

import contextlib
import ctypes
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

M_ARENA_MAX = -8
"""Of ``mallopt(3)``."""
GOOD = ("same", "refused")
"""Outcomes that are right: the undisturbed answer, or one true sentence in place of an answer."""
BAD = ("lost", "wrong", "hang", "fault", "crash", "heavy")
"""Lost user data; another answer without a word; no end; "our fault" or a traceback; a signal; too much memory."""


class Verdict(NamedTuple):
    """How a case ended.

    Attributes:
        outcome: One of :data:`GOOD` or :data:`BAD`.
        detail: What was seen, in a line; for "refused" the program's own sentence.
        count: How many attacks the case held (requests, inputs of a batch).
    """

    outcome: str
    detail: str = ""
    count: int = 1


@dataclass(frozen=True)
class Case:
    """One attack.

    Attributes:
        name: Unique in its part; the same for the same seed.
        attack: Called in a process of its own with an empty folder; gives the verdict, or one for each of several
            inputs.
        seconds: Longest time that it may take; beyond it is a hang.
        memory: Bytes that the process may map beyond what it has at its start; beyond them it is heavy.
    """

    name: str
    attack: Callable[[Path], Verdict | list[Verdict]]
    seconds: float = 60.0
    memory: int = 2_000_000_000


@dataclass
class Ledger:
    """Verdicts by part and case, one JSON line each: what is in there is not run again.

    Attributes:
        path: The file.
    """

    path: Path
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            self.entries = [json.loads(line) for line in lines if line.endswith("}")]

    def add(self, part: str, case: str, verdicts: list[Verdict], seconds: float) -> None:
        """Write down how a case ended."""
        outcomes: Counter[str] = Counter()
        for verdict in verdicts:
            outcomes[verdict.outcome] += verdict.count
        bad = [f"{verdict.outcome}: {verdict.detail[:1000]}" for verdict in verdicts if verdict.outcome in BAD]
        entry = {"part": part, "case": case, "outcomes": dict(outcomes), "bad": bad[:20], "seconds": round(seconds, 2)}
        self.entries.append(entry)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def done(self, part: str) -> set[str]:
        """Cases of a part that have ended."""
        return {entry["case"] for entry in self.entries if entry["part"] == part}

    def figures(self, part: str) -> dict[str, Any]:
        """Outcomes of a part, and what was bad."""
        own = [entry for entry in self.entries if entry["part"] == part]
        counts: Counter[str] = Counter()
        for entry in own:
            counts.update(entry["outcomes"])
        bad = [f"{entry['case']}: {text}" for entry in own for text in entry["bad"]]
        return {
            "cases": len(own),
            "attacks": sum(counts.values()),
            "outcomes": {name: counts[name] for name in (*GOOD, *BAD)},
            "bad": bad[:200],
        }


class Child:
    """A case that runs."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder, self.begun = case, folder, time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "work").mkdir(parents=True)
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _child(case, folder)

    def poll(self) -> list[Verdict] | None:
        """The verdicts where it has ended or was stopped."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            if time.monotonic() - self.begun < self.case.seconds:
                return None
            self.stop()
            return [Verdict("hang", f"not ended after {self.case.seconds:g} s; {self.tail()}")]
        self.stop(reap=False)  # whatever it started
        try:
            found = json.loads((self.folder / "verdict.json").read_text(encoding="utf-8"))
            return [Verdict(*one) for one in found]
        except (OSError, ValueError):
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            words = signal.Signals(number).name if number else f"exit {os.waitstatus_to_exitcode(status)}"
            return [Verdict("crash", f"{words}; {self.tail()}")]

    def stop(self, reap: bool = True) -> None:
        """Kill it and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if reap:
            os.waitpid(self.pid, 0)

    def tail(self) -> str:
        """The end of what it printed."""
        try:
            return " ".join((self.folder / "output").read_text(errors="replace")[-600:].split())
        except OSError:
            return ""


def _child(case: Case, folder: Path) -> None:
    """The child's life; it never returns."""
    try:
        os.setpgid(0, 0)
        handle = os.open(folder / "output", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.dup2(handle, 1), os.dup2(handle, 2)
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        faulthandler.enable(file=sys.stderr)
        bound_memory(case.memory)
        os.chdir(folder / "work")
        try:
            found = case.attack(folder / "work")
            verdicts = [found] if isinstance(found, Verdict) else found
        except MemoryError:
            verdicts = [Verdict("heavy", f"more than {case.memory:,} bytes")]
        except BaseException:
            verdicts = [Verdict("fault", traceback.format_exc()[-900:])]
        (folder / "verdict.json").write_text(json.dumps(verdicts), encoding="utf-8")
    finally:
        os._exit(0)


def bound_memory(more: int) -> None:
    """Let this process map so many bytes beyond what it has mapped now.

    Two arenas are enough: for every thread glibc maps another one of 128 MB, of which hardly a page is used.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def run_cases(part: str, cases: Iterable[Case], ledger: Ledger, work: Path, deadline: float, jobs: int = 2) -> None:
    """Run what the ledger does not hold, several at a time, until the deadline.

    Args:
        part: Name in the ledger.
        cases: In the order in which they are begun.
        ledger: Verdicts go in there.
        work: Folders of the cases are made and removed in there.
        deadline: ``time.monotonic()`` after which no case is begun.
        jobs: Cases at a time.
    """
    done, waiting, running = ledger.done(part), iter(cases), dict[int, Child]()
    free = list(range(jobs))
    more = True
    while running or more:
        while free and more:
            if time.monotonic() > deadline:
                more = False
                break
            case = next((case for case in waiting if case.name not in done), None)
            if case is None:
                more = False
                break
            place = free.pop()
            running[place] = Child(case, work / f"case-{place}")
        time.sleep(0.004)
        for place, child in list(running.items()):
            verdicts = child.poll()
            if verdicts is None:
                continue
            ledger.add(part, child.case.name, verdicts, time.monotonic() - child.begun)
            for verdict in verdicts:
                if verdict.outcome in BAD:
                    print(f"  {part} {child.case.name}: {verdict.outcome}: {verdict.detail[:300]}", flush=True)
            shutil.rmtree(child.folder, ignore_errors=True)
            del running[place]
            free.append(place)


def rng_of(seed: int, *names: Any) -> random.Random:
    """A generator of its own for a case."""
    return random.Random(repr((seed, *names)))
