"""A run's folder: another process's is never touched, an earlier run is never lost, leftovers of a kill are no obstacle."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

import injerto
from injerto.basics import removal
from injerto.basics.errors import InjertoError
from injerto.basics.lock import LOCK, hold, this_process
from injerto.training import trainer
from injerto.training.folder import EARLIER, earlier_of, list_files, remove_earlier, remove_run, replace_run, tidy

Go = Callable[..., Any]
HOLD = """
import sys
from pathlib import Path
from injerto.basics.lock import hold
with hold(Path(sys.argv[1]), "injerto fit", lambda: None):
    print("ready", flush=True)
    input()
"""


@pytest.fixture
def go(pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path) -> Go:
    """A function that fits a tiny run into ``tmp_path/run``."""
    fixed = {"source": "day", "backbone": tiny_timm, "steps": 2, "tuning": "last:1", "augment": "none"} | quick

    def fit(**settings: Any) -> Any:
        return injerto.fit(pictures, **{"out": tmp_path / "run", **fixed, **settings})

    return fit


@contextmanager
def busy(folder: Path) -> Iterator[int]:
    """Another process writes into the folder."""
    words = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    try:
        yield process.pid
    finally:
        process.communicate("\n")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seed_of(folder: Path) -> int:
    recipe, card = yaml.safe_load((folder / "recipe.yaml").read_text()), folder / "adapter" / "adapter_card.json"
    assert recipe["seed"] == json.loads(card.read_text())["seed"]
    return int(recipe["seed"])


def stop(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(trainer.Trainer, "_step", step)


def test_whoever_comes_second_is_refused_whatever_the_flags(go: Go, pictures: Path, tmp_path: Path) -> None:
    run = go().path
    other = Path(shutil.copytree(run, tmp_path / "other"))
    before = content(run)
    attempts: list[Callable[[], Any]] = [
        go,
        lambda: go(resume=True),
        lambda: go(overwrite=True),
        lambda: injerto.soup([run, other], run),
        lambda: injerto.combine([run, other], run),
        lambda: injerto.export(other, run),
        lambda: injerto.compare(pictures, source="day", grid={"tuning": ["head"]}, seeds=1, out=run),
    ]
    with busy(run) as pid:
        for attempt in attempts:
            with pytest.raises(InjertoError, match=f"is being written by process {pid} on .*injerto fit") as caught:
                attempt()
            assert "--overwrite" not in str(caught.value) and "--resume" not in str(caught.value)
        assert set(injerto.evaluate(run, pictures)) == {"day", "dusk", "night"}  # reading goes on
        assert {name: data for name, data in content(run).items() if name != LOCK} == before
    assert content(run) == before
    assert go(resume=True).path == run


def test_a_folder_in_which_others_work_is_refused_to_every_command(go: Go, pictures: Path, tmp_path: Path) -> None:
    run = go().path
    other = Path(shutil.copytree(run, tmp_path / "other"))
    out = tmp_path / "new"
    with busy(out):
        for attempt in (
            lambda: go(out=out),
            lambda: injerto.soup([run, other], out),
            lambda: injerto.combine([run, other], out),
            lambda: injerto.export(run, out),
            lambda: injerto.compare(pictures, source="day", grid={"tuning": ["head"]}, seeds=1, out=out),
        ):
            with pytest.raises(InjertoError, match="is being written by process"):
                attempt()
        assert list(content(out)) == [LOCK]
    assert not out.exists()


def test_the_lock_is_held_while_a_run_is_made_and_not_afterwards(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, step = [], trainer.Trainer._step

    def look(self: Any, *given: Any, **named: Any) -> Any:
        seen.append(json.loads((self.folder / LOCK).read_text())["pid"])
        return step(self, *given, **named)

    monkeypatch.setattr(trainer.Trainer, "_step", look)
    run = go().path
    go(overwrite=True, seed=1)
    assert set(seen) == {os.getpid()} and len(seen) == 4
    for error in (KeyboardInterrupt(), InjertoError("x"), RuntimeError("x")):
        stop(monkeypatch, error)
        with pytest.raises(type(error)):
            go(overwrite=True)
        assert not (run / LOCK).exists()


def test_a_lock_of_a_killed_run_is_taken_over(go: Go, capsys: Any, tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    (tmp_path / "run").mkdir()
    gone = this_process() | {"pid": child.pid, "start": "1", "token": "t"}
    (tmp_path / "run" / LOCK).write_text(json.dumps(gone))
    go()
    assert f"process {child.pid} on " in capsys.readouterr().err
    assert not (tmp_path / "run" / LOCK).exists()


# --- --overwrite ------------------------------------------------------------------------------------------------------


def fake_run(folder: Path, text: str = "old") -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("metrics.json", "recipe.yaml"):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("what", ["folder", "file", "link", "empty", "run"])
def test_overwrite_never_touches_what_is_called_before(tmp_path: Path, what: str) -> None:
    run, mine = fake_run(tmp_path / "run"), tmp_path / "run.before"
    if what == "folder":
        mine.mkdir()
        (mine / "thesis.txt").write_text("years of work")
    elif what == "file":
        mine.write_text("a file")
    elif what == "link":
        mine.symlink_to(tmp_path / "nowhere")
    elif what == "run":
        fake_run(mine, "mine")
    else:
        mine.mkdir()
    before = content(mine)
    for text in ("new", "newer"):
        with hold(run, "injerto fit", lambda: None):
            aside = replace_run(run)
            assert aside == tmp_path / "run.before-2" and (aside / "metrics.json").exists()
            fake_run(run, text)
            remove_earlier(run)
        assert os.path.lexists(mine) and content(mine) == before
        assert (run / "metrics.json").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.before"]


def test_a_finished_run_outlives_every_attempt_to_replace_it(
    go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    run = go(seed=1).path
    finished = content(run)
    with monkeypatch.context() as patch:
        stop(patch, KeyboardInterrupt())
        for attempt in ({"overwrite": True, "seed": 2}, {"resume": True, "seed": 2}, {"overwrite": True, "seed": 3}):
            with pytest.raises(KeyboardInterrupt):
                go(**attempt)
            assert "the earlier run is kept in" in capsys.readouterr().err
            assert content(tmp_path / "run.before") == finished
    go(resume=True, seed=3)  # resumed and finished: now the earlier one goes
    assert not (tmp_path / "run.before").exists() and not (run / EARLIER).exists()
    with monkeypatch.context() as patch:
        stop(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            go(overwrite=True, seed=4)
    assert seed_of(tmp_path / "run.before") == 3
    go(overwrite=True, seed=5)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_earlier_run_that_was_changed_is_left(go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go(seed=1)
    with monkeypatch.context() as patch:
        stop(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            go(overwrite=True, seed=2)
    (tmp_path / "run.before" / "notes.txt").write_text("mine")
    go(resume=True, seed=2)
    assert (tmp_path / "run.before" / "notes.txt").exists()
    assert earlier_of(tmp_path / "run") is None


@pytest.mark.parametrize(
    "noted", ["", "{}", '{"folder": "../../etc", "inode": 1}', '{"folder": ".", "inode": 2}', "[]"]
)
def test_a_note_of_an_earlier_run_leads_nowhere_else(tmp_path: Path, noted: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / EARLIER).write_text(noted)
    assert earlier_of(tmp_path / "run") is None


def test_a_link_to_a_folder_stays_a_link(go: Go, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    go(seed=1)
    go(seed=2, overwrite=True)
    assert (tmp_path / "run").is_symlink() and seed_of(tmp_path / "disk") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "run"]


def test_replacing_is_whole_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever call is the last one before a kill, the finished run is somewhere, whole."""
    calls = ("mkdir", "write_bytes", "write_text", "rename", "unlink")
    for last in range(12):
        root = tmp_path / str(last)
        root.mkdir()
        run = fake_run(root / "run")
        count = 0
        with monkeypatch.context() as patch:

            def wrapped(original: Any, stop_at: int) -> Any:
                def call(*given: Any, **named: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count > stop_at:
                        raise SystemExit  # as if killed: nothing is tidied up behind it
                    return original(*given, **named)

                return call

            with hold(run, "injerto fit", lambda: None):
                for name in calls:
                    patch.setattr(Path, name, wrapped(getattr(Path, name), last))
                patch.setattr(shutil, "rmtree", lambda *_, **__: None)
                with suppress(SystemExit):
                    replace_run(run)
                patch.undo()
        places = [path for path in root.iterdir() if (path / "metrics.json").exists()]
        assert len(places) == 1 and (places[0] / "recipe.yaml").read_text() == "old", (last, list(root.iterdir()))


# --- leftovers of a kill ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_run_killed_at_its_first_write_begins_again(go: Go, tmp_path: Path, flags: dict[str, Any]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.yaml.ab_12xyz.tmp").write_text("half")
    (tmp_path / "run" / f"{LOCK}.0123abcd.tmp").write_text("{")
    go(**flags)
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_half_written_files_are_removed_at_resume(go: Go, tmp_path: Path) -> None:
    run = go().path
    (run / "metrics.json").unlink()
    for place in (run, run / "adapter", run / "checkpoints"):
        place.mkdir(exist_ok=True)
        (place / ".adapter_model.safetensors.abcdefgh.tmp").write_bytes(b"half")
    (run / "checkpoints" / ".mine").write_text("kept")
    go(resume=True)
    assert not list(run.rglob("*.tmp")) and (run / "checkpoints" / ".mine").exists()


def test_nobody_who_did_not_resume_reads_of_it(go: Go, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(InjertoError, match="holds other things than a run") as caught:
        go()
    assert "--resume" not in str(caught.value) and "--overwrite" not in str(caught.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_an_empty_out_is_not_the_current_folder(go: Go) -> None:
    for out in ("", "  "):
        with pytest.raises(InjertoError, match="out is empty"):
            go(out=out)


def test_half_written_tensors_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for place in ("adapter", "checkpoints"):
        (tmp_path / place).mkdir()
        for name in (".tmpVXXz7L", ".last.safetensors.a1b2c3d4.tmp", "last.safetensors", ".tmp", ".tmpfile-of-mine"):
            (tmp_path / place / name).write_bytes(b"x")
    tidy(tmp_path)
    for place in ("adapter", "checkpoints"):
        assert sorted(file.name for file in (tmp_path / place).iterdir()) == [".tmp", ".tmpfile-of-mine", "last.safetensors"]  # fmt: skip


# --- what a run did not write -----------------------------------------------------------------------------------------

NOTES = ("notes.txt", "adapter/notes.txt", "adapter/deep/notes.txt", "checkpoints/old.safetensors", "wandb/mine.txt",
         "injerto/mine.txt", "deep/er/notes.txt")  # fmt: skip


def annotate(run: Path, name: str) -> Path:
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", NOTES)
def test_what_a_user_put_into_a_run_is_never_overwritten(name: str, finished: bool, go: Go, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    if not finished:
        (run / "metrics.json").unlink()
    note = annotate(run, name)
    with pytest.raises(InjertoError, match=f"--overwrite: .*run holds '{name}', which no run wrote; move it away"):
        go(overwrite=True)
    assert note.read_text() == "mine" and (run / "recipe.yaml").exists()
    note.unlink()
    while not any((note := note.parent).iterdir()):
        note.rmdir()


@pytest.mark.parametrize("name", NOTES)
def test_what_a_user_put_into_an_earlier_run_is_kept(name: str, go: Go, tmp_path: Path, capsys: Any) -> None:
    run = fake_run(tmp_path / "run")
    with hold(run, "injerto fit", lambda: None):
        aside = replace_run(run)
        assert aside is not None and earlier_of(run) == aside
        annotate(aside, name)
        before = content(aside)
        remove_earlier(run)
        assert content(aside) == before and not (run / EARLIER).exists()
    assert f"{aside} is kept: " in capsys.readouterr().err


def test_a_removal_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any of the files, also those by which a run is recognised."""
    for number in range(len(list_files(fake_run(tmp_path / "whole"))[0])):
        run = fake_run(tmp_path / f"run{number}")
        with hold(run, "injerto fit", lambda: None):
            aside = replace_run(run)
            assert aside is not None
            left = iter(range(number))

            def remove(path: Path, left: Iterator[int] = left) -> None:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                path.unlink()

            with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                patch.setattr(removal, "remove_file", remove)
                remove_earlier(run)
            assert aside.exists() and (run / EARLIER).exists()
            remove_earlier(run)
            assert not aside.exists() and not (run / EARLIER).exists()


def test_an_earlier_run_that_is_somebody_elses_by_now_is_kept(tmp_path: Path) -> None:
    for number in range(3):
        run = fake_run(tmp_path / f"run{number}")
        with hold(run, "injerto fit", lambda: None):
            aside = replace_run(run)
            assert aside is not None
            if number == 0:  # a link in its place
                aside.rename(tmp_path / "elsewhere")
                aside.symlink_to(tmp_path / "elsewhere")
            elif number == 1:  # a copy in its place
                shutil.copytree(aside, tmp_path / "copy")
                shutil.rmtree(aside)
                (tmp_path / "between").mkdir()
                (tmp_path / "copy").rename(aside)
            before = content(aside)
            with busy(aside) if number == 2 else nullcontext():  # another process works in it
                remove_earlier(run)
            assert content(aside) == before


def test_a_removed_run_leaves_all_else_and_follows_no_link(tmp_path: Path) -> None:
    run, outside = fake_run(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    for name in ("last.safetensors", "notes.txt", ".recipe.yaml.ab_12xyz.tmp"):
        (outside / name).write_text("mine")
    (run / "checkpoints").symlink_to(outside)
    annotate(run, "adapter/head.safetensors")
    note = annotate(run, "adapter/notes.txt")
    annotate(run, "checkpoints-old/last.safetensors")
    tidy(run)
    remove_run(run)
    assert sorted(path.name for path in outside.iterdir()) == [
        ".recipe.yaml.ab_12xyz.tmp",
        "last.safetensors",
        "notes.txt",
    ]
    assert sorted(content(run)) == ["adapter/notes.txt", "checkpoints-old/last.safetensors"]
    note.unlink()


def test_every_file_of_a_run_is_known(go: Go, tmp_path: Path) -> None:
    from injerto.training.folder import list_files

    run = go(track="tensorboard", slider=True, tuning="last:1").path
    own, foreign = list_files(run)
    assert not foreign and sorted(own) == sorted(content(run))
    remove_run(run)
    assert not run.exists()
