"""The command compare: its flags, its table, its exit codes, and one line for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from injerto.cli.commands import app

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def arguments(pictures: Path, tiny_timm: Path, tmp_path: Path) -> list[object]:
    flags = ["--source", "day", "--backbone", tiny_timm, "--threads", 1, "--precision", "fp32", "--batch-size", 8]
    return ["compare", pictures, *flags, "--steps", 4, "--out", tmp_path / "out"]


def options(command: str) -> set[str]:
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts if name.startswith("--")}


def test_it_speaks_the_language_of_fit() -> None:
    left_out = {"--task", "--slider", "--track", "--seed", "--split-seed", "--resume", "--overwrite"}
    own = {"--grid", "--row", "--seeds", "--leave-one-out", "--budget", "--engine", "--report"}
    assert options("compare") == options("fit") - left_out | own


def test_every_flag_arrives(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fake(data: str, **settings: Any) -> Any:
        seen.update(settings, data=data)
        return {"rows": []}

    monkeypatch.setattr("injerto.studies.compare.compare", fake)
    flags = ["--source", "a", "--source", "b", "--lr", "0.5", "--skip-bad", "--warmup", 0, "--remember", "r", "--json"]
    more = [
        "--grid",
        "tuning=head,lora(r=8,alpha=4)",
        "--grid",
        "batch-size=4",
        "--seeds",
        "0,4",
        "--out",
        "o",
        "--row",
        "tuning=full batch-size=8",
    ]
    assert cli("compare", "DATA", *flags, *more).code == 0
    expected = {"data": "DATA", "source": ["a", "b"], "lr": 0.5, "skip_bad": True, "warmup": 0.0, "remember": "r"}
    expected |= {"grid": {"tuning": ["head", "lora(r=8,alpha=4)"], "batch_size": ["4"]}, "seeds": [0, 4]}
    expected |= {"rows": [{"tuning": "full", "batch_size": "8"}]}
    expected |= {"leave_one_out": False, "budget": None, "engine": "local"}
    assert {key: value for key, value in seen.items() if value != []} == expected | {"out": Path("o")}


def test_it_prints_a_table_then_the_same_again_as_json(cli: Cli, arguments: list[object], tmp_path: Path) -> None:
    grid = ["--grid", "tuning=head,last:1", "--seeds", 1]
    result = cli(*arguments, *grid)
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    heading = next(line for line in lines if line[:1] == ["tuning"])
    assert {"day", "dusk*", "night*", "seeds"} <= set(heading)
    head, last = (next(line for line in lines if line[:1] == [name]) for name in ("head", "last:1"))
    assert head.count("%") == last.count("%") == 3 and head.count("-") == 3
    assert "* oracle: needed labels of a domain that was not learned from" in result.out
    assert "run 2 of 2: tuning=last:1 seed 0" in result.err and "run 2" not in result.out
    again = cli(*arguments, *grid, "--json")
    assert again.code == 0 and again.out.count("\n") == 1
    assert json.loads(again.out) == json.loads((tmp_path / "out" / "results.json").read_text())
    assert "2 of 2 runs are finished already" in again.err
    for row in json.loads(again.out)["rows"]:
        shown = head if row["axes"]["tuning"] == "head" else last
        assert f"{100 * row['domains']['day']['splits']['test']['accuracy']:.1f}" in shown


def test_exit_codes_of_failed_rows(
    cli: Cli, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = cli(*arguments, "--grid", "norm=frozen,recalibrate:target", "--seeds", 1)
    assert result.code == 2 and "Traceback" not in result.err
    assert "failed: norm=recalibrate:target seed 0: --norm recalibrate:target needs a --target" in result.out

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("injerto.api.fit", broken)
    result = cli(*arguments, "--grid", "norm=train", "--seeds", 1, "--json")
    assert result.code == 1
    assert json.loads(result.out)["rows"][0]["reason"] == "ZeroDivisionError: oh"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Missing option '--grid'"),
        (["--grid", "tuning"], "write axis=a,b"),
        (["--grid", "tuning="], "a value is empty"),
        (["--grid", "tuning=head", "--grid", "tuning=lora"], "names tuning twice"),
        (["--grid", "tunning=head"], "did you mean 'tuning'"),
        (["--grid", "tuning=head", "--tuning", "lora"], "as a flag and as an axis"),
        (["--grid", "tuning=head,heads"], "unknown tuning 'heads'"),
        (["--grid", "alignment=none,mmd(stages=5/6"], "parenthesis is open"),
        (["--grid", "tuning=head", "--row", "lr=1"], "--row 'lr=1': lr is no axis of --grid; it has tuning"),
        (["--grid", "tuning=head", "--grid", "lr=1", "--row", "lr=2"], "leaves tuning open"),
        (["--grid", "tuning=head", "--row", "full"], "--row 'full' cannot be read"),
        (["--grid", "tuning=head", "--row", "tuning='full"], "cannot be read"),
        (["--grid", "tuning=head", "--row", "tuning=head"], "the row tuning=head twice"),
        (["--grid", "tuning=head", "--seeds", "many"], "--seeds 'many'"),
        (["--grid", "tuning=head", "--seeds", "0"], "--seeds must be 1 or more"),
        (["--grid", "tuning=head", "--lr", "fast"], "--lr 'fast' is no number"),
        (["--grid", "source=day,dawn"], "as a flag and as an axis"),
        (["--grid", "target=dusk,dawn"], "no domain 'dawn'"),
    ],
)
def test_one_line_before_anything_is_done(
    refused: Callable[..., str], arguments: list[object], tmp_path: Path, flags: list[str], message: str
) -> None:
    assert message in refused(*arguments, *flags)
    assert not (tmp_path / "out").exists()
