"""Names that are hardly classes are seen."""

import pytest

from injerto.domains.labels import look_alikes, means_no_label, several_in_one


@pytest.mark.parametrize("name", ["NA", "n/a", "None", "null", "NaN", "\\N", "(null)", "?", "_unlabeled_"])
def test_words_for_no_label(name: str) -> None:
    assert means_no_label(name) and not means_no_label(f"{name} of the above")


def test_names_that_look_alike_are_put_together() -> None:
    names = ["Pos", "pos", "neg", "ｎｅｇ", "cat", "сat", "1", "1.0", "one"]  # full width; a Cyrillic letter
    assert sorted(look_alikes(names)) == [["1", "1.0"], ["Pos", "pos"], ["cat", "сat"], ["neg", "ｎｅｇ"]]
    assert look_alikes(["a", "b", "10", "01b"]) == []


def test_several_labels_in_one_cell() -> None:
    assert several_in_one(["a", "b", "a;b", "a, b"]) == ["a;b", "a, b"]
    assert several_in_one(["fun, family", "drama", "comedy"]) == []
    assert several_in_one(["x|y", "y|z", "z|x"]) == ["x|y", "y|z", "z|x"]
