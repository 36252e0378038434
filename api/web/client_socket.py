"""The socket of a client connection, which limits how long a thread waits for a slow client."""

import socket
import time
from collections import deque
from typing import Any

RECEIVE_S = 10.0
"""Timeout in seconds of a thread for the next bytes of a streamed request body."""
SEND_ATTEMPT_S = 0.2
"""Seconds that a thread tries to send before the event loop sends the rest."""
MAX_DELAYED_BYTES = 4096
"""Up to this size the first part of a response is buffered, to be sent with the next part."""
SEND_S = 20.0
"""Timeout in seconds of a streaming thread until the client has received the previous parts."""


class ClientSocket(socket.socket):
    """A client connection with short timeouts.

    gunicorn makes a socket "blocking" while a thread uses it. Here such a socket has a timeout of
    `SEND_ATTEMPT_S` instead.
    """

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.unsent = deque[memoryview]()
        self.body_until = 0.0

    def setblocking(self, flag: bool) -> None:
        """Set a short timeout instead of blocking mode; False means non-blocking as usual."""
        self.settimeout(SEND_ATTEMPT_S if flag else 0)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return received data, at most `size` bytes.

        Raises `TimeoutError` after `RECEIVE_S`, or at the deadline of the body (`body_until`).
        """
        until = min(time.monotonic() + RECEIVE_S, self.body_until)
        while True:
            try:
                return super().recv(size, flags)
            except TimeoutError:
                if time.monotonic() > until:
                    raise

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ANN401
        """Send data; buffer in `unsent` what the client does not accept immediately.

        A first part of at most `MAX_DELAYED_BYTES` is only buffered, so that a head is sent in one
        packet with its body. `flush` sends a head without a body. At most two parts are buffered:
        with more, the call blocks until the client has received them, at most `SEND_S`.
        """
        if len(self.unsent) > 1:
            self._send_unsent()
        self.unsent.append(memoryview(data))
        if len(self.unsent) > 1 or len(data) > MAX_DELAYED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send buffered data for at most `SEND_ATTEMPT_S`; the rest stays in `unsent`.

        Raises `OSError` if the client has closed the connection.
        """
        until = time.monotonic() + SEND_ATTEMPT_S
        try:
            while self.unsent and time.monotonic() <= until:
                self.send_some()
        except (TimeoutError, BlockingIOError):
            return

    def send_some(self) -> None:
        """Send as much of `unsent` as the socket accepts in one call."""
        sent = self.sendmsg(self.unsent)
        while self.unsent and sent >= len(self.unsent[0]):
            sent -= len(self.unsent.popleft())
        if sent:
            self.unsent[0] = self.unsent[0][sent:]

    def _send_unsent(self) -> None:
        until = time.monotonic() + SEND_S
        while self.unsent:
            if time.monotonic() > until:
                raise BrokenPipeError("the client did not read the response in time")
            try:
                self.send_some()
            except (TimeoutError, BlockingIOError):
                continue
