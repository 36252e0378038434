"""A gunicorn threaded worker in which slow clients do not occupy threads.

The original worker gives each connection a thread until the client has sent its request and
received the answer, so eight slow clients block all others. Here a thread gets a request only when
it is complete, and the event loop sends what a slow client has not received yet. Only uploads of
more than `MAX_BUFFERED_BODY_BYTES` and streamed objects (see `api.web.transfers`) occupy a thread
for longer. These requests, and all others that may wait for a server, have a separate thread pool.

States of a connection: receiving → answering (in a thread) → sending → receiving, or lingering
until it is closed.
"""

import re
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import TConn, ThreadWorker

from api.web.client_socket import SEND_S, ClientSocket
from api.web.json_body import encode_json
from api.web.problem_kinds import PROBLEM_KIND_BY_STATUS, PROBLEM_KINDS, PROBLEM_MEDIA_TYPE
from api.web.problems import build_problem_body

REQUEST_S = 10.0
"""Timeout in seconds from the connection, or the first byte, to the complete request.

A streamed body does not count."""
MAX_HEAD_BYTES = 32_768
MAX_BUFFERED_BODY_BYTES = 1_048_576
"""A larger body, and one of unknown length, is read by the thread."""
MIN_BYTES_PER_S = 20_000
MAX_SENDING_CONNECTIONS = 64
"""Limit of connections of one process that are slow to receive. Above it, the oldest is closed."""
LINGER_S = 2.0
"""Seconds in which input is discarded, so that the client gets the answer (RFC 9112, 9.6)."""
CHECK_INTERVAL_S = 0.25

WAITING_THREADS = 8
"""Threads of one process for requests that wait: for the object store, Redis or a rebuild."""

_FROM_MEMORY = re.compile(rb"(?:GET|HEAD) /(?!files|tasks|data/[^ ?]*/image)")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,18})[ \t]*\r?$")
_STREAMED = re.compile(rb"(?im)^(?:transfer-encoding|expect):")
_STATUS: dict[type[Exception], int] = {
    LimitRequestLine: 414,
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    UnsupportedTransferCoding: 501,
    ParseException: 400,
}


class Connection(TConn):  # type: ignore[misc]
    """A connection and the received part of its next request."""

    def __init__(self, worker: "Worker", client: socket.socket, address: Any, server: Any) -> None:  # noqa: ANN401
        super().__init__(worker.cfg, ClientSocket(fileno=client.detach()), address, server)
        self.sock: ClientSocket
        self.init()  # without TLS and HTTP/2 this only creates the parser
        self.data_ready = True
        self.buffered = bytearray()
        self._head_end = -1
        self._complete_length = 0
        self.is_streamed = self.may_wait = False

    def begin(self) -> None:
        """Start the next request with the bytes that were received after the last one."""
        self.buffered = bytearray(self.parser.unreader.take_buffered())
        self.is_streamed = False
        self._head_end = -1

    def receive(self) -> None:
        """Append received data.

        Raises `BlockingIOError` if no data has arrived, and another `OSError` if the connection is
        closed.
        """
        received = self.sock.recv(65_536)
        if not received:
            raise ConnectionResetError
        self.buffered += received

    def is_complete(self) -> bool:
        """Return whether a thread can answer without waiting for the client.

        A streamed body does not count: the thread reads it.
        """
        if self._head_end < 0:
            self._head_end = self.buffered.find(b"\r\n\r\n")
            if self._head_end < 0:
                return False
            self._complete_length = (
                self._head_end + 4 + self._body_length(bytes(self.buffered[: self._head_end]))
            )
        return len(self.buffered) >= self._complete_length

    def _body_length(self, head: bytes) -> int:
        match = _LENGTH.search(head)
        length = int(match[1]) if match else 0
        self.is_streamed = bool(_STREAMED.search(head)) or length > MAX_BUFFERED_BODY_BYTES
        self.may_wait = self.is_streamed or not _FROM_MEMORY.match(head)
        self.sock.body_until = time.monotonic() + SEND_S + length / MIN_BYTES_PER_S
        return 0 if self.is_streamed else length

    @property
    def is_too_long(self) -> bool:
        """Whether the head of the request exceeds the limit."""
        return self._head_end < 0 and len(self.buffered) > MAX_HEAD_BYTES

    def hand_over(self) -> None:
        """Pass the received bytes to the parser."""
        self.parser.unreader.unread(bytes(self.buffered))
        self.buffered = bytearray()

    def is_read(self) -> bool:
        """Return whether the whole request has been read."""
        reader = self.parser.mesg.body.reader
        return not self.is_streamed or (isinstance(reader, LengthReader) and reader.length <= 0)


class Worker(ThreadWorker):  # type: ignore[misc]
    """The gunicorn worker. Only `handle` and its callees run outside the event loop's thread."""

    def init_process(self) -> None:
        """Run the worker until it ends; gunicorn calls this after the fork."""
        self._deadlines = dict[Connection, float]()
        self._sending = dict[Connection, None]()
        self._checked_at = 0.0
        self._waiting_pool = ThreadPoolExecutor(WAITING_THREADS)
        super().init_process()

    # -- receiving ---------------------------------------------------------------------------------
    def accept(self, listener: socket.socket) -> None:
        """Accept a connection; at the limit, close the one that has been waiting for longest."""
        if self.nr_conns >= self.worker_connections - 1:
            self._close_oldest()
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # out of file descriptors
            self._close_oldest()
            return
        self.nr_conns += 1
        self.enqueue_req(Connection(self, client, address, listener.getsockname()))

    def enqueue_req(self, conn: Connection) -> None:
        """Wait for the connection's next request, and answer it when it is complete."""
        conn.begin()
        conn.sock.setblocking(False)
        self._on_readable(conn)

    def _on_readable(self, conn: Connection) -> None:
        try:
            if not conn.is_complete():
                conn.receive()
        except BlockingIOError:
            pass
        except OSError:
            self._drop(conn)
            return
        if conn.is_complete():
            self._forget(conn)
            conn.hand_over()
            self._answer(conn)
        elif conn.is_too_long:
            self._refuse(conn, 431)
        elif conn not in self._deadlines:
            self._wait(conn, selectors.EVENT_READ, self._on_readable, REQUEST_S)

    # -- answering, in a thread --------------------------------------------------------------------
    def _answer(self, conn: Connection) -> None:
        # Few threads answer from memory, as more would only compete for the interpreter. Requests
        # that wait for a server use the other pool, so an outage does not block the first one.
        answered = (self._waiting_pool if conn.may_wait else self.tpool).submit(self.handle, conn)
        answered.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def handle(self, conn: Connection) -> bool:
        """Answer the request; return whether the connection stays open."""
        stays_open = bool(super().handle(conn))
        try:
            conn.sock.flush()
        except OSError:  # the client has disconnected
            return False
        return stays_open

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Return whether the connection stays open.

        It is closed if part of the body is unread: the worker would have to wait for the rest.
        """
        return keepalive and conn.is_read() and bool(super()._keepalive_after(conn, keepalive))

    def handle_error(
        self, req: object, client: socket.socket, addr: object, exc: Exception
    ) -> None:
        """Answer an invalid request or an internal error with a problem document.

        The log line does not contain the request.
        """
        if isinstance(exc, ParseException):
            self.log.info("the HTTP server refused a request: %s", type(exc).__name__)
        else:
            self.log.exception(
                "the HTTP server failed to answer a request; the client gets status 500"
            )
        status = next((status for kind, status in _STATUS.items() if isinstance(exc, kind)), 500)
        client.sendall(build_raw_response(status))

    # -- sending -----------------------------------------------------------------------------------
    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """Send the rest of the answer from the event loop, then end the request."""
        if not conn.sock.unsent:
            self._end(conn, fs)
            return
        if len(self._sending) >= MAX_SENDING_CONNECTIONS:
            self._drop(next(iter(self._sending)))
        self._sending[conn] = None
        conn.sock.setblocking(False)
        seconds = SEND_S + sum(map(len, conn.sock.unsent)) / MIN_BYTES_PER_S
        self._wait(conn, selectors.EVENT_WRITE, partial(self._on_writable, fs), seconds)

    def _on_writable(self, fs: "Future[bool]", conn: Connection) -> None:
        try:
            conn.sock.send_some()
        except BlockingIOError:
            return
        except OSError:
            self._drop(conn)
            return
        if not conn.sock.unsent:
            self._forget(conn)
            self._end(conn, fs)

    def _end(self, conn: Connection, fs: "Future[bool]") -> None:
        if fs.cancelled() or fs.exception() or not fs.result():
            self._linger(conn)
        else:
            super().finish_request(conn, fs)

    # -- lingering ---------------------------------------------------------------------------------
    def _linger(self, conn: Connection) -> None:
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        self._wait(conn, selectors.EVENT_READ, self._discard, LINGER_S)

    def _discard(self, conn: Connection) -> None:
        try:
            over = not conn.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            over = True
        if over:
            self._drop(conn)

    # -- deadlines ---------------------------------------------------------------------------------
    def _wait(
        self, conn: Connection, event: int, call: Callable[[Connection], None], seconds: float
    ) -> None:
        self._deadlines[conn] = time.monotonic() + seconds
        self.poller.register(conn.sock, event, lambda _: call(conn))

    def murder_pending(self) -> None:
        """Close the connections that exceeded their deadline; gunicorn calls this in each loop."""
        now = time.monotonic()
        if now - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = now
        for conn in [conn for conn, deadline in self._deadlines.items() if deadline < now]:
            if conn.buffered and conn not in self._sending:
                self._refuse(conn, 408)
            else:
                self._drop(conn)
        if not self.alive:  # idle connections must not delay shutdown
            for conn in [
                conn for conn in self._deadlines if not conn.buffered and conn not in self._sending
            ]:
                self._drop(conn)

    def _close_oldest(self) -> None:
        if self._deadlines:
            self._drop(next(iter(self._deadlines)))
        elif self.keepalived_conns:
            self.keepalived_conns[0].timeout = 0.0
            self.murder_keepalived()

    def _refuse(self, conn: Connection, status: int) -> None:
        self._forget(conn)
        conn.buffered.clear()
        conn.sock.sendall(build_raw_response(status))
        try:
            conn.sock.flush()
        except OSError:
            self._drop(conn)
        else:
            self._linger(conn)

    def _forget(self, conn: Connection) -> None:
        if self._deadlines.pop(conn, None) is not None:
            self._sending.pop(conn, None)
            self.poller.unregister(conn.sock)

    def _drop(self, conn: Connection) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()


def build_raw_response(status: int) -> bytes:
    """Return the complete HTTP response to a request that does not reach the application."""
    kind = PROBLEM_KIND_BY_STATUS.get(status, "our-fault")
    body = encode_json(build_problem_body(kind, PROBLEM_KINDS[kind].explanation)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: {PROBLEM_MEDIA_TYPE}\r\nCache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
