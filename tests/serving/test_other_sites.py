"""A page of another site in a real browser: it can neither load, replace, read nor delete adapters of this machine."""

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from injerto.serving.app import make_app
from injerto.serving.connections import Server
from injerto.serving.run import _bind, configured

ATTACK = """async ([at, name]) => {
  const tries = [
    [`${at}/v1/adapters`, { method: "POST", mode: "no-cors", body: JSON.stringify({ path: "texts", name }) }],
    [`${at}/v1/adapters`, { method: "POST", body: JSON.stringify({ path: "texts", name }), headers: { "Content-Type": "application/json" } }],
    [`${at}/v1/adapters/texts`, { method: "DELETE" }],
    [`${at}/v1/adapters`, {}], [`${at}/metrics`, { mode: "no-cors" }], [`${at}/v1/predict`, { method: "POST", mode: "no-cors", body: new FormData() }],
  ];
  const said = [];
  for (const [url, options] of tries) said.push(await fetch(url, options).then(async a => [a.status, await a.text()], () => [0, ""]));
  return said;
}"""
FORM = """([at]) => {
  const form = document.createElement("form");
  Object.assign(form, { method: "POST", action: `${at}/v1/adapters`, enctype: "text/plain" });
  const field = document.createElement("input");
  Object.assign(field, { name: '{"path": "texts", "name": "form', value: '"}' });
  form.append(field); document.body.append(form); form.submit();
}"""


class Evil(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(desk: Any) -> Iterator[tuple[Any, int]]:
    door = _bind("127.0.0.1", 0)
    server = Server(configured(make_app(desk)), door)
    thread = threading.Thread(target=server.run, daemon=True)
    port = door.getsockname()[1]
    thread.start()
    yield desk, port
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def evil() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def rebound(chromium: Any) -> Iterator[Callable[[], Any]]:
    """A browser whose DNS says that a stranger's name is this machine: the end of a rebinding attack."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    rules = "--host-resolver-rules=MAP rebound.example 127.0.0.1"
    browser = chromium.browser_type.launch(executable_path=path, args=["--no-sandbox", rules])
    yield browser.new_page
    browser.close()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])  # another site; the same site at another port
def test_a_page_of_another_site_gets_nothing(served: Any, evil: int, chromium: Any, name: str) -> None:
    desk, port = served
    page = chromium.new_page()
    page.goto(f"http://{name}:{evil}/")
    said = page.evaluate(ATTACK, [f"http://127.0.0.1:{port}", "evil"])
    assert all(status in (0, 403) and "labels" not in text and "injerto_" not in text for status, text in said)
    page.evaluate(FORM, [f"http://127.0.0.1:{port}"])
    page.wait_for_url(f"http://127.0.0.1:{port}/v1/adapters")
    assert "another site" in page.content()
    assert desk.names == ["pictures", "texts"]
    page.close()


def test_a_rebound_name_gets_nothing(served: Any, rebound: Callable[[], Any]) -> None:
    desk, port = served
    page, at = rebound(), f"http://rebound.example:{port}"
    first = page.goto(f"{at}/healthz")
    assert first.status == 403 and "rebound.example" in first.text()
    said = page.evaluate(ATTACK, [at, "evil"])
    assert [status for status, _ in said] == [403] * len(said)
    assert desk.names == ["pictures", "texts"]


def test_a_link_from_another_site_opens_the_page_and_no_frame_shows_it(served: Any, evil: int, chromium: Any) -> None:
    _, port = served
    page = chromium.new_page()
    page.goto(f"http://localhost:{evil}/")
    page.evaluate("at => { const link = document.createElement('a'); link.href = at; document.body.append(link); link.click(); }",
                  f"http://127.0.0.1:{port}/")  # fmt: skip
    page.wait_for_selector("#texts:not([hidden])")  # and it may ask for the adapters
    page.goto(f"http://localhost:{evil}/")
    page.set_content(f"<iframe src='http://127.0.0.1:{port}/'></iframe>")
    page.wait_for_timeout(500)
    assert all(not frame.query_selector("#texts") for frame in page.frames)
    page.close()
