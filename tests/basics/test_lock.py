"""A folder belongs to one process, whatever instant another one starts, is killed, forked or copied at."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from injerto.basics import lock, processes
from injerto.basics.errors import InjertoError
from injerto.basics.lock import LOCK, check_free, hold, is_gone, set_aside, this_process

STARTER = """
import sys, time
from pathlib import Path
from injerto.basics.errors import InjertoError
from injerto.basics.lock import hold
print("ready", flush=True)
for line in sys.stdin:
    try:
        with hold(Path(line.strip()), "injerto fit", lambda: None):
            time.sleep(0.05)
        print("won", flush=True)
    except InjertoError as error:
        print("lost" if "is being written by process" in str(error) else str(error), flush=True)
"""
WORKER = """
import sys
from pathlib import Path
from injerto.basics.lock import hold, set_aside
folder = Path(sys.argv[1])
for turn in range(10 ** 6):
    with hold(folder, "injerto fit", lambda: None):
        if turn % 3 == 2:
            set_aside(folder, folder.with_name(f"aside{turn}"), {})
        print(turn, flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    with hold(folder, "injerto fit", lambda: None):
        yield


def dead() -> dict[str, Any]:
    """A process of this machine that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return this_process() | {"pid": child.pid, "start": "1"}


def plant(folder: Path, **content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    more = {"since": "2026-01-01 00:00:00", "what": "injerto fit", "folder": str(folder), "token": "theirs"}
    (folder / LOCK).write_text(json.dumps({**more, **content}))


def test_of_two_that_start_at_once_exactly_one_wins(tmp_path: Path) -> None:
    starters = [start(STARTER) for _ in range(2)]
    gone = dead()
    try:
        for one in starters:
            assert one.stdout and one.stdout.readline() == "ready\n"
        for turn in range(20):
            folder = tmp_path / str(turn)
            if turn % 2:  # and of two that take over at once
                plant(folder, **gone)
            for one in starters:
                assert one.stdin
                one.stdin.write(f"{folder}\n")
                one.stdin.flush()
            answers = [one.stdout.readline().strip() for one in starters if one.stdout]
            assert sorted(answers) == ["lost", "won"], (turn, answers)
            assert not (folder / LOCK).exists()
    finally:
        for one in starters:
            one.communicate()


def test_after_a_kill_at_any_instant_the_next_start_takes_over(tmp_path: Path) -> None:
    chance = random.Random(0)
    for turn in range(20):
        folder = tmp_path / str(turn) / "run"
        worker = start(WORKER, folder)
        assert worker.stdout and worker.stdout.readline() == "0\n"
        time.sleep(chance.random() * 0.01)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.communicate()
        with held(folder):
            assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
        assert not (folder / LOCK).exists()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``run``."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom injerto.basics.lock import hold\n"
        "with hold(Path(sys.argv[1]), 'injerto fit', lambda: None):\n    print('ready', flush=True)\n    input()"
    )
    process = start(script, tmp_path / "run")
    assert process.stdout and process.stdout.readline() == "ready\n"
    yield process
    process.communicate("\n")
    assert not (tmp_path / "run").exists()  # it made the folder and left nothing in it


def test_the_second_process_reads_who_writes(other: subprocess.Popen[str], tmp_path: Path) -> None:
    for attempt in (held, lambda folder: check_free(folder)):
        with pytest.raises(InjertoError) as caught, attempt(tmp_path / "run") or threading.Lock():
            pass
        message = str(caught.value)
        assert f"is being written by process {other.pid} on {os.uname().nodename} since " in message
        assert "(injerto fit)" in message and "overwrite" not in message and "resume" not in message
    called = []
    with pytest.raises(InjertoError), hold(tmp_path / "run", "injerto fit", lambda: called.append(1)):
        pass
    assert not called  # it says whose the folder is before anything else


def test_a_thread_is_refused_as_another_process_is(tmp_path: Path) -> None:
    messages = []

    def second() -> None:
        try:
            with held(tmp_path / "run"):
                messages.append("won")
        except InjertoError as error:
            messages.append(str(error))

    with held(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(messages) == 1 and "by another thread of this process" in messages[0]
    with held(tmp_path / "run"):
        pass


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_the_lock_alone(tmp_path: Path) -> None:
    try:
        with held(tmp_path / "run"):
            child = os.fork()
            if child == 0:
                raise KeyboardInterrupt
            assert os.waitpid(child, 0)[1] == 0
            assert (tmp_path / "run" / LOCK).exists()
    except KeyboardInterrupt:
        os._exit(0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, InjertoError, ValueError])
def test_the_lock_goes_with_the_work(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), held(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
        raise error("stop")
    assert not (tmp_path / "a").exists()
    with held(tmp_path / "a"):
        (tmp_path / "a" / "work").write_text("done")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["work"]


def test_a_refused_folder_is_left_as_it_was(tmp_path: Path) -> None:
    def refuse() -> None:
        raise InjertoError("no")

    with pytest.raises(InjertoError, match="no"), hold(tmp_path / "a" / "b", "injerto fit", refuse):
        pass
    assert not list(tmp_path.iterdir())


def test_a_recycled_process_number_is_recognized(tmp_path: Path, capsys: Any) -> None:
    plant(tmp_path / "run", **this_process() | {"pid": os.getppid(), "start": "1"})
    with held(tmp_path / "run"):
        pass
    assert "has ended; its lock is taken over" in capsys.readouterr().err
    assert is_gone(dead()) and not is_gone(this_process())
    assert not is_gone(this_process() | {"host": "elsewhere"})


def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen(["true"])
    start_of = processes._state(child.pid)[1]
    deadline = time.monotonic() + 5
    while processes._state(child.pid)[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_gone(this_process() | {"pid": child.pid, "start": start_of})
    child.wait()


FOREIGN: list[dict[str, Any]] = [{"host": "elsewhere"}, {"boot": "another"}, {"space": "pid:[1]"}]


@pytest.mark.parametrize("change", FOREIGN)
@pytest.mark.parametrize("alive", [True, False])
def test_what_cannot_be_looked_at_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], alive: bool
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.4)
    plant(tmp_path / "run", **this_process() | {"pid": 77} | change)
    beating = threading.Event()

    def beat() -> None:
        while not beating.wait(0.05):
            os.utime(tmp_path / "run" / LOCK)

    thread = threading.Thread(target=beat)
    if not alive:
        with held(tmp_path / "run"):
            assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
        return
    thread.start()
    try:
        with pytest.raises(InjertoError, match=r"by process 77 on .* remove .*\.injerto\.lock"), held(tmp_path / "run"):
            pass
    finally:
        beating.set()
        thread.join()
    assert json.loads((tmp_path / "run" / LOCK).read_text())["token"] == "theirs"


def test_a_lock_is_touched_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with held(tmp_path / "run"):
        first = lock._touched(tmp_path / "run" / LOCK)
        time.sleep(0.2)
        assert lock._touched(tmp_path / "run" / LOCK) > first


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": "x"}', "\x00" * 20])
def test_a_damaged_lock_is_no_dead_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text(content)
    with held(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_copy_of_a_folder_at_work_is_free(other: subprocess.Popen[str], tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with held(tmp_path / "copy"):
        pass
    os.symlink(tmp_path / "run", tmp_path / "link")
    with pytest.raises(InjertoError, match="is being written"), held(tmp_path / "link"):
        pass


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_links(monkeypatch)
    plant(tmp_path / "run", **dead())
    with held(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
        with pytest.raises(InjertoError, match="another thread"), held(tmp_path / "run"):
            pass
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("call", ["open", "mkdir"])
def test_what_cannot_be_locked_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(*{"open": (os, "open"), "mkdir": (Path, "mkdir")}[call], refuse)
    with pytest.raises(InjertoError, match=r"cannot lock .*run: Read-only file system"), held(tmp_path / "run"):
        pass


def test_setting_aside_keeps_the_folder_held(tmp_path: Path) -> None:
    folder, aside = tmp_path / "run", tmp_path / "run.before"
    with held(folder):
        (folder / "work").write_text("old")
        set_aside(folder, aside, {"note": "new"})
        assert (aside / "work").read_text() == "old" and not (aside / LOCK).exists()
        assert (folder / "note").read_text() == "new"
        with pytest.raises(InjertoError, match="another thread"), held(folder):
            pass
    assert not (folder / LOCK).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.before"]


def test_a_folder_made_in_between_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "run", Path.rename

    def slow(self: Path, target: Path) -> Path:
        found = rename(self, target)
        if self == folder:
            plant(folder, **this_process())
        return found

    with held(folder):
        (folder / "work").write_text("old")
        monkeypatch.setattr(Path, "rename", slow)
        with pytest.raises(InjertoError, match=r"cannot be set aside.*what it held is in .*run\.before"):
            set_aside(folder, tmp_path / "run.before", {})
    assert json.loads((folder / LOCK).read_text())["token"] == "theirs"
    assert (tmp_path / "run.before" / "work").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.before"]
