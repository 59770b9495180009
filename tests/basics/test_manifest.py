import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from injerto.basics.errors import InjertoError
from injerto.basics.files import file_sha256
from injerto.basics.manifest import known_sha256, make_kept, open_kept

FILES = {"a.txt": b"one", "cat/1.png": b"two" * 1000, "cat/deep/2.png": b"", "odd \udcff\n.txt": b"three"}


def make(folder: Path) -> Path:
    with make_kept(folder) as content:
        for name, data in FILES.items():
            (content / name).parent.mkdir(parents=True, exist_ok=True)
            (content / name).write_bytes(data)
        (content / "empty").mkdir()
    found = open_kept(folder)
    assert found is not None and {str(p.relative_to(found)): p.read_bytes() for p in files(found)} == FILES
    assert (found / "empty").is_dir()
    return found


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_whole_is_opened_and_its_hashes_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert open_kept(tmp_path / "kept") is None
    found = make(tmp_path / "kept")
    assert open_kept(tmp_path / "kept") == found
    assert all(known_sha256(path) == file_sha256(path) for path in files(found))
    assert known_sha256(tmp_path / "kept" / "manifest.json") is None
    assert capsys.readouterr().err == ""


DAMAGE = {
    "flipped": lambda found: (found / "cat/1.png").write_bytes(b"two" * 999 + b"twn"),
    "cut": lambda found: (found / "cat/1.png").write_bytes(b"two"),
    "missing": lambda found: (found / "a.txt").unlink(),
    "a folder is missing": lambda found: (found / "empty").rmdir(),
    "more": lambda found: (found / "cat/mine.png").write_bytes(b"mine"),
    "a folder more": lambda found: (found / "dog").mkdir(),
    "a link": lambda found: ((found / "a.txt").unlink(), (found / "a.txt").symlink_to(found / "cat/1.png")),
    "a linked folder": lambda found: (
        (found / "cat").rename(found.parent / "cat"), (found / "cat").symlink_to(found.parent / "cat")),
    "no manifest": lambda found: (found.parent / "manifest.json").unlink(),
    "another manifest": lambda found: (found.parent / "manifest.json").write_text('{"files": {}, "folders": []}'),
    "no content": lambda found: found.rename(found.parent / "moved"),
    "a link to elsewhere": lambda found: (
        found.parent.rename(found.parent.with_name("elsewhere")),
        found.parent.symlink_to(found.parent.with_name("elsewhere"))),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_made_again(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = make(tmp_path / "kept")
    DAMAGE[damage](found)
    others = {path: path.read_bytes() for path in files(tmp_path / "elsewhere")} if "elsewhere" in damage else {}
    assert open_kept(tmp_path / "kept") is None
    assert capsys.readouterr().err.count("is not as it was written") == 1
    make(tmp_path / "kept")
    before = tmp_path / "kept.before-1"
    left = {str(path.relative_to(before)): path.read_bytes() for path in files(before)}
    if damage == "more":  # only what is not ours
        assert left == {"files/cat/mine.png": b"mine"}
    elif "manifest" not in damage and "link" not in damage and damage not in ("no content", "a folder more"):
        assert not os.path.lexists(before)
    assert all(path.read_bytes() == content for path, content in others.items())
    assert (os.path.lexists(before)) == ("is in" in capsys.readouterr().err)


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_is_found(seed: int, tmp_path: Path) -> None:
    found = make(tmp_path / "kept")
    paths = [path for path in sorted(files(tmp_path / "kept")) if path.stat().st_size]
    path, rng = paths[seed % len(paths)], np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    bit = int(rng.integers(len(content) * 8))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert open_kept(tmp_path / "kept") is None
    assert make(tmp_path / "kept") == found and not os.path.lexists(tmp_path / "kept.before-2")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    for error in (InjertoError("refused"), KeyboardInterrupt(), OSError(28, "No space left on device")):
        with pytest.raises((InjertoError, KeyboardInterrupt)), make_kept(tmp_path / "cache" / "kept") as content:
            (content / "half").write_bytes(b"half")
            raise error
        assert not list((tmp_path / "cache").iterdir())


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom injerto.basics.manifest import make_kept\n"
        f"with make_kept(Path({str(tmp_path)!r}) / 'killed') as content:\n"
        "    (content / 'half').write_bytes(b'half')\n    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    make(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
