"""Search: no target label decides, nothing is done twice, and stopped it draws what it would have drawn."""

import csv
import gc
import json
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import injerto
from injerto import api
from injerto.basics.errors import InjertoError
from injerto.evaluation.validators import FLOOR
from injerto.studies.choice import choose
from injerto.studies.ledger import Ledger, hide_password
from injerto.studies.search import exit_code

Call = Callable[..., dict[str, Any]]


def metrics(accuracy: float, score: float, rejected: str | None = None, nll: float = 1.0, oracle: float = 0.5) -> Any:
    def split(value: float) -> dict[str, Any]:
        return {"accuracy": value, "nll": nll, "n": 10}

    return {
        "domains": {
            "day": {"role": "source", "oracle": False, "splits": {"val": split(accuracy), "test": split(accuracy)}},
            "dusk": {"role": "target", "oracle": True, "splits": {"train": split(oracle), "test": split(oracle)}},
        },
        "validators": {"rejected": rejected, "scores": {"infomax": score, "bnm": -score}},
        "parameters": {"trainable": 3},
        "adapter_bytes": 7,
    }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of fit: files of a finished run whose numbers ``rule(settings)`` gives; calls are kept."""
    state = SimpleNamespace(calls=[], rule=lambda s: metrics(0.8, -((np.log10(s["head_lr"]) + 3) ** 2)), before=None)

    def fit(data: Any, *, out: Path, resume: bool, **settings: Any) -> None:
        state.calls.append({**settings, "out": out})
        if state.before:
            state.before(settings)
        found = state.rule(settings)
        (out / "adapter").mkdir(parents=True, exist_ok=True)
        (out / "adapter" / "head.safetensors").write_bytes(b"weights")
        (out / "recipe.yaml").write_text("{}")
        (out / "predictions.csv").write_text("")
        (out / "metrics.json").write_text(json.dumps(found))

    monkeypatch.setattr(api, "fit", fit)
    monkeypatch.setattr(gc, "collect", int)  # there is no model to free, and it takes a second a trial
    return state


@pytest.fixture
def look(pictures: Path, tiny_timm: Path, tmp_path: Path) -> Call:
    """A function that searches with a target."""

    def call(out: Path | None = None, **changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "source": "day",
            "target": "dusk",
            "backbone": tiny_timm,
            "tuning": "head",
            "trials": 6,
        }
        given |= {"space": {"head_lr": "1e-5..1e-1", "weight_decay": "0..0.1"}}
        return injerto.search(pictures, out=out or tmp_path / "out", **given | changes)

    return call


def told(content: dict[str, Any]) -> list[Any]:
    return [(trial["parameters"], trial["score"], trial["state"]) for trial in content["trials"]]


# --- what wins --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_target_changes_the_judge_and_its_labels_nothing(fake: Any, look: Call, tmp_path: Path) -> None:
    first = look(tmp_path / "one", trials=13)
    score = {trial["number"]: trial["score"] for trial in first["trials"]}
    assert first["objective"] == "infomax" and first["best"]["number"] == max(score, key=score.__getitem__)
    assert all(score[t["number"]] == -((np.log10(t["parameters"]["head_lr"]) + 3) ** 2) for t in first["trials"])
    rule = fake.rule
    fake.rule = lambda s: {**rule(s), "domains": metrics(0.8, 0, oracle=s["head_lr"])["domains"]}
    second = look(tmp_path / "two", trials=13)
    assert told(first) == told(second) and first["best"]["number"] == second["best"]["number"]
    assert first["importance"] == second["importance"] and first["importance"]["head_lr"] > 0.5
    assert [trial["oracle"] for trial in first["trials"]] != [trial["oracle"] for trial in second["trials"]]
    assert all(set(trial["oracle"]) == {"dusk/train", "dusk/test"} for trial in first["trials"])
    with (tmp_path / "two" / "search.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [float(line["oracle:dusk/test"]) for line in lines] == [
        trial["parameters"]["head_lr"] for trial in second["trials"]
    ]


@pytest.mark.slow
def test_it_goes_where_the_score_is(fake: Any, look: Call) -> None:
    content = look(trials=30)
    away = abs(np.log10([trial["parameters"]["head_lr"] for trial in content["trials"]]) + 3)
    assert np.median(away[15:]) < 0.75 * np.median(away[1:11])


def test_the_guard_is_that_of_compare(fake: Any, look: Call) -> None:
    def rule(settings: dict[str, Any]) -> Any:
        place = len(fake.calls) - 1
        return [
            metrics(0.8, 1.0),
            metrics(0.8 - FLOOR - 0.01, 9.0),  # has forgotten its source
            metrics(0.8, 8.0, rejected="predicts one class"),
            metrics(0.8, 2.0, oracle=0.1),
            metrics(0.79, 1.5, oracle=0.9),
        ][place]

    fake.rule = rule
    content = look(trials=5)
    assert content["best"]["number"] == 3 and content["turned_away"] == [1, 2]
    rows = [
        {"row": str(trial["number"]), "seed": 0, "status": "ok", **rule_row}
        for trial, rule_row in zip(content["trials"], map(_row, range(5)), strict=True)
    ]
    expected = choose(rows)
    assert expected and expected["row"] == "3" and expected["turned_away"] == ["1", "2"]


def _row(place: int) -> dict[str, Any]:
    accuracy, score, rejected = [
        (0.8, 1.0, None),
        (0.8 - FLOOR - 0.01, 9.0, None),
        (0.8, 8.0, "predicts one class"),
        (0.8, 2.0, None),
        (0.79, 1.5, None),
    ][place]
    found = metrics(accuracy, score)
    return {"domains": found["domains"], "validators": {"scores/infomax": score, "rejected": rejected}}


def test_without_a_target_source_val_decides_then_the_nll(fake: Any, look: Call) -> None:
    values = [(0.8, 0.1), (0.9, 0.7), (0.9, 0.3), (0.85, 0.0)]
    fake.rule = lambda s: metrics(values[len(fake.calls) - 1][0], 0, nll=values[len(fake.calls) - 1][1])
    content = look(trials=4, target=())
    assert content["objective"] == "source val accuracy" and content["best"]["number"] == 2
    assert [trial["score"] for trial in content["trials"]] == [0.8, 0.9, 0.9, 0.85]


def test_trials_with_balanced_class_weights_are_judged_by_balanced_accuracy(
    fake: Any, look: Call, tmp_path: Path
) -> None:
    values = [(0.94, 0.6), (0.9, 0.8), (0.92, 0.7)]

    def rule(settings: dict[str, Any]) -> Any:
        accuracy, balanced = values[(len(fake.calls) - 1) % 3]
        found = metrics(accuracy, 0)
        found["domains"]["day"]["splits"]["val"]["balanced_accuracy"] = balanced
        return found

    fake.rule = rule
    content = look(trials=3, target=(), class_weights="balanced")
    assert content["objective"] == "source val balanced accuracy" and content["best"]["number"] == 1
    assert [trial["score"] for trial in content["trials"]] == [0.6, 0.8, 0.7]
    both = look(tmp_path / "both", trials=3, target=(), space={"class_weights": "none,balanced", "head_lr": "1e-4..1"})
    assert both["objective"] == "source val accuracy" and both["best"]["number"] == 0


def test_another_validator_and_the_mean_over_seeds(fake: Any, look: Call) -> None:
    fake.rule = lambda s: metrics(0.8, s["seed"] + s["head_lr"])
    content = look(select_by="bnm", seeds=3, seed=4, trials=2)
    assert [call["seed"] for call in fake.calls] == [4, 5, 6] * 2
    for trial in content["trials"]:
        assert trial["score"] == pytest.approx(-5 - trial["parameters"]["head_lr"]) and trial["seeds"] == [4, 5, 6]


# --- nothing twice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", ["random", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tpe", "grid", "gp"))]
)
def test_stopped_it_goes_on_with_the_same_draws(fake: Any, look: Call, tmp_path: Path, sampler: str) -> None:
    given = {"sampler": sampler, "trials": 14}
    whole = look(tmp_path / "whole", **given)
    fake.calls.clear()

    def stop(settings: dict[str, Any]) -> None:
        if len(fake.calls) in (5, 12):
            raise KeyboardInterrupt

    fake.before = stop
    for finished in (4, 10):
        with pytest.raises(KeyboardInterrupt):
            look(tmp_path / "parts", **given)
        content = json.loads((tmp_path / "parts" / "search.json").read_text())
        assert sum(trial["state"] == "ok" for trial in content["trials"]) == finished
    parts = look(tmp_path / "parts", **given)
    assert told(parts) == told(whole) and len(fake.calls) == 16
    fake.calls.clear()
    again = look(tmp_path / "parts", **given)
    assert fake.calls == [] and told(again) == told(whole)
    if sampler == "grid":
        points = [(trial["parameters"]["head_lr"], trial["parameters"]["weight_decay"]) for trial in parts["trials"]]
        assert len(set(points)) == 14 and {rate for rate, _ in points} == {1e-5, 1e-4, 1e-3, 1e-2, 1e-1}


def in_child(work: Callable[[], Any]) -> int:
    """The number of a process that does some work and goes away without a word."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()  # else a failure in the child would have no cause
            os._exit(1)
    return pid


@pytest.mark.slow
def test_killed_in_a_trial_its_point_is_done_again(fake: Any, look: Call, tmp_path: Path) -> None:
    whole = look(tmp_path / "whole")

    def die(settings: dict[str, Any]) -> None:
        if len(fake.calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    fake.calls.clear()
    fake.before = die
    _, status = os.waitpid(in_child(lambda: look(tmp_path / "killed")), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    fake.before = None
    content = look(tmp_path / "killed")
    assert told(content) == told(whole) and len(fake.calls) == 4
    assert [trial["number"] for trial in content["trials"]] == [0, 1, 3, 4, 5, 6]
    assert str(fake.calls[0]["out"]).endswith("trials/2/0")  # where the killed one left its checkpoint


@pytest.mark.slow
def test_two_processes_share_the_trials(fake: Any, look: Call, tmp_path: Path) -> None:
    out = tmp_path / "shared"

    def slowly(settings: dict[str, Any]) -> None:
        time.sleep(0.05)
        with (tmp_path / "done.txt").open("a") as stream:
            stream.write(f"{os.getpid()} {settings['head_lr']} {settings['weight_decay']}\n")

    fake.before = slowly
    children = [in_child(lambda: look(out, trials=12)) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    lines = [line.split() for line in (tmp_path / "done.txt").read_text().splitlines()]
    assert len({line[0] for line in lines}) == 2
    assert len({tuple(line[1:]) for line in lines}) == len(lines) == 12
    fake.calls.clear()
    content = look(out, trials=12)
    assert fake.calls == [] and [trial["state"] for trial in content["trials"]] == ["ok"] * 12


def test_more_trials_and_a_smaller_number(fake: Any, look: Call) -> None:
    few = look(trials=3)
    more = look(trials=5)
    assert told(more)[:3] == told(few) and len(fake.calls) == 5
    assert told(look(trials=2)) == told(more) and len(fake.calls) == 5


def test_no_trial_begins_when_the_time_is_over(fake: Any, look: Call) -> None:
    fake.before = lambda settings: time.sleep(0.2)
    content = look(trials=None, minutes=0.5 / 60)
    assert 1 <= len(content["trials"]) <= 3 and content["planned"] is None


def test_the_same_parameters_take_the_same_score(fake: Any, look: Call) -> None:
    fake.rule = lambda s: metrics(0.8, 1.0)
    content = look(space={"augment": ["none", "light"]}, trials=6, sampler="random")
    assert {call["augment"] for call in fake.calls} == {"none", "light"} and len(fake.calls) == 2
    assert len(content["trials"]) == 6 and sum(trial["same_as"] is not None for trial in content["trials"]) == 4


def test_only_the_winner_keeps_its_weights(fake: Any, look: Call, tmp_path: Path) -> None:
    content = look()
    runs = {
        path.parent.name: sorted(entry.name for entry in path.iterdir())
        for path in (tmp_path / "out/trials").glob("*/0")
    }
    best = str(content["best"]["number"])
    assert runs.pop(best) == ["adapter", "metrics.json", "predictions.csv", "recipe.yaml"]
    assert len(runs) == 5 and all(names == ["metrics.json", "recipe.yaml"] for names in runs.values())
    assert content["best"]["runs"] == [f"trials/{best}/0"]


# --- failures and pruning ---------------------------------------------------------------------------------------------


def test_a_failed_trial_is_told_and_stops_nothing(fake: Any, look: Call, capsys: Any) -> None:
    def broken(settings: dict[str, Any]) -> None:
        if len(fake.calls) == 2:
            raise InjertoError("the loss became nan")
        if len(fake.calls) == 3:
            raise ZeroDivisionError("oh\nno")

    fake.before = broken
    content = look(trials=4)
    assert [trial["state"] for trial in content["trials"]] == ["ok", "failed", "failed", "ok"]
    reasons = [trial["reason"] for trial in content["trials"]]
    assert reasons == [None, "the loss became nan", "ZeroDivisionError: oh no", None]
    assert "warning: trial 1 failed: the loss became nan" in capsys.readouterr().err and exit_code(content) == 0
    assert told(look(trials=4)) == told(content) and len(fake.calls) == 4


def test_where_all_fail_there_is_no_winner(fake: Any, look: Call, tmp_path: Path) -> None:
    fake.rule = lambda s: {**metrics(0.8, 1), "validators": None}
    content = look(trials=2)
    assert content["best"] is None and exit_code(content) == 2 and not (tmp_path / "out" / "best.yaml").exists()
    assert {trial["reason"] for trial in content["trials"]} == {
        "nothing to judge it by: there are too few held-out examples"
    }


@pytest.mark.slow
def test_seeds_that_cannot_win_are_not_done(fake: Any, look: Call) -> None:
    content = look(trials=14, seeds=4, sampler="random")
    states = [trial["state"] for trial in content["trials"]]
    assert (
        "pruned" not in states[:5] and "pruned" in states and content["trials"][states.index("pruned")]["seeds"] == [0]
    )
    assert len(fake.calls) < 14 * 4
    whole = {trial["number"]: trial["score"] for trial in content["trials"] if trial["state"] == "ok"}
    assert content["best"]["number"] == max(whole, key=whole.__getitem__)


@pytest.mark.slow
def test_a_run_is_cut_short_at_an_evaluation(look: Call, quick: Any, tmp_path: Path, capsys: Any) -> None:
    given = {"space": {"head_lr": "1e-7..1e-1"}, "target": (), "sampler": "random", "trials": 12, "epochs": 10, **quick}
    content = look(**given)
    pruned = [trial for trial in content["trials"] if trial["state"] == "pruned"]
    assert pruned and all(trial["score"] is None for trial in pruned)
    assert not any((tmp_path / "out" / "trials" / str(trial["number"]) / "0").exists() for trial in pruned)
    assert "cut short" in capsys.readouterr().err


# --- real runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_permuted_target_labels_find_the_same(
    look: Call, pictures: Path, tmp_path: Path, quick: Any, tiny_timm: Path
) -> None:
    other = shutil.copytree(pictures, tmp_path / "other" / pictures.name)
    for number in range(10):
        names = [other / "dusk" / label / f"{number}.png" for label in ("blue", "green", "red")]
        contents = [path.read_bytes() for path in names]
        for path, content in zip(names, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)
    given: dict[str, Any] = {
        "source": "day",
        "target": "dusk",
        "backbone": tiny_timm,
        "steps": 12,
        "trials": 3,
        **quick,
    }
    given |= {"tuning": "lora", "alignment": "mmd"}
    found = [
        injerto.search(data, out=tmp_path / name, **given) for data, name in ((pictures, "plain"), (other, "permuted"))
    ]
    assert list(found[0]["space"]) == ["lr", "head_lr", "mmd", "r", "weight_decay"]
    assert told(found[0]) == told(found[1]) and found[0]["best"]["number"] == found[1]["best"]["number"]
    assert found[0]["best"]["source_val"] == found[1]["best"]["source_val"]
    assert found[0]["best"]["oracle"] != found[1]["best"]["oracle"]
    first = found[0]["trials"][0]["parameters"]
    assert first == {"lr": 1e-3, "head_lr": 3e-4, "mmd": 1.0, "r": 8, "weight_decay": 1e-2}  # the table's defaults
    recipe = yaml.safe_load((tmp_path / "plain" / "best.yaml").read_text())
    best = found[0]["best"]["parameters"]
    assert recipe["tuning"] == f"lora(r={best['r']})" and recipe["alignment"] == f"mmd:{best['mmd']:g}"
    again = injerto.fit(pictures, config=tmp_path / "plain" / "best.yaml", out=tmp_path / "again")
    kept = tmp_path / "plain" / found[0]["best"]["runs"][0]
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert (kept / "adapter" / name).read_bytes() == (again.path / "adapter" / name).read_bytes()


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (r"steps \(was none, now 7\)", {"steps": 7}),
        (r"weight_decay \(was 0..0.1, now 0..0.2\)", {"space": {"head_lr": "1e-5..1e-1", "weight_decay": "0..0.2"}}),
        (r"objective \(was infomax, now bnm\)", {"select_by": "bnm"}),
        (r"seeds \(was 0, now 0/1\)", {"seeds": 2}),
        (r"sampler \(was tpe, now random\)", {"sampler": "random"}),
    ],
)
def test_another_search_in_the_same_place_is_refused(
    fake: Any, look: Call, tmp_path: Path, message: str, changes: dict[str, Any]
) -> None:
    look(trials=1)
    with pytest.raises(InjertoError, match=message):
        look(trials=1, **changes)
    (tmp_path / "out" / "search.json").unlink()  # the storage knows it too
    with pytest.raises(InjertoError, match=message):
        look(trials=1, **changes)
    assert len(fake.calls) == 1


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("--space hed_lr: unknown; did you mean 'head_lr'", {"space": {"hed_lr": "1..2"}}),
        ("cannot be read; write two numbers", {"space": {"lr": "a..b"}}),
        ("is empty; write the smaller number first", {"space": {"lr": "1e-2..1e-3"}}),
        ("the space is empty", {"space": {}}),
        ("needs two or more different values", {"space": {"augment": "none"}}),
        ("is no number; write its values", {"space": {"augment": "1..2"}}),
        ("is a whole number", {"space": {"batch_size": "1.5..8"}}),
        ("--weight-decay", {"space": {"weight_decay": "-1..0.1"}}),
        ("unknown --augment 'lihgt'", {"space": {"augment": "none,lihgt"}}),
        ("cannot be searched", {"space": {"source": "day,night"}}),
        ("as a flag and in --space", {"space": {"lr": "1e-3..1e-2"}, "lr": 0.1}),
        ("is an option of lora", {"space": {"r": "2..8"}}),
        ("must be a number from 1 to 4096", {"space": {"r": "0..8"}, "tuning": "lora"}),
        ("is given in --tuning too", {"space": {"r": "2..8"}, "tuning": "lora(r=4)"}),
        ("is the weight of an alignment: give --alignment mmd", {"space": {"mmd": "0..1"}}),
        ("given in --alignment too", {"space": {"mmd": "0..1"}, "alignment": "mmd:2"}),
        ("unknown --sampler 'tpee'; did you mean 'tpe'", {"sampler": "tpee"}),
        ("unknown --pruner", {"pruner": "hyper"}),
        ("unknown --select-by 'infomx'; did you mean 'infomax'", {"select_by": "infomx"}),
        ("it needs a --target", {"select_by": "bnm", "target": ()}),
        ("leaves nothing to search", {"head": "probe", "space": None, "target": ()}),
        ("nothing is left to search", {"space": None, "head_lr": 0.1, "weight_decay": 0.0}),
        ("--trials must be 1", {"trials": 0}),
        ("--minutes is a number above 0", {"minutes": 0}),
        ("--seeds must be 1", {"seeds": 0}),
        ("no domain 'dawn'", {"target": "dawn"}),
        ("unknown alignment 'mdm'", {"alignment": "mdm"}),
        ("judges classifiers", {"task": "causal-lm", "tuning": "lora", "target": (), "space": {"lr": "1..2"}}),
        ("cannot be opened", {"storage": "nosuch://user:secret@host/db"}),
    ],
)
def test_errors_come_before_the_first_trial(
    fake: Any, look: Call, tmp_path: Path, message: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(InjertoError, match=message) as error:
        look(**changes)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)
    assert fake.calls == [] and not (tmp_path / "out").exists()


def test_a_foreign_folder_is_refused(fake: Any, look: Call, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InjertoError, match="holds 'thesis.txt'"):
        look()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_shared_storage_holds_several_searches(fake: Any, look: Call, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    first, second = (look(tmp_path / name, storage=url, trials=2) for name in ("one", "two"))
    assert told(first) == told(second) and len(fake.calls) == 4 and not (tmp_path / "one" / "search.db").exists()
    with pytest.raises(InjertoError, match=r"study 'one' was begun with other settings"):
        look(tmp_path / "elsewhere" / "one", storage=url, tuning="last:1", trials=2)
    assert hide_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


def stopped_at(number: int, kind: type[BaseException], call: Callable[[], Any]) -> tuple[int, Any]:
    """Raise at one of the statements that the storage is given: how many there were, and what was returned."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    seen = 0

    def hear(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            raise kind

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        with suppress(kind):
            return seen, call()
    finally:
        event.remove(Engine, "before_cursor_execute", hear)
    return seen, None


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 8))])
@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_stopped_at_any_statement_it_goes_on(part: int, sampler: str, fake: Any, look: Call, tmp_path: Path) -> None:
    """While the tables are made, a point is drawn, a value is told: the same trials, none of them twice or undrawn."""
    look = partial(look, sampler=sampler)
    whole = look(tmp_path / "whole", trials=3)
    for number in range(1 + part * 23, 10_000, 193):
        out = tmp_path / str(number)
        _, found = stopped_at(number, KeyboardInterrupt, lambda out=out: look(out, trials=3))  # type: ignore[misc]
        if found is not None:
            break
        _, again = stopped_at(7 * number % 60 + 1, KeyboardInterrupt, lambda out=out: look(out, trials=3))  # type: ignore[misc]
        assert again is None or told(again) == told(whole), number
        assert told(look(out, trials=3)) == told(whole), number


def test_running_trials_of_living_processes_are_left_alone(fake: Any, look: Call, tmp_path: Path) -> None:
    look(trials=1)
    ledger = Ledger(f"sqlite:///{tmp_path / 'out' / 'search.db'}", "out", _about(tmp_path), None)
    trial = ledger.study.ask()
    trial.set_user_attr("worker", json.dumps(["another-machine", 1, "1"]))
    assert ledger.give_back() == []
    trial.set_user_attr("worker", json.dumps([os.uname().nodename, os.getpid(), "another start"]))
    assert ledger.give_back() == ([1] if Path("/proc/self/stat").exists() else [])


def _about(tmp_path: Path) -> dict[str, Any]:
    import optuna

    study = optuna.load_study(study_name="out", storage=f"sqlite:///{tmp_path / 'out' / 'search.db'}")
    found: dict[str, Any] = study.user_attrs["search"]
    return found


def test_a_trial_whose_point_another_process_is_drawing_has_no_parameters_yet() -> None:
    import optuna

    from injerto.studies.found import entry_of
    from injerto.studies.space import Dimension

    study = optuna.create_study()
    trial = study.ask()
    space = [Dimension("head_lr", "field", (), 1e-5, 1e-1), Dimension("weight_decay", "field", (), 1e-3, 1e-1)]
    trial.suggest_float("head_lr", 1e-5, 1e-1, log=True)
    assert entry_of(study.trials[0], space, None)["parameters"] is None
    trial.suggest_float("weight_decay", 1e-3, 1e-1, log=True)
    assert set(entry_of(study.trials[0], space, None)["parameters"]) == {"head_lr", "weight_decay"}
