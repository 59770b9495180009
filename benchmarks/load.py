"""Is an answer lost, or another adapter's, under load, while adapters come and go?

    python benchmarks/load.py --requests 100000

A server of MiniLM adapters as a process of its own, and a generator that keeps 32 connections busy with requests of one
text for one of eight adapters. Meanwhile a ninth name is loaded with one adapter, replaced by another and taken away
again, without end. Every answer is held against what the adapter says by itself: within 1e-4 it is right. The ninth's
is right if it is one of its two adapters', or 404 while it is away. 429 is asked again after a moment, anything else is
lost. Writes `results/load.json`.
"""

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from measure import RESULTS

import injerto
from bank import WORDS, adapters
from injerto.bank.bank import AdapterBank
from injerto.compute.machine import machine

PORT, CONNECTIONS, FIXED = 8766, 32, 8
TOKEN = secrets.token_urlsafe(24)
NINTH = "comes-and-goes"
TEXTS = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(2 + i % 5)) for i in range(24)]
TOLERANCE = 1e-4


def truth(paths: list[Path]) -> dict[str, dict[str, np.ndarray]]:
    """Probabilities by adapter and text, each text asked alone."""
    bank = AdapterBank("packaged:minilm-l6", precision="fp32")
    for path in paths:
        bank.load(path)
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in paths:
        found[path.name] = {text: bank.predict(text, path.name)[0].probabilities for text in TEXTS}
    return found


async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: Any) -> tuple[int, Any]:
    """One request on a connection that stays open."""
    body = json.dumps(content).encode()
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    size = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))
    return int(lines[0].split()[1]), json.loads(await reader.readexactly(size))


async def connection(number: int, left: list[int], known: dict[str, Any], pair: list[str], said: Counter[str]) -> None:
    rng = np.random.default_rng(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    names = [name for name in known if name not in pair]
    while left[0] > 0:
        left[0] -= 1
        text = TEXTS[rng.integers(len(TEXTS))]
        name = NINTH if rng.random() < 0.1 else names[rng.integers(len(names))]
        while True:
            status, found = await call(reader, writer, {"items": [{"text": text, "adapter": name}]})
            if status != 429:
                break
            said["asked again"] += 1
            await asyncio.sleep(0.1)
        if status == 404 and name == NINTH:
            said["away"] += 1
        elif status != 200:
            said["lost"] += 1
        else:
            (answer,) = found["results"][0]["answers"]
            values = np.asarray(list(answer["probabilities"].values()))
            own = [known[one][text] for one in (pair if name == NINTH else [name])]
            right = answer["adapter"] == name and min(float(np.abs(values - one).max()) for one in own) < TOLERANCE
            said["right" if right else "wrong"] += 1
    writer.close()


def churn(pair: list[str], stop: threading.Event, said: Counter[str]) -> None:
    client = injerto.Client(f"http://127.0.0.1:{PORT}", token=TOKEN)
    while not stop.is_set():
        for path in pair:
            client.load(path, NINTH)
            said["loaded"] += 1
            time.sleep(0.05)
        client.unload(NINTH)
        said["unloaded"] += 1
        time.sleep(0.02)


async def load(requests: int, known: dict[str, Any], pair: list[str], said: Counter[str]) -> None:
    left = [requests]
    await asyncio.gather(*(connection(number, left, known, pair, said) for number in range(CONNECTIONS)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = adapters(Path(folder), FIXED + 2)
        known, pair = truth(paths), [path.name for path in paths[FIXED:]]
        served = [*map(str, paths[:FIXED]), "--bank", folder, "--port", str(PORT), "--precision", "fp32"]
        server = subprocess.Popen(
            [sys.executable, "-m", "injerto", "serve", *served],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "INJERTO_ADMIN_TOKEN": TOKEN},
        )
        client, said, stop = injerto.Client(f"http://127.0.0.1:{PORT}"), Counter[str](), threading.Event()
        while True:
            try:
                client.adapters()
                break
            except injerto.InjertoError:
                assert server.poll() is None
                time.sleep(0.2)
        thread = threading.Thread(target=churn, args=(pair, stop, said))
        thread.start()
        begun = time.perf_counter()
        asyncio.run(load(given.requests, known, pair, said))
        seconds = time.perf_counter() - begun
        memory = Path(f"/proc/{server.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in memory.splitlines() if line.startswith("VmHWM"))
        stop.set()
        thread.join()
        server.terminate()
        server.wait()
    content = {
        "requests": given.requests, **{name: said[name] for name in ("right", "wrong", "lost", "away", "asked again")},
        "loaded": said["loaded"], "unloaded": said["unloaded"], "requests_per_second": round(given.requests / seconds),
        "peak_megabytes": peak // 1000, "machine": str(machine()), "command": "python " + " ".join(sys.argv),
    }  # fmt: skip
    assert said["right"] + said["wrong"] + said["lost"] + said["away"] == given.requests
    (RESULTS / "load.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
