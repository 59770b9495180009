"""A damaged file of a comparison or a search: one line, or the same answer; a wrong number never comes back as a result."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import injerto
from injerto.studies import found

Cli = Callable[..., SimpleNamespace]


def damage(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    place = draw.randrange(max(1, len(data)))
    kind = draw.randrange(6)
    if kind < 3 and data:  # a bit, or a digit that is another one
        digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
        if kind and digits:
            place = draw.choice(digits)
            data = data[:place] + b"%d" % ((data[place] - 48 + draw.randint(1, 9)) % 10) + data[place + 1 :]
        else:
            data = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        path.write_bytes(data)
    elif kind == 3:
        path.write_bytes(data[:place])
    elif kind == 4:
        path.write_bytes(b"\xff" + data)
    else:
        path.write_bytes(draw.choice([b"{}", b"[]", b"7", b"null", b"[" * 100_000, b""]))


def attack(begin: Callable[[Path], Any], answer: Callable[[SimpleNamespace], Any], words: list[str], cli: Cli,
           place: Path, names: Callable[[Path], list[Path]], count: int, seed: int) -> None:  # fmt: skip
    sound, out, draw = place / "sound" / "out", place / "out", random.Random(seed)
    begin(sound)
    shutil.copytree(sound, out)
    expected = answer(cli(*words, "--out", out))
    wrong = []
    for number in range(count):
        shutil.rmtree(out)
        shutil.copytree(sound, out)
        path = draw.choice(names(out))
        damage(path, draw)
        told = cli(*words, "--out", out)
        where = f"{number}: {path.relative_to(out)}: {told.code} {told.err[-500:]}"
        errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
        if told.code not in (0, 2) or len(errors) != (told.code == 2) or "Traceback" in told.err:
            wrong.append(where)
        elif told.code == 0 and answer(told) != expected:
            wrong.append(f"silent: {where}")
    assert not wrong, "\n".join(wrong)


def attack_comparison(count: int, seed: int, cli: Cli, pictures: Path, tiny_timm: Path, place: Path) -> None:
    common = {"source": "day", "target": "dusk", "backbone": str(tiny_timm), "steps": 2, "augment": "none"}
    common |= {"threads": 1, "precision": "fp32", "batch_size": 8, "tuning": "last:1"}
    grid = {"alignment": ["none", "coral"]}

    def answer(told: SimpleNamespace) -> Any:
        content = json.loads(told.out)
        return [content["rows"], content["summary"], content["choice"], content["grid"]]

    words = ["-q", "compare", str(pictures), "--grid", "alignment=none,coral", "--seeds", "1", "--json"]
    for name, value in common.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    attack(
        lambda out: injerto.compare(pictures, grid=grid, seeds=1, out=out, **common),
        answer, words, cli, place,
        lambda out: [path for path in sorted(out.rglob("*")) if path.is_file() and "adapter" not in path.parts],
        count, seed,
    )  # fmt: skip


def attack_search(count: int, seed: int, cli: Cli, pictures: Path, tiny_timm: Path, place: Path) -> None:
    common = {"source": "day", "backbone": str(tiny_timm), "steps": 2, "augment": "none"}
    common |= {"threads": 1, "precision": "fp32", "batch_size": 8, "tuning": "head"}

    def answer(told: SimpleNamespace) -> Any:
        content = json.loads(told.out)
        entries = [{k: v for k, v in entry.items() if k != "seconds"} for entry in content["trials"]]
        return [entries, content["best"]["number"], content["best"]["recipe"]]

    words = ["-q", "search", str(pictures), "--space", "lr=1e-4..1e-2", "--trials", "3", "--json"]
    for name, value in common.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    attack(
        lambda out: injerto.search(pictures, space={"lr": "1e-4..1e-2"}, trials=3, out=out, **common),
        answer, words, cli, place,
        lambda out: [out / "search.db"] * 3 + [out / "search.json"],
        count, seed,
    )  # fmt: skip


@pytest.mark.parametrize("attacked", [attack_comparison, attack_search])
def test_some_damage(attacked: Any, cli: Cli, pictures: Path, tiny_timm: Path, tmp_path: Path) -> None:
    attacked(5, 0, cli, pictures, tiny_timm, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("attacked", [attack_comparison, attack_search])
def test_much_damage(attacked: Any, cli: Cli, pictures: Path, tiny_timm: Path, tmp_path: Path) -> None:
    attacked(120, 1, cli, pictures, tiny_timm, tmp_path)


def test_rows_of_a_trial_that_changed_are_refused() -> None:
    rows, trial = [{"seed": 0, "domains": {}}], SimpleNamespace(number=3, params={"lr": 0.1}, user_attrs={})
    assert found.rows_of(trial) == []  # type: ignore[arg-type]
    trial.user_attrs = {"rows": rows}  # of an earlier version
    assert found.rows_of(trial) == rows  # type: ignore[arg-type]
    trial.user_attrs = {"rows": json.loads(json.dumps(found.kept_rows(rows, trial.params)))}
    assert found.rows_of(trial) == rows  # type: ignore[arg-type]
    trial.params = {"lr": 0.3}
    with pytest.raises(injerto.InjertoError, match="trial 3 .* is damaged"):
        found.rows_of(trial)  # type: ignore[arg-type]


def test_a_search_leaves_what_others_put_into_its_trials(pictures: Path, tiny_timm: Path, tmp_path: Path) -> None:
    settings = {
        "source": "day",
        "backbone": str(tiny_timm),
        "steps": 2,
        "threads": 1,
        "batch_size": 8,
        "tuning": "head",
    }
    space, out = {"lr": "1e-4..1e-2"}, tmp_path / "out"
    injerto.search(pictures, space=space, trials=2, out=out, **settings)
    mine = [
        out / "trials" / f"{trial}/{name}"
        for trial in (0, 1)
        for name in ("0/notes.txt", "0/adapter/mine", "readme", "7/x")
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    found = injerto.search(pictures, space=space, trials=3, out=out, **settings)
    assert all(path.read_text() == "mine" for path in mine)
    shipped = [run for run in out.glob("trials/*/0") if (run / "adapter" / "adapter_card.json").exists()]
    assert [f"trials/{run.parent.name}/0" for run in shipped] == found["best"]["runs"]
