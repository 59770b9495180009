"""A bank of adapters against PEFT's `adapter_names` and against the bare base; adding one; memory; the server's cost.

    python benchmarks/bank.py

64 sequences of 64 tokens, MiniLM, LoRA of rank 8 on query and value, on random token ids: mixed batches of 1, 8, 64 and
512 adapters. All sides run the same network on the same tokens in float32 (bfloat16 where the processor has it), in
turn, A B B A; nothing but the network is timed. Heads are left out, which PEFT does not have here. Then the whole bank
on texts against one call per adapter, and the server's CPU seconds per item in requests of 16 items against direct
calls of the same size. Writes `results/bank.json`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from measure import QUICK, interleave, row, save
from safetensors.torch import load_file, save_file

import injerto
from injerto.adapters.card import load_card, save_card
from injerto.bank.bank import AdapterBank
from injerto.bank.trunk import Row
from injerto.compute.machine import machine

PEER = peft.__version__
PAIRS = 9
TEXTS, TOKENS = 64, 64
COUNTS = (1, 64) if QUICK else (1, 8, 64, 512)
WORDS = ["the", "a", "film", "book", "was", "is", "very", "so", "good", "great", "fine", "poor", "dull", "plot", "end"]


def adapters(folder: Path, count: int) -> list[Path]:
    """Runs with adapters of their own: one that is fitted for a step, its pairs then drawn anew."""
    rows = [f"{' '.join(WORDS[(i + k) % len(WORDS)] for k in range(6))},{'pn'[i % 2]},x" for i in range(60)]
    data = folder / "data.csv"
    data.write_text("text,label,domain\n" + "\n".join(rows) + "\n")
    first = folder / "first"
    injerto.fit(
        data, source="x", backbone="packaged:minilm-l6", tuning="lora(targets=query/value,r=8)", steps=1,
        batch_size=4, out=first, precision="fp32",
    )  # fmt: skip
    found = []
    for number in range(count):
        place = folder / f"a{number}"
        shutil.copytree(first / "adapter", place)
        generator = torch.Generator().manual_seed(number)
        path = place / "adapter_model.safetensors"
        tensors = {name: 0.05 * torch.randn(t.shape, generator=generator) for name, t in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
        save_card(place, load_card(place))  # with the new file's checksum
        found.append(place)
    return found


def tokens() -> dict[str, torch.Tensor]:
    """A batch of random tokens without padding."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(1000, 20000, (TEXTS, TOKENS)))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def a_bank(paths: list[Path], precision: str) -> AdapterBank:
    """All of them on one base."""
    bank = AdapterBank("packaged:minilm-l6", precision=precision)
    for number, path in enumerate(paths):
        bank.load(path, f"a{number}")
    return bank


def in_peft(paths: list[Path], precision: str) -> Any:
    """The same in PEFT."""
    network = injerto.load_backbone("packaged:minilm-l6").model
    if precision == "bf16":
        network = network.bfloat16()
    found = peft.PeftModel.from_pretrained(network, str(paths[0]), adapter_name="a0").eval()
    for number, path in enumerate(paths[1:], 1):
        found.load_adapter(str(path), adapter_name=f"a{number}")
    return found


def our_mix(paths: list[Path], names: list[str], precision: str) -> Callable[[], torch.Tensor]:
    """A batch whose rows have those adapters."""
    bank, batch = a_bank(paths, precision), tokens()
    rows = [Row(i, bank[name]) for i, name in enumerate(names)]
    return lambda: bank._trunk.embed(batch, rows)


def their_mix(paths: list[Path], names: list[str], precision: str) -> Callable[[], torch.Tensor]:
    """The same in PEFT."""
    theirs, batch = in_peft(paths, precision), tokens()

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return theirs(**batch, adapter_names=names).last_hidden_state  # type: ignore[no-any-return]

    return run


def against_base_and_peft(paths: list[Path], precision: str) -> list[dict[str, Any]]:
    """The network alone: mixed rows against rows of the base, and PEFT's mixed rows against PEFT's base."""
    batch, rows = tokens(), []
    bank, theirs = a_bank(paths, precision), in_peft(paths[:64], precision)
    base_rows = [Row(i, None) for i in range(TEXTS)]
    for count in COUNTS:
        title = f"bank: {count} adapters in a batch of 64"
        which = [i % count if count <= TEXTS else (i * count) // TEXTS for i in range(TEXTS)]
        mixed = [Row(i, bank[f"a{k}"]) for i, k in enumerate(which)]

        def ours(mixed: list[Row] = mixed) -> torch.Tensor:
            return bank._trunk.embed(batch, mixed)

        def bare() -> torch.Tensor:
            return bank._trunk.embed(batch, base_rows)

        alone = []
        for i in (0, 31, 63):
            one = {name: values[i : i + 1] for name, values in batch.items()}
            alone.append(bank._trunk.embed(one, [Row(0, mixed[i].resident)])[0])
        same = bool((ours()[[0, 31, 63]] - torch.stack(alone)).abs().max() < (1e-4 if precision == "fp32" else 0.1))
        mine, others = interleave(ours, bare, PAIRS)
        rows.append(row(title, "the bare base", "", mine, others, TEXTS, "texts/s", same, limit=True))
        if count > 64:
            continue
        names = [f"a{k}" for k in which]

        def peers(names: list[str] = names) -> Any:
            with torch.inference_mode():
                return theirs(**batch, adapter_names=names).last_hidden_state

        pooled, ours_pooled = peers().float().mean(1), ours()
        if precision == "fp32":
            agree = bool((pooled - ours_pooled).abs().max() < 1e-3 * max(1.0, float(pooled.abs().max())))
        else:
            agree = bool(torch.cosine_similarity(pooled, ours_pooled).min() >= 0.999)
        mine, others = interleave(ours, peers, PAIRS)
        rows.append(
            row(
                f"bank: {count} adapters in a batch of 64",
                "PEFT adapter_names",
                PEER,
                mine,
                others,
                TEXTS,
                "texts/s",
                agree,
            )
        )
    return rows


def adding(paths: list[Path]) -> list[dict[str, Any]]:
    """Milliseconds to add an adapter, against PEFT; bytes in memory against its file."""
    bank = AdapterBank("packaged:minilm-l6", precision="fp32")
    theirs = peft.PeftModel.from_pretrained(
        injerto.load_backbone("packaged:minilm-l6").model, str(paths[0]), adapter_name="first"
    )
    place = iter(range(10**6))
    mine, others = interleave(
        lambda: bank.load(paths[1], f"a{next(place)}"),
        lambda: theirs.load_adapter(str(paths[1]), adapter_name=f"a{next(place)}"), 20,
    )  # fmt: skip
    found = row("bank: adding an adapter", "PEFT load_adapter", PEER, mine, others, 1, "adapters/s", True)
    found["milliseconds"] = round(1e3 * float(np.median(mine)), 2)
    size = sum(file.stat().st_size for file in paths[1].glob("*.safetensors"))
    name = bank.load(paths[1], "one")
    found["bytes"], found["file_bytes"] = bank[name].bytes, size
    return [found]


def serving(folder: Path, paths: list[Path]) -> list[dict[str, Any]]:
    """CPU seconds per item of the server in requests of 16 items, against direct calls of 16."""
    import httpx

    port = 8765
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "injerto", "serve", *map(str, paths[:8]), "--port", str(port), "--precision", "fp32"]
    server = subprocess.Popen([*words, "--threads", "1"], env=environment, stderr=subprocess.DEVNULL)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 30)) for _ in range(320)]
    names = [f"a{i % 8}" for i in range(320)]
    bank = AdapterBank("packaged:minilm-l6", precision="fp32", threads=1)
    for path in paths[:8]:
        bank.load(path)

    def used() -> float:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    url = f"http://127.0.0.1:{port}"
    with httpx.Client(timeout=60) as client:
        for _ in range(300):
            try:
                client.get(f"{url}/readyz").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)

        def ask() -> list[float]:
            said = []
            for start in range(0, len(texts), 16):
                items = [
                    {"text": text, "adapter": name}
                    for text, name in zip(texts[start : start + 16], names[start : start + 16], strict=True)
                ]
                found = client.post(f"{url}/v1/predict", json={"items": items}).raise_for_status().json()
                said += [one["answers"][0]["probability"] for one in found["results"]]
            return said

        def direct() -> list[float]:
            said = []
            for start in range(0, len(texts), 16):
                answers = bank.predict(texts[start : start + 16], names[start : start + 16])
                said += [float(answer.probabilities.max()) for answer in answers]
            return said

        same = bool(np.abs(np.asarray(ask()) - direct()).max() < 1e-5)
        mine, others = [], []
        for turn in range(10):
            for which in (0, 1) if turn % 2 else (1, 0):
                if which:
                    before = used()
                    ask()
                    mine.append(used() - before)
                else:
                    start = time.process_time()
                    direct()
                    others.append(time.process_time() - start)
    server.terminate()
    server.wait()
    name, count = "server: CPU seconds, requests of 16", len(texts)
    return [row(name, "direct calls of 16", "", mine, others, count, "items/s", same, limit=True)]


def main() -> None:
    only = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        paths = adapters(Path(folder), max(COUNTS))
        precision = "bf16" if machine().bf16 else "fp32"
        found: list[dict[str, Any]] = []
        if not only or "mix" in only:
            found += against_base_and_peft(paths, precision)
        if not only or "add" in only:
            found += adding(paths)
        if not only or "serve" in only:
            found += serving(Path(folder), paths)
        save("bank.json", found, whole=not only)


if __name__ == "__main__":
    main()
