"""A TCP proxy that can cut connections in the middle of an answer."""

import selectors
import socket
import threading
from contextlib import suppress
from typing import Self

from local.ports import HOST, find_free_port


class CuttingProxy:
    """Forwards connections from `port` to another local port, while it is in a `with` block.

    `cut_after_bytes`: number of bytes of an answer after which the connection is cut (None: never).
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = find_free_port()
        self.cut_after_bytes: int | None = None
        self.cut_count = 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Start listening."""
        self._listening = socket.create_server((HOST, self.port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening, and cut all connections."""
        self._listening.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Cut all open connections."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._close(pair)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = socket.create_connection((HOST, self._target), timeout=5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                with self._lock:
                    self._pairs.add((client, server))
                threading.Thread(target=self._serve, args=((client, server),), daemon=True).start()

    def _serve(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with selectors.DefaultSelector() as selector, suppress(OSError, ValueError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    if not self._forward(key.fileobj, key.data, is_answer=key.fileobj is server):  # type: ignore[arg-type]
                        self._close(pair)
                        return
        self._close(pair)

    def _forward(self, source: socket.socket, target: socket.socket, *, is_answer: bool) -> bool:
        data = source.recv(65536)
        limit = self.cut_after_bytes
        if is_answer and limit is not None and len(data) > limit:
            self.cut_count += 1
            target.sendall(data[:limit])
            return False
        target.sendall(data)
        return bool(data)

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
