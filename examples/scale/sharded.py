"""A backbone that no single device would hold: its weights shared out by FSDP2, each process keeping its part.

    python examples/scale/sharded.py
    torchrun --nproc-per-node 2 examples/scale/sharded.py

Prints the same losses both times, and how many of the weights this process holds.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import injerto


class Network(nn.Module):
    """A backbone and a head for two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = injerto.load_backbone("packaged:minilm-l6").eval().requires_grad_(True)
        torch.manual_seed(0)
        self.head = nn.Linear(self.backbone.embedding_dim, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone({"input_ids": ids, "attention_mask": torch.ones_like(ids)}))


def main() -> None:
    """Four steps on random texts."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    network = Network()
    if world > 1:
        dist.init_process_group("gloo")  # "nccl" with graphics cards
        mesh = init_device_mesh("cpu", (world,))
        for layer in [one for one in network.modules() if type(one).__name__.endswith("Layer")]:
            fully_shard(layer, mesh=mesh)  # gathered while it computes, then given back
        fully_shard(network, mesh=mesh)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(4):
        ids, labels = torch.randint(1000, 5000, (8, 16), generator=drawn), torch.randint(0, 2, (8,), generator=drawn)
        own = slice(rank * 8 // world, (rank + 1) * 8 // world)
        loss = nn.functional.cross_entropy(network(ids[own]), labels[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / world
        if world > 1:
            dist.all_reduce(mean)
        if rank == 0:
            print(f"loss {mean:.5f}")
    parts = [p.to_local() if hasattr(p, "to_local") else p for p in network.parameters()]
    whole = sum(p.numel() for p in network.parameters())
    if rank == 0:
        print(f"held {sum(part.numel() for part in parts) / whole:.3f}")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
