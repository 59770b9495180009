"""The row that is taken where the target has no labels."""

from typing import Any

from injerto.studies.choice import choose


def row(label: str, seed: int, score: float, source: float = 0.9, rejected: str | None = None) -> dict[str, Any]:
    """What is looked at of a finished run; a target accuracy is there to be ignored."""
    return {
        "row": label,
        "seed": seed,
        "status": "ok",
        "validators": {"rejected": rejected, "scores/infomax": score, "scores/snd": -score},
        "domains": {
            "day": {"role": "source", "splits": {"val": {"accuracy": source}}},
            "dusk": {"role": "target", "splits": {"test": {"accuracy": 1 - score}}},
        },
    }


def test_the_highest_mean_score_wins_whatever_the_target_accuracy() -> None:
    rows = [row("a", 0, 0.5), row("a", 1, 0.6), row("b", 0, 0.9), row("b", 1, 0.3)]
    found = choose(rows)
    assert found is not None
    assert found["row"] == "b" and found["scores"] == {"a": 0.55, "b": 0.6}
    assert found["turned_away"] == [] and found["seeds"] == [0, 1]
    other = choose(rows, "snd")
    assert other is not None and other["row"] == "a"


def test_a_row_that_is_rejected_or_forgot_the_source_is_turned_away() -> None:
    rows = [row("a", 0, 0.1), row("b", 0, 0.9, source=0.79), row("c", 0, 0.8, rejected="one class"), row("d", 0, 0.0)]
    found = choose(rows)
    assert found is not None and found["row"] == "a" and found["turned_away"] == ["b", "c"]
    rows += [row(label, seed, 0.5) for label in "abcd" for seed in (1, 2)]
    found = choose(rows)
    assert found is not None and found["turned_away"] == []  # one seed of three


def test_where_all_are_turned_away_the_best_on_the_source_is_left() -> None:
    rows = [row("a", 0, 0.9, 0.8, "one class"), row("b", 0, 0.1, 0.85, "one class")]
    found = choose(rows)
    assert found is not None and found["row"] == "b" and found["turned_away"] == ["a", "b"]


def test_only_rows_with_the_same_seeds_are_compared() -> None:
    rows = [row("a", 0, 0.1), row("a", 1, 0.1), row("b", 0, 0.2), row("b", 1, 0.2), row("late", 0, 0.9)]
    found = choose(rows)
    assert found is not None and found["row"] == "b" and set(found["scores"]) == {"a", "b"}


def test_without_two_judged_rows_there_is_no_choice() -> None:
    failed = {"row": "b", "seed": 0, "status": "failed"}
    unjudged = {**row("c", 0, 1.0), "validators": {}}
    assert choose([row("a", 0, 0.5), failed, unjudged]) is None
    assert choose([]) is None


def weighed(label: str, accuracy: float, balanced: float, kind: str = "balanced") -> dict[str, Any]:
    split = {"accuracy": accuracy, "balanced_accuracy": balanced}
    domains = {"day": {"role": "source", "splits": {"val": split}}}
    return {"row": label, "seed": 0, "status": "ok", "domains": domains, "recipe": {"class_weights": kind}}


def test_rows_with_balanced_class_weights_are_compared_by_balanced_accuracy() -> None:
    rows = [weighed("a", 0.94, 0.6), weighed("b", 0.9, 0.8)]
    found = choose(rows)
    assert found is not None and found["row"] == "b" and found["scores"] == {"a": 0.6, "b": 0.8}
    assert found["rule"] == "source val, balanced"
    mixed = choose([rows[0], weighed("b", 0.9, 0.8, "none")])  # one measure must hold for both: the plain one
    assert mixed is not None and mixed["row"] == "a" and mixed["rule"] == "source val"
    guarded = [{**one, "validators": {"rejected": None, "scores/infomax": 0.9 - one_by_one}} for one_by_one, one in
               enumerate(rows)]  # fmt: skip
    turned = choose(guarded)
    assert turned is not None and turned["turned_away"] == ["a"]  # 0.6 is more than 0.1 below 0.8
