"""Tokens that are learned and tokens that are read, packing, and losses equal to transformers' own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from injerto.backbones.language import load_language
from injerto.basics.errors import InjertoError
from injerto.domains.preprocessing import TextPreprocessing
from injerto.tasks.language import (
    Encoded,
    LanguageModel,
    collate,
    encode_pair,
    encode_text,
    generate,
    pack,
    prompt_ids,
)


@pytest.fixture(scope="module")
def model(tiny_lm: Path) -> LanguageModel:
    return LanguageModel(load_language(tiny_lm)).eval()


def size_of(model: LanguageModel) -> TextPreprocessing:
    size = model.backbone.preprocessing
    assert isinstance(size, TextPreprocessing)
    return size


def test_only_the_response_is_learned_and_in_the_models_template(model: LanguageModel) -> None:
    size = size_of(model)
    pair = encode_pair("a good book", "bad film", size)
    assert pair is not None and pair.whole
    tokenizer = size.tokenizer
    assert tokenizer.decode(pair.ids[: pair.first]) == "<user> a good book <model>"
    assert tokenizer.decode(pair.ids[pair.first :]) == "bad film <end>"
    assert list(pair.ids[: pair.first]) == prompt_ids("a good book", size)
    _, targets = collate([[pair]])
    assert targets[targets >= 0].tolist() == list(pair.ids[pair.first :])


def test_without_a_template_the_response_follows_a_line_break(model: LanguageModel) -> None:
    size = size_of(model)
    plain = SimpleNamespace(**{"chat_template": None, "eos_token_id": size.tokenizer.eos_token_id})
    wrapped = TextPreprocessing(_Plain(size.tokenizer, plain), size.max_length, "x")
    pair = encode_pair("good", "bad film", wrapped)
    assert pair is not None
    assert size.tokenizer.decode(pair.ids[pair.first :]) == "bad film <end>"


class _Plain:
    """A tokenizer without chat template."""

    def __init__(self, tokenizer: Any, other: Any) -> None:
        self._tokenizer, self.chat_template, self.eos_token_id = tokenizer, None, other.eos_token_id

    def __call__(self, text: str, **options: Any) -> Any:
        return self._tokenizer(text, **options)


def test_what_is_too_long_is_cut_or_left_out(model: LanguageModel) -> None:
    size = TextPreprocessing(size_of(model).tokenizer, 10, "x")
    cut = encode_pair("good", "bad " * 20, size)
    assert cut is not None and len(cut.ids) == 10 and not cut.whole
    assert encode_pair("good " * 20, "bad", size) is None
    pieces = encode_text("good " * 25, size)
    assert [len(piece.ids) for piece in pieces] == [10, 10, 6]
    assert pieces[-1].ids[-1] == size.tokenizer.eos_token_id


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 12), min_size=1, max_size=40))
def test_packing_loses_nothing(lengths: list[int]) -> None:
    examples = [Encoded(np.arange(length, dtype=np.int32)) for length in lengths]
    rows = pack(examples, 12)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 12 for row in rows)
    assert len(rows) <= 2 * max(1, -(-sum(lengths) // 12))


def sample(model: LanguageModel) -> list[Encoded]:
    texts = ["a good book", "bad film , very bad", "good", "the plot of the film"]
    pair = encode_pair("a good film", "bad book , very bad", size_of(model))
    assert pair is not None
    return [piece for text in texts for piece in encode_text(text, size_of(model))] + [pair]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_losses_are_those_of_each_example_alone_and_transformers_own(
    model: LanguageModel, kind: str, tiny_lm: Path
) -> None:
    if kind == "gpt2":  # learned positions, attention with biases, its own Conv1D
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=64, n_positions=64, n_embd=16, n_layer=2, n_head=2)
        backbone = load_language(tiny_lm)
        backbone.model = GPT2LMHeadModel(config).eval()
        model = LanguageModel(backbone)
    examples = sample(model)
    together = model.losses(*collate([examples]))
    alone = torch.cat([model.losses(*collate([[example]])) for example in examples])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    theirs = []
    for example in examples:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        labels = ids.clone()
        labels[:, : example.first] = -100
        theirs.append(model.backbone.model(input_ids=ids, labels=labels).loss)
    counts = [len(example.ids) - example.first for example in examples]
    ours = torch.stack([part.mean() for part in alone.split(counts)])
    torch.testing.assert_close(ours, torch.stack(theirs), atol=1e-5, rtol=1e-5)


def test_losses_in_chunks_have_the_same_gradients(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets = collate([sample(model)])
    found = []
    for chunk in (1024, 5):
        monkeypatch.setattr("injerto.tasks.language.CHUNK", chunk)
        model.zero_grad()
        model.losses(inputs, targets).mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_generation_is_transformers_own_and_repeats(model: LanguageModel, tiny_lm: Path) -> None:
    ids = prompt_ids("a good book", size_of(model))
    said = generate(model.backbone, ids, 5)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_lm).generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=5, do_sample=False, pad_token_id=0
    )
    assert said == size_of(model).tokenizer.decode(theirs[0, len(ids) :], skip_special_tokens=True)
    drawn = [generate(model.backbone, ids, 5, temperature=2.0, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("packaged:minilm-l6", "no causal language model"),
        ("packaged:nothing", "no causal language model"),
        ("nowhere", "no causal language model"),
        ("hf:/no/such/folder", "cannot load|can't be reached"),
    ],
)
def test_what_is_no_language_model_is_refused(spec: str, says: str) -> None:
    with pytest.raises(InjertoError, match=says):
        load_language(spec)


def test_an_encoder_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(InjertoError, match="no causal language model"):
        load_language(tiny_bert)


def test_from_the_hubs_cache(tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_lm, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = load_language("hf:someone/tiny")
    assert (found.hub_id, found.licence) == ("someone/tiny", "mit")
    assert found.fingerprint == load_language(tiny_lm).fingerprint
    with pytest.raises(InjertoError, match="not in the local cache"):
        load_language("hf:someone/other")
