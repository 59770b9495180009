"""What is read from a run's predictions, and how differences are shown."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from injerto.basics.errors import InjertoError
from injerto.statistics.significance import holm
from injerto.studies.answers import Answers, read_answers
from injerto.studies.figures import Figures, Part, correct
from injerto.studies.summary import baseline_of
from injerto.studies.tables import csv_of, gain_text

HEADER = ("domain", "role", "split", "content", "group", "label", "predicted")


@pytest.fixture
def run(image_run: Path, tmp_path: Path) -> Path:
    """A folder with a card that knows blue, green and red, and predictions."""
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_card.json").write_bytes((image_run / "adapter" / "adapter_card.json").read_bytes())
    rows = [
        ("day", "source", "test", "c1", "g1", "red", "red"),
        ("day", "source", "test", "c2", "g2", "red", "blue"),
        ("dusk", "target", "train", "c3", "g3", "blue", "blue"),
        ("dusk", "target", "train", "c4", "g4", "", "blue"),  # no label
        ("dusk", "target", "test", "c5", "g5", "violet", "blue"),  # no class of the run
        ("dusk", "target", "test", "c6", "g1", "green", "red"),
        ("night", "unseen", "test", "c7", "g7", "", "red"),
    ]
    with (folder / "predictions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *rows])
    return folder


def test_answers_leave_out_what_cannot_be_right(run: Path) -> None:
    found = read_answers(run)
    assert {key: part.right.tolist() for key, part in found.items()} == {
        ("day", "test"): [1, 0],
        ("dusk", "train"): [1],
        ("dusk", "test"): [0],
        ("dusk", "train+test"): [1, 0],
        ("night", "test"): [],
    }
    assert {key[0]: part.role for key, part in found.items()} == {"day": "source", "dusk": "target", "night": "unseen"}
    assert found["day", "test"].groups.tolist() == [0, 1]


def test_other_examples_or_another_order_have_another_digest(run: Path) -> None:
    before = read_answers(run)["day", "test"].examples
    path = run / "predictions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].replace(",blue", ",green"), *lines[3:]]) + "\n")
    assert read_answers(run)["day", "test"].examples == before  # said something else, was asked the same
    path.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]) + "\n")
    assert read_answers(run)["day", "test"].examples != before
    path.unlink()
    with pytest.raises(InjertoError, match=r"predictions.csv: .*remove"):
        read_answers(run)


def test_predictions_agree_with_the_metrics(image_run: Path) -> None:
    metrics = json.loads((image_run / "metrics.json").read_text())["domains"]
    for (name, side), part in read_answers(image_run).items():
        if side != "train+test":
            assert np.mean(part.right) == pytest.approx(metrics[name]["splits"][side]["accuracy"])


def test_the_baseline_is_the_row_without_alignment_else_the_first() -> None:
    axes = [{"tuning": tuning, "alignment": name} for tuning in ("head", "full") for name in ("mmd", "none")]
    rows = [f"tuning={one['tuning']} alignment={one['alignment']}" for one in axes]
    assert [baseline_of(one, rows) for one in axes] == [rows[1], None, rows[3], None]
    only = [{"alignment": "mmd"}, {"alignment": "dann"}]
    assert [baseline_of(one, ["alignment=mmd", "alignment=dann"]) for one in only] == [None, "alignment=mmd"]
    assert baseline_of({"lr": 0.1}, ["lr=0.5", "lr=0.1"]) == "lr=0.5"


def test_a_difference_inside_its_interval_is_none() -> None:
    assert gain_text({"gain": 0.031, "gain_low": 0.012, "gain_high": 0.05}) == "+3.1 [+1.2, +5.0]"
    assert gain_text({"gain": 0.01, "gain_low": -0.0001, "gain_high": 0.05}) == "(+1.0 [+0.0, +5.0])"
    assert gain_text({"gain": -0.01, "gain_low": -0.02, "gain_high": 0.0}) == "(-1.0 [-2.0, +0.0])"
    assert gain_text({"gain": None}) == gain_text({}) == "-"


def figures(rng: np.random.Generator, shift: float, draw: int) -> Part:
    right = (rng.random(60) < 0.5 + shift).astype(float)
    return Part(f"{shift} {draw}", draw, "splits", Answers("source", right, np.arange(60), "examples"))


def test_many_rows_are_corrected_for_on_the_same_split() -> None:
    rng = np.random.default_rng(0)
    base = [figures(rng, 0.0, seed) for seed in range(3)]
    gains = [0.45, 0.3, 0.0, 0.05]
    found = [Figures(5).of(own, base) for own in ([figures(rng, gain, seed) for seed in range(3)] for gain in gains)]
    alone = Figures(5).of(base, None)
    correct([alone, *found])
    assert [one["p_adjusted"] for one in found] == holm([one["p"] for one in found])
    assert "p_adjusted" not in alone
    assert [gain_text(one, bold=True).startswith("**+") for one in found] == [True, True, False, False]
    assert not any("*" in gain_text(one) for one in found)


def test_rows_without_number_can_still_be_told_from_chance() -> None:
    """With 2,000 resamples no p-value is below 0.001, and a hundred times that is no difference."""
    rng = np.random.default_rng(1)
    own, base = ([figures(rng, gain, seed) for seed in range(3)] for gain in (0.5, 0.0))
    few, many = (Figures(rows).of(own, base) for rows in (2, 100))
    assert {key: value for key, value in few.items() if key != "p"} == {k: v for k, v in many.items() if k != "p"}
    assert few["p"] == 2 / 2001 and many["p"] == 2 / 10001 and 100 * many["p"] < 0.05


def test_rows_with_other_columns_share_a_table() -> None:
    common = {"seed": 0, "split_seed": 0, "splits": "x", "status": "ok", "reason": None, "run": "r"}
    one = common | {"axes": {"tuning": "head"}, "alignment": {"mmd/distance": 0.5}, "recipe": {"source": ["a", "b"]}}
    other = common | {
        "axes": {"tuning": "lora(r=8,alpha=4)"},
        "recipe": {"source": ["a"], "lr": 0.001, "slider": False},
    }
    first, second = csv.DictReader(csv_of([one, other]).splitlines())
    assert first["alignment/mmd/distance"] == "0.5" and second["alignment/mmd/distance"] == ""
    assert second["tuning"] == "lora(r=8,alpha=4)" and first["recipe/source"] == "a/b"
    assert second["recipe/slider"] == "false" and first["reason"] == ""
