"""Load generator: measures the throughput of a web server in requests per second.

The client shares the processors with the server, so it must be cheap, or its own cost is measured.
It uses one thread, persistent bare sockets and prebuilt requests. Of a response it parses only the
status and the length.
"""

import re
import socket
import time
from collections.abc import Iterator, Sequence

from bench.rowdrop import UnexpectedResult
from local.ports import HOST

CONNECTIONS = 16
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


def request(path: str, if_none_match: str | None = None) -> bytes:
    """Return the bytes of a GET request."""
    condition = f"If-None-Match: {if_none_match}\r\n" if if_none_match else ""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{condition}\r\n".encode()


def requests_per_second(port: int, requests: Iterator[bytes], status: int, seconds: float) -> float:
    """Send the requests on 16 concurrent connections for `seconds` and return the throughput.

    The first round is not counted. Raises `UnexpectedResult` if a response has another status.
    """
    connections = [socket.create_connection((HOST, port), timeout=10) for _ in range(CONNECTIONS)]
    try:
        answered = 0
        _round(connections, requests, status)  # warm-up
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            _round(connections, requests, status)
            answered += len(connections)
        return answered / (time.perf_counter() - began)
    finally:
        for connection in connections:
            connection.close()


def _round(connections: Sequence[socket.socket], requests: Iterator[bytes], status: int) -> None:
    for connection, asked in zip(connections, requests, strict=False):
        connection.sendall(asked)
    for connection in connections:
        _answer(connection, status)


def _answer(connection: socket.socket, status: int) -> None:
    head = b""
    while (end := head.find(b"\r\n\r\n")) < 0:
        head += _received(connection)
    found, length = _HEAD.match(head), _LENGTH.search(head, 0, end + 2)
    if found is None or int(found[1]) != status:
        raise UnexpectedResult(f"expected status {status}, but the response began with {head[:200]!r}")
    # A 304 may declare the length of the body that it does not have.
    left = (int(length[1]) if length and status != 304 else 0) - (len(head) - end - 4)
    while left > 0:
        left -= len(_received(connection))


def _received(connection: socket.socket) -> bytes:
    part = connection.recv(1 << 20)
    if not part:
        raise ConnectionError("the server closed a connection in the middle of a response")
    return part
