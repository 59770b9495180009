"""No figure in the pages is typed: their tables are those that the committed results give."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "benchmarks" / "studies"
sys.path.insert(0, str(STUDIES))  # as if the script were started
BLOCKS: dict[tuple[str, str], str] = runpy.run_path(str(STUDIES / "tables.py"))["blocks"]()


@pytest.mark.parametrize(("page", "name"), list(BLOCKS))
def test_a_table_is_the_results(page: str, name: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert f"<!-- {name} -->\n{BLOCKS[page, name]}<!-- /{name} -->" in text, "run benchmarks/studies/tables.py"
