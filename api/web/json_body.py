"""Encode small JSON responses, and receive small bodies of requests."""

import asyncio
import json

import falcon
from falcon.asgi import Request

from api.web.problems import Problem, build_unavailable_problem

MAX_BODY_BYTES = 1 << 20
"""Limit of a body that is received as a whole."""
MAX_BUFFERED_BYTES = 16 << 20
"""Limit of the bytes of bodies that one process has received so far and not processed yet."""
RECEIVE_S = 10.0
"""Timeout in seconds for the whole body."""


def encode_json(body: object) -> str:
    """Encode a small response as JSON with a final LF, indented to be readable by people, too.

    Raises `TypeError` for a value that JSON cannot encode.
    """
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"


class BodyReader:
    """Receives bodies as a whole, each within `receive_s` seconds and the limits of this module."""

    def __init__(self, receive_s: float = RECEIVE_S) -> None:
        self._receive_s = receive_s
        self._buffered_bytes = 0

    async def read(self, request: Request) -> bytes:
        """Return the body. Raises a 400, 408, 413 or 503."""
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise _build_too_large_problem()
        body = bytearray()
        try:
            async with asyncio.timeout(self._receive_s):
                async for chunk in request.stream:
                    body += chunk
                    self._buffered_bytes += len(chunk)
                    self._check_limits(body)
        except TimeoutError:
            detail = "The body did not arrive before the timeout; nothing was done."
            raise falcon.HTTPError(408, description=detail) from None
        finally:
            self._buffered_bytes -= len(body)
        if len(body) < (request.content_length or 0):
            detail = "The body ended before its Content-Length; nothing was done."
            raise falcon.HTTPBadRequest(description=detail)
        return bytes(body)

    def _check_limits(self, body: bytearray) -> None:
        # A chunked body has no Content-Length.
        if len(body) > MAX_BODY_BYTES:
            raise _build_too_large_problem()
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            detail = "This process already receives too many bodies; retry."
            raise build_unavailable_problem(detail)


def _build_too_large_problem() -> Problem:
    detail = f"A body may have at most {MAX_BODY_BYTES:,} bytes."
    return Problem("too-large", detail, most_bytes=MAX_BODY_BYTES)
