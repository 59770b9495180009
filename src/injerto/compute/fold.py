"""BatchNorm folded into the convolution before it: the same function, fewer passes over memory."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from injerto.compute.depthwise import SmallDepthwise, small_depthwise


class Composed(nn.Module):
    """A layer whose weight is composed of several tensors (mixed into the layer's own class)."""

    def settle(self) -> None:
        """Become a layer of the plain class, with the composed weight."""
        raise NotImplementedError

    @property
    def plainly(self) -> bool:
        """Whether the plain class's forward with the composed weight is what the layer computes."""
        raise NotImplementedError


def settled(network: nn.Module) -> nn.Module:
    """A copy whose composed layers are plain ones; the network itself where there are none.

    Args:
        network: Left as it is.
    """
    if not any(isinstance(module, Composed) for module in network.modules()):
        return network
    twin = copy.deepcopy(network)
    for module in list(twin.modules()):
        if isinstance(module, Composed):  # it may have settled with another one
            module.settle()
    return twin


def fold_batch_norm(network: nn.Module, probe: torch.Tensor) -> nn.Module:
    """A copy of ``network`` in eval mode whose BatchNorms are folded into their convolutions.

    Pairs are found by watching one forward pass: a BatchNorm whose input is the very tensor a convolution returned.
    The copy's output is compared with the original's; where they differ (the convolution's output is also used
    elsewhere) the unfolded network is returned.

    Args:
        network: Any module; left unchanged but for being put in eval mode.
        probe: An input batch, (B, 3, H, W).

    Returns:
        The folded copy, or ``network`` itself where there is nothing to fold.
    """
    network.eval()
    norms = [module for module in network.modules() if _foldable(module)]
    if not norms:
        return network
    twin = copy.deepcopy(network).requires_grad_(False)
    with torch.no_grad():
        expected = twin(probe)
        pairs = _pairs(twin, probe)
        for convolution, norm in pairs:
            _fold(convolution, norm)
        for module in twin.modules():
            if isinstance(module, nn.Conv2d) and _pads_itself(module):
                module.forward = partial(_same, module)  # type: ignore[method-assign, assignment]
        if not pairs or not _close(twin(probe), expected):
            return network
    return twin


class FrozenNorms:
    """Training through BatchNorms with frozen statistics, without their own passes over memory.

    With frozen statistics a BatchNorm is a scale and a shift per channel. While the context is open, each convolution
    computes with its weight already scaled, so that outputs and gradients (of the affine parameters too) are the same
    and the norm costs nothing. Names and values of all parameters stay as they are.
    """

    def __init__(self, network: nn.Module, probe: torch.Tensor) -> None:
        """Find the pairs and check that the fused network computes the same.

        Args:
            network: Put into eval mode here.
            probe: An input batch, (B, 3, H, W).
        """
        network.eval()
        with torch.no_grad():
            known = [pair for pair in _pairs(network, probe) if _plain(pair[0])]
            self._forwards = _fused(known)  # any other kind of convolution has a forward of its own
            expected = network(probe)
            with self:
                same = _close(network(probe), expected)
        if not same:
            self._forwards = []

    def __enter__(self) -> None:
        """Fuse."""
        for module, forward in self._forwards:
            module.__dict__["forward"] = forward  # nn.Module's own way to set an attribute is ten times slower

    def __exit__(self, *_: object) -> None:
        """Put the modules' own forward back."""
        for module, _forward in self._forwards:
            del module.__dict__["forward"]


def _fused(pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> list[tuple[nn.Module, Callable[..., torch.Tensor]]]:
    """What each module of the pairs computes while they are fused."""
    found: list[tuple[nn.Module, Callable[..., torch.Tensor]]] = []
    for convolution, norm in pairs:
        found += [(convolution, partial(_scaled, convolution, norm)), (norm, _rest(norm))]
    return found


def _scaled(convolution: nn.Conv2d, norm: nn.BatchNorm2d, inputs: torch.Tensor) -> torch.Tensor:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    weight = convolution.weight * scale.view(-1, 1, 1, 1)
    if _pads_itself(convolution):
        return _same(convolution, inputs, weight, shift)
    if small_depthwise(convolution, inputs):
        return SmallDepthwise.apply(inputs, weight, convolution.padding) + shift.view(-1, 1, 1)  # type: ignore[no-any-return, no-untyped-call]
    return convolution._conv_forward(inputs, weight, shift)


def _plain(convolution: nn.Conv2d) -> bool:
    """Whether a convolution computes with its weight in one of the ways known here."""
    if isinstance(convolution, Composed):
        return convolution.plainly and (nn.Conv2d in type(convolution).__bases__ or _pads_itself(convolution))
    return type(convolution) is nn.Conv2d or _pads_itself(convolution)


def _pads_itself(module: nn.Module) -> bool:
    """Whether a module is timm's ``Conv2dSame``, which copies its input into a padded one before it convolves."""
    return type(module).__name__ == "Conv2dSame" and isinstance(module, nn.Conv2d) and module.dilation == (1, 1)


def _same(
    convolution: nn.Conv2d, inputs: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """TensorFlow's "same" padding without the copy: a missing row or column of padding becomes one of zero weights.

    With one row more of padding below than above, pad both sides by the larger number and put a row of zeros on top of
    the kernel: the same products, and several times faster than padding the input (which touches all of it twice). Not
    so where the kernel learns: the gradient of one of even width costs more than the copy.
    """
    if weight is None:
        weight, bias = convolution.weight, convolution.bias
    grown, sides = [], []
    for size, kernel, stride in zip(inputs.shape[-2:], weight.shape[-2:], convolution.stride, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides.append(total - total // 2)
        grown += [0, total % 2]
    if any(grown) and torch.is_grad_enabled() and weight.requires_grad:
        (high, low), (wide, narrow) = ((side, side - odd) for side, odd in zip(sides, grown[1::2], strict=True))
        padded = functional.pad(inputs, (narrow, wide, low, high))
        return functional.conv2d(padded, weight, bias, convolution.stride, 0, 1, convolution.groups)
    weight = functional.pad(weight, (grown[3], 0, grown[1], 0)) if any(grown) else weight
    return functional.conv2d(inputs, weight, bias, convolution.stride, tuple(sides), 1, convolution.groups)


def _foldable(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.track_running_stats and module.running_mean is not None


def _pairs(network: nn.Module, probe: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the BatchNorms fed by exactly their output, each called once in a forward pass."""
    produced: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    calls: dict[int, int] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1
        produced[id(output)] = (module, output)  # keeping the tensor keeps its id its own

    def before(module: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1
        if id(inputs[0]) in produced:
            found.append((produced[id(inputs[0])][0], module))

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after))
        elif _foldable(module):
            handles.append(module.register_forward_pre_hook(before))
    try:
        network(probe)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in found if all(calls[id(module)] == 1 for module in pair)]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    norm.forward = _rest(norm)  # type: ignore[method-assign, assignment]
    norm.weight = norm.bias = norm.running_mean = norm.running_var = None  # type: ignore[assignment]


def _rest(norm: nn.BatchNorm2d) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a norm does beside normalizing: timm's BatchNormAct2d also holds dropout and activation."""
    rest = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*rest).forward


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not torch.isfinite(b).all():
        return False
    return bool(torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max() + 1e-12)))
