"""Tensors in a safetensors file that lies in memory: every claim of its header is compared before a tensor is built.

The format: 8 bytes, the header's length; the header, JSON with type, shape and place of each tensor; their bytes, one
after the other (https://huggingface.co/docs/safetensors, "Format"). Tensors are views of the memory given, not copies.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from injerto.basics.errors import InjertoError, shorten
from injerto.basics.json import load_json
from injerto.basics.limits import DIMENSIONS, HEADER_BYTES

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""Types of numbers by their names in a header."""


@dataclass(frozen=True)
class Claim:
    """What a header says of a tensor, found to be possible.

    Attributes:
        type: Of its numbers, as the header has it.
        shape: Its shape.
        start: Where its bytes begin in the file.
        end: Where they end.
    """

    type: str
    shape: tuple[int, ...]
    start: int
    end: int


class Tensors:
    """A file's tensors by name.

    Attributes:
        claims: What the header says of each.
        metadata: Texts that stand beside them.
    """

    def __init__(self, content: bytearray | memoryview, path: str) -> None:
        """Read the header; no tensor is built.

        Args:
            content: The file, which nobody else may change.
            path: Its name, for messages.

        Raises:
            InjertoError: Where it is no safetensors file, or a claim is impossible.
        """
        self._content, self._path = content, path
        length = int.from_bytes(content[:8], "little")
        if len(content) < 8 or length > min(len(content) - 8, HEADER_BYTES):
            raise self._damaged(f"its header would have {length} bytes")
        header = load_json(memoryview(content)[8 : 8 + length], f"{path} cannot be read: its header")
        if not isinstance(header, dict):
            raise self._damaged("its header is no mapping")
        texts = header.pop("__metadata__", {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise self._damaged("its metadata are no texts")
        self.metadata: dict[str, str] = texts
        self.claims = {name: self._claim(name, entry, 8 + length) for name, entry in header.items()}
        at = 8 + length
        for claim in sorted(self.claims.values(), key=lambda claim: (claim.start, claim.end)):
            if claim.start != at:
                raise self._damaged("its tensors overlap or leave gaps")
            at = claim.end
        if at != len(content):
            raise self._damaged(f"it has {len(content)} bytes, and its tensors end at {at}")

    def _damaged(self, reason: str) -> InjertoError:
        return InjertoError(f"{self._path} cannot be read ({reason}); it is damaged or no safetensors file")

    def _claim(self, name: str, entry: Any, base: int) -> Claim:
        what = f"tensor '{shorten(name, 120)}'"
        fields = entry if isinstance(entry, dict) else {}
        kind, shape, place = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
        if not isinstance(kind, str) or shape is None or place is None or len(place) != 2:
            raise self._damaged(f"{what} is described by something else")
        if kind not in TYPES:
            raise self._damaged(f"{what} is of type '{kind[:20]}', which is not known here")
        if len(shape) > DIMENSIONS:
            raise self._damaged(f"{what} has {len(shape)} dimensions, more than {DIMENSIONS}")
        start, end = place
        if end - start != math.prod(shape) * TYPES[kind].itemsize or max(shape, default=0) >= 2**63:
            raise self._damaged(f"{what} does not fit its place")
        return Claim(kind, tuple(shape), base + start, base + end)

    def __iter__(self) -> Iterator[str]:
        """Names, sorted."""
        return iter(sorted(self.claims))

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name."""
        return name in self.claims

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape.

        Args:
            name: Of a tensor that is there.
        """
        return self.claims[name].shape

    def __getitem__(self, name: str) -> Tensor:
        """A tensor, over the file's memory where its place there allows it."""
        claim = self.claims[name]
        kind = TYPES[claim.type]
        if claim.start == claim.end:
            return torch.empty(claim.shape, dtype=kind)
        content, start = self._content, claim.start
        if start % kind.itemsize:  # a header of an odd length
            content, start = bytearray(content[start : claim.end]), 0
        count = (claim.end - claim.start) // kind.itemsize
        return torch.frombuffer(content, dtype=kind, count=count, offset=start).view(claim.shape)


def _counts(value: Any) -> list[int] | None:
    fine = isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)
    return value if fine else None
