"""Networks that change activations in place train under low-rank pairs, as they do under PEFT."""

import copy

import pytest
import torch

from injerto.tuning.lora.attach import attach
from injerto.tuning.lora.base import Variant


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_an_output_may_be_changed_in_place(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 7, bias=bias)
    attach(layer, Variant(2, 4))
    torch.nn.init.normal_(layer.lora_B)  # type: ignore[arg-type]
    inputs = torch.randn(3, 4, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = layer(inputs)
        output /= 2
        output.float().square().sum().backward()
    found = layer.lora_A.grad.clone()  # type: ignore[union-attr]
    wanted = torch.nn.functional.linear(inputs, layer.weight, layer.bias) / 2
    gradient = torch.autograd.grad(wanted.square().sum(), layer.lora_A)[0]  # type: ignore[arg-type]
    limits = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.5}
    torch.testing.assert_close(found, gradient, **limits)


def test_longformer_trains_as_under_peft() -> None:
    import transformers as t
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = t.LongformerConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        attention_window=[4], max_position_embeddings=40, pad_token_id=0,
    )  # fmt: skip
    plain = t.LongformerModel(config, add_pooling_layer=False).eval()
    ours = copy.deepcopy(plain)
    layer = ours.encoder.layer[0].attention.self.query
    attach(layer, Variant(2, 4))
    torch.nn.init.normal_(layer.lora_B)
    theirs = get_peft_model(plain, LoraConfig(r=2, lora_alpha=4, target_modules=["query"]))
    query = theirs.base_model.model.encoder.layer[0].attention.self.query
    query.lora_A["default"].weight.data.copy_(layer.lora_A.data)
    query.lora_B["default"].weight.data.copy_(layer.lora_B.data)
    ids = torch.randint(3, 20, (2, 9))
    outputs = [m(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state for m in (ours, theirs.eval())]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(layer.lora_A.grad, query.lora_A["default"].weight.grad, rtol=1e-3, atol=1e-3)
