"""Only one module deletes, and only by a mark; temporaries of the living stay."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import injerto
from injerto.basics import removal
from injerto.basics.files import atomic_path, entries, remove_leftovers, write_text
from injerto.basics.removal import (
    is_abandoned,
    remove_listed,
    remove_temporary,
    scratch_folder,
    sweep,
    temporary_beside,
)

SOURCES = Path(injerto.__file__).parent
DELETING = {"unlink", "rmdir", "removedirs", "rmtree", "rename", "renames", "TemporaryDirectory", "mkdtemp", "move"}
"""Methods of paths, of ``os``, ``shutil`` and ``tempfile`` that remove a file or folder, or take its name away."""
ALLOWED = {"basics/removal.py"}


def deleting(tree: ast.AST) -> list[str]:
    """Calls that delete or replace what has a name, by their names and places."""
    imported = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "tempfile")
        for alias in node.names
    }  # fmt: skip
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute):
            owner = function.value.id if isinstance(function.value, ast.Name) else ""
            bad = function.attr in DELETING - {"move", "mkdtemp"}
            bad |= function.attr in DELETING | {"remove", "replace"} and owner in ("os", "shutil", "tempfile")
            bad |= (
                function.attr == "replace" and len(node.args) == 1 and not node.keywords
            )  # of a path; a text's has two
            if bad:
                found.append(f"{function.attr}, line {node.lineno}")
        elif isinstance(function, ast.Name) and imported.get(function.id) in DELETING | {"remove", "replace"}:
            found.append(f"{function.id}, line {node.lineno}")
    return found


def test_only_one_module_deletes() -> None:
    found = {
        str(path.relative_to(SOURCES)): calls
        for path in SOURCES.rglob("*.py")
        if (calls := deleting(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert set(found) == ALLOWED, {name: calls for name, calls in found.items() if name not in ALLOWED}


@pytest.mark.parametrize(
    "code",
    ["import os\nos.remove(p)", "import shutil\nshutil.rmtree(p)", "from shutil import rmtree as away\naway(p)", "p.unlink()",
     "p.replace(q)", "import os\nos.replace(p, q)", "p.rename(q)", "Path(p).rmdir()", "import tempfile\ntempfile.mkdtemp()"],
)  # fmt: skip
def test_that_test_sees_deletions(code: str) -> None:
    assert deleting(ast.parse(code))
    assert not deleting(ast.parse("a.replace('x', 'y')\nsome.remove(1)\nreplace(recipe, seed=1)"))


def kill_while(folder: Path, what: str) -> None:
    """A process that is killed in the middle of writing something."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom injerto.basics.files import atomic_path\n"
        "from injerto.basics.lock import hold\nfrom injerto.basics.removal import scratch_folder\n"
        f"folder = Path({str(folder)!r})\n{what}\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9


WRITE = "with atomic_path(folder / 'x.json') as path:\n    path.write_text('half')\n    os._exit(9)"


def test_temporaries_of_killed_processes_are_removed_at_the_next_write(tmp_path: Path) -> None:
    kill_while(tmp_path, WRITE)
    mine = [tmp_path / name for name in (".x.json.tmp", ".notes.12345678.tmp", ".x.0123abcd-1-2-0123abcd.tmp", "a.tmp")]
    for path in mine:
        path.write_text("the user's")
    assert len(list(tmp_path.iterdir())) == len(mine) + 1
    with atomic_path(tmp_path / "y.json") as temporary:
        temporary.write_text("whole")
        held = temporary.parent
        removal._SWEPT.clear()
        sweep(tmp_path)  # another thread writes into the folder
        assert held.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"y.json", *(path.name for path in mine)}


def test_a_temporary_of_a_living_process_stays(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom injerto.basics.files import atomic_path\n"
        f"with atomic_path(Path({str(tmp_path)!r}) / 'x.json') as path:\n"
        "    path.write_text('whole'); print('begun', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"begun\n"
        (temporary,) = tmp_path.iterdir()
        assert not is_abandoned(temporary) and entries(tmp_path) == set()
        write_text(tmp_path / "y.json", "")
        remove_leftovers(tmp_path)
        other.communicate(b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "y.json"]


def test_of_other_machines_only_what_is_old_is_abandoned(tmp_path: Path) -> None:
    other = tmp_path / ".x.0123abcd-1-2-0123abcd.tmp"
    other.mkdir()
    assert not is_abandoned(other)
    os.utime(other, (1e9, 1e9))
    assert is_abandoned(other)
    assert not is_abandoned(tmp_path / "x.0123abcd-1-2-0123abcd.tmp")


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    mine, ours = tmp_path / "mine", tmp_path / "ours"
    for folder in (mine, ours / "sub"):
        folder.mkdir(parents=True)
        (folder / "a").write_text("a")
    place = temporary_beside(tmp_path / "x")
    place.symlink_to(mine)
    remove_temporary(place)
    assert not os.path.lexists(place)
    (ours / "linked").symlink_to(mine)
    (ours / "other").write_text("not listed")
    remove_listed(ours, ["sub/a", "linked/a", "../mine/a", str(mine / "a"), "gone"])
    assert {path.name for path in ours.iterdir()} == {"linked", "other"}
    assert (mine / "a").read_text() == "a"
    with pytest.raises(AssertionError):
        remove_temporary(mine)


def test_scratch_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    kill_while(tmp_path, "(scratch_folder() / 'x').write_text('half'); os._exit(9)")
    assert len(list(tmp_path.iterdir())) == 1
    folder = scratch_folder()
    assert list(tmp_path.iterdir()) == [folder]
    remove_temporary(folder)
    assert not list(tmp_path.iterdir())
