"""Every kind of bad input ends in one line that names the thing and the cure, with the right exit code and nothing left."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from injerto.cli.main import run

ENTRY = sys.modules["injerto.cli.main"]  # the package's `main` is the function


@pytest.fixture
def data(tmp_path: Path, pictures: Path) -> Path:
    shutil.copytree(pictures, tmp_path / "own")
    return tmp_path / "own"


def fails(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object, code: int = 2) -> str:
    """Run the command; it must fail with one `error:` line. Returns that line."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == code
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in shown.err and not shown.out
    assert not (out / "metrics.json").exists() and not (out / "adapter").exists()
    return lines[0]


def bad_data(data: Path, what: str) -> None:
    victim = data / "day" / "red" / "0.png"
    if what == "truncated":
        victim.write_bytes(victim.read_bytes()[:200])
    elif what == "text":
        (data / "day" / "red" / "note.jpg").write_text("this is no picture")
    elif what == "empty file":
        victim.write_bytes(b"")


@pytest.mark.parametrize("what", ["truncated", "text", "empty file"])
def test_unreadable_pictures(data: Path, tiny_timm: Path, tmp_path: Path, capsys, own_cache, what: str) -> None:
    bad_data(data, what)
    out = tmp_path / "run"
    command = ["fit", data, "--source", "day", "--backbone", f"timm:{tiny_timm}", "--out", out, "--epochs", 1]
    line = fails(capsys, out, *command)
    assert "1 of" in line and "day/red/" in line and "--skip-bad" in line
    assert run([str(argument) for argument in [*command, "--skip-bad", "--threads", 1]]) == 0
    assert len(json.loads((out / "metrics.json").read_text())["skipped"]) == 1


SETTINGS = {
    "missing domain": (["--source", "dawn"], "no domain 'dawn'"),
    "no source": (["--tuning", "head"], "--source"),
    "unknown backbone": (["--backbone", "packaged:nothing"], "packaged"),
    "no prefix": (["--backbone", "resnet999"], "resnet999"),
    "too many stages": (["--tuning", "last:99"], "choose last:1 to last:5"),
    "no stages": (["--tuning", "last:0"], "last:2"),
    "unknown tuning": (["--tuning", "wide"], "known: head"),
    "unknown alignment": (["--alignment", "magnet"], "magnet"),
    "zero epochs": (["--epochs", "0"], "--epochs"),
    "zero steps": (["--steps", "0"], "--steps"),
    "zero batch": (["--batch-size", "0"], "--batch-size"),
    "negative rate": (["--lr", "-1"], "--lr"),
    "word for a number": (["--lr", "fast"], "--lr"),
    "tiny pictures": (["--image-size", "4"], "--image-size"),
    "steps and epochs": (["--steps", "3", "--epochs", "2"], "exclude each other"),
    "unknown head": (["--head", "big"], "--head"),
    "unknown flag": (["--speed", "9"], "--speed"),
    "unknown norm": (["--norm", "melt"], "--norm"),
    "target nowhere": (["--target", "x=nowhere"], "nowhere"),
    "source and target": (["--target", "day"], "day"),
    "split file missing": (["--split-file", "nowhere.csv"], "nowhere.csv"),
    "config missing": (["--config", "nowhere.yaml"], "nowhere.yaml"),
    "resume and overwrite": (["--resume", "--overwrite"], "exclude each other"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_settings(pictures: Path, tiny_timm: Path, tmp_path: Path, capsys, name: str) -> None:
    flags, expected = SETTINGS[name]
    base = ["fit", pictures, "--out", tmp_path / "run"]
    base += [] if "--source" in flags or name == "no source" else ["--source", "day"]
    base += [] if "--backbone" in flags else ["--backbone", f"timm:{tiny_timm}"]
    assert expected in fails(capsys, tmp_path / "run", *base, *flags)


def test_bad_tables(tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\nfine,good\nfiner,good\n")
    assert "stars" in fails(capsys, out, "fit", table, "--label", "stars", "--out", out)
    assert "one class only ('good')" in fails(capsys, out, "fit", table, "--out", out)
    table.write_bytes("text,label\ncaf\xe9,good\nbar,bad\n".encode("latin-1"))
    assert "UTF-8" in fails(capsys, out, "fit", table, "--out", out)
    assert "nowhere" in fails(capsys, out, "fit", tmp_path / "nowhere", "--out", out)


def test_an_empty_class_folder_is_named(data: Path, tiny_timm: Path, tmp_path: Path, capsys) -> None:
    (data / "day" / "violet").mkdir()
    command = ["fit", data, "--source", "day", "--backbone", f"timm:{tiny_timm}", "--out", tmp_path / "run"]
    assert run([str(argument) for argument in [*command, "--epochs", 1, "--threads", 1]]) == 0
    assert "day/violet" in capsys.readouterr().err


def test_nan_loss(pictures: Path, tiny_timm: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    command = ["fit", pictures, "--source", "day", "--backbone", f"timm:{tiny_timm}", "--out", out, "--threads", 1]
    line = fails(capsys, out, *command, "--tuning", "full", "--lr", "1e30", "--steps", 5, "--head-lr", "1e30")
    assert "lower --lr" in line


def test_existing_folders(image_run: Path, pictures: Path, tiny_timm: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "run"
    shutil.copytree(image_run, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    base = ["fit", pictures, "--source", "day", "--backbone", f"timm:{tiny_timm}", "--threads", 1, "--out"]
    for flags, expected in (([], "--resume"), (["--resume", "--seed", 5], "another recipe")):
        assert run([str(argument) for argument in [*base, copy, *flags]]) == 2
        assert expected in capsys.readouterr().err
    other = tmp_path / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    for flag in ("--resume", "--overwrite"):
        assert "no recipe.yaml" in fails(capsys, other, *base, other, flag)
    assert "is a file" in fails(capsys, other, *base, other / "letter.txt")
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert (other / "letter.txt").read_text() == "dear"


def test_ctrl_c(monkeypatch, capsys) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ENTRY, "app", interrupted)
    assert run(["fit", "x"]) == 130
    assert "--resume" in capsys.readouterr().err


def test_our_own_fault(monkeypatch, capsys) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.delenv("INJERTO_DEBUG", raising=False)
    monkeypatch.setattr(ENTRY, "app", broken)
    assert run(["fit", "x"]) == 1
    shown = capsys.readouterr().err
    assert "our fault" in shown and shown.count("\n") == 1


def test_predict_forms(image_run: Path, pictures: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    import csv
    import io

    odd = tmp_path / 'a, "b" ñ.png'
    Image.open(pictures / "day" / "red" / "1.png").save(odd)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run(["predict", str(image_run), str(odd), str(pictures / "day" / "red"), "--threads", "1", "--json"]) == 0
    shown = capsys.readouterr()
    entries = json.loads(shown.out)["predictions"]
    assert len(entries) == 11 and entries[0]["input"] == str(odd)
    assert all(abs(sum(entry["probabilities"].values()) - 1) < 1e-9 for entry in entries)
    assert run(["predict", str(image_run), "*.png", "--threads", "1", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 1 and rows[0]["input"] == odd.name and rows[0]["class"] == entries[0]["class"]
    assert "nothing.png" in fails(capsys, tmp_path, "predict", image_run, "nothing.png")
    assert "no run at" in fails(capsys, tmp_path, "predict", tmp_path / "nowhere", odd)


def test_evaluate_and_fit_print_one_json_object(
    image_run: Path, pictures: Path, tiny_timm: Path, tmp_path: Path, capsys
) -> None:
    capsys.readouterr()
    assert run(["evaluate", str(image_run), str(pictures), "--on", "night", "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)["domains"]
    recorded = json.loads((image_run / "metrics.json").read_text())["domains"]["night"]["splits"]["test"]
    assert found["night"]["accuracy"] == recorded["accuracy"] and found["night"]["n"] == recorded["n"]
    flags = ["--source", "day", "--backbone", f"timm:{tiny_timm}", "--epochs", "1", "--threads", "1", "--json"]
    assert run(["fit", str(pictures), *flags, "--out", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["trainable"] > 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk(pictures: Path, tiny_timm: Path, tmp_path: Path, capsys) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        command = ["fit", pictures, "--source", "day", "--backbone", f"timm:{tiny_timm}", "--threads", 1]
        line = fails(capsys, small / "run", *command, "--tuning", "full", "--epochs", 1, "--out", small / "run")
        assert "cannot write" in line and "free space" in line
    finally:
        subprocess.run(["umount", str(small)], check=True)
