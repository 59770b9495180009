"""A backbone cut in two: what runs before a block, and the rest. Found by watching it run, never from names."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing

if TYPE_CHECKING:
    from injerto.backbones.backbone import Backbone

Sizes = tuple[int, int]
"""Examples in a batch, and tokens a text is padded to (1 for pictures)."""
HIDDEN = "hidden_states"
TOLERANCE = 1e-4
"""Largest difference between suffix(prefix(x)) and forward(x), relative to the largest number of the embedding."""


class _Reached(Exception):
    """Ends a forward pass at the block that the suffix begins with."""


class Prefix(nn.Module):
    """The stages below the cut: a batch to the hidden states that enter the first block above it."""

    def __init__(self, backbone: "Backbone", entry: str) -> None:
        """Keep the backbone; nothing is copied.

        Args:
            backbone: The pretrained model.
            entry: Path of the block that the suffix begins with.
        """
        super().__init__()
        self.backbone, self.entry = backbone, entry

    def forward(self, inputs: Any) -> Tensor:
        """Hidden states (B, ...); for texts (B, T, D).

        Args:
            inputs: What the backbone takes.
        """
        found: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs[HIDDEN])
            raise _Reached

        handle = self.backbone.model.get_submodule(self.entry).register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.backbone(inputs)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0]

    def over(self, backbone: "Backbone") -> "Prefix":
        """The same cut of a copy.

        Args:
            backbone: A copy of this one, in any precision.
        """
        return Prefix(backbone, self.entry)


class Suffix(nn.Module):
    """The stages above the cut: hidden states to embeddings.

    The network's own forward runs, so that masks, positions and shared tables are made anew; everything below the cut
    is replaced by a stand-in that returns zeros of the right shape and costs nothing. The hidden states enter where the
    first block above the cut is called, and as what the module before it returns: others may read that too (DeBERTa's
    convolution beside the first layer).
    """

    def __init__(self, backbone: "Backbone", entry: str, stand_ins: Mapping[str, "_Shape"]) -> None:
        """Keep the backbone; nothing is copied.

        Args:
            backbone: The pretrained model.
            entry: Path of the first block.
            stand_ins: What the modules below the cut return, by path.
        """
        super().__init__()
        self.backbone, self.entry, self._stand_ins = backbone, entry, dict(stand_ins)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embeddings (B, D).

        Args:
            hidden: What the prefix returned, (B, ...); whatever stands at padded tokens.
            mask: For texts the attention mask (B, T), 1 on tokens.
        """
        sizes = (len(hidden), 1 if mask is None else mask.shape[1])
        with self._entering(hidden, sizes):
            return self.backbone(_blank(self.backbone.preprocessing, sizes, hidden.device, mask))

    def advance(self, prefix: Prefix, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states at a higher cut.

        Args:
            prefix: Below that cut, over the same backbone.
            hidden: At this one, (B, ...).
            mask: For texts the attention mask (B, T).
        """
        sizes = (len(hidden), 1 if mask is None else mask.shape[1])
        with self._entering(hidden, sizes):
            return prefix(_blank(self.backbone.preprocessing, sizes, hidden.device, mask))  # type: ignore[no-any-return]

    def over(self, backbone: "Backbone") -> "Suffix":
        """The same cut of a copy.

        Args:
            backbone: A copy of this one, in any precision.
        """
        return Suffix(backbone, self.entry, self._stand_ins)

    @contextmanager
    def _entering(self, hidden: Tensor, sizes: Sizes) -> Iterator[None]:
        model = self.backbone.model

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, HIDDEN: hidden})

        handle = model.get_submodule(self.entry).register_forward_pre_hook(enter, with_kwargs=True)
        before: list[tuple[nn.Module, Any]] = []
        try:
            for path, shape in self._stand_ins.items():
                module = model.get_submodule(path)
                before.append((module, module.__dict__.get("forward")))
                module.forward = shape.stand_in(sizes, hidden)  # type: ignore[method-assign]
            yield
        finally:
            handle.remove()
            for module, forward in before:
                del module.forward
                if forward is not None:
                    module.forward = forward  # type: ignore[method-assign]


class _Shape:
    """The shapes that a module returns, as a function of the batch's sizes."""

    def __init__(self, first: Any, second: Any, sizes: tuple[Sizes, Sizes], entered: Tensor) -> None:
        """Compare what a module returned on two batches of unequal sizes.

        Args:
            first: What it returned on the first batch.
            second: On the second.
            sizes: Theirs.
            entered: What entered the first block above the cut, on the first batch.

        Raises:
            ValueError: Where the one does not explain the other.
        """
        leaves, self._tree = tree_flatten(first)
        self._carries = [leaf is entered for leaf in leaves]
        self.carries = any(self._carries)
        others, tree = tree_flatten(second)
        if tree != self._tree:
            raise ValueError("another structure")
        self._leaves = [_explain(a, b, sizes) for a, b in zip(leaves, others, strict=True)]

    def stand_in(self, sizes: Sizes, hidden: Tensor) -> Callable[..., Any]:
        """A function of any arguments: zeros of these shapes, which take no memory, or the hidden states."""
        leaves = [
            hidden if carries else leaf(sizes, hidden.device)
            for carries, leaf in zip(self._carries, self._leaves, strict=True)
        ]

        def forward(*_: Any, **__: Any) -> Any:
            return tree_unflatten(leaves, self._tree)

        return forward


def _explain(a: Any, b: Any, sizes: tuple[Sizes, Sizes]) -> Callable[[Sizes, torch.device], Any]:
    if not isinstance(a, Tensor):
        if isinstance(b, Tensor) or a != b:
            raise ValueError("a number that depends on the batch")
        return lambda *_: a
    dims = [_explain_size(x, y, sizes) for x, y in zip(a.shape, b.shape, strict=True)]
    dtype = a.dtype
    return lambda now, device: torch.zeros((), dtype=dtype, device=device).expand([dim(now) for dim in dims])


def _explain_size(a: int, b: int, sizes: tuple[Sizes, Sizes]) -> Callable[[Sizes], int]:
    """A length that is constant, or a multiple of the number of examples, or of tokens."""
    if a == b:
        return lambda _: a
    for which in (0, 1):
        one, other = sizes[0][which], sizes[1][which]
        if a % one == 0 and a * other == b * one:
            factor = a // one
            return lambda now, which=which, factor=factor: factor * now[which]  # type: ignore[misc]
    raise ValueError("a length that does not follow from the batch")


def split(backbone: "Backbone", k: int) -> tuple[Prefix, Suffix] | None:
    """Cut a backbone below stage ``k``.

    Args:
        backbone: The pretrained model, in eval mode.
        k: The first stage of the suffix, 1 to the number of stages - 1.

    Returns:
        Prefix and suffix over the backbone's own modules (training one trains the other), or None where the network
        cannot be cut there: ``suffix(prefix(x))`` is compared with ``forward(x)`` on two probe batches.
    """
    entry = backbone.stages[k].name
    device = next(backbone.model.parameters()).device
    sizes = ((2, 5), (3, 7)) if isinstance(backbone.preprocessing, TextPreprocessing) else ((2, 1), (3, 1))
    batches = [_probe(backbone.preprocessing, size, device) for size in sizes]
    with torch.no_grad():
        try:
            watched = [_watch(backbone, batch, entry) for batch in batches]
        except Exception:  # the first block is never called, or not with hidden states first
            return None
        below = [block.name for block in backbone.stages[1:k]]
        for only in (None, below):  # a table made below the cut may be read above it: then only the blocks are replaced
            shapes = _stand_ins([returned for returned, _ in watched], sizes, watched[0][1], only)
            halves = Prefix(backbone, entry), Suffix(backbone, entry, shapes)
            if all(_agree(backbone, *halves, batch) for batch in batches):
                return halves
    return None


def _watch(backbone: "Backbone", batch: Any, entry: str) -> tuple[dict[str, Any], Tensor]:
    """What each module returned that ran once, and before the entry, by path; and what entered there."""
    calls: dict[str, int] = {}
    late: set[str] = set()
    returned: dict[str, Any] = {}
    entered: list[Tensor] = []
    handles = []
    for path, module in backbone.model.named_modules(remove_duplicate=False):

        def start(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: str = path) -> None:
            if path == entry:
                entered.append(args[0] if args else kwargs[HIDDEN])
            calls[path] = calls.get(path, 0) + 1
            if entered:
                late.add(path)

        def end(_: nn.Module, args: tuple[Any, ...], output: Any, path: str = path) -> None:
            returned[path] = output

        handles += [module.register_forward_pre_hook(start, with_kwargs=True), module.register_forward_hook(end)]
    try:
        backbone(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not entered:
        raise ValueError(f"{entry} is never called")
    before = {
        path: output
        for path, output in returned.items()
        if calls[path] == 1 and path not in late and not (entry + ".").startswith(path + "." if path else "")
    }
    return before, entered[0]


def _stand_ins(
    watched: list[dict[str, Any]], sizes: tuple[Sizes, Sizes], entered: Tensor, only: list[str] | None
) -> dict[str, _Shape]:
    """Shapes of the outermost modules that ran below the cut."""
    found: dict[str, _Shape] = {}
    for path in sorted(watched[0], key=lambda name: name.count(".")):
        inside = any(path.startswith(outer + ".") for outer in found)
        if inside or path not in watched[1]:
            continue
        try:
            shape = _Shape(watched[0][path], watched[1][path], sizes, entered)
        except ValueError:
            continue  # it runs, on stand-ins
        if only is None or path in only or shape.carries:
            found[path] = shape
    return found


def _agree(backbone: "Backbone", prefix: Prefix, suffix: Suffix, batch: Any) -> bool:
    try:
        expected = backbone(batch)
        found = suffix(prefix(batch), batch["attention_mask"] if isinstance(batch, dict) else None)
    except Exception:  # a stand-in where the network needs the real thing
        return False
    limit = TOLERANCE * float(expected.abs().max() + 1e-12)
    return found.shape == expected.shape and float((found - expected).abs().max()) <= limit


def _blank(
    preprocessing: ImagePreprocessing | TextPreprocessing, sizes: Sizes, device: torch.device, mask: Tensor | None
) -> Any:
    """A batch without content."""
    if isinstance(preprocessing, ImagePreprocessing):
        shape = (sizes[0], 3, preprocessing.height, preprocessing.width)
        return torch.zeros((), device=device).expand(shape)
    return {"input_ids": torch.zeros(sizes, dtype=torch.int64, device=device), "attention_mask": mask}


def _probe(preprocessing: ImagePreprocessing | TextPreprocessing, sizes: Sizes, device: torch.device) -> Any:
    """Noise, or texts of random tokens of which the first is one token shorter."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(preprocessing, ImagePreprocessing):
        shape = (sizes[0], 3, preprocessing.height, preprocessing.width)
        return torch.randn(shape, generator=generator).to(device)
    count = len(preprocessing.tokenizer)
    ids = torch.randint(0, count, sizes, generator=generator)
    mask = torch.ones(sizes, dtype=torch.int64)
    mask[0, -1] = 0
    ids[0, -1] = preprocessing.tokenizer.pad_token_id or 0
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
