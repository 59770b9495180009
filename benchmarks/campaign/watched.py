"""Commands whose every change of a file is seen by the kernel, and may end in a kill or in an error.

The command runs in a forked process under a seccomp filter that asks this process before each system call that changes
a file: ``write``, ``rename``, ``fsync``, ``unlink``, ``mkdir``, ``openat`` for writing, and so on, whichever library
makes it (Python, safetensors, SQLite). Linux on x86-64 or aarch64; elsewhere :func:`problem` says why not.
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ANSWER = int | str | None
"""To an event: None to go on, an errno, ``kill``, ``half`` (a write is done by half, then killed), ``SIGINT``,
``SIGTERM``."""

# name: kind, where the path is ("fd" or "path" and its argument, "at" with folder and name), x86-64, aarch64
_CALLS: dict[str, tuple[str, tuple[str, int], int | None, int | None]] = {
    "write": ("write", ("fd", 0), 1, 64),
    "open": ("open", ("path", 0), 2, None),
    "pwrite64": ("write", ("fd", 0), 18, 68),
    "writev": ("writev", ("fd", 0), 20, 66),
    "sendfile": ("copy", ("fd", 0), 40, 71),
    "fsync": ("fsync", ("fd", 0), 74, 82),
    "fdatasync": ("fsync", ("fd", 0), 75, 83),
    "truncate": ("truncate", ("path", 0), 76, 45),
    "ftruncate": ("truncate", ("fd", 0), 77, 46),
    "rename": ("rename", ("path", 1), 82, None),
    "mkdir": ("mkdir", ("path", 0), 83, None),
    "rmdir": ("rmdir", ("path", 0), 84, None),
    "creat": ("open", ("path", 0), 85, None),
    "link": ("link", ("path", 1), 86, None),
    "unlink": ("unlink", ("path", 0), 87, None),
    "symlink": ("link", ("path", 1), 88, None),
    "chmod": ("chmod", ("path", 0), 90, None),
    "fchmod": ("chmod", ("fd", 0), 91, 52),
    "openat": ("open", ("at", 0), 257, 56),
    "mkdirat": ("mkdir", ("at", 0), 258, 34),
    "unlinkat": ("unlink", ("at", 0), 263, 35),
    "renameat": ("rename", ("at", 2), 264, 38),
    "linkat": ("link", ("at", 2), 265, 37),
    "symlinkat": ("link", ("at", 1), 266, 36),
    "fchmodat": ("chmod", ("at", 0), 268, 53),
    "fallocate": ("truncate", ("fd", 0), 285, 47),
    "pwritev": ("writev", ("fd", 0), 296, 70),
    "renameat2": ("rename", ("at", 2), 316, 276),
    "copy_file_range": ("copy", ("fd", 2), 326, 285),
    "pwritev2": ("writev", ("fd", 0), 328, 287),
}
_MACHINES = {"x86_64": (2, 0xC000003E, 317), "aarch64": (3, 0xC00000B7, 277)}  # column, AUDIT_ARCH, seccomp
_COLUMN, _ARCH, _SECCOMP = _MACHINES.get(platform.machine(), (2, 0, 0))
_NUMBERS: dict[int, tuple[str, tuple[str, int]]] = {
    call[_COLUMN]: call[:2]  # type: ignore[misc,index]
    for call in _CALLS.values()
    if call[_COLUMN] is not None
}
_OPENS = {call: flags for call, flags in (("open", 1), ("openat", 2))}  # where their flags stand
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _GO_ON = 0xC0502100, 0xC0182101, 1
_GETFD = 438


class Event(NamedTuple):
    """A change that a command is about to make.

    Attributes:
        kind: ``open`` (for writing), ``write``, ``writev``, ``copy``, ``rename``, ``fsync``, ``unlink``, ``mkdir`` ...
        path: The file; of a rename or link the new name.
        size: Bytes of a write.
    """

    kind: str
    path: str
    size: int

    def __str__(self) -> str:
        """Kind and the end of the path."""
        return f"{self.kind} {'/'.join(Path(self.path).parts[-3:])}"


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: Exit code; negative for a signal.
        said: What it wrote to standard output and error.
        events: What it changed, in order.
    """

    code: int
    said: str
    events: list[Event]

    @property
    def last(self) -> str:
        """The last line that it wrote."""
        return (self.said.strip().splitlines() or [""])[-1]


class Process:
    """A command in a process of its own, its changes watched where a root is given."""

    def __init__(self, work: Callable[[], int], said: Path, roots: Sequence[Path] = ()) -> None:
        self.said, self.roots = said, tuple(f"{Path(root).absolute()}/" for root in roots)
        self.events: list[Event] = []
        ours, theirs = socket.socketpair()
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(work, theirs)
        theirs.close()
        self.listener = -1
        if self.roots:
            _, handles, _, _ = socket.recv_fds(ours, 1, 1)
            self.listener = handles[0] if handles else -1
        ours.close()

    def _live(self, work: Callable[[], int], theirs: socket.socket) -> None:
        code = 70
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            handle = os.open(self.said, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
            os.dup2(handle, 1), os.dup2(handle, 2)
            sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            if self.roots:
                socket.send_fds(theirs, [b"x"], [_install()])
            theirs.close()
            code = work()
            sys.stdout.flush(), sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def run(self, decide: Callable[[Event], ANSWER] = lambda _: None) -> Ended:
        """Answer its events until it has ended.

        Args:
            decide: What becomes of an event.
        """
        poll = select.poll()
        if self.listener >= 0:
            poll.register(self.listener, select.POLLIN)
        status = None
        while status is None:
            for _, what in poll.poll(20 if self.listener >= 0 else 2):
                if what & select.POLLIN:
                    self._answer(decide)
                else:
                    poll.unregister(self.listener)
            pid, found = os.waitpid(self.pid, os.WNOHANG)
            status = found if pid else None
        if self.listener >= 0:
            os.close(self.listener)
        text = self.said.read_text(encoding="utf-8", errors="replace") if self.said.exists() else ""
        return Ended(os.waitstatus_to_exitcode(status), text, self.events)

    def _answer(self, decide: Callable[[Event], ANSWER]) -> None:
        buffer = bytearray(80)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, buffer)
        except OSError:
            return  # it has ended
        number, thread, _, call, _, _, *words = struct.unpack("QIIiIQ6Q", buffer)
        event = self._event(thread, call, words)
        answer: ANSWER = None
        if event is not None:
            self.events.append(event)
            answer = decide(event)
        error, value, flags = 0, 0, _GO_ON
        if isinstance(answer, int):
            error, flags = -answer, 0
        elif answer in ("kill", "half"):
            if answer == "half" and event is not None and event.kind == "write":
                self._write_half(thread, call, words)
            os.kill(self.pid, signal.SIGKILL)
        elif answer is not None:
            os.kill(self.pid, signal.Signals[answer])
        with suppress(OSError):
            fcntl.ioctl(self.listener, _SEND, bytearray(struct.pack("QqiI", number, value, error, flags)))

    def _event(self, thread: int, call: int, words: Sequence[int]) -> Event | None:
        """The event where it lies under one of the roots."""
        kind, (how, place) = _NUMBERS[call]
        try:
            if how == "fd":
                path = os.readlink(f"/proc/{thread}/fd/{_signed(words[place])}")
            else:
                name = _text(thread, words[place + (how == "at")])
                base = _signed(words[place]) if how == "at" else -100
                folder = f"/proc/{thread}/cwd" if base == -100 else f"/proc/{thread}/fd/{base}"
                path = os.path.normpath(name if name.startswith("/") else f"{os.readlink(folder)}/{name}")
        except OSError:
            return None
        if not f"{path}/".startswith(self.roots):
            return None
        return Event(kind, path, words[2] if kind == "write" else 0)

    def _write_half(self, thread: int, call: int, words: Sequence[int]) -> None:
        size = words[2] // 2
        process = os.pidfd_open(self.pid)
        handle = ctypes.CDLL(None, use_errno=True).syscall(_GETFD, process, words[0], 0)
        if handle < 0 or size == 0:
            return
        data = _memory(thread, words[1], size)
        if call == _CALLS["pwrite64"][_COLUMN]:
            os.pwrite(handle, data, words[3])
        else:
            os.write(handle, data)
        os.close(handle)


def _signed(word: int) -> int:
    return ctypes.c_int32(word & 0xFFFFFFFF).value


def _memory(thread: int, start: int, size: int) -> bytes:
    handle = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
    try:
        return os.pread(handle, size, start)
    finally:
        os.close(handle)


def _text(thread: int, start: int) -> str:
    found = b""
    while b"\0" not in found:
        step = 256 - (start + len(found)) % 256  # never beyond a page
        found += _memory(thread, start + len(found), step)
    return os.fsdecode(found.split(b"\0")[0])


def _install() -> int:
    """Put this process under the filter; gives the handle by which another one is asked."""

    def line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    load, equal, any_bit, ret = 0x20, 0x15, 0x45, 0x06
    program = [line(load, 4), line(equal, _ARCH, 1, 0), line(ret, _ALLOW), line(load, 0)]
    for name, call in _CALLS.items():
        number = call[_COLUMN]
        if number is None:
            continue
        if name in _OPENS:
            flags = 16 + 8 * _OPENS[name]
            program += [line(equal, number, 0, 4), line(load, flags), line(any_bit, _WRITES, 0, 1)]
            program += [line(ret, _ASK), line(ret, _ALLOW)]
        else:
            program += [line(equal, number, 0, 1), line(ret, _ASK)]
    program.append(line(ret, _ALLOW))
    text = ctypes.create_string_buffer(b"".join(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    handle = libc.syscall(_SECCOMP, 1, 8, ctypes.byref(Program(len(program), ctypes.addressof(text))))
    if handle < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(handle)


def problem() -> str | None:
    """Why commands cannot be watched on this machine, None where they can."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return "commands are watched on Linux, x86-64 or aarch64, only"
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _install()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    os.close(ours), os.close(theirs)
    return "this kernel, or the container, does not allow seccomp's user notifications" if status else None


def of_errno(number: int) -> str:
    """Its words, as a message has them."""
    return os.strerror(number)


ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES, errno.EDQUOT)
