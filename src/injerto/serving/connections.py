"""Connections that nobody can hold for ever: their number, how long each may take, and what is logged about them."""

import asyncio
import errno
import ipaddress
import logging
import socket
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from injerto.basics import limits
from injerto.serving.gate import problem

LOGS = ("uvicorn.error", "asyncio")
"""Loggers that strangers can make write."""
OPEN_FILES = 64
"""Files that are kept for anything but connections."""
_log = logging.getLogger("uvicorn.error")


class Sparse(logging.Filter):
    """One line a minute of a kind; the others are counted, and their number is said when the minute is over."""

    def __init__(self, seconds: float = 60.0, most: int = 200) -> None:
        """Begin with nothing said.

        Args:
            seconds: Of a minute.
            most: Kinds that are told apart; what is more counts as one.
        """
        super().__init__()
        self.seconds, self.most = seconds, most
        self._said: dict[str, list[Any]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written.

        Args:
            record: The line.
        """
        if getattr(record, "counted", False):
            return True
        error = type(record.exc_info[1]).__name__ if record.exc_info else ""
        kind = f"{str(record.msg).splitlines()[0] if str(record.msg) else ''} {error}"[:120].strip()
        kind = kind if kind in self._said or len(self._said) < self.most else "other lines"
        if kind in self._said:
            self._said[kind][1] += 1
            return False
        self._said[kind] = [time.monotonic(), 0, record.name]
        return True

    def flush(self, now: float) -> None:
        """Say how many lines were left out of the minutes that are over.

        Args:
            now: On the monotonic clock.
        """
        for kind, (begun, count, name) in list(self._said.items()):
            if now - begun >= self.seconds:
                del self._said[kind]
                if count:
                    text = "%d more lines like '%s' in the last minute"
                    logging.getLogger(name).warning(text, count, kind, extra={"counted": True})


class Guarded(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a time limit for everything that the other side has to do."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(*arguments, **settings)
        self._received, self._last = 0, 0.0
        self._phase: tuple[str, Any] = ("", None)
        self._since, self._before, self._unread = 0.0, 0, 0

    def _unsupported_upgrade_warning(self) -> None:
        """Without uvicorn's advice to install what would not help: no route speaks WebSocket."""
        _log.warning("Unsupported upgrade request.")

    def connection_made(self, transport: Any) -> None:
        """See :class:`asyncio.Protocol`."""
        super().connection_made(transport)
        self.look(time.monotonic())

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self._received, self._last = self._received + len(data), time.monotonic()
        super().data_received(data)

    def _now(self) -> str:
        """What is waited for."""
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            return "reading"
        if self.conn.their_state is h11.IDLE:
            return "head"
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        return "answer"

    def look(self, now: float) -> None:
        """End the connection where the other side has taken too long.

        Args:
            now: On the monotonic clock.
        """
        phase = (self._now(), self.cycle)
        if phase[0] != self._phase[0] or phase[1] is not self._phase[1]:
            self._phase, self._since, self._before = phase, now, self._received
            self._unread = self.transport.get_write_buffer_size()
        spent, came = now - self._since, self._received - self._before
        if phase[0] == "reading" and spent > limits.UNREAD_SECONDS + self._unread / limits.BODY_RATE:
            _log.warning("a client does not read its answer: closed")
            self.transport.abort()
        elif phase[0] == "head" and spent > limits.HEAD_SECONDS:
            if came:
                self.refuse(408, f"no whole request within {limits.HEAD_SECONDS} s")
            else:
                self.transport.close()
        elif phase[0] == "body":
            most = min(limits.BODY_SECONDS, limits.HEAD_SECONDS + came / limits.BODY_RATE)
            if spent > most or now - self._last > limits.HEAD_SECONDS:
                self.refuse(
                    408, "the rest of the request took too long; is the connection slow, or is less sent than said?"
                )

    def shutdown(self) -> None:
        """The server goes down: what has been asked is answered, what is still being sent is not waited for."""
        if self._now() == "body":
            self.refuse(503, "the server is going down; try another one")
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP.

        Args:
            msg: uvicorn's words.
        """
        self.refuse(400, "this is no HTTP request that can be read, or its headers are too long")

    def refuse(self, status: int, text: str) -> None:
        """Answer with an error where that is still possible, and close.

        Args:
            status: HTTP status code.
            text: What was wrong, in a sentence.
        """
        if status == 408:
            _log.warning("a client takes too long to send a request: closed")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with suppress(h11.LocalProtocolError):
                self.transport.write(self._whole(status, text))
        self.transport.close()

    def _whole(self, status: int, text: str) -> bytes:
        body = problem(text)
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        events = (
            h11.Response(status_code=status, headers=[*head, (b"connection", b"close")], reason=b""),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        return b"".join(self.conn.send(event) or b"" for event in events)


class Server(uvicorn.Server):
    """uvicorn's, with an entrance of its own: it counts connections, by address too, and survives a lack of files."""

    def __init__(self, config: uvicorn.Config, door: socket.socket) -> None:
        """Stand at a door.

        Args:
            config: uvicorn's; its protocol is :class:`Guarded`.
            door: A socket that is bound.
        """
        super().__init__(config)
        self.door = door
        self.most = most_connections()
        self.sparse = Sparse()
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, sockets: Any = None) -> None:
        """Serve until told to stop.

        Args:
            sockets: None: there is a door.
        """
        for name in LOGS:
            logging.getLogger(name).addFilter(self.sparse)
        try:
            super().run(sockets=[])
        finally:
            self.door.close()
            for name in LOGS:
                logging.getLogger(name).removeFilter(self.sparse)

    async def startup(self, sockets: Any = None) -> None:
        """Open the door.

        Args:
            sockets: None.
        """
        await super().startup(sockets=[])
        if self.started:
            self.door.listen(min(self.most, 128))
            self.door.setblocking(False)
            self._tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._watch())]

    async def shutdown(self, sockets: Any = None) -> None:
        """Close the door, and let what is under way finish.

        Args:
            sockets: None.
        """
        accepting, watching = self._tasks
        accepting.cancel()
        await asyncio.wait([accepting])
        self.door.close()
        await super().shutdown(sockets=[])
        watching.cancel()
        self.sparse.flush(float("inf"))

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self.door)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    _log.error("no connection can be taken for a moment: %s", error.strerror)
                    await asyncio.sleep(1)
                continue  # the other side went away before it was let in
            if self._full(address[0]):
                _log.warning("too many connections are open: further ones are turned away")
                with suppress(OSError):
                    connection.send(BUSY)
                connection.close()
                continue
            try:
                await loop.connect_accepted_socket(self._protocol, connection)
            except OSError:  # as above
                connection.close()

    def _protocol(self) -> Guarded:
        return Guarded(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _full(self, address: str) -> bool:
        """Whether there is no room for one more from this address."""
        connections: set[Any] = self.server_state.connections
        if len(connections) >= self.most:
            return True
        known = Counter(neighbourhood(one.client[0]) for one in connections if one.client)
        return known[neighbourhood(address)] >= max(1, self.most // 2)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, limits.HEAD_SECONDS / 4))
            now = time.monotonic()
            every: list[Any] = list(self.server_state.connections)
            for one in every:
                try:
                    one.look(now)
                except Exception as error:  # one connection's trouble is not the others'
                    _log.error("a connection failed: %s", type(error).__name__)
                    one.transport.abort()
            self.sparse.flush(now)


def most_connections() -> int:
    """How many connections may be open: fewer than files may be."""
    try:
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):
        return limits.CONNECTIONS
    return limits.CONNECTIONS if files < 0 else max(8, min(limits.CONNECTIONS, files - OPEN_FILES))


def neighbourhood(address: str) -> str:
    """What counts as one client: an IPv4 address, or the 64-bit network of an IPv6 address.

    Args:
        address: As the socket has it.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


def _busy() -> bytes:
    body = problem("too many connections are open; try again in a moment")
    return (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
        b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
    )


BUSY = _busy()
"""What connections beyond the bound get."""
