"""Heartbeat for liveness checks: the modification time of $PROGRESS_FILE.

A process that hangs, or cannot reach its server, still runs and still answers a ping. So each
process touches this file only after a completed turn of its work. Health checks treat it as
unhealthy when the file is stale.
"""

import time
from collections.abc import Callable
from pathlib import Path

from celery.beat import Scheduler
from celery.signals import heartbeat_sent

MIN_HEARTBEAT_INTERVAL_S = 1.0


class Heartbeat:
    """The heartbeat of one process. With an empty path it does nothing."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(path) if path else None
        self._clock = clock
        self._last_beat_at = float("-inf")

    def beat(self) -> None:
        """Record a completed turn. Touches the file at most once per second."""
        if self._path and self._clock() - self._last_beat_at >= MIN_HEARTBEAT_INTERVAL_S:
            self._path.touch()
            self._last_beat_at = self._clock()

    def follow_celery(self) -> None:
        """Record a turn for each heartbeat of a Celery worker.

        The worker's event loop sends them through the broker between tasks, so they prove that both
        work.
        """
        heartbeat_sent.connect(lambda **_: self.beat(), weak=False)


class HeartbeatScheduler(Scheduler):
    """Celery beat's scheduler with a heartbeat.

    It stores no schedule file. The listener requests a sweep at each start, so beat's last run
    times need not survive a restart.
    """

    def tick(self) -> float:  # type: ignore[override]  # the original's parameters are internal
        """Send the tasks that are due; return the seconds until the next one."""
        delay_s: float = super().tick()
        self.app.conf.progress.beat()
        return delay_s
