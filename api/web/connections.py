"""Limits of client connections that gunicorn's ASGI worker does not have.

- A head must be complete in time, and it has a limited size.
- A body is received only as fast as the application reads it.
- A client must read: unsent bytes without progress end the connection.
- The bodies that wait for their clients have a budget in bytes per process.
- The number of connections is limited.
- A closed connection discards input for a moment, so that the client gets the answer (RFC 9112,
  9.6).
- The answers of the server itself are problem documents, too.
- A request target in absolute form is that of the same request in origin form (RFC 9112, 3.2.2).

Only public interfaces are used: a `_Connection` is an asyncio protocol around the protocol of the
server, which gets a `_Transport` around the transport of the event loop.
"""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import quote, unquote_to_bytes

from api.web.bodies import encode_json
from api.web.problem_kinds import PROBLEM_MEDIA_TYPE
from api.web.problems import build_plain_body

MAX_CONNECTIONS = 500
"""Per process. One more connection replaces the one that has been waiting longest."""
BACKLOG = 1024
"""Connections that the kernel holds until a process accepts them; asyncio sets 100."""
REQUEST_TIMEOUT_S = 10.0
"""Timeout in seconds from the connection to the complete first head."""
MAX_HEAD_BYTES = 32_768
RECEIVE_BYTES = 65_536
"""Size in bytes of the buffer that receives from all connections."""
MAX_UNREAD_BYTES = 65_536
"""Received bytes of one connection that the application has not read. More stay in the kernel."""
SEND_TIMEOUT_S = 20.0
"""Timeout in seconds of a client that does not read."""
LINGER_S = 2.0
"""Seconds in which the input of a closed connection is discarded."""
HALF_CLOSED_S = 10.0
"""Seconds in which a request is answered after its client has ended its side of the connection.

Most such clients have left. Without a limit they would hold what a request waits for.
"""
CHECK_INTERVAL_S = 0.25
SMALL_BODY_BYTES = 65_536
"""Bodies up to this size do not count as unsent: the server buffers as much in any case."""
MAX_UNSENT_BYTES = 64 << 20
"""Bytes of the bodies that one process is sending, without the largest one.

A body that several clients get counts once.
Above it, the transfer that has made no progress for the longest time is aborted.
"""

_Message = dict[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
AsgiApp = Callable[[dict[str, Any], _Receive, _Send], Awaitable[None]]

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([45]\d\d) ")
_REQUEST_LINE = re.compile(rb"[A-Z]+ (/[^\r\n]*) HTTP/1\.[01]\r\n")
_RAW_CHARACTER = re.compile(rb"[^!-~]")
_ASCII_OF_ADDRESSES = "".join(map(chr, range(0x21, 0x7F)))
_MAX_SHOWN_ADDRESS = 200
"""Characters of a refused address that the answer shows in the form that works."""
_ABSOLUTE_TARGET = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
_connection_of_task: "ContextVar[_Connection | None]" = ContextVar("connection", default=None)


class Connections:
    """The client connections of one process."""

    def __init__(self) -> None:
        self._connections = dict[_Connection, None]()
        self._unsent = dict[object, tuple[_Connection, bytes]]()
        # One buffer for all connections: each of them is emptied before the next one is received.
        self.receive_buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._is_stopping: Callable[[], bool] = lambda: False

    @property
    def is_stopping(self) -> bool:
        """Whether the process stops: answers without an end have to end now."""
        return self._is_stopping()

    def watch(self, loop: asyncio.AbstractEventLoop, is_stopping: Callable[[], bool]) -> None:
        """Guard the servers that are created on this loop from now on.

        While `is_stopping` returns True, connections without a request are closed.
        """
        self._is_stopping = is_stopping
        create_server: Any = loop.create_server

        async def create_guarded_server(
            protocol_factory: Callable[[], asyncio.Protocol],
            *args: Any,  # noqa: ANN401
            **kwargs: Any,  # noqa: ANN401
        ) -> asyncio.Server:
            def make_connection() -> _Connection:
                return _Connection(self, protocol_factory())

            server: asyncio.Server = await create_server(make_connection, *args, **kwargs)
            # Not its argument `backlog`, which also sets how many it accepts per round.
            if "sock" in kwargs:
                kwargs["sock"].listen(BACKLOG)
            return server

        def check() -> None:
            loop.call_later(CHECK_INTERVAL_S, check)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.check_deadlines(now, is_stopping())

        loop.create_server = create_guarded_server  # type: ignore[method-assign, assignment]
        check()

    def limit_app(self, app: AsgiApp) -> AsgiApp:
        """Return an application that sends its bodies within the limits of its connection."""

        async def limited_app(scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
            connection = _connection_of_task.get()
            if connection is None:
                await app(scope, receive, send)
                return
            if scope["type"] != "http":  # no route is a WebSocket
                connection.refuse(400)
                return

            first_events = [{"type": "http.request", "body": b"", "more_body": True}]

            async def receive_late() -> _Message:
                # Falcon awaits an event before it looks at the head. A request must be refused
                # before its body arrives, and without 100 (Continue).
                if first_events:
                    return first_events.pop()
                connection.receiving_since = time.monotonic()
                try:
                    event = await receive()
                finally:
                    connection.receiving_since = math.inf
                size = len(event.get("body", b""))
                connection.count_read(size + _count_framing_bytes(scope, size))
                return event

            async def send_counted(message: _Message) -> None:
                connection.is_answering = True
                body = message.get("body", b"")
                if len(body) <= SMALL_BODY_BYTES:
                    await send(message)
                    return
                # The server waits until most of it is sent; uvloop needs no copy of what waits.
                with self._hold_unsent(connection, body):
                    await send(message)

            if _expects_unknown(scope):
                connection.refuse(417)
                return
            scope = _use_origin_form(scope)
            with connection.mark_busy():
                await app(scope, receive_late, send_counted)

        return limited_app

    def add(self, connection: "_Connection") -> None:
        """Register a new connection; at the limit, close the one that has waited longest."""
        if len(self._connections) >= MAX_CONNECTIONS:
            waiting = (each for each in self._connections if not each.is_busy)
            oldest = next(waiting, None) or next(iter(self._connections))
            oldest.abort()
        self._connections[connection] = None

    def discard(self, connection: "_Connection") -> None:
        """Forget a connection that is closed."""
        self._connections.pop(connection, None)

    @contextmanager
    def _hold_unsent(self, connection: "_Connection", body: bytes) -> Iterator[None]:
        token = object()
        self._unsent[token] = connection, body
        try:
            while self._count_unsent_bytes() > MAX_UNSENT_BYTES:
                # Aborting a transfer of the same body would free nothing.
                others = [each for each, sent in self._unsent.items() if sent[1] is not body]
                if not others:
                    break
                slowest = min(others, key=lambda each: self._unsent[each][0].paused_since)
                self._unsent.pop(slowest)[0].abort()
            yield
        finally:
            self._unsent.pop(token, None)

    def _count_unsent_bytes(self) -> int:
        distinct = {id(body): len(body) for _, body in self._unsent.values()}
        # The largest is most often all rows, which are in memory in any case. They alone may exceed
        # the budget.
        return sum(distinct.values()) - max(distinct.values())


class _Connection(asyncio.BufferedProtocol):
    """A connection: it passes everything to the server's protocol, within the limits."""

    def __init__(self, connections: Connections, protocol: asyncio.Protocol) -> None:
        self._connections = connections
        self._receive_buffer = connections.receive_buffer
        self._protocol = protocol
        self._transport: asyncio.Transport
        self._request_count = 0
        self._is_head_complete = False
        self._has_unserved_data = False
        self._head = b""
        self._served_bytes = b""
        self._opened_at = time.monotonic()
        self._received_at = self._opened_at
        self._unread_bytes = 0
        self._is_reading_paused = False
        self._unsent_bytes = 0
        self.paused_since = math.inf
        """Since when the client has not read, by the monotonic clock; infinity if it reads."""
        self._closed_since: float | None = None
        self._eof_at = math.inf
        self._idle_since = self._opened_at
        self.receiving_since = math.inf
        """Since when the application has waited for bytes, by the monotonic clock."""
        self.is_answering = False
        """Whether the application has sent something of the current answer."""

    @property
    def is_busy(self) -> bool:
        """Whether the application answers a request of this connection."""
        return self._request_count > 0

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection; its last bytes may still be sent."""
        return self._closed_since is not None

    @contextmanager
    def mark_busy(self) -> Iterator[None]:
        """Mark the connection as busy while the application answers a request."""
        self._request_count += 1
        self._has_unserved_data = False
        self.is_answering = False
        try:
            yield
        finally:
            self._request_count -= 1
            self._idle_since = time.monotonic()
            self.count_read()

    def count_read(self, count: int | None = None) -> None:
        """Note that `count` bytes are read; without it all, because their request is answered."""
        self._has_unserved_data = False
        self._unread_bytes = 0 if count is None else max(0, self._unread_bytes - count)
        if self._is_reading_paused and self._unread_bytes < MAX_UNREAD_BYTES:
            self._is_reading_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # -- called by asyncio -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the server's protocol; its tasks find this connection in their context."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        token = _connection_of_task.set(self)
        try:
            guarded: Any = _Transport(self, self._transport)
            self._protocol.connection_made(guarded)
        finally:
            _connection_of_task.reset(token)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes."""
        return self._receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass the bytes on; discard them after the connection was closed."""
        if self._closed_since is not None:
            return
        data = bytes(self._receive_buffer[:nbytes])
        self._received_at = time.monotonic()
        self._has_unserved_data = not self._request_count
        # Only to explain an error: a request line may arrive in parts.
        self._served_bytes = self._head + data
        if self._is_head_complete:
            self._count_unread(nbytes)
        elif not self._accepts_head(data):
            self.refuse(431)
            return
        try:
            self._protocol.data_received(data)
        except ValueError:  # a Content-Length of more digits than Python converts
            self.refuse(400)
        self._served_bytes = b""

    def _count_unread(self, count: int) -> None:
        self._unread_bytes += count
        if self._unread_bytes >= MAX_UNREAD_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _accepts_head(self, data: bytes) -> bool:
        """Return whether the first head, to which `data` belongs, is not too large."""
        # Later heads have no timeout of their own: the server's keepalive timeout applies to them.
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        size = len(self._head) if end < 0 else end
        self._is_head_complete = end >= 0
        if self._is_head_complete:
            self._head = b""
        return size <= MAX_HEAD_BYTES

    def eof_received(self) -> bool:
        """Return True to keep the connection open until the answer is sent."""
        self._eof_at = time.monotonic()
        is_request_pending = self._has_unserved_data and self._is_head_complete
        return (self.is_busy or is_request_pending) and not self.is_closed

    def pause_writing(self) -> None:
        """Note that the send buffer is full."""
        self.paused_since = time.monotonic()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self.paused_since = math.inf
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and wake what waits for the send buffer."""
        self._connections.discard(self)
        self._protocol.connection_lost(exc)
        self._protocol.resume_writing()

    # -- deadlines ---------------------------------------------------------------------------------
    def check_deadlines(self, now: float, is_stopping: bool) -> None:
        """Close the connection if the client is too slow, or if the process stops."""
        if self._closed_since is not None:
            timeout_s = SEND_TIMEOUT_S if self._transport.get_write_buffer_size() else LINGER_S
            if now - self._closed_since > timeout_s:
                self.abort()
        elif self.paused_since < math.inf:
            unsent_bytes = self._transport.get_write_buffer_size()
            if unsent_bytes != self._unsent_bytes:
                self._unsent_bytes = unsent_bytes
                self.paused_since = now
            elif now - self.paused_since > SEND_TIMEOUT_S:
                self.abort()
        elif self._eof_at < math.inf:
            self._check_half_closed(now)
        elif is_stopping:
            if not self.is_busy and now - self._received_at > CHECK_INTERVAL_S:
                self.abort()
        elif not self._is_head_complete and now - self._opened_at > REQUEST_TIMEOUT_S:
            if self._head:
                self.refuse(408)
            else:
                self.abort()

    def _check_half_closed(self, now: float) -> None:
        """Close the connection if nothing more can happen on it, or nothing happens for long."""
        if not self.is_busy:
            if now - max(self._idle_since, self._received_at) > CHECK_INTERVAL_S:
                self._transport.close()
            return
        # The body that the application waits for cannot arrive any more.
        is_starved = now - self.receiving_since > CHECK_INTERVAL_S
        is_late = not self.is_answering and now - self._eof_at > HALF_CLOSED_S
        if is_starved or is_late:
            self.abort()

    def close(self) -> None:
        """Discard input until the client closes the connection, or until a deadline."""
        if self._closed_since is None:
            self._closed_since = time.monotonic()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection immediately."""
        # asyncio reports the loss later; until then the connection must not count.
        self._connections.discard(self)
        self._transport.abort()

    def refuse(self, status: int) -> None:
        """Answer with a problem document and close the connection."""
        detail = _explain_address(self._served_bytes) if status == HTTPStatus.BAD_REQUEST else None
        self._transport.write(build_raw_response(status, detail))
        self._transport.write_eof()
        self.close()


class _Transport:
    """What the server's protocol gets as its transport: the loop's, except for these methods."""

    def __init__(self, connection: _Connection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return a method of the loop's transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data; replace an error of the server itself by a problem document."""
        connection = self._connection
        if self.is_closing():  # the loop would log a warning for each write
            return
        if not connection.is_busy:
            status_line = _STATUS_LINE.match(data)
            if status_line:
                connection.refuse(int(status_line[1]))
                return
            connection.count_read()
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection, when the client has or after some seconds."""
        self._connection.close()

    def is_closing(self) -> bool:
        """Return whether the connection is closed."""
        return self._connection.is_closed or self._transport.is_closing()


def build_raw_response(status: int, detail: str | None = None) -> bytes:
    """Return the complete HTTP response to a request that does not reach the application."""
    body = encode_json(build_plain_body(status, detail)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: {PROBLEM_MEDIA_TYPE}\r\nCache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _explain_address(request: bytes) -> str | None:
    """Return how to write the address of a request; None if its characters are not the fault."""
    line = _REQUEST_LINE.match(request)
    if line is None or not _RAW_CHARACTER.search(line[1]):
        return None
    try:
        address = line[1].decode()
    except UnicodeDecodeError:
        address = line[1].decode("latin-1")
    encoded = quote(address[:_MAX_SHOWN_ADDRESS], safe=_ASCII_OF_ADDRESSES)
    return (
        "The address has blanks or characters that are not ASCII.  Percent-encode them as UTF-8: "
        f"{encoded}  curl does so for a parameter with -G --data-urlencode 'name=value'."
    )


def _count_framing_bytes(scope: dict[str, Any], size: int) -> int:
    """Return the received bytes around `size` bytes of a body, if it is chunked (RFC 9112, 7.1)."""
    if not any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        return 0
    return len(f"{size:x}") + 4


def _use_origin_form(scope: dict[str, Any]) -> dict[str, Any]:
    """Return the scope of the same request with a path as its target.

    The host of the target and the header `Host` must be the same (RFC 9112, 3.2). Otherwise the
    target stays as it is, which is no route, and the access rules see the header.
    """
    target = _ABSOLUTE_TARGET.fullmatch(scope["raw_path"])
    if target is None:
        return scope
    host, raw_path = target.groups()
    if any(text.lower() != host.lower() for name, text in scope["headers"] if name == b"host"):
        return scope
    raw_path = raw_path or b"/"
    return scope | {
        "path": unquote_to_bytes(raw_path).decode(errors="replace"),
        "raw_path": raw_path,
    }


def _expects_unknown(scope: dict[str, Any]) -> bool:
    expectations = [value.lower() for name, value in scope["headers"] if name == b"expect"]
    return any(value != b"100-continue" for value in expectations)
