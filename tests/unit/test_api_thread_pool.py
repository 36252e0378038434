"""The thread pools of the API: results, errors, and limits of what waits."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from api.web.problems import Problem
from api.web.thread_pool import MAX_QUEUED_CALLS, ThreadPool


def test_thread_pool_returns_results_and_raises_errors() -> None:
    pool = ThreadPool("test", 2, 5.0)

    async def run() -> None:
        assert await pool.run(max, 1, 2) == 2
        assert await pool.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)

    asyncio.run(run())


async def expect_busy(call: Coroutine[Any, Any, object]) -> None:
    with pytest.raises(Problem) as raised:
        await call
    assert raised.value.kind == "unavailable"


def test_thread_pool_refuses_calls_above_its_limit() -> None:
    release = threading.Event()
    pool = ThreadPool("test", 1, 60.0)

    async def run() -> None:
        calls = [
            asyncio.create_task(pool.run(release.wait, 10)) for _ in range(1 + MAX_QUEUED_CALLS)
        ]
        await asyncio.sleep(0)
        await expect_busy(pool.run(release.wait, 10))
        release.set()
        assert all(await asyncio.gather(*calls))
        assert await pool.run(release.wait, 10)

    asyncio.run(run())


def test_thread_pool_refuses_calls_that_wait_too_long() -> None:
    release = threading.Event()
    pool = ThreadPool("test", 1, 0.01)

    async def run() -> None:
        # The limit is for the wait, not for the call.
        running = asyncio.create_task(pool.run(release.wait, 10))
        await asyncio.sleep(0)
        await expect_busy(pool.run(release.wait, 10))
        release.set()
        assert await running

    asyncio.run(run())


def test_thread_pool_starts_no_call_before_a_result_arrived() -> None:
    """Results must not pile up while the event loop is busy."""
    pool = ThreadPool("test", 1, 5.0)
    started: list[int] = []

    async def run() -> None:
        tasks = [asyncio.create_task(pool.run(started.append, number)) for number in range(3)]
        await asyncio.sleep(0)
        time.sleep(0.2)  # the loop is busy
        assert started == [0]
        await asyncio.gather(*tasks)
        assert started == [0, 1, 2]

    asyncio.run(run())


def test_thread_pool_passes_cancellation_of_the_request_on() -> None:
    release = threading.Event()
    pool = ThreadPool("test", 1, 60.0, max_queued=1)

    async def run() -> None:
        task = asyncio.create_task(pool.run(release.wait, 10))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        queued = asyncio.create_task(pool.run(max, 1, 2))
        await asyncio.sleep(0)
        # The call that was cancelled has the thread, so the next one waits and fills the queue.
        async with asyncio.timeout(5):
            await expect_busy(pool.run(max, 1, 2))
        release.set()
        assert await queued == 2

    asyncio.run(run())
