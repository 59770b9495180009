"""Adapters that are damaged, replaced or removed while they are read or served: the same answer, or none."""

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import injerto
import tiny
from injerto.adapters.load import load_language_model
from injerto.adapters.snapshot import ADAPTER, CARD, HEAD, LISTED, Place, opened
from injerto.bank.bank import AdapterBank
from injerto.bank.names import UnknownAdapter
from injerto.bank.resident import Resident
from injerto.basics.errors import InjertoError
from injerto.serving.desk import Desk, OutsideFolder

KINDS = ("head", "neck", "lora", "lora-native", "dora", "slider", "full", "lora-norms", "int8")
Parts = dict[str, Any]


@pytest.fixture(scope="module")
def adapters(picture_adapters: dict[str, Path], tiny_timm: Path, tmp_path_factory: Any) -> dict[str, Path]:
    small = tmp_path_factory.mktemp("small") / "int8"
    injerto.export(picture_adapters["lora"], small, format="int8", backbone=tiny_timm)
    return {**picture_adapters, "int8": small}


@pytest.fixture(scope="module")
def bank(tiny_timm: Path) -> AdapterBank:
    return AdapterBank(tiny_timm, threads=1)


def parts_of(one: Resident) -> Parts:
    """Everything that an answer is made of."""
    found: Parts = {"labels": one.labels, "looks": one.preprocessing, "layout": one.layout, "flat": one.flat}
    found |= {f"whole {name}": tensor for name, tensor in one.whole.items()}
    found |= {f"new {name}": tensor for name, tensor in one.model.state_dict().items()}
    found |= {f"start {k}": tensor for k, tensor in enumerate(one.start or ())}
    return found | {"sketch": None if one.sketch is None else one.sketch.mean.tobytes()}


def same(one: Parts, other: Parts) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


def read(bank: AdapterBank, folder: Path, allow_modified: bool = False) -> Parts:
    with opened(Place(folder, allow_modified=allow_modified)) as files:
        return parts_of(bank._read(files, "x"))


def damaged(content: bytes, other: bytes, rng: random.Random, flips: int = 40) -> Iterator[bytes]:
    """The file with one byte flipped here and there, shorter, longer, empty, and another one of its name."""
    for place in rng.sample(range(len(content)), min(flips, len(content))):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        yield bytes(changed)
    yield from (b"", content[:1], content[:-1], content[: len(content) // 2], content + b"\0", content[::-1], other)


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_is_refused_or_changes_nothing(
    adapters: dict[str, Path], bank: AdapterBank, varied: Any, kind: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters[kind], tmp_path / "adapter"))
    stranger = varied(folder, tmp_path / "stranger", 99)
    whole, rng, refusals = read(bank, folder), random.Random(kind), 0
    for path in sorted(folder.iterdir()):
        content, other = path.read_bytes(), (stranger / path.name).read_bytes()
        for changed in damaged(content, other, rng):
            if changed == content:  # the stranger's settings are the same
                continue
            path.write_bytes(changed)
            try:
                found = read(bank, folder)
            except InjertoError as error:
                refusals += 1
                assert "\n" not in str(error) and str(folder) in str(error) and len(str(error)) < 600
                continue
            assert same(found, whole), path.name
            assert path.name in (CARD, "README.md")  # space between words
        path.write_bytes(content)
        if path.name in LISTED:
            path.unlink()
            with pytest.raises(InjertoError, match=f"{path.name} is missing"):
                read(bank, folder)
            path.write_bytes(content)
    assert refusals > 100 and same(read(bank, folder), whole)


def test_a_language_models_adapter_is_checked_alike(tiny_lm: Path, tmp_path: Path, quick: Any) -> None:
    texts = tmp_path / "texts.csv"
    tiny.write_reviews(texts, 8)
    settings = {"task": "causal-lm", "source": "films", "input": "text", "domain": "domain", "steps": 1, **quick}
    run = injerto.fit(texts, backbone=tiny_lm, out=tmp_path / "run", **settings)
    folder = run.path / "adapter"
    whole = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    rng = random.Random(0)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for changed in damaged(content, b"{}", rng, 6):
            path.write_bytes(changed)
            try:
                found = load_language_model(folder, tiny_lm).model.state_dict()
            except InjertoError as error:
                assert "\n" not in str(error)
                continue
            assert path.name == CARD and all(torch.equal(found[name], whole[name]) for name in whole)
        path.write_bytes(content)
    with pytest.raises(InjertoError, match="a language model's"):
        injerto.AdapterBank(run.model.backbone).load(folder)


def test_a_file_that_the_card_does_not_name_is_refused(
    adapters: dict[str, Path], bank: AdapterBank, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters["lora"], tmp_path / "adapter"))
    shutil.copyfile(adapters["int8"] / "adapter_int8.safetensors", folder / "adapter_int8.safetensors")
    with pytest.raises(InjertoError, match="adapter_int8.safetensors is not among the files"):
        read(bank, folder)


@pytest.mark.parametrize("file", [ADAPTER, HEAD, "adapter_config.json"])
def test_what_was_changed_on_purpose_is_allowed_by_a_flag(
    adapters: dict[str, Path], bank: AdapterBank, tiny_timm: Path, pictures: Path, cli: Any, tmp_path: Path, file: str
) -> None:
    folder = Path(shutil.copytree(adapters["lora"], tmp_path / "adapter"))
    path, content = folder / file, (folder / file).read_bytes()
    if file.endswith(".json"):  # finding 22: other answers from another scale
        path.write_text(json.dumps(json.loads(content) | {"lora_alpha": 1000}))
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    item = next(pictures.rglob("*.png"))
    arguments = ("predict", folder, item, "--backbone", tiny_timm, "--threads", 1)
    refused = cli(*arguments)
    assert refused.code == 2 and f"{file} is not what was written" in refused.err and "--allow-modified" in refused.err
    with pytest.raises(InjertoError, match=file):
        injerto.load(folder, backbone=tiny_timm)
    with pytest.raises(InjertoError, match=file):
        bank.load(folder, "changed")
    told = cli(*arguments, "--allow-modified")
    assert told.code == 0 and told.err.count("is not what was written") == 1
    assert bank.load(folder, "changed", allow_modified=True) == "changed"
    found = injerto.load(folder, backbone=tiny_timm, threads=1, allow_modified=True).predict_proba([item])
    np.testing.assert_allclose(bank.predict([item], "changed")[0].probabilities, found[0], atol=1e-5)
    bank.unload("changed")


def test_an_adapter_of_an_earlier_version_is_read_with_a_note(
    adapters: dict[str, Path], bank: AdapterBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(adapters["lora"], tmp_path / "adapter"))
    card = json.loads((folder / CARD).read_text())
    for gone in ("checksum", "files"):
        del card[gone]
        (folder / CARD).write_text(json.dumps(card))
        assert same(read(bank, folder), read(bank, adapters["lora"]))
        assert capsys.readouterr().err.count("is of an earlier version") == 1


# --- while it is served -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["head", "full", "lora", "dora", "int8"])
def test_what_becomes_of_the_files_changes_no_answer(
    adapters: dict[str, Path], tiny_timm: Path, pictures: Path, varied: Any, kind: str, tmp_path: Path
) -> None:
    """Finding 05: copied over, cut to nothing (which killed the process where the file was mapped), removed."""
    folder = Path(shutil.copytree(adapters[kind], tmp_path / "adapter"))
    other = varied(folder, tmp_path / "other", 5)
    items = sorted(pictures.rglob("*.png"))[::20]
    bank = AdapterBank(tiny_timm, threads=1)
    bank.load(folder, "it")
    run = injerto.load(folder, backbone=tiny_timm, threads=1)

    def answers() -> np.ndarray:
        found = np.stack([answer.probabilities for answer in bank.predict(items, "it")])
        return np.concatenate([found, run.predict_proba(items)])

    before = answers()
    for file in other.iterdir():
        with (folder / file.name).open("r+b") as stream:
            stream.write(file.read_bytes())
    assert np.array_equal(answers(), before)
    for file in folder.iterdir():
        os.truncate(file, 0)
    assert np.array_equal(answers(), before)
    with pytest.raises(InjertoError):
        bank.load(folder, "it")
    assert np.array_equal(answers(), before)
    shutil.rmtree(folder)
    assert np.array_equal(answers(), before) and run.card


def test_what_made_room_comes_back_as_itself_or_not_at_all(
    adapters: dict[str, Path], tiny_timm: Path, varied: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters["lora"], tmp_path / "adapter"))
    bank = AdapterBank(tiny_timm, threads=1)
    bank.load(folder, "it")
    bank._residents.clear()
    before = parts_of(bank["it"])
    bank._residents.clear()
    other = varied(folder, tmp_path / "other", 5)
    folder.rename(tmp_path / "before")
    other.rename(folder)
    with pytest.raises(InjertoError, match="another adapter than the one that was loaded as 'it'"):
        bank["it"]
    bank.load(folder, "it")
    assert not same(parts_of(bank["it"]), before)


# --- while it is replaced ---------------------------------------------------------------------------------------------


def _by_renaming(place: Path, folder: Path) -> None:
    aside = place.with_name("aside")
    fresh = shutil.copytree(folder, place.with_name("fresh"))
    if place.exists():
        place.rename(aside)
    fresh.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


def _by_copying(place: Path, folder: Path) -> None:
    shutil.copytree(folder, place, dirs_exist_ok=True)


def _by_a_link(place: Path, folder: Path) -> None:
    link = place.with_name("link")
    link.symlink_to(folder)
    link.replace(place)


@pytest.mark.parametrize("replace", [_by_renaming, _by_copying, _by_a_link])
def test_while_it_is_replaced_it_is_one_or_the_other_or_refused(
    adapters: dict[str, Path], bank: AdapterBank, varied: Any, replace: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """Finding 08: the backbone of one with the head of the other."""
    one = Path(shutil.copytree(adapters["lora"], tmp_path / "one"))
    two = varied(one, tmp_path / "two", 5)
    wanted = [read(bank, folder) for folder in (one, two)]
    place, over = tmp_path / "place", threading.Event()
    replace(place, one)

    def go_on() -> None:
        while not over.is_set():
            for folder in (two, one):
                replace(place, folder)

    worker = threading.Thread(target=go_on)
    worker.start()
    seen, until = [0, 0, 0], time.monotonic() + 1.5
    try:
        while time.monotonic() < until:
            try:
                found = read(bank, place)
            except InjertoError:
                seen[2] += 1
                continue
            which = [same(found, parts) for parts in wanted]
            assert sum(which) == 1, "a mixture"
            seen[which.index(True)] += 1
    finally:
        over.set()
        worker.join()
    assert sum(seen) > 30
    assert sum(seen[:2]) > 0 or replace is _by_copying


@pytest.fixture
def folder_of_bank(adapters: dict[str, Path], varied: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "bank"
    folder.mkdir()
    shutil.copytree(adapters["lora"], folder / "one")
    varied(adapters["lora"], folder / "two", 5)
    shutil.copytree(adapters["head"], folder / "three" / "adapter")
    return folder


def test_loads_deletes_and_requests_at_once(folder_of_bank: Path, tiny_timm: Path, pictures: Path) -> None:
    desk = Desk([], folder_of_bank, tiny_timm, "fp32", 1)
    items = sorted(pictures.rglob("*.png"))[:1]
    wanted = []
    for name in ("one", "two", "three"):
        desk.load(name, name)
        wanted.append(desk.bank_of(name).predict(items, name)[0].probabilities)
    over, faults = threading.Event(), list[BaseException]()

    def forever(act: Callable[[random.Random], None]) -> Callable[[], None]:
        def go() -> None:
            rng = random.Random(str(act))
            while not over.is_set():
                try:
                    act(rng)
                except UnknownAdapter:
                    continue
                except BaseException as error:
                    faults.append(error)
                    over.set()

        return go

    def load(rng: random.Random) -> None:
        assert desk.load(rng.choice(("one", "two", "three")), "it") == "it"

    def forget(rng: random.Random) -> None:
        time.sleep(rng.random() / 50)
        desk.unload("it")

    def ask(_: random.Random) -> None:
        found = desk.bank_of("it").predict(items, "it")[0].probabilities
        assert sum(np.allclose(found, one, atol=1e-6) for one in wanted) == 1
        assert desk.about("it")["labels"]

    workers = [threading.Thread(target=forever(act)) for act in (load, load, forget, ask, ask)]
    for worker in workers:
        worker.start()
    over.wait(2)
    over.set()
    for worker in workers:
        worker.join()
    assert not faults, faults
    for bank in desk.banks:  # both say the same of what is there
        assert set(bank) == {name for name in desk.names if desk.bank_of(name) is bank}


def test_what_cannot_be_loaded_leaves_what_was_there(folder_of_bank: Path, tiny_timm: Path, pictures: Path) -> None:
    desk = Desk([], folder_of_bank, tiny_timm, "fp32", 1)
    desk.load("one", "it")
    items = sorted(pictures.rglob("*.png"))[:1]
    before = desk.bank_of("it").predict(items, "it")[0].probabilities
    shutil.copyfile(folder_of_bank / "two" / HEAD, folder_of_bank / "one" / HEAD)
    with pytest.raises(InjertoError, match=f"{HEAD} is not what was written"):
        desk.load("one", "it")
    shutil.rmtree(folder_of_bank / "one")
    with pytest.raises(OutsideFolder, match="is no run in the bank's folder"):
        desk.load("one", "it")
    assert np.array_equal(desk.bank_of("it").predict(items, "it")[0].probabilities, before)


def test_the_folder_is_not_left_by_links(folder_of_bank: Path, tiny_timm: Path, tmp_path: Path) -> None:
    desk = Desk([], folder_of_bank, tiny_timm, "fp32", 1)
    outside = Path(shutil.copytree(folder_of_bank / "one", tmp_path / "outside"))
    (folder_of_bank / "whole").symlink_to(outside)
    (folder_of_bank / "run").mkdir()
    (folder_of_bank / "run" / "adapter").symlink_to(outside)
    for file in (CARD, HEAD):
        part = shutil.copytree(folder_of_bank / "one", folder_of_bank / f"part {file}")
        (part / file).unlink()
        (part / file).symlink_to(outside / file)
    for name in ("whole", "run", f"part {CARD}", f"part {HEAD}"):
        with pytest.raises(OutsideFolder):
            desk.load(name)
    within = shutil.copytree(folder_of_bank / "one", folder_of_bank / "within")
    (within / HEAD).unlink()
    (within / HEAD).symlink_to(Path("..") / "one" / HEAD)
    (folder_of_bank / "again").symlink_to("one")
    assert desk.load("within") == "within" and desk.load("again") == "one"


def test_a_link_that_comes_while_it_is_read_leads_nowhere(
    folder_of_bank: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    """Between looking and opening: the folder, or a file in it, becomes a link to what lies outside."""
    desk = Desk([], folder_of_bank, tiny_timm, "fp32", 1)
    desk.load("one", "it")
    secret = Path(shutil.copytree(folder_of_bank / "two", tmp_path / "outside"))
    wanted, over = parts_of(desk.resident("it")), threading.Event()
    place, head = folder_of_bank / "one", folder_of_bank / "one" / HEAD
    content = head.read_bytes()

    def go_on() -> None:
        while not over.is_set():
            place.rename(folder_of_bank / "aside")
            place.symlink_to(secret)
            place.unlink()
            (folder_of_bank / "aside").rename(place)
            link = folder_of_bank / "link"
            link.symlink_to(secret / HEAD)
            link.replace(head)
            (place / "fresh").write_bytes(content)
            (place / "fresh").replace(head)

    worker = threading.Thread(target=go_on)
    worker.start()
    loaded = 0
    try:
        for _ in range(300):
            try:
                desk.load("one", "it")
                loaded += 1
            except InjertoError:
                continue
            assert same(parts_of(desk.resident("it")), wanted)
    finally:
        over.set()
        worker.join()
    assert loaded


@pytest.mark.parametrize("file", [CARD, *LISTED])
def test_what_is_no_file_is_refused_at_once(
    adapters: dict[str, Path], bank: AdapterBank, tmp_path: Path, file: str
) -> None:
    """Finding 26: a FIFO was waited for."""
    folder = Path(shutil.copytree(adapters["lora"], tmp_path / "adapter"))
    path = folder / file
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        path.unlink(missing_ok=True)
        make(path)  # type: ignore[operator]
        begun = time.monotonic()
        with pytest.raises(InjertoError, match="is no regular file"):
            read(bank, folder)
        assert time.monotonic() - begun < 1
        if path.is_dir():
            path.rmdir()
