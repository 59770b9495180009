"""An adapter in memory: what it changes of the base, as one flat row of numbers where it can be mixed with others."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from injerto.adapters.artifact import PROBE, Read, put_tensors, read_tensors
from injerto.adapters.card import read_card
from injerto.adapters.load import check_base, frame, make_model, preprocessing_of
from injerto.adapters.peft import Planned
from injerto.adapters.sketch import Sketch, load_sketch
from injerto.adapters.snapshot import Place, Snapshot
from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.compute.fold import settled
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.tasks.model import Model, Outputs
from injerto.tuning.base import BatchNorm
from injerto.tuning.lora.attach import kind_of
from injerto.tuning.lora.linear import LowRankConv1D, LowRankLinear

NORM = ("running_mean", "running_var", "weight", "bias")


@dataclass(frozen=True)
class Entry:
    """What a flat row holds of one layer.

    Attributes:
        path: The layer's name in the network.
        kind: ``linear``, ``conv`` or ``norm``.
        first: Shape of A, or (channels,) of a norm's scale.
        second: Shape of B, its scaling multiplied in, or (channels,) of its shift.
    """

    path: str
    kind: str
    first: tuple[int, ...]
    second: tuple[int, ...]


Layout = tuple[Entry, ...]
"""The layers of a flat row, in its order; adapters of the same layout go through a layer in one product."""


@dataclass(frozen=True)
class About:
    """What is told of an adapter, also while it has made room for others.

    Attributes:
        place: Where it was read.
        digest: SHA-256 of its files.
        card: Its card.
        bytes: Memory that its numbers take.
        moves: Whether its strength makes a difference.
        sketch: Of inputs that nothing was learned from, where it has one.
    """

    place: Place
    digest: str
    card: dict[str, Any]
    bytes: int
    moves: bool
    sketch: Sketch | None


@dataclass(frozen=True, eq=False)
class Resident:
    """An adapter, ready for use.

    Attributes:
        name: What it is called in the bank.
        place: Where it was read.
        digest: SHA-256 of its files.
        card: Its card.
        labels: Class names, in the order of the probabilities.
        preprocessing: Of its inputs.
        first: The lowest stage that it changes; the number of stages where it changes none.
        layout: Of ``flat``.
        flat: Low-rank pairs and norms, (P,), in the bank's precision.
        whole: Tensors that replace the network's, by name, where a flat row cannot say it.
        model: Neck and head, on nothing.
        start: Weight and bias of the probe on the pretrained model, where the run has a slider.
        sketch: Of inputs that nothing was learned from, where it has one.
    """

    name: str
    place: Place
    digest: str
    card: dict[str, Any]
    labels: tuple[str, ...]
    preprocessing: ImagePreprocessing | TextPreprocessing
    first: int
    layout: Layout
    flat: Tensor
    whole: dict[str, Tensor]
    model: Model
    start: tuple[Tensor, Tensor] | None
    sketch: Sketch | None

    @property
    def bytes(self) -> int:
        """Memory that its numbers take."""
        own = self.model.state_dict().values()
        return sum(tensor.nbytes for tensor in (self.flat, *self.whole.values(), *own, *(self.start or ())))

    @property
    def about(self) -> About:
        """What is told of it."""
        moves = self.start is not None or not self.is_plain
        return About(self.place, self.digest, self.card, self.bytes, moves, self.sketch)

    @property
    def is_plain(self) -> bool:
        """Whether the network is the base's own."""
        return not (self.layout or self.whole)

    @torch.no_grad()
    def classify(self, embeddings: Tensor, strength: float) -> Outputs:
        """What the head sees of embeddings, (B, E), and its logits (B, C).

        Args:
            embeddings: Of the network with this adapter, (B, D).
            strength: From the base (0) to the adapter (1); the head moves with it where the run has a slider.
        """
        found = self.model.classify(embeddings)
        if strength == 1 or self.start is None:
            return found
        last = self.model.head.layers[-1]
        assert isinstance(last, nn.Linear)
        ends = zip(self.start, (last.weight, last.bias), strict=True)
        weight, bias = (torch.lerp(start, end, strength) for start, end in ends)
        return Outputs(found.embedding, nn.functional.linear(embeddings.float(), weight, bias))


def read_resident(
    name: str, files: Snapshot, base: Backbone, dtype: torch.dtype, card: dict[str, Any] | None = None
) -> Resident:
    """Read an adapter with every check that :func:`injerto.load` makes, without a copy of its base.

    Args:
        name: What it is to be called.
        files: Open.
        base: The plain base model, float32.
        dtype: Of the flat row.
        card: From :func:`injerto.adapters.card.read_card`; read where not given.

    Raises:
        InjertoError: Where a file is missing, damaged, changed, or made for another base or task.
    """
    path = files.place.path
    card = read_card(files) if card is None else card
    if card["task"] != "classification":
        raise InjertoError(f"{path} is a language model's; a bank holds classifiers")
    check_base(path, card, base)
    looks = preprocessing_of(path, base, card)
    model = frame(card, base)
    read = read_tensors(files, model, card["head"] == "native")
    sketch = load_sketch(files)
    changed = _light(model, read, base) or _dense(read, card, base)
    numbers = [tensor.reshape(-1) for _, pair in changed.entries for tensor in pair]
    return Resident(
        name=name,
        place=files.place,
        digest=files.digest,
        card=card,
        labels=tuple(card["labels"]),
        preprocessing=looks,
        first=min((_stage(base, key) for key in changed.touched), default=len(base.stages)),
        layout=tuple(entry for entry, _ in changed.entries),
        flat=torch.cat(numbers).to(dtype) if numbers else torch.empty(0, dtype=dtype),
        whole={key: t.to(dtype) if t.is_floating_point() else t for key, t in changed.whole.items()},
        model=changed.model.eval(),
        start=changed.start,
        sketch=sketch,
    )


Found = list[tuple[Entry, tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class _Changed:
    """What an adapter's files say, before it is laid out."""

    model: Model
    start: tuple[Tensor, Tensor] | None
    touched: list[str]
    entries: Found
    whole: dict[str, Tensor]


def _light(model: Model, read: Read, base: Backbone) -> _Changed | None:
    """Without a copy of the base; None where pairs are of a kind that only a network with weights can say."""
    planned, tensors, new = read[0], read[1], dict(read[2])
    names = tensors if planned is None else {own: tensors[name] for name, own in planned.plain.items()}
    pairs = [] if planned is None else _pairs(base, planned, tensors)
    norms = _norms(base, names)
    if pairs is None or (pairs and norms is None):
        return None
    start = (new.pop(PROBE[0]), new.pop(PROBE[1])) if all(part in new for part in PROBE) else None
    del model.backbone  # what is kept is neck and head
    own = model.state_dict()
    blank = {key: torch.full(t.shape, float(key.endswith("scale"))) for key, t in own.items() if key not in new}
    model.load_state_dict({**blank, **new}, assign=True)
    touched = [*(f"{entry.path}.weight" for entry, _ in pairs), *names]
    if norms is None:
        return _Changed(model, start, touched, [], names)
    return _Changed(model, start, touched, [*pairs, *norms], {})


def _dense(read: Read, card: dict[str, Any], base: Backbone) -> _Changed:
    """On a copy of the base: every tensor of the network that is then another one."""
    with torch.random.fork_rng(devices=[]):
        model = make_model(card, copy.deepcopy(base))
        line = put_tensors(read, model)
    before = base.model.state_dict()
    after = settled(model.backbone.model).state_dict()
    whole = {key: tensor for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    del model.backbone
    return _Changed(model, line.base_head if line else None, list(whole), [], whole)


def _pairs(base: Backbone, planned: Planned, tensors: Mapping[str, Tensor]) -> Found | None:
    """Low-rank pairs as entries; None where a layer is of a kind that a flat row cannot say."""
    found: Found = []
    for path, parts in planned.pairs.items():
        layer, variant = base.model.get_submodule(path), planned.variants[path]
        kind = kind_of(layer)
        plain = kind in (LowRankLinear, LowRankConv1D)
        if isinstance(layer, nn.Conv2d):
            own = type(layer).forward is nn.Conv2d.forward and layer.padding_mode == "zeros"
            plain = layer.groups == 1 and (own or layer.kernel_size == (1, 1)) and not isinstance(layer.padding, str)
        if kind is None or not plain or variant.dora:
            return None
        a, b = (tensors[parts[name]] for name in kind.NAMES)
        shape = "conv" if isinstance(layer, nn.Conv2d) else "linear"
        found.append((Entry(path, shape, tuple(a.shape), tuple(b.shape)), (a, b * variant.scaling)))
    return found


def _norms(base: Backbone, changed: dict[str, Tensor]) -> Found | None:
    """BatchNorms as a scale and a shift; None where something else was changed too."""
    found: Found = []
    for path in sorted({name.rpartition(".")[0] for name in changed}):
        layer = base.model.get_submodule(path)
        if not isinstance(layer, BatchNorm) or layer.running_mean is None:
            return None
        now = {part: changed.get(f"{path}.{part}", getattr(layer, part)) for part in NORM}
        scale, shift = norm_affine(now, layer.eps)
        found.append((Entry(path, "norm", tuple(scale.shape), tuple(shift.shape)), (scale.float(), shift.float())))
    return found


def norm_affine(norm: Mapping[str, Tensor | None], eps: float) -> tuple[Tensor, Tensor]:
    """A BatchNorm as ``scale x + shift``, float64 (C,) each.

    Args:
        norm: ``running_mean``, ``running_var``, and ``weight`` and ``bias``, or None.
        eps: Of the norm.
    """
    mean, var, weight, bias = (None if (part := norm[name]) is None else part.detach().double() for name in NORM)
    assert mean is not None and var is not None
    scale = (var + eps).rsqrt() * (1 if weight is None else weight)
    return scale, (0 if bias is None else bias) - mean * scale


def _stage(base: Backbone, name: str) -> int:
    try:
        return base.stage_of(name)
    except KeyError:  # an attention's fused matrix has another name
        prefix = f"{name.rpartition('.')[0]}."
        return min(stage for own, stage in base._stage_of.items() if own.startswith(prefix))
