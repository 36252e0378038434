"""Which TCP ports of 127.0.0.1 are free."""

import secrets
import socket

HOST = "127.0.0.1"


def is_port_free(port: int) -> bool:
    """Return whether a server could listen on this port of 127.0.0.1 now."""
    # First connect: macOS allows a bind to 127.0.0.1 while another server listens on all addresses.
    with socket.socket() as client_socket:
        client_socket.settimeout(1)
        if client_socket.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as server_socket:
        # Like servers do: connections in TIME_WAIT must not make the port count as busy.
        server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server_socket.bind((HOST, port))
        except OSError:
            return False
        return True


def find_free_port() -> int:
    """Return a free port below the kernel's range for outgoing connections.

    The port is not reserved.  Another process may take it before the caller binds it.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if is_port_free(port):
            return port
