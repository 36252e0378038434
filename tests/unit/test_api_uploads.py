"""The limits of bodies that are received, on an event loop that skips every wait."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any

import falcon
import pytest

from api.web.thread_pool import ThreadPool
from api.web.transfers import (
    CHUNK_TIMEOUT_S,
    MAX_BUFFERED_BODY_BYTES,
    MAX_BUFFERED_FORM_BYTES,
    MIN_BODY_TIMEOUT_S,
    MIN_BYTES_PER_S,
    SEGMENT_BYTES,
    FormFile,
    Transfers,
)
from tests.fakes import FakeObjectStore

CHUNK_S = 8.0


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop with its own time, in which every wait ends immediately."""

    def __init__(self) -> None:
        super().__init__(SkippingSelector(self))
        self.skipped_s = 0.0

    def time(self) -> float:
        """Return the time in seconds, with all waits that were skipped."""
        return super().time() + self.skipped_s


class SkippingSelector(selectors.DefaultSelector):
    """A selector that adds its timeouts to the time of its loop."""

    def __init__(self, loop: SkippingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:  # noqa: ANN401
        """Return what is ready now; wait for it only if no timer runs."""
        if timeout:
            self._loop.skipped_s += timeout
        return super().select(None if timeout is None else 0)


def run_on_skipping_loop(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(coroutine)


def make_transfers() -> Transfers:
    store = FakeObjectStore("src-data", lambda: 0.0)
    return Transfers(store.bucket, lambda: store, ThreadPool("store", 2, 5.0))


async def upload(transfers: Transfers, stream: AsyncIterator[bytes], length: int) -> str:
    request: Any = SimpleNamespace(stream=stream)
    return await transfers.store_upload(request, "1.png", length)


async def send_rarely(chunk: bytes) -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(CHUNK_S)
        yield chunk


async def send_nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize("length", [1000, 2 * SEGMENT_BYTES])
def test_upload_fails_without_bytes_in_time(length: int) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        with pytest.raises(falcon.HTTPError) as raised:
            await upload(make_transfers(), send_nothing(), length)
        assert raised.value.status_code == 408
        assert CHUNK_TIMEOUT_S <= loop.time() - started_at < 2 * CHUNK_TIMEOUT_S

    run_on_skipping_loop(run())


def test_upload_fails_below_minimum_rate() -> None:
    length = SEGMENT_BYTES

    async def run() -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        with pytest.raises(falcon.HTTPError) as raised:
            await upload(make_transfers(), send_rarely(b"x" * 10), length)
        assert raised.value.status_code == 408
        deadline_s = MIN_BODY_TIMEOUT_S + length / MIN_BYTES_PER_S
        assert deadline_s <= loop.time() - started_at < deadline_s + CHUNK_TIMEOUT_S

    run_on_skipping_loop(run())


def test_upload_is_refused_above_budget_of_received_bytes() -> None:
    """Announced lengths cost nothing, received bytes do."""
    count = MAX_BUFFERED_BODY_BYTES // SEGMENT_BYTES
    released = asyncio.Event()

    async def send_half(chunk: bytes) -> AsyncIterator[bytes]:
        yield chunk
        await released.wait()
        yield b"x"

    async def send_late() -> AsyncIterator[bytes]:
        await released.wait()
        yield b"x"

    async def run() -> None:
        transfers = make_transfers()
        half = b"x" * (SEGMENT_BYTES - 100)
        waiting = [
            asyncio.create_task(upload(transfers, send_half(half), len(half) + 1))
            for _ in range(count)
        ]
        announced = asyncio.create_task(upload(transfers, send_late(), 1))
        await asyncio.sleep(0)
        with pytest.raises(falcon.HTTPError) as raised:
            await upload(transfers, send_half(half), len(half) + 1)
        assert raised.value.status_code == 503
        released.set()
        assert all(await asyncio.gather(*waiting, announced))
        assert await upload(transfers, send_half(half), len(half) + 1)

    asyncio.run(run())


def test_slow_forms_delay_no_other_upload() -> None:
    """Forms have a budget of their own, which they give back."""
    form_bytes = MAX_BUFFERED_FORM_BYTES // 2
    released = asyncio.Event()

    async def send_half() -> AsyncIterator[bytes]:
        yield b"x" * (form_bytes - 100)
        await released.wait()

    async def send_once() -> AsyncIterator[bytes]:
        yield b"x" * 1000

    async def list_files(stream: AsyncIterator[bytes]) -> AsyncIterator[FormFile]:
        yield FormFile("1.png", stream, form_bytes)

    async def run() -> None:
        transfers = make_transfers()
        waiting = [
            asyncio.create_task(transfers.store_form(list_files(send_half()), form_bytes))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(falcon.HTTPError) as raised:
            await transfers.store_form(list_files(send_once()), form_bytes)
        assert raised.value.status_code == 503
        assert await upload(transfers, send_once(), 1000)
        released.set()
        assert await asyncio.gather(*waiting) == [["1.png"]] * 2
        assert await transfers.store_form(list_files(send_once()), form_bytes) == ["1.png"]

    asyncio.run(run())
