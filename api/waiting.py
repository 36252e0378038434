"""Requests that wait for work to be done and shown: few at a time, as each holds a thread that answers nobody else."""

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
BUSY = "as many requests wait in this process as it has room for; look at Location instead"
NOT_SHOWN = "done, but some API process has not looked at the result yet"


class Waiting:
    """At most `most` requests wait at a time.  Its methods raise what a Redis that is away raises."""

    def __init__(self, presence: Presence, most: int) -> None:
        self._presence, self._room = presence, BoundedSemaphore(most)

    @contextmanager
    def place(self) -> Iterator[bool]:
        """A place in the room, for as long as the block lasts; False when there is none."""
        found = self._room.acquire(blocking=False)
        try:
            yield found
        finally:
            if found:
                self._room.release()

    def until(self, condition: Callable[[], bool], deadline: float, every_s: float = POLL_S) -> bool:
        """Wait until the condition holds, or the deadline (of the monotonic clock) is over; whether it holds."""
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(every_s)
        return True

    def shown_by_all(self, deadline: float) -> bool:
        """Have every API process look; whether each has, so that none shows anything older."""
        done = self._presence.now()
        self._presence.wake_all()
        return self.until(lambda: self._presence.all_looked_since(done), deadline, POLL_S / 5)


def wait_seconds(request: Request) -> int:
    """How long a client wants to wait, by `?wait=`.  Raises `WrongParameter`."""
    text = single_values(request.params, ("wait",)).get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= LONGEST_WAIT_S):
        raise WrongParameter("wait", f"{text[:40]!r} is no time to wait", A_WAIT)
    return int(text)
