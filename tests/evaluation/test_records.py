"""What a run remembers of its splits and columns, and what happens where that is lost."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import injerto
from injerto.basics.errors import InjertoError


@pytest.fixture
def run(image_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(image_run, tmp_path / "run"))


def test_a_lost_or_changed_record_of_splits_is_refused(run: Path, pictures: Path, refused: Callable[..., str]) -> None:
    record = run / "splits.csv"
    text = record.read_text()
    record.write_text("".join(text.splitlines(keepends=True)[:20]))
    assert "splits.csv is damaged" in refused("evaluate", run, pictures)
    record.write_text("what,is,this\n")
    assert "splits.csv is damaged" in refused("evaluate", run, pictures)
    record.unlink()
    assert "splits.csv is missing" in refused("evaluate", run, pictures)


def test_a_bare_adapter_says_that_it_may_have_seen_the_data(
    image_run: Path, pictures: Path, tiny_timm: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    bare = shutil.copytree(image_run / "adapter", tmp_path / "bare")
    said = cli("evaluate", bare, pictures, "--on", "day", "--backbone", tiny_timm)
    assert said.code == 0 and "may be among them" in said.err
    assert "may be among them" not in cli("evaluate", bare, pictures, "--on", "night", "--backbone", tiny_timm).err


def test_what_shots_left_out_is_no_test_example(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    run = injerto.fit(
        pictures, source="day", backbone=tiny_timm, shots=2, steps=2, tuning="last:1", out=tmp_path / "run", **quick
    )
    fitted = run.metrics["domains"]["day"]["splits"]["test"]
    again = run.evaluate(injerto.load_domains(pictures), ["day"])["day"]
    assert again["n"] == fitted["n"] and again["accuracy"] == fitted["accuracy"]
    assert "unused" in run.recorded_splits().values()


def test_of_an_example_in_several_domains_the_split_that_tells_most_counts(
    image_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = injerto.load(image_run)
    rows = [("a", "x", "test"), ("b", "x", "unused"), ("a", "y", "train"), ("b", "y", "test"), ("b", "z", "unused")]
    for given in (rows, rows[::-1]):
        monkeypatch.setattr(type(run), "recorded_rows", lambda _, given=given: given)
        assert run.recorded_splits() == {"x": "test", "y": "train", "z": "unused"}


def test_overwriting_keeps_the_earlier_run_until_the_new_one_is_there(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, refused: Callable[..., str], capsys: Any
) -> None:
    settings = {"source": "day", "backbone": tiny_timm, "steps": 2, "tuning": "last:1", "augment": "none"} | quick
    out = tmp_path / "run"
    injerto.fit(pictures, out=out, **settings)
    before = (out / "adapter" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(InjertoError, match="not finite|became"):
        injerto.fit(pictures, out=out, overwrite=True, **settings | {"lr": 1e30, "head_lr": 1e30, "steps": 6})
    assert "the earlier run is kept" in capsys.readouterr().err
    kept = tmp_path / "run.before"
    assert (kept / "adapter" / "adapter_model.safetensors").read_bytes() == before
    injerto.fit(pictures, out=out, overwrite=True, **settings | {"seed": 1})
    assert not kept.exists() and (out / "metrics.json").exists()
    (out / "mine.txt").write_text("x")
    with pytest.raises(InjertoError, match=r"mine\.txt"):
        injerto.fit(pictures, out=out, overwrite=True, **settings)
    assert (out / "mine.txt").exists() and (out / "metrics.json").exists()


def table(path: Path, rows: list[tuple[str, str]], names: tuple[str, str] = ("words", "stars")) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *rows])
    return path


def test_a_run_knows_its_columns_and_refuses_what_it_cannot_score(
    tiny_bert: Path, quick: dict[str, Any], tmp_path: Path, cli: Callable[..., Any], refused: Callable[..., str]
) -> None:
    rows = [(f"{'good' if i % 2 else 'bad'} book number {'very ' * (i // 2)}", str(i % 2)) for i in range(30)]
    data = table(tmp_path / "data.csv", rows)
    run = injerto.fit(
        data, input="words", label="stars", backbone=tiny_bert, head="probe", out=tmp_path / "run", **quick
    ).path
    assert cli("evaluate", run, data).code == 0
    other = table(tmp_path / "other.csv", [(text, "unheard of") for text, _ in rows], ("text", "label"))
    assert "from which the run read its inputs" in refused("evaluate", run, other)
    assert "no label of other is a class of the run" in refused(
        "evaluate", run, other, "--input", "text", "--label", "label"
    )
    blank = table(tmp_path / "blank.csv", [(f"{text} indeed", "") for text, _ in rows])
    assert "no example of blank has a label" in refused("evaluate", run, blank)


def test_labels_that_are_no_classes_and_probes_without_examples(
    tiny_bert: Path, pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, refused: Callable[..., str]
) -> None:
    rows = [(f"book number {'very ' * i}", f"{i / 7:.3f}") for i in range(40)]
    data = table(tmp_path / "numbers.csv", rows, ("text", "label"))
    common = ("--backbone", tiny_bert, "--out", tmp_path / "run")
    assert "nearly all of them numbers" in refused("fit", data, *common)
    few = table(tmp_path / "few.csv", [("good", "a"), ("bad", "b"), ("film", "a")], ("text", "label"))
    reviews = table(
        tmp_path / "reviews.csv", [(f"book {'very ' * i}", str(i % 2)) for i in range(30)], ("text", "label")
    )
    assert "a probe needs 5" in refused("fit", reviews, *common, "--tuning", "full", "--remember", few)
    flags = ("--backbone", tiny_timm, "--source", "day", "--out", tmp_path / "run")
    assert "at most 65536" in refused("fit", pictures, *flags, "--neck", "70000")
    assert "nothing to act on" in " ".join(refused("fit", pictures, *flags, "--layer-decay", "0.5").split())
    assert "--views" in refused("fit", pictures, *flags, "--views", "1000000")
    assert not (tmp_path / "run").exists()
