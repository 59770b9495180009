"""The rows of a comparison: the grammar of the axes, names of runs, and what keeps rows comparable."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from injerto.basics.errors import InjertoError
from injerto.studies.grid import (
    command_of,
    describe,
    list_seeds,
    parse_grid,
    parse_rows,
    parse_seeds,
    plan_rows,
    slug_of,
    split_values,
)


def rows(grid: dict[str, Any], seeds: tuple[int, ...] = (0,), **settings: Any) -> list[Any]:
    return plan_rows("data", grid, seeds, settings)[0]


# --- grammar ----------------------------------------------------------------------------------------------------------


def test_commas_inside_parentheses_do_not_split() -> None:
    assert split_values("none, mmd(stages=5/6,kernel=rbf):0.5,lora(r=8,alpha=16):last:2", "x") == [
        "none",
        "mmd(stages=5/6,kernel=rbf):0.5",
        "lora(r=8,alpha=16):last:2",
    ]
    assert parse_grid(["tuning=head,lora", "batch-size=8"]) == {"tuning": ["head", "lora"], "batch_size": ["8"]}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["tuning"], "cannot be read"),
        (["=head"], "cannot be read"),
        (["tuning="], "a value is empty"),
        (["tuning=head,,lora"], "a value is empty"),
        (["tuning=head,"], "a value is empty"),
        (["alignment=mmd(stages=5/6,none"], "parenthesis is open"),
        (["alignment=mmd)"], "parenthesis is open"),
        (["tuning=head", "tuning=lora"], "names tuning twice"),
        (["batch-size=8", "batch_size=4"], "names batch_size twice"),
    ],
)
def test_what_cannot_be_read_is_refused(items: list[str], message: str) -> None:
    with pytest.raises(InjertoError, match=message) as error:
        parse_grid(items)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("grid", "settings", "message"),
    [
        ({}, {}, "nothing to compare"),
        ({"tunings": ["head"]}, {}, "unknown axis; did you mean 'tuning'"),
        ({"seed": [1, 2]}, {}, "--seeds"),
        ({"data": ["a"]}, {}, "one data set"),
        ({"task": ["causal-lm"]}, {}, "classifiers"),
        ({"lr": []}, {}, "has no value"),
        ({"lr": [1e-3]}, {"lr": 1e-3}, "as a flag and as an axis"),
        ({"batch_size": [4]}, {"batch_size": 4}, "--batch-size is given as a flag"),
        ({"tuning": ["head", "hed"]}, {}, "row tuning=hed: unknown tuning"),
        ({"lr": ["1e-3", "0.001"]}, {}, "the row lr=0.001 twice"),
        ({"tuning": ["lora( r=8 )", "lora(r=8)"]}, {}, "twice"),
        ({"lr": ["fast"]}, {}, "row lr=fast: --lr 'fast'"),
        ({"lr": [1e-3]}, {"task": "causal-lm"}, "classifiers"),
        ({"lr": [1e-3]}, {"bath_size": 3}, "did you mean 'batch_size'"),
        ({"tuning": ["head", "full"]}, {"head": "probe"}, "row tuning=full: --head probe"),
    ],
)
def test_what_cannot_be_compared_is_refused(grid: Any, settings: Any, message: str) -> None:
    with pytest.raises(InjertoError, match=message):
        rows(grid, **settings)


def test_seeds() -> None:
    assert parse_seeds("5") == 5 and parse_seeds("0, 2,7") == [0, 2, 7]
    assert list_seeds(3) == [0, 1, 2] and list_seeds((4, 1)) == [4, 1]
    for text in ("", "a", "1,", "-1", "1.5"):
        with pytest.raises(InjertoError, match="--seeds"):
            parse_seeds(text)
    for seeds in (0, [], [1, 1]):
        with pytest.raises(InjertoError, match="--seeds"):
            list_seeds(seeds)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_are_the_product_in_order_with_their_seeds() -> None:
    planned = rows({"tuning": ["head", "lora"], "lr": ["1e-3", "3e-3"]}, (2, 0), steps=7, source="day")
    assert [(one.axes["tuning"], one.axes["lr"], one.seed) for one in planned] == [
        (tuning, lr, seed) for tuning in ("head", "lora") for lr in (1e-3, 3e-3) for seed in (2, 0)
    ]
    assert all(one.recipe.steps == 7 and one.recipe.source == ("day",) for one in planned)
    assert all(one.recipe.split_seed is None for one in planned)  # the run's own seed then
    assert planned[0].label == "tuning=head lr=0.001"
    assert len({one.name for one in planned}) == len(planned)


def test_any_field_may_be_an_axis() -> None:
    planned = rows({"source": ["day/night", "dusk"], "slider": ["true", "false"], "augment": ["none"]}, tuning="full")
    assert [one.recipe.source for one in planned] == [("day", "night")] * 2 + [("dusk",)] * 2
    assert [one.recipe.slider for one in planned] == [True, False] * 2
    assert rows({"backbone": [Path("some/model")]})[0].axes == {"backbone": "some/model"}
    assert rows({"target": ["new=some/where"]})[0].recipe.target == ("new=some/where",)


def test_names_are_readable_safe_and_differ() -> None:
    assert slug_of({"tuning": "lora:last:2", "alignment": "mmd:0.5+mcc"}) == "tuning=lora_last_2,alignment=mmd_0.5+mcc"
    assert slug_of({"batch_size": 8, "lr": 1e-3}) == "batch-size=8,lr=0.001"
    many: list[dict[str, Any]] = [
        {"backbone": name} for name in ("a:b", "a_b", "a/b", "a b", "A:b", "a(b)", "a,b", "a=b", "x" * 300, "x" * 301)
    ]
    many += [{"augment": None}, {"augment": "none"}, {"source": ["a", "b"]}, {"source": ["a/b"]}]
    names = [slug_of(axes) for axes in many]
    assert len({name.lower() for name in names}) == len(many)
    assert all(len(name) < 150 and not set(name) & set('/\\:*?"<>| ()') for name in names)


def test_the_command_gives_the_same_rows_again() -> None:
    settings = {"source": ["day"], "target": ["dusk"], "steps": 3, "skip_bad": True, "group": "a b"}
    text = command_of("my data", {"alignment": ["none", "mmd(stages=5/6,x=1)"], "lr": [1e-3]}, (0, 1), settings, "out")
    words = shlex.split(text)
    assert words[:5] == ["injerto", "compare", "my data", "--source", "day"] and "--skip-bad" in words
    assert words[-4:] == ["--seeds", "2", "--out", "out"]
    assert words[words.index("--group") + 1] == "a b"
    grid = parse_grid([words[i + 1] for i, word in enumerate(words) if word == "--grid"])
    assert grid == {"alignment": ["none", "mmd(stages=5/6,x=1)"], "lr": ["0.001"]}
    assert "--seeds 3,1" in command_of("d", {"lr": [1]}, (3, 1), {}, "out")


def test_rows_beside_the_grid_come_last_and_are_rows_like_others() -> None:
    beside = [{"alignment": "mmd", "tuning": "full"}, {"tuning": "head", "alignment": "mmd"}]
    planned, words = plan_rows("data", {"tuning": ["head", "lora"], "alignment": ["none"]}, (0, 1), {}, beside)
    assert [one.label for one in planned[::2]] == [
        "tuning=head alignment=none",
        "tuning=lora alignment=none",
        "tuning=full alignment=mmd",
        "tuning=head alignment=mmd",
    ]
    assert {one.recipe.select for one in planned} == {"last"} and any("neck" in text for text in words)
    assert {one.recipe.neck for one in planned if one.recipe.tuning == "head"} == {"256"}
    for bad, message in (({"tuning": "full"}, "leaves alignment open"), (dict(planned[0].axes), "twice")):
        with pytest.raises(InjertoError, match=message):
            plan_rows("data", {"tuning": ["head"], "alignment": ["none"]}, (0,), {}, [bad])


def test_the_command_says_rows_beside_the_grid() -> None:
    grid = {"tuning": ["head", "lora(r=8,alpha=4)"], "backbone": ["some model", "b"]}
    beside = [{"tuning": "full", "backbone": "it's a model"}, {"tuning": "lora(r=2,alpha=4)", "backbone": "b"}]
    planned = plan_rows("d", grid, (0,), {}, beside)[0]
    found, further = describe(planned, 2, [])
    assert (found, further) == (grid, beside)
    words = shlex.split(command_of("d", found, (0,), {}, "out", further))
    axes = parse_grid([words[i + 1] for i, word in enumerate(words) if word == "--grid"])
    rows = parse_rows([words[i + 1] for i, word in enumerate(words) if word == "--row"])
    assert [one.label for one in plan_rows("d", axes, (0,), {}, rows)[0]] == [one.label for one in planned]


def test_rows_of_earlier_calls_extend_the_grid_or_stand_beside_it() -> None:
    now = rows({"tuning": ["head"], "lr": [1e-3]})
    earlier = rows({"tuning": ["full", "lora"], "lr": [1e-3]})
    assert describe(now, 0, earlier) == ({"tuning": ["head", "full", "lora"], "lr": [1e-3]}, [])
    other = rows({"tuning": ["full"], "lr": [1e-2]})
    assert describe(now, 0, other) == ({"tuning": ["head"], "lr": [1e-3]}, [{"tuning": "full", "lr": 1e-2}])
    beside = [{"tuning": "full", "lr": 1e-2}]
    both = plan_rows("data", {"tuning": ["head"], "lr": [1e-3]}, (0,), {}, beside)[0]
    assert describe(both, 1, earlier) == ({"tuning": ["head", "full", "lora"], "lr": [1e-3]}, beside)


# --- fairness ---------------------------------------------------------------------------------------------------------


def test_one_aligned_row_makes_every_row_keep_its_last_step() -> None:
    assert {one.recipe.select for one in rows({"tuning": ["head", "lora"]})} == {None}
    planned, words = plan_rows("data", {"tuning": ["head", "lora"], "alignment": ["none", "mmd"]}, (0, 1), {})
    assert {one.recipe.select for one in planned} == {"last"}
    assert any("last step" in text for text in words)
    assert {one.recipe.select for one in rows({"average": ["none", "swad"]}, tuning="full")} == {"last"}
    assert {one.recipe.select for one in rows({"lr": [1e-3, 1e-2]}, alignment="mmd")} == {"last"}


def test_a_selection_rule_that_is_given_stays() -> None:
    planned = rows({"alignment": ["none", "mmd"]}, tuning="full", select="best-source-val")
    assert {one.recipe.select for one in planned} == {"best-source-val"}
    planned = rows({"select": ["best-source-val", "last"], "alignment": ["none", "mmd"]}, tuning="full")
    assert [one.recipe.select for one in planned] == ["best-source-val"] * 2 + ["last"] * 2


def test_rows_with_tuning_head_share_the_neck_of_an_aligned_one() -> None:
    planned, words = plan_rows("data", {"tuning": ["head", "last:1", "lora"], "alignment": ["none", "mmd"]}, (0, 1), {})
    necks = {(one.axes["tuning"], one.axes["alignment"]): one.recipe.neck for one in planned}
    assert {neck for (tuning, _), neck in necks.items() if tuning == "head"} == {"256"}
    assert {neck for (tuning, _), neck in necks.items() if tuning != "head"} == {None}
    assert any("neck" in text for text in words)
    assert {one.recipe.neck for one in rows({"tuning": ["head", "lora"]})} == {None}
    assert {one.recipe.neck for one in rows({"alignment": ["none", "mmd"]}, tuning="full")} == {None}


def test_a_neck_that_is_given_stays() -> None:
    assert {one.recipe.neck for one in rows({"alignment": ["none", "mmd"]}, tuning="head", neck="32")} == {"32"}
    planned = rows({"neck": ["none", "64"], "alignment": ["none", "mmd"]}, tuning="head")
    assert [one.recipe.neck for one in planned] == ["none"] * 2 + ["64"] * 2


def test_a_row_without_alignment_differs_from_the_aligned_one_in_nothing_else() -> None:
    plain, aligned = rows({"alignment": ["none", "mmd"]}, tuning="head", steps=5)
    different = {f for f in type(plain.recipe).model_fields if getattr(plain.recipe, f) != getattr(aligned.recipe, f)}
    assert different == {"alignment"}
    one, other = (row.recipe.resolved("image", 100) for row in (plain, aligned))
    assert {f for f in type(one).model_fields if getattr(one, f) != getattr(other, f)} == {"alignment"}
