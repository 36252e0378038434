"""Which TCP ports of 127.0.0.1 are free."""

import secrets
import socket

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as visitor:  # macOS lets two servers bind one port when one of them takes all addresses
        visitor.settimeout(1)
        if visitor.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port nobody listens on now, below the range the kernel hands to outgoing connections.

    Nothing keeps it: use it soon.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if is_free(port):
            return port
