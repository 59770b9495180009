"""No terminal's encoding, closed pipe or odd stream ends a command; data for programs are UTF-8 everywhere."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import injerto
from injerto.cli.main import run as command

LABELS = ("niño", "猫", "naïve “quoted”")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts in three scripts, with labels and names that no 8-bit encoding holds together."""
    path = tmp_path_factory.mktemp("streams") / "naïve 猫.jsonl"
    words = {"niño": "a fine day", "猫": "猫 ein schöner film", "naïve “quoted”": "— rien — \U0001f600"}
    rows = [{"text": f"{words[label]} {index}", "label": label} for label in LABELS for index in range(8)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(table: Path, tiny_bert: Path) -> Path:
    """A run that has learned them."""
    out = table.with_name("lauf 猫")
    injerto.fit(table, backbone=tiny_bert, head="probe", threads=1, precision="fp32", out=out)
    return out


def written(monkeypatch: pytest.MonkeyPatch, words: list[object], encoding: str, errors: str = "strict") -> bytes:
    """What a command writes to a standard output of that encoding; it must succeed."""
    raw, other = io.BytesIO(), io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="\n")
    err = io.TextIOWrapper(other, encoding=encoding, errors=errors)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = command([str(word) for word in words])
    out.flush()
    err.flush()
    assert code == 0, other.getvalue()
    return raw.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "latin-1"])
def test_every_command_writes_in_every_encoding(
    encoding: str, run: Path, table: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = ["predict", run, "猫 ein schöner film", "a fine day"]
    for words in ([*text, "--csv"], [*text, "--json"], ["evaluate", run, table, "--json"], ["info", run, "--json"]):
        data = written(monkeypatch, words, encoding)
        assert data == written(monkeypatch, words, "utf-8")  # for programs, whatever the terminal
        assert "猫" in data.decode("utf-8")
        if "--json" in words:
            json.loads(data)
    fit = ["fit", table, "--backbone", tiny_bert, "--head", "probe", "--threads", 1, "--out", tmp_path / "ñ猫"]
    for words in (text, ["evaluate", run, table], ["info", run], fit, ["report", run, "--out", tmp_path / "猫.html"]):
        shown = written(monkeypatch, words, encoding)
        shown.decode(encoding)
        assert shown.strip()


def test_refusals_are_written_in_every_encoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for encoding in ("ascii", "cp1252"):
        other = io.BytesIO()
        stream = io.TextIOWrapper(other, encoding=encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            assert command(["fit", str(tmp_path / "猫\udcff")]) == 2
        stream.flush()
        assert other.getvalue().decode(encoding).startswith("error: no file")


def test_a_text_buffer_in_place_of_standard_output(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    assert command(["predict", str(run), "猫 ein schöner film", "--json"]) == 0
    assert json.loads(out.getvalue())["predictions"][0]["class"] in LABELS
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert command(["info", str(run)]) == 0
    assert command(["predict", str(run), "x", "--csv"]) == 0
    assert command(["info", "nowhere/at/all"]) == 2


class Gone(io.RawIOBase):
    """A pipe whose reader went away."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("flags", [[], ["--json"], ["--csv"]])
def test_a_reader_that_goes_away(run: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    for buffering in (1, 1 << 16):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Gone(), buffering), encoding="utf-8"))
            assert command(["predict", str(run), *["a fine day"] * 3, *flags]) == 0
            sys.stdout = io.StringIO()


@pytest.mark.parametrize("closed", ["pipe", "descriptor"])
def test_nothing_is_said_of_a_closed_output(closed: str) -> None:
    words = [sys.executable, "-m", "injerto", "recipes", "--json"]
    if closed == "descriptor":
        done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *words], stderr=subprocess.PIPE, text=True)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# --- flags ------------------------------------------------------------------------------------------------------------

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["fit", "x", "--seed", 1, "--seed", 2], "--seed"),
        (["fit", "x", "--seed=1", "--seed=1"], "--seed"),
        (["fit", "x", "--resume", "--resume"], "--resume"),
        (["fit", "x", "--lr", 1, "--json", "--lr", 2], "--lr"),
        (["compare", "x", "--grid", "a=b", "--out", "y", "--report", "--no-report"], "--report (or --no-report)"),
        (["compare", "x", "--grid", "a=b", "--grid", "c=d", "--out", "y", "--out", "z"], "--out"),
        (["search", "x", "--out", "y", "--trials", 3, "--trials", 3], "--trials"),
        (["predict", "r", "t", "--csv", "--csv"], "--csv"),
        (["-q", "-q", "info"], "--quiet"),
        (["-q", "--quiet", "info"], "--quiet"),
        (["serve", "--port", 1, "--port", 2], "--port"),
    ],
)
def test_a_flag_given_twice(refused: Refused, words: list[object], flag: str) -> None:
    assert refused(*words) == f"error: {flag} is given 2 times; give it once"


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "x", "--out="],
        ["fit", "x", "--out", ""],
        ["fit", "x", "--source", "a", "--source", " "],
        ["gap", "x", "--label="],
        ["compare", "x", "--grid=", "--out", "y"],
        ["export", "r", "--format=", "--out", "y"],
    ],
)
def test_an_empty_flag(refused: Refused, words: list[object]) -> None:
    assert "is empty; give it a value, or leave it out" in refused(*words)


def test_flags_behind_two_dashes_are_no_flags(refused: Refused) -> None:
    assert "unexpected extra argument" in refused("fit", "x", "--", "--lr", 1)


def test_repeatable_flags_stay(refused: Refused, pictures: Path) -> None:
    assert "is named twice" in refused("fit", pictures, "--source", "day", "--source", "day")
    assert "no domain 'a'" in refused("fit", pictures, "--source", "a", "--source", "day")


@pytest.mark.parametrize(
    "text",
    ["seed: 1\nseed: 2\n", "batch-size: 2\nbatch_size: 3\n", "seed: 1\nlr: 1\nseed: 1\n", '"seed": 1\nseed: 2\n'],
)
def test_a_setting_twice_in_a_file(refused: Refused, pictures: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert "2 times; name each setting once" in refused("fit", pictures, "--config", tmp_path / "c.yaml")


def test_no_command_shows_the_help(cli: Any) -> None:
    result = cli()
    assert result.code == 2 and "error" not in result.err and "Commands:" in result.err and "\n" in result.err.strip()


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["fit", "x"], "the same command with --resume goes on where it stopped"),
        (["-q", "fit", "x", "--resume"], "the same command goes on where it stopped"),
        (
            ["fit", "x", "--overwrite"],
            "the same command with --resume in place of --overwrite goes on where it stopped",
        ),
        (["compare", "x", "--grid", "a=b", "--out", "y"], "the same command goes on where it stopped"),
        (["predict", "r", "x"], None),
        (["evaluate", "r", "x"], None),
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_is_said_at_the_end_is_true_of_the_command(
    cli: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], advice: str | None, error: type[BaseException]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise error

    for name in ("injerto.api.fit", "injerto.api.load", "injerto.api.evaluate", "injerto.studies.compare.compare"):
        monkeypatch.setattr(name, stop)
    said = cli(*words).err.strip()
    if error is KeyboardInterrupt:
        assert said == f"interrupted; {advice}" if advice else said == "interrupted"
    else:
        assert ("--batch-size" in said) == bool(advice) and "out of memory" in said
