"""A table that shares its weight with the output layer shares its low-rank pair with it, in PEFT's files too."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from injerto.adapters.artifact import load_low_rank, save_parts
from injerto.adapters.peft import load_config, peft_tensors, save_config
from injerto.adapters.snapshot import opened
from injerto.compute.fold import settled
from injerto.tuning.lora.attach import attach, tie
from injerto.tuning.lora.base import LowRank, Tied, Variant

TOKENS = torch.arange(18).view(2, 9)


def network() -> LlamaForCausalLM:
    """A tiny language model, the same every time, with one table for input and output."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    config.tie_word_embeddings = True
    return LlamaForCausalLM(config).eval()


def logits(model: nn.Module) -> Tensor:
    """What the model says of fixed tokens."""
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


class _Holder:
    """What the reader needs of a backbone."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.numbers = model, sum(tensor.numel() for tensor in model.state_dict().values())


def adapted(tying: bool) -> LlamaForCausalLM:
    """With a random pair on the table."""
    model = network()
    table = attach(model.model.embed_tokens, Variant(4, 8.0))
    nn.init.normal_(table.lora_A, std=0.1)
    assert not tying or tie(model, table)
    return model


def merge(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, LowRank):
            module.merge()


@pytest.mark.parametrize("tying", [True, False])
def test_merged_settled_and_unmerged_are_one(tying: bool) -> None:
    model = adapted(tying)
    before, base = logits(model), logits(network())
    twin = settled(model)
    assert torch.allclose(logits(twin), before, atol=1e-5)
    assert (twin.lm_head.weight is twin.model.embed_tokens.weight) == tying
    merge(model)
    assert torch.allclose(logits(model), before, atol=1e-5)
    for module in model.modules():
        if isinstance(module, LowRank):
            module.unmerge()
            module.strength = 0.0
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("tying", [True, False])
def test_peft_reads_what_we_write(tying: bool, tmp_path: Path) -> None:
    model = adapted(tying)
    save_config(tmp_path, model, "tiny", (), "CAUSAL_LM")
    save_parts(tmp_path, peft_tensors(model), {})
    theirs = peft.PeftModel.from_pretrained(network(), tmp_path)
    assert torch.allclose(logits(theirs), logits(model), atol=1e-5)


def test_a_model_whose_table_has_another_name(tmp_path: Path) -> None:
    """PEFT's own tying looks for some names only; GPT-2's is another."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def gpt() -> nn.Module:
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()

    model = gpt()
    table = attach(model.transformer.wte, Variant(4, 8.0))
    nn.init.normal_(table.lora_A, std=0.3)
    assert tie(model, table)
    save_config(tmp_path, model, "tiny", (), "CAUSAL_LM")
    save_parts(tmp_path, peft_tensors(model), {})
    theirs = peft.PeftModel.from_pretrained(gpt(), tmp_path)
    assert torch.allclose(logits(theirs), logits(model), atol=1e-5)
    ours = _Holder(gpt())
    with opened(tmp_path) as files:
        load_low_rank(files, ours)  # type: ignore[arg-type]
    assert torch.allclose(logits(ours.model), logits(model), atol=1e-5)
    assert isinstance(ours.model.lm_head, Tied)
    assert not torch.allclose(logits(gpt()), logits(model), atol=1e-2)


@pytest.mark.parametrize("tying", [True, False])
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_we_read_what_peft_writes(tying: bool, target: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[target, "q_proj"], ensure_weight_tying=tying)
    theirs = peft.get_peft_model(network(), config)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    with opened(tmp_path) as files:
        assert load_config(files)["ensure_weight_tying"] == tying
    ours = _Holder(network())
    with opened(tmp_path) as files:
        load_low_rank(files, ours)  # type: ignore[arg-type]
    assert torch.allclose(logits(ours.model), logits(theirs), atol=1e-5)


def test_gradients_reach_the_pair_from_both_ends() -> None:
    pulls: list[Callable[[nn.Module], Tensor]] = [
        lambda model: model.model.embed_tokens(TOKENS).square().sum(),
        lambda model: model.lm_head(torch.ones(1, 32)).square().sum(),
    ]
    for pull in pulls:
        model = adapted(True)
        pull(model).backward()
        table = model.model.embed_tokens
        assert table.lora_A.grad.abs().sum() > 0
        assert table._parameters["weight"].grad is None
