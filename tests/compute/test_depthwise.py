"""Depthwise convolutions on small maps: the same outputs and gradients as the library's."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from injerto.compute.depthwise import LARGEST, SmallDepthwise, small_depthwise


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize(
    "height, width",
    [(1, 1), (2, 3), (6, 6), *(pytest.param(*size, marks=pytest.mark.slow) for size in ((3, 3), (9, 4)))],
)
def test_gradients_are_those_of_the_convolution(kernel: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(kernel + height)
    inputs = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(3, 1, kernel, kernel, generator=generator, dtype=torch.float64).requires_grad_()
    padding = (kernel // 2, kernel // 2)
    pull = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    found = SmallDepthwise.apply(inputs, weight, padding)
    expected = functional.conv2d(inputs, weight, None, 1, padding, 1, 3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad((found * pull).sum(), (inputs, weight))
    theirs = torch.autograd.grad((expected * pull).sum(), (inputs, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    assert torch.autograd.gradcheck(lambda x, w: SmallDepthwise.apply(x, w, padding), (inputs, weight))


def test_only_what_it_computes_is_taken() -> None:
    def conv(**change: object) -> nn.Conv2d:
        return nn.Conv2d(
            **({"in_channels": 8, "out_channels": 8, "kernel_size": 5, "padding": 2, "groups": 8} | change)
        )

    small, large = torch.randn(1, 8, 6, 6), torch.randn(1, 8, 8, 8)
    assert small.shape[2] * small.shape[3] <= LARGEST < large.shape[2] * large.shape[3]
    assert small_depthwise(conv(), small)
    assert not small_depthwise(conv(), large)
    assert not small_depthwise(conv(), small.double())
    with torch.no_grad():
        assert not small_depthwise(conv(), small)
    for change in (
        {"groups": 4}, {"stride": 2}, {"dilation": 2}, {"padding": 1}, {"padding": "same"}, {"kernel_size": 3, "padding": 1},
        {"padding_mode": "reflect"}, {"out_channels": 16},
    ):  # fmt: skip
        assert not small_depthwise(conv(**change), small), change


def test_timm_s_own_network_gets_the_same_gradients() -> None:
    """EfficientNet-Lite: depthwise 5 x 5 and "same" padding, at a size where the last maps are small."""
    import copy

    import timm

    from injerto.compute.fold import FrozenNorms

    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    fused = copy.deepcopy(plain)
    inputs = torch.rand(2, 3, 96, 96)
    pull = torch.randn(2, 1280)
    (plain(inputs) * pull).sum().backward()
    with FrozenNorms(fused, inputs):
        (fused(inputs) * pull).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        scale = float(a.grad.abs().max()) + 1e-6
        assert float((a.grad - b.grad).abs().max()) < 2e-3 * scale, name
