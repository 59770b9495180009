"""Who gets in: every request is looked at before the framework sees it, by its path and its headers alone."""

import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from injerto.basics import limits
from injerto.basics.errors import InjertoError

KEYS = "INJERTO_API_KEYS"
"""Environment variable: keys with commas between; where it is not set nobody is asked for one."""
TOKEN = "INJERTO_ADMIN_TOKEN"
"""Environment variable: the management token; another one at every start where it is not set."""
HOSTS = "INJERTO_ALLOWED_HOSTS"
"""Environment variable: names that the server is reached by, with commas between, as --allow-host."""
OPEN = frozenset({"/", "/healthz", "/readyz"})
"""Paths that need no key, to the letter."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
ONCE = (b"host", b"authorization", b"origin", b"sec-fetch-site", b"content-type", b"content-length")
"""Headers that stand in a request once: of two, each part of the program might read another."""
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        b"img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Headers of every answer."""
BEARER = ((b"www-authenticate", b"Bearer"),)

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Refusal = tuple[int, str, Iterable[tuple[bytes, bytes]]]

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_log = logging.getLogger("uvicorn.error")


def bounded(text: str) -> str:
    """A message of at most :data:`limits.REPLY_CHARACTERS`, in one line.

    Args:
        text: Of any length.
    """
    line = " ".join(text[: 8 * limits.REPLY_CHARACTERS].split())
    return line if len(line) <= limits.REPLY_CHARACTERS else line[: limits.REPLY_CHARACTERS - 4] + " ..."


def problem(text: str) -> bytes:
    """An error as it goes over the wire: JSON in ASCII.

    Args:
        text: What was wrong, in a sentence.
    """
    return json.dumps({"error": bounded(text)}).encode()


def what_it_needs(method: str, path: str) -> str:
    """``nothing``, an API ``key`` (where there are any), or the management ``token``: whatever may change something.

    Args:
        method: Of the request.
        path: Of the request, decoded.
    """
    if method in READING and path in OPEN:
        return "nothing"
    return "key" if method in READING or (method, path) == ("POST", "/v1/predict") else "token"


@dataclass(frozen=True)
class Access:
    """Who may do what.

    Attributes:
        keys: API keys; none where nobody is asked for one.
        token: What opens the management routes.
        hosts: Names and addresses that the server is reached by, beside those of loopback.
        named: Those of them that the user named: pages of these names may use it through a proxy.
        any_address: Whether every address will do as Host: where it listens on all of them.
    """

    keys: tuple[bytes, ...]
    token: bytes
    hosts: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    any_address: bool = False

    @classmethod
    def read(cls, host: str = "127.0.0.1", allowed: Sequence[str] = ()) -> "Access":
        """As the environment says, for a server that listens somewhere.

        Args:
            host: Address or name to listen on.
            allowed: Further names that it is reached by.

        Raises:
            InjertoError: Where an option or a variable was given and holds nothing, or what cannot be.
        """
        keys, token = tuple(key.encode() for key in _listed(KEYS)), admin_token()
        for key in keys:
            _check_secret(KEYS, key.decode())
        if token is not None and token.encode() in keys:
            raise InjertoError(f"{TOKEN} is one of {KEYS}; whoever has a key could manage adapters: give another one")
        named = frozenset(_named(name) for name in (*allowed, *_listed(HOSTS)))
        listened, wild = _listened(host)
        secret = secrets.token_urlsafe(24) if token is None else token
        return cls(keys, secret.encode(), named | listened, named, wild)

    def knows(self, host: str) -> bool:
        """Whether this is a name or address of the server.

        Args:
            host: As in a URL, in lower case and without its port.
        """
        address = _address(host)
        if host == "localhost" or host in self.hosts or (address is not None and str(address) in self.hosts):
            return True
        return address is not None and (self.any_address or address.is_loopback)


def admin_token() -> str | None:
    """The management token of the environment; None where there is none.

    Raises:
        InjertoError: Where it is set and empty, short, or cannot be sent.
    """
    token = os.environ.get(TOKEN)
    if token is None:
        return None
    _check_secret(TOKEN, token)
    if len(token) < limits.ADMIN_TOKEN_CHARACTERS:
        raise InjertoError(f"{TOKEN} has {len(token)} characters; give {limits.ADMIN_TOKEN_CHARACTERS} or more")
    return token


def _check_secret(name: str, value: str) -> None:
    if not value.strip():
        raise InjertoError(f"{name} is set and empty; give it a value, or unset it")
    if not all(33 <= ord(letter) <= 126 for letter in value):
        raise InjertoError(f"{name} holds a space or a letter that is not ASCII; no request can send that")


def _listed(name: str) -> list[str]:
    """What stands in a variable with commas between."""
    text = os.environ.get(name)
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise InjertoError(f"{name} is set and holds nothing; give values with commas between them, or unset it")
    if not all(parts):
        raise InjertoError(f"{name} holds an empty value between its commas; is a variable in it not set?")
    return parts


def _named(name: str) -> str:
    """A name that the user allows, as in a URL."""
    plain = name.strip().lower()
    found = _HOST.fullmatch(f"[{plain}]" if plain.count(":") > 1 and plain[0] != "[" else plain)
    if found is None or found[2]:
        raise InjertoError(f"--allow-host (or {HOSTS}): '{name[:80]}' is no name; give one as models.example.com")
    address = _address(found[1])
    return found[1] if address is None else str(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") else host)
    except ValueError:
        return None


def _listened(host: str) -> tuple[frozenset[str], bool]:
    """The names and addresses of what is listened on, and whether that is every address."""
    if not host.strip():
        raise InjertoError("--host is empty; give an address, such as 127.0.0.1, or 0.0.0.0 for all")
    address = _address(host)
    if address is None:
        try:
            found = {str(one[4][0]) for one in socket.getaddrinfo(host, None)}
        except OSError:  # taking the address says so
            found = set()
        return frozenset({host.lower(), *found}), False
    if address.is_unspecified:
        return frozenset({socket.gethostname().lower()}), True
    return frozenset({str(address)}), False


async def answer(send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send an error.

    Args:
        send: ASGI's.
        status: HTTP status code.
        text: What was wrong, in a sentence.
        headers: Further headers.
    """
    body = problem(text)
    kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": body})


class Gate:
    """ASGI middleware, the outermost: refuses who does not belong, and lets no error out that is not JSON.

    It reads the path and the headers as they came. What a framework makes of them (such as a URL out of the Host
    header) does not matter here.
    """

    def __init__(self, app: Any, access: Access, seen: Callable[[Scope, int, float], None]) -> None:
        """Stand before an application.

        Args:
            app: The application.
            access: Who may do what.
            seen: Told of every request: its scope, the answer's status, and seconds.
        """
        self.app, self.access, self.seen = app, access, seen

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answer one request.

        Args:
            scope: ASGI's.
            receive: ASGI's.
            send: ASGI's.
        """
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        begun, status = time.perf_counter(), 0

        async def out(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        try:
            refusal = self.refusal(scope)
            if refusal is None:
                await self.app(scope, receive, out)
            else:
                await answer(out, *refusal)
        except Exception as error:
            if status:  # the connection is closed in the middle of the answer: nobody takes it for whole
                raise
            _tell(scope, error)
            await answer(out, *_fault(error))
        finally:
            self.seen(scope, status, time.perf_counter() - begun)

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why a request is not let in; None where it is.

        Args:
            scope: ASGI's, of type ``http``.
        """
        method, path, given = scope["method"], scope["path"], dict[bytes, bytes]()
        size = len(path) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in scope["headers"])
        if size > limits.HEAD_BYTES:
            return 431, f"path and headers have {size} bytes; up to {limits.HEAD_BYTES} are read", ()
        if _odd(path, scope.get("raw_path")):
            return 400, "the path is not written plainly (a path has one slash between its parts, and no . or ..)", ()
        for name, value in scope["headers"]:
            if name in ONCE and name in given:
                return 400, f"the request has more than one {name.decode()} header", ()
            given[name] = value
        refusal = self._stranger(method, path, given)
        if refusal is not None:
            return refusal
        kind, _, word = given.get(b"authorization", b"").partition(b" ")
        secret = word.strip() if kind.lower() == b"bearer" else b""
        needed, manager = what_it_needs(method, path), hmac.compare_digest(secret, self.access.token)
        if needed == "token" and not manager:
            how = f"serve prints it when it starts, or takes it from {TOKEN}"
            return 401, f"send the management token as 'Authorization: Bearer TOKEN': {how}", BEARER
        known = any([hmac.compare_digest(secret, key) for key in self.access.keys])
        if needed == "key" and self.access.keys and not (known or manager):
            return 401, "send your API key as 'Authorization: Bearer KEY'", BEARER
        return None

    def _stranger(self, method: str, path: str, given: dict[bytes, bytes]) -> Refusal | None:
        """Requests by a name that is not the server's, and requests of other sites' pages."""
        host = _HOST.fullmatch(given.get(b"host", b"").decode("latin-1").lower())
        if host is None:
            return 400, "the request has no Host header that names a server", ()
        if not self.access.knows(host[1]):
            name = f"'{host[1][:80]}' is not a name of this server"
            return 403, f"{name}; where it is one, start it with --allow-host {host[1][:80]}", ()
        if method == "GET" and path in OPEN:
            return None
        site, origin = given.get(b"sec-fetch-site", b"none"), given.get(b"origin")
        if site not in (b"same-origin", b"none") or (origin is not None and not self._own(origin, host[0])):
            return 403, "a page of another site asks; only this server's own page and programs may", ()
        return None

    def _own(self, origin: bytes, host: str) -> bool:
        """Whether an Origin is that of the server's page: by the request's Host, or by a name that the user listed."""
        scheme, mark, rest = origin.decode("latin-1").lower().partition("://")
        found = _HOST.fullmatch(rest)
        if not mark or scheme not in ("http", "https") or found is None:
            return False
        default = {"http": ":80", "https": ":443"}[scheme]
        return rest.removesuffix(default) == host.removesuffix(default) or found[1] in self.access.named


def _odd(path: str, raw: bytes | None) -> bool:
    """Whether a path may be read in more than one way."""
    if raw is not None:
        line = raw.partition(b"?")[0]
        if unquote_to_bytes(line) != path.encode("utf-8", "surrogatepass") or re.search(rb"%(2f|5c)", line.lower()):
            return True
    parts = path.split("/")[1:]
    plain = path.startswith("/") and "\\" not in path and "�" not in path
    return not plain or any(ord(one) < 32 or 127 <= ord(one) < 160 for one in path) or _steps(parts)


def _steps(parts: list[str]) -> bool:
    return any(part in (".", "..") for part in parts) or "" in parts[:-1]


def _fault(error: Exception) -> tuple[int, str]:
    if isinstance(error, MemoryError):
        return 503, "the server has no memory left for this request; try again, or send less at once"
    return 500, "the server failed at this request; its log says how"


def _tell(scope: Scope, error: Exception) -> None:
    _log.error(
        f"%s %r failed: {type(error).__name__}: %s (INJERTO_DEBUG=1 shows where)",  # each type is a kind of its own
        scope["method"], scope["path"][:100], bounded(str(error)),
        exc_info=error if os.environ.get("INJERTO_DEBUG") else None,
    )  # fmt: skip
