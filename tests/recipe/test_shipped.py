"""Shipped recipes: every figure is that of a committed result, and every one can be fitted."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import injerto
from injerto.basics.errors import InjertoError
from injerto.cli.main import run as run_command
from injerto.recipe.recipe import Recipe, load_recipe, make_recipe
from injerto.recipe.shipped import describe_recipes, measured_text, shipped_recipes

ROOT = Path(__file__).parents[2]
NAMES = sorted(shipped_recipes())


def at(file: str, place: list[Any]) -> Any:
    found = json.loads((ROOT / file).read_text())
    for key in place:
        found = found[key]
    return found


def test_there_is_one_for_every_usual_case() -> None:
    assert 6 <= len(NAMES) <= 9


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_the_committed_one(name: str) -> None:
    about = describe_recipes()[name]["about"]
    measured, figures = about["measured"], at(about["from"], about["place"])
    names = {"accuracy": "accuracy", "perplexity": "after", "before": "before", "ratio": "ratio", "low": "low"}
    names |= {"high": "high", "gain": "gain", "gain_low": "gain_low", "gain_high": "gain_high"}
    checked = [key for key in names if key in measured]
    assert {"low", "high"} < set(checked) and {"accuracy", "perplexity"} & set(checked)
    for key in checked:
        assert measured[key] == pytest.approx(
            figures[names[key]], abs=6e-5 if names[key] not in ("after", "before") else 6e-3
        )
    assert ("gain" in figures) == ("gain" in measured) == ("over" in measured)
    whole = json.loads((ROOT / about["from"]).read_text())
    study = whole["comparisons"][about["place"][1]] if about["place"][0] == "comparisons" else whole
    seeds = study["seeds"]
    assert measured["seeds"] == (seeds[measured["domain"]] if isinstance(seeds, dict) else len(seeds))
    assert about["machine"] == study["machine"] and about["study"] == whole["command"]
    if "trainable" in about:
        trainable, size = (at(about["size_from"], place) for place in about["size_places"])
        assert (about["trainable"], about["adapter_bytes"]) == (trainable, size)


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_are_those_that_were_measured(name: str) -> None:
    entry = describe_recipes()[name]
    about, settings = entry["about"], entry["settings"]
    whole = json.loads((ROOT / about["from"]).read_text())
    place = about["place"]
    if place[0] == "comparisons":
        study = whole["comparisons"][place[1]]
        known = study["settings"] | study["summary"][place[3]]["axes"]
    else:
        known = whole["settings"].get(place[1], whole["settings"])
    left_out = {"source", "target", "threads", "split_file"}
    expected = {key: value for key, value in known.items() if key not in left_out}
    assert settings == {"backbone": settings["backbone"]} | expected


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fields = load_recipe(Path(name))
    assert set(fields) <= set(Recipe.model_fields) - {"data", "source", "target", "seed"}
    make_recipe(data="x", **fields)
    Path(name).write_text("tuning: full\n")  # a file of one's own wins
    assert load_recipe(Path(name)) == {"tuning": "full"}


def test_an_unknown_name_says_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InjertoError, match="no shipped recipe either: did you mean 'mmd-lora'"):
        load_recipe(Path("mmd-lore"))
    with pytest.raises(InjertoError, match=r"cannot read x.yaml: No such file or directory$"):
        load_recipe(Path("x.yaml"))


@pytest.mark.parametrize(("name", "more"), [("probe", {}), ("mmd-head", {"target": "dusk", "steps": 8})])
def test_it_fits(pictures: Path, tiny_timm: Path, tmp_path: Path, quick: Any, name: str, more: dict[str, Any]) -> None:
    found = injerto.fit(
        pictures,
        source="day",
        backbone=tiny_timm,
        config=name,
        out=tmp_path / "out",
        **quick | {"image_size": 32} | more,
    )
    recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    settings = describe_recipes()[name]["settings"] | {"backbone": str(tiny_timm), "image_size": 32} | more
    settings["target"] = [settings["target"]] if "target" in settings else []
    assert {key: recipe[key] for key in settings} == settings
    assert found.metrics["domains"]["day"]["splits"]["test"]["accuracy"] > 0.5


def test_the_command_lists_prints_and_refuses(cli: Callable[..., SimpleNamespace], refused: Callable[..., str]) -> None:
    shown = cli("recipes")
    for name, entry in describe_recipes().items():
        assert f"{name}: {entry['about']['for']}" in shown.out and entry["about"]["command"] in shown.out
        assert measured_text(entry["about"]) in shown.out and f"--config {name}" in entry["about"]["command"]
    assert json.loads(cli("recipes", "--json").out) == describe_recipes()
    assert yaml.safe_load(cli("recipes", "probe").out)["head"] == "probe"
    assert json.loads(cli("recipes", "probe", "--json").out) == describe_recipes()["probe"]
    assert "did you mean 'probe'" in refused("recipes", "prob")
    assert run_command(["recipes"]) == 0
