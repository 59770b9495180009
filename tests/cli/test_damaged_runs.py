"""Any file of a run may be damaged in any way: a sentence and exit code 2, or the same answer; never "our fault"."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import injerto
from injerto.training import trainer

Cli = Callable[..., SimpleNamespace]


def truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(max(1, len(data)))]


def flipped(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(max(1, len(data)))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :] if data else b"x"


def retyped(data: bytes, draw: random.Random) -> bytes:
    """JSON with a value of another type somewhere, or a line that is another one."""
    other = draw.choice([None, 5, -1e308, "x", [], {}, True, [None], {"": 0}])
    try:
        content: Any = json.loads(data)
    except ValueError:
        lines = data.split(b"\n")
        lines[draw.randrange(len(lines))] = draw.choice([b"", b"a,b", b'"', b"- x: [", b"{}", b"\0", b"seed: [1]"])
        return b"\n".join(lines)
    place = content
    while isinstance(place, dict | list) and place:
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
        if not isinstance(place[key], dict | list) or not place[key] or draw.random() < 0.3:
            place[key] = other
            break
        place = place[key]
    if isinstance(content, dict) and draw.random() < 0.5:
        content.pop("checksum", None)  # as a file of an earlier version
    return json.dumps(content).encode()


def removed_key(data: bytes, draw: random.Random) -> bytes:
    try:
        content = json.loads(data)
    except ValueError:
        return b"\n".join(line for line in data.split(b"\n") if draw.random() < 0.8)
    for key in ("checksum", draw.choice(list(content)) if isinstance(content, dict) and content else ""):
        if isinstance(content, dict):
            content.pop(key, None)
    return json.dumps(content).encode()


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "truncated": truncated,
    "flipped": flipped,
    "retyped": retyped,
    "a key removed": removed_key,
    "not UTF-8": lambda data, draw: b"\xff\xfe\xfa" + data[3:],
    "nested": lambda data, draw: b"[" * 100_000,
    "nested mappings": lambda data, draw: b'{"a":' * 50_000,
    "empty": lambda data, draw: b"",
    "zeros": lambda data, draw: b"\0" * len(data),
    "a number": lambda data, draw: b"7",
    "a folder": lambda data, draw: None,
    "gone": lambda data, draw: None,
    "a loop of links": lambda data, draw: None,
}


def damage(path: Path, kind: str, draw: random.Random) -> None:
    data = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a loop of links":
        path.symlink_to(path.name)
    elif kind != "gone":
        path.write_bytes(DAMAGE[kind](data, draw) or b"")


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, pictures: Path, tiny_timm: Path, quick: dict[str, Any]
) -> Iterator[tuple[dict[str, Path], list[str]]]:
    """A finished and an interrupted run, and the words that both were fitted with."""
    place = tmp_path_factory.mktemp("whole")
    settings = {"source": "day", "target": "dusk", "backbone": tiny_timm, "tuning": "lora", "slider": False}
    settings |= {"alignment": "coral", "augment": "none", "steps": 9} | quick
    words = [str(pictures)]
    for name, value in settings.items():
        if value is not False:
            words += [f"--{name.replace('_', '-')}", str(value)]
    injerto.fit(pictures, out=place / "finished", **settings)
    step = trainer.Trainer._step

    def interrupted(self: Any, batch: Any) -> float:
        if self.progress.step == 7:
            raise KeyboardInterrupt
        return float(step(self, batch))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "SAVE_SECONDS", -1)
        patch.setattr(trainer.Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            injerto.fit(pictures, out=place / "interrupted", **settings)
    yield {name: place / name for name in ("finished", "interrupted")}, words


def reported(found: SimpleNamespace) -> Any:
    content = json.loads(found.out)
    return {key: value for key, value in content.items() if key not in ("seconds", "files", "run")}


def attack(count: int, seed: int, cli: Cli, runs: Any, pictures: Path, place: Path) -> None:
    folders, words = runs
    picture, copy, draw = next(pictures.rglob("*.png")), place / "run", random.Random(seed)
    commands: dict[str, list[str]] = {
        "resume": ["-q", "fit", *words, "--resume", "--json", "--out", str(copy)],
        "evaluate": ["-q", "evaluate", str(copy), str(pictures), "--json"],
        "predict": ["-q", "predict", str(copy), str(picture)],
        "report": ["-q", "report", str(copy), "--out", str(place / "page.html")],
        "info": ["info", str(copy)],
    }
    expected: dict[tuple[str, str], Any] = {}
    for state, folder in folders.items():
        for name in ("resume", "evaluate", "predict") if state == "finished" else ("resume",):
            shutil.copytree(folder, copy)
            found = cli(*commands[name])
            assert found.code == 0, found.err
            expected[state, name] = found.out if name == "predict" else reported(found)
            shutil.rmtree(copy)
    wrong: list[str] = []
    for number in range(count):
        state = draw.choice(["finished", "interrupted"])
        name = draw.choice(
            list(commands) if state == "finished" else ["resume", "resume", "resume", "evaluate", "info"]
        )
        files = [path for path in sorted(folders[state].rglob("*")) if path.is_file()]
        path, kind = draw.choice(files), draw.choice(list(DAMAGE))
        shutil.copytree(folders[state], copy)
        damage(copy / path.relative_to(folders[state]), kind, draw)
        found = cli(*commands[name])
        where = f"{number}: {name} of the {state} run, {path.name} {kind}: {found.code} {found.err[-700:]}"
        errors = [line for line in found.err.splitlines() if line.startswith("error: ")]
        if found.code not in (0, 2) or len(errors) != (found.code == 2) or "Traceback" in found.err:
            wrong.append(where)
        elif found.code == 0 and (state, name) in expected:
            same = (found.out if name == "predict" else reported(found)) == expected[state, name]
            wrong += [] if same or path.name in found.err else [f"silent: {where}"]
        shutil.rmtree(copy)
    assert not wrong, "\n".join(wrong)


def test_any_damage_is_one_line(cli: Cli, runs: Any, pictures: Path, tmp_path: Path) -> None:
    attack(60, 0, cli, runs, pictures, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_much_damage_is_one_line(seed: int, cli: Cli, runs: Any, pictures: Path, tmp_path: Path) -> None:
    attack(100, seed, cli, runs, pictures, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(cli: Cli, runs: Any, pictures: Path, tmp_path: Path) -> None:
    folders, words = runs
    for path in [path for path in sorted(folders["finished"].rglob("*")) if path.is_file()]:
        copy = Path(shutil.copytree(folders["finished"], tmp_path / "run"))
        (copy / path.relative_to(folders["finished"])).chmod(0)
        for asked in (["evaluate", str(copy), str(pictures)], ["fit", *words, "--resume", "--out", str(copy)]):
            assert cli("-q", *asked).code in (0, 2)
        shutil.rmtree(copy)
