"""Tests of `api.web.bodies.BodyReader`: its limits of bytes and time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import falcon
import pytest

from api.web.bodies import MAX_BODY_BYTES, MAX_BUFFERED_BYTES, BodyReader
from api.web.problems import Problem


class RequestStub:
    """A request with a body in these chunks; after them it waits for `is_released`."""

    def __init__(self, *chunks: bytes, length: int | None = None) -> None:
        self.content_length = length
        self.chunks = chunks
        self.is_released = asyncio.Event()

    @property
    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the chunks, then wait."""
        for chunk in self.chunks:
            yield chunk
        await self.is_released.wait()


def read(reader: BodyReader, request: Any) -> Any:  # noqa: ANN401
    return reader.read(request)


def run_refused(request: RequestStub, timeout_s: float = 10) -> int:
    with pytest.raises(falcon.HTTPError) as refused:
        asyncio.run(read(BodyReader(timeout_s), request))
    return refused.value.status_code


def test_body_reader_returns_all_chunks() -> None:
    request = RequestStub(b"a", b"", b"bc", length=3)
    request.is_released.set()
    assert asyncio.run(read(BodyReader(), request)) == b"abc"


def test_body_reader_refuses_announced_length_without_reading() -> None:
    assert run_refused(RequestStub(length=MAX_BODY_BYTES + 1)) == 413


def test_body_reader_stops_at_limit_of_chunked_body() -> None:
    assert run_refused(RequestStub(b"x" * MAX_BODY_BYTES, b"x")) == 413


def test_body_reader_refuses_body_shorter_than_its_length() -> None:
    request = RequestStub(b"ab", length=3)
    request.is_released.set()
    assert run_refused(request) == 400


def test_body_reader_ends_slow_body() -> None:
    assert run_refused(RequestStub(b"a", length=3), timeout_s=0.01) == 408


def test_body_reader_limits_bytes_of_all_unfinished_bodies() -> None:
    async def fill_and_refuse() -> None:
        reader = BodyReader()
        count = MAX_BUFFERED_BYTES // MAX_BODY_BYTES
        slow = [RequestStub(b"x" * MAX_BODY_BYTES) for _ in range(count)]
        tasks = [asyncio.create_task(read(reader, request)) for request in slow]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            await read(reader, RequestStub(b"x"))
        assert refused.value.kind == "unavailable"
        for request in slow:
            request.is_released.set()
        assert {len(body) for body in await asyncio.gather(*tasks)} == {MAX_BODY_BYTES}
        last = RequestStub(b"x")
        last.is_released.set()
        assert await read(reader, last) == b"x"

    asyncio.run(fill_and_refuse())
