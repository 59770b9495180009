"""What an adapter from a stranger may claim: compared before memory or time is spent on it."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import injerto
import tiny
from injerto.adapters.patterns import Patterns, names_module
from injerto.adapters.snapshot import ADAPTER, CARD, CONFIG, HEAD
from injerto.adapters.tensors import TYPES, Tensors
from injerto.basics.errors import InjertoError
from injerto.tuning.lora.attach import pattern_matches


@pytest.fixture(scope="module")
def lora(pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "lora", "augment": "none", "steps": 1, **quick}
    return injerto.fit(pictures, out=tmp_path_factory.mktemp("lora") / "run", **settings).path / "adapter"


@pytest.fixture
def adapter(lora: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lora, tmp_path / "adapter"))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    tiny.sign(path.parent)


def peak_of(act: Callable[[], Any]) -> int:
    """Bytes of memory that the process has at most while it acts, beyond what it has before."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(clear, os.W_OK):
        pytest.skip("this system does not tell the peak")

    def told(name: str) -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1]) * 1024

    clear.write_text("5")
    before = told("VmRSS")
    act()
    return told("VmHWM") - before


def refused(adapter: Path, base: Path, says: str, seconds: float = 3) -> None:
    def act() -> None:
        with pytest.raises(InjertoError, match=says) as caught:
            injerto.load(adapter, backbone=base)
        assert len(str(caught.value)) <= 2000 and "\n" not in str(caught.value)

    begun = time.monotonic()
    peak = peak_of(act)
    assert time.monotonic() - begun < seconds and peak < 200e6, peak


@pytest.mark.parametrize("neck", ["65536", "256"])
def test_a_head_that_is_not_there_takes_no_memory(adapter: Path, tiny_timm: Path, neck: str) -> None:
    """Finding 15: 80 KB of labels with a neck of 65,536 took 3.2 GB before a shape was compared."""
    edit(adapter / CARD, lambda card: card.update(labels=[f"class {k}" for k in range(10_000)], neck=neck))
    refused(adapter, tiny_timm, "labels with neck|has shape|does not exist")


def test_a_head_out_of_bounds_is_refused_although_it_is_there(adapter: Path, tiny_timm: Path) -> None:
    edit(adapter / CARD, lambda card: card.update(labels=[str(k) for k in range(5_000)], neck="65536"))
    shapes = {"head.layers.0.weight": [5_000, 65536], "head.layers.0.bias": [5_000]}
    at, header = 0, {}
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (adapter / HEAD).open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + at)  # sparse
    refused(adapter, tiny_timm, "labels with neck")


@pytest.mark.parametrize("file", [CARD, ADAPTER, HEAD, CONFIG])
def test_sparse_files_are_not_read(adapter: Path, tiny_timm: Path, file: str) -> None:
    os.truncate(adapter / file, 10**11)
    refused(adapter, tiny_timm, "bytes, more than")


@pytest.mark.parametrize(("side", "fine"), [(4096, False), (2049, False), (64, True)])
def test_pictures_have_a_largest_side(adapter: Path, tiny_timm: Path, side: int, fine: bool) -> None:
    edit(adapter / CARD, lambda card: card["preprocessing"].update(height=side, width=side))
    if fine:
        assert injerto.load(adapter, backbone=tiny_timm).labels
    else:
        refused(adapter, tiny_timm, "preprocessing is damaged")


def test_as_many_patterns_as_one_likes_take_no_time(adapter: Path, tiny_timm: Path) -> None:
    """Finding 26: 100,000 of them took 40 s."""
    many = {f"layer{k % 977}.{k}.conv": 1 + k % 9 for k in range(100_000)}
    edit(adapter / CONFIG, lambda config: config.update(alpha_pattern=many))
    begun = time.process_time()
    assert injerto.load(adapter, backbone=tiny_timm).labels
    assert time.process_time() - begun < 2
    modules = [f"m{k}" for k in range(300_000)]
    edit(adapter / CONFIG, lambda config: config.update(modules_to_save=modules, alpha_pattern={}))
    begun = time.process_time()
    assert injerto.load(adapter, backbone=tiny_timm).labels
    assert time.process_time() - begun < 2
    edit(adapter / CONFIG, lambda config: config.pop("modules_to_save"))
    edit(adapter / CONFIG, lambda config: config.update(alpha_pattern={f"^a{k}$": 2 for k in range(100_000)}))
    refused(adapter, tiny_timm, "100000 patterns that are no names")


NAMES = st.text("ab._1", min_size=1, max_size=6)


@given(st.lists(NAMES | st.sampled_from(["^a$", r"a\.b", "$", "^"]), max_size=12), NAMES)
def test_the_first_pattern_is_found_as_one_after_the_other(patterns: list[str], path: str) -> None:
    wanted = next((k for k, pattern in enumerate(patterns) if pattern_matches(pattern, path)), None)
    assert Patterns(patterns).first(path) == wanted


@given(st.sets(NAMES, max_size=4), NAMES)
def test_a_module_is_found_from_dot_to_dot(modules: set[str], path: str) -> None:
    assert names_module(modules, path) == any(f".{path}.".find(f".{module}.") >= 0 for module in modules)


# --- safetensors ------------------------------------------------------------------------------------------------------

DTYPES = sorted(set(TYPES.values()) - {torch.float8_e4m3fn, torch.float8_e5m2}, key=str)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.tuples(
    st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)), max_size=5))  # fmt: skip
def test_tensors_are_those_that_safetensors_reads(wanted: dict[str, Any]) -> None:
    wanted.pop("__metadata__", None)
    made = {name: (torch.randn(shape) * 9).to(kind) for name, (kind, shape) in wanted.items()}
    data = safetensors.torch.save(made)
    found = Tensors(bytearray(data), "it")
    assert set(found) == set(made)
    for name, tensor in made.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_any_flipped_bit_of_a_header_is_refused_or_understood_as_by_safetensors() -> None:
    made = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4), "c": torch.zeros(0, 2)}
    data, rng = safetensors.torch.save(made, {"format": "pt"}), random.Random(0)
    end = 8 + int.from_bytes(data[:8], "little")
    for place in range(end):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        try:
            found = Tensors(changed, "it")
        except InjertoError as error:
            assert "\n" not in str(error)
            continue
        theirs = safetensors.torch.load(bytes(changed))
        assert {name: found.shape(name) for name in found} == {name: tuple(t.shape) for name, t in theirs.items()}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"dtype": "F32", "shape": [1] * 2000, "data_offsets": [0, 4]}, "2000 dimensions"),
        ({"dtype": "F32", "shape": [2**62, 4, 0], "data_offsets": [0, 0]}, "tensors end at"),
        ({"dtype": "F32", "shape": [2**64, 0], "data_offsets": [0, 0]}, "does not fit"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "something else"),
        ({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, "something else"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}, "something else"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}, "something else"),
        ({"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}, "not known here"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "does not fit"),
        ({"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}, "gaps"),
        (7, "something else"),
    ],
)
def test_impossible_claims_are_refused(entry: Any, says: str) -> None:
    text = json.dumps({"x": entry}).encode()
    data = len(text).to_bytes(8, "little") + text + b"\0\0\0\0"
    with pytest.raises(InjertoError, match=says) as caught:
        Tensors(bytearray(data), "it")
    assert len(str(caught.value)) < 400


def test_a_header_of_an_odd_length_is_read() -> None:
    text = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    for more in range(4):
        padded = text + b" " * more
        numbers = torch.tensor([1.5, -2.0])
        data = len(padded).to_bytes(8, "little") + padded + numbers.numpy().tobytes()
        assert torch.equal(Tensors(bytearray(data), "it")["x"], numbers)


def test_a_key_twice_in_a_header_is_refused() -> None:
    one = '"x":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    text = ("{" + one % (0, 1) + "," + one % (1, 2) + "}").encode()
    with pytest.raises(InjertoError, match="there twice"):
        Tensors(bytearray(len(text).to_bytes(8, "little") + text + b"\0\0"), "it")
