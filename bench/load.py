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

CONNECTION_COUNT = 16
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3})")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
# Allocated once: a new megabyte for each response would take longer than the rest of the client.
_buffer = bytearray(1 << 20)


def build_request(path: str, if_none_match: str | None = None) -> bytes:
    """Return the bytes of a GET request."""
    condition = f"If-None-Match: {if_none_match}\r\n" if if_none_match else ""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{condition}\r\n".encode()


def measure_requests_per_second(
    port: int, requests: Iterator[bytes], status: int, seconds: float
) -> float:
    """Send the requests on 16 concurrent connections for `seconds` and return the throughput.

    The first round is not counted. Raises `UnexpectedResult` if a response has another status.
    """
    connections = [
        socket.create_connection((HOST, port), timeout=10) for _ in range(CONNECTION_COUNT)
    ]
    try:
        response_count = 0
        _send_round(connections, requests, status)  # warm-up
        started_at = time.perf_counter()
        while time.perf_counter() - started_at < seconds:
            _send_round(connections, requests, status)
            response_count += len(connections)
        return response_count / (time.perf_counter() - started_at)
    finally:
        for connection in connections:
            connection.close()


def _send_round(
    connections: Sequence[socket.socket], requests: Iterator[bytes], status: int
) -> None:
    for connection, request in zip(connections, requests, strict=False):
        connection.sendall(request)
    for connection in connections:
        _read_response(connection, status)


def _read_response(connection: socket.socket, status: int) -> None:
    size = _receive(connection, 0)
    while (end := _buffer.find(b"\r\n\r\n", 0, size)) < 0:
        size += _receive(connection, size)
    status_match = _STATUS_LINE.match(_buffer)
    if status_match is None or int(status_match[1]) != status:
        start = bytes(_buffer[:200])
        raise UnexpectedResult(f"expected status {status}, but the response began with {start!r}")
    length_match = _CONTENT_LENGTH.search(_buffer, 0, end + 2)
    # A 304 may declare the length of the body that it does not have.
    body_length = int(length_match[1]) if length_match and status != 304 else 0
    remaining_bytes = end + len(b"\r\n\r\n") + body_length - size
    while remaining_bytes > 0:
        remaining_bytes -= _receive(connection, 0)


def _receive(connection: socket.socket, offset: int) -> int:
    """Receive into the buffer from this offset on; return the number of bytes."""
    size = connection.recv_into(memoryview(_buffer)[offset:])
    if not size:
        raise ConnectionError("the server closed a connection in the middle of a response")
    return size
