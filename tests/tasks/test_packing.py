"""Packed rows give what single rows give, or rows are padded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from injerto.backbones.language import load_language
from injerto.tasks.language import Encoded, LanguageModel, collate


def network(kind: str, words: int) -> Any:
    import transformers as t

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return {
        "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(vocab_size=words, hidden_size=16, n_layer=2, n_head=2)),
        "mpt": lambda: t.MptForCausalLM(t.MptConfig(vocab_size=words, d_model=16, n_layers=2, n_heads=2)),
        "mamba": lambda: t.MambaForCausalLM(t.MambaConfig(vocab_size=words, hidden_size=16, num_hidden_layers=2)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=words, n_embd=16, n_layer=2, n_head=2)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(vocab_size=words, **small)),
        "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(vocab_size=words, **small)),
        "phi": lambda: t.PhiForCausalLM(t.PhiConfig(vocab_size=words, **small)),
        "falcon": lambda: t.FalconForCausalLM(
            t.FalconConfig(vocab_size=words, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, alibi=True)
        ),
        "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(vocab_size=words, num_key_value_heads=2, head_dim=8, **small)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(vocab_size=words, sliding_window=4, num_key_value_heads=2, **small)),
        "bigcode": lambda: t.GPTBigCodeForCausalLM(
            t.GPTBigCodeConfig(vocab_size=words, n_embd=16, n_layer=2, n_head=2)
        ),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=words, hidden_size=16, num_hidden_layers=2, ffn_dim=16, num_attention_heads=2,
                word_embed_proj_dim=16,
            )
        ),
    }[kind]()  # fmt: skip


QUICK = ["bloom", "mamba", "gpt2", "mistral"]
SLOW = ["mpt", "llama", "neox", "phi", "falcon", "gemma", "bigcode", "opt"]


@pytest.mark.parametrize("kind", [*QUICK, *[pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW]])
def test_losses_are_those_of_each_example_alone(kind: str, tiny_lm: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    torch.manual_seed(0)
    plain = network(kind, len(tokenizer)).eval()
    plain.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = LanguageModel(load_language(tmp_path)).eval()
    if kind in ("bloom", "mamba", "mistral"):
        assert model.unpacked
    if kind in ("gpt2", "llama"):
        assert model.unpacked is None
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, len(tokenizer), (n,), generator=generator) for n in (9, 4, 6)]
    examples = [Encoded(row.numpy()) for row in rows]
    with torch.no_grad():
        found = model.losses(*collate([[example] for example in examples] if model.unpacked else [examples]))
        wanted = torch.cat(
            [
                torch.nn.functional.cross_entropy(plain(input_ids=r[None]).logits[0, :-1], r[1:], reduction="none")
                for r in rows
            ]
        )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
