"""A comparison within a budget: planned before it begins, halved without target labels, the same when taken up again."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import injerto
from injerto import api
from injerto.basics.errors import InjertoError
from injerto.basics.files import check_own
from injerto.studies import budget as module
from injerto.studies.budget import Halving, read_budget, rungs_of
from injerto.studies.choice import choose
from injerto.studies.records import OWN

GRID = {"tuning": ["head"], "lr": [1e-2, 3e-3, 1e-3, 1e-4]}
LABELS = [f"tuning=head lr={lr}" for lr in GRID["lr"]]


@pytest.fixture(scope="module")
def settings(tiny_timm: Path, quick: dict[str, Any]) -> dict[str, Any]:
    given = {"source": "day", "target": "dusk", "backbone": tiny_timm, "steps": 3, "augment": "none"}
    return given | {"grid": GRID, "seeds": 2, "budget": "7.5s"} | quick


@pytest.fixture(scope="module")
def planned(pictures: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan where every run takes a second: not all of four rows and two seeds fit; no run is done."""
    out = tmp_path_factory.mktemp("budget") / "planned"

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "estimate", lambda rows: {one.label: 1.0 for one in rows})
        patch.setattr(api, "fit", stop)
        injerto.compare(pictures, out=out, **settings)
    return out / "plan.json"


@pytest.fixture(scope="module")
def done(pictures: Path, settings: dict[str, Any], planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That comparison, finished."""
    out = tmp_path_factory.mktemp("budget") / "done"
    injerto.compare(pictures, out=with_plan(out, planned), **settings)
    return out


def with_plan(out: Path, planned: Path) -> Path:
    out.mkdir()
    shutil.copy(planned, out)
    return out


def content_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    return content


def timeless(value: Any) -> Any:
    """Without durations, and without the command, which names the folder."""
    if isinstance(value, dict):
        return {
            key: timeless(one) for key, one in value.items() if "seconds" not in key and key not in ("command", "spent")
        }
    return [timeless(one) for one in value] if isinstance(value, list) else value


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_budget_is_a_time() -> None:
    assert [read_budget(one) for one in ("90s", "20m", "1h", "1.5h", 12)] == [90, 1200, 3600, 5400, 12]
    for wrong in ("20", "soon", "0s", 0, -1, "1d", float("nan")):
        with pytest.raises(InjertoError, match="is no time; write for example"):
            read_budget(wrong)


def test_rungs_halve_the_rows_and_double_the_seeds() -> None:
    seconds = {name: 1.0 for name in "abcdefgh"}
    bases = {name: None if name == "a" else "a" for name in seconds}
    rungs = rungs_of(seconds, bases, 6, 1)
    assert [(rung["seeds"], rung["rows"]) for rung in rungs] == [(1, 8), (2, 4), (6, 2)]
    assert [rung["seconds"] for rung in rungs] == [8, 5, 12]  # four rows and the baseline; two and the baseline
    assert [(rung["seeds"], rung["rows"]) for rung in rungs_of(seconds, bases, 6, 4)] == [(4, 8), (6, 4)]
    assert rungs_of(seconds, bases, 6, 6) == [{"seeds": 6, "rows": 8, "seconds": 48}]
    assert rungs_of({"a": 1.0, "b": 2.0}, {"a": None, "b": "a"}, 3, 1) == [{"seeds": 3, "rows": 2, "seconds": 9}]
    dear = rungs_of({"a": 1.0, "b": 5.0, "c": 2.0, "d": 3.0}, dict.fromkeys("abcd"), 2, 1)
    assert [rung["seconds"] for rung in dear] == [11, 8]  # the dearest two, whoever goes on


def test_the_plan_is_the_largest_first_rung_that_fits_and_is_there_before_any_run(planned: Path) -> None:
    plan = json.loads(planned.read_text())
    assert plan["budget"] == 7.5 and plan["rows"] == LABELS and plan["seeds"] == [0, 1]
    assert [(rung["seeds"], rung["rows"]) for rung in plan["rungs"]] == [(1, 4), (2, 2)]  # all would take 8 s
    assert plan["seconds"] == dict.fromkeys(LABELS, 1.0) and plan["decisions"] == []
    check_own(planned.parent, OWN, ("results.json",), "comparison")


def test_where_everything_fits_it_says_so(
    pictures: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(api, "fit", lambda *_, **__: 1 / 0)
    content = injerto.compare(pictures, out=tmp_path / "out", **(settings | {"budget": 3600}))
    assert "budget 1 h 0 min: all 4 rows have all their seeds (2), about" in capsys.readouterr().err
    assert content["dropped"] == [] and content["planned"] == 8 and "--budget 3600.0s" in content["command"]
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert len(plan["rungs"]) == 1 and all(value > 0 for value in plan["seconds"].values())


# --- decisions --------------------------------------------------------------------------------------------------------


def run(label: str, score: float, source: float = 0.9, oracle: float = 0.5, status: str = "ok") -> dict[str, Any]:
    return {
        "row": label, "seed": 0, "status": status, "validators": {"rejected": None, "scores/infomax": score},
        "domains": {"day": {"role": "source", "splits": {"val": {"accuracy": source}}},
                    "dusk": {"role": "target", "splits": {"test": {"accuracy": oracle}}}},
    }  # fmt: skip


def halving(tmp_path: Path, rows: str, bases: dict[str, str | None]) -> Halving:
    rungs = [{"seeds": 1, "rows": len(rows), "seconds": 1}, {"seeds": 2, "rows": len(rows) // 2, "seconds": 1}]
    plan = {"budget": 9, "rows": list(rows), "seeds": [0, 1], "seconds": {}, "rungs": rungs, "decisions": []}
    return Halving(tmp_path / "plan.json", plan, dict.fromkeys(rows) | bases)


def test_the_best_by_the_validator_go_on_with_their_baselines(tmp_path: Path) -> None:
    for oracle in (0.0, 1.0):  # whatever the target accuracies
        plan = halving(tmp_path, "abcdef", {"b": "a", "d": "c", "f": "e"})
        rows = [run("a", 0.1, oracle=oracle), run("b", 0.9), run("c", 0.5, oracle=1 - oracle), run("d", 0.6)]
        rows += [run("e", 0.95, source=0.5), run("f", 2.0, status="failed")]
        dropped = plan.decide(rows)
        assert [(one["row"], one["after_seeds"], one["score"], one["reason"]) for one in dropped] == [
            ("e", 1, 0.95, "turned away by the guard of infomax"),
            ("f", 1, None, "a run failed"),
        ]  # b, d and c are the best three, and a is the baseline of b
        assert json.loads((tmp_path / "plan.json").read_text())["decisions"][0]["dropped"] == dropped
    plan = halving(tmp_path, "abcd", {})
    dropped = plan.decide([run(label, score) for label, score in zip("abcd", (0.1, 0.3, 0.2, 0.4), strict=True)])
    assert [one["row"] for one in dropped] == ["a", "c"] and dropped[0]["reason"] == "not among the best 2 by infomax"


def test_the_row_that_would_be_chosen_goes_on_also_where_all_are_turned_away(tmp_path: Path) -> None:
    plan = halving(tmp_path, "abcd", {})
    rows = [
        run(label, score, source)
        for label, score, source in zip("abcd", (4, 3, 2, 1), (0.5, 0.6, 0.7, 0.8), strict=True)
    ]
    for row in rows:
        row["validators"]["rejected"] = "one class"
    assert [one["row"] for one in plan.decide(rows)] == ["b", "c"]  # d is best on the source, a by the validator


def test_where_all_failed_nothing_is_dropped(tmp_path: Path) -> None:
    plan = halving(tmp_path, "abcd", {})
    assert plan.decide([run(label, 1.0, status="failed") for label in "abcd"]) == []


# --- end to end -------------------------------------------------------------------------------------------------------


def test_rows_are_dropped_by_their_label_free_score(done: Path) -> None:
    content, plan = content_of(done), json.loads((done / "plan.json").read_text())
    first = choose([row for row in content["rows"] if row["seed"] == 0])
    assert first is not None
    ranked = sorted(LABELS, key=lambda label: (label in first["turned_away"], -first["scores"][label]))
    kept = {*ranked[:2], LABELS[0]}
    out = [label for label in LABELS if label not in kept]
    assert [one["row"] for one in content["dropped"]] == out and out
    assert all((one["after_seeds"], one["score"]) == (1, first["scores"][one["row"]]) for one in content["dropped"])
    assert plan["decisions"] == [{"after_seeds": 1, "dropped": content["dropped"]}]
    assert {row["row"]: row["seeds"] for row in content["summary"]} == {
        label: [0] if label in out else [0, 1] for label in LABELS
    }
    for row in content["summary"]:
        figures = row["domains"]["dusk"]["splits"]["test"]
        assert row["baseline"] is None or figures["gain_seeds"] == row["seeds"]  # still paired
    assert content["planned"] == len(content["rows"]) == 8 - len(out)
    assert content["choice"]["row"] in kept and content["choice"]["seeds"] == [0, 1]
    text = (done / "results.md").read_text()
    assert f"dropped after 1 seed: {out[0]} (" in text and "runs are finished" not in text
    assert "of 4 rows go on the best 2 after 1 of 2 seeds, each with its baseline; about 7.0 s at most" in text


def test_shuffled_labels_of_the_target_drop_the_same_rows(
    pictures: Path, done: Path, planned: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    shuffled = Path(shutil.copytree(pictures, tmp_path / "shuffled"))
    for name in ("dusk", "night"):
        turned = {"blue": "green", "green": "red", "red": "blue"}
        for label in turned:
            (shuffled / name / label).rename(shuffled / name / f"was-{label}")
        for label, other in turned.items():
            (shuffled / name / f"was-{label}").rename(shuffled / name / other)
    content = injerto.compare(shuffled, out=with_plan(tmp_path / "out", planned), **settings)
    before = content_of(done)
    assert content["dropped"] == before["dropped"] and content["choice"] == before["choice"]
    accuracies = [
        [row["domains"]["dusk"]["splits"]["test"]["accuracy"] for row in one["rows"]] for one in (before, content)
    ]
    assert accuracies[0] != accuracies[1]


def test_the_command_does_the_same_and_nothing_twice(
    done: Path, tmp_path: Path, cli: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    words = shlex.split(content_of(done)["command"])
    words[words.index("--out") + 1] = str(copy)
    assert words[words.index("--budget") + 1] == "7.5s"
    monkeypatch.setattr(api, "fit", lambda *_, **__: pytest.fail("a run was done again"))
    result = cli(*words[1:], "--no-report")
    assert result.code == 0, result.err
    apart = {"command": "", "checksum": ""}
    assert content_of(copy) | apart == content_of(done) | apart
    assert "dropped after 1 seed: " in result.out


def test_another_plan_is_refused(pictures: Path, done: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    before = (done / "plan.json").read_text()
    for message, changes in {
        "was planned with --budget 7.5 s, now 60 s; repeat it": {"budget": "60s"},
        "was planned with --budget 7.5 s, now none": {"budget": None},
        "for other rows or seeds": {"seeds": 3},
        "for other rows": {"grid": GRID | {"lr": [1e-2, 3e-3, 1e-3]}},
        "--budget soon is no time": {"budget": "soon"},
        "do not go together": {"leave_one_out": True, "target": ()},
        "leave the axis target out": {"grid": {"target": ["dusk", "night"]}, "target": ()},
    }.items():
        with pytest.raises(InjertoError, match=message):
            injerto.compare(pictures, out=done, **(settings | changes))
    assert (done / "plan.json").read_text() == before
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    (copy / "plan.json").unlink()
    with pytest.raises(InjertoError, match="has runs already"):
        injerto.compare(pictures, out=copy, **settings)
    with pytest.raises(InjertoError, match="is too little: however soon rows are dropped, 4 of them take about"):
        injerto.compare(pictures, out=tmp_path / "small", **(settings | {"budget": 1e-6}))
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
@pytest.mark.parametrize("runs", [2, 5])
def test_killed_in_the_middle_it_drops_the_same_rows(
    pictures: Path, done: Path, planned: Path, tiny_timm: Path, tmp_path: Path, runs: int
) -> None:
    """Before the rung is decided, and after."""
    out = with_plan(tmp_path / "out", planned)
    words = shlex.split(content_of(done)["command"])
    words[words.index("--out") + 1] = str(out)
    start = [sys.executable, "-c", "from injerto.cli import main; main()", *words[1:], "--json", "--no-report"]
    with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and len(list(out.glob("runs/*/metrics.json"))) < runs:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list(out.glob("runs/*/metrics.json"))) < content_of(done)["planned"]
    again = subprocess.run(start, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert timeless(json.loads(again.stdout)) == timeless(content_of(done))
