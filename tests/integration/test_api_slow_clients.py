"""Slow, silent and hostile clients on real sockets must not delay the answers to other clients."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from api.connections import MOST_HEAD_BYTES, REQUEST_S
from shared.output_csv import HEADER
from tests.api_process import Stage, eventually

SLOW_CLIENTS = 40
"""Five times the number of threads."""
AT_ONCE_S = 4.0
A_GET = b"GET /data HTTP/1.1\r\nHost: localhost\r\n"
A_LARGE_TABLE = HEADER + b"".join(b"%06d,Ann,Lee,0,src-data/%06d.png\n" % (n, n) for n in range(100_000))


def connected(stage: Stage) -> socket.socket:
    # A small receive buffer: data that the client does not read stays in the server.
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect(("127.0.0.1", stage.api.port))
    return client


@contextmanager
def clients(stage: Stage, count: int, sends: bytes) -> Iterator[list[socket.socket]]:
    """Open clients that sent `sends` and then stall."""
    made = [connected(stage) for _ in range(count)]
    try:
        for client in made:
            client.sendall(sends)
        yield made
    finally:
        for client in made:
            client.close()


def answered_at_once(stage: Stage, path: str = "/stats") -> bool:
    began = time.monotonic()
    assert {stage.api.get(path).status for _ in range(20)} == {200}
    return time.monotonic() - began < AT_ONCE_S


def whole_answer(client: socket.socket) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    received = b""
    while part := client.recv(1 << 16):
        received += part
    return received


@pytest.mark.parametrize(
    "sends",
    [
        pytest.param(b"", id="sends nothing"),
        pytest.param(b"GET /da", id="half a request line"),
        pytest.param(A_GET + b"X-Slow: ", id="half a header"),
        pytest.param(b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf", id="half a body"),
        pytest.param(b"GET /data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n", id="a huge body"),
        pytest.param(
            b"GET /data HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", id="half a chunk"
        ),
        pytest.param(A_GET + b"Connection: close\r\n\r\n", id="never reads, close"),
        pytest.param(A_GET + b"\r\n", id="never reads, keepalive"),
        pytest.param(b"what is this\r\n\r\n", id="no HTTP"),
        pytest.param(A_GET + b"\r\n" + A_GET, id="a request and a half"),
    ],
)
def test_who_is_slow_to_ask_keeps_nobody_waiting(stage: Stage, sends: bytes) -> None:
    with clients(stage, SLOW_CLIENTS, sends):
        assert answered_at_once(stage)


def test_who_is_slow_to_read_keeps_nobody_waiting_and_gets_everything(stage: Stage) -> None:
    stage.publish(A_LARGE_TABLE)
    eventually(lambda: stage.every_process_shows(100_000))
    with clients(stage, SLOW_CLIENTS, A_GET + b"Connection: close\r\n\r\n") as slow:
        eventually(lambda: answered_at_once(stage))
        assert answered_at_once(stage)
        head, _, body = whole_answer(slow[0]).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert len(json.loads(body)) == 100_000


def test_a_request_may_come_byte_by_byte(stage: Stage) -> None:
    with clients(stage, 1, b"") as (client,):
        for byte in A_GET + b"Connection: close\r\n\r\n":
            client.sendall(bytes([byte]))
            time.sleep(0.001)  # so that the server receives single bytes
        assert whole_answer(client).startswith(b"HTTP/1.1 200")


def test_requests_that_come_together_are_answered_one_after_the_other(stage: Stage) -> None:
    with clients(stage, 1, (A_GET + b"\r\n") * 9 + A_GET + b"Connection: close\r\n\r\n") as (client,):
        assert whole_answer(client).count(b"HTTP/1.1 200") == 10


def test_who_never_ends_a_request_is_told_so(stage: Stage) -> None:
    began = time.monotonic()
    with clients(stage, 1, A_GET) as (client,):
        head, _, body = whole_answer(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["type"] == "/docs#too-slow"
    assert time.monotonic() - began < REQUEST_S + 5


@pytest.mark.parametrize(
    ("sends", "status"),
    [
        (b"what is this\r\n\r\n", 400),
        (A_GET + b"Host: elsewhere\r\n\r\n", 400),
        (A_GET + b"X-Long: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (A_GET + b"X: 1\r\n" * 70 + b"\r\n", 431),
        (A_GET + b"X-Long: " + b"x" * MOST_HEAD_BYTES, 431),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (A_GET + b"Expect: money\r\n\r\n", 417),
        (A_GET + b"Transfer-Encoding: zip\r\n\r\n", 501),
    ],
)
def test_what_is_no_request_is_refused_in_the_shape_of_all_refusals(stage: Stage, sends: bytes, status: int) -> None:
    with clients(stage, 1, sends) as (client,):
        head, _, body = whole_answer(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status


def test_silent_clients_without_number_do_not_keep_a_new_one_out(stage: Stage) -> None:
    with clients(stage, 1200, b""):
        assert answered_at_once(stage)


def test_slow_clients_do_not_keep_it_from_ending(stage: Stage) -> None:
    ended: Callable[[], bool] = lambda: not is_running(stage.api.pid)  # noqa: E731
    with clients(stage, SLOW_CLIENTS, b"GET /da"), clients(stage, SLOW_CLIENTS, b""):
        os.kill(stage.api.pid, signal.SIGTERM)
        eventually(ended, 15)


def is_running(pid: int) -> bool:
    """Return whether the process is running; a zombie has ended."""
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
