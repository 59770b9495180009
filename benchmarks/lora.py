"""LoRA against PEFT: a step, an epoch of lora:last:2, attaching, file size.

    python benchmarks/lora.py

Writes `results/lora.json`. Same model, targets, start, data and precision on both sides; weights are the bundled ones.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import peft
import torch
from measure import best_type, interleave, row, save
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

import injerto
from injerto.adapters.peft import peft_tensors
from injerto.compute.fold import FrozenNorms
from injerto.recipe.grammar import parse_tuning
from injerto.tuning.base import apply_tuning
from tuning import epoch, ready

PAIRS = 15
STEPS = 3
RANK = 8
TOKENS = 64
PEER = peft.__version__


def text_batches() -> list[dict[str, torch.Tensor]]:
    """Batches of 32 texts of 64 tokens, with labels."""
    rng = np.random.default_rng(0)
    return [
        {
            "input_ids": torch.from_numpy(rng.integers(1000, 20000, (32, TOKENS))),
            "attention_mask": torch.ones(32, TOKENS, dtype=torch.int64),
            "labels": torch.from_numpy(rng.integers(0, 2, 32)),
        }
        for _ in range(STEPS)
    ]


def image_batches() -> list[dict[str, torch.Tensor]]:
    """Batches of 32 pictures of 96 px, with labels."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "pixel_values": torch.randn(32, 3, 96, 96, generator=generator).contiguous(
                memory_format=torch.channels_last
            ),
            "labels": torch.randint(0, 8, (32,), generator=generator),
        }
        for _ in range(STEPS)
    ]


def ours(name: str, tuning: str) -> tuple[Any, float]:
    """A backbone with our low-rank layers, and the seconds that attaching took."""
    backbone = injerto.load_backbone(name)
    start = time.perf_counter()
    apply_tuning(backbone, parse_tuning(tuning))
    return backbone, time.perf_counter() - start


def theirs(name: str, like: Any) -> tuple[Any, Any, float]:
    """The same network with PEFT's layers of the same targets and start, and the seconds that attaching took."""
    backbone = injerto.load_backbone(name)
    tensors = peft_tensors(like.model)
    paths = sorted({key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in tensors})
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=paths)
    start = time.perf_counter()
    wrapped = peft.get_peft_model(backbone.model, config)
    seconds = time.perf_counter() - start
    peft.set_peft_model_state_dict(wrapped, {key: value.clone() for key, value in tensors.items()})
    return backbone, wrapped, seconds


def loop(
    backbone: Any,
    batches: list[dict[str, torch.Tensor]],
    frozen: bool = False,
    train: bool = False,
    best: bool = False,
) -> tuple[Callable[[], None], list[float]]:
    """Steps of forward, backward and AdamW over the low-rank pairs and a linear head, in float32 or the best type."""
    torch.manual_seed(0)
    head = nn.Linear(backbone.embedding_dim, 8)
    network = backbone.model
    parameters = [p for p in network.parameters() if p.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    network.train(train)
    if "pixel_values" in batches[0]:
        network.to(memory_format=torch.channels_last)
    norms = FrozenNorms(backbone, batches[0]["pixel_values"][:2]) if frozen else None
    losses: list[float] = []

    def step(batch: dict[str, torch.Tensor]) -> None:
        inputs = (
            batch["pixel_values"] if "pixel_values" in batch else {k: batch[k] for k in ("input_ids", "attention_mask")}
        )  # noqa: E501
        optimizer.zero_grad(set_to_none=True)
        with best_type() if best else nullcontext():
            loss = functional.cross_entropy(head(backbone(inputs)), batch["labels"])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    def run() -> None:
        for batch in batches:
            if norms is None:
                step(batch)
            else:
                with norms:
                    step(batch)

    return run, losses


def step_rows() -> list[dict[str, Any]]:
    rows = []
    for title, name, batches in (
        ("MiniLM, 32 x 64 tokens", "packaged:minilm-l6", text_batches()),
        ("Lite0, 32 x 96 px", "packaged:efficientnet-lite0", image_batches()),
    ):
        mine, _ = ours(name, f"lora(r={RANK})")
        other, _, _ = theirs(name, mine)
        a, losses_a = loop(mine, batches, frozen="Lite0" in title)
        b, losses_b = loop(other, batches)
        a(), b()
        same = bool(np.allclose(losses_a, losses_b, rtol=2e-3, atol=2e-4))
        fast, slow = interleave(a, b, PAIRS)
        rows.append(row(f"LoRA step, {title}", "peft", PEER, fast, slow, 32 * STEPS, "examples/s", same))
        print(rows[-1], flush=True)
    return rows


def last_rows(place: Path) -> list[dict[str, Any]]:
    """An epoch after the first of lora:last:2 on texts of 64 tokens."""
    texts = list(injerto.load_domains("sentiment-domains")["news"].inputs)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "text": [" ".join(texts[i] for i in rng.integers(0, len(texts), 6)) for _ in range(320)],
            "label": [str(i % 2) for i in range(320)],
        }
    )
    settings = {"data": frame, "backbone": "packaged:minilm-l6", "max_length": TOKENS, "batch_size": 32}
    kept = ready(place, tuning="lora:last:2", **settings)
    mine, _ = ours("packaged:minilm-l6", f"lora(r={RANK}):last:2")
    other, _, _ = theirs("packaged:minilm-l6", mine)
    rows = (
        kept.examples.tokens["dataset"]
        if "dataset" in kept.examples.tokens
        else next(iter(kept.examples.tokens.values()))
    )  # noqa: E501
    assert all(len(ids) == TOKENS for ids in rows)
    steps = STEPS
    batches = [
        {
            "input_ids": torch.from_numpy(np.stack(rows[32 * i : 32 * i + 32]).astype(np.int64)),
            "attention_mask": torch.ones(32, TOKENS, dtype=torch.int64),
            "labels": torch.arange(32) % 2,
        }
        for i in range(min(steps, len(rows) // 32))
    ]
    a, rows_found = epoch(kept, len(batches)), []
    for title, train in (("", True), (", PEFT without dropout", False)):  # ours drops out in the layers that learn
        b, _ = loop(other, batches, train=train, best=True)
        fast, slow = interleave(a, b, PAIRS)
        name = f"lora:last:2 epoch, MiniLM, 64 tokens{title}"
        rows_found.append(row(name, "peft", PEER, fast, slow, 32 * len(batches), "examples/s", True))
    return rows_found


def attach_rows() -> list[dict[str, Any]]:
    """Seconds to attach, each time to a network just loaded."""
    rows = []
    for title, name in (("MiniLM", "packaged:minilm-l6"), ("Lite0", "packaged:efficientnet-lite0")):
        fast, slow = [], []
        for _ in range(5):
            mine, seconds = ours(name, f"lora(r={RANK})")
            fast.append(seconds)
            slow.append(theirs(name, mine)[2])
        rows.append(row(f"attach, {title}", "peft", PEER, fast, slow, 1, "networks/s", True))
        print(rows[-1], flush=True)
    return rows


def file_rows(place: Path) -> list[dict[str, Any]]:
    """Bytes of the tensors' file for equal targets."""
    rows = []
    for title, name in (("MiniLM", "packaged:minilm-l6"), ("Lite0", "packaged:efficientnet-lite0")):
        mine, _ = ours(name, f"lora(r={RANK})")
        _, wrapped, _ = theirs(name, mine)
        wrapped.save_pretrained(place / title)
        save_file(
            {k: v.contiguous() for k, v in peft_tensors(mine.model).items()},
            place / f"{title}.safetensors",
            metadata={"format": "pt"},
        )  # noqa: E501
        small = (place / f"{title}.safetensors").stat().st_size
        large = (place / title / "adapter_model.safetensors").stat().st_size
        same = all(
            torch.equal(value, load_file(place / title / "adapter_model.safetensors")[key])
            for key, value in peft_tensors(mine.model).items()
        )
        rows.append(
            row(f"adapter file, {title}", "peft", PEER, [small / 1000] * 3, [large / 1000] * 3, None, "KB", same)
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        only = sys.argv[1:]  # some rows alone: last or step
        if only == ["last"]:
            rows = last_rows(place)
        elif only == ["step"]:
            rows = step_rows()
        else:
            rows = [*attach_rows(), *file_rows(place), *step_rows(), *last_rows(place)]
    save("lora.json", rows, whole=not only)


if __name__ == "__main__":
    main()
