"""A network's ordered slices, found from its structure and one probe forward, never from a table of names."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LARGEST_SHARE = 0.95  # above this one child is the network itself and its siblings are trimmings: look inside it


@dataclass(frozen=True)
class Stage:
    """One of a backbone's ordered slices.

    Attributes:
        name: ``stem`` or ``embeddings`` for what runs before the first block, else the block's own path, ``layer4``.
        parameters: Names of every parameter and buffer in it, as in the network's ``named_parameters()``.
    """

    name: str
    parameters: frozenset[str]


def find_stages(model: nn.Module, run: Callable[[], Tensor]) -> tuple[Stage, ...]:
    """Slice a network into stem and blocks.

    The blocks are the children of the shallowest ordered container (an ``nn.ModuleList``, an ``nn.Sequential``, or
    attributes such as ``layer1 .. layer4``) that holds most of the parameters, embedding tables not counted, or most of
    the layers, and whose children run in order. What runs before the first block is stage 0; what runs after a block
    belongs to that block's stage, so what follows the container belongs to the last. Parameters that sit directly on a
    module around the container (``cls_token``) and tables that the blocks share (DeBERTa's ``rel_embeddings``) are
    stage 0; what the forward never uses is last. A network without such a container has a stage per top-level child, in
    the order of execution.

    Training the stages from k on leaves all inputs of the blocks before stage k as they were.

    Args:
        model: The network, in eval mode.
        run: Runs the probe batch through ``model`` and returns the embedding (B, D).

    Returns:
        The stages; every parameter and buffer name is in exactly one.
    """
    order = _first_calls(model, run)
    blocks = _find_blocks(model, order)
    names = _assign(model, blocks, order, run)
    embeds = any(isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding) for name in names[0])
    titles = ["model" if not blocks else "embeddings" if embeds else "stem", *blocks]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    stages: list[Stage] = []
    waiting: set[str] = set()  # a stage without parameters (at most a few buffers) joins the next one
    for title, members in zip(titles, names, strict=True):
        if any(name in parameters for name in members):
            stages.append(Stage(title, frozenset(members | waiting)))
            waiting = set()
        else:
            waiting |= members
    if waiting or not stages:
        last = stages.pop() if stages else Stage("model", frozenset())
        stages.append(Stage(last.name, last.parameters | waiting))
    return tuple(stages)


def _first_calls(model: nn.Module, run: Callable[[], Tensor]) -> dict[str, int]:
    """The modules that the probe goes through, by path, each with the moment of its first call."""
    order: dict[str, int] = {}
    hooks = []

    def record(path: str) -> None:
        order.setdefault(path, len(order))

    for path, module in model.named_modules(remove_duplicate=False):
        hooks.append(module.register_forward_pre_hook(lambda *_, path=path: record(path)))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _started(path: str, order: dict[str, int]) -> int | None:
    """The moment at which the module at ``path``, or anything in it, is first called; None if never."""
    moments = [moment for name, moment in order.items() if _inside(name, path)]
    return min(moments, default=None)


def _inside(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(path + ".")


def _bulk(modules: Iterable[nn.Module]) -> tuple[int, int]:
    """Number of parameters and of layers with some; embedding tables do not count (they are most of a small BERT)."""
    parameters: dict[int, int] = {}
    layers: set[int] = set()
    for module in modules:
        for part in module.modules():
            if not isinstance(part, nn.Embedding):
                own = {id(p): p.numel() for p in part.parameters(recurse=False)}
                parameters.update(own)
                layers |= {id(part)} if own else set()
    return sum(parameters.values()), len(layers)


def _shares(part: tuple[int, int], whole: tuple[int, int]) -> tuple[float, float]:
    return part[0] / max(whole[0], 1), part[1] / max(whole[1], 1)


def _candidates(model: nn.Module) -> list[list[str]]:
    """Every group of ordered siblings with weights, as paths, the shallowest and then the bulkiest first."""
    groups: list[list[str]] = []
    for path, module in model.named_modules():
        numbered: dict[str, list[tuple[int, str]]] = {}
        listing = isinstance(module, nn.ModuleList | nn.Sequential) and all(name.isdigit() for name in module._modules)
        for name, child in module.named_children():
            match = re.fullmatch(r"(.*?)(\d+)", name)
            composite = next(child.children(), None) is not None
            weighty = any(p.ndim > 1 for p in child.parameters())  # a bare norm belongs to what runs before it
            if match and weighty and (listing or composite):
                numbered.setdefault(match[1], []).append((int(match[2]), f"{path}.{name}" if path else name))
        for members in numbered.values():
            blocks = [name for _, name in sorted(members)]
            # Beside composite children, a bare layer (the first convolution of a Sequential) is no block of its own.
            composites = [name for name in blocks if next(model.get_submodule(name).children(), None) is not None]
            groups.append(composites if len(composites) > 1 else blocks)
    whole = _bulk([model])

    def rank(group: list[str]) -> tuple[int, float]:
        return group[0].count("."), -sum(_shares(_bulk(model.get_submodule(name) for name in group), whole))

    return sorted((group for group in groups if len(group) > 1), key=rank)


def _find_blocks(model: nn.Module, order: dict[str, int]) -> list[str]:
    whole = _bulk([model])
    for group in _candidates(model):
        modules = [model.get_submodule(name) for name in group]
        bulk = _bulk(modules)
        moments = [moment for name in group if (moment := _started(name, order)) is not None]
        runs_in_order = len(moments) > 1 and moments == sorted(set(moments))
        # A wide last convolution outweighs small blocks in parameters, but never in layers.
        most = max(_shares(bulk, whole)) > 0.5
        largest = max(sum(_shares(_bulk([module]), bulk)) / 2 for module in modules)
        if runs_in_order and most and largest <= LARGEST_SHARE:
            return group
    children = _children(model, "")
    while len(children) == 1:
        children = _children(model, children[0])
    moments_of = {name: _started(name, order) for name in children}
    return sorted((n for n in children if moments_of[n] is not None), key=lambda n: moments_of[n] or 0)


def _children(model: nn.Module, path: str) -> list[str]:
    found = model.get_submodule(path).named_children()
    return [f"{path}.{n}" if path else n for n, child in found if next(child.parameters(), None) is not None]


def _assign(model: nn.Module, blocks: list[str], order: dict[str, int], run: Callable[[], Tensor]) -> list[set[str]]:
    """Names per stage: 0 for what runs before the blocks, i + 1 for block i and what runs after it."""
    starts = [moment for name in blocks if (moment := _started(name, order)) is not None]
    index_of_start = [i + 1 for i, name in enumerate(blocks) if _started(name, order) is not None]
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    place: dict[str, int] = {}
    doubtful: list[str] = []
    for name in tensors:
        owner = name.rpartition(".")[0]
        inside = [i + 1 for i, block in enumerate(blocks) if _inside(owner, block)]
        if inside:
            place[name] = inside[0]
            continue
        called = owner
        while called and called not in order:
            called = called.rpartition(".")[0]
        around = not called or any(_inside(block, called) for block in blocks)
        if not around:
            before = [index for start, index in zip(starts, index_of_start, strict=True) if start < order[called]]
            place[name] = before[-1] if before else 0
            continue
        place[name] = 0
        if called != owner:  # never called: a table that others read, or unused
            doubtful.append(name)
    for name in _unused(model, [name for name in doubtful if isinstance(tensors[name], nn.Parameter)], run):
        place[name] = len(blocks)
    first: dict[int, int] = {}  # one tensor under several names is where it is first needed
    for name, tensor in tensors.items():
        first[id(tensor)] = min(first.get(id(tensor), len(blocks)), place[name])
    stages: list[set[str]] = [set() for _ in range(len(blocks) + 1)]
    for name, tensor in tensors.items():
        stages[first[id(tensor)]].add(name)
    return stages


def _unused(model: nn.Module, names: list[str], run: Callable[[], Tensor]) -> list[str]:
    """Those of ``names`` that no gradient of the embedding reaches."""
    if not names:
        return []
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    parameters = [model.get_parameter(name) for name in names]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            output = run().float().sum()
            if not output.requires_grad:
                return names
            gradients = torch.autograd.grad(output, parameters, allow_unused=True)
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
