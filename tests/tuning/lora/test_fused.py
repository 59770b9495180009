"""Parts of fused q, k and v matrices: the rows that change are those that the architecture's own forward reads."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from injerto.basics.errors import InjertoError
from injerto.tuning.lora.attach import attach
from injerto.tuning.lora.base import Variant
from injerto.tuning.lora.fused import SLICES, Layout, layout_of
from injerto.tuning.lora.targets import find_targets

QUICK = settings(max_examples=6, deadline=None, derandomize=True)


class Seen(TorchFunctionMode):
    """Query, key and value of the first attention, whatever function computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.ndim >= 3]
        if len(self.found) < 3 and name == "scaled_dot_product_attention":
            self.found = tensors[:3]
        elif len(self.found) < 3 and name == "baddbmm":
            self.found = tensors[1:3]
        elif len(self.found) < 3 and name in ("matmul", "bmm", "__matmul__", "__rmatmul__") and len(tensors) == 2:
            self.found += tensors[1:] if self.found else tensors
        return func(*args, **kwargs)


def captured(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad(), Seen() as seen:
        model(**inputs)
    assert len(seen.found) == 3
    return [tensor.clone() for tensor in seen.found]


def text(name: str, **config: Any) -> Callable[[int, int, int], nn.Module]:
    def build(heads: int, shared: int, width: int) -> nn.Module:
        sizes = {key: value(heads, shared, width) if callable(value) else value for key, value in config.items()}
        made = getattr(transformers, f"{name}Config")(**sizes)
        return getattr(transformers, f"{name}Model")(made)

    return build


HEADS: dict[str, Any] = {
    "hidden_size": lambda h, s, w: h * w, "num_attention_heads": lambda h, s, w: h, "num_hidden_layers": 1,
    "intermediate_size": 16, "vocab_size": 20,
}  # fmt: skip
SHARED = {"num_key_value_heads": lambda h, s, w: s, "pad_token_id": 0}
GPT: dict[str, Any] = {"n_embd": lambda h, s, w: h * w, "n_head": lambda h, s, w: h, "n_layer": 1, "vocab_size": 20}
WIDTH = {"hidden_size": HEADS["hidden_size"]}
MARKS = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 3, "bos_token_id": 4}
FALCON = {**{k: v for k, v in HEADS.items() if k != "intermediate_size"}, "alibi": False}
TEXTS: dict[str, tuple[str, Callable[[int, int, int], nn.Module]]] = {
    "neox": ("query_key_value", text("GPTNeoX", **HEADS)),
    "persimmon": ("query_key_value", text("Persimmon", **HEADS, qk_layernorm=False)),
    "bloom": ("query_key_value", text("Bloom", **{k: v for k, v in GPT.items() if k != "n_embd"}, **WIDTH)),
    "gpt2": ("c_attn", text("GPT2", **GPT)),
    "bigcode shared": ("c_attn", text("GPTBigCode", **GPT, multi_query=True)),
    "bigcode": ("c_attn", text("GPTBigCode", **GPT, multi_query=False)),
    "falcon grouped": (
        "query_key_value",
        text("Falcon", **FALCON, new_decoder_architecture=True, num_kv_heads=SHARED["num_key_value_heads"]),
    ),
    "falcon shared": ("query_key_value", text("Falcon", **FALCON, multi_query=True)),
    "falcon": ("query_key_value", text("Falcon", **FALCON, multi_query=False)),
    "mpt": ("Wqkv", text("Mpt", d_model=HEADS["hidden_size"], n_heads=GPT["n_head"], n_layers=1, vocab_size=20)),
    "modernbert": ("Wqkv", text("ModernBert", **HEADS, **MARKS)),
    "phi3": ("qkv_proj", text("Phi3", **HEADS, **SHARED, bos_token_id=1, eos_token_id=2)),
}


def check(model: nn.Module, name: str, inputs: dict[str, Tensor]) -> None:
    """Adapt each part by itself; the first attention must see that part changed, all of it, and no other."""
    path = next(path for path, _ in model.named_modules() if path.rpartition(".")[2] == name)
    layout = layout_of(model, path)
    assert layout is not None
    before = captured(model, inputs)
    rows = [layout.rows(part) for part in SLICES]
    fused = model.get_submodule(path)
    out = fused.weight.shape[int(isinstance(fused, Conv1D))]
    assert sorted(row for part in rows for row in part) == list(range(out))
    for place, part in enumerate(rows):
        layer = attach(model.get_submodule(path), Variant(2, 4.0), rows=(part,))
        with torch.no_grad():
            layer.lora_B.normal_()
        after = captured(model, inputs)
        layer.strip()
        changed = [(one - other).abs() > 1e-7 for one, other in zip(before, after, strict=True)]
        assert [bool(one.any()) for one in changed] == [i == place for i in range(3)], (path, SLICES[place])
        assert bool(changed[place].flatten(0, -2).any(0).all())


@pytest.mark.parametrize("kind", TEXTS)
def test_rows_are_those_that_the_forward_reads(kind: str) -> None:
    name, build = TEXTS[kind]

    @QUICK
    @given(st.sampled_from([(2, 1), (4, 2), (4, 1), (6, 3)]), st.sampled_from([4, 8]))
    def fuzz(heads: tuple[int, int], width: int) -> None:
        torch.manual_seed(0)
        model = build(*heads, width).eval()
        check(model, name, {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4).long()})

    fuzz()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}),
        ("eva02_tiny_patch14_224", {"img_size": 28, "embed_dim": 24, "depth": 1, "num_heads": 2, "qkv_fused": True}),
        ("beit_base_patch16_224", {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}),
        ("swin_tiny_patch4_window7_224", {"img_size": 28, "embed_dim": 12, "depths": (1,), "num_heads": (3,)}),
        ("tiny_vit_5m_224", {"embed_dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}),
    ],
)
def test_rows_of_timms_attentions(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **options).eval()
    side = options.get("img_size", 64)
    check(model, "qkv", {"x": torch.randn(1, 3, side, side)})


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_the_parts_of_a_layout_are_a_partition(groups: int, q: int, k: int, v: int) -> None:
    layout = Layout(groups, q, k, v)
    assert sorted(row for part in SLICES for row in layout.rows(part)) == list(range(groups * (q + k + v)))
    assert [len(layout.rows(part)) for part in SLICES] == [groups * q, groups * k, groups * v]


class Own(nn.Module):
    """Somebody's attention, whose layout nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        return self.qkv(x)


def stub(model: nn.Module) -> Any:
    return SimpleNamespace(model=model, stages=["only"], stage_of=lambda name: 0, spec="stub")


def test_an_unknown_layout_is_refused_and_the_whole_of_it_is_not() -> None:
    with pytest.raises(InjertoError, match="'qkv.q' asks for a part of attention.qkv, and how Own stacks"):
        find_targets(stub(nn.ModuleDict({"attention": Own()})), ("qkv.q",), 0)
    assert [target.rows for target in find_targets(stub(nn.ModuleDict({"attention": Own()})), ("qkv",), 0)] == [()]
    codegen = transformers.CodeGenConfig(n_embd=16, n_head=4, n_layer=1, vocab_size=20, rotary_dim=2)
    with pytest.raises(InjertoError, match="how CodeGenAttention stacks"):  # its order is q, v, k, in four pieces
        find_targets(stub(transformers.CodeGenModel(codegen)), ("qkv_proj.q",), 0)


def test_a_part_that_is_named_twice_counts_once() -> None:
    model = nn.ModuleDict({"mha": nn.MultiheadAttention(4, 2)})
    (target,) = find_targets(stub(model), ("mha.q", "mha.v", "mha.q"), 0)
    assert target.rows == ((0, 1, 2, 3), (8, 9, 10, 11))


def test_pissa_of_parts_is_refused() -> None:
    """Its start is of the whole matrix: with parts masked, the first step would not start from the pretrained weight."""
    with pytest.raises(InjertoError, match="not of the chosen parts"):
        attach(nn.Linear(6, 18), Variant(2, 4.0), "pissa", ((0, 1, 2),))
