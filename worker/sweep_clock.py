"""The clock of the regular sweeps, in the process of the bulk worker."""

import logging
import time
from collections.abc import Callable

from celery.signals import heartbeat_sent
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)


class SweepClock:
    """Calls `enqueue_sweep` every `interval_s` seconds. `clock` returns seconds.

    Several clocks are harmless: one sweep runs at a time. The listener requests a sweep at each
    start, so nothing has to survive a restart.
    """

    def __init__(
        self,
        enqueue_sweep: Callable[[], object],
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enqueue_sweep = enqueue_sweep
        self._interval_s = interval_s
        self._clock = clock
        self._enqueued_at = clock()

    def follow_celery(self) -> None:
        """Tick with each heartbeat of a Celery worker.

        Its event loop sends one every 2 s while it is connected to Redis.
        """
        heartbeat_sent.connect(lambda **_: self.tick(), weak=False)

    def tick(self) -> None:
        """Enqueue a sweep if it is due; after an error, try again at the next tick."""
        now = self._clock()
        if now - self._enqueued_at < self._interval_s:
            return
        try:
            self._enqueue_sweep()
            self._enqueued_at = now
        except OperationalError as error:
            logger.warning("cannot enqueue the regular sweep, trying again: %s", error)
