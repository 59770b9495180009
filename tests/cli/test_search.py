"""The command search: its flags, its table, the recipe it leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from injerto.cli.commands import app

Cli = Callable[..., SimpleNamespace]
OWN = {"--space", "--trials", "--minutes", "--seeds", "--storage", "--sampler", "--pruner", "--select-by"}


def options(command: str) -> set[str]:
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts if name.startswith("--")}


def test_it_speaks_the_language_of_fit() -> None:
    left_out = {"--task", "--slider", "--track", "--resume", "--overwrite"}
    assert options("search") == options("fit") - left_out | OWN


def test_every_flag_arrives(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fake(data: str, **settings: Any) -> Any:
        seen.update(settings, data=data)
        return {"best": None, "trials": []}

    monkeypatch.setattr("injerto.studies.search.search", fake)
    flags = ["--source", "a", "--lr", "0.5", "--skip-bad", "--split-seed", 3, "--seed", 7, "--json", "--minutes", 2]
    more = ["--space", "head-lr=1e-5..1e-2", "--space", "augment=none,light", "--sampler", "random", "--out", "o"]
    assert cli("search", "DATA", *flags, *more).code == 0
    expected = {
        "data": "DATA",
        "source": ["a"],
        "lr": 0.5,
        "skip_bad": True,
        "split_seed": 3,
        "seed": 7,
        "minutes": 2.0,
    }
    expected |= {"space": {"head-lr": "1e-5..1e-2", "augment": "none,light"}, "sampler": "random", "out": Path("o")}
    expected |= {"seeds": 1, "pruner": "median"}
    assert {key: value for key, value in seen.items() if value not in (None, [])} == expected


def test_a_search_then_its_winner_once_more(
    cli: Cli, pictures: Path, tiny_timm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--source", "day", "--target", "dusk", "--backbone", tiny_timm, "--threads", 1, "--precision", "fp32"]
    more = ["--batch-size", 8, "--steps", 6, "--alignment", "mmd", "--trials", 2, "--out", "found"]
    result = cli("search", pictures, *flags, *more)
    assert result.code == 0, result.err
    assert "searching head-lr=0.0001..0.01, mmd=0.1..10, weight-decay=0.0001..0.1" in result.err.splitlines()[0]
    assert "trial 1 (2 of 2): head_lr=" in result.err and " left" in result.err
    assert "* oracle: needed labels" in result.out and "dusk/test*" in result.out
    again = cli("search", pictures, *flags, *more, "--json")
    content = json.loads(again.out)
    assert again.out.count("\n") == 1 and content == json.loads(Path("found/search.json").read_text())
    assert content["best"]["command"] in result.out and "2 of 2 trials are finished already" in again.err
    fitted = cli(*content["best"]["command"].split()[1:])
    assert fitted.code == 0, fitted.err
    val = json.loads(Path("runs/best/metrics.json").read_text())["domains"]["day"]["splits"]["val"]["accuracy"]
    assert val == content["best"]["source_val"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--space", "lr"], "write name=low..high"),
        (["--space", "lr=1..2", "--space", "lr=1..3"], "names lr twice"),
        (["--lr", "fast"], "--lr 'fast' is no number"),
        (["--config", "nothing.yaml"], "cannot read nothing.yaml"),
    ],
)
def test_one_line_before_anything_is_done(
    refused: Callable[..., str], pictures: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    assert message in refused("search", pictures, "--source", "day", "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
