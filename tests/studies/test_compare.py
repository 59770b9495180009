"""Compare: nothing is computed twice, failures are told, and every number is the runs' own."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import injerto
from injerto import api
from injerto.basics.checksums import write_sealed
from injerto.basics.errors import InjertoError
from injerto.statistics.bootstrap import nested_draws, nested_interval
from injerto.statistics.significance import p_value
from injerto.studies.compare import exit_code

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def settings(tiny_timm: Path, quick: dict[str, Any]) -> dict[str, Any]:
    more = {"source": "day", "target": "dusk", "backbone": tiny_timm, "steps": 6, "augment": "none"}
    return more | {"head_lr": 1e-2} | quick


@pytest.fixture(scope="module")
def done(pictures: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison: two tunings, one rate, two seeds."""
    out = tmp_path_factory.mktemp("compare") / "done"
    injerto.compare(pictures, grid={"tuning": ["head", "last:1"], "lr": [1e-2]}, seeds=2, out=out, **settings)
    return out


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """A copy of it to work on."""
    return Path(shutil.copytree(done, tmp_path / "copy"))


@pytest.fixture
def again(pictures: Path, settings: dict[str, Any]) -> Call:
    """A function that calls compare with the settings of the finished one, and others."""

    def call(out: Path, **changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"grid": {"tuning": ["head", "last:1"], "lr": [1e-2]}, "seeds": 2}
        return injerto.compare(pictures, out=out, **(given | settings | changes))

    return call


def test_runs_on_other_data_are_not_put_beside_those_that_are_there(
    pictures: Path, copy: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    data = shutil.copytree(pictures, tmp_path / "other")
    for file in sorted((data / "day" / "red").iterdir())[:3]:
        file.unlink()
    for record in (copy / "runs").glob("*.json"):  # the same name, other content
        write_sealed(record, json.loads(record.read_text().replace(str(pictures), str(data))))
    for recipe in (copy / "runs").glob("*/recipe.yaml"):
        recipe.write_text(recipe.read_text().replace(str(pictures), str(data)))
    grid = {"tuning": ["head", "last:1"], "lr": [1e-2]}
    with pytest.raises(InjertoError, match="has runs on other data: of .* examples 3 are gone; bring the data back"):
        injerto.compare(data, grid=grid, seeds=3, out=copy, **settings)


def test_what_is_no_number_of_seeds_is_told(pictures: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InjertoError, match="a number or a list of numbers, not 'two'"):
        injerto.compare(pictures, grid={"lr": [1e-2]}, seeds="two", out=tmp_path, **settings)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that fit is asked for."""
    names: list[str] = []
    original = api.fit

    def watched(data: Any, *, out: Path, **more: Any) -> Any:
        names.append(Path(out).name)
        return original(data, out=out, **more)

    monkeypatch.setattr(api, "fit", watched)
    return names


def touched(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of everything that runs wrote."""
    files = [path for path in (out / "runs").rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def metrics_of(out: Path, row: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / row["run"] / "metrics.json").read_text())
    return content


def predictions(out: Path, row: dict[str, Any], name: str, sides: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    with (out / row["run"] / "predictions.csv").open(newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if line["domain"] == name and line["split"] in sides]
    lines.sort(key=lambda line: sides.index(line["split"]))
    return np.asarray([float(line["label"] == line["predicted"]) for line in lines]), [line["group"] for line in lines]


# --- results ----------------------------------------------------------------------------------------------------------


def test_rows_are_the_runs_own_numbers(done: Path) -> None:
    content = json.loads((done / "results.json").read_text())
    assert [(row["axes"], row["seed"]) for row in content["rows"]] == [
        ({"tuning": tuning, "lr": lr}, seed) for tuning in ("head", "last:1") for lr in (1e-2,) for seed in (0, 1)
    ]
    with (done / "results.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 4
    for row, line in zip(content["rows"], lines, strict=True):
        metrics = metrics_of(done, row)
        assert (row["status"], row["reason"], row["splits"]) == ("ok", None, metrics["splits"])
        assert row["split_seed"] == row["seed"] == int(line["seed"]) == int(line["split_seed"])
        assert row["recipe"] == yaml.safe_load((done / row["run"] / "recipe.yaml").read_text())
        assert line["tuning"] == row["axes"]["tuning"] == line["recipe/tuning"]
        assert float(line["recipe/lr"]) == row["recipe"]["lr"] == row["axes"]["lr"]
        for name, entry in metrics["domains"].items():
            mark = "oracle:" if entry["oracle"] else ""
            assert line[f"{name}/role"] == entry["role"] == row["domains"][name]["role"]
            assert row["domains"][name]["oracle"] == entry["oracle"] == (line[f"{name}/oracle"] == "true")
            for side, values in entry["splits"].items():
                for metric in ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece", "n"):
                    assert row["domains"][name]["splits"][side][metric] == values[metric]
                    assert float(line[f"{mark}{name}/{side}/{metric}"]) == values[metric]
        assert row["selection"] == metrics["selection"] and line["selection/rule"] == metrics["selection"]["rule"]
        assert row["forgetting"]["cka"] == metrics["forgetting"]["cka"]
        assert int(line["trainable"]) == metrics["parameters"]["trainable"]
        assert int(line["adapter_bytes"]) == metrics["adapter_bytes"]
        assert row["seconds"] == pytest.approx(sum(metrics["seconds"].values()))


def test_what_needed_labels_of_other_domains_is_marked(done: Path) -> None:
    columns = (done / "results.csv").read_text().splitlines()[0].split(",")
    of = {
        name: [column for column in columns if f"{name}/" in column and "/n" in column]
        for name in ("day", "dusk", "night")
    }
    assert of["day"] and all(not column.startswith("oracle:") for column in of["day"])
    assert all(column.startswith("oracle:") for name in ("dusk", "night") for column in of[name])
    assert {"oracle:dusk/train/accuracy", "oracle:dusk/test/accuracy", "oracle:night/test/nll"} <= set(columns)
    text = (done / "results.md").read_text()
    heading = next(line for line in text.splitlines() if line.startswith("| tuning"))
    assert "| day |" in heading and r"| dusk\* |" in heading and r"| night\* |" in heading
    assert r"dusk train+test\*" in heading
    assert "oracle: needed labels" in text


def test_the_summary_is_the_paired_interval_computed_by_hand(done: Path) -> None:
    content = json.loads((done / "results.json").read_text())
    assert [entry["baseline"] for entry in content["summary"]] == [None, "tuning=head lr=0.01"]
    rows = [content["rows"][2 * index : 2 * index + 2] for index in range(2)]
    for entry, own in zip(content["summary"], rows, strict=True):
        for name, sides in (("day", ("val",)), ("day", ("test",)), ("dusk", ("train", "test")), ("night", ("test",))):
            mine, base = ([predictions(done, row, name, sides) for row in some] for some in (own, rows[0]))
            figures = entry["domains"][name]["splits"]["+".join(sides)]
            right, groups = [part[0] for part in mine], [part[1] for part in mine]
            assert tuple(figures[end] for end in ("accuracy", "low", "high")) == nested_interval(right, groups)
            if len(sides) == 1:
                known = [row["domains"][name]["splits"][sides[0]]["accuracy"] for row in own]
                assert figures["accuracy"] == pytest.approx(np.mean(known))
            if entry["baseline"]:
                expected = nested_interval(right, groups, [part[0] for part in base])
                assert tuple(figures[end] for end in ("gain", "gain_low", "gain_high")) == expected
                assert figures["gain_seeds"] == [0, 1] and "unpaired" not in figures
                draws = nested_draws(right, groups, [part[0] for part in base])[1]
                assert figures["p"] == p_value(draws) == figures["p_adjusted"]  # one row has a gain
            else:
                assert "gain" not in figures
        assert set(entry["domains"]["dusk"]["splits"]) == {"train", "test", "train+test"}
        assert entry["domains"]["dusk"]["oracle"] and not entry["domains"]["day"]["oracle"]


def test_the_summary_holds_the_means_of_the_runs_own_metrics(done: Path) -> None:
    content = json.loads((done / "results.json").read_text())
    for index, entry in enumerate(content["summary"]):
        own = content["rows"][2 * index : 2 * index + 2]
        for name, side in (("day", "test"), ("dusk", "train"), ("night", "test")):
            figures = entry["domains"][name]["splits"][side]
            splits = [row["domains"][name]["splits"][side] for row in own]
            for metric in ("ece", "nll", "macro_f1", "balanced_accuracy"):
                assert figures[metric] == pytest.approx(np.mean([values[metric] for values in splits]))
            assert figures["deviation"] == pytest.approx(np.std([values["accuracy"] for values in splits], ddof=1))
        joint = entry["domains"]["dusk"]["splits"]["train+test"]
        assert "deviation" in joint and "ece" not in joint
        assert (entry["trainable"], entry["adapter_bytes"]) == (own[0]["trainable"], own[0]["adapter_bytes"])
        for name in ("agreement", "cka"):
            known = [row["forgetting"][name] for row in own if row["forgetting"].get(name) is not None]
            assert entry["forgetting"][name] == (pytest.approx(np.mean(known)) if known else None)


def test_aligned_rows_are_compared_with_the_same_row_without(again: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    content = again(out, grid={"tuning": ["head", "last:1"], "alignment": ["none", "mmd"]}, seeds=1)
    assert exit_code(content) == 0, [row["reason"] for row in content["rows"]]
    assert [row["recipe"]["neck"] for row in content["rows"]] == ["256", "256", "none", "none"]
    assert {row["recipe"]["select"] for row in content["rows"]} == {"last"}
    steps = {(row["selection"]["rule"], row["selection"]["step"]) for row in content["rows"]}
    assert steps == {("last", 6)}
    assert [entry["baseline"] for entry in content["summary"]] == [
        None,
        "tuning=head alignment=none",
        None,
        "tuning=last:1 alignment=none",
    ]
    assert "the same row without alignment" in (out / "results.md").read_text()
    assert content["choice"]["row"] in {row["row"] for row in content["rows"]}
    assert (
        f"chosen without target labels (infomax, of 4 rows): {content['choice']['row']}"
        in (out / "results.md").read_text()
    )
    assert all(isinstance(value, int | float | str | bool | None) for value in content["rows"][1]["alignment"].values())
    assert content["rows"][1]["alignment"] and not content["rows"][0]["alignment"]
    assert len(content["fairness"]) == 2


def test_the_file_says_where_it_comes_from(done: Path, pictures: Path) -> None:
    content = json.loads((done / "results.json").read_text())
    assert content["data"] == str(pictures) and content["source"] == ["day"] and content["target"] == ["dusk"]
    assert content["grid"] == {"tuning": ["head", "last:1"], "lr": [0.01]} and content["seeds"] == [0, 1]
    assert content["settings"]["steps"] == 6 and set(content["versions"]) >= {"injerto", "torch"}
    assert content["machine"] and content["planned"] == 4
    assert "--grid tuning=head,last:1 --grid lr=0.01 --seeds 2" in content["command"]


def test_another_split_is_not_paired(again: Call, tmp_path: Path) -> None:
    content = again(tmp_path / "out", grid={"split_seed": [0, 1]}, seeds=1, tuning="head")
    first, second = (entry["domains"]["day"]["splits"]["test"] for entry in content["summary"])
    assert "gain" not in first and second["gain"] is None and "other splits" in second["unpaired"]
    assert "other examples than their baseline" in (tmp_path / "out" / "results.md").read_text()


def test_fewer_shots_are_paired_on_the_same_test(again: Call, tmp_path: Path) -> None:
    content = again(tmp_path / "out", grid={"shots": [2, 4]}, seeds=1, tuning="head")
    figures = content["summary"][1]["domains"]["day"]["splits"]["test"]
    assert content["rows"][0]["splits"] != content["rows"][1]["splits"] and figures["gain"] is not None


# --- nothing twice ----------------------------------------------------------------------------------------------------


def test_nothing_is_done_twice(copy: Path, again: Call, fitted: list[str]) -> None:
    before, results = touched(copy), (copy / "results.csv").read_text()
    assert not list((copy / "runs").glob("*/checkpoints"))
    for name in ("results.csv", "results.json", "results.md"):
        (copy / name).unlink()
    content = again(copy)
    assert fitted == [] and touched(copy) == before
    assert (copy / "results.csv").read_text() == results and exit_code(content) == 0


@pytest.mark.slow
def test_another_seed_and_another_value_are_added(copy: Path, again: Call, fitted: list[str]) -> None:
    before = touched(copy)
    again(copy, seeds=[0, 1, 5])
    assert sorted(fitted) == ["tuning=head,lr=0.01-5", "tuning=last_1,lr=0.01-5"]
    fitted.clear()
    content = again(copy, grid={"tuning": ["head", "last:1", "norm"], "lr": [1e-2]})
    assert sorted(fitted) == ["tuning=norm,lr=0.01-0", "tuning=norm,lr=0.01-1"]
    assert {key: value for key, value in touched(copy).items() if key in before} == before
    assert len(content["rows"]) == 8 and len(content["summary"]) == 3 and content["seeds"] == [0, 1, 5]


def test_what_an_earlier_call_found_stays_in_the_results(copy: Path, again: Call, fitted: list[str]) -> None:
    before = json.loads((copy / "results.json").read_text())
    content = again(copy, grid={"tuning": ["norm"], "lr": [1e-2]}, seeds=1)
    assert fitted == ["tuning=norm,lr=0.01-0"] and content["planned"] == 5
    assert content["grid"]["tuning"] == ["norm", "head", "last:1"]
    assert content["rows"][1:] == before["rows"]
    with pytest.raises(InjertoError, match=r"was done with other settings: lr \("):
        again(copy, grid={"tuning": ["norm"]})


def test_stopped_in_the_middle_it_goes_on(
    done: Path, again: Call, tmp_path: Path, fitted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from injerto.training.fit import Fit

    out, original = tmp_path / "out", Fit._measure

    def stop(self: Fit) -> dict[str, Any]:
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Fit, "_measure", stop)
    with pytest.raises(KeyboardInterrupt):
        again(out)
    names = [f"tuning={tuning},lr=0.01-{seed}" for seed in (0, 1) for tuning in ("head", "last_1")]
    assert fitted == names[:3]  # seed by seed
    before = touched(out)
    partial = json.loads((out / "results.json").read_text())
    assert [row["seed"] for row in partial["rows"]] == [0, 0] and partial["planned"] == 4
    assert "2 of 4 runs are finished" in (out / "results.md").read_text()
    monkeypatch.setattr(Fit, "_measure", original)
    fitted.clear()
    log = out / "runs" / names[2] / "log.jsonl"
    logged = log.read_text()
    content = again(out)
    assert fitted == names[2:]
    assert logged and log.read_text().startswith(logged)  # its steps were not done again
    finished = {key: value for key, value in before.items() if "0.01-0" in key}
    assert {key: value for key, value in touched(out).items() if "0.01-0" in key} == finished
    whole = json.loads((done / "results.json").read_text())
    assert [row["domains"] for row in whole["rows"]] == [row["domains"] for row in content["rows"]]
    assert [row["domains"] for row in whole["summary"]] == [row["domains"] for row in content["summary"]]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_from_outside_it_goes_on(pictures: Path, tiny_timm: Path, tmp_path: Path, how: int) -> None:
    out = tmp_path / "out"
    words = ["compare", pictures, "--source", "day", "--backbone", tiny_timm, "--threads", 1, "--precision", "fp32"]
    words += ["--steps", 20, "--grid", "tuning=head,last:1,full", "--seeds", 2, "--out", out, "--json"]
    start = [sys.executable, "-c", "from injerto.cli import main; main()", *map(str, words)]
    with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and len(list(out.glob("runs/*/metrics.json"))) < 2:
            time.sleep(0.02)
        process.send_signal(how)
        _, said = process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -how), said
    if how == signal.SIGINT:
        assert "the same command goes on where it stopped" in said and "Traceback" not in said
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/metrics.json")}
    assert 2 <= len(before) < 6
    again = subprocess.run(start, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert [row["status"] for row in json.loads(again.stdout)["rows"]] == ["ok"] * 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(out.rglob("checkpoints")) and not list((out / "runs").glob(".*"))


def test_progress_is_a_line_per_run(again: Call, tmp_path: Path, capsys: Any) -> None:
    again(tmp_path / "out", grid={"tuning": ["head", "last:1"]}, seeds=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert lines[0] == "run 1 of 2: tuning=head seed 0"
    assert lines[1].startswith("run 2 of 2: tuning=last:1 seed 0, ") and lines[1].endswith(" left")
    assert len(lines) == 2


def test_a_row_beside_the_grid_and_cheap_rows_first(again: Call, tmp_path: Path, fitted: list[str]) -> None:
    out = tmp_path / "out"
    grid: dict[str, Any] = {
        "grid": {"tuning": ["last:1", "head"], "lr": [1e-2]},
        "rows": [{"tuning": "norm", "lr": 1e-3}],
    }
    content = again(out, **grid, seeds=1)
    assert fitted == ["tuning=head,lr=0.01-0", "tuning=last_1,lr=0.01-0", "tuning=norm,lr=0.001-0"]
    labels = ["tuning=last:1 lr=0.01", "tuning=head lr=0.01", "tuning=norm lr=0.001"]
    assert [row["row"] for row in content["rows"]] == [row["row"] for row in content["summary"]] == labels
    assert content["summary"][2]["baseline"] == labels[0]
    assert content["beside"] == [{"tuning": "norm", "lr": 0.001}] and content["grid"]["lr"] == [0.01]
    assert "--row 'tuning=norm lr=0.001'" in content["command"]
    fitted.clear()
    again(out, **grid, seeds=1)
    assert fitted == []
    content = again(out, grid={"tuning": ["head"], "lr": [1e-2]}, seeds=1)  # the others stay, beside it
    assert fitted == [] and [row["row"] for row in content["rows"]] == [labels[1], labels[0], labels[2]]
    assert [row["tuning"] for row in content["beside"]] == ["last:1", "norm"]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failed_row_is_told_and_tried_again(
    again: Call, tmp_path: Path, tiny_timm: Path, fitted: list[str], capsys: Any
) -> None:
    out, late = tmp_path / "out", tmp_path / "late"
    given: dict[str, Any] = {"grid": {"backbone": [str(late), str(tiny_timm)]}, "seeds": 1, "backbone": None}
    content = again(out, **given)
    assert [row["status"] for row in content["rows"]] == ["failed", "ok"] and exit_code(content) == 2
    assert content["rows"][0]["fault"] is False and "late" in content["rows"][0]["reason"]
    assert content["summary"][0]["failed"] == [0] and content["summary"][0]["domains"] == {}
    assert content["summary"][1]["domains"]["day"]["splits"]["test"]["gain"] is None
    assert "warning: backbone=" in capsys.readouterr().err
    with (out / "results.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert lines[0]["status"] == "failed" and lines[0]["reason"] == content["rows"][0]["reason"]
    assert f"failed: backbone={late} seed 0: " in (out / "results.md").read_text()
    shutil.copytree(tiny_timm, late)
    fitted.clear()
    content = again(out, **given)
    assert len(fitted) == 1 and [row["status"] for row in content["rows"]] == ["ok", "ok"] and exit_code(content) == 0
    assert content["summary"][1]["domains"]["day"]["splits"]["test"]["gain"] == 0  # the same network


def test_our_own_fault_does_not_stop_the_others(again: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = api.fit

    def broken(data: Any, **more: Any) -> Any:
        if more["tuning"] == "head":
            raise RuntimeError("it is\nbroken")
        return original(data, **more)

    monkeypatch.setattr(api, "fit", broken)
    content = again(tmp_path / "out", grid={"tuning": ["head", "last:1"]}, seeds=1)
    assert content["rows"][0]["reason"] == "RuntimeError: it is broken" and content["rows"][1]["status"] == "ok"
    assert exit_code(content) == 1


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_other_runs_in_the_folder_are_refused(
    copy: Path, again: Call, fitted: list[str], settings: dict[str, Any], reviews: Path
) -> None:
    with pytest.raises(InjertoError, match=r"steps \(was 6, now 7\)"):
        again(copy, steps=7)
    with pytest.raises(InjertoError, match=r"was done with other settings: data \("):
        injerto.compare(reviews, grid={"tuning": ["norm"]}, out=copy, **(settings | {"source": "films", "target": ()}))
    with pytest.raises(InjertoError, match="target"):
        again(copy, grid={"tuning": ["norm"]}, target="night")
    with pytest.raises(InjertoError, match=r"select \(was none, now last\)"):
        again(copy, select="last")
    (copy / "runs" / "tuning=head,lr=0.01-0.json").unlink()
    with pytest.raises(InjertoError, match="is missing"):
        again(copy)


def test_errors_come_before_the_first_run(
    again: Call, tmp_path: Path, fitted: list[str], pictures: Path, settings: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    for message, changes in {
        "no domain 'dawn'": {"source": "dawn"},
        "no domain 'noon'": {"target": "noon"},
        "say which to learn from": {"source": ()},
        "nothing at": {"target": "new=no/where"},
        "unknown alignment 'mdm'": {"grid": {"alignment": ["none", "mdm"]}},
        "give --seeds": {"seed": 3},
        "the name or the folder of a backbone": {"backbone": object()},
        "row tuning=foo": {"grid": {"tuning": ["head", "foo"]}},
    }.items():
        with pytest.raises(InjertoError, match=message):
            again(out, **changes)
    with pytest.raises(InjertoError, match="give a path"):
        injerto.compare(injerto.load_domains(pictures), grid={"lr": [1]}, out=out, **settings)  # type: ignore[arg-type]
    assert not fitted and not out.exists()
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InjertoError, match="holds 'thesis.txt'"):
        again(out)
    with pytest.raises(InjertoError, match="is a file"):
        again(out / "thesis.txt")
    assert sorted(path.name for path in out.iterdir()) == ["thesis.txt"]


def test_a_file_of_settings(again: Call, tmp_path: Path, fitted: list[str]) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("epochs: 3\ntuning: full\nhead: mlp\nseed: 9\nsplit-seed: 9\nlr: 0.5\n")
    content = again(tmp_path / "out", grid={"lr": [1e-3]}, seeds=1, config=config, tuning="head")
    recipe = content["rows"][0]["recipe"]
    assert (recipe["steps"], recipe["epochs"], recipe["tuning"], recipe["head"]) == (6, None, "head", "mlp")
    assert (recipe["seed"], recipe["split_seed"], recipe["lr"]) == (0, 0, 0.001)


def test_a_results_file_of_something_else_is_not_overwritten(again: Call, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{}")
    with pytest.raises(InjertoError, match="belongs to no comparison"):
        again(tmp_path / "out")
    assert (tmp_path / "out" / "results.json").read_text() == "{}"


@pytest.mark.parametrize("damage", ["garbage", "half"])
def test_predictions_that_are_not_the_metrics_own_are_refused(copy: Path, again: Call, damage: str) -> None:
    path = next(iter(sorted(copy.glob("runs/*/predictions.csv"))))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] if damage == "garbage" else "".join(lines[: len(lines) // 2]))
    with pytest.raises(InjertoError, match=r"predictions.csv is damaged, or was changed since .*remove"):
        again(copy)


def test_an_axis_more_is_refused_in_a_sentence(copy: Path, again: Call) -> None:
    with pytest.raises(InjertoError, match="was done with other axes; repeat them, or name another folder"):
        again(copy, grid={"tuning": ["head", "last:1"], "lr": [1e-2], "head": ["linear", "mlp"]})


def test_too_many_seeds_are_no_memory_error(again: Call, tmp_path: Path) -> None:
    with pytest.raises(InjertoError, match="up to 1000 are done"):
        again(tmp_path / "out", seeds=99_999_999_999)
