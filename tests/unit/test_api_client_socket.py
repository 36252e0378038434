"""The client socket as a thread uses it: a slow client blocks the thread only briefly."""

import socket
import time
from collections.abc import Iterator

import pytest

from api.client_socket import PATIENCE_S, ClientSocket

Pair = tuple[ClientSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return the server's end, in the mode in which a thread gets it, and the client's end."""
    ours, client = socket.socketpair()
    with ClientSocket(ours.detach()) as server, client:
        server.setblocking(True)
        client.settimeout(10)
        yield server, client


def received(client: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        found += client.recv(1 << 20)
    return found


def test_a_head_is_sent_with_its_body(pair: Pair) -> None:
    server, client = pair
    server.sendall(b"head")
    assert len(server.unsent) == 1
    server.sendall(b"body")
    assert not server.unsent
    assert received(client, 8) == b"headbody"


def test_a_head_without_a_body_is_sent_at_the_end(pair: Pair) -> None:
    server, client = pair
    server.sendall(b"head")
    server.flush()
    assert not server.unsent
    assert received(client, 4) == b"head"


def test_what_the_client_does_not_take_is_kept_and_holds_nobody(pair: Pair) -> None:
    server, client = pair
    head, body = b"h" * 5_000_000, b"b" * 5_000_000
    began = time.monotonic()
    server.sendall(head)
    server.sendall(body)
    assert time.monotonic() - began < 10 * PATIENCE_S
    assert len(server.unsent) == 2
    server.setblocking(False)
    found = b""
    while server.unsent:
        found += client.recv(1 << 20)
        try:
            server.send_some()
        except BlockingIOError:
            continue
    found += received(client, len(head) + len(body) - len(found))
    assert found == head + body


def test_who_has_more_to_send_waits_for_the_client(pair: Pair) -> None:
    server, client = pair
    server.sendall(b"1" * 5_000_000)
    server.sendall(b"2" * 100)
    client.close()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        server.sendall(b"3")


def test_nothing_is_waited_for_beyond_the_bodys_time(pair: Pair) -> None:
    server, client = pair
    server.body_until = time.monotonic()
    with pytest.raises(TimeoutError):
        server.recv(10)
    client.sendall(b"late")
    assert server.recv(10) == b"late"
