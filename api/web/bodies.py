"""Encode small JSON responses, and receive bodies of requests within budgets of bytes."""

import asyncio
import json
from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager

import falcon
from falcon.asgi import Request

from api.web.problems import build_too_large_problem, build_unavailable_problem

MAX_BODY_BYTES = 1 << 20
"""Limit of a body that is received as a whole."""
MAX_BUFFERED_BYTES = 16 << 20
"""Limit of the bytes of bodies that one process has received so far and not processed yet."""
BODY_TIMEOUT_S = 10.0
"""Timeout in seconds for the whole body."""


def encode_json(body: object) -> str:
    """Encode a small response as JSON with a final LF, indented to be readable by people, too.

    Raises `TypeError` for a value that JSON cannot encode.
    """
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"


class ByteBudget:
    """The received bytes that one process may hold, in total `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0

    @contextmanager
    def hold(self) -> Iterator["HeldBytes"]:
        """Count what is received in this block until its end."""
        held = HeldBytes(self)
        try:
            yield held
        finally:
            self._held_bytes -= held.count

    def take(self, count: int) -> None:
        """Count more bytes. Raises a 503 if they are too many."""
        self._held_bytes += count
        if self._held_bytes > self._max_bytes:
            detail = "This process already receives too many bodies; retry."
            raise build_unavailable_problem(detail)


class HeldBytes:
    """The bytes of one request that count in a budget."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.count = 0

    async def receive(
        self, chunks: AsyncIterable[bytes], max_bytes: int, what: str = "file"
    ) -> bytearray:
        """Return a whole body. Raises a 413 above `max_bytes`, and a 503 above the budget."""
        received = bytearray()
        # The budget counts received bytes: an announced length costs nothing.
        async for chunk in chunks:
            received += chunk
            if len(received) > max_bytes:
                raise build_too_large_problem(len(received), max_bytes, what)
            self.count += len(chunk)
            self._budget.take(len(chunk))
        return received


class BodyReader:
    """Receives bodies as a whole, each within `timeout_s` seconds and the limits of this module."""

    def __init__(self, timeout_s: float = BODY_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._budget = ByteBudget(MAX_BUFFERED_BYTES)

    async def read(self, request: Request) -> bytes:
        """Return the body. Raises a 400, 408, 413 or 503."""
        length = request.content_length or 0
        if length > MAX_BODY_BYTES:
            raise build_too_large_problem(length, MAX_BODY_BYTES, "body")
        try:
            with self._budget.hold() as held:
                async with asyncio.timeout(self._timeout_s):
                    body = await held.receive(request.stream, MAX_BODY_BYTES, "body")
        except TimeoutError:
            detail = "The body did not arrive before the timeout; nothing was done."
            raise falcon.HTTPError(408, description=detail) from None
        if len(body) < length:
            detail = "The body ended before its Content-Length; nothing was done."
            raise falcon.HTTPBadRequest(description=detail)
        return bytes(body)
