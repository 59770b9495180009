"""Names, options and needs: said in one line, before compute is spent."""

from pathlib import Path

import pytest

from injerto.alignment.base import Alignment, alignments, check_needs, find_alignment
from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import parse_alignment
from injerto.training.robust import OBJECTIVES


@pytest.mark.parametrize(
    ("text", "sources", "targets", "message"),
    [
        ("mdm", 1, 1, "unknown alignment 'mdm'.*mmd"),
        ("mmd(stage=3)", 1, 1, "unknown option 'stage'.*stages"),
        ("mmd(stages=a)", 1, 1, "stages=a must be whole numbers"),
        ("mmd(estimator=best)", 1, 1, "estimator=best must be unbiased or biased or linear"),
        ("mcc(temperature=0)", 1, 1, "temperature=0 must be a number from 0.1 to 100"),
        ("coral(x=1)", 1, 1, "unknown option 'x'.*mean"),
        ("mmd+mmd:2", 1, 1, "names mmd twice"),
        ("mcc", 3, 0, "mcc needs a --target"),
        ("cdann", 1, 1, "cdann needs two or more --source"),
        ("dann", 1, 0, "dann needs two domains: add a --target or a second --source"),
    ],
)
def test_what_cannot_be_is_refused(text: str, sources: int, targets: int, message: str) -> None:
    with pytest.raises(InjertoError, match=message) as found:
        check_needs(parse_alignment(text), sources, targets)
    assert "\n" not in str(found.value)


def test_all_are_there_and_say_when_to_use_them() -> None:
    assert set(alignments()) == {
        "cdan", "cdan-e", "cdann", "coral", "dann", "lmmd", "mcc", "mmd", "self-training", "supcon"
    }  # fmt: skip
    for kind in alignments().values():
        assert kind.__doc__ and "Use it:" in kind.__doc__ and "Not:" in kind.__doc__
        assert issubclass(kind, Alignment)


def test_options_are_read() -> None:
    _, options = find_alignment(parse_alignment("mmd(stages=5/6,estimator=linear)")[0])
    assert options == {"stages": (5, 6), "estimator": "linear", "frequencies": "same"}
    assert find_alignment(parse_alignment("mmd(stages=5)")[0])[1]["stages"] == (5,)


def test_the_page_of_methods_has_every_term_objective_and_option() -> None:
    text = (Path(__file__).parents[2] / "docs" / "alignment-methods.md").read_text()
    everything = {name: kind.options for name, kind in {**alignments(), **OBJECTIVES}.items() if name != "erm"}
    for name, options in everything.items():
        assert f"`{name}`" in text, name
        for option in options:
            assert f"{option}=" in text, f"{name}({option})"
