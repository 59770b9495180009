"""A folder belongs to one process at a time: a lock file in it says which, on which machine and since when.

The file is made with ``O_EXCL`` semantics and written whole. A lock whose process has ended is recognized by process
number, start time, boot and namespace and is taken over. Of a process on another machine, or in another container,
none of that is known: its lock is touched every few seconds while it lives, and one that stays untouched is taken over.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.basics.processes import is_gone, is_here, this_process
from injerto.basics.progress import note
from injerto.basics.removal import move, remove_file, remove_if_empty, remove_temporary, sweep, temporary_beside

LOCK = ".injerto.lock"
"""Name of the lock file in the folder that it locks."""
BEAT = 10.0
"""Seconds after which a process touches its lock again."""
PATIENCE = 60.0
"""Seconds for which the lock of a process that cannot be looked at is watched before it is taken over."""
TRIES = 50
"""How often the lock is tried for when another process makes or removes it at the same moment."""


@contextmanager
def hold(folder: Path, what: str, check: Callable[[], None]) -> Iterator[None]:
    """Inside, the folder belongs to this thread of this process.

    Args:
        folder: It is made where it does not exist, and removed at the end where it is empty then.
        what: Writes into it, for the messages of others: ``injerto fit``.
        check: Refuses a folder that must not be written into; called before the lock is made and again behind it.

    Raises:
        InjertoError: Where another process or thread writes into the folder, or the lock cannot be made.
    """
    gone = _judge(folder, None)
    check()
    token = uuid.uuid4().hex
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    owner, ended = os.getpid(), threading.Event()
    try:
        _acquire(folder, {**this_process(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "what": what,
                          "folder": str(folder.absolute()), "token": token}, gone)  # fmt: skip
        threading.Thread(target=_beat, args=(folder / LOCK, token, ended), daemon=True, name="injerto lock").start()
        check()
        yield
    finally:
        if os.getpid() == owner:  # a forked child leaves its parent's lock alone
            ended.set()
            _release(folder, token)
            for place in made:
                remove_if_empty(place)  # something is in it, as a rule


def check_free(folder: Path) -> None:
    """Refuse a folder that another process or thread writes into.

    Args:
        folder: It need not exist.

    Raises:
        InjertoError: Where one does.
    """
    _judge(folder, None)


def writer_of(folder: Path) -> str | None:
    """Who writes into a folder, in words; None where nobody does, as far as the lock says without waiting.

    Args:
        folder: It need not exist.
    """
    content = _read(folder / LOCK)
    if not content or is_gone(content) or _is_copy(folder / LOCK, content):
        return None
    return f"{_name(content)} since {content.get('since')} ({content.get('what')})"


def set_aside(folder: Path, aside: Path, files: Mapping[str, str]) -> None:
    """Rename a folder that this process holds, and put a new one in its place, which it holds as well.

    Args:
        folder: Held.
        aside: Its new name, beside it; nothing has that name.
        files: Names and texts of files in the new one.

    Raises:
        InjertoError: Where it cannot be renamed, or another process makes the folder in between.
    """
    sweep(folder.parent)
    fresh = temporary_beside(folder)
    kept = ""
    try:
        fresh.mkdir()
        (fresh / LOCK).write_bytes((folder / LOCK).read_bytes())
        for name, text in files.items():
            (fresh / name).write_text(text, encoding="utf-8")
        move(folder, aside)
        kept = f"; what it held is in {aside}"
        remove_file(aside / LOCK)
        move(fresh, folder)
    except OSError as error:
        raise InjertoError(
            f"{folder} cannot be set aside as {aside.name} ({error.strerror or error}){kept}; name another folder"
        ) from error
    finally:
        remove_temporary(fresh)


def _acquire(folder: Path, content: Mapping[str, Any], gone: Mapping[str, Any] | None) -> None:
    """Make the lock, where need be in place of one whose process is gone."""
    for _ in range(TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if _create(folder / LOCK, json.dumps(content)):
                return
        except FileNotFoundError:
            continue  # another process has just removed the folder
        except OSError as error:
            raise InjertoError(
                f"cannot lock {folder}: {error.strerror or error} ({LOCK}); check the permissions or choose another "
                "folder"
            ) from error
        gone = _judge(folder, gone)
        if gone is not None and _remove(folder / LOCK, gone):
            note(f"{folder} was being written by {_name(gone)}, which has ended; its lock is taken over")
    raise InjertoError(f"{folder} is being locked and released by other processes; try again, or name another folder")


def _create(lock: Path, text: str) -> bool:
    """Make a lock file, whole from the first moment on; False where there is one."""
    sweep(lock.parent)
    temporary = temporary_beside(lock)
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        try:
            os.link(temporary, lock)
        except FileExistsError:
            return temporary.stat().st_nlink == 2  # a network file system may repeat what has succeeded
        except FileNotFoundError:
            raise
        except OSError:  # no hard links on this file system
            try:
                handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
        return True
    finally:
        remove_temporary(temporary)


def _read(lock: Path) -> dict[str, Any] | None:
    """Content of a lock; empty where it cannot be read, None where there is none."""
    try:
        content = json.loads(lock.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _judge(folder: Path, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The lock of a process that is gone, None where there is none; refuse one of a process that lives."""
    lock = folder / LOCK
    content = _read(lock)
    if content is None or content == known or is_gone(content) or _is_copy(lock, content):
        return content
    if is_here(content):
        raise InjertoError(_refusal(folder, content))
    return _watch(folder, content)


def _name(content: Mapping[str, Any]) -> str:
    known = "pid" in content and "host" in content
    return f"process {content['pid']} on {content['host']}" if known else "an unknown process"


def _refusal(folder: Path, content: Mapping[str, Any]) -> str:
    mine = this_process()
    by = _name(content)
    if all(content.get(name) == mine[name] for name in mine):
        by = "another thread of this process"
    since = f"since {content.get('since')} ({content.get('what')})"
    return f"{folder} is being written by {by} {since}: wait until it has ended, or name another folder"


def _watch(folder: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    """Wait until a lock is touched, which its process does while it lives, or has been left alone for long."""
    lock = folder / LOCK
    note(f"{folder} is locked by {_name(content)}; waiting up to {PATIENCE:.0f} s for a sign of life ({lock})")
    try:
        touched = _touched(lock)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 10))
            if _touched(lock) != touched:
                now = _read(lock)
                if now is None:
                    return None
                raise InjertoError(f"{_refusal(folder, now)}; if that process has ended, remove {lock}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InjertoError(f"cannot read {lock}: {error.strerror}; name another folder") from error
    return content


def _touched(lock: Path) -> int:
    with lock.open("rb") as stream:  # opened: a network file system then asks its server
        return os.fstat(stream.fileno()).st_mtime_ns


def _is_copy(lock: Path, content: Mapping[str, Any]) -> bool:
    """Whether a lock came here with a copy of the folder that it locks."""
    original = Path(str(content.get("folder"))) / LOCK
    try:
        return is_here(content) and not os.path.samefile(original, lock) and _read(original) == content
    except OSError:
        return False


def _remove(lock: Path, seen: Mapping[str, Any]) -> bool:
    """Remove a lock that was seen; of several processes one does, and none removes what has come in its place."""
    try:
        import fcntl
    except ImportError:
        raise InjertoError(f"the process that wrote {lock} has ended; remove that file") from None
    try:
        handle = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InjertoError(_left_behind(lock, error)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(handle), lock.stat()) or _read(lock) != seen:
            return False
        remove_file(lock)
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InjertoError(_left_behind(lock, error)) from error
    finally:
        os.close(handle)


def _left_behind(lock: Path, error: OSError) -> str:
    return f"the process that wrote {lock} has ended, and the file cannot be removed: {error.strerror}; remove it"


def _release(folder: Path, token: str) -> None:
    content = _read(folder / LOCK)
    if content is not None and content.get("token") == token:
        with suppress(OSError):
            remove_file(folder / LOCK)


def _beat(lock: Path, token: str, ended: threading.Event) -> None:
    """Touch a lock every few seconds for as long as it is held."""
    while not ended.wait(BEAT):
        content = _read(lock)
        if content is not None and content.get("token") == token:
            with suppress(OSError):
                os.utime(lock)
