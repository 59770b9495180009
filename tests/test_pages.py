"""What the pages show is true: commands exist and, on the pages people copy from, run; links lead somewhere.

A block ```bash holds commands that run as they stand, one page from top to bottom in one folder, and ```python runs with
them; ```console (after `$ `) shows what needs more than this machine, and is only parsed, as ```py is only compiled.
"""

import io
import re
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from injerto.cli.main import app, run
from injerto.domains.samples import SAMPLES

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "studies"))
from pages.blocks import FENCE, blocks, commands  # noqa: E402

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("README*.md"), *DOCS.rglob("*.md")])
README = ROOT / "README.md"
RUN = [
    README,
    *(page for page in PAGES if page.parent.name in ("howto", "methods", "migrate") or page.name == "index.md"),
]
LONG = (
    "last:",
    "full",
    "lora",
    " gap ",
    " rank ",
    " advise ",
    " compare ",
    " search ",
    "dann",
    "mmd",
    " serve ",
    " fit sentiment",
)
"""Words of the README's commands that train more than a head, or look at all pictures of all styles."""
DOMAINS = {"phone": "noto", "studio": "twemoji", "drawings": "openmoji-line"}
CLASSES = ("animal", "building", "food")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def read(page: Path) -> list[tuple[str, str]]:
    return blocks(page.read_text(encoding="utf-8"))


def words(command: str) -> list[str]:
    """What injerto is given."""
    every = shlex.split(command)
    return every[every.index("injerto") + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_on_a_page_exists(page: Path) -> None:
    root: Any = typer.main.get_command(app)  # a click group; typer brings its own click
    for kind, text in read(page):
        if kind in ("python", "py"):
            compile(text, name_of(page), "exec")
            continue
        for command in commands(kind, text) if kind in ("bash", "console") else []:
            given = [word for word in words(command) if word not in ("...", "|", ">", "&")]
            while given and given[0] in ("-q", "--quiet"):
                given.pop(0)
            if given and given[0] in ("--help", "--version", "-h"):
                continue
            chosen = root.commands[given[0]]
            known = {flag for parameter in chosen.params for flag in (*parameter.opts, *parameter.secondary_opts)}
            flags = {word.split("=")[0] for word in given if re.match(r"--?[a-z]", word)}
            assert flags <= known | {"--help"}, f"{command}: {sorted(flags - known)}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a reader has: pictures by domain and class, loose ones, tables."""
    table = ["path,label,domain"]
    with zipfile.ZipFile(SAMPLES["emoji-styles"].path) as archive:
        names = sorted(archive.namelist())
        for domain, style in DOMAINS.items():
            for label in CLASSES:
                inside = [name for name in names if name.startswith(f"emoji-styles/{style}/{label}/") and "." in name]
                for name in inside[:12]:
                    path = tmp_path / "photos" / domain / label / (Path(name).stem + ".png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.open(io.BytesIO(archive.read(name))).save(path)
                    table.append(f"{path.relative_to(tmp_path)},{label},{domain}")
    loose = tmp_path / "unlabelled"
    loose.mkdir()
    for number, path in enumerate(sorted((tmp_path / "photos/drawings").glob("*/*.png"))[:12]):
        (loose / f"{number:02}.png").write_bytes(path.read_bytes())
    one = next((tmp_path / "photos/phone/animal").glob("*.png")).read_bytes()
    for place in ("picture.png", "path/to/picture.png", "more/pictures/a.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(one)
    (tmp_path / "pictures.csv").write_text("\n".join(table) + "\n")
    said = {"good": "I enjoyed this one very much, number", "bad": "A dull and broken waste of money, number"}
    shops = ("books", "games")
    rows = [f'"{said[star]} {i} of {shop}",{star},{shop}' for i in range(15) for star in said for shop in shops]
    (tmp_path / "reviews.csv").write_text("text,stars,shop\n" + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_a_page_runs_from_top_to_bottom(page: Path, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "page"}
    for kind, text in read(page):
        if kind == "python":
            exec(compile(text, name_of(page), "exec"), names)
        elif kind == "bash":
            for command in commands(kind, text):
                assert run(words(command)) == 0, f"{command}: {capfd.readouterr().err[-1500:]}"


def test_the_quick_commands_and_the_python_of_the_readme_run(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quick = [command for kind, text in read(README) if kind == "bash" for command in commands(kind, text)]
    assert {words(command)[0] for command in quick} >= {"fit", "predict", "evaluate", "info"}
    quick = [command for command in quick if not any(word in command for word in LONG)]
    assert len(quick) >= 5
    for command in quick:
        assert run(words(command)) == 0, f"{command}: {capfd.readouterr().err[-1500:]}"
    for kind, text in read(README):
        if kind == "python":
            exec(compile(text, "README.md", "exec"), {"__name__": "page"})
    assert (place / "runs/python/metrics.json").exists()


LINKS = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINKS.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        written_by_the_site = (page.parent / link) == DOCS / "reference" / "commands.md"
        assert written_by_the_site or (page.parent / link).exists(), f"{name_of(page)}: {link}"
