"""Several processes that compute one run together, as ``torchrun`` or ``accelerate launch`` starts them.

Each embeds its own rows of a batch; behind the embedding, where an alignment must see the whole batch, all rows are
gathered and every process goes on with the same numbers. Its gradient at its own rows is then that of one process, and
the backbone's gradients only have to be added up.
"""

import atexit
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from injerto.basics.errors import InjertoError
from injerto.basics.launcher import started

PATIENCE = timedelta(hours=2)
"""How long one process waits for another."""


class Crew:
    """The processes of this run; one alone where nothing has started more.

    Attributes:
        rank: Number of this process.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Say which process this is.

        Args:
            rank: Its number.
            size: How many there are.
        """
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this process writes what is kept."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    def deal(self, count: int) -> tuple[np.ndarray, ...] | None:
        """The rows of a batch that each process computes: every ``size``-th, so that it has a share of every domain.

        Args:
            count: Rows of the batch.

        Returns:
            Positions by process; None for one alone.
        """
        return None if self.alone else tuple(np.arange(rank, count, self.size) for rank in range(self.size))

    def share(self, count: int) -> tuple[int, int]:
        """Which of some examples this process computes: from, and to but not with.

        Args:
            count: How many there are.
        """
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def gather(self, own: Tensor, dealt: Sequence[np.ndarray] | None) -> Tensor:
        """All rows of a batch, in its order; gradients reach the own ones.

        Args:
            own: This process's rows, (n, ...).
            dealt: Which rows each process has, from :meth:`deal`.
        """
        if dealt is None:
            return own
        gathered: Tensor = _Gather.apply(own, dealt, self.rank)  # type: ignore[no-untyped-call]
        return gathered

    def collect(self, own: np.ndarray) -> np.ndarray:
        """The shares of all, one after the other.

        Args:
            own: This process's, see :meth:`share`.
        """
        if self.alone:
            return own
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, own)
        return np.concatenate(parts)

    def add_up(self, tensors: Iterable[Tensor | None]) -> None:
        """Replace tensors by their sums over all processes.

        Args:
            tensors: Of equal shapes everywhere.
        """
        some = [tensor for tensor in tensors if tensor is not None]
        if self.alone or not some:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in some])
        dist.all_reduce(flat)
        for tensor, part in zip(some, flat.split([tensor.numel() for tensor in some]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Go on when all have come here."""
        if not self.alone:
            dist.barrier()


_CREW = Crew()


def crew() -> Crew:
    """The processes of this run."""
    return _CREW


def threads_each(cores: int) -> int:
    """Threads for one process: what ``OMP_NUM_THREADS`` says, as everywhere, else its share of the cores.

    Several processes on a machine share its cores whatever the variable says: ``torchrun`` sets it to 1 unasked.

    Args:
        cores: Of the machine.

    Raises:
        InjertoError: Where the variable is no number above 0.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if _CREW.alone and asked:
        if not (asked.isdecimal() and int(asked) > 0):
            raise InjertoError(f"OMP_NUM_THREADS is '{asked}'; give a number of threads, such as 4, or unset it")
        return int(asked)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if not _CREW.alone else 1
    return max(1, cores // here)


@contextmanager
def joined() -> Iterator[Crew]:
    """Inside, this process works with those that a launcher has started beside it."""
    global _CREW
    if started() == 1 or not _CREW.alone:
        yield _CREW
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():  # once: a second group would find the first one's store
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    _CREW = Crew(dist.get_rank(), dist.get_world_size())
    try:
        yield _CREW
    finally:
        _CREW = Crew()


class _Gather(torch.autograd.Function):
    """All rows forward; backward the own ones, as every process computes the same loss of all rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, dealt: Sequence[np.ndarray], rank: int) -> Tensor:
        places = [torch.from_numpy(rows).to(own.device) for rows in dealt]
        ctx.rows = places[rank]
        padded = own.new_zeros(max(map(len, dealt)), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in dealt]
        dist.all_gather(parts, padded)
        found = own.new_empty(sum(map(len, dealt)), *own.shape[1:])
        for rows, part in zip(places, parts, strict=True):
            found[rows] = part[: len(rows)]
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0][ctx.rows], None, None
