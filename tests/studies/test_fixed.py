"""What all runs of a comparison or a search have in common: a file's settings, those given, those that are varied."""

from pathlib import Path

import pytest

from injerto.basics.errors import InjertoError
from injerto.basics.files import check_own
from injerto.studies.fixed import check_named, fixed_settings


def test_what_is_given_wins_over_the_file_and_what_is_varied_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: x\nseed: 3\nsplit-seed: 4\nepochs: 5\nlr: 0.1\ntuning: lora\nsource: photo\n")
    assert fixed_settings(file, {"tuning": "head", "target": ("a", "b"), "lr": None}, ["lr"]) == {
        "epochs": 5, "tuning": "head", "source": ["photo"], "target": ["a", "b"],
    }  # fmt: skip
    assert "epochs" not in fixed_settings(file, {}, ["steps"])
    assert fixed_settings(file, {"steps": 7}, []) | {"epochs": None} == {
        "steps": 7, "epochs": None, "lr": 0.1, "tuning": "lora", "source": ["photo"],
    }  # fmt: skip
    assert fixed_settings(None, {"out": Path("a/b"), "views": (1, 2)}, ()) == {"out": "a/b", "views": [1, 2]}


def test_data_and_backbones_in_memory_have_no_name() -> None:
    check_named("emoji-styles", {"backbone": None}, "compare")
    for data, backbone in ((["a"], None), ("emoji-styles", object())):
        with pytest.raises(InjertoError, match=r"compare .* give"):
            check_named(data, {"backbone": backbone}, "compare")


def test_a_folder_that_something_else_began_is_not_written_into(tmp_path: Path) -> None:
    check_own(tmp_path / "new", {"a"}, ("a",), "study")
    (tmp_path / ".a.half").touch()
    check_own(tmp_path, {"a"}, ("a",), "study")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InjertoError, match=r"holds 'thesis.txt', which no study wrote"):
        check_own(tmp_path, {"a"}, ("a",), "study")
    (tmp_path / "a").touch()
    check_own(tmp_path, {"a"}, ("a",), "study")
