"""Nobody gets in who does not belong: attacks on keys, names, sites and the management token, as raw ASGI requests."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injerto.basics import limits
from injerto.basics.errors import InjertoError
from injerto.serving.app import make_app
from injerto.serving.client import Client
from injerto.serving.gate import HOSTS, KEYS, OPEN, TOKEN, Access, Gate, bounded
from injerto.serving.reading import Bad, Room, parse
from injerto.serving.schemas import Ask

KEY = "an-api-key"
JSON = (b"content-type", b"application/json")


def call(app: Any, method: str, path: str, *headers: tuple[bytes, bytes], body: bytes = b"", raw: Any = "") -> Any:
    """Status and content of one request, made of nothing but a scope."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode() if raw == "" else raw, "query_string": b"", "root_path": "",
        "headers": list(headers), "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000), "state": {},
    }  # fmt: skip
    with ThreadPoolExecutor(1) as beside:  # a browser's loop may be running in this thread
        beside.submit(asyncio.run, app(scope, receive, send)).result()
    return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:])


def host(name: str = "localhost:8000") -> tuple[bytes, bytes]:
    return b"host", name.encode("latin-1")


def bearer(secret: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {secret}".encode("latin-1")


class Reached:
    """An application that is not to be reached."""

    count = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.count += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})


@pytest.fixture
def gate() -> Callable[..., Any]:
    """A function: a gate for an access, with nothing behind it that could refuse."""

    def make(keys: tuple[str, ...] = (), **settings: Any) -> Gate:
        access = Access(tuple(key.encode() for key in keys), b"the-token-of-all-tests", **settings)
        return Gate(Reached(), access, lambda *_: None)

    return make


@pytest.fixture
def routes(desk: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[tuple[str, str]]]:
    """The whole server with a key, and every route of it that is not open."""
    monkeypatch.setenv(KEYS, KEY)
    app = make_app(desk)
    found = [
        (method, re.sub(r"\{.*\}", "texts", route.path))
        for route in app.routes
        for method in getattr(route, "methods", ())
        if route.path not in OPEN  # type: ignore[attr-defined]
    ]
    assert {path for _, path in found} >= {"/v1/predict", "/v1/adapters", "/v1/adapters/texts", "/metrics"}
    return app, found


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "x/healthz?",
        "x/healthz#",
        "localhost/healthz?",
        "localhost:8000/healthz?",
        "localhost@x/?",
        "x/?",
        "/",
        "/healthz?",
    ],
)
def test_no_host_header_opens_a_route(routes: Any, desk: Any, name: str) -> None:
    app, every = routes
    for method, path in every:
        status, said = call(app, method, path, host(name), JSON, body=b'{"path": "texts"}')
        assert status == 400 and b"Host" in said, (method, path)
    assert desk.names == ["pictures", "texts"]


def test_every_route_asks_for_its_secret(routes: Any, token: str) -> None:
    app, every = routes
    for method, path in every:
        assert call(app, method, path, host())[0] == 401, (method, path)
        assert call(app, method, path, host(), bearer("wrong"))[0] == 401, (method, path)
        manages = method not in ("GET", "HEAD") and path != "/v1/predict"
        if manages:  # an API key does not
            assert call(app, method, path, host(), bearer(KEY))[0] == 401, (method, path)
        else:
            assert call(app, method, path, host(), bearer(KEY))[0] != 401, (method, path)
        assert call(app, method, path, host(), bearer(token))[0] != 401, (method, path)


@pytest.mark.parametrize(
    "path", ["//v1/adapters", "/v1//adapters", "/./v1/adapters", "/v1/../healthz", "/healthz/../v1/adapters", "healthz",
             "/healthz\\..\\metrics", "/v1/adapters\0", "/a\nb", "", "*", "http://localhost/healthz", "/v1/adapters/../x"],
)  # fmt: skip
def test_a_path_that_can_be_read_twice_is_refused(gate: Any, path: str) -> None:
    assert call(gate(), "GET", path, host(), raw=None)[0] == 400


@pytest.mark.parametrize(
    ("path", "raw"),
    [("/healthz", b"/metrics"), ("/v1/adapters/a/b", b"/v1/adapters/a%2Fb"), ("/v1/adapters/�", b"/v1/adapters/%ff"),
     ("/v1/adapters/a\\b", b"/v1/adapters/a%5cb"), ("/healthz", b"/healthz%3f"), ("/x/../y", b"/x/%2e%2e/y")],
)  # fmt: skip
def test_a_path_that_decodes_oddly_is_refused(gate: Any, path: str, raw: bytes) -> None:
    assert call(gate(), "GET", path, host(), raw=raw)[0] == 400


def test_plain_paths_pass(gate: Any) -> None:
    for path, raw in (("/v1/adapters/a b", b"/v1/adapters/a%20b"), ("/v1/adapters/ñ%", b"/v1/adapters/%C3%B1%25")):
        assert call(gate(), "GET", path, host(), raw=raw)[0] == 200


@pytest.mark.parametrize(
    "name", ["host", "authorization", "origin", "content-type", "sec-fetch-site", "content-length"]
)
def test_of_two_headers_none_is_believed(gate: Any, token: str, name: str) -> None:
    twice = [(name.encode(), b"localhost"), (name.encode(), b"localhost")]
    headers = [*twice, *([host()] if name != "host" else []), *([bearer(token)] if name != "authorization" else [])]
    status, said = call(gate(), "POST", "/v1/adapters", *headers)
    assert status == 400 and f"more than one {name}" in said.decode()


def test_without_a_host_nothing_is_answered(gate: Any) -> None:
    assert call(gate(), "GET", "/healthz")[0] == 400
    assert call(gate(), "GET", "/healthz", host(""))[0] == 400


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD", "get", "PATCH"]),
    path=st.sampled_from(["/v1/adapters", "/v1/predict", "/metrics", "/v1/adapters/a", "/openapi.json"]) | st.text(max_size=20),
    name=st.sampled_from(["localhost", "127.0.0.1:8000", "[::1]", "x/healthz?"]) | st.text(max_size=20),
    raw=st.none() | st.binary(max_size=20),
    more=st.lists(st.tuples(st.sampled_from([b"authorization", b"host", b"x-forwarded-host"]), st.binary(max_size=20)), max_size=2),
)  # fmt: skip
def test_nobody_without_a_key_gets_anywhere(method: str, path: str, name: str, raw: Any, more: Any) -> None:
    inner = Reached()
    access = Access((KEY.encode(),), b"the-token-of-all-tests")
    line = None if raw is None else raw
    scope_host = (b"host", name.encode("utf-8", "surrogatepass"))
    call(Gate(inner, access, lambda *_: None), method, path, scope_host, *more, raw=line)
    assert inner.count == 0 or path in OPEN


# --- names: DNS rebinding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "allowed", "known", "strange"),
    [
        ("127.0.0.1", (), ["localhost", "localhost:1", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"],
         ["evil.example:8000", "192.168.1.5", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "a.localhost"]),
        ("0.0.0.0", (), ["192.168.1.5:8000", "localhost", "[fe80::1]"], ["evil.example", "gpu.example"]),
        ("::", ("Models.example.com",), ["models.example.com", "models.example.com:443", "10.0.0.1"], ["example.com"]),
        ("192.168.1.5", (), ["192.168.1.5:8000", "127.0.0.1"], ["192.168.1.6", "evil.example"]),
        ("127.0.0.1", ("10.1.2.3", "::2"), ["10.1.2.3", "[0:0::2]:80"], ["10.1.2.4"]),
    ],
)  # fmt: skip
def test_only_the_servers_own_names_are_answered(
    gate: Any, listen: str, allowed: Any, known: list[str], strange: list[str]
) -> None:
    access = Access.read(listen, allowed)
    door = gate(hosts=access.hosts, named=access.named, any_address=access.any_address)
    for name in known:
        assert call(door, "GET", "/v1/adapters", host(name))[0] == 200, name
    for name in strange:
        for path in ("/v1/adapters", "/", "/healthz"):
            status, said = call(door, "GET", path, host(name))
            assert status == 403 and b"--allow-host" in said, name


def test_names_of_the_environment_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS, "models.example.com, gpu")
    assert Access.read().knows("gpu") and Access.read().knows("models.example.com")


# --- other sites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-site", b"same-site"), (b"sec-fetch-site", b"?"),
     (b"origin", b"null"), (b"origin", b"http://evil.example"), (b"origin", b"http://localhost:3000"), (b"origin", b""),
     (b"origin", b"http://localhost:8000.evil.example"), (b"origin", b"file://localhost:8000"),
     (b"origin", b"http://evil.example@localhost:8000")],
)  # fmt: skip
@pytest.mark.parametrize("method, path", [("POST", "/v1/adapters"), ("POST", "/v1/predict"), ("DELETE", "/v1/adapters/a"),
                                          ("GET", "/v1/adapters"), ("GET", "/metrics"), ("OPTIONS", "/v1/predict"), ("POST", "/")])  # fmt: skip
def test_pages_of_other_sites_are_refused(gate: Any, token: str, method: str, path: str, header: Any) -> None:
    door = gate()
    status, said = call(door, method, path, host(), header, bearer(token))
    assert status == 403 and "another site" in json.loads(said)["error"] and door.app.count == 0


def test_its_own_page_and_programs_may(gate: Any) -> None:
    door = gate()
    for headers in ((), ((b"origin", b"http://localhost:8000"), (b"sec-fetch-site", b"same-origin")),
                    ((b"sec-fetch-site", b"none"),), ((b"origin", b"http://LOCALHOST:8000"),)):  # fmt: skip
        assert call(door, "POST", "/v1/predict", host(), *headers)[0] == 200
    for path in OPEN:  # a link to the page, and a monitor
        assert call(door, "GET", path, host(), (b"sec-fetch-site", b"cross-site"))[0] == 200
    proxied = gate(named=frozenset({"models.example.com"}))  # a proxy that asks by the address
    assert call(proxied, "POST", "/v1/predict", host(), (b"origin", b"https://models.example.com"))[0] == 200
    assert call(gate(hosts=frozenset({"a.example"})), "POST", "/v1/predict", host("a.example:443"), (b"origin", b"https://a.example"))[0] == 200  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "text/json", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_adapters_are_managed_with_json_only(web: Any, kind: str) -> None:
    found = web.post("/v1/adapters", content=b'{"path": "texts", "name": "mine"}', headers={"Content-Type": kind})
    assert found.status_code == 415 and "application/json" in found.json()["error"]
    if "multipart" not in kind:
        body = b'{"items": [{"text": "a", "adapter": "texts"}]}'
        assert web.post("/v1/predict", content=body, headers={"Content-Type": kind}).status_code == 415


# --- the management token ---------------------------------------------------------------------------------------------


def test_the_token_is_another_one_at_every_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN)
    first, second = Access.read(), Access.read()
    assert first.token != second.token and len(first.token) >= 32


def test_what_manages_wants_the_token_also_on_loopback(desk: Any, ask_app: Any) -> None:
    with ask_app(make_app(desk), "") as client:
        for found in (
            client.post("/v1/adapters", json={"path": "texts", "name": "b"}),
            client.delete("/v1/adapters/texts"),
        ):
            assert found.status_code == 401 and TOKEN in found.json()["error"]
            assert found.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/v1/adapters").status_code == 200 and desk.names == ["pictures", "texts"]


def test_the_description_says_which_secret_opens_what(desk: Any, web: Any) -> None:
    told = web.get("/openapi.json").json()
    assert set(told["components"]["securitySchemes"]) == {"key", "token"}
    assert told["paths"]["/v1/adapters"]["post"]["security"] == [{"token": []}]
    assert told["paths"]["/v1/adapters"]["get"]["security"] == []


# --- what was given and holds nothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", ",", " , ", "a,,b", "a,", " "])
@pytest.mark.parametrize("name", [KEYS, HOSTS])
def test_an_empty_list_is_an_error(
    name: str, value: str, runs: Any, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    for listen in ("127.0.0.1", "0.0.0.0"):
        said = refused("serve", runs["texts"], "--host", listen)
        assert name in said and "\n" not in said.strip()


@pytest.mark.parametrize("value", ["", "  ", "short", "with a space in it", "señor-with-a-token-of-24"])
def test_a_token_that_is_none_is_an_error(value: str, refused: Any, runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, value)
    assert TOKEN in refused("serve", runs["texts"])
    with pytest.raises(InjertoError, match=TOKEN):
        Client()


def test_no_key_is_the_token(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv(KEYS, f"a,{token}")
    with pytest.raises(InjertoError, match="whoever has a key could manage"):
        Access.read()


@pytest.mark.parametrize(
    "words", [("--host", ""), ("--host", " "), ("--bank", ""), ("--allow-host", ""), ("--drifted", "")]
)
def test_empty_options_are_errors(words: Any, refused: Any, runs: Any) -> None:
    assert words[0] in refused("serve", runs["texts"], *words)


def test_empty_arguments_are_errors(runs: Any) -> None:
    from injerto.serving.run import serve

    with pytest.raises(InjertoError, match="--host is empty"):
        serve([runs["texts"]], host="")
    for name in ("", "a/b", "http://a", "a:80", "a b", "*"):
        with pytest.raises(InjertoError, match="--allow-host"):
            Access.read(allowed=[name])
    for settings_ in ({"key": ""}, {"token": " "}):
        with pytest.raises(InjertoError, match="is empty"):
            Client(**settings_)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_every_fault_is_json_and_one_line(desk: Any, web: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(type(desk), "load", lambda *_: 1 / 0)
    found = web.post("/v1/adapters", json={"path": "texts"})
    assert found.status_code == 500 and "its log says how" in found.json()["error"]
    assert "ZeroDivisionError" in caplog.text and "Traceback" not in caplog.text
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    monkeypatch.setattr(type(desk), "load", lambda *_: bytearray(1 << 62))
    assert web.post("/v1/adapters", json={"path": "texts"}).status_code == 503
    assert 'status="500"} 1.0' in web.get("/metrics").text


def test_messages_are_bounded_and_of_one_line(desk: Any, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise InjertoError("a shape of " + "1, " * 1_000_000)

    monkeypatch.setattr(type(desk), "load", fail)
    assert len(web.post("/v1/adapters", json={"path": "texts"}).json()["error"]) <= limits.REPLY_CHARACTERS
    assert bounded("a\r\nb\tc") == "a b c" and len(bounded("é" * 10_000)) == limits.REPLY_CHARACTERS
    for found in (
        web.get("/" + "x" * 5_000), web.get("/<script>alert(1)</script>"), web.delete("/v1/adapters/" + "y" * 5_000),
        web.request("Z" * 3_000, "/v1/predict"), web.post("/v1/predict", content=b"", headers={"Content-Type": "z" * 4_000}),
        web.post("/v1/predict", json={"items": [{"text": "a", "adapter": "z" * 4_000}]}),
        web.post("/v1/predict", json={"items": [{"text": "a", "k" * 10_000: 1}]}),
        web.post("/v1/predict", files={"file": b"a"}, data={"w" * 4_000: "x"}),
    ):  # fmt: skip
        assert 400 <= found.status_code < 500 and found.headers["content-type"] == "application/json"
        assert len(found.json()["error"]) <= limits.REPLY_CHARACTERS


# --- how much -----------------------------------------------------------------------------------------------------------


def test_the_questions_of_a_request_are_bounded(desk: Any, web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = desk.bank_of("texts")
    for n in range(63):
        resident.load(desk.folder / "texts", f"t{n}")
        desk._place[f"t{n}"] = resident
    everyone = ["texts", *(f"t{n}" for n in range(63))]
    items = [{"text": "a", "adapters": everyone}] * 256
    found = web.post("/v1/predict", json={"items": items})
    assert found.status_code == 413 and "16384 questions" in found.json()["error"]
    assert web.post("/v1/predict", json={"items": items[:16]}).status_code == 200  # 1,024
    assert web.post("/v1/predict", json={"items": items[:17]}).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b'{"items":[' + b"1," * 9_900_000 + b"1]}",
        b'{"items":[' + b"[]," * 6_000_000 + b"1]}",
        b'{"items":[{"text":"a","adapters":[' + b'"a",' * 4_000_000 + b'"a"]}]}',
        b'{"' + b'":1,"'.join(b"%d" % n for n in range(1_500_000)) + b'":1}',
        b'{"' + b'":1,"'.join([b"\\\\"] * 1_500_000) + b'":1}',
        b'{"items":[{"text":"' + b'\\"' * 6_000_000,
        b'{"items":[{"text":"' + b'\\"' * 6_000_000 + b"\\",
        b'{"items":[{"strength":' + b"1" * 19_000_000 + b"}]}",
    ],
    ids=["numbers", "lists", "strings", "fields", "escaped fields", "never ends", "ends in a backslash", "one number"],
)
def test_json_that_costs_more_than_its_bytes_is_refused_at_once(body: bytes) -> None:
    import resource

    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(Bad) as refused:
        parse(Ask, body)
    assert refused.value.status in (413, 422) and time.process_time() - begun < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000  # kilobytes


def test_the_largest_honest_json_is_read() -> None:
    text = 'a "quoted", \\ long [text] {with} 1,2,3: ' * 1000
    items = [{"text": text, "adapters": ["a", "b", "c", "d"], "strength": 0.5}] * 256
    assert len(parse(Ask, json.dumps({"items": items}, indent=4).encode()).items) == 256


def test_an_uploaded_postscript_file_named_png_reaches_no_decoder(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin, Image

    Image.init()

    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("a PostScript file is opened")

    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", start)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(x) show\nshowpage\n"
    found = web.post("/v1/predict", files={"file": ("a.png", content, "image/png")}, data={"adapter": "pictures"})
    assert found.status_code == 422 and "no picture" in found.json()["error"]


def test_bodies_share_a_room() -> None:
    room = Room(100)
    with room.hold("a") as first, room.hold("b") as second, room.hold("c") as third:
        first(50)
        with pytest.raises(Bad, match="as many large requests") as refused:
            first(1)
        assert refused.value.status == 503
        second(45)
        with pytest.raises(Bad):
            third(6)
        third(5)
    with room.hold("a") as again:
        again(50)
    assert not room._held
