"""A bank answers as one adapter at a time does, whatever is mixed, loaded and unloaded around it."""

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import injerto
import tiny
from injerto.bank.bank import AdapterBank
from injerto.bank.questions import Question
from injerto.basics.errors import InjertoError

CLOSE = 1e-5
SENTENCES = [
    "the film was very good", "a dull plot", "so poor and so bad", "book", "the ending was great but the plot was dull",
    "fine , fine , fine . " * 4,
]  # fmt: skip
MANY = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=24)


@pytest.fixture(scope="module")
def picture_bank(picture_adapters: dict[str, Path], tiny_timm: Path) -> AdapterBank:
    bank = AdapterBank(tiny_timm, threads=1)
    for name, path in picture_adapters.items():
        bank.load(path, name)
    return bank


@pytest.fixture(scope="module")
def text_bank(text_adapters: dict[str, Path], tiny_bert: Path) -> AdapterBank:
    bank = AdapterBank(tiny_bert, threads=1)
    for name, path in text_adapters.items():
        bank.load(path, name)
    return bank


@pytest.fixture(scope="module")
def files(pictures: Path) -> list[Path]:
    return sorted(pictures.rglob("*.png"))[::15][:6]


def alone(adapters: dict[str, Path], backbone: Path, items: list[Any], t: float | None = None) -> dict[str, np.ndarray]:
    """Probabilities of every adapter by itself, through the library's other way."""
    found = {}
    for name, path in adapters.items():
        run = injerto.load(path, backbone=backbone, threads=1)
        found[name] = (run if t is None else run.scale(t)).predict_proba(items)
    return found


@pytest.fixture(scope="module")
def picture_truth(picture_adapters: dict[str, Path], tiny_timm: Path, files: list[Path]) -> dict[str, np.ndarray]:
    return alone(picture_adapters, tiny_timm, files)


@pytest.fixture(scope="module")
def text_truth(text_adapters: dict[str, Path], tiny_bert: Path) -> dict[str, np.ndarray]:
    return alone(text_adapters, tiny_bert, SENTENCES)


def hold(bank: AdapterBank, items: list[Any], truth: dict[str, np.ndarray], asked: list[tuple[int, int]]) -> None:
    names = list(truth)
    chosen = [(i, names[k % len(names)]) for i, k in asked]
    answers = bank.answer([Question(items[i], name) for i, name in chosen])
    for (i, name), answer in zip(chosen, answers, strict=True):
        assert answer.adapter == name
        assert np.abs(answer.probabilities - truth[name][i]).max() < CLOSE, name


def test_the_adapters_differ(picture_truth: dict[str, np.ndarray], text_truth: dict[str, np.ndarray]) -> None:
    for truth in (picture_truth, text_truth):
        names = list(truth)
        apart = [np.abs(truth[a] - truth[b]).max() for k, a in enumerate(names) for b in names[:k]]
        assert min(apart) > 100 * CLOSE


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=MANY)
def test_any_mixture_of_pictures(picture_bank: Any, files: Any, picture_truth: Any, asked: Any) -> None:
    hold(picture_bank, files, picture_truth, asked)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=MANY)
def test_any_mixture_of_texts(text_bank: Any, text_truth: Any, asked: Any) -> None:
    hold(text_bank, SENTENCES, text_truth, asked)


def test_every_adapter_alone_and_all_at_once(
    picture_bank: Any, text_bank: Any, files: Any, picture_truth: Any, text_truth: Any
) -> None:
    for bank, items, truth in ((picture_bank, files, picture_truth), (text_bank, SENTENCES, text_truth)):
        for k in range(len(truth)):
            hold(bank, items, truth, [(i, k) for i in range(6)])
        hold(bank, items, truth, [(i, k) for k in range(len(truth)) for i in range(6)])
        assert bank.ask_all(items[0]).keys() == truth.keys()


@pytest.mark.parametrize("t", [0.0, 0.3])
def test_the_strength_is_the_sliders(
    picture_bank: Any, picture_adapters: Any, tiny_timm: Path, files: Any, t: float
) -> None:
    chosen = {name: picture_adapters[name] for name in ("slider", "slider-last", "lora", "lora-64", "dora")}
    truth = alone(chosen, tiny_timm, files, t)
    del truth["dora"]  # as one whole change its way is a line of its own
    names = [name for name in truth for _ in files]
    mixed = picture_bank.predict(files * len(truth), names, strength=t)
    for name in truth:
        own = [answer.probabilities for answer in mixed if answer.adapter == name]
        assert np.abs(np.stack(own) - truth[name]).max() < CLOSE, name
        one = picture_bank.predict(files, name, strength=t)
        assert np.abs(np.stack([answer.probabilities for answer in one]) - truth[name]).max() < CLOSE, name


def test_what_adapters_share_runs_once(picture_bank: Any, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    stem, forward = picture_bank._trunk._backbone.model.conv1, torch.nn.Conv2d.forward

    def watched(layer: Any, inputs: Any) -> Any:
        if layer is stem:
            seen.append(len(inputs))
        return forward(layer, inputs)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    names = ["head", "last", "lora-late", "slider", "mlp"]
    picture_bank.predict([files[0]] * 5 + [files[1]] * 3, names + ["head"] * 3)
    assert seen == [2]  # two pictures, five adapters, one pass through the stem


def test_low_rank_adapters_take_the_memory_of_their_files(picture_bank: Any, picture_adapters: Any) -> None:
    for name in ("lora", "lora-64", "lora-late", "lora-norms", "slider", "head", "last"):
        files = sum(file.stat().st_size for file in picture_adapters[name].glob("*.safetensors"))
        assert picture_bank[name].bytes <= files, name  # the files have headers too
        assert not (name.startswith("lora") and picture_bank[name].whole)


def test_a_name_is_replaced_and_unloaded(text_adapters: Any, text_truth: Any, tiny_bert: Path) -> None:
    bank = AdapterBank(tiny_bert, threads=1)
    assert bank.load(text_adapters["lora"], "one") == "one"
    hold_one = np.stack([answer.probabilities for answer in bank.predict(SENTENCES, "one")])
    assert np.abs(hold_one - text_truth["lora"]).max() < CLOSE
    bank.load(text_adapters["last"], "one")
    again = np.stack([answer.probabilities for answer in bank.predict(SENTENCES, "one")])
    assert np.abs(again - text_truth["last"]).max() < CLOSE and list(bank) == ["one"]
    bank.unload("one")
    assert len(bank) == 0 and "one" not in bank
    for call in (lambda: bank.predict("a", "one"), lambda: bank.unload("one")):
        with pytest.raises(InjertoError, match="no adapter 'one'"):
            call()


def test_what_was_used_longest_ago_makes_room_and_comes_back(
    text_adapters: Any, text_truth: Any, tiny_bert: Path
) -> None:
    sizes = AdapterBank(tiny_bert, threads=1)
    names = ["head", "lora", "lora-late"]
    for name in names:
        sizes.load(text_adapters[name], name)
    limit = sizes.bytes - 1
    bank = AdapterBank(tiny_bert, threads=1, limit=limit)
    for name in names:
        bank.load(text_adapters[name], name)
    assert list(bank) == names and bank.bytes <= limit and "head" not in bank._residents
    hold(bank, SENTENCES, {name: text_truth[name] for name in names}, [(0, 0), (1, 1), (2, 2)])
    assert bank.bytes <= limit
    with pytest.raises(InjertoError, match=r"takes \d+ bytes, more than the bank's limit of 10"):
        AdapterBank(tiny_bert, threads=1, limit=10).load(text_adapters["lora"])


def test_of_what_made_room_enough_is_kept_to_tell_of_it(text_adapters: Any, tiny_bert: Path, tmp_path: Path) -> None:
    moved = {name: Path(shutil.copytree(text_adapters[name], tmp_path / name)) for name in ("lora", "lora-late")}
    sizes = AdapterBank(tiny_bert, threads=1)
    told = {name: sizes.about(sizes.load(path)) for name, path in moved.items()}
    bank = AdapterBank(tiny_bert, threads=1, limit=sizes.bytes - 1)
    for path in moved.values():
        bank.load(path)
    shutil.rmtree(moved["lora"])
    now, before = bank.about("lora"), told["lora"]
    assert (now.card, now.bytes, now.place) == (before.card, before.bytes, before.place)
    with pytest.raises(InjertoError, match="no run at"):
        bank.predict("a", "lora")
    assert "lora" in bank


def test_what_is_unloaded_while_it_is_read_again_stays_away(
    text_adapters: Any, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = AdapterBank(tiny_bert, threads=1)
    bank.load(text_adapters["lora"], "one")
    bank.limit = 1
    monkeypatch.setattr(AdapterBank, "_read", lambda self, *_: self.unload("one"))
    bank._residents.clear()
    with pytest.raises(InjertoError, match="no adapter 'one'"):
        bank.predict("a", "one")
    assert "one" not in bank and not bank._residents


def test_what_is_printed_is_short(text_bank: Any) -> None:
    assert len(repr(text_bank.ask_all(SENTENCES[0])["lora"])) < 200
    assert repr(text_bank).startswith("<AdapterBank of ")


def test_it_can_be_asked_like_a_pipeline(text_bank: Any, text_adapters: Any, tiny_bert: Path) -> None:
    expected = text_bank.predict(SENTENCES[:3], "lora")
    found = text_bank(SENTENCES[:3], "lora")
    assert [one["label"] for one in found] == [one.label for one in expected]
    assert [one["score"] for one in found] == [float(one.probabilities.max()) for one in expected]
    both = text_bank(SENTENCES[0], "lora", top_k=5)[0]
    assert len(both) == 2 and both[0]["score"] > both[1]["score"] and sum(one["score"] for one in both) > 0.999
    with pytest.raises(InjertoError, match="name an adapter; there are"):
        text_bank("a")
    with pytest.raises(InjertoError, match="top_k is 1 or more"):
        text_bank("a", "lora", top_k=0)
    alone = AdapterBank.of(text_adapters["lora"], backbone=tiny_bert, threads=1)
    assert alone(SENTENCES[0])[0]["label"] == expected[0].label


def test_it_answers_right_while_adapters_come_and_go(text_adapters: Any, text_truth: Any, tiny_bert: Path) -> None:
    bank = AdapterBank(tiny_bert, threads=1)
    for name in text_truth:
        bank.load(text_adapters[name], name)
    stop, faults = threading.Event(), []

    def churn() -> None:
        while not stop.is_set():
            try:
                for name in ("lora", "last", "table"):
                    bank.load(text_adapters[name], name)
                    bank.load(text_adapters["head"], "passer-by")
                    bank.unload("passer-by")
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(0)
    try:
        for _ in range(25):
            hold(bank, SENTENCES, text_truth, [tuple(pair) for pair in rng.integers(0, (6, 30), (10, 2)).tolist()])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not [fault for fault in faults if "passer-by" not in str(fault)]


def test_the_users_base_and_generator_stay_as_they_are(text_adapters: Any, tiny_bert: Path) -> None:
    base = injerto.load_backbone(tiny_bert)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bank = AdapterBank(base, threads=1)
    for name, path in text_adapters.items():
        bank.load(path, name)
    assert torch.equal(torch.rand(3), expected)
    bank.predict(SENTENCES, [list(text_adapters)[k] for k in range(6)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert not any("forward" in module.__dict__ for module in bank._trunk._backbone.model.modules())


def test_what_does_not_fit_is_refused(
    text_adapters: Any, picture_adapters: Any, tiny_bert: Path, other_timm: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    bank = AdapterBank(tiny_timm, threads=1)
    with pytest.raises(InjertoError, match="other weights"):
        AdapterBank(other_timm, threads=1).load(picture_adapters["lora"])
    with pytest.raises(InjertoError, match="other weights"):
        bank.load(text_adapters["lora"])
    with pytest.raises(InjertoError, match="no run at"):
        bank.load(tmp_path / "nowhere")
    for name in ("", "a\nb", "x" * 101):
        with pytest.raises(InjertoError, match="1 to 100 printable characters"):
            bank.load(picture_adapters["lora"], name)
    poisoned = tmp_path / "poisoned"
    shutil.copytree(picture_adapters["lora"], poisoned)
    path = poisoned / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")  # the last number is NaN
    tiny.sign(poisoned)
    with pytest.raises(InjertoError, match="NaN or infinity"):
        bank.load(poisoned)
    assert len(bank) == 0
    bank.load(picture_adapters["lora"], "lora")  # a failed reading leaves nothing behind
    bank.load(picture_adapters["head"], "head")
    with pytest.raises(InjertoError, match="strength runs from 0"):
        bank.predict(np.zeros((32, 32, 3), np.uint8), "lora", strength=1.5)
    with pytest.raises(InjertoError, match="2 inputs and 1 adapters"):
        bank.predict(np.zeros((2, 32, 32, 3), np.uint8), ["lora"])


def test_of_takes_the_base_of_the_first(text_adapters: Any, text_truth: Any, tiny_bert: Path) -> None:
    bank = AdapterBank.of(text_adapters["lora"], text_adapters["head"], backbone=tiny_bert, threads=1)
    assert list(bank) == ["lora", "head"]
    hold(bank, SENTENCES, {name: text_truth[name] for name in ("lora", "head")}, [(0, 0), (0, 1), (3, 1)])
