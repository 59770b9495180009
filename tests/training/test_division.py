"""What is settled before a model is loaded: splits that leave something to learn from."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import injerto
from injerto.basics.errors import InjertoError
from injerto.domains.domain import Domain, Domains
from injerto.recipe.recipe import make_recipe
from injerto.training import prepare as module
from injerto.training.division import check_division, divide, part_of


def domain(name: str, contents: list[str], groups: list[str] | None = None) -> Domain:
    ids = tuple(f"{name}{i}" for i in range(len(contents)))
    labels = tuple("ab"[i % 2] for i in range(len(contents)))
    return Domain(name, ids, labels, ids, tuple(contents), tuple(groups or contents), (None,) * len(contents), ids)


def domains_of(*parts: Domain) -> Domains:
    return Domains({part.name: part for part in parts}, "text", "data")


def checked(found: Domains, **settings: Any) -> None:
    recipe = make_recipe(data="data", source="one", **settings).resolved("text", 10)
    check_division(recipe, found, divide(recipe, found, ["one"]), ["one"], list(recipe.target))


def test_one_group_is_named_as_the_reason() -> None:
    found = domains_of(domain("one", ["same"] * 6))
    sides = {"one": np.asarray(["test"] * 6)}
    recipe = make_recipe(data="data", source="one").resolved("text", 6)
    with pytest.raises(InjertoError, match="all its 6 labelled examples are one group .* fell into test"):
        check_division(recipe, found, sides, ["one"], [])
    apart = domains_of(domain("one", [f"c{i}" for i in range(6)]))
    with pytest.raises(InjertoError, match="its 6 labelled examples all fell into other splits"):
        check_division(recipe, apart, sides, ["one"], [])


def test_a_target_that_is_a_copy_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    contents = [f"c{i}" for i in range(10)]
    checked(domains_of(domain("one", contents), domain("two", [*contents[:6], "x", "y", "z", "w"])), target="two")
    assert "6 of the 10 examples of target 'two' are in a source too" in capsys.readouterr().err
    checked(domains_of(domain("one", contents), domain("two", [*contents[:3], *"xyzwuvq"])), target="two")
    assert "in a source too" not in capsys.readouterr().err


def test_unlabelled_examples_are_no_part_of_a_source() -> None:
    one = domain("one", [f"c{i}" for i in range(4)])
    sides = np.asarray(["train", "val", "train", "train"])
    assert part_of(one, sides, "train", labelled=True).contents == ("c0", "c2", "c3")


def test_what_was_found_is_said_and_a_class_that_looks_like_no_label_is_warned_of(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"text {i},{('good', 'bad', 'NA')[i % 3]}" for i in range(60)] + [f"text {i}," for i in range(60, 70)]
    (tmp_path / "notes.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    injerto.fit(tmp_path / "notes.csv", backbone=f"hf:{tiny_bert}", tuning="head", steps=1, out=tmp_path / "run")
    said = capsys.readouterr().err
    assert "data: 3 classes: NA, bad, good" in said and "'NA' is taken for a class" in said
    counted = re.search(r"data: notes \(source\): (\d+) train, (\d+) val, (\d+) test, 10 without label left out", said)
    assert counted and sum(map(int, counted.groups())) == 60


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "dusk", "alignment": "mmd", "target_labels": "nowhere.csv"},
        {"objective": "irm", "augment": "light+mixup", "source": ["day", "dusk"]},
        {"augment": "light+mixstyle", "source": ["day", "dusk"]},
        {"alignment": "dann", "source": ["day", "dusk"], "batch_size": 2},
    ],
)
def test_what_needs_no_model_is_refused_before_one_is_loaded(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a backbone was loaded")

    monkeypatch.setattr(module, "_backbone", never)
    load: Callable[..., Any] = injerto.fit
    with pytest.raises(InjertoError):
        load(pictures, out=tmp_path / "run", **{"source": "day", **settings})
