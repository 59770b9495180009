import inspect
import re
from pathlib import Path

import pytest
import yaml

from injerto.basics.errors import InjertoError
from injerto.recipe.defaults import DEFAULTS_VERSION
from injerto.recipe.recipe import Recipe, load_recipe, make_recipe

BAD = {  # setting: (value, what the message must name)
    "epochs": [
        (0, "--epochs"),
        (-1, "--epochs"),
        (float("nan"), "--epochs"),
        (float("inf"), "--epochs"),
        ("x", "--epochs"),
    ],
    "steps": [(0, "--steps"), (1.5, "--steps"), ("many", "--steps")],
    "batch_size": [(0, "--batch-size"), (-8, "--batch-size")],
    "lr": [(0, "--lr"), (-1e-3, "--lr"), (float("nan"), "--lr")],
    "head_lr": [(0, "--head-lr")],
    "weight_decay": [(-1, "--weight-decay"), (float("inf"), "--weight-decay")],
    "optimizer": [("adam", "--optimizer")],
    "warmup": [(1.0, "--warmup"), (-0.1, "--warmup")],
    "clip": [(-1, "--clip")],
    "accumulate": [(0, "--accumulate")],
    "class_weights": [("inverse", "--class-weights")],
    "label_smoothing": [(1.0, "--label-smoothing")],
    "image_size": [(8, "--image-size"), (10_000, "--image-size")],
    "augment": [("heavy", "--augment")],
    "views": [(-1, "--views")],
    "patience": [(0, "--patience")],
    "precision": [("fp16", "--precision")],
    "threads": [(0, "--threads")],
    "seed": [(-1, "--seed"), (2**63, "--seed"), (0.5, "--seed")],
    "split_seed": [(-1, "--split-seed")],
    "head": [("cosine", "--head")],
    "neck": [("0", "--neck"), ("wide", "--neck"), ("-1", "--neck"), ("\u00b2", "--neck")],
    "norm": [("froze", "did you mean 'frozen'"), ("recalibrate:unseen", "--norm")],
    "source": [(3.5, "--source")],
}


@pytest.mark.parametrize(("name", "value", "says"), [(name, *pair) for name, pairs in BAD.items() for pair in pairs])
def test_a_value_out_of_bounds_is_named_in_one_line(name: str, value: object, says: str) -> None:
    with pytest.raises(InjertoError) as caught:
        make_recipe(data="x", **{name: value})
    message = str(caught.value)
    assert says in message
    assert "\n" not in message and "pydantic" not in message.lower()


def test_an_unknown_setting_suggests_the_known_one() -> None:
    with pytest.raises(InjertoError, match="unknown setting 'learning_rat'|unknown setting"):
        make_recipe(data="x", learning_rat=1)
    with pytest.raises(InjertoError, match="did you mean 'batch_size'"):
        make_recipe(data="x", batchsize=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epochs": 2, "steps": 5}, "exclude"),
        ({"head": "probe", "tuning": "full"}, "--head probe"),
        ({"head": "probe", "tuning": "last:1"}, "--head probe"),
        ({"head": "probe", "neck": "256"}, "--head probe"),
        ({"head": "probe", "alignment": "mmd"}, "--head probe"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict, says: str) -> None:
    with pytest.raises(InjertoError, match=says):
        make_recipe(data="x", **settings)


def test_none_means_not_given_and_a_word_is_a_list_of_one() -> None:
    assert make_recipe(data="x", lr=None, source="a", target=("b", "c=d")) == make_recipe(
        data="x", source=["a"], target=["b", "c=d"]
    )
    assert make_recipe(data="x", norm="recalibrate").norm == "recalibrate:source"


def test_what_is_given_wins_over_the_table_also_where_it_is_zero() -> None:
    zeros = {"weight_decay": 0, "warmup": 0, "clip": 0, "label_smoothing": 0, "views": 0, "split_seed": 0}
    recipe = make_recipe(data="x", seed=5, tuning="last:1", **zeros).resolved("image")
    assert {name: getattr(recipe, name) for name in zeros} == zeros


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("tuning", ["head", "last:2", "full"])
def test_a_resolved_recipe_leaves_nothing_open(modality: str, tuning: str) -> None:
    recipe = make_recipe(data="x", tuning=tuning).resolved(modality)
    for name in (
        "backbone",
        "norm",
        "batch_size",
        "lr",
        "head_lr",
        "weight_decay",
        "augment",
        "views",
        "select",
        "split_seed",
    ):
        assert getattr(recipe, name) is not None, name
    assert (recipe.epochs is None) != (recipe.steps is None)
    assert recipe.resolved(modality) == recipe
    assert make_recipe(data="x", tuning=tuning, steps=7).resolved(modality).epochs is None


def test_split_seed_follows_the_seed_unless_given() -> None:
    assert make_recipe(data="x", seed=3).resolved("image").split_seed == 3
    assert make_recipe(data="x", seed=3, split_seed=0).resolved("image").split_seed == 0


def test_lr_is_the_heads_where_nothing_else_moves() -> None:
    assert make_recipe(data="x", lr=0.5).resolved("image").head_lr == 0.5
    assert make_recipe(data="x", lr=0.5, head_lr=0.1).resolved("image").head_lr == 0.1
    assert make_recipe(data="x", lr=0.5, tuning="full").resolved("image").head_lr != 0.5


def test_views_of_the_design() -> None:
    def views(**settings: object) -> int | None:
        return make_recipe(data="x", **settings).resolved("image").views

    assert views(tuning="head") == 1
    assert views(tuning="last:2") == 4
    assert views(tuning="full") == 0
    assert make_recipe(data="x", tuning="full").resolved("text").views == 1
    assert views(tuning="last:2", augment="none") == 1


def test_an_aligned_run_keeps_its_last_checkpoint() -> None:
    assert make_recipe(data="x", alignment="mmd").resolved("image").select == "last"
    assert make_recipe(data="x").resolved("image").select == "best-source-val"


EVERYTHING = {
    "data": "d\u00e4ta/x.csv", "source": ("a", "b: c"), "target": ("t=p/q",), "input": "text", "label": "no", "domain": "d",
    "group": r"^(\w+):", "split_column": "split", "split_file": "s.csv", "backbone": "timm:resnet18", "tuning": "last:2",
    "alignment": "mmd(stages=5/6):0.5+mcc", "head": "mlp", "neck": "256", "norm": "recalibrate:target", "steps": 7,
    "batch_size": 5, "lr": 1e-5, "head_lr": 3e-4, "weight_decay": 0.0, "optimizer": "sgd", "warmup": 0.25, "clip": 0.0,
    "accumulate": 2, "class_weights": "balanced", "label_smoothing": 0.1, "image_size": 64, "augment": "standard",
    "views": 3, "select": "last", "patience": 4, "precision": "bf16", "threads": 2, "seed": 2**62, "split_seed": 1,
    "skip_bad": True, "defaults_version": DEFAULTS_VERSION, "layer_decay": 0.5, "l2_sp": 0.1, "average": "ema",
    "slider": False, "remember": "other:day", "track": ("wandb",), "shots": 5, "task": "classification",
    "max_length": 32, "objective": "vrex(penalty=2)", "target_labels": "2",
    "allow_outside": True,
}  # fmt: skip


@pytest.mark.parametrize("settings", [{"data": "x"}, EVERYTHING], ids=["least", "everything"])
def test_yaml_round_trip(tmp_path: Path, settings: dict) -> None:
    recipe = make_recipe(**settings)
    recipe.save(tmp_path / "recipe.yaml")
    assert make_recipe(**load_recipe(tmp_path / "recipe.yaml")) == recipe
    plain = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    assert set(plain) == set(Recipe.model_fields)
    recipe.save(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "recipe.yaml").read_bytes()


def test_the_round_trip_misses_no_field() -> None:
    assert set(EVERYTHING) | {"epochs"} == set(Recipe.model_fields)


def test_yaml_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("batch-size: 4\nlr: 1e-3\nsource: noto\nskip-bad: true\nsteps: null\n")
    recipe = make_recipe(data="x", **load_recipe(path))
    assert (recipe.batch_size, recipe.lr, recipe.source, recipe.skip_bad, recipe.steps) == (
        4,
        1e-3,
        ("noto",),
        True,
        None,
    )


@pytest.mark.parametrize(
    "content", [b"- a\n- b\n", b"text", b"a: [1\n", b"\xff\xfe\x00", b"1: 2\n", b"", b"a: !!python/object:os.x {}\n"]
)
def test_a_broken_yaml_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(InjertoError) as caught:
        make_recipe(**load_recipe(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(InjertoError, match=r"nothing\.yaml"):
        load_recipe(tmp_path / "nothing.yaml")


def test_every_field_is_documented() -> None:
    for name in Recipe.model_fields:
        if name != "defaults_version":
            assert re.search(rf"^\s+{name}: ", inspect.getdoc(Recipe) or "", re.MULTILINE), name


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        make_recipe(data="x").lr = 1.0  # type: ignore[misc]
