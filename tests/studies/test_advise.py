"""Advice: the rules see what is in the data, never a target's labels, and every command is one that can be run."""

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import injerto
from injerto.basics.errors import InjertoError
from injerto.studies import advise as advise_module


@pytest.fixture(scope="module")
def lights(tmp_path_factory: pytest.TempPathFactory, data_writers: SimpleNamespace) -> Path:
    root = tmp_path_factory.mktemp("data") / "lights"
    return Path(data_writers.pictures(root, per_class=40, domains=("day", "dusk", "dark", "night")))


@pytest.fixture(scope="module")
def found(lights: Path, tiny_timm: Path) -> dict[str, Any]:
    return injerto.advise(lights, source="day", target="night", backbone=tiny_timm, threads=1)


def test_another_light_is_aligned_and_the_baseline_stands_beside(found: dict[str, Any]) -> None:
    first, *others, last = found["recipes"]
    assert [one["tuning"] for one in (first, *others)] == ["full", "last:2", "lora:last:2", "head"]
    assert {one["alignment"] for one in (first, *others)} == {"mmd"}
    assert (last["tuning"], last["alignment"]) == ("full", "none")
    assert first["minutes"] > others[2]["minutes"] > 0
    assert found["facts"]["gap"]["level"] in ("close", "far") and found["facts"]["labelled"] == 120


def test_with_little_time_a_quicker_recipe_is_first(
    lights: Path, tiny_timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = {"full": 6000.0, "last:2": 500.0, "lora:last:2": 600.0, "head": 60.0}

    def planned(recipe: Any, *given: Any) -> SimpleNamespace:
        return SimpleNamespace(plan=SimpleNamespace(seconds=cost[recipe.tuning]))

    monkeypatch.setattr(advise_module, "prepare", planned)
    for minutes, order in (
        (200, ["full", "last:2", "lora:last:2", "head", "full"]),
        (30, ["last:2", "lora:last:2", "head", "full", "last:2"]),
        (5, ["head", "last:2", "lora:last:2", "full", "head"]),
        (0.5, ["head", "last:2", "lora:last:2", "full", "head"]),  # none fits: quickest first
    ):
        found = injerto.advise(lights, source="day", target="night", backbone=tiny_timm, threads=1, minutes=minutes)
        assert [one["tuning"] for one in found["recipes"]] == order, minutes


def test_equal_domains_and_no_target_are_not_aligned(tiny_timm: Path, lights: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((lights / "day").rglob("*.png"))):
        copy = tmp_path / "data" / ("even" if number % 2 else "odd") / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    same = injerto.advise(tmp_path / "data", source="even", target="odd", backbone=tiny_timm, threads=1)
    assert {one["alignment"] for one in same["recipes"]} == {"none"} and "nothing to align" in same["recipes"][0]["why"]
    plain = injerto.advise(lights, source=["day", "dusk"], backbone=tiny_timm, threads=1)
    assert {one["alignment"] for one in plain["recipes"]} == {"none"} and plain["facts"]["gap"] is None


def test_permuted_target_labels_change_nothing(
    lights: Path, tiny_timm: Path, found: dict[str, Any], tmp_path: Path
) -> None:
    poisoned = tmp_path / "lights"
    (poisoned / "night").mkdir(parents=True)
    for name in ("day", "dusk", "dark"):
        (poisoned / name).symlink_to(lights / name)
    for old, new in (("blue", "red"), ("green", "blue"), ("red", "green")):
        (poisoned / "night" / new).symlink_to(lights / "night" / old)
    other = injerto.advise(poisoned, source="day", target="night", backbone=tiny_timm, threads=1)
    assert other["facts"] == found["facts"]
    assert [one["settings"] for one in other["recipes"]] == [one["settings"] for one in found["recipes"]]


def test_texts_with_few_labels_begin_with_the_head(reviews: Path, tiny_bert: Path) -> None:
    found = injerto.advise(reviews, source="films", target="books", backbone=tiny_bert, threads=1)
    assert found["recipes"][0]["tuning"] == "head"


def test_each_command_runs(cli: Any, found: dict[str, Any], tmp_path: Path) -> None:
    for number, one in enumerate(found["recipes"][1:3]):
        words = shlex.split(one["command"])
        assert words[:2] == ["injerto", "fit"]
        for flag, value in (("--steps", "2"), ("--out", str(tmp_path / str(number)))):
            if flag in words:
                words[words.index(flag) + 1] = value
            else:
                words += [flag, value]
        shown = cli(*words[1:], "--json")
        assert shown.code == 0, shown.err
        recipe = injerto.load(tmp_path / str(number)).path / "recipe.yaml"
        assert f"tuning: {one['tuning']}" in recipe.read_text()


def test_the_command_line(cli: Any, lights: Path, tiny_timm: Path) -> None:
    flags = ("--source", "day", "--target", "night", "--backbone", tiny_timm, "--threads", 1)
    shown = cli("advise", lights, *flags)
    assert shown.code == 0 and "1. --tuning full --alignment mmd" in shown.out and "injerto fit" in shown.out
    recipes = json.loads(cli("advise", lights, *flags, "--json").out)["recipes"]
    assert recipes[0]["why"] and len({one["command"].split("--out ")[1] for one in recipes}) == len(recipes)


def test_bad_pictures_are_left_out_where_asked_and_by_the_commands(
    lights: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    shutil.copytree(lights, tmp_path / "data")
    next((tmp_path / "data" / "day" / "red").glob("*.png")).write_bytes(b"no picture")
    given = {"source": "day", "target": "night", "backbone": tiny_timm, "threads": 1}
    with pytest.raises(InjertoError, match="--skip-bad"):
        injerto.advise(tmp_path / "data", **given)
    found = injerto.advise(tmp_path / "data", skip_bad=True, **given)
    assert found["facts"]["labelled"] == 119
    assert all("--skip-bad" in one["command"] for one in found["recipes"])


def test_names_that_are_not_there_are_refused(lights: Path, tiny_timm: Path) -> None:
    with pytest.raises(InjertoError, match="did you mean 'day'"):
        injerto.advise(lights, source="dy", backbone=tiny_timm)
    with pytest.raises(InjertoError, match="--minutes is a number above 0"):
        injerto.advise(lights, source="day", backbone=tiny_timm, minutes=0)
    with pytest.raises(InjertoError, match="--source"):
        injerto.advise(lights, backbone=tiny_timm)
