"""What the commands print, and that flags, keywords and recipe are one language."""

import csv
import inspect
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import injerto
from injerto.recipe.defaults import TABLE
from injerto.recipe.recipe import Recipe

Cli = Callable[..., SimpleNamespace]


def only_json(result: SimpleNamespace) -> dict[str, Any]:
    assert result.code == 0, result.err
    assert result.out.endswith("\n") and result.out.count("\n") == 1
    content = json.loads(result.out)
    assert isinstance(content, dict)
    return content


# --- fit --------------------------------------------------------------------------------------------------------------


def fit_command() -> Any:
    from typer.main import get_command

    from injerto.cli.commands import app

    return get_command(app).commands["fit"]  # type: ignore[attr-defined]


def test_flags_of_fit_are_the_recipes_fields() -> None:
    options = {name for parameter in fit_command().params for name in parameter.opts if name.startswith("--")}
    fields = {"--" + name.replace("_", "-") for name in Recipe.model_fields} - {"--data", "--defaults-version"}
    assert options - {"--help"} == fields | {"--out", "--resume", "--overwrite", "--config", "--json"}
    keywords = set(inspect.signature(injerto.fit).parameters)
    assert {"out", "resume", "overwrite", "config", "backbone"} <= keywords


def test_every_flag_reaches_the_recipe_zeros_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "source": ["a", "b"], "target": ["t"], "input": "i", "label": "l", "domain": "d", "group": "g", "split_column": "s",
        "split_file": "f", "backbone": "x", "tuning": "last:2", "alignment": "none", "head": "mlp", "neck": "8",
        "norm": "train", "epochs": 2.5, "batch_size": 3, "lr": 0.5, "head_lr": 0.25, "weight_decay": 0.0, "optimizer": "sgd",
        "warmup": 0.0, "clip": 0.0, "accumulate": 2, "class_weights": "balanced", "label_smoothing": 0.0, "image_size": 64,
        "augment": "none", "views": 0, "select": "last", "patience": 3, "precision": "fp32", "threads": 1, "seed": 0,
        "split_seed": 0, "skip_bad": True, "layer_decay": 0.5, "l2_sp": 0.0, "average": "ema", "slider": True,
        "remember": "r", "track": ["wandb", "mlflow"], "shots": 5, "task": "classification", "max_length": 32,
        "objective": "erm", "target_labels": "3", "allow_outside": True,
    }  # fmt: skip
    assert set(given) == set(Recipe.model_fields) - {"data", "steps", "defaults_version"}
    seen: dict[str, Any] = {}

    def fake(data: str, **settings: Any) -> Any:
        seen.update(settings, data=data)
        raise injerto.InjertoError("enough")

    monkeypatch.setattr("injerto.api.fit", fake)
    arguments: list[object] = ["fit", "DATA"]
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        for item in value if isinstance(value, list) else [value]:
            arguments += [flag] if item is True else [flag, item]
    assert cli(*arguments).code == 2
    assert seen == given | {"data": "DATA"}
    seen.clear()
    cli("fit", "DATA", "--steps", 7, "--out", "o", "--resume", "--overwrite", "--config", "c", "--lr", 2)
    assert seen == {
        "data": "DATA",
        "steps": 7,
        "out": Path("o"),
        "resume": True,
        "overwrite": True,
        "config": Path("c"),
        "lr": 2,
    }
    seen.clear()
    cli("fit", "DATA")
    assert seen == {"data": "DATA"}


@pytest.fixture
def arguments(pictures: Path, tiny_timm: Path, tmp_path: Path) -> list[object]:
    flags = ["--source", "day", "--backbone", tiny_timm, "--threads", 1, "--precision", "fp32", "--batch-size", 8]
    return ["fit", pictures, *flags, "--steps", 4, "--out", tmp_path / "run"]


def test_fit_prints_its_metrics(cli: Cli, arguments: list[object], tmp_path: Path) -> None:
    content = only_json(cli(*arguments, "--json"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    del metrics["checksum"]  # of the file
    assert content == {"run": str(tmp_path / "run"), **metrics}
    again = only_json(cli(*arguments, "--resume", "--json"))  # a finished run: the same again
    assert again == content


def test_fit_prints_a_table(cli: Cli, arguments: list[object]) -> None:
    result = cli(*arguments)
    assert result.code == 0
    rows = [line for line in result.out.splitlines() if re.search(r"\b(source|unseen) .*%", line)]
    assert len(rows) == 4  # day val and test, dusk test, night test
    assert re.search(r"day .*source.* test .* \d+\.\d %", result.out)
    assert "plan: " in result.err and "done: " in result.err and "plan: " not in result.out


def test_quiet_is_quiet(cli: Cli, arguments: list[object]) -> None:
    result = cli("--quiet", *arguments, "--json")
    assert result.err == ""
    only_json(result)


def test_fit_is_injerto_fit(
    cli: Cli, arguments: list[object], pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    assert cli(*arguments).code == 0
    injerto.fit(pictures, source="day", backbone=tiny_timm, steps=4, out=tmp_path / "api", **quick)
    for file in ("recipe.yaml", "splits.csv", "adapter/head.safetensors", "adapter/adapter_card.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "api" / file).read_bytes()


def test_flags_win_over_the_config(cli: Cli, arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("seed: 3\nsource: night\nepochs: 9\nclip: 5\n")
    assert cli(*arguments, "--config", tmp_path / "c.yaml", "--clip", 0).code == 0
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (recipe["seed"], recipe["source"], recipe["steps"], recipe["epochs"], recipe["clip"]) == (
        3,
        ["day"],
        4,
        None,
        0,
    )


def test_help_and_version(cli: Cli) -> None:
    from importlib.metadata import version

    assert cli("--version").out.strip() == version("injerto")
    for arguments in (["--help"], ["-h"], ["fit", "--help"], ["predict", "-h"]):
        result = cli(*arguments)
        assert result.code == 0 and "Usage" in result.out and result.err == ""


def test_the_help_of_fit_says_the_defaults_that_hold(cli: Cli) -> None:
    lines = re.findall(r"^  (--[a-z0-9-]+) <.*>((?:.|\n {15,})+)", cli("fit", "--help").out, re.M)
    said = {flag[2:].replace("-", "_"): " ".join(text.split()) for flag, text in lines}
    fixed = {
        name: field.default for name, field in Recipe.model_fields.items() if name not in ("defaults_version", "tuning")
    }
    for name, default in fixed.items():
        if isinstance(default, str | float | int) and not isinstance(default, bool):
            number = f"{default:g}" if isinstance(default, float | int) else default
            assert f"default {number}" in said[name], (name, said[name])
    assert "default head (causal-lm: lora)" in said["tuning"]
    for name, value, of_language in (("batch_size", 32, 8), ("weight_decay", 0.01, 0.01)):
        held = {(kind == "language", getattr(row, name)) for (kind, _), row in TABLE.items()}
        assert held == {(False, value), (True, of_language)} and f"default {value}" in said[name]
    assert {row.norm for row in TABLE.values()} == {"frozen"} and "default frozen" in said["norm"]


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(image_run: Path, pictures: Path) -> dict[str, np.ndarray]:
    """Probabilities of every picture of day, from the library."""
    files = sorted(str(path) for path in (pictures / "day").rglob("*.png"))
    return dict(zip(files, injerto.load(image_run, threads=1).predict_proba(files), strict=True))


def piped(given: str | bytes) -> io.TextIOWrapper:
    """A standard input that holds this."""
    return io.TextIOWrapper(io.BytesIO(given.encode() if isinstance(given, str) else given), encoding="utf-8")


def parse(out: str, kind: str) -> dict[str, tuple[str, list[float]]]:
    if kind == "json":
        entries = json.loads(out)["predictions"]
        return {entry["input"]: (entry["class"], list(entry["probabilities"].values())) for entry in entries}
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == ["input", "class", "blue", "green", "red"]
    return {row[0]: (row[1], [float(value) for value in row[2:]]) for row in rows[1:]}


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("how", ["folder", "glob", "files", "stdin", "recursive glob"])
def test_predict(
    cli: Cli, image_run: Path, pictures: Path, expected: dict[str, np.ndarray], how: str, kind: str, monkeypatch: Any
) -> None:
    day = pictures / "day"
    inputs: list[object] = {
        "folder": [day], "glob": [day / "*" / "*.png"], "files": list(expected), "stdin": ["-"],
        "recursive glob": [day / "**" / "*.png"],
    }[how]  # fmt: skip
    monkeypatch.setattr("sys.stdin", piped("\n".join(expected) + "\n\n"))
    result = cli("predict", image_run, *inputs, f"--{kind}", "--threads", 1)
    assert result.code == 0, result.err
    found = parse(result.out, kind)
    assert sorted(found) == sorted(expected)
    for name, (label, chances) in found.items():
        np.testing.assert_allclose(chances, expected[name], atol=1e-6)
        assert label == ("blue", "green", "red")[int(np.argmax(expected[name]))]
    if kind == "json":
        only_json(result)


def test_predict_for_people(cli: Cli, image_run: Path, expected: dict[str, np.ndarray]) -> None:
    name = next(iter(expected))
    result = cli("predict", image_run, name, "--threads", 1)
    shown, label, chances = result.out.strip().split("\t")
    assert (shown, label) == (name, ("blue", "green", "red")[int(expected[name].argmax())])
    assert chances.startswith(f"{label} {expected[name].max():.3f}")


def test_names_with_magic_spaces_and_commas(cli: Cli, image_run: Path, tmp_path: Path, pictures: Path) -> None:
    names = ["a[1].png", "with space, and comma.png", 'quo"te.png', "\u00fcml\u00e4ut.png"]
    for name in names:
        shutil.copy(pictures / "day" / "red" / "1.png", tmp_path / name)
    result = cli("predict", image_run, *(tmp_path / name for name in names), "--csv", "--threads", 1)
    assert [Path(row[0]).name for row in csv.reader(io.StringIO(result.out))][1:] == names


def test_predict_on_texts(cli: Cli, text_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["great fine good great", "dull, poor plot", "*", "a\tb"]
    chances = injerto.load(text_run, threads=1).predict_proba(texts)
    monkeypatch.setattr("sys.stdin", piped("\r\n".join(texts[1:]) + "\n"))
    content = only_json(cli("predict", text_run, texts[0], "-", "--json", "--threads", 1))
    assert [entry["input"] for entry in content["predictions"]] == texts
    for entry, row in zip(content["predictions"], chances, strict=True):
        np.testing.assert_allclose(list(entry["probabilities"].values()), row, atol=1e-6)
        assert list(entry["probabilities"]) == ["bad", "good"]


def test_nothing_on_stdin(refused: Callable[..., str], text_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", piped("\n \n"))
    assert "nothing to predict on" in refused("predict", text_run, "-")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"fine\n\ngood\n", "1 of 3 texts cannot be read (standard input:2: the text is empty)"),
        (b"fine\ncaf\xe9\n", "line 2 of standard input is not UTF-8 (byte 0xe9)"),
        (b"id,text,date\n1,fine,2024\n", "standard input begins with a table's heading (id,text,date)"),
        (b'{"id": 1, "text": "fine"}\n{"id": 2, "text": "good"}\n', "standard input begins with a table's heading"),
    ],
)
def test_every_line_of_stdin_gets_an_answer_or_none_does(
    refused: Callable[..., str], text_run: Path, monkeypatch: pytest.MonkeyPatch, given: bytes, said: str
) -> None:
    monkeypatch.setattr("sys.stdin", piped(given))
    assert said in refused("predict", text_run, "-")


def test_empty_lines_can_be_left_out(cli: Cli, text_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", piped("fine\n\ngood\n"))
    found = cli("predict", text_run, "-", "--skip-bad", "--json", "--threads", 1)
    assert [one["input"] for one in only_json(found)["predictions"]] == ["fine", "good"]
    assert "1 of 3 texts cannot be read and are left out (--skip-bad): standard input:2" in found.err


@pytest.mark.parametrize("flags", [[], *(pytest.param([flag], marks=pytest.mark.slow) for flag in ("--csv", "--json"))])
def test_a_reader_that_goes_away(image_run: Path, pictures: Path, flags: list[str]) -> None:
    """As in ``injerto predict ... | head -0``: no error, no traceback."""
    import subprocess
    import sys

    if flags:  # one real pipe is enough; the others in this process

        class Gone(io.StringIO):
            def write(self, _: str) -> int:
                raise BrokenPipeError(32, "Broken pipe")

        from injerto.cli.main import run

        kept, sys.stdout = sys.stdout, Gone()
        try:
            assert run(["predict", str(image_run), str(pictures / "day"), "--threads", "1", *flags]) == 0
        finally:
            sys.stdout = kept
        return
    code = "import sys; from injerto.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "predict", str(image_run), str(pictures / "day"), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0 and errors == ""


# --- evaluate and info ------------------------------------------------------------------------------------------------


def test_evaluate(cli: Cli, image_run: Path, pictures: Path) -> None:
    content = only_json(cli("evaluate", image_run, pictures, "--json", "--threads", 1))
    metrics = json.loads((image_run / "metrics.json").read_text())
    assert set(content["domains"]) == {"day", "dusk", "night"}
    for name, entry in metrics["domains"].items():
        assert content["domains"][name]["accuracy"] == entry["splits"]["test"]["accuracy"]
        assert content["domains"][name]["n"] == entry["splits"]["test"]["n"]
    one = only_json(cli("evaluate", image_run, pictures, "--on", "night", "--on", "day", "--json", "--threads", 1))
    assert one["domains"] == {name: content["domains"][name] for name in ("night", "day")}
    shown = cli("evaluate", image_run, pictures, "--on", "day", "--threads", 1).out
    assert "day" in shown and "classes of day" in shown and "blue" in shown and "%" in shown


def test_evaluate_on_a_table_with_columns_of_other_names(cli: Cli, text_run: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("words,stars\ngreat fine good,good\npoor dull bad,bad\nwas the plot,\n")
    flags = ["--input", "words", "--label", "stars", "--json", "--threads", 1]
    content = only_json(cli("evaluate", text_run, tmp_path / "t.csv", *flags))
    assert content["domains"]["t"]["n"] == 2 and content["domains"]["t"]["accuracy"] == 1.0


def test_info(cli: Cli, image_run: Path, tiny_timm: Path) -> None:
    assert "machine" in only_json(cli("info", "--json"))
    facts = only_json(cli("info", tiny_timm, "--json"))
    assert [stage["name"] for stage in facts["stages"]] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    shown = cli("info", tiny_timm).out
    assert "layer4" in shown and "stages" in shown and "plan: " in shown
    card = only_json(cli("info", image_run, "--json"))
    assert card["labels"] == ["blue", "green", "red"]
    assert "last:1" in cli("info", image_run).out
    for arguments in ([], [tiny_timm], [image_run]):
        assert cli("info", *arguments).code == 0


def test_labels_beyond_ascii(cli: Cli, pictures: Path, tiny_timm: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    data = tmp_path / "bilder"
    for label, name in (("red", "r\u00f6t"), ("blue", "bl\u00e5 \u2713")):
        shutil.copytree(pictures / "day" / label, data / name)
    out = tmp_path / "run"
    result = cli("fit", data, "--backbone", tiny_timm, "--steps", 2, "--out", out, "--threads", 1, "--json")
    only_json(result)
    Image.open(next((data / "r\u00f6t").iterdir())).save(tmp_path / "x.png")
    content = only_json(cli("predict", out, tmp_path / "x.png", "--json", "--threads", 1))
    assert sorted(content["predictions"][0]["probabilities"]) == sorted(["r\u00f6t", "bl\u00e5 \u2713"])


def test_info_on_a_run_that_is_not_finished(cli: Cli, image_run: Path, tmp_path: Path) -> None:
    shutil.copytree(image_run, tmp_path / "run", ignore=shutil.ignore_patterns("adapter", "metrics.json"))
    found = only_json(cli("info", tmp_path / "run", "--json"))
    assert "--resume" in found["state"] and found["tuning"] == "last:1" and found["source"] == ["day"]
    assert "tuning: last:1" in cli("info", tmp_path / "run").out
    shutil.copytree(image_run, tmp_path / "half", ignore=shutil.ignore_patterns("metrics.json"))
    assert "--resume" in only_json(cli("info", tmp_path / "half", "--json"))["state"]
    (tmp_path / "half" / "metrics.json").write_text("{")
    assert "is damaged" in cli("info", tmp_path / "half").err
    assert only_json(cli("info", image_run, "--json"))["state"] == "finished"


def test_info_names_what_there_is(cli: Cli) -> None:
    facts = only_json(cli("info", "--json"))
    assert "packaged:minilm-l6" in facts["packaged_backbones"] and "lora" in facts["tunings"]
    assert {"mmd", "dann", "coral"} <= set(facts["alignments"]) and "hf:NAME" in facts["other_backbones"]


def test_predict_goes_on_without_what_cannot_be_read(
    cli: Cli, refused: Callable[..., str], image_run: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copy(next((pictures / "day" / "red").iterdir()), tmp_path / "good.png")
    for name in ("bad.png", "worse.png"):
        (tmp_path / name).write_bytes(b"no picture")
    assert "not a picture" in refused("predict", image_run, tmp_path)
    found = cli("predict", image_run, tmp_path, "--skip-bad", "--json", "--threads", 1)
    assert [Path(one["input"]).name for one in only_json(found)["predictions"]] == ["good.png"]
    assert found.err.count("not a picture") == 2 and "2 of 3 images" in found.err
    (tmp_path / "good.png").unlink()
    assert "none of 2 images" in refused("predict", image_run, tmp_path, "--skip-bad")


def test_a_table_is_read_and_not_taken_for_a_text(
    cli: Cli, refused: Callable[..., str], text_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "new.csv").write_text('id,text,date\n1,"dull, poor",may\n2,"a great\nfilm",june\n', "utf-8")
    found = cli("predict", text_run, "a great film", tmp_path / "new.csv", "--csv", "--threads", 1)
    assert found.code == 0, found.err
    rows = list(csv.DictReader(io.StringIO(found.out)))
    assert [row["input"] for row in rows] == ["a great film", "dull, poor", "a great\nfilm"]
    assert [row["source"] for row in rows] == ["", "new.csv:2", "new.csv:3"]
    (tmp_path / "new.pdf").write_text("?")
    assert "predict RUN -" not in (message := refused("predict", text_run, tmp_path / "new.pdf")) and ".csv" in message
    assert "no such file of texts: reveiws.csv" in refused("predict", text_run, "reveiws.csv")


def test_a_choice_that_its_guard_refused_is_not_called_its_choice(
    capsys: pytest.CaptureFixture[str], image_run: Path
) -> None:
    from injerto.cli import show

    metrics = dict(injerto.load(image_run).metrics)
    for score, said in (
        (0.5, "selected: infomax, step 2 of 4"),
        (None, "selected: best on source val (infomax turned"),
    ):
        metrics["selection"] = {"rule": "infomax", "step": 2, "steps": 4, "score": score}
        show.print_metrics(metrics)
        assert said in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_narrow_terminal_loses_columns_not_numbers(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image_run: Path
) -> None:
    from injerto.cli import show

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    show.print_metrics(injerto.load(image_run).metrics)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = printed.split("trained ")[0].splitlines()
    assert all(len(line) <= width for line in lines) and "\u2026" not in "".join(lines)
    heading = next(line for line in lines if "domain" in line and "split" in line)
    assert "accuracy" in heading and ("calibration error" in heading) == (width == 160)
