import pytest

from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import AlignmentTerm, TuningSpec, parse_alignment, parse_tuning
from injerto.recipe.recipe import make_recipe

TUNINGS = {
    "head": TuningSpec("head"),
    "last:1": TuningSpec("last", 1),
    "last:12": TuningSpec("last", 12),
    " last : 2 ": TuningSpec("last", 2),
    "full": TuningSpec("full"),
    "gradual": TuningSpec("gradual"),
    "lp-ft": TuningSpec("lp-ft"),
    "bitfit": TuningSpec("bitfit"),
    "norm": TuningSpec("norm"),
    "lora": TuningSpec("lora"),
    "lora:last:3": TuningSpec("lora", 3),
    "lora(r=8)": TuningSpec("lora", None, {"r": "8"}),
    "lora(r=8,alpha=16,variant=dora,targets=query/value)": TuningSpec(
        "lora", None, {"r": "8", "alpha": "16", "variant": "dora", "targets": ("query", "value")}
    ),
    "lora( r = 8 , targets = query / key / value ) : last : 2": TuningSpec(
        "lora", 2, {"r": "8", "targets": ("query", "key", "value")}
    ),
}


@pytest.mark.parametrize("text", TUNINGS)
def test_every_tuning_of_the_grammar(text: str) -> None:
    spec = parse_tuning(text)
    assert spec == TUNINGS[text]
    assert parse_tuning(str(spec)) == spec  # what is written is what is read
    assert " " not in str(spec)


ALIGNMENTS = {
    "none": (),
    " none ": (),
    "mmd": (AlignmentTerm("mmd"),),
    "mmd:0.5": (AlignmentTerm("mmd", {}, 0.5),),
    "mmd:0": (AlignmentTerm("mmd", {}, 0.0),),
    "mmd:1e-3": (AlignmentTerm("mmd", {}, 1e-3),),
    "cdan-e": (AlignmentTerm("cdan-e"),),
    "mmd(stages=5/6)": (AlignmentTerm("mmd", {"stages": ("5", "6")}),),
    "mmd(stages=5/6,kernel=rbf):0.5+mcc": (
        AlignmentTerm("mmd", {"stages": ("5", "6"), "kernel": "rbf"}, 0.5),
        AlignmentTerm("mcc"),
    ),
    "dann : 0.1 + coral ( stages = 1 / 2 ) : 2 + mcc": (
        AlignmentTerm("dann", {}, 0.1),
        AlignmentTerm("coral", {"stages": ("1", "2")}, 2.0),
        AlignmentTerm("mcc"),
    ),
}


@pytest.mark.parametrize("text", ALIGNMENTS)
def test_every_alignment_of_the_grammar(text: str) -> None:
    assert parse_alignment(text) == ALIGNMENTS[text]


BAD_TUNINGS = {
    "": "cannot be read",
    "last": "how many stages",
    "last:": "cannot be read",
    "last:0": "number of stages",
    "last:-1": "number of stages",
    "last:two": "number of stages",
    "last:1.5": "number of stages",
    "last:\u00b2": "number of stages",
    "last:1:2": "how many stages",
    "heads": "did you mean 'head'",
    "Full": "cannot be read",
    "full:2": "nothing may follow",
    "head:1": "nothing may follow",
    "lora:2": "nothing may follow",
    "lora:last": "nothing may follow",
    "lora:last:0": "number of stages",
    "head(r=8)": "takes no options",
    "last(r=8):2": "takes no options",
    "lora(r)": "key=value",
    "lora(r=)": "key=value",
    "lora(=8)": "key=value",
    "lora(r=8": "cannot be read",
    "lora r=8)": "cannot be read",
    "lora(r=(8))": "cannot be read",
    "none": "unknown tuning",
    "last2": "unknown tuning",
    "head\nfull": "unknown tuning",
}


@pytest.mark.parametrize("text", BAD_TUNINGS)
def test_a_bad_tuning_is_one_line(text: str) -> None:
    for parse in (parse_tuning, lambda value: make_recipe(data="x", tuning=value)):
        with pytest.raises(InjertoError, match=BAD_TUNINGS[text].replace("(", r"\(")) as caught:
            parse(text)
        assert len(str(caught.value)) > 10


BAD_ALIGNMENTS = [
    "", "+", "mmd+", "+mmd", "mmd++mcc", "none+mmd", "mmd+none", "mmd:", "mmd:x", "mmd:nan", "mmd:inf", "mmd:-1",
    "mmd:0.5:2", "mmd(", "mmd(stages)", "mmd(stages=)", "mmd)", "MMD", "mmd mcc:",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_ALIGNMENTS)
def test_a_bad_alignment_is_one_line(text: str) -> None:
    for parse in (parse_alignment, lambda value: make_recipe(data="x", alignment=value)):
        with pytest.raises(InjertoError) as caught:
            parse(text)
        assert "alignment" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_recipe_keeps_settings_without_spaces() -> None:
    recipe = make_recipe(data="x", tuning=" last : 2 ", alignment=" mmd ( stages = 5 / 6 ) : 0.5 + mcc ")
    assert recipe.tuning == "last:2"
    assert recipe.alignment == "mmd(stages=5/6):0.5+mcc"
    assert make_recipe(data="x", alignment="none\n").alignment == "none"
