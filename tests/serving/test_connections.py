"""Real sockets: whoever is slow, silent, malformed or many cannot take the server from the others."""

import contextlib
import json
import logging
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from injerto.basics import limits
from injerto.serving.app import make_app
from injerto.serving.connections import LOGS, Server, Sparse, most_connections, neighbourhood
from injerto.serving.run import _bind, configured

HELLO = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b'{"items": [{"text": "a dull plot", "adapter": "texts"}]}'
ASK = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Written(logging.Handler):
    """What the server writes, after its filter; uvicorn's loggers do not tell pytest."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def written() -> Iterator[Written]:
    handler = Written()
    yield handler
    for name in LOGS:
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture
def serve(written: Written, desk: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """A function: the server at a port, in a thread, with other bounds."""
    running: list[tuple[Server, threading.Thread]] = []

    def start(**bounds: Any) -> int:
        for name, value in bounds.items():
            monkeypatch.setattr(limits, name, value)
        door = _bind("127.0.0.1", 0)
        port: int = door.getsockname()[1]
        server = Server(configured(make_app(desk)), door)
        for name in LOGS:
            logging.getLogger(name).addHandler(written)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        start.server = server  # type: ignore[attr-defined]
        return port

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def connect(port: int, *first: bytes, wait: float = 10) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=wait)
    for part in first:
        found.sendall(part)
    return found


def rest(connection: socket.socket) -> bytes:
    """All until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    connection.close()
    return b"".join(parts)


def one_answer(connection: socket.socket) -> tuple[int, Any]:
    """Status and JSON of an answer, on a connection that stays open."""
    text = b""
    while b"\r\n\r\n" not in text:
        text += connection.recv(65536)
    head, _, body = text.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < size:
        body += connection.recv(65536)
    return int(head.split()[1]), json.loads(body)


def healthy(port: int) -> float:
    """Seconds to the answer of a new connection."""
    begun = time.monotonic()
    with connect(port, HELLO) as connection:
        assert one_answer(connection) == (200, {"status": "ok"})
    return time.monotonic() - begun


# --- slow -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"GET /healthz HT", b"408"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n", b"408"),
        (ASK % (1000, b"{"), b"408"),
        (b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n5\r\n", b"408"),
        (b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{", b"401"),  # answered early
    ],
)  # fmt: skip
def test_what_never_ends_is_ended(serve: Any, sent: bytes, status: bytes) -> None:
    port = serve(HEAD_SECONDS=0.6)
    begun = time.monotonic()
    said = rest(connect(port, sent))
    assert 0.5 < time.monotonic() - begun < 6
    assert said == b"" if not status else said.startswith(b"HTTP/1.1 " + status) and b'{"error":' in said
    healthy(port)


def test_a_drip_of_headers_or_body_does_not_help(serve: Any) -> None:
    port = serve(HEAD_SECONDS=0.8)
    for first in (b"GET /healthz HTTP/1.1\r\n", ASK % (10_000_000, b"{")):
        begun, connection = time.monotonic(), connect(port, first)
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 8:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - begun < 5
        connection.close()


def test_a_body_that_began_fast_and_stops_is_ended(serve: Any) -> None:
    port = serve(HEAD_SECONDS=0.6, BODY_RATE=10)
    begun = time.monotonic()
    said = rest(connect(port, ASK % (1_000_000, b" " * 500_000)))
    assert said.startswith(b"HTTP/1.1 408") and time.monotonic() - begun < 4


def test_going_down_waits_for_no_unfinished_body(serve: Any, written: Written) -> None:
    port = serve()
    unfinished, silent = connect(port, ASK % (1_000_000, b" " * 1000)), connect(port)
    healthy(port)
    begun = time.monotonic()
    serve.server.should_exit = True
    assert rest(unfinished).startswith(b"HTTP/1.1 503") and rest(silent) == b""
    assert time.monotonic() - begun < 5 and "Traceback" not in written.text


def test_a_steady_upload_may_take_longer_than_the_grace(serve: Any) -> None:
    port = serve(HEAD_SECONDS=0.5, BODY_RATE=1000)
    body = json.dumps({"items": [{"text": "a dull plot " + "x" * 4000, "adapter": "texts"}]}).encode()
    connection = connect(port, ASK % (len(body), b""))
    for start in range(0, len(body), 400):
        connection.sendall(body[start : start + 400])
        time.sleep(0.15)
    assert one_answer(connection)[0] == 200
    connection.close()


def test_the_longest_time_holds_for_steady_uploads_too(serve: Any) -> None:
    port = serve(HEAD_SECONDS=0.4, BODY_RATE=1, BODY_SECONDS=1)
    begun, connection = time.monotonic(), connect(port, ASK % (1_000_000, b"{"))
    with contextlib.suppress(OSError):
        while time.monotonic() - begun < 8:
            connection.sendall(b" " * 100)
            time.sleep(0.05)
    assert time.monotonic() - begun < 4


def test_who_does_not_read_the_answer_is_cut_off(serve: Any, written: Written) -> None:
    port = serve(UNREAD_SECONDS=0.8, HEAD_SECONDS=0.8)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect(("127.0.0.1", port))
    items = [{"text": "a dull plot", "adapter": "texts"}] * 250
    body = json.dumps({"items": items}).encode()
    connection.settimeout(0.5)
    with contextlib.suppress(OSError):
        for _ in range(2_000):  # asks again and again, and reads nothing
            connection.sendall(ASK % (len(body), body))
    deadline = time.monotonic() + 15
    while serve.server.server_state.connections and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not serve.server.server_state.connections and "does not read its answer" in written.text
    connection.close()


# --- many -------------------------------------------------------------------------------------------------------------


def test_half_open_connections_leave_room_and_go(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    port = serve(HEAD_SECONDS=1.5, CONNECTIONS=20)
    held = [connect(port) for _ in range(40)]
    time.sleep(0.3)
    said = connect(port)
    assert b"503" in rest(said)  # this address has its share
    assert len(serve.server.server_state.connections) == 10
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("injerto.serving.connections.neighbourhood", lambda _: str(time.monotonic_ns()))
        healthy(port)  # others have theirs
    deadline = time.monotonic() + 10
    while serve.server.server_state.connections and time.monotonic() < deadline:
        time.sleep(0.1)
    healthy(port)
    for one in held:
        one.close()


def test_a_lack_of_files_neither_spins_nor_fills_the_log(serve: Any, written: Written) -> None:
    port = serve()
    healthy(port)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [connect(port, HELLO)]
    one_answer(waiting[0])
    lowest = socket.socket().fileno()
    mine = [socket.socket() for _ in range(5)]
    try:
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        for one in mine:
            one.settimeout(5)
            one.connect(("127.0.0.1", port))
        time.sleep(2.5)
        used = time.process_time() - used
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert used < 1.0
    assert written.text.count("no connection can be taken") == 1 and len(written.text) < 5_000
    assert "Traceback" not in written.text
    mine[0].sendall(HELLO)
    assert one_answer(mine[0])[0] == 200  # it goes on when there are files again
    for one in (*mine, *waiting):
        one.close()


def test_connections_are_fewer_than_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        assert most_connections() < 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_counts_as_one_client() -> None:
    assert neighbourhood("10.0.0.1") == neighbourhood("::ffff:10.0.0.1") == "10.0.0.1"
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1") != neighbourhood("2001:db8:0:1::1")
    assert neighbourhood("fe80::1%eth0") == neighbourhood("fe80::2%eth0")


# --- malformed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\r\n" * 50 + b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\nabcdef",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\nzz\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)  # fmt: skip
def test_malformed_requests_are_answered_with_4xx_or_closed(serve: Any, sent: bytes, written: Written) -> None:
    port = serve(HEAD_SECONDS=0.5)
    with contextlib.suppress(OSError):
        said = rest(connect(port, sent))
        assert said == b"" or (said.startswith(b"HTTP/1.1 4") and b'{"error":' in said and len(said) < 2_000)
    healthy(port)
    assert "Traceback" not in written.text and "pip install" not in written.text


def test_garbage_behind_an_answered_request_is_no_traceback(serve: Any, written: Written) -> None:
    port = serve()
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
    connection = connect(port, head)
    assert one_answer(connection)[0] == 401
    connection.sendall(b"\r\nnot a chunk\r\n" * 10)
    rest(connection)
    aborted = connect(port, ASK % (1000, b"{"))
    time.sleep(0.2)
    aborted.close()
    gone = connect(port, ASK % (len(BODY), BODY))
    gone.close()
    time.sleep(0.3)
    healthy(port)
    assert "Traceback" not in written.text and "failed" not in written.text


# --- the log ----------------------------------------------------------------------------------------------------------


def test_one_line_a_minute_of_a_kind(caplog: Any) -> None:
    log, sparse = logging.getLogger("uvicorn.error"), Sparse(60, most=3)
    log.addFilter(sparse)
    try:
        for n in range(1000):
            log.warning("too many of %d", n)
        assert len(caplog.records) == 1
        sparse.flush(time.monotonic() + 61)
        assert "999 more lines like 'too many of %d'" in caplog.records[-1].getMessage()
        for n in range(1000):  # nor do ever new kinds fill it, or memory
            log.warning(f"kind {n}")
        assert len(caplog.records) <= 2 + 4 and len(sparse._said) <= 4
    finally:
        log.removeFilter(sparse)


def test_an_attack_writes_few_lines(serve: Any, written: Written) -> None:
    port = serve(HEAD_SECONDS=0.3)
    for _ in range(100):
        connection = connect(port, b"nonsense\r\n\r\n")
        rest(connection)
    assert 0 < len(written.lines) <= 5


# --- fast -------------------------------------------------------------------------------------------------------------


def test_a_kept_connection_answers_at_once(serve: Any) -> None:
    port = serve()
    with connect(port) as connection:
        for sent, middle in ((HELLO, statistics.median), (ASK % (len(BODY), BODY), min)):  # a busy machine is slow, too
            seconds = []
            for _ in range(30):
                begun = time.perf_counter()
                connection.sendall(sent)
                assert one_answer(connection)[0] == 200
                seconds.append(time.perf_counter() - begun)
            assert middle(seconds) < 0.020


def test_health_is_told_while_the_largest_request_is_answered(serve: Any, desk: Any) -> None:
    port = serve()
    bank = desk.bank_of("texts")
    for name in "bcd":
        bank.load(desk.folder / "texts", name)
        desk._place[name] = bank
    items = [{"text": f"a dull plot {n}", "adapters": ["texts", "b", "c", "d"]} for n in range(256)]
    body = json.dumps({"items": items}).encode()
    said: list[Any] = []

    def ask() -> None:
        for _ in range(3):
            with connect(port, ASK % (len(body), body), wait=60) as connection:
                said.append(one_answer(connection)[0])

    asking = threading.Thread(target=ask)
    asking.start()
    slowest = 0.0
    while asking.is_alive():
        slowest = max(slowest, healthy(port))
        time.sleep(0.02)
    assert said == [200, 200, 200] and slowest < 0.5


@pytest.mark.slow
def test_memory_stays_flat(serve: Any) -> None:
    port = serve(HEAD_SECONDS=0.5)
    pages = resource.getpagesize()

    def held() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * pages

    def attack() -> None:
        for n in range(300):
            sent = (b"nonsense\r\n\r\n", b"GET /h", ASK % (10**7, b" " * 100_000), ASK % (len(BODY), BODY), HELLO)[
                n % 5
            ]
            connection = connect(port, sent)
            connection.close()

    attack()
    before = held()
    for _ in range(10):
        attack()
    assert held() - before < 20_000_000
