"""A client's connection as gunicorn's threads have it: none of them waits long for the client."""

import socket
import time
from collections import deque
from typing import Any

RECEIVE_S = 10.0
"""How long a thread waits for the next bytes of a body that is streamed."""
PATIENCE_S = 0.2
"""How long a thread tries to send before it leaves the rest to the loop."""
LITTLE_BYTES = 4096
SEND_S = 20.0
"""How long a thread that streams waits until the client has taken what it was sent before."""


class ClientSocket(socket.socket):
    """A client's connection.  For gunicorn "blocking" means: used by a thread, which never waits for long."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.unsent, self.body_until = deque[memoryview](), 0.0

    def setblocking(self, flag: bool) -> None:
        self.settimeout(PATIENCE_S if flag else 0)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """What has come, at most `size` bytes.  Raises `TimeoutError` after `RECEIVE_S`, or when the body is late."""
        until = min(time.monotonic() + RECEIVE_S, self.body_until)
        while True:
            try:
                return super().recv(size, flags)
            except TimeoutError:
                if time.monotonic() > until:
                    raise

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ANN401  whatever has bytes
        """Send it, or keep in `unsent` what the client does not take at once.

        A little is kept for what comes next, as a head is sent together with its body: see `flush`.  Two parts may be
        kept; who has more to send waits for the client.
        """
        if len(self.unsent) > 1:
            self._send_unsent()
        self.unsent.append(memoryview(data))
        if len(self.unsent) > 1 or len(data) > LITTLE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what was kept, as far as the client takes it at once.  Raises `OSError` when the client is gone."""
        until = time.monotonic() + PATIENCE_S
        try:
            while self.unsent and time.monotonic() <= until:
                self.send_some()
        except (TimeoutError, BlockingIOError):
            return

    def send_some(self) -> None:
        """Send as much of `unsent` as the client takes now."""
        sent = self.sendmsg(self.unsent)
        while self.unsent and sent >= len(self.unsent[0]):
            sent -= len(self.unsent.popleft())
        if sent:
            self.unsent[0] = self.unsent[0][sent:]

    def _send_unsent(self) -> None:
        until = time.monotonic() + SEND_S
        while self.unsent:
            if time.monotonic() > until:
                raise BrokenPipeError("the client does not take what it asked for")
            try:
                self.send_some()
            except (TimeoutError, BlockingIOError):
                continue
