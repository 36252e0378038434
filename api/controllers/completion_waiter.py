"""Let requests wait until a result is published and every API process serves it.

Only a few may wait concurrently, because each holds a thread that can serve no other request.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from api.snapshot.process_registry import ProcessRegistry

COMPLETION_POLL_S = 0.05
"""Seconds between two checks of a condition that a request waits for."""
TOO_MANY_WAITING = "too many requests already wait in this process; poll Location instead"
NOT_YET_VISIBLE = "done, but not every API process serves the result yet"


class CompletionWaiter:
    """Waiting with a limit: at most `max_waiting` requests wait concurrently in this process.

    `wait_until_visible` raises `redis.exceptions.RedisError` if Redis is unavailable. `wait_until`
    raises what its condition raises.
    """

    def __init__(self, registry: ProcessRegistry, max_waiting: int) -> None:
        self._registry = registry
        self._slots = BoundedSemaphore(max_waiting)

    @contextmanager
    def hold_slot(self) -> Iterator[bool]:
        """Reserve a slot for the duration of the block; yield False if all slots are taken."""
        has_slot = self._slots.acquire(blocking=False)
        try:
            yield has_slot
        finally:
            if has_slot:
                self._slots.release()

    def wait_until(
        self,
        condition: Callable[[], bool],
        deadline: float,
        poll_interval_s: float = COMPLETION_POLL_S,
    ) -> bool:
        """Wait until the condition holds or the deadline passes; return whether it holds.

        `deadline` is in seconds of the monotonic clock.
        """
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(poll_interval_s)
        return True

    def wait_until_visible(self, deadline: float) -> bool:
        """Notify every API process, and return whether all completed a check before the deadline.

        If so, no process serves an older snapshot any more.
        """
        # Only a check that begins after this moment is sure to see what has been published.
        done_at = self._registry.read_clock()
        self._registry.request_poll()
        return self.wait_until(
            lambda: self._registry.all_polled_since(done_at), deadline, COMPLETION_POLL_S / 5
        )
