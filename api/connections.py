"""gunicorn's threaded worker, in which no connection holds a thread while it waits for its client.

As it comes, that worker gives a thread to whoever connects, for as long as the client takes to send its request and to
receive the answer: eight slow clients, and nobody else is served.  Here a request comes to a thread when it is whole,
and what a client is slow to take is sent by the worker's own loop.  In between only two things hold a thread: uploads
of more than `MOST_GATHERED_BYTES`, and objects that are streamed (see `api.transfers`).  They, and whatever else may
have to wait for a server, have threads of their own.

The life of a connection: gathering → answering (a thread) → sending → gathering again, or lingering until it is closed.
"""

import re
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
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

from api.client_socket import SEND_S, ClientSocket
from api.refusals import of_the_server

REQUEST_S = 10.0
"""From a request's first byte (or the connection) until it is whole, without a body that is streamed."""
MOST_HEAD_BYTES = 32_768
MOST_GATHERED_BYTES = 1_048_576
"""A larger body, and one of unknown length, is left to the thread."""
SLOWEST_BYTES_A_S = 20_000
MOST_SENDING = 64
"""Connections in one process that are slow to take their answers; one more, and the first of them is closed."""
LINGER_S = 2.0
"""How long what a client still sends is read and thrown away, so that it gets the last answer (RFC 9112, 9.6)."""
LOOK_S = 0.25

OTHER_THREADS = 8
"""In one process, for requests that wait for others: the object store, Redis, a rebuild."""

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
    """A connection and what has come of its next request."""

    def __init__(self, worker: "Worker", client: socket.socket, address: Any, server: Any) -> None:  # noqa: ANN401
        super().__init__(worker.cfg, ClientSocket(fileno=client.detach()), address, server)
        self.sock: ClientSocket
        self.init()  # for us it only makes the parser
        self.data_ready = True
        self.held, self._head_end, self._whole_at = bytearray(), -1, 0
        self.is_streamed = self.may_wait = False

    def begin(self) -> None:
        """Forget the request that was answered; what came after it is the beginning of the next one."""
        self.held = bytearray(self.parser.unreader.take_buffered())
        self.is_streamed, self._head_end = False, -1

    def receive(self) -> None:
        """Take what has come.  Raises `OSError` when nothing has, or nothing will."""
        received = self.sock.recv(65_536)
        if not received:
            raise ConnectionResetError
        self.held += received

    def is_whole(self) -> bool:
        """Whether a thread can answer without waiting for the client, but for a body that is streamed."""
        if self._head_end < 0:
            self._head_end = self.held.find(b"\r\n\r\n")
            if self._head_end < 0:
                return False
            self._whole_at = self._head_end + 4 + self._body_length(bytes(self.held[: self._head_end]))
        return len(self.held) >= self._whole_at

    def _body_length(self, head: bytes) -> int:
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        self.is_streamed = bool(_STREAMED.search(head)) or length > MOST_GATHERED_BYTES
        self.may_wait = self.is_streamed or not _FROM_MEMORY.match(head)
        self.sock.body_until = time.monotonic() + SEND_S + length / SLOWEST_BYTES_A_S
        return 0 if self.is_streamed else length

    @property
    def is_too_long(self) -> bool:
        """Whether its head is longer than any that is answered."""
        return self._head_end < 0 and len(self.held) > MOST_HEAD_BYTES

    def hand_over(self) -> None:
        """Give what was gathered to the parser."""
        self.parser.unreader.unread(bytes(self.held))
        self.held = bytearray()

    def is_read(self) -> bool:
        """Whether nothing of the request is left that would have to be waited for."""
        reader = self.parser.mesg.body.reader
        return not self.is_streamed or (isinstance(reader, LengthReader) and reader.length <= 0)


class Worker(ThreadWorker):  # type: ignore[misc]
    """The worker.  All but `handle` and what it calls runs in the loop's thread."""

    def init_process(self) -> None:
        """Called by gunicorn after the fork; runs until the worker ends."""
        self._deadlines = dict[Connection, float]()
        self._sending = dict[Connection, None]()
        self._looked = 0.0
        self._others = ThreadPoolExecutor(OTHER_THREADS)
        super().init_process()

    # -- gathering ---------------------------------------------------------------------------------------------------
    def accept(self, listener: socket.socket) -> None:
        """Take a new connection; when there are too many, in place of the one that has kept us waiting longest."""
        if self.nr_conns >= self.worker_connections - 1:
            self._make_room()
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # no file descriptor is left
            self._make_room()
            return
        self.nr_conns += 1
        self.enqueue_req(Connection(self, client, address, listener.getsockname()))

    def enqueue_req(self, conn: Connection) -> None:
        """Have the connection's next request answered, as soon as it is whole."""
        conn.begin()
        conn.sock.setblocking(False)
        self._on_readable(conn)

    def _on_readable(self, conn: Connection) -> None:
        try:
            if not conn.is_whole():
                conn.receive()
        except BlockingIOError:
            pass
        except OSError:
            self._drop(conn)
            return
        if conn.is_whole():
            self._forget(conn)
            conn.hand_over()
            self._answer(conn)
        elif conn.is_too_long:
            self._refuse(conn, 431)
        elif conn not in self._deadlines:
            self._wait(conn, selectors.EVENT_READ, self._on_readable, REQUEST_S)

    # -- answering, in a thread --------------------------------------------------------------------------------------
    def _answer(self, conn: Connection) -> None:
        # Few threads answer from memory, as more would only get in each other's way; what waits holds none of them.
        answered = (self._others if conn.may_wait else self.tpool).submit(self.handle, conn)
        answered.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def handle(self, conn: Connection) -> bool:
        """Answer the request; whether the connection stays."""
        stays = bool(super().handle(conn))
        try:
            conn.sock.flush()
        except OSError:  # the client is gone
            return False
        return stays

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Whether the connection stays: not if a body is left that nobody wanted, for which one would have to wait."""
        return keepalive and conn.is_read() and bool(super()._keepalive_after(conn, keepalive))

    def handle_error(self, req: object, client: socket.socket, addr: object, exc: Exception) -> None:
        """Answer what is no request, or a fault, in the shape of all other refusals.  The log tells no request."""
        if isinstance(exc, ParseException):
            self.log.info("a request was refused: %s", type(exc).__name__)
        else:
            self.log.exception("a request could not be answered")
        status = next((status for kind, status in _STATUS.items() if isinstance(exc, kind)), 500)
        client.sendall(of_the_server(status))

    # -- sending -----------------------------------------------------------------------------------------------------
    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """The thread is done with the request; the client may have to take the rest of the answer."""
        if not conn.sock.unsent:
            self._end(conn, fs)
            return
        if len(self._sending) >= MOST_SENDING:
            self._drop(next(iter(self._sending)))
        self._sending[conn] = None
        conn.sock.setblocking(False)
        seconds = SEND_S + sum(map(len, conn.sock.unsent)) / SLOWEST_BYTES_A_S
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

    # -- lingering ---------------------------------------------------------------------------------------------------
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

    # -- deadlines ---------------------------------------------------------------------------------------------------
    def _wait(self, conn: Connection, event: int, call: Callable[[Connection], None], seconds: float) -> None:
        self._deadlines[conn] = time.monotonic() + seconds
        self.poller.register(conn.sock, event, lambda _: call(conn))

    def murder_pending(self) -> None:
        """Called by gunicorn at each turn of its loop: close the connections whose time is over."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        for conn in [conn for conn, deadline in self._deadlines.items() if deadline < now]:
            if conn.held and conn not in self._sending:
                self._refuse(conn, 408)
            else:
                self._drop(conn)
        if not self.alive:  # who has asked nothing yet does not keep us from ending
            for conn in [conn for conn in self._deadlines if not conn.held and conn not in self._sending]:
                self._drop(conn)

    def _make_room(self) -> None:
        if self._deadlines:
            self._drop(next(iter(self._deadlines)))
        elif self.keepalived_conns:
            self.keepalived_conns[0].timeout = 0.0
            self.murder_keepalived()

    def _refuse(self, conn: Connection, status: int) -> None:
        self._forget(conn)
        conn.held.clear()
        conn.sock.sendall(of_the_server(status))
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
