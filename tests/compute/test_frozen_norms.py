"""Training through frozen BatchNorms: the same outputs, gradients and names as without the fusion."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from injerto.compute.fold import FrozenNorms


def gradients(network: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    output = network(inputs)
    functional.mse_loss(output, torch.ones_like(output)).backward()
    return output.detach(), {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("affine", [True, False])
def test_equal_to_the_plain_network(make_network, affine):
    plain = make_network(seed=3).double()
    if not affine:
        plain.blocks[1][1] = nn.BatchNorm2d(12, affine=False).double().eval()
    fused = copy.deepcopy(plain)
    inputs = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    context = FrozenNorms(fused, inputs[:2])
    assert len(context._forwards) == 2 * 4
    with context:
        output, found = gradients(fused, inputs)
    expected, wanted = gradients(plain, inputs)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-12)


def test_closed_context_leaves_the_modules_as_they_were(make_network):
    network = make_network(seed=1)
    names = [sorted(vars(module)) for module in network.modules()]
    with FrozenNorms(network, torch.randn(2, 3, 32, 32)):
        pass
    assert [sorted(vars(module)) for module in network.modules()] == names


def test_a_convolution_whose_output_is_used_elsewhere_stays_right():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(2.0)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            inner = self.conv(images)
            return (self.norm(inner) + inner).mean((2, 3))

    network, inputs = Twice().eval(), torch.randn(2, 3, 8, 8)
    expected = network(inputs)
    with FrozenNorms(network, inputs):
        assert torch.equal(network(inputs), expected)
