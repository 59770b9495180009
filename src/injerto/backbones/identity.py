"""What tells one base from another: its weights, tokenizer and pooling, and what it computes on a probe.

Weights alone do not say what a network computes. The same weights give other embeddings with another vocabulary,
another pooling, another ``layer_norm_eps`` or another ``forward``. A base therefore has two descriptions: one for the
adapter card, which other machines and versions compare with a tolerance, and an exact one for the caches of this
machine.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from injerto.backbones.definition import definition, settings
from injerto.backbones.tokenizers import behaviour, exact_form
from injerto.basics.files import sha256
from injerto.basics.progress import warn
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing

if TYPE_CHECKING:
    from injerto.backbones.backbone import Backbone

VERSION = 1
"""Of the probe; outputs on different probes are not compared."""
SIDE = 128
"""Pixels of the probe for a network that takes any size: its input size is a setting of the run."""
LONG = 136
"""Tokens of the longest probe text: more than the usual attention window of 128."""
NUMBERS = 8
"""Numbers that are kept of an embedding."""
TOLERANCE = 1e-3
"""Largest difference between two outputs of the same float32 base, as a share of their size. The same base differs by
about 1e-6 between thread counts and by up to 1e-4 between machines and versions of torch."""
ELSEWHERE = 1e-2
"""The same for a network that lies on an accelerator, whose float32 products may be rounded to 10 bits."""
SHORT_TEXTS = ("a probe", "A longer probe, of 9 words: naïve, größer, 日本!")
SENTENCE = "In 1998 the Old river rose; nobody (not even Ana) had seen it higher, and 40 houses were lost. "


@dataclass(frozen=True)
class Identity:
    """What a base is.

    Attributes:
        weights: SHA-256 of its tensors.
        tokenizer: Digest of what its tokenizer does; None for pictures.
        chat_template: Digest of its tokenizer's chat template; None where it has none.
        pooling: How hidden states become an embedding, for a transformers network.
        size: Height and width of the probe pictures; empty for texts.
        probe: Projections of its embeddings of the probe inputs; empty where it cannot take them or is not steady.
        tolerance: Largest difference to ``probe``, as a share of its size, that the same base may show.
        definition: Digest of its configuration, its own code and its pooling.
        key: Digest of everything above and of the attributes of its modules, exact: the name of its caches.
        steady: Whether the same input always has the same embedding, whatever else is in the batch.
    """

    weights: str
    tokenizer: str | None
    chat_template: str | None
    pooling: str | None
    size: tuple[int, ...]
    probe: tuple[float, ...]
    tolerance: float
    definition: str
    key: str
    steady: bool

    def card(self) -> dict[str, Any]:
        """The JSON form that the adapter card carries beside the weights' fingerprint."""
        return {
            "version": VERSION,
            "tokenizer": self.tokenizer,
            "chat_template": self.chat_template,
            "pooling": self.pooling,
            "size": list(self.size),
            "probe": list(self.probe),
            "tolerance": self.tolerance,
        }


def identify(backbone: "Backbone") -> Identity:
    """Run a base on the probe and describe it. The random state is left alone.

    Args:
        backbone: Plain, as it was loaded; its fingerprint is that of its weights.

    Returns:
        What it is. Where it does not compute the same every time, a warning says so.
    """
    looks = backbone.preprocessing
    size = _probe_size(backbone)
    pooling = getattr(backbone._embed, "name", None)
    own = definition(backbone.model, backbone._embed)
    tokens = looks.tokenizer if isinstance(looks, TextPreprocessing) else None
    template = getattr(tokens, "chat_template", None)
    probe, steady = _probe(backbone, size)
    if not steady:
        warn(
            f"{backbone.spec} gives different outputs for one input: its forward draws at random, keeps a "
            "state or mixes the inputs of a batch; what it computes is not kept on the disk"
        )
    scale = max(map(abs, probe), default=0.0) or 1.0
    rounded = [f"{scale:.3g}", *(round(value / scale, 3) for value in probe)]  # equal on most machines
    exact = "" if tokens is None else exact_form(tokens)
    return Identity(
        weights=backbone.fingerprint,
        tokenizer=None if tokens is None else behaviour(tokens),
        chat_template=None if template is None else sha256(json.dumps(template, sort_keys=True)),
        pooling=pooling,
        size=size,
        probe=probe,
        tolerance=_tolerance(backbone.model),
        definition=own,
        steady=steady,
        key=sha256(backbone.fingerprint, own, settings(backbone.model), exact, json.dumps(rounded)),
    )


def difference(before: Mapping[str, Any], now: Mapping[str, Any], chat: bool = False) -> str | None:
    """In what two bases with the same weights differ, in words; None where they are the same.

    Args:
        before: From :meth:`Identity.card`; empty in the cards of earlier versions.
        now: The same of the other.
        chat: Whether the chat template counts.
    """
    if not before.get("version") == now.get("version") == VERSION:
        return None
    if before["tokenizer"] != now["tokenizer"]:
        return "another tokenizer"
    if chat and before["chat_template"] != now["chat_template"]:
        return "another chat template"
    if before["pooling"] != now["pooling"]:
        return f"another pooling ({now['pooling']}, not {before['pooling']})"
    if before["size"] != now["size"] or not before["probe"] or not now["probe"]:
        return None
    apart = distance(before["probe"], now["probe"])
    if apart <= max(before["tolerance"], now["tolerance"]):
        return None
    return f"another configuration or code (its outputs on a probe differ by {100 * apart:.2g} %)"


def is_identity(value: Any) -> bool:
    """Whether a part of a card, which may come from a stranger, has the form of :meth:`Identity.card`.

    Args:
        value: Anything that JSON can hold.
    """
    if not isinstance(value, dict) or type(value.get("version")) is not int:
        return False
    if value["version"] != VERSION:
        return True  # another version's, which is not read
    words = [value.get(name) for name in ("tokenizer", "chat_template", "pooling")]
    numbers: list[Any] = (
        [value.get("tolerance"), *(value.get("probe") or [])] if isinstance(value.get("probe"), list) else [None]
    )
    return (
        all(word is None or (isinstance(word, str) and word.isprintable() and len(word) <= 64) for word in words)
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and isinstance(value.get("size"), list)
    )


def distance(before: "list[float] | tuple[float, ...]", now: "list[float] | tuple[float, ...]") -> float:
    """The largest difference between two probes, as a share of the larger one's size.

    Args:
        before: Of one base.
        now: Of the other.
    """
    if len(before) != len(now):
        return 1.0
    a, b = np.asarray(before), np.asarray(now)
    scale = max(float(np.sqrt((a * a).mean())), float(np.sqrt((b * b).mean())))
    return float(np.abs(a - b).max()) / scale if scale else 0.0


def _tolerance(model: nn.Module) -> float:
    """Largest difference that the same base may show, where and in the types in which it lies."""
    return max(TOLERANCE if _device(model).type == "cpu" else ELSEWHERE, 8 * _resolution(model))


def _resolution(model: nn.Module) -> float:
    """The coarsest step between numbers of the network's types."""
    kinds = {p.dtype for p in model.parameters() if p.dtype.is_floating_point and p.dtype.itemsize > 1}
    return max((torch.finfo(kind).eps for kind in kinds), default=0.0)


def _probe_size(backbone: "Backbone") -> tuple[int, ...]:
    looks = backbone.preprocessing
    if not isinstance(looks, ImagePreprocessing):
        return ()
    return (SIDE, SIDE) if backbone.any_size else (looks.height, looks.width)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def _probe(backbone: "Backbone", size: tuple[int, ...]) -> tuple[tuple[float, ...], bool]:
    """Projections of the embeddings of probe inputs, and whether they are the same every time.

    One thread computes them, so that their last digits do not depend on how many there are.
    """
    model = backbone.model.eval()
    batches = _pictures(size) if size else _texts(backbone)
    saved = set(model.state_dict())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            outputs = [(_run(backbone, batch), same) for batch, same in batches]
    finally:
        torch.set_num_threads(threads)
    changed = [name for name, buffer in buffers.items() if not torch.equal(before[name], buffer)]
    for name in changed:
        buffers[name].copy_(before[name])
    first = outputs[0][0]
    if first is None or changed:
        return (), not changed
    room = (0.1 * TOLERANCE + 8 * _resolution(model)) * float(first.abs().max())
    for output, same in outputs:
        if output is not None and same is not None and float((first[same] - output).abs().max()) > room:
            return (), False
    rows = torch.cat([output for output, same in outputs if output is not None and same is None])
    return tuple(float(f"{value:.6g}") for value in _project(rows).flatten().tolist()), True


def _run(backbone: "Backbone", batch: Any) -> Tensor | None:
    """Embeddings, float64 on the CPU; None where the network cannot take such a batch."""
    device = _device(backbone.model)
    moved = batch.to(device) if isinstance(batch, Tensor) else {name: part.to(device) for name, part in batch.items()}
    try:
        output: Tensor = backbone(moved)
    except Exception:  # the short probe at loading has run: a longer text may still be too long
        return None
    return torch.nan_to_num(output.detach().double().cpu(), nan=0.0, posinf=0.0, neginf=0.0)


def _project(rows: Tensor) -> Tensor:
    """A few numbers for each embedding, (n, NUMBERS): every entry counts in each of them."""
    width = rows.shape[1]
    weights = torch.from_numpy(_noise(width * NUMBERS)).view(width, NUMBERS)
    return rows @ weights / math.sqrt(width)


def _noise(count: int) -> np.ndarray:
    """Numbers of mean 0 and deviation 1, the same on every machine, float64 (count,)."""
    return (np.modf(np.abs(np.sin(np.arange(1, count + 1) * 12.9898)) * 43758.5453)[0] - 0.5) * math.sqrt(12)


Batches = list[tuple[Any, list[int] | None]]
"""Inputs, and the rows of the first batch that they repeat; None for new ones."""


def _pictures(size: tuple[int, ...]) -> Batches:
    """Noise beside a picture of planes, ramps and extremes; the noise alone."""
    height, width = size
    noise = torch.from_numpy(_noise(3 * height * width)).float().view(3, height, width)
    down, across = torch.linspace(-2, 2, height).view(-1, 1), torch.linspace(-2, 2, width)
    parts = torch.stack([down + 0 * across, 0 * down + across, (down * across).sin()])
    half, middle = height // 2, width // 2
    parts[:, :half, :middle] = torch.tensor([-0.3, 0.1, 0.5]).view(3, 1, 1)
    parts[:, half:, middle:] = 6 * noise[:, half:, middle:].sign()
    return [(torch.stack([noise, parts]), None), (noise[None], [0])]


def _texts(backbone: "Backbone") -> Batches:
    """Two short texts of unequal length; the same in the other order; a long one."""
    from injerto.backbones.transformers_models import positions, quiet

    looks: Any = backbone.preprocessing
    tokenizer, filler = looks.tokenizer, looks.tokenizer.pad_token_id or 0
    limit = int(min(LONG, positions(backbone.model))) if hasattr(backbone.model, "config") else LONG
    with quiet():
        short = [list(tokenizer(text)["input_ids"])[:limit] for text in SHORT_TEXTS]
        long = list(tokenizer(SENTENCE * 12)["input_ids"])[:limit]
    length = max(map(len, short))
    ids = torch.tensor([row + [filler] * (length - len(row)) for row in short])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in short])
    pair = {"input_ids": ids, "attention_mask": mask}
    turned = {name: part.flip(0) for name, part in pair.items()}
    alone = {"input_ids": torch.tensor([long]), "attention_mask": torch.ones(1, len(long), dtype=torch.int64)}
    return [(pair, None), (turned, [1, 0]), (alone, None)]
