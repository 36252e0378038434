"""Run blocking calls in a few threads, so that they do not block the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from api.web.problems import Problem, build_unavailable_problem

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


COMPUTE_THREADS = 2
"""Threads of one process for what takes more than about 2 ms; more would delay the event loop."""
COMPUTE_WAIT_S = 5.0
"""Seconds that a computation waits for a thread."""
REDIS_THREADS = 8
"""Threads of one process for calls that wait for Redis."""
STORE_THREADS = 6
"""Threads of one process for calls that wait for the object store."""
SERVER_WAIT_S = 0.5
"""Seconds that a call waits for a thread; a responsive server frees one in milliseconds."""
MAX_QUEUED_CALLS = 64
"""Calls of one pool that may wait for a thread."""


class ThreadPool:
    """At most `max_threads` threads, and at most `max_queued` calls that wait for one.

    A call waits at most `max_wait_s` seconds. `name` is shown to clients and in thread names.
    Threads are started on demand, so the pool can be created before a fork.
    """

    def __init__(
        self, name: str, max_threads: int, max_wait_s: float, max_queued: int = MAX_QUEUED_CALLS
    ) -> None:
        self._name = name
        self._executor = ThreadPoolExecutor(max_threads, thread_name_prefix=name)
        self._free_threads = asyncio.Semaphore(max_threads)
        self._max_queued = max_queued
        self._max_wait_s = max_wait_s
        self._queued_count = 0

    async def run(
        self,
        call: Callable[_Parameters, _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        """Call a function in a thread; return its result or raise its exception.

        Raises a 503 `Problem` if too many calls wait already, or if the wait takes too long. If the
        request is cancelled, a running call continues and keeps its thread.
        """
        await self._acquire_thread()
        loop = asyncio.get_running_loop()
        future = self._executor.submit(partial(call, *args, **kwargs))
        try:
            return await asyncio.wrap_future(future)
        finally:
            # Only now: if the event loop is busy, results of several MB each must not pile up.
            if future.done():
                self._free_threads.release()
            else:
                future.add_done_callback(
                    lambda _: loop.call_soon_threadsafe(self._free_threads.release)
                )

    async def _acquire_thread(self) -> None:
        if not self._free_threads.locked():
            await self._free_threads.acquire()
            return
        if self._queued_count >= self._max_queued:
            raise self._build_busy_problem()
        self._queued_count += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._free_threads.acquire()
        except TimeoutError:
            raise self._build_busy_problem() from None
        finally:
            self._queued_count -= 1

    def _build_busy_problem(self) -> Problem:
        detail = f"Too many requests already wait for a thread ({self._name}); retry."
        return build_unavailable_problem(detail)
