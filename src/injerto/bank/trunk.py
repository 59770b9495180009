"""The shared network: what adapters have in common runs once, then each row goes its own way."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from injerto.backbones.backbone import Backbone
from injerto.backbones.split import Prefix, Suffix
from injerto.bank.mixing import merged, mixed, swapped
from injerto.bank.resident import Resident
from injerto.compute.batches import Inputs
from injerto.compute.plan import ComputePlan


@dataclass(frozen=True)
class Row:
    """One embedding that is asked for.

    Attributes:
        input: Which of the batch's inputs.
        resident: With which adapter; None for the base.
        strength: From the base (0) to the adapter (1).
    """

    input: int
    resident: Resident | None
    strength: float = 1.0

    @property
    def variant(self) -> tuple[int, float]:
        """Rows of the same variant go through the same network."""
        return id(self.resident), self.strength


class Trunk:
    """A base model, laid out for inference, that computes rows of different adapters together."""

    def __init__(self, base: Backbone, plan: ComputePlan) -> None:
        """Copy the base.

        Args:
            base: Plain, float32; kept, as the reference that adapters are checked against.
            plan: Where and how to compute.
        """
        self.base, self.plan = base, plan
        shared: dict[int, Any] = {id(base.preprocessing): base.preprocessing}
        converted = plan.precision == "bf16" or plan.channels_last or plan.device != "cpu"
        if not converted:  # modules of its own, for adapters to be swapped into, over the base's tensors
            shared |= {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
        self._backbone = copy.deepcopy(base, shared).eval()
        if converted:
            self._backbone.to(plan.device, plan.dtype)
        if plan.channels_last:
            self._backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._halves: dict[int, tuple[Prefix, Suffix] | None] = {}
        self._alone: tuple[tuple[int, float], Resident, dict[str, Tensor]] | None = None

    def cut_of(self, resident: Resident | None) -> int:
        """The stage from which an adapter's rows go their own way; the number of stages for the base.

        The first time for a stage the base itself is run: not while it is copied elsewhere.

        Args:
            resident: None for the base.
        """
        stages = len(self.base.stages)
        first = stages if resident is None else resident.first
        return first if first in (0, stages) or self._split(first) else 0

    def embed(self, inputs: Inputs, rows: Sequence[Row]) -> Tensor:
        """Embeddings of all rows, float32 (n, D).

        Args:
            inputs: What the backbone takes.
            rows: In any order.
        """
        found = torch.empty(len(rows), self.base.embedding_dim)
        cuts = [self.cut_of(row.resident) for row in rows]
        own = sorted({cut for cut in cuts if cut < len(self.base.stages)})
        highest = own[-1] if own else 0
        cuts = [min(cut, highest) for cut in cuts]  # the base's own rows go with those that leave last
        if len({row.variant for row in rows}) == 1:
            own, cuts = [0], [0] * len(rows)
        mask = inputs["attention_mask"] if isinstance(inputs, dict) else None
        state: Any = inputs if isinstance(inputs, dict) else inputs.to(self.plan.dtype)
        alive, at = list(range(len(mask if mask is not None else state))), 0
        with torch.inference_mode():
            for cut in own:
                needed = sorted({row.input for row, leaves in zip(rows, cuts, strict=True) if leaves >= cut})
                state = _take(state, [alive.index(i) for i in needed] if needed != alive else None)
                alive = needed
                if cut > at:
                    state = self._advance(at, cut, state, None if mask is None else mask[alive])
                    at = cut
                here = [k for k, leaves in enumerate(cuts) if leaves == cut]
                places = {i: place for place, i in enumerate(alive)}
                for part in _parts([(k, rows[k]) for k in here]):
                    index = [places[row.input] for _, row in part]
                    values = _take(state, None if index == list(range(len(alive))) else index)
                    own_mask = None if mask is None else mask[[row.input for _, row in part]]
                    found[[k for k, _ in part]] = self._finish(cut, values, own_mask, [row for _, row in part])
        return found

    def _finish(self, cut: int, values: Any, mask: Tensor | None, rows: Sequence[Row]) -> Tensor:
        """From a cut to the embeddings, with the rows' adapters: one alone merged, several mixed."""
        network = self._backbone.model
        one = rows[0]
        if any(row.variant != one.variant for row in rows):
            changed: Any = mixed(network, [(row.resident, row.strength) for row in rows])
        elif one.resident is None:
            changed = swapped(network, {})
        else:
            changed = swapped(network, self._merged(one.variant, one.resident, one.strength))
        with changed:
            if cut == 0:
                output = self._backbone(values)
            else:
                halves = self._split(cut)
                assert halves is not None
                output = halves[1](values) if mask is None else halves[1](values, mask)
        return output.float().cpu()  # type: ignore[no-any-return]

    def _merged(self, variant: tuple[int, float], resident: Resident, strength: float) -> dict[str, Tensor]:
        """The one that was alone last is kept merged."""
        kept = self._alone
        if kept is None or kept[0] != variant:
            kept = self._alone = (variant, resident, merged(self._backbone.model, resident, strength))
        return kept[2]

    def forget(self, resident: Resident) -> None:
        """Free what is kept of an adapter.

        Args:
            resident: One that is no more in use.
        """
        if self._alone is not None and self._alone[1] is resident:
            self._alone = None

    def _advance(self, start: int, end: int, state: Any, mask: Tensor | None) -> Tensor:
        halves = self._split(end)
        assert halves is not None
        if start == 0:
            return halves[0](state)  # type: ignore[no-any-return]
        before = self._split(start)
        assert before is not None
        return before[1].advance(halves[0], state, mask)

    def _split(self, stage: int) -> tuple[Prefix, Suffix] | None:
        """The network's two halves, over the one copy; checked in float32 on the base."""
        if stage not in self._halves:
            found = self.base.split(stage)
            if found is not None:
                found = found[0].over(self._backbone), found[1].over(self._backbone)
            self._halves[stage] = found
        return self._halves[stage]


def _parts(rows: Sequence[tuple[int, Row]]) -> list[list[tuple[int, Row]]]:
    """Rows that can go through the network together: all that can be mixed, and each other adapter's own."""
    alone: dict[tuple[int, float], list[tuple[int, Row]]] = {}
    together: list[tuple[int, Row]] = []
    for k, row in rows:
        if row.resident is not None and row.resident.whole:
            alone.setdefault(row.variant, []).append((k, row))
        else:
            together.append((k, row))
    together.sort(key=lambda entry: id(entry[1].resident.layout) if entry[1].resident else 0)
    return [*([together] if together else []), *alone.values()]


def _take(state: Any, index: list[int] | None) -> Any:
    if index is None:
        return state
    return {name: value[index] for name, value in state.items()} if isinstance(state, dict) else state[index]
