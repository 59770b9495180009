"""`injerto --help` answers at once because importing loads nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "transformers", "timm", "datasets", "accelerate"}
HEAVY |= {"sklearn", "scipy", "pandas", "matplotlib", "optuna"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("module", ["injerto", "injerto.cli", "injerto.recipe", "injerto.statistics.bootstrap"])
def test_import_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "injerto" in loaded
    assert not loaded & HEAVY


def test_the_check_itself_sees_a_heavy_import() -> None:
    assert "scipy" in loaded_by("import injerto, scipy.sparse") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by(
        "import injerto.cli, sys\n"
        "sys.argv = ['injerto', '--help']\n"
        "sys.stdout, kept = sys.stderr, sys.stdout\n"
        "try:\n    injerto.cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "sys.stdout = kept"
    )
    assert not loaded & HEAVY
