"""A mutation test over fingerprints: whatever changes an output changes the cache's key, and a card notices it."""

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from injerto.backbones.backbone import Backbone
from injerto.backbones.identity import Identity, difference, distance, is_identity
from injerto.backbones.load import load_backbone
from injerto.backbones.tokenizers import behaviour, exact_form
from injerto.compute.features import space_key
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing


def key(backbone: Backbone) -> str:
    """The cache that a backbone reads."""
    return space_key(backbone.identity.key, backbone.preprocessing.card(), "plain", "fp32")


def apart(one: Backbone, other: Backbone) -> str | None:
    """What a card made on the first says of the second."""
    if one.fingerprint != other.fingerprint:
        return "other weights"
    return difference(json.loads(json.dumps(one.identity.card())), other.identity.card())


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def set_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda config: config.update(values))


def set_tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer.json", change)


def set_options(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "tokenizer_config.json", lambda config: config.update(values))


def swap_words(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]


def add_word(tokenizer: dict[str, Any]) -> None:
    one = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}
    tokenizer["added_tokens"].append({"id": 39, "content": "zorblax", **one})


def nudge(name: str) -> Callable[[Path], None]:
    """The next number after one of a tensor's."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        name_in_file = next(key for key in tensors if key.endswith(name))
        flat = tensors[name_in_file].view(-1)
        flat[3] = torch.nextafter(flat[3], torch.tensor(float("inf")))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def pool_by(mode: str, at_most: int = 30) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        kinds = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
        modules = [
            {"idx": int(i), "name": i, "path": path, "type": f"sentence_transformers.models.{k}"}
            for i, path, k in kinds
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        edit(folder / "1_Pooling" / "config.json", lambda config: config.update({"pooling_mode": mode}))
        edit(folder / "sentence_bert_config.json", lambda config: config.update({"max_seq_length": at_most}))

    return change


TEXT = {  # what is changed alone: how, and what a card says of it
    "a weight by its last bit": (nudge("query.weight"), "other weights"),
    "two words of the vocabulary": (set_tokenizer(swap_words), "another tokenizer"),
    "an added token": (set_tokenizer(add_word), "another tokenizer"),
    "the normalizer": (set_tokenizer(lambda t: t.update(normalizer={"type": "Lowercase"})), "another tokenizer"),
    "the pre-tokenizer": (
        set_tokenizer(lambda t: t.update(pre_tokenizer={"type": "WhitespaceSplit"})),
        "another tokenizer",
    ),
    "the special tokens": (
        set_tokenizer(lambda t: t["post_processor"]["single"].pop()),
        "another tokenizer",
    ),
    "the unknown token": (set_tokenizer(lambda t: t["model"].update(unk_token="[MASK]")), "another tokenizer"),
    "the side that is cut": (set_options(truncation_side="left"), "another tokenizer"),
    "the pooling": (pool_by("cls"), "another pooling (cls, not mean)"),
    "two poolings": (pool_by("max"), "another pooling (max, not mean)"),
    "the activation": (set_config(hidden_act="relu"), "another configuration or code"),
    "a large epsilon": (set_config(layer_norm_eps=0.1), "another configuration or code"),
    "a small epsilon": (set_config(layer_norm_eps=1e-9), None),  # no output changes by more than a rounding error
    "the number of heads": (set_config(num_attention_heads=4), "another configuration or code"),
}


@pytest.fixture(scope="module")
def plain_text(tiny_bert: Path) -> Backbone:
    return load_backbone(str(tiny_bert))


@pytest.mark.parametrize("name", TEXT)
def test_each_part_of_a_text_base_counts(name: str, tiny_bert: Path, tmp_path: Path, plain_text: Backbone) -> None:
    change, words = TEXT[name]
    folder = tmp_path / tiny_bert.name
    shutil.copytree(tiny_bert, folder)
    assert key(load_backbone(str(folder))) == key(plain_text)
    change(folder)
    other = load_backbone(str(folder))
    assert key(other) != key(plain_text)
    said = apart(plain_text, other)
    assert said is words or (words is not None and said is not None and said.startswith(words)), said


def test_the_longest_text_counts_for_the_cache(tiny_bert: Path, tmp_path: Path, plain_text: Backbone) -> None:
    folder = tmp_path / tiny_bert.name
    shutil.copytree(tiny_bert, folder)
    keys = set()
    for at_most in (30, 20):
        pool_by("mean", at_most)(folder)
        shorter = load_backbone(str(folder))
        keys.add(key(shorter))
        assert apart(plain_text, shorter) is None  # an adapter brings its own length
    assert len(keys | {key(plain_text)}) == 3


def set_cfg(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda config: config["pretrained_cfg"].update(values))


PICTURES = {
    "a weight by its last bit": (nudge("layer2.0.conv1.weight"), "other weights"),
    "a buffer by its last bit": (nudge("bn1.running_var"), "other weights"),
    "the mean": (set_cfg(mean=[0.5, 0.5, 0.4]), None),  # an adapter brings its own preprocessing
    "the deviation": (set_cfg(std=[0.25, 0.25, 0.2]), None),
    "the interpolation": (set_cfg(interpolation="bicubic"), None),
    "the crop": (set_cfg(crop_pct=0.9), None),
    "the way to crop": (set_cfg(crop_mode="squash"), None),
    "the size": (set_cfg(input_size=[3, 40, 40]), None),
    "the activation": (
        lambda folder: edit(folder / "config.json", lambda config: config["model_args"].update(act_layer="gelu")),
        "another configuration or code",
    ),
    "the pooling": (
        lambda folder: edit(folder / "config.json", lambda config: config["model_args"].update(global_pool="max")),
        "another configuration or code",
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_each_part_of_a_picture_base_counts(name: str, tiny_timm: Path, tmp_path: Path) -> None:
    change, words = PICTURES[name]
    plain, folder = load_backbone(str(tiny_timm)), tmp_path / tiny_timm.name
    shutil.copytree(tiny_timm, folder)
    assert key(load_backbone(str(folder))) == key(plain)
    change(folder)
    other = load_backbone(str(folder))
    assert key(other) != key(plain)
    said = apart(plain, other)
    assert said is words or (words is not None and said is not None and said.startswith(words)), said


# --- networks of the user's own ---------------------------------------------------------------------------------------

LOOKS = ImagePreprocessing(32, 32, (0.5, 0.4, 0.3), (0.3, 0.25, 0.2), "bilinear", 1.0)
FIRST = """
import torch
from torch import nn
SCALE = 1.0
SHIFTS = {"a", "b", "c", "d"}
def pooled(x, power=1):
    return (x ** power).mean((2, 3))
class Net(nn.Module):
    OFFSET = 0.0
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.temperature, self.weights = nn.Conv2d(3, 8, 3, 2), 1.0, torch.ones(8)
    def forward(self, x):
        '''Embed.'''
        x = self.conv(x)
        if "a" not in SHIFTS:
            x = x + 1
        return SCALE * pooled(x.relu()) / self.temperature * self.weights + self.OFFSET
"""
CODE = {  # one part of the code, and what takes its place
    "forward": ("x.relu()", "x.tanh()"),
    "what is pooled": ("mean((2, 3))", "amax((2, 3))"),
    "a helper by little": ("(x ** power)", "(x ** power + 1e-7)"),
    "a default of a helper": ("power=1", "power=2"),
    "a constant of the file": ("SCALE = 1.0", "SCALE = 1.0000001"),
    "a set of the file": ('"d"}', '"e"}'),
    "an attribute of the class": ("OFFSET = 0.0", "OFFSET = 1e-7"),
    "an attribute of the object": ("self.temperature, self.weights = nn.Conv2d(3, 8, 3, 2), 1.0", "self.temperature, self.weights = nn.Conv2d(3, 8, 3, 2), 1.0000001"),
    "a tensor that is not saved": ("torch.ones(8)", "torch.full((8,), 1.0000001)"),
    "the stride": ("nn.Conv2d(3, 8, 3, 2)", "nn.Conv2d(3, 8, 3, 1)"),
}  # fmt: skip


def network(source: str) -> Any:
    space: dict[str, Any] = {"__name__": "own"}
    exec(compile(source, "own.py", "exec"), space)
    return load_backbone(space["Net"](), preprocessing=LOOKS)


@pytest.mark.parametrize("name", CODE)
def test_the_code_of_a_network_counts(name: str) -> None:
    before, after = CODE[name]
    assert FIRST.count(before) == 1
    plain, other = network(FIRST), network(FIRST.replace(before, after))
    assert plain.fingerprint == other.fingerprint
    assert key(plain) != key(other)
    large = name in {"forward", "what is pooled", "a default of a helper", "the stride"}
    assert (apart(plain, other) is not None) == large


def test_what_computes_the_same_is_the_same() -> None:
    commented = FIRST.replace("'''Embed.'''", "'''Embed pictures.'''").replace("SCALE = 1.0", "SCALE = 1.0  # plain")
    plain = network(FIRST)
    assert key(network(commented)) == key(plain) == key(network(FIRST))
    plain.identify()
    assert key(plain) == key(network(FIRST))


def test_an_object_that_was_changed_is_another_base() -> None:
    plain, other = network(FIRST), network(FIRST)
    other.model.temperature = 2.0
    other.identify()
    assert key(plain) != key(other) and "code" in str(apart(plain, other))
    other.model.temperature = 1.0
    other.identify()
    assert key(plain) == key(other) and apart(plain, other) is None
    with torch.no_grad():
        other.model.conv.bias += 1e-6
    other.identify()
    assert key(plain) != key(other) and apart(plain, other) == "other weights"


class Drawing(nn.Module):
    """Its dropout is never off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(self.conv(images), 0.1, training=True).mean((2, 3))


class Counting(Drawing):
    """It adds up its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(images).mean((2, 3))


class Mixing(Drawing):
    """It normalizes by the other pictures of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return (maps - maps.mean((0, 2, 3), keepdim=True)).amax((2, 3))


@pytest.mark.parametrize("kind", [Drawing, Counting, Mixing])
def test_what_changes_from_call_to_call_is_noticed(kind: type[nn.Module], capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.random.get_rng_state()
    found = load_backbone(kind(), preprocessing=LOOKS)
    assert not found.identity.steady and found.identity.probe == ()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"module:{kind.__name__}" in said and "not kept on the disk" in said
    found.identify()
    assert torch.equal(torch.random.get_rng_state()[:8], before[:8])


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_calls_leave_no_trace(plain_text: Backbone) -> None:
    looks = plain_text.preprocessing
    assert isinstance(looks, TextPreprocessing)
    before = behaviour(looks.tokenizer), exact_form(looks.tokenizer)
    looks.tokenizer("a good film", truncation=True, max_length=3)
    looks.tokenizer(["a good film", "bad"], padding="max_length", max_length=20, truncation=True)
    state = looks.tokenizer.backend_tokenizer.padding, looks.tokenizer.backend_tokenizer.truncation
    assert all(state)
    assert exact_form(looks.tokenizer) == before[1]
    assert (looks.tokenizer.backend_tokenizer.padding, looks.tokenizer.backend_tokenizer.truncation) == state
    assert behaviour(looks.tokenizer) == before[0]


def test_the_merges_of_pieces_count() -> None:
    """Two tokenizers with one vocabulary that put pieces together in another order."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefgh"
    pairs = [(a, b) for a in letters for b in letters]
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *letters, *(a + b for a, b in pairs)])}

    def make(merges: list[tuple[str, str]]) -> Any:
        inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[UNK]")

    assert behaviour(make(pairs)) == behaviour(make(list(pairs)))
    assert behaviour(make(pairs)) != behaviour(make(pairs[::-1]))
    assert exact_form(make(pairs)) != exact_form(make([*pairs[:-2], pairs[-1], pairs[-2]]))


def test_a_slow_tokenizer_is_known_too(plain_text: Backbone) -> None:
    class Slow:
        pad_token_id, eos_token_id, truncation_side = 0, None, "right"

        def __init__(self, words: str) -> None:
            self.words = {word: i for i, word in enumerate(words.split())}

        def get_vocab(self) -> dict[str, int]:
            return self.words

        def __call__(self, text: str | list[str], **_: Any) -> dict[str, Any]:
            if isinstance(text, list):
                return {"input_ids": [self(one)["input_ids"] for one in text]}
            return {"input_ids": [2, *(self.words.get(word, 1) for word in text.split())]}

    one, other = Slow("pad unk cls good bad"), Slow("pad unk cls bad good")
    assert behaviour(one) == behaviour(Slow("pad unk cls good bad")) != behaviour(other)
    assert exact_form(one) != exact_form(other)
    looks = TextPreprocessing(one, 30, "slow")
    assert load_backbone(plain_text.model, preprocessing=looks).identity.tokenizer == behaviour(one)


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_threads_and_processes_do_not_count(tiny_bert: Path, tiny_timm: Path) -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append([load_backbone(str(folder)).identity for folder in (tiny_bert, tiny_timm)])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_other_processes_find_the_same(tmp_path: Path, tiny_bert: Path) -> None:
    source = FIRST + textwrap.dedent(f"""
        from injerto.backbones.load import load_backbone
        print(load_backbone(Net()).identity.key, load_backbone({str(tiny_bert)!r}).identity.key)
    """)
    (tmp_path / "own.py").write_text(source)
    found = {
        subprocess.run(
            [sys.executable, str(tmp_path / "own.py")],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"))
    }
    assert len(found) == 1


def test_noise_is_no_difference_and_half_a_percent_is(plain_text: Backbone) -> None:
    mark = plain_text.identity
    rng = np.random.default_rng(0)
    size = float(np.sqrt(np.square(mark.probe).mean()))

    def moved(by: float) -> Identity:
        return replace(mark, probe=tuple(np.asarray(mark.probe) + by * size * rng.uniform(-1, 1, len(mark.probe))))

    assert all(difference(mark.card(), moved(5e-4).card()) is None for _ in range(20))
    assert all("code" in str(difference(mark.card(), moved(0.02).card())) for _ in range(20))
    assert distance(mark.probe, mark.probe) == 0 and distance(mark.probe, mark.probe[1:]) == 1


def test_cards_of_earlier_and_later_versions_are_not_compared(plain_text: Backbone) -> None:
    mark = plain_text.identity.card()
    assert difference({}, mark) is None and difference(mark, {}) is None and difference({}, {}) is None
    assert difference(mark | {"version": 2}, mark) is None
    assert difference({"version": 2}, {"version": 2}) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"version": "1"},
        {"probe": ["a"]},
        {"probe": [float("nan")]},
        {"probe": None},
        {"tolerance": None},
        {"tokenizer": 3},
        {"pooling": "mean\n\x1b[2J"},
        {"size": None},
    ],
)
def test_what_is_no_identity(damage: dict[str, Any], plain_text: Backbone) -> None:
    mark = plain_text.identity.card()
    assert is_identity(mark) and is_identity({"version": 2})
    assert not is_identity(mark | damage) and not is_identity([])


def test_the_chat_template_counts_where_it_is_used(tiny_lm: Path, tmp_path: Path) -> None:
    from injerto.backbones.language import load_language

    folder = tmp_path / "lm"
    shutil.copytree(tiny_lm, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<user>", "<model>"))
    one, other = load_language(tiny_lm).identity.card(), load_language(folder).identity.card()
    assert difference(one, other, chat=True) == "another chat template" and difference(one, other) is None
