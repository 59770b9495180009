"""Everything people get wrong: one line that names the thing and the cure, and nothing left that looks finished."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]


@pytest.fixture
def data(pictures: Path, tmp_path: Path) -> Path:
    """A copy of the pictures that may be damaged."""
    return Path(shutil.copytree(pictures, tmp_path / "pictures"))


@pytest.fixture
def fit(tiny_timm: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """A function that gives the arguments of a small fit on ``day`` into ``tmp_path/run``."""

    def arguments(data: object, *more: object, backbone: object = tiny_timm, source: str | None = "day") -> list[str]:
        given = ["fit", data, "--backbone", backbone, "--out", tmp_path / "run", "--threads", 1, "--precision", "fp32"]
        given += ["--source", source] if source else []
        given += ["--epochs", 1]
        for flag in {str(part) for part in more} & {"--backbone", "--out", "--threads", "--precision", "--epochs"}:
            place = given.index(flag)
            del given[place : place + 2]  # a flag is given once
        return [str(part) for part in (*given, *more)]

    return arguments


def nothing_finished(folder: Path) -> None:
    assert not list(folder.rglob("metrics.json"))
    assert not list(folder.rglob("adapter_card.json"))
    assert not list(folder.rglob("*.tmp"))


# --- data -------------------------------------------------------------------------------------------------------------


def spoil(data: Path, how: str) -> Path:
    path = data / "day" / "red" / "3.png"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-900])
    elif how == "text":
        path = path.with_name("note.jpg")
        path.write_text("this is no picture")
    elif how == "empty":
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize("how", ["truncated", "text", "empty"])
def test_an_unreadable_picture(refused: Refused, cli: Any, fit: Any, data: Path, tmp_path: Path, how: str) -> None:
    name = spoil(data, how).name
    message = refused(*fit(data))
    assert f"day/red/{name}" in message and "1 of 9" in message and "--skip-bad" in message
    nothing_finished(tmp_path)
    result = cli(*fit(data, "--skip-bad", "--json"))
    assert result.code == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [entry["source"] for entry in metrics["skipped"]] == [f"day/red/{name}"]
    assert f"warning: day/red/{name}" in result.err


def test_a_picture_that_breaks_after_it_was_checked(
    refused: Refused, fit: Any, data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from injerto.domains.domain import Domains

    original = Domains.check

    def check(self: Domains, skip_bad: bool = False) -> Domains:
        checked = original(self, skip_bad)
        spoil(data, "truncated")
        return checked

    monkeypatch.setattr(Domains, "check", check)
    monkeypatch.setenv("INJERTO_CACHE", str(tmp_path / "cache"))
    assert "3.png" in refused(*fit(data))
    nothing_finished(tmp_path / "run")


def test_an_empty_class_folder_is_noted(cli: Any, fit: Any, data: Path) -> None:
    (data / "day" / "violet").mkdir()
    result = cli(*fit(data))
    assert result.code == 0
    assert "day/violet" in result.err


def test_one_class_only(refused: Refused, fit: Any, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "day" / "red")
    shutil.rmtree(data / "day" / "green")
    assert "day has one class only ('blue')" in refused(*fit(data))
    nothing_finished(tmp_path)


def test_no_labels(refused: Refused, fit: Any, data: Path) -> None:
    for file in (data / "day").rglob("*.png"):
        file.rename(data / "day" / f"{file.parent.name}{file.name}")
    assert "source day has no labels" in refused(*fit(data))


def test_a_missing_domain(refused: Refused, fit: Any, pictures: Path) -> None:
    message = refused(*fit(pictures, source="dya"))
    assert "no domain 'dya'; did you mean 'day'?" in message
    assert "no domain 'dawn'" in refused(*fit(pictures, "--target", "dawn"))


def test_no_source_named(refused: Refused, fit: Any, pictures: Path) -> None:
    assert re.search("3 domains; say which .* --source: day, dusk, night", refused(*fit(pictures, source=None)))


def test_contradictory_roles(refused: Refused, fit: Any, pictures: Path) -> None:
    assert "'day' is given as --source and as --target" in refused(*fit(pictures, "--target", "day"))
    assert "named twice" in refused(*fit(pictures, "--source", "day"))
    assert "nothing at 'nowhere'" in refused(*fit(pictures, "--target", "x=nowhere"))
    assert "NAME=PATH" in refused(*fit(pictures, "--target", f"={pictures}"))


TABLES = {
    "no such column": ("text,label\na,b\n", ("--input", "phrase"), "phrase"),
    "no such label column": ("text,label\na,b\n", ("--label", "stars"), "stars"),
    "no such domain column": ("text,label\na,b\n", ("--domain", "shop"), "shop"),
    "no such split column": ("text,label\na,b\n", ("--split-column", "part"), "part"),
    "unknown columns": ("x,y\n1,2\n", (), "--input"),
    "no rows": ("text,label\n", (), ""),
    "no bytes": ("", (), ""),
    "one class": ("text,label\na,x\nb,x\nc,x\n", (), "one class only"),
}


@pytest.mark.parametrize("what", TABLES)
def test_tables(refused: Refused, fit: Any, tiny_bert: Path, tmp_path: Path, what: str) -> None:
    content, flags, says = TABLES[what]
    (tmp_path / "table.csv").write_text(content)
    assert says in refused(*fit(tmp_path / "table.csv", *flags, backbone=tiny_bert, source=None))
    nothing_finished(tmp_path)


def test_broken_encoding(refused: Refused, fit: Any, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"text,label\ngood,x\ncaf\xe9,y\n")
    message = refused(*fit(tmp_path / "table.csv", backbone=tiny_bert, source=None))
    assert "table.csv" in message and "UTF-8" in message


def test_missing_data(refused: Refused, fit: Any, pictures: Path, tmp_path: Path) -> None:
    assert "no file, folder or sample" in refused(*fit(tmp_path / "nowhere"))
    assert "did you mean 'emoji-styles'" in refused(*fit("emoji-style", source=None))
    (tmp_path / "empty").mkdir()
    assert "no pictures" in refused(*fit(tmp_path / "empty"))
    (tmp_path / "x.zip").write_bytes(b"PK no")
    assert "x.zip" in refused(*fit(tmp_path / "x.zip"))


def test_texts_for_a_picture_network_and_the_other_way(
    refused: Refused, fit: Any, pictures: Path, reviews: Path, tiny_bert: Path
) -> None:
    assert "takes texts" in refused(*fit(pictures, backbone=tiny_bert))
    assert "takes images" in refused(*fit(reviews, source="films"))


# --- settings ---------------------------------------------------------------------------------------------------------

SETTINGS = {
    ("--backbone", "packaged:efficientnet-lite9"): "did you mean '(packaged:)?efficientnet-lite",
    ("--backbone", "resnet18"): "write timm:resnet18",
    ("--backbone", "bert-base-uncased"): "hf:bert-base-uncased",
    ("--backbone", "./nowhere"): "no folder ./nowhere",
    ("--tuning", "last:99"): "--tuning last:99: .* has 5 stages; choose last:1 to last:5",
    ("--tuning", "last"): "how many stages",
    ("--tuning", "ful"): "did you mean 'full'",
    ("--alignment", "mdm"): "unknown alignment 'mdm'",
    ("--alignment", "mmd:x"): "weight 'x' is not a number",
    ("--epochs", "0"): "--epochs",
    ("--epochs", "many"): "--epochs.*number",
    ("--steps", "3"): "exclude each other",
    ("--batch-size", "0"): "--batch-size",
    ("--lr", "nan"): "--lr",
    ("--image-size", "7"): "--image-size",
    ("--augment", "wild"): "--augment",
    ("--head", "cosine"): "--head",
    ("--norm", "froze"): "did you mean 'frozen'",
    ("--norm", "recalibrate:target"): "needs a --target",
    ("--select", "best-target"): "--select",
    ("--precision", "fp8"): "--precision",
    ("--threads", "0"): "--threads",
    ("--seed", "-1"): "--seed",
    ("--group", "("): "--group|regular expression",
    ("--split-column", "split"): "--split-file",
    ("--split-file", "nowhere.csv"): "nowhere.csv",
    ("--config", "nowhere.yaml"): "nowhere.yaml",
    ("--no-such-flag", "1"): "no-such-flag",
    ("--epoch", "1"): "--epochs",
}


@pytest.mark.parametrize("flags", SETTINGS, ids=" ".join)
def test_settings(refused: Refused, fit: Any, pictures: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert re.search(SETTINGS[flags], refused(*fit(pictures, *flags), "--json"))
    assert not (tmp_path / "run").exists()


def test_bf16_on_a_machine_without_it(refused: Refused, fit: Any, pictures: Path, monkeypatch: Any) -> None:
    from injerto.compute import plan
    from injerto.compute.machine import Machine

    monkeypatch.setattr(plan, "machine", lambda: Machine("cpu", "old iron", 1, False))
    assert "old iron has no bfloat16 in hardware; use --precision fp32" in refused(
        *fit(pictures, "--precision", "bf16")
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit"], "data"),
        (["fly"], "fly"),
        (["fit", "a", "b"], "b"),
        (["predict", "x"], "inputs"),
        (["--seed"], "--seed"),
    ],
)
def test_usage_is_one_line_too(refused: Refused, arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


def test_a_loss_that_is_no_number(refused: Refused, fit: Any, pictures: Path, tmp_path: Path) -> None:
    for tuning in ("head", "full"):
        message = refused(*fit(pictures, "--tuning", tuning, "--lr", 1e30, "--head-lr", 1e30, "--epochs", 30))
        assert re.search("the (loss|NLL on source val) became (nan|inf)", message) and "--lr" in message
        nothing_finished(tmp_path)
        shutil.rmtree(tmp_path / "run")


def test_weights_that_overflow_in_the_very_last_step(
    refused: Refused, fit: Any, pictures: Path, tmp_path: Path
) -> None:
    arguments = fit(pictures)
    arguments[arguments.index("--epochs")] = "--steps"
    message = refused(*arguments, "--tuning", "full", "--lr", 1e38, "--head-lr", 1e38, "--warmup", 0)
    assert "--lr" in message
    nothing_finished(tmp_path)


# --- the run's folder -------------------------------------------------------------------------------------------------


def test_an_existing_out(refused: Refused, cli: Any, fit: Any, pictures: Path, tmp_path: Path) -> None:
    assert cli(*fit(pictures)).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    message = refused(*fit(pictures))
    assert "exists already; add --resume to go on, --overwrite to replace it" in message
    assert "exclude each other" in refused(*fit(pictures, "--resume", "--overwrite"))
    assert "another recipe: " in refused(*fit(pictures, "--resume", "--seed", 3))
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert before == after
    assert "finished already" in cli(*fit(pictures, "--resume")).err
    assert cli(*fit(pictures, "--overwrite")).code == 0


def test_overwrite_spares_an_old_run_where_the_new_one_cannot_start(
    refused: Refused, cli: Any, fit: Any, pictures: Path, tmp_path: Path
) -> None:
    assert cli(*fit(pictures)).code == 0
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    for bad in (("--tuning", "last:99"), ("--target", "dawn"), ("--norm", "recalibrate:target")):
        refused(*fit(pictures, "--overwrite", *bad))
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_a_folder_of_other_things_is_never_touched(refused: Refused, fit: Any, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    for flag in ("--overwrite", "--resume"):
        assert "holds other things than a run" in refused(*fit(pictures, flag))
    refused(*fit(pictures))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_out_is_a_file_or_below_one(refused: Refused, fit: Any, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    for flags in ((), ("--overwrite",)):
        assert "is a file; name a folder" in refused(*fit(pictures, *flags))
    below = ["fit", pictures, "--source", "day", "--out", tmp_path / "run" / "below"]
    assert "name another folder" in refused(*below, "--backbone", fit(pictures)[3], "--epochs", 1)
    assert (tmp_path / "run").read_text() == "a file"


def test_a_damaged_checkpoint(refused: Refused, cli: Any, fit: Any, pictures: Path, tmp_path: Path) -> None:
    assert cli(*fit(pictures)).code == 0
    (tmp_path / "run" / "metrics.json").unlink()
    checkpoint = tmp_path / "run" / "checkpoints" / "last.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert "start again with --overwrite" in refused(*fit(pictures, "--resume"))
    (tmp_path / "run" / "recipe.yaml").write_text("{")
    assert "recipe.yaml" in refused(*fit(pictures, "--resume"))


# --- Ctrl-C and faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["injerto.training.prepare.prepare", "injerto.training.trainer.Trainer._step"])
def test_ctrl_c(cli: Any, fit: Any, pictures: Path, tmp_path: Path, monkeypatch: Any, where: str) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, stop)
        result = cli(*fit(pictures), "--json")
    assert result.code == 130 and result.out == ""
    lines = [line for line in result.err.splitlines() if line and not line.startswith(("plan:", "data:"))]
    assert lines == ["interrupted; the same command with --resume goes on where it stopped"]
    nothing_finished(tmp_path)
    assert cli(*fit(pictures), "--resume").code == 0


def test_ctrl_c_as_a_signal(pictures: Path, tiny_timm: Path, tmp_path: Path) -> None:
    code = "import sys; from injerto.cli.main import main; main(sys.argv[1:])"
    arguments = ["fit", pictures, "--source", "day", "--backbone", tiny_timm, "--tuning", "full", "--epochs", 100_000]
    command = [sys.executable, "-c", code, *map(str, [*arguments, "--out", tmp_path / "run", "--threads", 1])]

    def heeds_ctrl_c() -> None:  # a shell's background jobs, and what they start, ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, preexec_fn=heeds_ctrl_c) as process:
        for line in process.stderr or ():
            if line.startswith("plan: about"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted; the same command with --resume goes on where it stopped"
    nothing_finished(tmp_path)


def test_our_own_fault_is_one_line_and_another_code(cli: Any, fit: Any, pictures: Path, monkeypatch: Any) -> None:
    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("injerto.training.prepare.prepare", fault)
    result = cli(*fit(pictures))
    assert result.code == 1
    assert len([line for line in result.err.splitlines() if "our fault" in line]) == 1
    assert "RuntimeError: two lines" in result.err and "Traceback" not in result.err
    monkeypatch.setenv("INJERTO_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli(*fit(pictures))


def test_out_of_memory(refused: Refused, fit: Any, pictures: Path, monkeypatch: Any, tmp_path: Path) -> None:
    for number, error in enumerate((MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"))):

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("injerto.training.trainer.Trainer._step", fail)
        assert "--batch-size" in refused(*fit(pictures), *(["--resume"] if number else []))


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], tuple[Path, bool]]]:
    """A function that makes a disk with little room: a file system where we may mount one, else a limit on file sizes."""
    disk, limits = tmp_path / "disk", resource.getrlimit(resource.RLIMIT_FSIZE)
    disk.mkdir()
    mounted = False

    def make(room: int) -> tuple[Path, bool]:
        nonlocal mounted
        command = ["mount", "-t", "tmpfs", "-o", f"size={room}", "none", str(disk)]
        mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        return disk, mounted

    yield make
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("room", [4096, 40_960, 204_800, 409_600])
def test_a_full_disk(
    refused: Refused, cli: Any, fit: Any, pictures: Path, tmp_path: Path, monkeypatch: Any, small_disk: Any, room: int
) -> None:
    arguments = fit(pictures, "--tuning", "full", "--json")
    assert cli(*arguments).code == 0  # what is cached is in the cache now, and the work itself is fine
    disk, mounted = small_disk(room)
    arguments[arguments.index("--out") + 1] = str(disk / "run")
    message = refused(*arguments)
    assert "cannot write" in message and str(disk) in message
    nothing_finished(disk)
    if mounted:
        assert "free space" in message
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)  # with room again it goes on
        assert cli(*arguments, "--resume").code == 0
        for file in ("adapter_model.safetensors", "head.safetensors", "adapter_card.json"):
            assert (disk / "run" / "adapter" / file).read_bytes() == (tmp_path / "run" / "adapter" / file).read_bytes()


def test_a_split_file_that_contradicts_itself(refused: Refused, fit: Any, pictures: Path, tmp_path: Path) -> None:
    with (tmp_path / "s.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("path", "split"), ("day/red/1.png", "train"), ("day/red/1.png", "test"), ("day/blue/1.png", "train")]
        )
    assert "day/red/1.png" in refused(*fit(pictures, "--split-file", tmp_path / "s.csv"))


# --- opening runs -----------------------------------------------------------------------------------------------------


def test_runs_that_are_none(
    refused: Refused, pictures: Path, tmp_path: Path, image_run: Path, other_timm: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for command in (["evaluate", None, pictures], ["predict", None, pictures]):
        for place, says in ((tmp_path / "nowhere", "no run at"), (tmp_path / "empty", "no finished adapter")):
            arguments = [place if part is None else part for part in command]
            assert says in refused(*arguments)
            assert says in refused(*arguments, "--json")
    assert "other weights" in refused("predict", image_run, pictures, "--backbone", other_timm)
    assert "other weights" in refused("evaluate", image_run, pictures, "--backbone", other_timm)


def test_predict_on_what_is_not_there(refused: Refused, image_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.png").write_text("no picture")
    assert "no such image: nowhere.png" in refused("predict", image_run, "nowhere.png")
    assert "input 1 is empty" in refused("predict", image_run, "")
    assert "no such image" in refused("predict", image_run, str(tmp_path / "*.jpg"))
    assert "no images in" in refused("predict", image_run, tmp_path / "empty")
    assert "note.png" in refused("predict", image_run, tmp_path / "note.png", "--json")


def test_evaluate_on_what_is_not_there(refused: Refused, image_run: Path, pictures: Path, reviews: Path) -> None:
    assert "no domain 'dawn'" in refused("evaluate", image_run, pictures, "--on", "dawn")
    assert "texts" in refused("evaluate", image_run, reviews)


def test_info_on_what_is_not_there(refused: Refused) -> None:
    assert "unknown backbone" in refused("info", "no-such-thing")


def test_quiet_after_the_command_is_told_where_it_stands(refused: Refused, image_run: Path) -> None:
    assert "it stands before the command: injerto -q predict" in refused("predict", "-q", image_run, "x.png")
