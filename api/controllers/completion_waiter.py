"""Let requests wait until a result is published and every API process serves it.

Only a limited number may wait concurrently, because each of them polls Redis.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from api.snapshot.process_registry import ProcessRegistry
from api.web.thread_pool import ThreadPool

COMPLETION_POLL_S = 0.05
"""Seconds between two checks of a condition that a request waits for."""
TOO_MANY_WAITING = "too many requests already wait in this process; poll Location instead"
NOT_YET_VISIBLE = "done, but not every API process serves the result yet"


class CompletionWaiter:
    """Waiting with a limit: at most `max_waiting` requests wait concurrently in this process.

    `wait_until_visible` raises `redis.exceptions.RedisError` if Redis is unavailable. `wait_until`
    raises what its condition raises.
    """

    def __init__(self, registry: ProcessRegistry, max_waiting: int, redis_pool: ThreadPool) -> None:
        self._registry = registry
        self._max_waiting = max_waiting
        self._redis_pool = redis_pool
        self._waiting_count = 0

    @contextmanager
    def hold_slot(self) -> Iterator[bool]:
        """Reserve a slot for the duration of the block; yield False if all slots are taken."""
        has_slot = self._waiting_count < self._max_waiting
        self._waiting_count += has_slot
        try:
            yield has_slot
        finally:
            self._waiting_count -= has_slot

    async def wait_until(
        self,
        condition: Callable[[], Awaitable[bool]],
        deadline: float,
        poll_interval_s: float = COMPLETION_POLL_S,
    ) -> bool:
        """Wait until the condition holds or the deadline passes; return whether it holds.

        `deadline` is in seconds of the monotonic clock.
        """
        while not await condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(poll_interval_s)
        return True

    async def wait_until_visible(self, deadline: float) -> bool:
        """Notify every API process, and return whether all completed a check before the deadline.

        If so, no process serves an older snapshot any more.
        """
        # Only a check that begins after this moment is sure to see what has been published.
        done_at = await self._redis_pool.run(self._registry.read_clock)
        await self._redis_pool.run(self._registry.request_poll)
        return await self.wait_until(
            lambda: self._redis_pool.run(self._registry.all_polled_since, done_at),
            deadline,
            COMPLETION_POLL_S / 5,
        )
