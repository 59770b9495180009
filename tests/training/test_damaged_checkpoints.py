"""A damaged, cut, stale or foreign checkpoint never changes a run: the same bits, or one line that says what to do."""

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import injerto
from injerto.basics.errors import InjertoError
from injerto.training import trainer
from injerto.training.checkpoints import Checkpoints, load_checkpoint, save_checkpoint

FLIPS = 12
KINDS: dict[str, dict[str, Any]] = {
    "head": {"tuning": "head", "source": "day"},
    "dann": {"tuning": "last:1", "source": "day", "target": "dusk", "alignment": "dann"},
    "ema": {"tuning": "full", "source": "day", "average": "ema", "norm": "train"},
    "swad": {"tuning": "last:1", "source": "day", "average": "swad", "steps": 30, "stop": 20},
    "lora": {"tuning": "lora", "source": "films"},
    "language model": {"tuning": "lora", "source": "films", "task": "causal-lm"},
}


@pytest.fixture
def begin(
    request: pytest.FixtureRequest, pictures: Path, reviews: Path, quick: dict[str, Any], monkeypatch: Any
) -> Callable[..., Callable[..., Any]]:
    """A function that interrupts a run of a kind at a step, and returns how it goes on."""
    monkeypatch.setattr(trainer, "SAVE_SECONDS", -1)
    step = trainer.Trainer._step

    def start(kind: str, out: Path, **more: Any) -> Callable[..., Any]:
        settings = {"steps": 9, "stop": 7, "augment": "none"} | KINDS[kind] | quick | more
        texts, stop = settings["source"] == "films", settings.pop("stop")
        if texts:
            del settings["augment"]
        network = "tiny_lm" if "task" in settings else "tiny_bert" if texts else "tiny_timm"
        settings["backbone"] = request.getfixturevalue(network)
        data = reviews if texts else pictures

        def interrupted(self: Any, batch: Any) -> float:
            if self.progress.step == stop:
                raise KeyboardInterrupt
            return float(step(self, batch))

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(trainer.Trainer, "_step", interrupted)
            injerto.fit(data, out=out, **settings)
        return lambda folder=out: injerto.fit(data, out=folder, resume=True, **settings)

    return start


def everything(folder: Path) -> tuple[Any, ...]:
    """What a run takes from its checkpoints."""
    _, about = load_checkpoint(folder / "last.safetensors")
    checkpoints = Checkpoints(folder, about["run"])
    return *(checkpoints.load_last() or ()), checkpoints.load_best() if checkpoints.best.exists() else {}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def damages(data: bytes, draw: random.Random, flips: int) -> list[bytes]:
    """Flipped bits, half of them in the header, and files cut short or longer."""
    found = [data[: draw.randrange(len(data))], data[:-1], data + b"\0", b""]
    header = 8 + int.from_bytes(data[:8], "little")
    for number in range(flips):
        place = draw.randrange(header) if number % 2 else draw.randrange(len(data))
        found.append(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
    return found


FAST = ("dann", "ema", "language model")


@pytest.mark.parametrize("kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_no_flipped_bit_is_taken_in(kind: str, begin: Any, tmp_path: Path) -> None:
    begin(kind, tmp_path / "run")
    folder, draw = tmp_path / "run" / "checkpoints", random.Random(kind)
    sound = everything(folder)
    assert sound[2] or kind in ("dann", "swad"), "there are best weights"
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for damaged in damages(data, draw, FLIPS):
            path.write_bytes(damaged)
            try:
                found = everything(folder)
            except InjertoError as error:
                assert str(path) in str(error) and "--overwrite" in str(error) and "\n" not in str(error)
            else:
                assert same(found, sound), path.name
        path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_run_from_damaged_checkpoints(kind: str, begin: Any, tmp_path: Path) -> None:
    go_on = begin(kind, tmp_path / "run")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "run", copy)
    expected = go_on(copy).metrics | {"seconds": None, "files": None}
    refused, draw = 0, random.Random(kind)
    for name in [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]:
        for damaged in damages((tmp_path / "run" / "checkpoints" / name).read_bytes(), draw, 60):
            shutil.rmtree(copy)
            shutil.copytree(tmp_path / "run", copy)
            (copy / "checkpoints" / name).write_bytes(damaged)
            try:
                found = go_on(copy).metrics | {"seconds": None, "files": None}
            except InjertoError as error:
                refused += 1
                assert name in str(error) and "\n" not in str(error)
            else:
                assert found == expected
    assert refused > 50


def test_checkpoints_of_another_run_or_of_another_moment_are_refused(begin: Any, tmp_path: Path) -> None:
    go_on = begin("head", tmp_path / "run")
    begin("head", tmp_path / "other", seed=1)
    begin("head", tmp_path / "rate", lr=0.5)
    begin("head", tmp_path / "same")
    begin("head", tmp_path / "early", stop=5)
    run, sound = tmp_path / "run" / "checkpoints", tmp_path / "sound"
    shutil.copytree(run, sound)

    def put(other: str, *names: str) -> None:
        shutil.copytree(sound, run, dirs_exist_ok=True)
        for name in names:
            shutil.copyfile(tmp_path / other / "checkpoints" / f"{name}.safetensors", run / f"{name}.safetensors")

    for other in ("other", "rate"):
        put(other, "last")
        with pytest.raises(InjertoError, match="last.safetensors is another run's; start again with --overwrite"):
            go_on()
        put(other, "last", "best")
        with pytest.raises(InjertoError, match="last.safetensors is another run's"):
            go_on()
        put(other, "best")
        with pytest.raises(InjertoError, match="best.safetensors does not belong to the last one; start again"):
            go_on()
    put("early", "best")
    assert (
        load_checkpoint(run / "best.safetensors")[1]["step"] != load_checkpoint(sound / "best.safetensors")[1]["step"]
    )
    with pytest.raises(InjertoError, match="best.safetensors does not belong to the last one"):
        go_on()
    shutil.copytree(sound, run, dirs_exist_ok=True)
    (run / "best.safetensors").unlink()
    with pytest.raises(InjertoError, match="best.safetensors cannot be read"):
        go_on()
    put("same", "last", "best")  # bit for bit the same run
    shutil.copyfile(sound / "best.safetensors", run / "best.safetensors")
    assert go_on().metrics["selection"]["steps"] == 9


@pytest.mark.parametrize(("kind", "summed"), [("dann", True), ("ema", False)])
def test_names_shapes_and_types_must_be_the_runs(kind: str, summed: bool, begin: Any, tmp_path: Path) -> None:
    """Also of checkpoints of earlier versions, which have no checksum."""
    go_on = begin(kind, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    tensors, state = load_checkpoint(path)
    first = {
        kind: next(name for name in tensors if name.startswith(kind)) for kind in ("head.", "backbone.", "optimizer.")
    }
    changes: list[Callable[[dict[str, torch.Tensor]], Any]] = [
        lambda t: t.pop(first["head."]),
        lambda t: t.pop(first["backbone."]),
        lambda t: t.update(more=torch.ones(1)),
        lambda t: t.update({"optimizer.more.exp_avg": torch.ones(1)}),
        lambda t: t.update({first["head."]: torch.ones(1)}),
        lambda t: t.update({first["backbone."]: t[first["backbone."]].double()}),
    ]
    for prefix in ("objective.", "average."):
        for name in [name for name in tensors if name.startswith(prefix)][:1]:
            changes.append(lambda t, name=name: t.update({f"{name}x": t.pop(name)}))
    for change in changes:
        changed = dict(tensors)
        change(changed)
        if summed:
            save_checkpoint(path, changed, state)
        else:
            older = {key: value for key, value in state.items() if key not in ("run", "best")}
            save_file(changed, path, metadata={"state": json.dumps(older)})
        with pytest.raises(InjertoError, match=r"last.safetensors does not fit: .*--overwrite") as caught:
            go_on()
        assert "\n" not in str(caught.value)


def test_a_run_that_was_moved_or_whose_clock_went_back_goes_on(
    begin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = begin("head", tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    expected = go_on(tmp_path / "whole").metrics | {"seconds": 0, "files": 0}
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 1e8)
    shutil.copytree(tmp_path / "run", tmp_path / "deep" / "copy")
    (tmp_path / "run").rename(tmp_path / "moved")
    for place in (tmp_path / "moved", tmp_path / "deep" / "copy"):
        assert go_on(place).metrics | {"seconds": 0, "files": 0} == expected


def test_checkpoints_of_earlier_versions_go_on(begin: Any, tmp_path: Path) -> None:
    go_on = begin("dann", tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "new")
    expected = go_on(tmp_path / "new").metrics
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
        for key in ("run", "best", "checksum", "seen", "log"):
            state.pop(key, None)
        save_file(load_file(path), path, metadata={"state": json.dumps(state)})
    base = tmp_path / "run" / "base.json"
    record = json.loads(base.read_text())
    base.write_text(json.dumps({key: value for key, value in record.items() if key not in ("files", "checksum")}))
    found = go_on().metrics
    assert found | {"seconds": 0, "files": 0} == expected | {"seconds": 0, "files": 0}
