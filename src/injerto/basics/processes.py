"""Which process this is, and whether another one still lives."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """What distinguishes this process from all others: host, number and start; boot and namespace of the number."""
    pid = os.getpid()
    boot, space = None, None
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "pid": pid, "start": _state(pid)[1], "boot": boot, "space": space}


def _state(pid: int) -> tuple[str | None, str | None]:
    """State of a process and its start in ticks since boot; None where the system has no such file."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return None, None


def is_here(process: Mapping[str, Any]) -> bool:
    """Whether the number of a process means something to this one: same machine, boot and namespace.

    Args:
        process: From :func:`this_process`, of any process.
    """
    here = this_process()
    return all(process.get(name) == here[name] for name in ("host", "boot", "space"))


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process has certainly ended; False for all on other machines.

    Args:
        process: From :func:`this_process`, of any process.
    """
    pid = process.get("pid")
    if not is_here(process) or not isinstance(pid, int) or pid <= 0:
        return False
    state, start = _state(pid)
    if state is not None:
        return state in "ZX" or process.get("start") not in (None, start)
    if os.name == "nt":  # where os.kill would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it exists, and belongs to another user
    return False
