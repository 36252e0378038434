"""Run blocking calls in a few threads, so that they do not block the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

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
        self._max_pending = max_threads + max_queued
        self._max_wait_s = max_wait_s
        self._pending = set[Future[Any]]()

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
        if len(self._pending) >= self._max_pending:
            raise self._build_busy_problem()
        future = self._executor.submit(partial(call, *args, **kwargs))
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        # A call that runs already cannot be cancelled.
        timer = asyncio.get_running_loop().call_later(self._max_wait_s, future.cancel)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._build_busy_problem() from None
        finally:
            timer.cancel()

    def _build_busy_problem(self) -> Problem:
        detail = f"Too many requests already wait for a thread ({self._name}); retry."
        return build_unavailable_problem(detail)
