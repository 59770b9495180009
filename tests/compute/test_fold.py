from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from injerto.compute.fold import FrozenNorms, fold_batch_norm

torch.set_num_threads(1)


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random affine parameters and running statistics, so that folding has something to do."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) * 3 + 0.05)
                if module.affine:
                    module.weight.copy_(torch.randn(module.num_features, generator=generator))
                    module.bias.copy_(torch.randn(module.num_features, generator=generator))
    return network.eval()


class Twice(nn.Module):
    """The convolution's output goes into the norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return torch.relu(self.norm(x)) + self.other(x)


class Shared(nn.Module):
    """One convolution with two norms, as detectors have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(self.conv(x))))


class Pooled(nn.Module):
    """Something stands between convolution and norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.relu(self.conv(x)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)),
    "no bias, groups, dilation": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, dilation=2, bias=False), nn.BatchNorm2d(6)),
    "reflect": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)),
    "zero padding after the fold": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
    ),
    "no affine": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)),
    "norm first": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3)),
    "no statistics": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6)),
    "twice": Twice,
    "shared": Shared,
    "pooled": Pooled,
}  # fmt: skip


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is None:
            return network.eval()
    return shaken(network)


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_is_the_same_function(name: str) -> None:
    network = make(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    probe, others = torch.rand(2, 3, 16, 16), 4 * torch.randn(5, 3, 19, 13)
    folded = fold_batch_norm(network, probe)
    with torch.no_grad():
        torch.testing.assert_close(folded(others), network(others), rtol=1e-4, atol=1e-4)
    assert not folded.training
    for key, value in network.state_dict().items():  # the given network is left alone
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["plain", "no bias, groups, dilation", "reflect", "no affine"])
def test_folding_really_removes_the_norms(name: str) -> None:
    network = make(name)
    folded = fold_batch_norm(network, torch.rand(2, 3, 16, 16))
    assert folded is not network
    x = torch.randn(1, 3, 16, 16)
    for module in folded.modules():
        if isinstance(module, nn.BatchNorm2d):
            value = torch.randn(2, module.num_features, 3, 3)
            assert torch.equal(module(value), value)
    with torch.no_grad():
        assert folded(x).abs().sum() > 0


@pytest.mark.parametrize("name", ["twice", "shared", "norm first", "transposed", "pooled"])
def test_what_cannot_be_folded_is_handed_back(name: str) -> None:
    network = make(name)
    assert fold_batch_norm(network, torch.rand(2, 3, 16, 16)) is network


def timm_block() -> nn.Module:
    from timm.layers import BatchNormAct2d

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), BatchNormAct2d(8, act_layer=nn.SiLU)
            self.last, self.plain = nn.Conv2d(8, 4, 1, bias=False), BatchNormAct2d(4, apply_act=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.plain(self.last(self.norm(self.conv(x))))

    torch.manual_seed(0)
    return shaken(Net())


def test_timm_norm_keeps_its_activation() -> None:
    network = timm_block()
    folded = fold_batch_norm(network, torch.rand(2, 3, 16, 16))
    x = 3 * torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)
    assert folded is not network
    assert not torch.equal(folded.norm(-torch.ones(1, 8, 2, 2)), -torch.ones(1, 8, 2, 2))  # SiLU is still there


def test_weight_standardized_convolutions_stay_right() -> None:
    from timm.layers import StdConv2d

    torch.manual_seed(0)
    network = shaken(nn.Sequential(StdConv2d(3, 6, 3), nn.BatchNorm2d(6)))
    folded = fold_batch_norm(network, torch.rand(2, 3, 16, 16))
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_real_architectures(name: str) -> None:
    import timm

    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
    network.eval()
    folded = fold_batch_norm(network, torch.rand(2, 3, 64, 64))
    assert folded is not network
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(folded(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


# --- training through frozen norms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NETWORKS, "timm"])
def test_frozen_norms_give_the_same_outputs_and_gradients(name: str) -> None:
    network = timm_block() if name == "timm" else make(name)
    x, probe = 2 * torch.randn(4, 3, 16, 16), torch.rand(2, 3, 16, 16)
    fused = FrozenNorms(network, probe)
    weight = torch.randn_like(network(x))

    def gradients(context: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        inputs = x.clone().requires_grad_()
        with context:
            output = network(inputs)
            return output.detach(), list(torch.autograd.grad((output * weight).sum(), [*network.parameters(), inputs]))

    from contextlib import nullcontext

    plain_out, plain = gradients(nullcontext())
    fused_out, fast = gradients(fused)
    torch.testing.assert_close(fused_out, plain_out, rtol=1e-4, atol=1e-4)
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-5)
    again, _ = gradients(nullcontext())
    assert torch.equal(again, plain_out)  # nothing stays behind


def test_frozen_norms_follow_the_weights_as_they_move() -> None:
    network = make("plain")
    fused = FrozenNorms(network, torch.rand(2, 3, 16, 16))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.1)
        x = torch.randn(2, 3, 16, 16)
        expected = network(x)
        with fused:
            torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_frozen_norms_are_taken_off_after_an_error() -> None:
    network = make("plain")
    fused = FrozenNorms(network, torch.rand(2, 3, 16, 16))
    with pytest.raises(RuntimeError), fused:
        network(torch.rand(2, 4, 16, 16))
    assert not any("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 5)])
def test_same_padding_without_the_copy(kernel: Any, stride: Any) -> None:
    from timm.layers import Conv2dSame

    from injerto.compute.fold import _pads_itself, _same

    torch.manual_seed(0)
    layer = Conv2dSame(4, 8, kernel, stride, groups=2)
    assert (
        _pads_itself(layer)
        and not _pads_itself(nn.Conv2d(3, 3, 3))
        and not _pads_itself(Conv2dSame(3, 3, 3, dilation=2))
    )
    for size in ((8, 8), (9, 9), (7, 10), (5, 1)):
        x = torch.randn(2, 4, *size, requires_grad=True)
        expected, found = layer(x), _same(layer, x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        weights = torch.randn(expected.shape)
        wanted = torch.autograd.grad((expected * weights).sum(), [x, layer.weight, layer.bias])
        got = torch.autograd.grad((found * weights).sum(), [x, layer.weight, layer.bias])
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
