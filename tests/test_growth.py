"""What should be linear in the data is: one and a half times the exponent is a bug, not noise."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = (
    "read a table of examples", "splits of examples", "splits of domains of 500", "metrics with intervals of examples",
    "metrics with intervals of classes", "bootstrap interval of examples",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_time_grows_as_it_should(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    growth = runpy.run_path(str(BENCHMARKS / "growth.py"))
    cases = {f"{case[0]} of {case[1]}": case for case in growth["cases"](tmp_path)}
    title, what, base, expected, make = cases[name]
    found = growth["grown"]((title, what, base // 4, expected, make), memory=False)
    assert found["exponent"] < 1.5 * found["expected"], found
