"""A sign of progress for health checks: the time of the last change of $PROGRESS_FILE.

A process that hangs, or whose server is away, still runs and still answers a ping.  So each of them touches this file
only when it has got a turn of its work done, and counts as unhealthy when the file grows old.
"""

import time
from collections.abc import Callable
from pathlib import Path

from celery.beat import Scheduler
from celery.signals import heartbeat_sent

EVERY_S = 1.0


class Progress:
    """The sign of one process.  Without a path it does nothing."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock, self._last = Path(path) if path else None, clock, float("-inf")

    def made(self) -> None:
        """A turn is done.  Costs nothing more than once a second."""
        if self._path and self._clock() - self._last >= EVERY_S:
            self._path.touch()
            self._last = self._clock()

    def made_by_heartbeats(self) -> None:
        """Let each heartbeat of a Celery worker count: its loop sends them, between tasks, by its broker."""
        heartbeat_sent.connect(lambda **_: self.made(), weak=False)


class WatchedScheduler(Scheduler):
    """Beat's scheduler, which shows that it turns.

    It keeps no file: a sweep is asked for whenever the listener starts, so that nothing hangs on what beat remembers.
    """

    def tick(self) -> float:  # type: ignore[override]  # what else the original takes are its own functions
        """Send what is due; the seconds until something is due again."""
        delay: float = super().tick()
        self.app.conf.progress.made()
        return delay
