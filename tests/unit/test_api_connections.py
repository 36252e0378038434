"""The limits of connections, with gunicorn's own protocol on real sockets of the API's loop."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.config import Config
from gunicorn.glogging import Logger

from api.web import connections as limits
from api.web.connections import AsgiApp, Connections

Message = dict[str, Any]
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


class App:
    """An application with a body; it counts its requests."""

    def __init__(self, make_body: Callable[[], bytes] = lambda: b"answer") -> None:
        self.make_body = make_body
        self.request_count = 0

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.request_count += 1
        await receive()  # as Falcon does before it looks at the head
        body = self.make_body()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class CountingProtocol(ASGIProtocol):  # type: ignore[misc]
    """The protocol of gunicorn, which counts the bytes that it receives."""

    received_bytes = 0

    def data_received(self, data: bytes) -> None:
        CountingProtocol.received_bytes += len(data)
        super().data_received(data)


@asynccontextmanager
async def serve(
    app: AsgiApp, listener: socket.socket | None = None, *, is_limited: bool = True
) -> AsyncIterator[tuple[int, Connections]]:
    """Serve the application, if `is_limited` with limited bodies; yield the port."""
    loop = asyncio.get_running_loop()
    connections = Connections()
    config = Config()
    worker = SimpleNamespace(
        cfg=config,
        log=Logger(config),
        loop=loop,
        asgi=connections.limit_app(app) if is_limited else app,
        alive=True,
        nr=0,
        nr_conns=0,
        max_requests=10**9,
        state={},
    )
    original: Any = loop.create_server
    connections.watch(loop, lambda: not worker.alive)
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(lambda: CountingProtocol(worker), sock=listener)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        loop.create_server = original  # type: ignore[method-assign]
        server.close()
        worker.alive = False
        async with asyncio.timeout(10):
            while worker.nr_conns:
                await asyncio.sleep(0.01)


async def exchange(port: int, sends: bytes) -> bytes:
    """Send bytes and return everything until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sends)
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return received


@pytest.mark.parametrize(
    ("sends", "status"),
    [
        (b"what is this\r\n\r\n", 400),
        (HEAD + b"X-Long: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (HEAD + (b"X-Long: " + b"x" * 8000 + b"\r\n") * 6, 431),
        (HEAD + (b"X-Long: " + b"x" * 8000 + b"\r\n") * 6 + b"\r\n", 431),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (HEAD + b"Expect: money\r\n\r\n", 417),
        (HEAD + b"Transfer-Encoding: zip\r\n\r\n", 501),
        (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (
            HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            400,
        ),
    ],
)
def test_connections_answer_invalid_requests_with_problems(sends: bytes, status: int) -> None:
    async def run() -> None:
        app = App()
        async with serve(app) as (port, _):
            head, _, body = (await exchange(port, sends)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == status
        assert app.request_count == 0

    uvloop.run(run())


@pytest.mark.parametrize(
    ("target", "encoded"),
    [
        ("/data?q=Jörg&limit=1".encode(), "/data?q=J%C3%B6rg&limit=1"),
        ("/data?q=Jörg".encode("latin-1"), "/data?q=J%C3%B6rg"),
        (b"/data?q=ann lee", "/data?q=ann%20lee"),
        ("/files/Zoë.csv?wait=5".encode(), "/files/Zo%C3%AB.csv?wait=5"),
        ("/data?q=100%25ö".encode(), "/data?q=100%25%C3%B6"),
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_connections_show_encoded_form_of_raw_address(
    target: bytes, encoded: str, parts: int
) -> None:
    request = b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def run() -> None:
        async with serve(App()) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            begin = 8 * (parts - 1)
            received_before = CountingProtocol.received_bytes
            writer.write(request[:begin])
            while CountingProtocol.received_bytes < received_before + begin:
                await asyncio.sleep(0.01)
            writer.write(request[begin:])
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
        body = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert body["status"] == 400
        assert f"Percent-encode them as UTF-8: {encoded}  " in body["detail"]

    uvloop.run(run())


def test_connections_answer_before_the_body_arrives() -> None:
    async def run() -> None:
        async with serve(App()) as (port, _):
            for length in (b"9000000", b"9" * 23):
                sends = HEAD + b"Expect: 100-continue\r\nContent-Length: " + length + b"\r\n\r\n"
                assert (await exchange(port, sends)).startswith(b"HTTP/1.1 200 OK")

    uvloop.run(run())


def test_connections_deliver_answer_to_client_that_still_sends() -> None:
    async def run() -> None:
        async with serve(App()) as (port, _):
            sends = HEAD + b"Content-Length: 9000000\r\n\r\n" + bytes(3_000_000)
            assert (await exchange(port, sends)).endswith(b"answer")

    uvloop.run(run())


def test_connections_answer_half_closed_client() -> None:
    async def run() -> None:
        async with serve(App()) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"\r\n")
            writer.write_eof()
            assert (await reader.readuntil(b"answer")).startswith(b"HTTP/1.1 200")
            writer.close()

    uvloop.run(run())


def test_connections_answer_pipelined_requests() -> None:
    async def run() -> None:
        async with serve(App()) as (port, _):
            received = await exchange(
                port, (HEAD + b"\r\n") * 9 + HEAD + b"Connection: close\r\n\r\n"
            )
        assert received.count(b"HTTP/1.1 200") == 10

    uvloop.run(run())


async def connect_slow_reader(port: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    transport: Any = writer.transport
    transport.pause_reading()
    writer.write(HEAD + b"\r\n")
    return writer


@pytest.mark.parametrize("is_limited", [True, False])
def test_connections_read_on_after_answered_requests(is_limited: bool) -> None:
    """The heads of answered requests never count as unread, with or without `limit_app`."""

    async def run() -> None:
        async with serve(App(), is_limited=is_limited) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2 * limits.MAX_UNREAD_BYTES // 8000):
                writer.write(HEAD + b"X-Long: " + b"x" * 8000 + b"\r\n\r\n")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                assert head.startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(6) == b"answer"
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()

    uvloop.run(run())


def test_connections_abort_oldest_transfer_above_budget() -> None:
    """A body of the whole table is shared, and the largest body is not counted."""
    half = limits.MAX_UNSENT_BYTES // 2

    async def run(make_body: Callable[[], bytes], expected_aborted: list[bool]) -> None:
        app = App(make_body)
        async with serve(app) as (port, _):
            writers = []
            for count in range(1, 4):
                writers.append(await connect_slow_reader(port))
                while app.request_count < count:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.05)
            aborted = []
            for writer in writers:
                transport: Any = writer.transport
                transport.resume_reading()
                protocol: Any = transport.get_protocol()
                try:
                    body = await asyncio.wait_for(protocol._stream_reader.read(), 0.5)
                    aborted.append(len(body) < half)
                except TimeoutError:  # complete, and the connection stays open
                    aborted.append(False)
                except ConnectionResetError:
                    aborted.append(True)
                transport.abort()
        assert aborted == expected_aborted

    for shared in (bytes(half + 1), bytes(limits.MAX_UNSENT_BYTES + 1)):
        make_shared = partial(bytes, shared)  # which is the same object
        uvloop.run(run(make_shared, [False, False, False]))
    uvloop.run(run(lambda: bytes(half + 1), [True, False, False]))
    sizes = iter([limits.MAX_UNSENT_BYTES + 1, half, half])
    uvloop.run(run(lambda: bytes(next(sizes)), [False, False, False]))


def test_connections_abort_client_that_does_not_read() -> None:
    """The oldest transfer is not aborted if its client reads."""
    size = limits.MAX_UNSENT_BYTES // 2 + 1000

    async def run() -> None:
        app = App(lambda: bytes(size))
        async with serve(app) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(HEAD + b"\r\n")
            await reader.readexactly(1000)
            stalled = await connect_slow_reader(port)
            while app.request_count < 2:
                await asyncio.sleep(0.001)
            # Until the buffers of the stalled connection are full, it makes progress, too.
            await asyncio.sleep(3 * limits.CHECK_INTERVAL_S)
            await reader.readexactly(10_000_000)
            await asyncio.sleep(3 * limits.CHECK_INTERVAL_S)
            third = await connect_slow_reader(port)
            received = await asyncio.wait_for(reader.readexactly(size - 10_001_000), 10)
            assert len(received) == size - 10_001_000
            transport: Any = stalled.transport
            transport.resume_reading()
            with suppress(ConnectionResetError):
                rest = await asyncio.wait_for(transport.get_protocol()._stream_reader.read(), 10)
                assert len(rest) < size
            for each in (writer, stalled, third):
                each.transport.abort()

    uvloop.run(run())


def test_connections_receive_no_body_that_is_not_read() -> None:
    async def read_late(scope: Message, receive: Any, send: Any) -> None:  # noqa: ANN401
        await may_read.wait()
        more_body = True
        while more_body:
            event = await receive()
            body_lengths.append(len(event["body"]))
            more_body = event["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

    may_read = asyncio.Event()
    body_lengths: list[int] = []

    async def run() -> None:
        async with serve(read_late) as (port, _):
            CountingProtocol.received_bytes = 0
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"Content-Length: 3000000\r\n\r\n" + bytes(3_000_000))
            await asyncio.sleep(0.2)
            assert CountingProtocol.received_bytes <= 3 * limits.MAX_UNREAD_BYTES
            may_read.set()
            assert await asyncio.wait_for(reader.readuntil(b"answer"), 10)
            assert sum(body_lengths) == 3_000_000
            writer.close()

    uvloop.run(run())


def test_connections_receive_body_of_small_chunks() -> None:
    """What surrounds a chunk is received as well, but the application does not read it."""

    async def read_all(scope: Message, receive: Any, send: Any) -> None:  # noqa: ANN401
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

    async def run() -> None:
        async with serve(read_all) as (port, _):
            chunks = b"1\r\nx\r\n" * limits.MAX_UNREAD_BYTES + b"0\r\n\r\n"
            sends = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
            assert b"answer" in await exchange(port, sends)

    uvloop.run(run())


def test_connections_wait_in_a_long_queue() -> None:
    """With a queue of 100, as asyncio sets it, a burst of clients waits for retransmissions."""
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        async with serve(App(), listener):
            # For a socket that listens, `tcpi_sacked` is the size of its queue.
            info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            assert struct.unpack_from("I", info, 28)[0] == min(limits.BACKLOG, somaxconn)

    uvloop.run(run())


def test_connections_replace_longest_waiting_connection() -> None:
    async def run() -> None:
        async with serve(App()) as (port, _):
            idle = [
                await asyncio.open_connection("127.0.0.1", port)
                for _ in range(limits.MAX_CONNECTIONS + 10)
            ]
            sends = HEAD + b"Connection: close\r\n\r\n"
            assert (await exchange(port, sends)).startswith(b"HTTP/1.1 200")
            ended = [reader.at_eof() or reader.exception() is not None for reader, _ in idle]
            assert ended[0]
            assert not ended[-1]
            for _, writer in idle:
                writer.close()

    uvloop.run(run())


def test_connections_end_with_the_client() -> None:
    async def run() -> None:
        async with serve(App()) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"\r\n")
            await reader.readuntil(b"answer")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 1) == b""
            writer.close()

    uvloop.run(run())


@pytest.mark.parametrize("sends", [HEAD + b"\r\n", (HEAD + b"\r\n") * 5])
def test_connections_end_after_answers_to_half_closed_client(sends: bytes) -> None:
    """Not only after the keepalive timeout."""

    async def run() -> None:
        async with serve(App()) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sends)
            writer.write_eof()
            received = await asyncio.wait_for(reader.read(), 1.5)
            assert received.count(b"answer") == sends.count(b"GET")
            writer.close()

    uvloop.run(run())


@pytest.mark.parametrize("has_body", [True, False])
def test_connections_cancel_request_of_client_that_left(
    monkeypatch: pytest.MonkeyPatch, has_body: bool
) -> None:
    """Its end of file may be that of a client that still reads, so it has some time."""
    monkeypatch.setattr(limits, "HALF_CLOSED_S", 0.5)

    async def wait_endlessly(scope: Message, receive: Any, send: Any) -> None:  # noqa: ANN401
        is_running.set()
        try:
            while has_body and (await receive())["type"] == "http.request":
                pass
            if not has_body:
                await asyncio.Event().wait()
        finally:
            has_ended.set()

    is_running = asyncio.Event()
    has_ended = asyncio.Event()

    async def run() -> None:
        async with serve(wait_endlessly) as (port, _):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            length = b"Content-Length: 10\r\n" if has_body else b""
            writer.write(HEAD + length + b"\r\n")
            await is_running.wait()
            writer.close()
            # gunicorn cancels the request 3 s after the connection was lost.
            await asyncio.wait_for(has_ended.wait(), 8)

    uvloop.run(run())


class StuckTransport(asyncio.Transport):
    """A transport with unsent bytes."""

    unsent_bytes = 1_000_000
    is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def abort(self) -> None:
        self.is_aborted = True


def test_connection_aborts_client_only_without_progress() -> None:
    transport = StuckTransport()
    connection = limits._Connection(Connections(), asyncio.Protocol())
    connection.connection_made(transport)
    connection.pause_writing()
    now = time.monotonic()
    for _ in range(5):
        transport.unsent_bytes -= 1000
        now += limits.SEND_TIMEOUT_S + 1
        connection.check_deadlines(now, is_stopping=False)
        assert not transport.is_aborted
    connection.check_deadlines(now + limits.SEND_TIMEOUT_S - 1, is_stopping=False)
    assert not transport.is_aborted
    connection.check_deadlines(now + limits.SEND_TIMEOUT_S + 1, is_stopping=False)
    assert transport.is_aborted


def test_connections_log_nothing_when_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """The event loop logs a warning for each write to a lost connection, from the fifth one on."""
    is_started = asyncio.Event()
    has_left = asyncio.Event()
    has_sent = asyncio.Event()

    async def send_much(scope: Message, receive: Any, send: Any) -> None:  # noqa: ANN401
        is_started.set()
        await has_left.wait()
        time.sleep(0.1)  # so that the loop does not see it before the writes
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await send({"type": "http.response.body", "body": b"answer", "more_body": True})
        await send({"type": "http.response.body", "body": b"answer"})
        has_sent.set()

    async def run() -> None:
        async with serve(send_much) as (port, _):
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(HEAD + b"\r\n")
            await is_started.wait()
            client.close()  # with a reset
            has_left.set()
            await asyncio.wait_for(has_sent.wait(), 10)

    uvloop.run(run())
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []
