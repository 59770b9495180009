"""What all runs of a comparison or search share is refused once, before the first run, and said once."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import injerto
from injerto.basics.errors import InjertoError

Many = Callable[..., Any]


@pytest.fixture(params=["compare", "search"])
def many(request: pytest.FixtureRequest, tiny_timm: Path, tmp_path: Path) -> Many:
    """A function that makes three runs of a comparison or a search."""
    fixed = {"source": "day", "backbone": tiny_timm, "threads": 1, "precision": "fp32", "steps": 2, "augment": "none"}

    def compare(data: Path, **settings: Any) -> Any:
        grid = {"weight_decay": [0.0, 0.1, 0.2]}
        return injerto.compare(data, grid=grid, seeds=1, out=tmp_path / "out", **{**fixed, **settings})

    def search(data: Path, **settings: Any) -> Any:
        space = {"weight_decay": [0.0, 0.1, 0.2]}
        return injerto.search(data, space=space, trials=3, out=tmp_path / "out", **{**fixed, **settings})

    return compare if request.param == "compare" else search


def broken(pictures: Path, folder: Path) -> Path:
    """A copy of the pictures in which two cannot be decoded."""
    data = Path(shutil.copytree(pictures, folder / "broken"))
    for name in ("1.png", "3.png"):
        path = data / "day" / "red" / name
        path.write_bytes(path.read_bytes()[:-900])
    return data


def test_bad_examples_are_refused_once(many: Many, pictures: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(InjertoError, match="2 of .* images cannot be read, first: .*--skip-bad"):
        many(broken(pictures, tmp_path))
    said = capsys.readouterr().err
    assert said.count("3.png") == 1 and "failed" not in said
    assert not list(tmp_path.glob("out/*/*"))


def test_bad_examples_are_counted_once(many: Many, pictures: Path, tmp_path: Path, capsys: Any) -> None:
    many(broken(pictures, tmp_path), skip_bad=True)
    said = capsys.readouterr().err
    assert said.count("cannot be read and are left out") == 1 and said.count("3.png") == 1
    assert "failed" not in said


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "backbone": ({"backbone": "timm:no_such_network"}, "no_such_network"),
    "source": ({"source": "dawn"}, "no domain 'dawn'"),
    "column": ({"label": "colour"}, "--label"),
    "split file": ({"split_file": "nowhere.csv"}, "no split file"),
    "shots": ({"source": ["day", "day"]}, "twice"),
    "modality": ({"backbone": "packaged:minilm-l6"}, "choose another --backbone"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_row_can_begin_with_is_refused_once(
    many: Many, pictures: Path, tmp_path: Path, capsys: Any, name: str
) -> None:
    settings, words = WRONG[name]
    with pytest.raises(InjertoError, match=words):
        many(pictures, **settings)
    assert "failed" not in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*/*"))


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("INJERTO_CACHE_LIMIT", "a lot", "INJERTO_CACHE_LIMIT is 'a lot'"),
        ("INJERTO_CACHE_LIMIT", "", "INJERTO_CACHE_LIMIT is ''"),
        ("INJERTO_CACHE", "", "INJERTO_CACHE is empty"),
    ],
)
def test_a_setting_of_the_cache_that_is_none_is_refused_once(
    many: Many, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, given: str, said: str
) -> None:
    monkeypatch.setenv(name, given)
    with pytest.raises(InjertoError, match=said):
        many(pictures)
    assert not list(tmp_path.glob("out/*/*"))


def test_a_cache_that_cannot_be_written_is_said_once(
    many: Many, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("INJERTO_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("INJERTO_CACHE_LIMIT", "30 GB")
    many(pictures)
    said = capsys.readouterr().err
    assert said.count("cannot be written (Not a directory); INJERTO_CACHE names another: nothing is kept") == 1
    assert "failed" not in said


# --- labels that are no classes, and splits that leave a class out ----------------------------------------------------


@pytest.fixture
def fit(tiny_bert: Path, tiny_timm: Path, tmp_path: Path) -> Callable[..., Any]:
    """A function that fits a probe on texts, or on pictures."""

    def go(data: object, **settings: Any) -> Any:
        backbone = tiny_timm if isinstance(data, Path) and data.is_dir() else tiny_bert
        fixed = {"backbone": backbone, "head": "probe", "threads": 1, "precision": "fp32", "out": tmp_path / "run"}
        return injerto.fit(data, **fixed, **settings)

    return go


def rows(path: Path, *lines: str, head: str = "text,label") -> Path:
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_a_shop_with_one_picture_of_each_icon(fit: Any, tmp_path: Path, capsys: Any) -> None:
    draw = np.random.default_rng(0)
    for name in range(81):
        (tmp_path / "icons" / f"{name}").mkdir(parents=True)
        Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "icons" / f"{name}" / "a.png")
    run = fit(tmp_path / "icons")
    assert len(run.labels) == 81
    assert "no source has a test example" in capsys.readouterr().err
    found = run.predict(sorted((tmp_path / "icons").glob("*/a.png"), key=str))
    assert np.mean([a == b for a, b in zip(found, sorted(map(str, range(81))), strict=True)]) > 0.2  # of 81 classes


def test_a_column_of_numbers_is_named(fit: Any, tmp_path: Path) -> None:
    data = rows(tmp_path / "a.csv", *(f"a lovely film {i},{i * 1.37:.2f}" for i in range(60)), head="text,price")
    for settings in ({"label": "price"},):
        with pytest.raises(InjertoError, match="column 'price' holds 60 different values in 60 .* of them numbers"):
            fit(data, **settings)


def test_a_column_of_names_is_asked_about(fit: Any, tmp_path: Path) -> None:
    data = rows(tmp_path / "a.csv", *(f"a lovely film {i},title {chr(65 + i % 26)}{i}" for i in range(40)))
    with pytest.raises(
        InjertoError, match="column 'label' holds 40 different .* name the column .* --label, also where"
    ):
        fit(data)
    assert len(fit(data, label="label").labels) == 40  # what the message advises is true


def test_a_class_without_train_examples_is_said(fit: Any, tmp_path: Path, capsys: Any) -> None:
    sides = ["train"] * 4 + ["val"] * 3 + ["test"] * 3
    lines = [f"a {label} film {i},{label},{side}" for label in ("good", "bad") for i, side in enumerate(sides)]
    lines += [f"a rare film {i},rare,val" for i in range(3)] + ["a lost film,lost,test", "a lost film 2,lost,val"]
    run = fit(rows(tmp_path / "a.csv", *lines, head="text,label,split"), split_column="split")
    said = capsys.readouterr().err
    assert (
        "warning: no source has a train example of 2 of 4 classes: lost (1 in val, 1 in test); rare (3 in val, 0 in t"
        in said
    )
    assert "no source has a test example of" not in said and said.count("rare (") == 1
    assert not {"rare", "lost"} & set(run.predict([line.split(",")[0] for line in lines]))


def test_one_class_in_train_names_what_gave_the_splits(fit: Any, tmp_path: Path) -> None:
    lines = [f"a good film {i},good,train" for i in range(6)] + [f"a bad film {i},bad,test" for i in range(6)]
    data = rows(tmp_path / "a.csv", *lines, head="text,label,split")
    with pytest.raises(InjertoError, match="is of the class 'good'.*--split-column split") as caught:
        fit(data, split_column="split")
    assert "--split-seed" not in str(caught.value)
    listed = rows(tmp_path / "s.csv", *(f"a.csv:{i + 2},{line.split(',')[2]}" for i, line in enumerate(lines)))
    listed.write_text(listed.read_text().replace("text,label", "path,split"))
    with pytest.raises(InjertoError, match=r"is of the class 'good'.*--split-file .*s\.csv") as caught:
        fit(data, split_file=str(listed))
    assert "--split-seed" not in str(caught.value)
    frames = {"train": data_frame(lines[:6]), "test": data_frame(lines[6:])}
    datasets = pytest.importorskip("datasets")
    parts = datasets.DatasetDict({side: datasets.Dataset.from_list(frame) for side, frame in frames.items()})
    with pytest.raises(InjertoError, match=r"is of the class 'good'.*the data say") as caught:
        fit(parts)
    assert "--split" not in str(caught.value)


def data_frame(lines: list[str]) -> list[dict[str, str]]:
    return [dict(zip(("text", "label"), line.split(","), strict=False)) for line in lines]


def test_other_splits_are_not_blamed_on_the_seed(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    fixed = {"source": "day", "backbone": tiny_timm, "head": "probe"} | quick
    injerto.fit(pictures, out=tmp_path / "a", **fixed)
    injerto.fit(pictures, out=tmp_path / "b", **fixed | {"shots": 2})
    injerto.fit(pictures, out=tmp_path / "c", **fixed | {"seed": 7})
    with pytest.raises(InjertoError, match="learned from different train examples") as caught:
        injerto.soup([tmp_path / "a", tmp_path / "b"], tmp_path / "soup")
    assert "--split-seed" not in str(caught.value)
    with pytest.raises(InjertoError, match="differ in split_seed.*one --split-seed"):
        injerto.soup([tmp_path / "a", tmp_path / "c"], tmp_path / "soup")
