"""Heartbeat for liveness checks: the modification time of $PROGRESS_FILE.

A process that hangs, or cannot reach its server, still runs and still answers a ping. So each
process touches this file only after a completed turn of its work. Health checks treat it as
unhealthy when the file is stale.
"""

import time
from collections.abc import Callable
from pathlib import Path

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
        from celery.signals import heartbeat_sent  # noqa: PLC0415  the publisher has no Celery

        heartbeat_sent.connect(lambda **_: self.beat(), weak=False)
