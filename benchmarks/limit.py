"""How far from the machine's limit: FLOP/s of embedding and training steps against a measured GEMM peak.

    python benchmarks/limit.py

The peak is the best of square matrix products of several sizes in the same precision; operations of a forward pass are
counted by torch's own counter (multiply and add are two), and a training step counts as three of them (its counter
takes the backward pass of depthwise convolutions for dense ones). A share below one
is what convolutions that are not matrices, activations, norms, attention's softmax and memory cost. Memory bandwidth is
that of a copy (read and write). The largest parts of a step are those of torch's profiler. Writes `results/limit.json`.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import BEST, best_type
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import injerto
from injerto.basics.files import write_text
from injerto.compute.inference import Embedder
from injerto.compute.machine import machine
from injerto.compute.plan import make_plan

SECONDS = 3.0
"""How long each measurement goes on."""


def best(action: Callable[[], Any]) -> float:
    """Seconds of the quickest call."""
    action()
    found, begun = [], time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return min(found)


def gemm_peak() -> float:
    """FLOP/s of the best matrix product in the machine's best type."""
    found = []
    for n in (512, 1024, 2048):
        a, b = torch.randn(n, n).to(BEST), torch.randn(n, n).to(BEST)
        found.append(2 * n**3 / best(lambda: a @ b))  # noqa: B023
    return max(found)


def bandwidth() -> float:
    """Bytes a second of a copy that no cache holds."""
    a, b = torch.randn(64_000_000), torch.empty(64_000_000)
    return 2 * 4 * a.numel() / best(lambda: b.copy_(a))


def flops(action: Callable[[], Any]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        action()
    return counter.get_total_flops()


def parts(action: Callable[[], Any], most: int = 6) -> dict[str, float]:
    """Shares of a call's time by operation, largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        action()
    events = sorted(found.key_averages(), key=lambda one: -one.self_cpu_time_total)
    whole = sum(one.self_cpu_time_total for one in events)
    return {one.key: round(one.self_cpu_time_total / whole, 3) for one in events[:most]}


def cases() -> dict[str, Callable[[], Any]]:
    """What is measured."""
    pictures = torch.randn(16, 3, 224, 224).to(memory_format=torch.channels_last)
    texts = {"input_ids": torch.randint(1000, 5000, (32, 64)), "attention_mask": torch.ones(32, 64, dtype=torch.long)}
    lite0 = injerto.load_backbone("packaged:efficientnet-lite0", image_size=224)
    minilm = injerto.load_backbone("packaged:minilm-l6")

    def step(backbone: Any, inputs: Any) -> Callable[[], Any]:
        backbone.requires_grad_(True)
        optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-5, fused=True)
        n = len(inputs) if torch.is_tensor(inputs) else len(inputs["input_ids"])
        labels = torch.zeros(n, dtype=torch.long)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            with best_type():
                loss = functional.cross_entropy(backbone(inputs)[:, :2], labels)
            loss.backward()
            optimizer.step()

        return run

    def frozen(backbone: Any, inputs: Any) -> Callable[[], Any]:
        embedder = Embedder(backbone, make_plan(backbone))  # folded, laid out, in the plan's precision
        return lambda: embedder.forward(inputs)

    return {
        "embedding, EfficientNet-Lite0, 16 x 224 px": frozen(lite0, pictures),
        "embedding, MiniLM, 32 x 64 tokens": frozen(minilm, texts),
        "full step, EfficientNet-Lite0, 16 x 224 px": step(lite0, pictures),
        "full step, MiniLM, 32 x 64 tokens": step(minilm, texts),
    }


def main() -> None:
    peak, copied = gemm_peak(), bandwidth()
    print(f"GEMM peak {peak / 1e9:.1f} GFLOP/s, copy {copied / 1e9:.1f} GB/s")
    rows: list[dict[str, Any]] = []
    forward: dict[str, int] = {}
    for name, action in cases().items():
        if name.startswith("embedding"):
            forward[name.partition(", ")[2]] = flops(action)
        count, took = forward[name.partition(", ")[2]] * (1 if name.startswith("embedding") else 3), best(action)
        rate = count / took
        row = {"name": name, "gflop": round(count / 1e9, 2), "gflop_per_second": round(rate / 1e9, 1)}
        rows.append(row | {"share_of_peak": round(rate / peak, 3), "parts": parts(action)})
        print(rows[-1], flush=True)
    content = {"command": "python benchmarks/limit.py", "machine": str(machine())}
    content |= {"type": str(BEST).removeprefix("torch."), "gemm_peak_gflops": round(peak / 1e9, 1)}
    content |= {"copy_gigabytes": round(copied / 1e9, 1), "rows": rows}
    write_text(Path(__file__).parent / "results" / "limit.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
