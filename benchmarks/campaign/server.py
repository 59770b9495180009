"""A server under attack while its adapters come, go and are replaced; each answer is compared with the direct one.

A storm is one server process and some thousand requests of many kinds over raw sockets. What moves on the disk or
through the management routes is of one version or the other, whole; what does not move answers as ever.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.campaign.cases import Case, Verdict, rng_of
from benchmarks.campaign.kit import Kit
from benchmarks.campaign.settings import forked

LEAST, JOBS = 20_000, 1
REQUESTS = (150, 150, 4_000, 4_000, 4_000, 4_000, 4_000)
"""Of each storm; two are small, to see soon that all runs."""
LARGE = 1_000
"""Requests of a storm from which on what takes long is looked at: connections that are held, memory, restarts."""
TOKEN, KEY, NAME = "a-token-of-the-campaign", "a-key-of-the-campaign", "models.example"
STEADY = {"head": "head", "full": "full", "words": "text-lora"}
"""Adapters that nobody touches, and the runs that they are."""
MOVING = {"picture-moves": ("last", "lora"), "text-moves": ("text-head", "text-lora"), "comes": ("mmd", "mmd")}
"""Adapters that are replaced and taken away, each with the runs of its two versions."""
STRENGTHS = (1.0, 0.0, 0.5)
CLIENTS, PATIENCE = 24, 45.0
"""Connections at a time; seconds after which an answer is missed."""
ROUNDING = 2e-4
GROWTH = 48_000_000
"""Bytes that the second half of a storm may add to the process's memory."""
LOG = 100_000
"""Largest log of a storm, in bytes."""


class Broken(Exception):
    """The server closed the connection."""


# --- what is right ---


def texts() -> list[str]:
    words = "a good bad book film , very the plot of is it was great awful story".split()  # noqa: SIM905
    rng = random.Random(5)
    return [" ".join(rng.choice(words) for _ in range(2 + k)) for k in range(12)]


def pictures() -> list[bytes]:
    from PIL import Image

    import tiny

    found = []
    for k in range(12):
        stream = io.BytesIO()
        Image.fromarray(tiny.picture(tiny.CLASSES[k % 3], 50 + k, -20 * (k % 3))).save(
            stream, ("PNG", "JPEG", "WEBP", "PNG")[k % 4]
        )
        found.append(stream.getvalue())
    return found


def direct(kit: Kit) -> dict[str, list[dict[str, float]]]:
    """What each run says of each input at each strength, asked directly: ``run/strength`` to probabilities."""
    import injerto

    found = {}
    for run in {name for names in (STEADY.values(), *MOVING.values()) for name in names}:
        bank = injerto.AdapterBank.of(kit.run(run), precision="fp32", threads=1)
        inputs: Any = texts() if run.startswith("text") else pictures()
        plain = injerto.load(kit.run(run), precision="fp32", threads=1).predict_proba(inputs)
        for strength in STRENGTHS:
            answers = bank.predict(inputs, run, strength)
            rows = [dict(zip(one.labels, map(float, one.probabilities), strict=True)) for one in answers]
            if strength == 1:
                assert abs(plain - [list(row.values()) for row in rows]).max() < ROUNDING
            found[f"{run}/{strength}"] = rows
    return found


# --- the server's process ---


@dataclass
class Server:
    """A server in a process of its own.

    Attributes:
        folder: The bank's; adapters are in there by name.
        log: What it says.
        options: Of ``serve``.
        environment: Beside the token and the names.
    """

    folder: Path
    log: Path
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    port: int = 0

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            self.port = door.getsockname()[1]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve()
            finally:
                os._exit(1)
        until = time.monotonic() + 60
        while True:
            try:
                if asyncio.run(self.once("GET", "/readyz"))[0] == 200:
                    return
            except (OSError, Broken):
                pass
            if time.monotonic() > until or os.waitpid(self.pid, os.WNOHANG)[0]:
                raise RuntimeError(f"the server does not start: {self.said()[-500:]}")
            time.sleep(0.05)

    def _serve(self) -> None:
        handle = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.dup2(handle, 1), os.dup2(handle, 2)
        names = {"INJERTO_ADMIN_TOKEN": TOKEN, "INJERTO_ALLOWED_HOSTS": NAME}
        os.environ |= names | self.environment
        from injerto.cli.main import run

        words = ["serve", *(str(self.folder / name) for name in (*STEADY, *MOVING)), "--bank", str(self.folder)]
        words += ["--port", str(self.port), "--precision", "fp32", "--threads", "1"]
        os._exit(run([*words, *(word for name, value in self.options.items() for word in (f"--{name}", str(value)))]))

    async def once(self, method: str, path: str, body: Any = None, secret: str = TOKEN) -> tuple[int, dict, bytes]:
        """One request on a connection of its own."""
        wire = Wire(self.port)
        try:
            return await wire.ask(request(method, path, body, secret=secret))
        finally:
            wire.close()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def status(self, key: str) -> int:
        """A number of ``/proc/PID/status``; memory in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * (1024 if line.endswith("kB") else 1)
        return 0

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def end(self, number: int, seconds: float) -> int | None:
        """Send a signal; the wait status, or None where it does not end in time."""
        os.kill(self.pid, number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            time.sleep(0.02)
        return None


# --- the wire ---


def request(
    method: str, path: str, body: Any = None, *, secret: str | None = None, host: str = "127.0.0.1", **headers: str
) -> bytes:
    """The bytes of a request; what is no bytes is sent as JSON."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    if body is not None:
        headers = {"Content_Type": "application/json", "Content_Length": str(len(content))} | headers
    if secret is not None:
        lines.append(f"Authorization: Bearer {secret}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def form(parts: list[tuple[str, bytes, bool]]) -> tuple[bytes, str]:
    """A multipart body of fields and files, and its content type."""
    mark, body = "x7f3campaign", b""
    for name, content, is_file in parts:
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"'
        head += '; filename="a.png"\r\nContent-Type: image/png' if is_file else ""
        body += head.encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


class Wire:
    """One connection, opened when first needed and kept as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None

    async def send(self, data: bytes) -> None:
        await self.open()
        assert self.writer is not None
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request and read its answer; once more where the kept connection had been closed in between."""
        kept = self.writer is not None
        try:
            await self.send(data)
            return await self.answer(data[:5] == b"HEAD ")
        except (Broken, ConnectionError):
            self.close()
            if not kept:
                raise Broken from None
        await self.send(data)
        return await self.answer(data[:5] == b"HEAD ")

    async def answer(self, bare: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        assert self.reader is not None
        try:
            while True:
                head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
                first, *lines = head.decode("latin-1").split("\r\n")
                status = int(first.split()[1])
                if status != 100:
                    break
            headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines) if n}
            body = b""
            if not bare and status not in (204, 304):
                body = await asyncio.wait_for(self._body(headers), PATIENCE)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.close()
            raise Broken from error
        if headers.get("connection") == "close":
            self.close()
        return status, headers, body

    async def _body(self, headers: dict[str, str]) -> bytes:
        assert self.reader is not None
        if "chunked" in headers.get("transfer-encoding", ""):
            parts = []
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                parts.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return b"".join(parts)
        return await self.reader.readexactly(int(headers.get("content-length", 0)))


# --- a storm ---


class Storm:
    """Requests against one server.

    Attributes:
        seen: Answers by kind and status.
        wrong: What was not as it must be.
    """

    def __init__(self, kit: Kit, number: int, folder: Path) -> None:
        self.kit, self.number, self.folder = kit, number, folder
        self.rng = rng_of(kit.seed, "server", number)
        self.keys = number % 2 == 1
        options: dict[str, Any] = {"queue": 96} if number % 3 == 2 else {}
        if number % 4 == 3:
            options["memory"] = 0.17  # not all fit: those asked longest ago are read again
        environment = {"INJERTO_API_KEYS": f"{KEY},another-key-of-the-campaign"} if self.keys else {}
        self.squeezed = "memory" in options
        self.server = Server(folder / "bank", folder / "log", options, environment)
        self.seen: Counter[tuple[str, int]] = Counter()
        self.wrong: list[Verdict] = []
        self.texts, self.pictures = texts(), pictures()
        self.left, self.seconds = REQUESTS[number], 1.0
        self.large = self.left >= LARGE
        self.done = threading.Event()
        self.truth: dict[str, list[dict[str, float]]] = {}

    @property
    def secret(self) -> str | None:
        """What a client sends."""
        return KEY if self.keys else None

    def bad(self, outcome: str, detail: str) -> None:
        self.wrong.append(Verdict(outcome, detail))

    # questions and their answers

    def versions(self, name: str) -> tuple[str, ...]:
        return (STEADY[name],) if name in STEADY else MOVING[name]

    def check(self, kind: str, asked: list[tuple[int, list[str], float]], status: int, body: bytes) -> None:
        """Compare an answer with the direct one.

        Args:
            kind: Of request.
            asked: For each item its input's number, its adapters and the strength.
            status: Of the answer.
            body: Of the answer.
        """
        names = {name for _, several, _ in asked for name in several}
        if status != 200:
            gone = (404, 422) if self.squeezed else (404,)
            fine = (429, 503, 504, *(gone if names - set(STEADY) else ()))
            return self.refusal(kind, status, body, fine)
        results = json.loads(body)["results"]
        if len(results) != len(asked):
            return self.bad("wrong", f"{kind}: {len(results)} results for {len(asked)} items")
        used: dict[str, set[str]] = {}
        for (place, several, strength), result in zip(asked, results, strict=True):
            if [one["adapter"] for one in result["answers"]] != several:
                return self.bad("wrong", f"{kind}: other adapters answer than were asked")
            for one in result["answers"]:
                fits = {
                    version
                    for version in self.versions(one["adapter"])
                    if _near(one["probabilities"], self.truth[f"{version}/{strength}"][place])
                }
                used[one["adapter"]] = used.get(one["adapter"], fits) & fits
                if not fits:
                    return self.bad("wrong", f"{kind}: {one} is no version's answer to input {place} at {strength}")
                if abs(one["probability"] - max(one["probabilities"].values())) > 1e-12:
                    return self.bad("wrong", f"{kind}: the label is not the likeliest: {one}")
        mixed = [name for name, fits in used.items() if not fits]
        if mixed:
            self.bad("wrong", f"{kind}: one request was answered by two versions of {mixed[0]}")

    def refusal(self, kind: str, status: int, body: bytes, fine: tuple[int, ...]) -> None:
        """An error is one that fits, in a sentence."""
        if status not in fine:
            outcome = "fault" if status >= 500 else "wrong"
            return self.bad(outcome, f"{kind}: {status} where {fine} are right: {body[:200]!r}")
        try:
            said = json.loads(body)["error"]
            if not (isinstance(said, str) and 0 < len(said) <= 500 and "\n" not in said and "Traceback" not in said):
                self.bad("wrong", f"{kind}: {status} says {said!r}")
        except (ValueError, KeyError, TypeError):
            self.bad("wrong", f"{kind}: {status} without a sentence: {body[:200]!r}")

    # kinds of requests

    def question(self, rng: random.Random, most: int = 1) -> tuple[dict[str, Any], list[tuple[int, list[str], float]]]:
        """A body of items of one modality, and what is asked."""
        kind = rng.choice(("text", "image"))
        known = ["words", "text-moves"] if kind == "text" else ["head", "full", "picture-moves", "comes"]
        items, asked = [], []
        for _ in range(rng.randint(1, most)):
            place, strength = rng.randrange(12), rng.choice((1.0, 1.0, 1.0, 0.0, 0.5))
            several = rng.sample(known, rng.randint(1, min(len(known), most)))
            value = self.texts[place] if kind == "text" else base64.b64encode(self.pictures[place]).decode()
            if kind == "image" and rng.random() < 0.3:
                value = "data:image/png;base64," + value
            item: dict[str, Any] = {kind: value}
            item |= {"adapter": several[0]} if len(several) == 1 else {"adapters": several}
            item |= {} if strength == 1 else {"strength": strength}
            items.append(item)
            asked.append((place, several, strength))
        return {"items": items}, asked

    async def plain(self, wire: Wire, rng: random.Random) -> None:
        body, asked = self.question(rng, rng.choice((1, 1, 1, 4)))
        status, _, answer = await wire.ask(request("POST", "/v1/predict", body, secret=self.secret))
        self.note("predict", status)
        self.check("predict", asked, status, answer)

    async def upload(self, wire: Wire, rng: random.Random) -> None:
        several = rng.sample(["head", "full", "picture-moves"], rng.randint(1, 2))
        places = [rng.randrange(12) for _ in range(rng.randint(1, 3))]
        strength = rng.choice((1.0, 0.5))
        parts = [("file", self.pictures[place], True) for place in places]
        parts += [("adapter", name.encode(), False) for name in several] + [("strength", str(strength).encode(), False)]
        rng.shuffle(parts)
        order = [self.pictures.index(content) for name, content, _ in parts if name == "file"]
        names = [content.decode() for name, content, _ in parts if name == "adapter"]
        body, kind = form(parts)
        sent = request("POST", "/v1/predict", body, secret=self.secret, Content_Type=kind)
        status, _, answer = await wire.ask(sent)
        self.note("upload", status)
        self.check("upload", [(place, names, strength) for place in order], status, answer)

    async def pipelined(self, wire: Wire, rng: random.Random) -> None:
        wire.close()
        asks = [self.question(rng) for _ in range(4)]
        await wire.send(b"".join(request("POST", "/v1/predict", body, secret=self.secret) for body, _ in asks))
        for _, asked in asks:
            status, _, answer = await wire.answer()
            self.note("pipelined", status)
            self.check("pipelined", asked, status, answer)

    async def nonsense(self, wire: Wire, rng: random.Random) -> None:
        """Well-formed HTTP that must be refused with a sentence."""
        item = {"text": "a good film", "adapter": "words"}
        deep = b'{"items": ' + b"[" * 3000 + b"]" * 3000 + b"}"
        kinds: list[tuple[Any, tuple[int, ...], dict[str, str]]] = [
            ({"items": [item | {"adapter": "nobody"}]}, (404,), {}),
            ({"items": [item | {"adapter": "n" * 101}]}, (422,), {}),
            ({"items": [item | {"adapter": "../words"}]}, (404,), {}),
            ({"items": [item | {"strength": 1.5}]}, (422,), {}),
            (b'{"items": [{"text": "a", "adapter": "words", "strength": NaN}]}', (422,), {}),
            ({"items": [item | {"text": "  "}]}, (422,), {}),
            ({"items": [item | {"text": "a " * 40_000}]}, (413,), {}),
            ({"items": [{"text": "a", "image": "b", "adapter": "words"}]}, (422,), {}),
            ({"items": [{"image": "&&&", "adapter": "head"}]}, (422,), {}),
            ({"items": [{"image": "aGVsbG8=", "adapter": "head"}]}, (422,), {}),
            ({"items": [{"text": "a", "adapter": "head"}]}, (422,), {}),
            ({"items": [item | {"more": 1}]}, (422,), {}),
            ({"items": [item] * 257}, (422,), {}),
            ({"items": [item | {"adapters": ["words"] * 65, "adapter": None}]}, (422,), {}),
            ({"items": []}, (422,), {}),
            ({"items": {"text": "a"}}, (422,), {}),
            ([1, 2], (422,), {}),
            (b"null", (422,), {}),
            (b"", (422,), {}),
            (b"{", (422,), {}),
            (b"\xff\xfe{}", (422,), {}),
            (deep, (422,), {}),
            (b"{" + b'"a":1,' * 20_000 + b'"b":2}', (413, 422), {}),
            ({"items": [item]}, (415,), {"Content_Type": "text/plain"}),
            ({"items": [item]}, (400, 415), {"Content_Type": ""}),
            (b"--x\r\n\r\n", (400, 422), {"Content_Type": "multipart/form-data; boundary=x"}),
            (b"x", (400, 422), {"Content_Type": "multipart/form-data"}),
            (form([("file", b"no picture", True)])[0], (400, 422), {"Content_Type": form([])[1]}),
            (form([("else", b"1", False)])[0], (422,), {"Content_Type": form([])[1]}),
            ({"items": [item]}, (413,), {"Content_Length": "30000000"}),
        ]
        body, fine, headers = rng.choice(kinds)
        sent = request("POST", "/v1/predict", body, secret=self.secret, **headers)
        status, _, answer = await wire.ask(sent)
        if "Content_Length" in headers:
            wire.close()
        self.note("nonsense", status)
        if not (status == 200 and fine == (200,)):
            self.refusal(f"nonsense {body[:60] if isinstance(body, bytes) else str(body)[:60]}", status, answer,
                         (*fine, 429, 503))  # fmt: skip

    async def stranger(self, wire: Wire, rng: random.Random) -> None:
        """Who does not belong is not let in, and nothing changes."""
        load = {"path": "comes", "name": f"strange-{rng.randrange(10**9)}"}
        item = {"items": [{"text": self.texts[0], "adapter": "words"}]}
        good = self.secret
        kinds: list[tuple[bytes, tuple[int, ...]]] = [
            (request("POST", "/v1/adapters", load), (401,)),
            (request("POST", "/v1/adapters", load, secret="no"), (401,)),
            (request("POST", "/v1/adapters", load, secret=KEY), (401,)),
            (request("DELETE", "/v1/adapters/words"), (401,)),
            (request("DELETE", "/v1/adapters/words", secret=TOKEN[:-1]), (401,)),
            (request("POST", "/v1/adapters", load, secret=TOKEN, Content_Type="text/plain"), (415,)),
            (request("POST", "/v1/adapters", load, secret=TOKEN, Origin="http://evil.example"), (403,)),
            (request("POST", "/v1/adapters", load, secret=TOKEN, Sec_Fetch_Site="cross-site"), (403,)),
            (request("POST", "/v1/adapters", load, secret=TOKEN, host="evil.example"), (403,)),
            (request("POST", "/v1/predict", item, secret=good, host="evil.example"), (403,)),
            (request("POST", "/v1/predict", item, secret=good, host="127.0.0.1.evil.example:80"), (403,)),
            (request("POST", "/v1/predict", item, secret=good, host="/healthz?"), (400, 403)),
            (request("GET", "/healthz", host="evil.example/v1"), (400, 403)),
            (request("GET", "/v1/adapters", secret=good, host="a@127.0.0.1"), (400, 403)),
            (request("POST", "/v1/predict", item, secret=good, Origin="null"), (403,)),
            (request("POST", "/v1/predict", item, secret=good, Origin=f"http://{NAME}.evil.example"), (403,)),
            (request("GET", "/v1/adapters", secret=good, Sec_Fetch_Site="same-site"), (403,)),
            (request("GET", "//v1/adapters", secret=good), (400, 404)),
            (request("GET", "/healthz/../v1/adapters", secret=good), (400, 404)),
            (request("GET", "/%2e%2e/etc/passwd", secret=good), (400, 404)),
            (request("POST", "/v1/adapters", {"path": "../log"}, secret=TOKEN), (403, 404, 422)),
            (request("POST", "/v1/adapters", {"path": "/etc"}, secret=TOKEN), (403, 404, 422)),
            (request("POST", "/v1/adapters", {"path": "a\0b"}, secret=TOKEN), (403, 404, 422)),
            (request("POST", "/v1/adapters", {"path": "no-such"}, secret=TOKEN), (403, 404, 422)),
            (request("POST", "/v1/adapters", {"path": "head", "name": "a/b"}, secret=TOKEN), (422,)),
            (request("PATCH", "/v1/predict", item, secret=TOKEN), (405,)),
            (request("BREW", "/v1/predict", item, secret=TOKEN), (400, 405)),
            (request("GET", f"/{'a' * 9000}", secret=TOKEN), (400, 404, 414)),
            (request("GET", "/v1/adapters", secret=good, X=("y" * 40_000)), (400, 431)),
        ]  # fmt: skip
        if self.keys:
            kinds += [
                (request("POST", "/v1/predict", item), (401,)),
                (request("POST", "/v1/predict", item, secret=KEY + "x"), (401,)),
                (request("GET", "/metrics", secret=""), (401,)),
                (request("GET", "/v1/adapters", secret=KEY.upper()), (401,)),
            ] * 3
        sent, fine = rng.choice(kinds)
        status, _, answer = await wire.ask(sent)
        self.note("stranger", status)
        self.refusal(f"stranger {sent[:90]!r}", status, answer, fine)

    async def looked(self, wire: Wire, rng: random.Random) -> None:
        """What may be read is read."""
        path = rng.choice(("/", "/healthz", "/readyz", "/v1/adapters", "/metrics", "/openapi.json"))
        method = "HEAD" if path == "/healthz" and rng.random() < 0.2 else "GET"
        host = rng.choice(("127.0.0.1", f"127.0.0.1:{self.server.port}", "localhost", NAME, f"{NAME}:443"))
        more = {"Origin": f"http://{host}"} if rng.random() < 0.3 else {}
        sent = request(method, path, secret=self.secret, host=host, Accept="*/*", X_Odd="\xe9\x7f", **more)
        status, _, answer = await wire.ask(sent)
        self.note("looked", status)
        if status not in ((200, 405) if method == "HEAD" else (200,)):
            self.bad("fault" if status >= 500 else "wrong", f"{method} {path} of {host}: {status} {answer[:200]!r}")
        elif path == "/v1/adapters" and not {one["name"] for one in json.loads(answer)} >= set(STEADY):
            self.bad("wrong", f"an adapter is not listed: {answer[:300]!r}")

    async def malformed(self, wire: Wire, rng: random.Random) -> None:
        """What is no HTTP is answered with 400, or not at all."""
        wire.close()
        good = request("POST", "/v1/predict", {"items": [{"text": "a", "adapter": "words"}]}, secret=self.secret)
        noise = bytes(rng.randrange(256) for _ in range(rng.randint(1, 400)))
        cut = rng.randrange(1, len(good))
        place = rng.randrange(good.index(b"\r\n\r\n"))
        flipped = good[:place] + bytes([good[place] ^ (1 << rng.randrange(8))]) + good[place + 1 :]
        kinds = [
            noise + b"\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\n\r\n",
            b"\r\n" * 200,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            good.replace(b"Content-Length: ", b"Content-Length: -"),
            good.replace(b"Content-Length: ", b"Content-Length: 5\r\nContent-Length: "),
            good.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nContent-Length: "),
            good.replace(b"Host:", b"Host: a\r\nHost:"),
            good.replace(b"\r\nHost", b"\r\n Host"),
            good.replace(b"POST /", b"POST http://evil.example/"),
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n0\r\n\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            flipped,
            good[:cut],
        ]
        sent = rng.choice(kinds)
        await wire.send(sent)
        assert wire.writer is not None
        with contextlib.suppress(OSError, RuntimeError):
            wire.writer.write_eof()
        status = 0
        with contextlib.suppress(Broken, asyncio.LimitOverrunError):
            status, _, answer = await wire.answer()
            harmless = sent == flipped or b"Upgrade" in sent or sent == b"\r\n" * 200
            if status >= 500 and status not in (503, 504):
                self.bad("fault", f"malformed {sent[:90]!r}: {status} {answer[:200]!r}")
            elif status < 300 and not harmless:
                self.bad("wrong", f"malformed {sent[:120]!r}: {status} {answer[:200]!r}")
        wire.close()
        self.note("malformed", status)

    async def broken_off(self, wire: Wire, rng: random.Random) -> None:
        """A client that goes away in the middle; of its request, or of its answer."""
        wire.close()
        body, _ = self.question(rng, 8)
        sent = request("POST", "/v1/predict", body, secret=self.secret)
        await wire.send(sent if rng.random() < 0.4 else sent[: rng.randrange(20, len(sent))])
        await asyncio.sleep(rng.choice((0, 0, 0.005)))
        wire.close()
        self.note("broken off", 0)

    async def slow(self, wire: Wire, rng: random.Random) -> None:
        """A body in small pieces is still answered."""
        wire.close()
        body, asked = self.question(rng)
        sent = request("POST", "/v1/predict", body, secret=self.secret)
        step = max(1, len(sent) // 12)
        for start in range(0, len(sent), step):
            await wire.send(sent[start : start + step])
            await asyncio.sleep(0.05)
        status, _, answer = await wire.answer()
        self.note("slow", status)
        self.check("slow", asked, status, answer)

    async def huge(self, wire: Wire, rng: random.Random) -> None:
        """A body beyond the bound, in chunks and without an announcement."""
        wire.close()
        head = request("POST", "/v1/predict", secret=self.secret, Content_Type="application/json",
                       Transfer_Encoding="chunked")  # fmt: skip
        status = 0
        with contextlib.suppress(Broken, ConnectionError):
            await wire.send(head)
            for _ in range(24):
                await wire.send(b"f4240\r\n" + b"a" * 1_000_000 + b"\r\n")
            status, _, answer = await wire.answer()
            self.refusal("huge", status, answer, (413, 503))
        wire.close()
        self.note("huge", status)

    KINDS: tuple[tuple[str, int], ...] = (
        ("plain", 50), ("upload", 8), ("nonsense", 14), ("stranger", 10), ("looked", 6), ("malformed", 6),
        ("pipelined", 2), ("broken_off", 3), ("slow", 1),
    )  # fmt: skip

    def note(self, kind: str, status: int) -> None:
        self.seen[kind, status] += 1
        self.left -= 1

    async def client(self, number: int) -> None:
        """Ask until enough was asked."""
        rng, wire = rng_of(self.kit.seed, self.number, "client", number), Wire(self.server.port)
        names, weights = zip(*self.KINDS, strict=True)
        try:
            while self.left > 0 and len(self.wrong) < 200:
                kind = rng.choices(names, weights)[0]
                if number == 0 and rng.random() < 0.01:
                    kind = "huge"
                act: Callable[[Wire, random.Random], Awaitable[None]] = getattr(self, kind)
                try:
                    await act(wire, rng)
                except TimeoutError:
                    self.bad("hang", f"{kind}: no answer in {PATIENCE:g} s")
                    wire.close()
                except (Broken, ConnectionError):
                    wire.close()
                    self.note(kind, 0)
                    if kind not in ("huge", "stranger", "nonsense"):  # these may be closed before all is sent
                        self.bad("wrong", f"{kind}: the connection was closed without an answer")
                    if not self.alive():
                        return
        finally:
            wire.close()

    def alive(self) -> bool:
        """Whether the server's process lives."""
        return Path(f"/proc/{self.server.pid}/status").exists() and self.server.status("VmRSS") > 0

    async def held(self) -> list[tuple[str, Wire]]:
        """Connections that do nothing more: nothing said, half a head, half a body, answers that nobody reads."""
        found = []
        for kind in ("silent", "head", "body", "unread", "idle") * 2:
            wire = Wire(self.server.port)
            await wire.open()
            if kind == "head":
                await wire.send(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nX: ")
            if kind == "body":
                await wire.send(request("POST", "/v1/predict", b"{", secret=self.secret, Content_Length="1000"))
            if kind == "idle":
                await wire.ask(request("GET", "/healthz"))
            if kind == "unread":
                assert wire.writer is not None
                wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
                wire.writer.write(request("GET", "/openapi.json", secret=self.secret) * 400)
            found.append((kind, wire))
        return found

    # what moves

    def mover(self) -> None:
        """Replace, break, take away and bring back the moving adapters, on the disk and in the server."""
        rng, away = rng_of(self.kit.seed, self.number, "mover"), set[str]()
        while not self.done.wait(0.1 * rng.random()):
            name = rng.choice(sorted(away) or list(MOVING))
            place, version = self.server.folder / name, rng.choice(MOVING[name])
            try:
                how = rng.choice(("load", "load", "load", "unload", "nothing"))
                if name in away:  # it is missed most of the time else
                    away.discard(name)
                    shutil.copytree(self.kit.run(version), place, dirs_exist_ok=True)
                    how = "load"
                else:
                    self._move(rng, place, version)
                if how == "load":
                    status, _, body = asyncio.run(self.server.once("POST", "/v1/adapters", {"path": name}))
                    if status not in (201, 422, 403, 404, 429, 503):
                        self.bad("fault" if status >= 500 else "wrong", f"load: {status} {body[:200]!r}")
                    self.seen["load", status] += 1
                if how == "unload":
                    away.add(name)
                    status, _, body = asyncio.run(self.server.once("DELETE", f"/v1/adapters/{name}"))
                    if status not in (204, 404):
                        self.bad("fault" if status >= 500 else "wrong", f"unload: {status} {body[:200]!r}")
                    self.seen["unload", status] += 1
            except (Broken, OSError) as error:
                if not self.alive():
                    return
                self.bad("wrong", f"management: {type(error).__name__} {error}")

    def _move(self, rng: random.Random, place: Path, version: str) -> None:
        new, old = place.with_name(f".new-{place.name}"), place.with_name(f".old-{place.name}")
        source = self.kit.run(version)
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
        how = rng.choice(("swap", "swap", "over", "over", "truncate", "delete", "card"))
        if how == "swap":
            shutil.copytree(source, new)
            if place.exists():
                place.rename(old)
            new.rename(place)
        elif how == "over":
            shutil.copytree(source, place, dirs_exist_ok=True)
        elif how == "truncate":
            for file in (place / "adapter").glob("*.safetensors"):
                os.truncate(file, file.stat().st_size // 2)
        elif how == "delete":
            shutil.rmtree(place, ignore_errors=True)
        elif how == "card" and (place / "adapter").is_dir():
            (place / "adapter" / "adapter_card.json").write_text('{"format": 1')
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)

    # from start to end

    def run(self) -> list[Verdict]:
        """All of it."""
        answer, status = forked(lambda: direct(self.kit))
        if answer is None:
            return [Verdict("fault", f"the direct answers: {status}")]
        self.truth = answer
        for name in (*STEADY, *MOVING):
            shutil.copytree(self.kit.run(self.versions(name)[0]), self.server.folder / name)
        self.server.start()
        try:
            self._storm()
            if self.alive():
                self._afterwards()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.server.pid, signal.SIGKILL)
        good = sum(count for (_, status), count in self.seen.items() if 200 <= status < 300 or status == 0)
        other = sum(self.seen.values()) - good
        print(f"{sum(self.seen.values()) / self.seconds:.0f} requests a second", flush=True)
        print({f"{kind} {status}": count for (kind, status), count in sorted(self.seen.items())}, flush=True)
        bad = _few(self.wrong)
        return [Verdict("same", "", max(0, good - len(bad))), Verdict("refused", "", other), *bad]

    def _storm(self) -> None:
        asyncio.run(self._warm())
        files, threads = self.server.files(), self.server.status("Threads")
        memory: list[int] = []

        async def storm() -> list[tuple[str, Wire]]:
            held = await self.held()
            tasks = [asyncio.create_task(self.client(k)) for k in range(CLIENTS)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0.25)
                if self.alive():
                    memory.append(self.server.status("VmRSS"))
            for task in tasks:
                task.result()
            if self.number == 2 and self.large and self.alive():
                await self._held_end(held)
            for _, wire in held:
                wire.close()
            return held

        moving = threading.Thread(target=self.mover)
        moving.start()
        begun = time.monotonic()
        try:
            asyncio.run(storm())
        finally:
            self.seconds = time.monotonic() - begun
            self.done.set()
            moving.join()
        if not self.alive():
            pid, status = os.waitpid(self.server.pid, os.WNOHANG)
            return self.bad("crash", f"the server ended in the storm ({status}): {self.server.said()[-500:]}")
        half, late = memory[len(memory) // 2 : -len(memory) // 4 or None], memory[-len(memory) // 4 :]
        if self.large and half and late and max(late) > max(half) + GROWTH:
            self.bad("heavy", f"memory grows: {[value >> 20 for value in memory[:: max(1, len(memory) // 20)]]} MB")
        until = time.monotonic() + 5
        while time.monotonic() < until and self.server.files() > files + 2:
            time.sleep(0.1)
        if self.server.files() > files + 4:
            self.bad("wrong", f"{self.server.files()} descriptors after the storm, {files} before")
        if self.server.status("Threads") > threads + 40:
            self.bad("wrong", f"{self.server.status('Threads')} threads after the storm, {threads} before")

    async def _warm(self) -> None:
        """Every adapter once."""
        rng, wire = rng_of("warm"), Wire(self.server.port)
        for _ in range(40):
            await self.plain(wire, rng)
        wire.close()
        await asyncio.sleep(0.1)

    async def _held_end(self, held: list[tuple[str, Wire]]) -> None:
        """Nobody holds a connection for ever."""
        until = time.monotonic() + 40
        for kind, wire in held:
            assert wire.writer is not None and wire.reader is not None
            if kind == "unread":
                peer = wire.writer.get_extra_info("sockname")[1]
                while time.monotonic() < until and self._open(peer):
                    await asyncio.sleep(0.3)
                if self._open(peer):
                    self.bad("hang", "a client that does not read keeps its connection")
                continue
            try:
                await asyncio.wait_for(wire.reader.read(), max(0.1, until - time.monotonic()))
            except TimeoutError:
                self.bad("hang", f"a connection that does nothing ({kind}) is kept")
            except ConnectionError:
                pass

    def _open(self, peer: int) -> bool:
        """Whether the server still has a connection to a port of ours."""
        ours, port = f":{peer:04X}", f":{self.server.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any(r[1].endswith(port) and r[2].endswith(ours) and r[3] in ("01", "08") for r in rows)

    def _afterwards(self) -> None:
        begun = time.monotonic()
        status = asyncio.run(self.server.once("GET", "/healthz"))[0]
        if status != 200 or time.monotonic() - begun > 1:
            self.bad("wrong", f"/healthz after the storm: {status} in {time.monotonic() - begun:.1f} s")
        for name, versions in MOVING.items():
            for version in versions:
                self._settle(name, version)
        for name in STEADY:
            self._same(name, self.versions(name)[0], "after the storm")
        said = self.server.said()
        if len(said) > LOG or "Traceback" in said:
            self.bad("wrong", f"a log of {len(said)} bytes: ... {said[-600:]!r}")
        idle = Wire(self.server.port)
        asyncio.run(idle.open())
        status = self.server.end(signal.SIGTERM if self.number % 2 == 0 else signal.SIGINT, 40)
        if status is None:
            self.bad("hang", "the server does not end on SIGTERM within its grace period")
            return
        if os.waitstatus_to_exitcode(status) not in (0, 130, -signal.SIGTERM):
            self.bad("wrong", f"the server ended with {os.waitstatus_to_exitcode(status)}: {self.server.said()[-300:]}")
        for _ in range(2 if self.large else 0):
            self.server.start()
            for name in (*STEADY, *MOVING):
                self._same(name, self.versions(name)[-1], "after a restart")
            self.server.end(signal.SIGKILL, 10)

    def _settle(self, name: str, version: str) -> None:
        """With nobody else at work a version is put in place and loaded: it alone answers."""
        place = self.server.folder / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.kit.run(version), place)
        status, _, body = asyncio.run(self.server.once("POST", "/v1/adapters", {"path": name}))
        if status != 201:
            return self.bad("wrong", f"a whole adapter is not loaded: {status} {body[:200]!r}")
        self._same(name, version, "when it was loaded")

    def _same(self, name: str, version: str, when: str) -> None:
        for place in range(4):
            text = version.startswith("text")
            item = {"text": self.texts[place]} if text else {"image": base64.b64encode(self.pictures[place]).decode()}
            asked = {"items": [item | {"adapter": name}]}
            status, _, body = asyncio.run(self.server.once("POST", "/v1/predict", asked))
            found = json.loads(body)["results"][0]["answers"][0]["probabilities"] if status == 200 else {}
            if not _near(found, self.truth[f"{version}/1.0"][place]):
                return self.bad("wrong", f"{name} {when}: {status} {body[:200]!r} is not the answer of {version}")


def _near(found: dict[str, float], expected: dict[str, float]) -> bool:
    return list(found) == list(expected) and all(abs(found[key] - expected[key]) < ROUNDING for key in expected)


def _few(wrong: list[Verdict]) -> list[Verdict]:
    """Of many alike a few, the last of them with the number of all."""
    found: list[Verdict] = []
    alike: Counter[str] = Counter()
    for one in wrong:
        kind = f"{one.outcome} {one.detail[:40]}"
        alike[kind] += 1
        if alike[kind] <= 2:
            found.append(one)
    for kind, count in alike.items():
        if count > 2:
            found.append(Verdict(kind.split()[0], f"{kind.partition(' ')[2]}: {count - 2} more", count - 2))
    return found


def cases(kit: Kit) -> Iterator[Case]:
    """One case for each storm."""

    def case(number: int) -> Case:
        return Case(f"storm-{number}", lambda folder: Storm(kit, number, folder).run(), 240.0, 8_000_000_000)

    yield from map(case, range(len(REQUESTS)))
