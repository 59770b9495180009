"""How long does one request take: through the server, by a bare FastAPI route, and as a direct call?

    python benchmarks/latency.py

One text of a few words for one of eight MiniLM adapters, float32, one thread, on connections that stay open: 1 client,
and 16 that each wait for their answer before they ask again. The bare route reads the same JSON and answers with a
constant, by uvicorn as it is: what HTTP costs without a model. The direct call is `AdapterBank.predict` in a process
without HTTP, from 1 and from 16 threads. The three run in turn, five rounds. Writes `results/latency.json`.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from load import TEXTS, call
from measure import QUICK, RESULTS

from bank import adapters
from injerto.bank.bank import AdapterBank
from injerto.compute.machine import machine

SERVER, BARE = 8767, 8768
CLIENTS, ROUNDS, REQUESTS = (1, 16), 1 if QUICK else 5, 32 if QUICK else 400
ROUTE = """
import sys
import uvicorn
from fastapi import FastAPI, Request
app = FastAPI()
@app.post("/v1/predict")
async def predict(request: Request) -> dict:
    await request.json()
    return {"results": [{"answers": [{"adapter": "a0", "label": "n", "probability": 0.5}]}]}
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""


async def over_http(port: int, clients: int, names: list[str]) -> list[float]:
    """Seconds of each request of so many clients at once."""

    async def client(number: int) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        seconds = []
        for turn in range(REQUESTS // clients):
            content = {"items": [{"text": TEXTS[(number + turn) % len(TEXTS)], "adapter": names[number % len(names)]}]}
            begun = time.perf_counter()
            status, _ = await call(reader, writer, content)
            seconds.append(time.perf_counter() - begun)
            assert status == 200
        writer.close()
        return seconds

    return [one for several in await asyncio.gather(*map(client, range(clients))) for one in several]


def direct(bank: AdapterBank, clients: int, names: list[str]) -> list[float]:
    """The same as calls of a bank from so many threads."""

    def client(number: int) -> list[float]:
        seconds = []
        for turn in range(REQUESTS // clients):
            begun = time.perf_counter()
            bank.predict(TEXTS[(number + turn) % len(TEXTS)], names[number % len(names)])
            seconds.append(time.perf_counter() - begun)
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        return [one for several in pool.map(client, range(clients)) for one in several]


def started(words: list[str], port: int) -> subprocess.Popen[bytes]:
    """A server as a process, once it answers."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            asyncio.run(asyncio.wait_for(over_http_once(port), 5))
            return server
        except OSError:
            assert server.poll() is None
            time.sleep(0.2)
    raise RuntimeError("the server does not answer")


async def over_http_once(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = adapters(Path(folder), 8)
        names = [path.name for path in paths]
        served = ["serve", *map(str, paths), "--port", str(SERVER), "--precision", "fp32", "--threads", "1"]
        servers = [started(["-m", "injerto", *served], SERVER), started(["-c", ROUTE, str(BARE)], BARE)]
        bank = AdapterBank("packaged:minilm-l6", precision="fp32", threads=1)
        for path in paths:
            bank.load(path)
        rows: list[dict[str, Any]] = []
        for clients in CLIENTS:
            ways = {
                "injerto serve": lambda clients=clients: asyncio.run(over_http(SERVER, clients, names)),
                "a bare FastAPI route": lambda clients=clients: asyncio.run(over_http(BARE, clients, names)),
                "direct call": lambda clients=clients: direct(bank, clients, names),
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(ROUNDS + 1):
                for name, run in ways.items():
                    found = run()
                    seconds[name] += found if turn else []  # the first round warms up
            for name, found in seconds.items():
                middle, late = (1e3 * float(np.quantile(found, q)) for q in (0.5, 0.95))
                rows.append({"name": name, "clients": clients, "p50_ms": round(middle, 2), "p95_ms": round(late, 2)})
                print(rows[-1], flush=True)
        for server in servers:
            server.terminate()
            server.wait()
    content = {"rows": rows, "requests": ROUNDS * REQUESTS, "machine": str(machine()), "command": "python latency.py"}
    if not QUICK:
        (RESULTS / "latency.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
