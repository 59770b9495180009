"""What is released: a wheel that works where nothing but its requirements is, types that reach a user, names that stay."""

import inspect
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import injerto

ROOT = Path(__file__).parents[1]
PINNED = Path(__file__).parent / "public.txt"
USER = """\
import injerto

run = injerto.fit("photos", source="phone", tuning="head", out="runs/a")
answers: list[str] = run.predict("picture.png")
gap = injerto.measure_gap("photos")
reveal_type(run)
wrong: int = run.predict("picture.png")
"""


def public() -> str:
    """Every public name with its signature, a line each."""
    lines = []
    for name in sorted(injerto.__all__):
        thing = getattr(injerto, name)
        if name == "__version__":
            lines.append("__version__: str")
        elif inspect.isclass(thing) and not issubclass(thing, Exception):
            lines.append(f"class {name}{plain(thing)}")
            for method, value in sorted(vars(thing).items()):
                if not method.startswith("_") and callable(value):
                    lines.append(f"{name}.{method}{plain(value)}")
        else:
            lines.append(name if inspect.isclass(thing) else f"{name}{plain(thing)}")
    return "\n".join(lines) + "\n"


def plain(thing: object) -> str:
    """A signature without annotations."""
    parameters = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    return str(inspect.Signature([one.replace(annotation=inspect.Parameter.empty) for one in parameters]))


def test_the_public_names_are_the_pinned_ones() -> None:
    """A change here is one that users notice: write it into CHANGELOG.md, then `python tests/test_release.py`."""
    assert public() == PINNED.read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sdist and wheel of what git knows, tagged."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    place = tmp_path_factory.mktemp("release")
    copy = place / "injerto"
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in names:
        if (ROOT / name).exists() and not name.startswith(("benchmarks/", "docs/images/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "release"], ["tag", "v9.8.7"]):
        subprocess.run(["git", *words], cwd=copy, check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return place / "dist"


def test_the_version_is_the_tag_and_the_archives_are_whole(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == ["injerto-9.8.7-py3-none-any.whl", "injerto-9.8.7.tar.gz"]
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    for path in (ROOT / "src/injerto").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT / "src").as_posix() in names, path
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        inside = {name.split("/", 1)[-1] for name in sdist.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "pyproject.toml", "src/injerto/py.typed"} <= inside


@pytest.fixture(scope="module")
def told(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What a command says in an environment that holds the wheel.

    The requirements are lent by a path file: that they can be had is what `make setup` shows.
    """
    tmp_path = tmp_path_factory.mktemp("clean")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    wheel = next(built.glob("*.whl"))
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([python, "-m", "pip", "install", *quiet, wheel], check=True)
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    (packages,) = (tmp_path / "env/lib").glob("python*/site-packages")
    (packages / "lent.pth").write_text(str(Path(spec.origin).parents[1]) + "\n")
    (tmp_path / "user.py").write_text(USER)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*words: str) -> str:
        given = [word.replace("ENV", str(tmp_path / "env")) for word in words]
        done = subprocess.run(given, cwd=tmp_path, env=clean, capture_output=True, text=True)
        return done.stdout + done.stderr

    return run


def test_the_wheel_works_in_an_environment_of_its_own(told: Callable[..., str]) -> None:
    assert told("ENV/bin/injerto", "--version").strip().endswith("9.8.7")
    assert "/env/lib/" in told("ENV/bin/python", "-c", "import injerto; print(injerto.__file__)")
    said = told("ENV/bin/python", "-c", "import injerto; print(injerto.load_domains('emoji-styles').name)")
    assert "emoji-styles" in said and "probe" in told("ENV/bin/injerto", "recipes")


@pytest.mark.slow
def test_a_user_s_program_is_checked_against_our_types(told: Callable[..., str]) -> None:
    checked = told(sys.executable, "-m", "mypy", "--python-executable", "ENV/bin/python", "--no-incremental", "user.py")
    assert 'Revealed type is "injerto.evaluation.run.Run"' in checked, checked
    assert "user.py:7: error" in checked and "Found 1 error" in checked, checked


if __name__ == "__main__":
    PINNED.write_text(public())
