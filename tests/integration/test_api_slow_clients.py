"""Slow, silent and hostile clients on real sockets must not delay the answers to other clients."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from api.web.connections import MAX_HEAD_BYTES, REQUEST_TIMEOUT_S
from shared.formats.output_csv import OUTPUT_HEADER
from tests.api_process import ApiEnvironment, wait_until

SLOW_CLIENTS = 40
AT_ONCE_S = 4.0
A_GET = b"GET /data HTTP/1.1\r\nHost: localhost\r\n"
A_LARGE_TABLE = OUTPUT_HEADER + b"".join(
    b"%06d,Ann,Lee,0,src-data/%06d.png\n" % (n, n) for n in range(100_000)
)


def connect_client(api_environment: ApiEnvironment) -> socket.socket:
    # A small receive buffer: data that the client does not read stays in the server.
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect(("127.0.0.1", api_environment.api.port))
    return client


@contextmanager
def clients(
    api_environment: ApiEnvironment, count: int, sends: bytes
) -> Iterator[list[socket.socket]]:
    """Open clients that sent `sends` and then stall."""
    sockets = [connect_client(api_environment) for _ in range(count)]
    try:
        for client in sockets:
            client.sendall(sends)
        yield sockets
    finally:
        for client in sockets:
            client.close()


def is_answered_at_once(api_environment: ApiEnvironment, path: str = "/stats") -> bool:
    started_at = time.monotonic()
    assert {api_environment.api.get(path).status for _ in range(20)} == {200}
    return time.monotonic() - started_at < AT_ONCE_S


def receive_all(client: socket.socket) -> bytes:
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
        pytest.param(
            b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf",
            id="half a body",
        ),
        pytest.param(
            b"GET /data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n",
            id="a huge body",
        ),
        pytest.param(
            b"GET /data HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            id="half a chunk",
        ),
        pytest.param(A_GET + b"Connection: close\r\n\r\n", id="never reads, close"),
        pytest.param(A_GET + b"\r\n", id="never reads, keepalive"),
        pytest.param(b"what is this\r\n\r\n", id="no HTTP"),
        pytest.param(A_GET + b"\r\n" + A_GET, id="a request and a half"),
    ],
)
def test_api_server_slow_requests_block_no_client(
    api_environment: ApiEnvironment, sends: bytes
) -> None:
    with clients(api_environment, SLOW_CLIENTS, sends):
        assert is_answered_at_once(api_environment)


def test_api_server_slow_readers_get_full_response(api_environment: ApiEnvironment) -> None:
    api_environment.publish_output(A_LARGE_TABLE)
    wait_until(lambda: api_environment.shows_row_count(100_000))
    with clients(api_environment, SLOW_CLIENTS, A_GET + b"Connection: close\r\n\r\n") as slow:
        wait_until(lambda: is_answered_at_once(api_environment))
        assert is_answered_at_once(api_environment)
        head, _, body = receive_all(slow[0]).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert len(json.loads(body)) == 100_000


def test_api_server_accepts_request_sent_byte_by_byte(api_environment: ApiEnvironment) -> None:
    with clients(api_environment, 1, b"") as (client,):
        for byte in A_GET + b"Connection: close\r\n\r\n":
            client.sendall(bytes([byte]))
            time.sleep(0.001)  # so that the server receives single bytes
        assert receive_all(client).startswith(b"HTTP/1.1 200")


def test_api_server_answers_pipelined_requests_in_order(api_environment: ApiEnvironment) -> None:
    with clients(
        api_environment, 1, (A_GET + b"\r\n") * 9 + A_GET + b"Connection: close\r\n\r\n"
    ) as (client,):
        assert receive_all(client).count(b"HTTP/1.1 200") == 10


def test_api_server_times_out_unfinished_request(api_environment: ApiEnvironment) -> None:
    started_at = time.monotonic()
    with clients(api_environment, 1, A_GET) as (client,):
        head, _, body = receive_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["type"] == "about:blank"
    assert time.monotonic() - started_at < REQUEST_TIMEOUT_S + 5


@pytest.mark.parametrize(
    ("sends", "status"),
    [
        (b"what is this\r\n\r\n", 400),
        (A_GET + b"Host: elsewhere\r\n\r\n", 400),
        (A_GET + b"X-Long: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (A_GET + b"X: 1\r\n" * 70 + b"\r\n", 431),
        (A_GET + b"X-Long: " + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (A_GET + b"Expect: money\r\n\r\n", 417),
        (A_GET + b"Transfer-Encoding: zip\r\n\r\n", 501),
    ],
)
def test_api_server_refuses_invalid_request_as_problem(
    api_environment: ApiEnvironment, sends: bytes, status: int
) -> None:
    with clients(api_environment, 1, sends) as (client,):
        head, _, body = receive_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status


def test_api_server_idle_clients_block_no_new_client(api_environment: ApiEnvironment) -> None:
    with clients(api_environment, 1200, b""):
        assert is_answered_at_once(api_environment)


def test_api_server_slow_clients_do_not_delay_shutdown(api_environment: ApiEnvironment) -> None:
    with (
        clients(api_environment, SLOW_CLIENTS, b"GET /da"),
        clients(api_environment, SLOW_CLIENTS, b""),
    ):
        os.kill(api_environment.api.pid, signal.SIGTERM)
        wait_until(lambda: not is_running(api_environment.api.pid), 15)


def is_running(pid: int) -> bool:
    """Return whether the process is running; a zombie has ended."""
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_form_of_client_that_leaves_stores_nothing(api_environment: ApiEnvironment) -> None:
    """The beginning of a CSV may be a valid CSV with another value."""
    part = (
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="1.csv"\r\n\r\n'
        b"first_name,last_name,birthts\nAnn,Lee,946674"
    )
    head = (
        b"POST /files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=limit\r\n\r\n"
    )
    with connect_client(api_environment) as client:
        client.sendall(head + part)
        client.shutdown(socket.SHUT_WR)
        receive_all(client)
    with connect_client(api_environment) as client:
        client.sendall(head.replace(b"1000", str(len(part)).encode()) + part)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client).startswith(b"HTTP/1.1 400 ")
    assert api_environment.source.get_etag("1.csv") is None
