"""Low-rank layers of every kind against dense float64 weights and against PEFT."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from injerto.adapters.peft import peft_tensors
from injerto.basics.errors import InjertoError
from injerto.compute.fold import settled
from injerto.tuning.lora.attach import attach
from injerto.tuning.lora.base import LowRank, Variant
from injerto.tuning.lora.convolution import LowRankConv

Case = tuple[nn.Module, tuple[Tensor, ...]]


class Net(nn.Module):
    """One layer in a network, as PEFT needs it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        output = self.layer(*inputs)
        return output[0] if isinstance(output, tuple) else output


@st.composite
def linear(draw: Any) -> Case:
    wide, out = draw(st.integers(2, 20)), draw(st.integers(2, 20))
    shape = draw(st.sampled_from([(3,), (2, 5)]))
    return nn.Linear(wide, out, bias=draw(st.booleans())), (torch.randn(*shape, wide),)


@st.composite
def conv1d(draw: Any) -> Case:
    wide, out = draw(st.integers(2, 20)), draw(st.integers(2, 20))
    return Conv1D(out, wide), (torch.randn(2, 3, wide),)


@st.composite
def convolution(draw: Any, peft: bool = False) -> Case:
    flat = draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 2]))
    kernel = draw(st.sampled_from([1, 3] if flat else [1, 3, (1, 3)]))
    settings_ = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 2)),
        "dilation": 1 if peft else draw(st.integers(1, 2)),
        "padding_mode": "zeros" if peft else draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"])),
        "bias": draw(st.booleans()),
    }
    wide, out = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))
    plain = nn.Conv1d if flat else nn.Conv2d
    size = (9,) if flat else (9, 8)
    return plain(wide, out, kernel, groups=groups, **settings_), (torch.randn(2, wide, *size),)


@st.composite
def embedding(draw: Any) -> Case:
    rows = draw(st.integers(3, 12))
    pad = draw(st.sampled_from([None, 0]))
    return nn.Embedding(rows, draw(st.integers(2, 9)), padding_idx=pad), (torch.randint(0, rows, (2, 5)),)


@st.composite
def attention(draw: Any) -> Case:
    width = 2 * draw(st.integers(1, 5))
    layer = nn.MultiheadAttention(width, 2, bias=draw(st.booleans()), batch_first=True)
    return layer, (torch.randn(2, 4, width),) * 3


KINDS: dict[str, Callable[[], Any]] = {
    "linear": linear,
    "conv1d": conv1d,
    "convolution": convolution,
    "embedding": embedding,
    "attention": attention,
}
QUICK = settings(max_examples=20, deadline=None, derandomize=True)
LIKE_PEFT = {**KINDS, "convolution": lambda: convolution(peft=True)}
del LIKE_PEFT["attention"]  # PEFT adds the output projection's delta twice; dense weights are the oracle for it


def layers(net: nn.Module) -> list[LowRank]:
    return [module for module in net.modules() if isinstance(module, LowRank)]


def adapt(net: Net, variant: Variant, start: str = "zero") -> Net:
    adapted = copy.deepcopy(net)
    attach(adapted.layer, variant, start)
    if isinstance(adapted.layer, nn.MultiheadAttention):
        attach(adapted.layer.out_proj, variant)
    return adapted.eval()


def fill(net: nn.Module) -> None:
    """Weights as after training."""
    with torch.no_grad():
        for layer in layers(net):
            for name in layer.learned():
                getattr(layer, name).add_(0.3 * torch.randn(getattr(layer, name).shape))
            if getattr(layer, "padding_idx", None) is not None:
                layer.lora_A[:, layer.padding_idx] = 0  # has no gradient, so it stays as it began


def dense(net: Net, adapted: Net) -> Net:
    """The plain network in float64 with the changed weights."""
    twin = copy.deepcopy(net).double()
    modules = dict(twin.named_modules())
    for path, layer in adapted.named_modules():
        if isinstance(layer, LowRank):
            scaled = copy.deepcopy(layer).double()
            changed = scaled.base_weight + scaled.delta()
            if layer.lora_magnitude is not None:
                norm = changed.transpose(0, -1) if isinstance(layer, Conv1D) else changed
                norm = norm.flatten(1).norm(dim=1)
                factor = scaled.lora_magnitude / norm
                changed = changed * (
                    factor if isinstance(layer, Conv1D) else factor.view(-1, *[1] * (changed.ndim - 1))
                )
            getattr(modules[path], layer.WEIGHT).data = changed.detach()
    return twin


def double(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)


def close(found: Tensor, wanted: Tensor) -> None:
    size = float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted.to(found.dtype), rtol=1e-5, atol=1e-5 * size + 1e-6)


VARIANTS = st.builds(
    Variant, rank=st.sampled_from([2, 4]), alpha=st.sampled_from([1.0, 8.0]), rslora=st.booleans(), dora=st.just(False)
)


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_is_the_base_and_merged_is_the_dense_weight(kind: str) -> None:
    @QUICK
    @given(KINDS[kind](), VARIANTS, st.integers(0, 999))
    def check(case: Case, variant: Variant, seed: int) -> None:
        torch.manual_seed(seed)
        net, inputs = Net(case[0]).eval(), case[1]
        adapted = adapt(net, variant)
        assert torch.equal(adapted(*inputs), net(*inputs))
        fill(adapted)
        output = adapted(*inputs)
        close(output, dense(net, adapted)(*double(inputs)))
        close(settled(adapted)(*inputs), output)
        assert not layers(settled(adapted))
        for layer in layers(adapted):
            layer.merge()
        close(adapted(*inputs), output)
        for layer in layers(adapted):
            layer.unmerge()
        assert torch.equal(adapted(*inputs), output)
        for layer in layers(adapted):
            layer.strength = 0.0
        close(adapted(*inputs), net(*inputs))  # torch may take its fast path here

    check()


@pytest.mark.parametrize("kind", LIKE_PEFT)
def test_peft_computes_the_same_from_our_tensors(kind: str) -> None:
    import peft

    @QUICK
    @given(LIKE_PEFT[kind](), VARIANTS, st.booleans(), st.integers(0, 999))
    def check(case: Case, variant: Variant, dora: bool, seed: int) -> None:
        torch.manual_seed(seed)
        net, inputs = Net(case[0]).eval(), case[1]
        grouped = getattr(case[0], "groups", 1) > 1
        variant = Variant(
            variant.rank, variant.alpha, 0.0, variant.rslora, dora and kind != "embedding" and not grouped
        )
        adapted = adapt(net, variant)
        fill(adapted)
        config = peft.LoraConfig(
            r=variant.rank,
            lora_alpha=variant.alpha,
            use_rslora=variant.rslora,
            use_dora=variant.dora,
            target_modules=["layer"],
            fan_in_fan_out=kind == "conv1d",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = peft.get_peft_model(copy.deepcopy(net), config).eval()
        loaded = peft.set_peft_model_state_dict(theirs, peft_tensors(adapted))
        assert not loaded.unexpected_keys
        close(adapted(*inputs), theirs(*inputs))

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_dense_weight_and_go_nowhere_else(kind: str) -> None:
    @QUICK
    @given(KINDS[kind](), VARIANTS, st.integers(0, 999))
    def check(case: Case, variant: Variant, seed: int) -> None:
        torch.manual_seed(seed)
        adapted, inputs = adapt(Net(case[0]), variant), double(case[1])
        fill(adapted.double())
        adapted.requires_grad_(False)
        for layer in layers(adapted):
            for name in layer.learned():
                getattr(layer, name).requires_grad_(True)
        seen = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
        adapted(*seen).square().sum().backward()
        found = {name: p.grad.clone() for name, p in adapted.named_parameters() if p.grad is not None}
        adapted.zero_grad()
        assert set(found) == {name for name, _ in adapted.named_parameters() if ".lora_" in name}
        again = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
        weights = {
            f"{path}.{layer.WEIGHT}": layer.effective()
            for path, layer in adapted.named_modules()
            if isinstance(layer, LowRank)
        }
        plain = settled(adapted)
        torch.func.functional_call(plain, weights, tuple(again)).square().sum().backward()
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name:
                torch.testing.assert_close(found[name], parameter.grad)
        for one, other in zip(seen, again, strict=True):
            if one.grad is not None:
                torch.testing.assert_close(one.grad, other.grad)

    check()


@pytest.mark.parametrize("kind", ["linear", "conv1d", "convolution"])
def test_dora_is_its_equation(kind: str) -> None:
    @QUICK
    @given(KINDS[kind](), st.integers(0, 999))
    def check(case: Case, seed: int) -> None:
        torch.manual_seed(seed)
        if getattr(case[0], "groups", 1) > 1:
            return
        net, inputs = Net(case[0]).eval(), case[1]
        adapted = adapt(net, Variant(2, 4.0, dora=True))
        close(adapted(*inputs), net(*inputs))
        fill(adapted)
        close(adapted(*inputs), dense(net, adapted)(*double(inputs)))
        for layer in layers(adapted):
            layer.merge()
        close(adapted(*inputs), dense(net, adapted)(*double(inputs)))

    check()


@pytest.mark.parametrize("kind", ["linear", "conv1d", "convolution"])
def test_pissa_starts_at_the_principal_directions_and_changes_nothing_yet(kind: str) -> None:
    torch.manual_seed(0)
    layer, x = {
        "linear": (nn.Linear(9, 7), torch.randn(4, 9)),
        "conv1d": (Conv1D(7, 9), torch.randn(4, 9)),
        "convolution": (nn.Conv2d(4, 6, 3), torch.randn(2, 4, 6, 6)),
    }[kind]
    net = Net(layer).eval()
    adapted = adapt(net, Variant(3, 6.0), "pissa")
    close(adapted(x), net(x))
    (found,) = layers(adapted)
    weight = layer.weight.detach().T if kind == "conv1d" else layer.weight.detach().flatten(1)
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    best = (left[:, :3] * values[:3]) @ right[:3]
    product = (found.lora_B.flatten(1).double() @ found.lora_A.flatten(1).double()) * found.variant.scaling
    torch.testing.assert_close(product, best, rtol=1e-5, atol=1e-6)
    fill(adapted)
    close(adapted(x), dense(net, adapted)(x.double()))


def test_dropout_leaves_the_base_alone_and_is_right_on_average() -> None:
    torch.manual_seed(0)
    for layer, x in ((nn.Linear(6, 5), torch.randn(8, 6)), (nn.Conv2d(3, 4, 3, padding=1), torch.randn(4, 3, 5, 5))):
        net = Net(layer)
        adapted = adapt(net, Variant(2, 4.0, dropout=0.5)).train()
        torch.testing.assert_close(adapted(x), net(x))
        fill(adapted)
        with torch.no_grad():
            mean = torch.stack([adapted(x) for _ in range(4000)]).mean(0)
            exact, base = adapted.eval()(x), net(x)
        assert float((mean - exact).abs().max()) < 0.12 * float((exact - base).abs().max())


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("variant", ["plain", "dora", "pissa"])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "convolution"])
def test_dropout_takes_from_the_pair_alone(kind: str, variant: str, strength: float) -> None:
    """``x W m + drop(x) D m + b`` in float64, with m DoRA's magnitude over the norm and D what is added to W."""
    torch.manual_seed(0)
    plain: nn.Module = {
        "linear": nn.Linear(6, 5), "conv1d": Conv1D(5, 6), "convolution": nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding=2)
    }[kind]  # fmt: skip
    x = torch.randn(2, 4, 9, 9) if kind == "convolution" else torch.randn(7, 6)
    plain, x = plain.double(), x.double()
    layer = attach(copy.deepcopy(plain), Variant(2, 4.0, dropout=0.5, dora=variant == "dora"), "pissa" if variant == "pissa" else "zero")  # fmt: skip
    if layer.lora_magnitude is not None:
        with torch.no_grad():
            layer.lora_magnitude.mul_(1.5)
        before = layer.train()(x)  # B is 0: nothing that is dropped matters
        torch.testing.assert_close(before, layer.eval()(x))
    fill(Net(layer))
    layer.strength = strength
    mask = 2.0 * (torch.rand_like(x) < 0.5)
    layer._dropped = lambda inputs: inputs * mask  # type: ignore[method-assign]
    weight, delta = layer.base_weight, layer.delta()
    factor = torch.ones(())
    if layer.lora_magnitude is not None:
        norm = (weight + delta).norm(dim=0) if kind == "conv1d" else (weight + delta).flatten(1).norm(dim=1)
        factor = (layer.lora_magnitude / norm).view(-1, *[1] * (0 if kind == "conv1d" else weight.ndim - 1))
    fixed, learned = copy.deepcopy(plain), copy.deepcopy(plain)
    fixed.weight.data = torch.lerp(weight, weight * factor, strength).detach()
    learned.weight.data = (strength * delta * factor).detach()
    if variant == "dora" and kind == "linear" and strength != 1:
        return  # its strength does not act on the training path: a run trains at full strength
    learned.bias.data.zero_()  # type: ignore[union-attr]
    torch.testing.assert_close(layer.train()(x), fixed(x) + learned(x * mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dora", [False, True])
def test_a_base_in_half_precision_is_rounded_once(dtype: torch.dtype, dora: bool) -> None:
    """Merged weights are the float64 sum, rounded: not a rounded delta added and rounded again."""
    torch.manual_seed(0)
    for plain in (nn.Linear(64, 48), Conv1D(48, 64), nn.Conv2d(8, 12, 3)):
        layer = attach(plain.to(dtype), Variant(4, 8.0, dora=dora))
        fill(Net(layer))
        exact = copy.deepcopy(layer).double()
        layer.merge()
        difference = layer.weight.double() - exact.effective().detach().to(dtype).double()
        share = float((difference != 0).double().mean())
        assert share < 2e-3  # where the float32 sum lies within its own rounding of a tie
        assert layer.weight.dtype == dtype


def test_a_pair_that_mixes_groups_is_a_convolution_without_groups() -> None:
    torch.manual_seed(0)
    net = Net(nn.Conv2d(4, 6, 3, groups=2, padding=1)).eval()
    adapted, x = adapt(net, Variant(4, 8.0)), torch.randn(2, 4, 5, 5)
    fill(adapted)
    (layer,) = layers(adapted)
    assert isinstance(layer, LowRankConv)
    masked = adapted(x)
    layer.lora_mask = None
    output = adapted(x)
    assert float((output - masked).detach().abs().max()) > 1e-3
    narrow = nn.functional.conv2d(x, layer.lora_A, padding=1)
    wanted = net(x) + 2 * nn.functional.conv2d(narrow, layer.lora_B, groups=2)
    close(output, wanted)
    close(settled(adapted)(x), wanted)
    layer.merge()
    close(adapted(x), wanted)
    layer.unmerge()
    assert torch.equal(adapted(x), output)


def test_the_fast_path_of_torchs_encoder_sees_the_change() -> None:
    torch.manual_seed(0)
    encoder, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(2, 5, 8)
    for layer in (encoder.self_attn, encoder.self_attn.out_proj, encoder.linear1, encoder.linear2):
        attach(layer, Variant(2, 4.0))
    plain = encoder(x)
    fill(encoder)
    slow = encoder(x)
    with torch.no_grad():
        fast = encoder(x)
    close(fast, slow)
    assert float((slow - plain).detach().abs().max()) > 0.01


@pytest.mark.parametrize(
    ("layer", "variant", "words"),
    [
        (nn.LayerNorm(4), Variant(), "LayerNorm cannot"),
        (nn.Conv2d(4, 4, 3, groups=4), Variant(2), "not divisible by the 4 groups"),
        (nn.Embedding(4, 4), Variant(2, dora=True), "plain low-rank pair only"),
        (nn.MultiheadAttention(4, 2, kdim=3), Variant(2), "separate q, k and v"),
        (nn.MultiheadAttention(4, 2), Variant(2, dropout=0.1), "without dropout"),
    ],
)
def test_what_cannot_be_is_refused(layer: nn.Module, variant: Variant, words: str) -> None:
    with pytest.raises(InjertoError, match=words):
        attach(layer, variant)
