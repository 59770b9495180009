"""Many small attacks in one case: each in a process of its own, with its own bounds, judged by what was said."""

import contextlib
import io
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.campaign.cases import Verdict, bound_memory

LONGEST = 600
"""Characters of a sentence that a person reads; a path of the campaign's own is counted as ten."""
SLACK = 768 * 2**20
"""Bytes of addresses that threads and libraries map without filling them."""
PATIENCE = 4
"""On a machine that does other things too, this many times the seconds may pass without being computed."""
STRANGE = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Characters that turn a line's direction."""
WHAT = "what.txt"
"""In the case's folder: in words, what the program is being given."""
FAULT = "this is our fault"
OUT_OF_MEMORY = ("out of memory", "MemoryError", "allocate memory", "not enough memory")
Attack = Callable[[Path], Verdict]


class Refused(Exception):
    """The command ended with 2; its message."""


class Fault(Exception):
    """The command ended as none should."""


def each(attacks: Iterable[Attack], folder: Path, seconds: float = 10.0, memory: int = 1_000_000_000) -> list[Verdict]:
    """Carry out attacks one after the other, each with a fresh empty folder of the same name.

    Args:
        attacks: Called with the folder.
        folder: The case's.
        seconds: For each.
        memory: Bytes for each, beyond what this process has.
    """
    found = []
    for attack in attacks:
        place = folder / "here"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        verdict = apart(lambda attack=attack, place=place: attack(place), seconds, memory)  # type: ignore[misc]
        if verdict.outcome in ("hang", "crash", "heavy", "fault") and (folder / WHAT).exists():
            verdict = verdict._replace(detail=f"{(folder / WHAT).read_text()}: {verdict.detail}")
        (folder / WHAT).unlink(missing_ok=True)
        found.append(verdict)
    return found


def apart(attack: Callable[[], Verdict], seconds: float, memory: int) -> Verdict:
    """Carry out an attack in a process of its own.

    Args:
        attack: Gives the verdict.
        seconds: Longer is a hang.
        memory: Bytes that it may take beyond what this process has; more is heavy.
    """
    out, into = os.pipe()
    sys.stdout.flush(), sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        _life(attack, memory, into)
    os.close(into)
    begun, said = time.monotonic(), b""
    with open(out, "rb", buffering=0) as stream:
        while not said.endswith(b"\n"):
            spent = time.monotonic() - begun
            if spent > PATIENCE * seconds or _computed(pid) > seconds:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return Verdict("hang", f"not ended after {seconds:g} s")
            if not select.select([stream], [], [], 0.5)[0]:
                continue
            piece = stream.read(1 << 20)
            if not piece:
                break
            said += piece
    _, status = os.waitpid(pid, 0)
    if said.endswith(b"\n"):
        return Verdict(*json.loads(said))
    code = os.waitstatus_to_exitcode(status)
    return Verdict("crash", signal.Signals(-code).name if code < 0 else f"exit {code}")


def _life(attack: Callable[[], Verdict], memory: int, into: int) -> None:
    """The child's life; it never returns."""
    try:
        before = _resident()
        bound_memory(memory + SLACK)
        try:
            found = attack()
        except MemoryError:
            found = Verdict("heavy", f"more than {memory:,} bytes; {traceback.format_exc(limit=-2)[-300:]}")
        except BaseException:
            found = Verdict("fault", traceback.format_exc()[-900:])
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        if more > memory:
            found = Verdict("heavy", f"{more:,} bytes, more than {memory:,}; then {found.outcome}: {found.detail}")
        line = json.dumps(found, default=str).encode() + b"\n"
        while line:
            line = line[os.write(into, line) :]
    finally:
        os._exit(0)


def _computed(pid: int) -> float:
    """Seconds that a process has computed, whatever else the machine did meanwhile."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def ask(words: list[str]) -> tuple[str, str]:
    """What a command prints on both streams, in this process.

    Args:
        words: What follows the program's name.

    Raises:
        Refused: Where it ended with 2.
        Fault: Where it ended otherwise, or said no or several errors.
    """
    from injerto.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    said = err.getvalue()
    if code == 0:
        strange = odd(said.replace("\n", " "))
        if strange:
            raise Fault(f"raw {strange} on standard error")
        return out.getvalue(), said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code != 2 or len(errors) != 1 or not said.rstrip("\n").endswith(errors[0]):
        raise Fault(f"exit {code}: {said[-600:]}")
    raise Refused(errors[0].removeprefix("error: "))


def odd(text: str) -> str | None:
    """The first character of a text that no terminal should be given, in words."""
    for mark in text:
        if mark != "\t" and unicodedata.category(mark) in ("Cc", "Zl", "Zp", "Cs") or ord(mark) in STRANGE:
            return f"U+{ord(mark):04X}"
    return None


def judge(
    message: str,
    names: Iterable[str] = (),
    untrue: Iterable[str] = (),
    place: Path | None = None,
    longest: int = LONGEST,
) -> Verdict:
    """Whether a refusal is one that a person can use.

    Args:
        message: The program's.
        names: It has one of these in it: what the trouble is with; empty for any.
        untrue: Words that blame something else.
        place: The campaign's own folder, which the length does not count.
        longest: Characters that it may have.
    """
    if any(words in message for words in OUT_OF_MEMORY):
        return Verdict("heavy", message[:600])
    if FAULT in message:
        return Verdict("fault", message[:900])
    strange, names = odd(message), list(names)
    if strange:
        return Verdict("wrong", f"the message holds a raw {strange}: {ascii(message[:400])}")
    shown = message if place is None else message.replace(str(place), "0123456789")
    if len(shown) > longest:
        return Verdict("wrong", f"the message has {len(shown)} characters: {message[:300]}")
    if not message.strip():
        return Verdict("wrong", "an empty message")
    if names and not any(name in message for name in names):
        return Verdict("wrong", f"the message names none of {', '.join(names[:3])}: {message[:400]}")
    blamed = next((words for words in untrue if words in message), None)
    if blamed is not None:
        return Verdict("wrong", f"the message blames what is right ('{blamed}'): {message[:400]}")
    return Verdict("refused", message[:300])


def tried(
    action: Callable[[], Any],
    names: Iterable[str] = (),
    untrue: Iterable[str] = (),
    place: Path | None = None,
    longest: int = LONGEST,
) -> tuple[Any, Verdict | None]:
    """What an action gives, or the verdict where it gave nothing.

    Args:
        action: Of the program.
        names: See :func:`judge`.
        untrue: See there.
        place: See there.
        longest: See there.
    """
    from injerto.basics.errors import InjertoError

    try:
        return action(), None
    except (InjertoError, Refused) as error:
        return None, judge(str(error), names, untrue, place, longest)
    except Fault as error:
        heavy = any(words in str(error) for words in OUT_OF_MEMORY)
        return None, Verdict("heavy" if heavy else "fault", str(error)[:900])
