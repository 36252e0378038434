"""Let requests wait until a result is published and every API process serves it.

Only a few may wait concurrently, because each holds a thread that can serve no other request.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from falcon import Request

from api.filters import WrongParameter, single_values
from api.presence import Presence

LONGEST_WAIT_S = 600
A_WAIT = f"a whole number of seconds from 0 to {LONGEST_WAIT_S}"
POLL_S = 0.05
BUSY = "too many requests already wait in this process; poll Location instead"
NOT_SHOWN = "done, but not every API process serves the result yet"


class Waiting:
    """Waiting with a limit: at most `most` requests wait concurrently in this process.

    `shown_by_all` raises `redis.exceptions.RedisError` if Redis is unavailable, and so does `until`
    if its condition does.
    """

    def __init__(self, presence: Presence, most: int) -> None:
        self._presence, self._room = presence, BoundedSemaphore(most)

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Reserve a slot for the duration of the block; yield False if all slots are taken."""
        found = self._room.acquire(blocking=False)
        try:
            yield found
        finally:
            if found:
                self._room.release()

    def until(self, condition: Callable[[], bool], deadline: float, every_s: float = POLL_S) -> bool:
        """Wait until the condition holds or the deadline passes; return whether it holds.

        `deadline` is in seconds of the monotonic clock.
        """
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(every_s)
        return True

    def shown_by_all(self, deadline: float) -> bool:
        """Notify every API process, and return whether all completed a check before the deadline.

        If so, no process serves an older snapshot any more.
        """
        # Only a check that begins after this moment is sure to see what has been published.
        done = self._presence.now()
        self._presence.wake_all()
        return self.until(lambda: self._presence.all_looked_since(done), deadline, POLL_S / 5)


def wait_seconds(request: Request) -> int:
    """Return the seconds that a client wants to wait (`?wait=`), or raise `WrongParameter`."""
    text = single_values(request.params, ("wait",)).get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= LONGEST_WAIT_S):
        raise WrongParameter("wait", f"{text[:40]!r} is not a number of seconds to wait", A_WAIT)
    return int(text)
