"""The client socket as a thread uses it: a slow client blocks the thread only briefly."""

import socket
import time
from collections.abc import Iterator

import pytest

from api.web.client_socket import SEND_ATTEMPT_S, ClientSocket

Pair = tuple[ClientSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return the server's end, in the mode in which a thread gets it, and the client's end."""
    server_end, client = socket.socketpair()
    with ClientSocket(server_end.detach()) as server, client:
        server.setblocking(True)
        client.settimeout(10)
        yield server, client


def receive(client: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        received += client.recv(1 << 20)
    return received


def test_client_socket_sends_head_with_body(pair: Pair) -> None:
    server, client = pair
    server.sendall(b"head")
    assert len(server.unsent) == 1
    server.sendall(b"body")
    assert not server.unsent
    assert receive(client, 8) == b"headbody"


def test_client_socket_flushes_head_without_body(pair: Pair) -> None:
    server, client = pair
    server.sendall(b"head")
    server.flush()
    assert not server.unsent
    assert receive(client, 4) == b"head"


def test_client_socket_keeps_unsent_data_without_waiting(pair: Pair) -> None:
    server, client = pair
    head = b"h" * 5_000_000
    body = b"b" * 5_000_000
    started_at = time.monotonic()
    server.sendall(head)
    server.sendall(body)
    assert time.monotonic() - started_at < 10 * SEND_ATTEMPT_S
    assert len(server.unsent) == 2
    server.setblocking(False)
    received = b""
    while server.unsent:
        received += client.recv(1 << 20)
        try:
            server.send_some()
        except BlockingIOError:
            continue
    received += receive(client, len(head) + len(body) - len(received))
    assert received == head + body


def test_client_socket_waits_before_sending_more(pair: Pair) -> None:
    server, client = pair
    server.sendall(b"1" * 5_000_000)
    server.sendall(b"2" * 100)
    client.close()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        server.sendall(b"3")


def test_client_socket_stops_waiting_after_body_deadline(pair: Pair) -> None:
    server, client = pair
    server.body_until = time.monotonic()
    with pytest.raises(TimeoutError):
        server.recv(10)
    client.sendall(b"late")
    assert server.recv(10) == b"late"
