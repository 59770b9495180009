"""The server answers as the library does, bounds what it is given, and says in a sentence what was wrong."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import injerto
import tiny
from injerto.bank.bank import AdapterBank
from injerto.bank.questions import Question
from injerto.basics.errors import InjertoError
from injerto.serving.app import make_app
from injerto.serving.batcher import Batcher, Closed, Full
from injerto.serving.client import Client, ServerError
from injerto.serving.desk import Desk
from injerto.serving.gate import KEYS
from injerto.serving.reading import Limits

TEXTS = ["the film was very good", "a dull plot", "so poor and so bad"]


def png(size: int = 32, colour: tuple[int, int, int] = (40, 60, 190)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, "PNG")
    return stream.getvalue()


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def bomb(side: int) -> bytes:
    """A PNG that says it has side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answers_are_the_runs_own(web: Any, runs: dict[str, Path], pictures: Path) -> None:
    expected = injerto.load(runs["texts"], threads=1).predict_proba(TEXTS)
    found = web.post("/v1/predict", json={"items": [{"text": text, "adapter": "texts"} for text in TEXTS]}).json()
    for result, probabilities in zip(found["results"], expected, strict=True):
        (answer,) = result["answers"]
        assert list(answer["probabilities"].values()) == pytest.approx(list(probabilities), abs=1e-5)
        assert (
            answer["probabilities"][answer["label"]] == answer["probability"] == max(answer["probabilities"].values())
        )
    files = sorted(pictures.rglob("*.png"))[:3]
    expected = injerto.load(runs["pictures"], threads=1).predict_proba(files)
    uploaded = web.post(
        "/v1/predict", files=[("file", file.read_bytes()) for file in files], data={"adapter": "pictures"}
    )
    items = [{"image": coded(file.read_bytes()), "adapter": "pictures"} for file in files]
    for answer in (uploaded.json(), web.post("/v1/predict", json={"items": items}).json()):
        own = [list(result["answers"][0]["probabilities"].values()) for result in answer["results"]]
        assert np.abs(np.asarray(own) - expected).max() < 1e-5


def test_adapters_of_two_bases_in_one_request_and_several_for_one_input(web: Any, bank_folder: Path) -> None:
    assert web.post("/v1/adapters", json={"path": "texts", "name": "more"}).status_code == 201
    items = [{"text": TEXTS[0], "adapters": ["texts", "more"]}, {"image": coded(png()), "adapter": "pictures"}]
    found = web.post("/v1/predict", json={"items": items}).json()["results"]
    assert [[answer["adapter"] for answer in one["answers"]] for one in found] == [["texts", "more"], ["pictures"]]
    assert found[0]["answers"][0]["probabilities"] == found[0]["answers"][1]["probabilities"]


def test_adapters_come_and_go(web: Any, runs: dict[str, Path]) -> None:
    told = web.get("/v1/adapters").json()
    card = json.loads((runs["texts"] / "adapter" / "adapter_card.json").read_text())
    assert [one["name"] for one in told] == ["pictures", "texts"]
    assert told[1]["labels"] == card["labels"] and told[1]["base"] == card["base"]["name"]
    assert web.delete("/v1/adapters/texts").status_code == 204
    gone = web.post("/v1/predict", json={"items": [{"text": "a", "adapter": "texts"}]})
    assert gone.status_code == 404 and "no adapter 'texts'" in gone.json()["error"]
    assert web.delete("/v1/adapters/texts").status_code == 404
    found = web.post("/v1/predict", json={"items": [{"image": coded(png())}]})  # one is left: it need not be named
    assert found.status_code == 200
    assert web.post("/v1/adapters", json={"path": "texts"}).json()["name"] == "texts"
    assert web.get("/readyz").status_code == web.get("/healthz").status_code == 200
    assert 'injerto_requests_total{route="/v1/predict",status="404"} 1.0' in web.get("/metrics").text


def test_a_key_is_asked_for(desk: Any, ask_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS, "one, two")
    with ask_app(make_app(desk), "") as client:
        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "two"}):
            assert client.get("/v1/adapters", headers=headers).status_code == 401
        assert client.get("/v1/adapters", headers={"Authorization": "Bearer two"}).status_code == 200


# --- what cannot be answered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (422, {}), (422, {"items": []}), (422, {"items": [{}]}), (422, []), (422, {"items": [{"text": 3}]}),
        (422, {"items": [{"text": "a", "adapter": "texts", "strength": 1.5}]}),
        (422, {"items": [{"text": "a", "adapter": "texts", "shout": True}]}),
        (422, {"items": [{"text": "a", "adapter": "pictures"}]}),
        (422, {"items": [{"text": "a", "image": "", "adapter": "texts"}]}),
        (422, {"items": [{"text": "a", "adapter": "texts", "adapters": ["texts"]}]}),
        (422, {"items": [{"text": "a"}]}), (422, {"items": [{"text": " \n", "adapter": "texts"}]}),
        (404, {"items": [{"text": "a", "adapter": "../../etc/passwd"}]}),
        (422, {"items": [{"image": "%%%", "adapter": "pictures"}]}),
        (422, {"items": [{"image": coded(b"no picture"), "adapter": "pictures"}]}),
        (422, {"items": [{"image": coded(png()[:60]), "adapter": "pictures"}]}),
        (413, {"items": [{"image": coded(bomb(60_000)), "adapter": "pictures"}]}),
        (413, {"items": [{"text": "a" * 50_001, "adapter": "texts"}]}),
        (422, {"items": [{"text": "a", "adapter": "texts"}] * 257}),
    ],
)  # fmt: skip
def test_a_bad_request_gets_a_sentence(web: Any, status: int, content: Any) -> None:
    found = web.post("/v1/predict", json=content)
    assert found.status_code == status and 0 < len(found.json()["error"]) < 400
    assert web.post("/v1/predict", json={"items": [{"text": "a", "adapter": "texts"}]}).status_code == 200


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (422, b"{", "application/json"),
        (422, b"\xff\xfe", "application/json"),
        (422, b"[" * 100_000, "application/json"),
        (415, b"a,b", "text/csv"),
        (413, b" " * 20_000_001, "application/json"),
        (400, b"nonsense", "multipart/form-data; boundary=x"),
        (400, b"", "multipart/form-data"),
        (422, b'--x\r\nContent-Disposition: form-data; name="adapter"\r\n\r\ntexts\r\n--x--\r\n',
         "multipart/form-data; boundary=x"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_request(web: Any, status: int, body: bytes, kind: str) -> None:
    found = web.post("/v1/predict", content=body, headers={"Content-Type": kind})
    assert found.status_code == status and found.json()["error"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["items", "text", "image", "adapter", "adapters", "strength"]), inner)
        ),
        max_leaves=12,
    )
)
def test_no_json_breaks_it(web: Any, content: Any) -> None:
    found = web.post("/v1/predict", content=json.dumps(content).encode(), headers={"Content-Type": "application/json"})
    assert found.status_code in (200, 404, 413, 422)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 200), place=st.integers(0, 100), byte=st.integers(0, 255))
def test_no_picture_breaks_it(web: Any, cut: int, place: int, byte: int) -> None:
    content = bytearray(png())
    content[place % len(content)] = byte
    found = web.post(
        "/v1/predict", files={"file": bytes(content[: max(1, len(content) - cut)])}, data={"adapter": "pictures"}
    )
    assert found.status_code in (200, 413, 422)


@pytest.mark.parametrize("path", ["..", "../bank", ".", "/etc", "nothing", "a\0b", "texts/../../x", "x" * 400, "link"])
def test_adapters_come_from_the_folder_only(web: Any, bank_folder: Path, runs: dict[str, Path], path: str) -> None:
    (bank_folder / "link").symlink_to(runs["texts"])
    found = web.post("/v1/adapters", json={"path": path})
    assert found.status_code == 403 and "no run in the bank's folder" in found.json()["error"]


def test_hostile_adapters_are_refused(web: Any, bank_folder: Path) -> None:
    for name, content in (
        ("huge", struct.pack("<Q", 2**60) + b"{}"), ("cut", b"\x10\0\0\0\0\0\0\0{"), ("pickle", b"\x80\x04K\x01."),
        ("nested", struct.pack("<Q", 100_000) + b"[" * 100_000),
    ):  # fmt: skip
        shutil.copytree(bank_folder / "texts", bank_folder / name)
        (bank_folder / name / "adapter" / "head.safetensors").write_bytes(content)
        tiny.sign(bank_folder / name / "adapter")
        found = web.post("/v1/adapters", json={"path": name})
        assert found.status_code == 422 and "head.safetensors" in found.json()["error"]
    outside = bank_folder.parent / "outside.safetensors"
    shutil.copyfile(bank_folder / "texts" / "adapter" / "head.safetensors", outside)
    (bank_folder / "nested" / "adapter" / "head.safetensors").unlink()
    (bank_folder / "nested" / "adapter" / "head.safetensors").symlink_to(outside)
    assert web.post("/v1/adapters", json={"path": "nested"}).status_code == 403
    assert [one["name"] for one in web.get("/v1/adapters").json()] == ["pictures", "texts"]


def test_without_a_folder_nothing_is_loaded(runs: dict[str, Path]) -> None:
    with pytest.raises(InjertoError, match="started without"):
        Desk([runs["texts"]], threads=1).load("texts")


def test_the_description_is_complete(web: Any) -> None:
    told = web.get("/openapi.json").json()
    assert set(told["paths"]) == {
        "/v1/predict",
        "/v1/adapters",
        "/v1/adapters/{name}",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    known = told["components"]["schemas"]
    for name in set(json.dumps(told).split("#/components/schemas/")[1:]):
        assert name.split('"')[0] in known
    assert known["Ask"]["examples"]


# --- batches ----------------------------------------------------------------------------------------------------------


class Slow:
    """A bank that takes its time and remembers its batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.batches, self.gate = seconds, [], threading.Event()

    def answer(self, questions: Any) -> list[Any]:
        self.gate.wait()
        time.sleep(self.seconds * len(questions))
        self.batches.append(len(questions))
        if any(question.input == "bad" for question in questions):
            raise InjertoError("bad")
        return [question.input for question in questions]


def ask(*inputs: str) -> list[Question]:
    return [Question(one, "a") for one in inputs]


def test_what_waits_is_answered_together_in_order() -> None:
    bank: Any = Slow()
    batcher = Batcher(bank, target=1.0)
    futures = [batcher.submit(ask(f"{i}", f"{i}b")) for i in range(20)]
    bank.gate.set()
    assert [future.result(5) for future in futures] == [[f"{i}", f"{i}b"] for i in range(20)]
    assert len(bank.batches) < 10 and sum(bank.batches) == 40
    batcher.close()
    with pytest.raises(Closed):
        batcher.submit(ask("late"))


def test_one_bad_request_spoils_no_other() -> None:
    bank: Any = Slow()
    batcher = Batcher(bank, target=10.0)
    first = batcher.submit(ask("first"))
    futures = [batcher.submit(ask(word)) for word in ("one", "bad", "two")]
    bank.gate.set()
    assert first.result(5) == ["first"] and futures[0].result(5) == ["one"] and futures[2].result(5) == ["two"]
    with pytest.raises(InjertoError, match="bad"):
        futures[1].result(5)
    batcher.close()


def test_a_full_queue_turns_away_and_says_when() -> None:
    bank: Any = Slow()
    batcher = Batcher(bank, longest=4)
    futures = [batcher.submit(ask("0"))]
    time.sleep(0.1)  # it is being computed
    futures += [batcher.submit(ask("1", "2", "3"))]
    with pytest.raises(Full) as full:
        batcher.submit(ask("4", "5"))
    assert full.value.seconds >= 1 and batcher.waiting == 3
    bank.gate.set()
    assert [future.result(5) for future in futures] == [["0"], ["1", "2", "3"]]
    batcher.close()


def test_batches_keep_to_the_latency_target() -> None:
    bank: Any = Slow(0.01)
    bank.gate.set()
    batcher = Batcher(bank, target=0.05)
    for future in [batcher.submit(ask(f"{i}")) for i in range(60)]:
        future.result(10)
    assert max(bank.batches[-3:]) <= 8  # five take the target
    batcher.close()


def test_closing_answers_what_waits() -> None:
    bank: Any = Slow(0.001)
    batcher = Batcher(bank)
    futures = [batcher.submit(ask(f"{i}")) for i in range(10)]
    bank.gate.set()
    batcher.close()
    assert [future.result(0) for future in futures] == [[f"{i}"] for i in range(10)]


def test_the_interface_says_429_and_503(desk: Any, ask_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    item = {"items": [{"text": "a", "adapter": "texts"}]}
    monkeypatch.setattr(Batcher, "submit", lambda *_: (_ for _ in ()).throw(Full(7.2)))
    with ask_app(make_app(desk)) as client:
        found = client.post("/v1/predict", json=item)
        assert found.status_code == 429 and found.headers["Retry-After"] == "8"
    monkeypatch.undo()
    monkeypatch.setattr(AdapterBank, "answer", lambda *_: time.sleep(0.6) or [])
    with ask_app(make_app(desk, Limits(seconds=0.1))) as client:
        found = client.post("/v1/predict", json=item)
        assert found.status_code == 503 and "no answer within 0.1 s" in found.json()["error"]


# --- as a process -----------------------------------------------------------------------------------------------------


@pytest.fixture
def process(runs: dict[str, Path], bank_folder: Path) -> Any:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    words = [sys.executable, "-m", "injerto", "serve", *map(str, runs.values()), "--bank", str(bank_folder)]
    server = subprocess.Popen(
        [*words, "--port", str(port), "--threads", "1", "--precision", "fp32"],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    client = Client(f"http://127.0.0.1:{port}")
    for _ in range(600):
        try:
            client.adapters()
            break
        except ServerError:
            assert server.poll() is None, server.stderr.read()  # type: ignore[union-attr]
            time.sleep(0.1)
    yield server, client, port
    server.kill()
    server.wait()


def test_a_process_serves_and_goes_down_gracefully(process: Any, runs: dict[str, Path]) -> None:
    server, client, _ = process
    expected = injerto.load(runs["texts"], threads=1).predict_proba(TEXTS)
    found = client.predict(TEXTS, "texts")
    assert np.abs([list(one["probabilities"].values()) for one in found] - expected).max() < 1e-5
    assert client.predict([png(), Image.new("RGB", (32, 32))], "pictures")[0]["adapter"] == "pictures"
    assert client.load("texts", "more")["name"] == "more"
    client.unload("more")
    with pytest.raises(ServerError, match=r"no adapter 'more'.* \(404\)"):
        client.predict("a", "more")
    with pytest.raises(InjertoError, match="2 inputs and 1 adapters"):
        client.predict(["a", "b"], ["texts"])
    said: list[Any] = []
    asking = threading.Thread(target=lambda: said.append(client.predict(TEXTS * 80, "texts")))
    asking.start()
    time.sleep(0.15)
    server.send_signal(signal.SIGTERM)
    asking.join(30)
    assert len(said) == 1 and len(said[0]) == 240  # what was under way is finished
    assert server.wait(30) in (0, -signal.SIGTERM)
    with pytest.raises(ServerError, match="no server answers"):
        client.adapters()


def test_no_answer_is_lost_or_anothers_while_adapters_come_and_go(process: Any, runs: dict[str, Path]) -> None:
    _, client, port = process
    expected = injerto.load(runs["texts"], threads=1).predict_proba(TEXTS)
    stop, wrong, count = threading.Event(), [], [0]

    def churn() -> None:
        other = Client(f"http://127.0.0.1:{port}")
        while not stop.is_set():
            other.load("texts", "texts")
            other.load("pictures", "passer-by")
            other.unload("passer-by")

    def ask_often(seed: int) -> None:
        own, rng = Client(f"http://127.0.0.1:{port}"), np.random.default_rng(seed)
        for _ in range(25):
            which = rng.integers(0, 3, 16)
            found = own.predict([TEXTS[i] for i in which], "texts")
            values = np.asarray([list(one["probabilities"].values()) for one in found])
            count[0] += len(values)
            if np.abs(values - expected[which]).max() > 1e-5:
                wrong.append(seed)

    churning = threading.Thread(target=churn)
    churning.start()
    asking = [threading.Thread(target=ask_often, args=(seed,)) for seed in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    stop.set()
    churning.join()
    assert not wrong and count[0] == 3 * 25 * 16


# --- before it starts -------------------------------------------------------------------------------------------------


def test_what_cannot_be_served_is_refused(refused: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    assert "name a run or more" in refused("serve")
    assert "no run at" in refused("serve", tmp_path / "nothing")
    assert "is no folder" in refused("serve", "--bank", tmp_path / "nothing")
    assert "--port is a number" in refused("serve", runs["texts"], "--port", 0)
    assert "--target is a number" in refused("serve", runs["texts"], "--target", 0)
    twin = tmp_path / "texts"
    shutil.copytree(runs["texts"], twin)
    assert "two runs are called 'texts'" in refused("serve", runs["texts"], twin)
    with pytest.raises(InjertoError, match="begins with http"):
        Client("localhost:8000")


# --- in a browser -----------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(refused: Any, runs: dict[str, Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen at 127.0.0.1:{port}" in refused("serve", runs["texts"], "--port", port)
    assert "--threads is 1 or more" in refused("serve", runs["texts"], "--threads", 0)
    assert "--memory is a number of megabytes" in refused("serve", runs["texts"], "--memory", -1)
    assert "--drifted /proc/x: /proc cannot be written" in refused("serve", runs["texts"], "--drifted", "/proc/x")


@pytest.mark.parametrize("shape", [(3, 20_000), (20_000, 3)])
def test_a_long_thin_picture_costs_no_more_than_others(web: Any, shape: tuple[int, int]) -> None:
    import resource

    stream = io.BytesIO()
    Image.new("RGB", shape, (40, 60, 190)).save(stream, "PNG")
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    found = web.post("/v1/predict", json={"items": [{"image": coded(stream.getvalue()), "adapter": "pictures"}]})
    assert found.status_code == 200 and time.monotonic() - begun < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_an_unknown_path_or_method_gets_a_sentence(web: Any) -> None:
    assert web.get("/nowhere").json() == {"error": "there is nothing at /nowhere"}
    found = web.put("/v1/adapters", json={})
    assert found.status_code == 405 and found.json() == {"error": "PUT is not for this path"}
    assert "GET" in found.headers["allow"] or "POST" in found.headers["allow"]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\\b", "a\nb"])
def test_names_that_are_paths_are_refused(web: Any, runs: dict[str, Path], desk: Any, name: str) -> None:
    found = web.post("/v1/adapters", json={"path": "texts", "name": name})
    assert found.status_code == 422 and "no slash or backslash" in found.json()["error"]


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_the_page_asks_every_adapter(process: Any, chromium: Any, tmp_path: Path, width: int, dark: bool) -> None:
    from axe_playwright_python.sync_playwright import Axe

    _, client, port = process
    client.load("pictures", "<b>other</b>".replace("/", ""))
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{port}/")
    (tmp_path / "a.png").write_bytes(png())
    page.wait_for_selector("#drop")
    page.set_input_files("#file", str(tmp_path / "a.png"))
    page.wait_for_selector(".card .answer:not(:empty)")
    assert page.locator(".card h3").all_text_contents() == ["pictures", "<b>other<b>"]
    expected = client.predict(png(), "pictures")[0]
    shown = f"{expected['label']}, {100 * expected['probability']:.1f} %"
    assert page.locator(".answer").all_text_contents() == [shown, shown]
    page.locator(".strength input").first.fill("0")
    page.wait_for_timeout(1500)
    base = client.predict(png(), "pictures", strength=0.0)[0]
    assert page.locator(".answer").first.text_content() == f"{base['label']}, {100 * base['probability']:.1f} %"
    page.fill("#text", TEXTS[0])
    page.press("#text", "Control+Enter")
    page.wait_for_selector("h3:text-is('texts')")
    assert page.locator(".card").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert said == [] and all(url.startswith((f"http://127.0.0.1:{port}/", "data:")) for url in asked)
    page.close()
