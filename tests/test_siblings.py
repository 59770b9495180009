"""A page in two languages is one page: the same commands in the same order, the same tables, formulas and figures."""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "studies"))
from pages.blocks import FENCE, blocks  # noqa: E402

PAIRS = [("README.md", "README.es.md"), ("docs/lesson.md", "docs/lesson.es.md")]
each_pair = pytest.mark.parametrize(("english", "spanish"), PAIRS, ids=[pair[0] for pair in PAIRS])


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without its blocks of code, where a `#` is no heading and a `|` no table."""
    return FENCE.sub("", text)


def plain(text: str) -> list[tuple[str, object]]:
    """Every block of code in order, without its comments: those are in the page's language."""
    found: list[tuple[str, object]] = []
    for language, block in blocks(text):
        if language in ("python", "py"):
            found.append((language, ast.dump(ast.parse(block))))
        else:
            lines = [re.split(r"\s+#\s", line)[0].rstrip() for line in block.splitlines()]
            found.append((language, [line for line in lines if line and not line.startswith("#")]))
    return found


def headings(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def tables(text: str) -> list[int]:
    """Columns of every line of every table, 0 for a line that is none (several as one)."""
    counts = [line.count("|") - line.count(r"\|") if line.startswith("|") else 0 for line in prose(text).splitlines()]
    return [count for count, before in zip(counts, [0, *counts], strict=False) if count or before]


def numbers(text: str) -> Counter[str]:
    """Every number with a percent sign or a decimal point, and how often it is there."""
    return Counter(re.sub(r"\s", "", one) for one in re.findall(r"\d+(?:\.\d+)?\s*%|\d+\.\d+", text))


def formulas(text: str) -> list[str]:
    """Every displayed formula; words inside are in the page's language."""
    return [re.sub(r"\\text\{.*?\}", r"\\text{}", one) for one in re.findall(r"\$\$.*?\$\$", prose(text), re.DOTALL)]


def marks(text: str) -> list[str]:
    return re.findall(r"<!-- (/?[\w-]+) -->", text)


def test_comments_are_set_aside_and_commands_are_not():
    one = "```bash\nmake demo    # see it\ninjerto fit a --out b\n```\n```python\nx = 1  # one\n```\n"
    other = "```bash\nmake demo    # míralo\ninjerto fit a --out b\n```\n```python\nx = 1  # uno\n```\n"
    assert plain(one) == plain(other)
    assert plain(one) != plain(other.replace("--out b", "--out c"))
    assert plain(one) != plain(other.replace("x = 1", "x = 2"))
    assert numbers("78.4 % [70, 86.5]") == Counter({"78.4%": 1, "86.5": 1})


@each_pair
def test_siblings_have_the_same_commands(english, spanish):
    assert plain(read(english)), f"{english} has no commands"
    for ours, theirs in zip(plain(read(english)), plain(read(spanish)), strict=True):
        assert ours == theirs


@each_pair
def test_siblings_have_the_same_headings_tables_and_blocks(english, spanish):
    one, other = read(english), read(spanish)
    assert headings(one) == headings(other)
    assert tables(one) == tables(other)
    assert marks(one) == marks(other)
    assert one.count("![") == other.count("![")


@each_pair
def test_siblings_have_the_same_figures_and_formulas(english, spanish):
    one, other = numbers(read(english)), numbers(read(spanish))
    assert one == other, f"only in {english}: {one - other}; only in {spanish}: {other - one}"
    assert formulas(read(english)) == formulas(read(spanish))


@each_pair
def test_siblings_lead_to_each_other(english, spanish):
    for page, sibling in ((english, spanish), (spanish, english)):
        assert f"]({Path(sibling).name})" in "\n".join(read(page).splitlines()[:5])
