"""A kill, a full disk or one that became read-only at every single write of a run: then --resume gives the same run."""

import contextlib
import errno
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TINY = {"threads": 1, "precision": "fp32", "batch-size": 8, "steps": 6}
SMALL = TINY | {"source": "day", "augment": "none"}
ALIGNED = SMALL | {"target": "dusk", "tuning": "last:1"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("pictures", SMALL | {"tuning": "last:1"}),
    "mmd": ("pictures", ALIGNED | {"alignment": "mmd"}),
    "dann": ("pictures", ALIGNED | {"alignment": "dann"}),
    "slider": ("pictures", SMALL | {"tuning": "lp-ft", "slider": True}),
    "ema": ("pictures", SMALL | {"tuning": "full", "average": "ema", "norm": "train"}),
    "swad": ("pictures", SMALL | {"tuning": "last:1", "average": "swad", "steps": 12}),
    "probe": ("pictures", SMALL | {"tuning": "head", "head": "probe"}),
    "tracked": ("pictures", SMALL | {"tuning": "head", "track": "tensorboard"}),
    "lora": ("reviews", TINY | {"source": "films", "tuning": "lora"}),
    "language model": ("reviews", TINY | {"source": "films", "task": "causal-lm", "tuning": "lora"}),
}
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "hang up": signal.SIGHUP, "interrupt": signal.SIGINT}
KINDS = (*SIGNALS, "full", "read-only", "no more bytes")


def command(arguments: list[str], out: str, kind: str, number: int) -> tuple[int, int, str]:
    """A command line, with an accident at the n-th write inside or beside ``out``: its code, writes and words."""
    from injerto.cli.main import run

    events, fsync = [0], os.fsync

    def happen(what: str) -> None:
        events[0] += 1
        if events[0] != number:
            return
        if kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[kind])
        if kind == "no more bytes":
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
        elif kind in ("full", "read-only"):
            code = errno.ENOSPC if kind == "full" else errno.EROFS
            raise OSError(code, os.strerror(code), what)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod"):
            path = given[0]
        else:
            return
        if isinstance(path, str | os.PathLike) and str(path).startswith(out):
            happen(str(path))

    def synced(handle: int) -> None:
        happen("fsync")
        fsync(handle)

    if number:
        os.fsync = synced
        sys.addaudithook(hook)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = run([*arguments, "--out", out])
    return code, events[0], said.getvalue()


def serve(asked: Any, cache: str) -> None:
    """Do commands, each in a fork of a process that has done one already: that takes half a second in place of two."""
    os.environ |= {"INJERTO_CACHE": cache, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    from injerto.training import trainer

    trainer.SAVE_SECONDS = -1
    while (given := asked.recv()) is not None:
        if given[-1] == 0:
            asked.send(command(*given))
            continue
        child = os.fork()
        if not child:
            asked.send(command(*given))
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended < 0:
            asked.send((ended, -1, ""))


Launch = Callable[..., tuple[int, int, str]]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """A function: exit code, writes and words of a command; -9 where it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["injerto.training.fit", "injerto.training.language", "timm", "transformers",
                                    "accelerate", "sklearn.linear_model", "injerto.cli.main"])  # fmt: skip
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, str(tmp_path / "cache")))
    process.start()
    there.close()

    def start(arguments: list[str], out: Path, kind: str = "", number: int = -1) -> tuple[int, int, str]:
        here.send((arguments, str(out), kind, number))
        result: tuple[int, int, str] = here.recv()
        return result

    yield start
    here.send(None)
    process.join()


def outcome(out: Path) -> dict[str, Any]:
    """All files of a run; of what tells the time only the rest."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_dir() or name.startswith("injerto/"):  # TensorBoard's own files tell the time
            continue
        if name == "metrics.json":
            metrics = json.loads(path.read_text())
            del metrics["seconds"], metrics["checksum"]
            metrics["files"].pop("log.jsonl", None)
            found[name] = json.dumps(metrics)
        elif name == "log.jsonl":
            entries = [json.loads(line) for line in path.read_text().splitlines()]
            assert all(entry.pop("time") is not None for entry in entries)
            found[name] = json.dumps(entries)  # in the same order, too
        elif name == "forgetting.png":
            found[name] = path.stat().st_size > 0
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture
def words(request: pytest.FixtureRequest, pictures: Path, reviews: Path) -> Callable[[str], list[str]]:
    def make(case: str) -> list[str]:
        data, flags = CASES[case]
        network = "tiny_lm" if case == "language model" else "tiny_timm" if data == "pictures" else "tiny_bert"
        found = ["-q", "fit", str(pictures if data == "pictures" else reviews)]
        found += ["--backbone", str(request.getfixturevalue(network))]
        for name, value in flags.items():
            found += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return found

    return make


def check(case: str, kinds: tuple[str, ...], step: int, launch: Launch, words: list[str], place: Path) -> None:
    """Accidents at every ``step``-th write, each kind in turn, and what is there after one more start."""
    assert launch(words, place / "warm", "", -1 if case == "tracked" else 0)[0] == 0  # the cache is full from here on
    shutil.rmtree(place / "warm")
    code, events, said = launch(words, place / "run")
    assert code == 0, said
    expected = outcome(place / "run")
    assert events > 30
    for number in range(1, events + 1, step):
        kind = kinds[(number // step) % len(kinds)]
        shutil.rmtree(place / "run")
        code, _, said = launch(words, place / "run", kind, number)
        where = f"{case}, {kind} at {number} of {events}: {said}"
        if kind in SIGNALS:
            assert code in ((130, 0) if kind == "interrupt" else (-SIGNALS[kind],)), where
        else:
            assert code in (0, 2), where  # what is only tidied up may fail
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert len(errors) == (1 if code else 0) and "fault" not in said and "Traceback" not in said, where
        code, _, again = launch([*words, "--resume"], place / "run")
        assert code == 0, f"{where}\nthen: {again}"
        found = outcome(place / "run")
        assert sorted(found) == sorted(expected), where
        for name in expected:
            assert found[name] == expected[name], f"{name}: {where}"
        assert {path.name for path in place.iterdir()} <= {"cache", "run"}, where


def check_overwrite(step: int, launch: Launch, words: list[str], place: Path) -> None:
    """Kills while a finished run is replaced: at any moment the old one is whole somewhere, or the new one is."""
    out, mine = place / "run", place / "run.before"
    assert launch(words, out, "", 0)[0] == 0
    old = outcome(out)
    other = [*words, "--seed", "1"]
    assert launch(other, place / "other")[0] == 0
    new = outcome(place / "other")
    shutil.copytree(out, place / "sound")
    code, events, said = launch([*other, "--overwrite"], out, "count", 10_000)
    assert code == 0 and outcome(out) == new, said
    for number in range(1, events + 1, step):
        for path in place.iterdir():
            if path.name.startswith("run"):
                shutil.rmtree(path)
        shutil.copytree(place / "sound", out)
        shutil.copytree(place / "sound", mine)  # a user's own folder with a name like ours
        assert launch([*other, "--overwrite"], out, "kill", number)[0] == -9
        found = [path for path in place.glob("run*") if path != mine and (path / "metrics.json").exists()]
        assert any(whole(path) in (old, new) for path in found), number
        again = "--resume" if number % 2 and whole(out) != old else "--overwrite"
        code, _, said = launch([*other, again], out)
        assert code == 0, f"{again} after a kill at {number} of {events}: {said}"
        assert whole(out) == new and outcome(mine) == old, number
        # killed between the two renames, the old run is beside a new one that does not know of it
        left = {path.name for path in place.iterdir()} - {"run.before-2"}
        assert left == {"cache", "other", "sound", "run", "run.before"}, number


def whole(out: Path) -> dict[str, Any] | None:
    """What a finished run holds, without what a kill left behind; None where it is not finished."""
    if not (out / "metrics.json").exists():
        return None
    return {name: found for name, found in outcome(out).items() if not Path(name).name.startswith(".")}


def test_some_kills_of_an_overwrite(launch: Launch, words: Callable[[str], list[str]], tmp_path: Path) -> None:
    check_overwrite(61, launch, words("plain"), tmp_path)


@pytest.mark.slow
def test_every_kill_of_an_overwrite(launch: Launch, words: Callable[[str], list[str]], tmp_path: Path) -> None:
    check_overwrite(1, launch, words("plain"), tmp_path)


def test_some_accidents(launch: Launch, words: Callable[[str], list[str]], tmp_path: Path) -> None:
    check("slider", KINDS, 31, launch, words("slider"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_kill(case: str, launch: Launch, words: Callable[[str], list[str]], tmp_path: Path) -> None:
    check(case, ("kill",), 1, launch, words(case), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "slider", "language model"])
@pytest.mark.parametrize("kind", ["interrupt", "full", "read-only", "no more bytes"])
def test_every_failure(case: str, kind: str, launch: Launch, words: Callable[[str], list[str]], tmp_path: Path) -> None:
    check(case, (kind,), 2, launch, words(case), tmp_path)
