"""SECURITY.md says what is so: its table of bounds is that of the program, and the tests that it names are there.

``python tests/test_security.py`` prints the table.
"""

import ast
import re
from pathlib import Path

import injerto.basics.limits as limits

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| `([A-Z][A-Z0-9_]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def bounds() -> dict[str, tuple[str, str]]:
    """Every constant of the module, with its value and the text below it."""
    body = ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body
    found = {}
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            found[name] = (f"{getattr(limits, name):,}", " ".join(str(text).split()))
    return found


def table() -> str:
    """The rows as they are to stand in SECURITY.md."""
    return "\n".join(f"| `{name}` | {value} | {text} |" for name, (value, text) in bounds().items())


def test_the_table_of_bounds_is_that_of_the_program() -> None:
    shown = {
        name: (value.strip(), text.strip()) for name, value, text in ROW.findall((ROOT / "SECURITY.md").read_text())
    }
    assert shown == bounds(), "python tests/test_security.py prints the rows"


def test_every_bound_says_what_it_bounds() -> None:
    for name, (_, text) in bounds().items():
        assert len(text) > 15 and text.endswith("."), name


def test_bounds_stand_in_one_place() -> None:
    """A number that bounds what comes from outside is imported, not written again."""
    kinds = re.compile(
        r"^(?:MAX|LIMIT|MOST|LONGEST|LARGEST|WIDEST)_?\w*(?:BYTES|NAME|ITEMS|ADAPTERS|RANK|NECK|MEMBERS) = \d", re.M
    )
    found = {path.name for path in (ROOT / "src").rglob("*.py") if kinds.search(path.read_text(encoding="utf-8"))}
    assert not found


def test_the_tests_that_are_named_are_there() -> None:
    for place, name in re.findall(
        r"(tests/[\w/]+\.py)::(test_\w+)", (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    ):
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / place).read_text(encoding="utf-8"), re.M), (
            f"{place}::{name}"
        )


if __name__ == "__main__":
    print(table())
