"""Names, options and needs: said in one line, before compute is spent; and the pages that explain them."""

import re
from pathlib import Path
from typing import Any

import pytest

from injerto.alignment.base import Alignment, alignments, check_needs, find_alignment
from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import TUNINGS, AlignmentTerm, parse_alignment
from injerto.training.robust import OBJECTIVES
from injerto.tuning.lora.settings import OPTIONS, VARIANTS


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


def kinds() -> dict[str, Any]:
    return {name: find_alignment(AlignmentTerm(name))[0] for name in alignments()}


def test_all_are_there_and_say_when_to_use_them() -> None:
    assert set(alignments()) == {
        "cdan", "cdan-e", "cdann", "coral", "dann", "lmmd", "mcc", "mmd", "self-training", "supcon"
    }  # fmt: skip
    for kind in kinds().values():
        assert kind.__doc__ and "Use it:" in kind.__doc__ and "Not:" in kind.__doc__
        assert issubclass(kind, Alignment)


def test_options_are_read() -> None:
    _, options = find_alignment(parse_alignment("mmd(stages=5/6,estimator=linear)")[0])
    assert options == {"stages": (5, 6), "estimator": "linear", "frequencies": "same"}
    assert find_alignment(parse_alignment("mmd(stages=5)")[0])[1]["stages"] == (5,)


METHODS = Path(__file__).parents[2] / "docs" / "methods"
BESIDE = ("Norm recalibrate", "Mixup", "MixStyle", "SWAD", "Target labels")


def sections() -> dict[str, str]:
    """What docs/methods says on each method: from the heading that names it to the next such heading."""
    found: dict[str, str] = {}
    for path in sorted(METHODS.glob("*.md")):
        names: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                title = line.lstrip("# ")
                named = re.findall("`([^`-][^`]*)`", title) or [name for name in BESIDE if name == title]
                names = named or names
                assert not any(name in found for name in named), f"{named} is there twice"
                found |= dict.fromkeys(named, "")
            for name in names:
                found[name] += f"{line}\n"
    return found


def test_every_method_has_its_formula_and_says_when_to_use_it() -> None:
    objectives = {name: kind for name, kind in OBJECTIVES.items() if name != "erm"}
    tunings = {"last:K" if name == "last" else name for name in TUNINGS}
    text = sections()
    for name in {*alignments(), *objectives, *tunings, *BESIDE}:
        assert name in text, f"docs/methods has no heading with `{name}`"
        assert "$$" in text[name] and "**Use it**" in text[name] and "**Not**" in text[name], name
        assert "```bash\ninjerto fit " in text[name], f"{name} has no command"
        words = " ".join(text[name].split())
        assert "measured here" in words or "<!-- measured -->" in words or "table above" in words, name
    for name, kind in {**kinds(), **objectives}.items():
        for option, known in kind.options.items():
            written = (
                f"`{option}={known.default:g}`" if isinstance(known.default, float) else f"`{option}={known.default}`"
            )
            assert known.several or written in text[name], f"{name}: {written}"
            assert f"{option}=" in text[name], f"{name}({option})"
    assert all(f"`{option}" in text["lora"] for option in OPTIONS)
    assert all(f"`{variant}`" in text["lora"] for variant in VARIANTS)


def test_the_choice_of_methods_links_all_of_them() -> None:
    text = (METHODS / "index.md").read_text(encoding="utf-8")
    for name in {*alignments(), *OBJECTIVES, *TUNINGS} - {"erm", "last"}:
        assert f"`{name}`" in text, name
    for path in METHODS.glob("*.md"):
        assert path.name == "index.md" or f"({path.name}" in text, path.name


@pytest.mark.parametrize("page", sorted(METHODS.glob("*.md")), ids=lambda page: page.stem)
def test_every_page_shows_a_picture_and_says_what_is_seen(page: Path) -> None:
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert pictures
    for seen, path in pictures:
        assert len(seen) > 60, f"{path} needs words that say what is seen"
        assert (page.parent / path).is_file(), path
        assert (page.parent / path).stat().st_size < 60_000, f"{path} is too large"
