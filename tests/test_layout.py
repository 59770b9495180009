"""The house keeps its shape: what no module does, how long a file may be, what a folder says about itself."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "injerto"
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES} - {PACKAGE})

FORBIDDEN = {
    r"\bnp\.(float|int|bool|object|str)\b(?!_)": "an alias that numpy has dropped",
    r"\.cuda\(": "a device by name; the compute plan chooses",
    r"\b(pickle|dill|joblib|cloudpickle)\.(load|dump)s?\b": "pickle",
    r"\b(import|from) (pickle|dill|joblib|cloudpickle)\b": "pickle",
    r"allow_pickle\s*=\s*True": "pickle",
    r"\btrust_remote_code\s*=\s*True": "running a stranger's code",
    r"(?m)^\s*(from \S+ import \*)": "a star import",
}


def calls_without_weights_only(source: str) -> list[int]:
    """Lines of `torch.load(...)` that don't say `weights_only=True`."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if given.get("weights_only") != "True":
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_keeps_the_rules(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    for pattern, reason in FORBIDDEN.items():
        found = re.search(pattern, source)
        assert found is None, f"{found.group(0)!r}: {reason}"
    assert not calls_without_weights_only(source), "torch.load without weights_only=True"
    assert len(source.splitlines()) <= 450, "too long to read in one sitting"
    assert ast.get_docstring(ast.parse(source)), "no docstring"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_folder_says_what_lives_there(folder: Path) -> None:
    init = folder / "__init__.py"
    assert init.is_file()
    docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
    assert docstring and len(docstring.splitlines()) <= 4


def test_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


WRONG = ["np.float(1)", "m.cuda()", "import pickle", "pickle.load(f)", "f(allow_pickle=True)", "from a import *"]
FINE = ["np.float32(1)", "np.float64(1)", "np.bool_(1)", "np.int64(1)", "torch.cuda.is_available()"]


@pytest.mark.parametrize("source", WRONG + FINE)
def test_the_patterns_find_what_they_forbid_and_spare_what_is_fine(source: str) -> None:
    assert any(re.search(pattern, source) for pattern in FORBIDDEN) == (source in WRONG)


def test_torch_load_is_seen() -> None:
    assert calls_without_weights_only("torch.load(f)\ntorch.load(f, weights_only=False)") == [1, 2]
    assert calls_without_weights_only("torch.load(\n    f,\n    weights_only=True,\n)") == []
