"""The watchdog: every 15 s it re-enqueues overdue users and turns loss signals into a sweep.

It also isolates users if their read may have killed a worker. It runs as a thread of the listener's
process. Several watchdogs may run concurrently.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from shared.object_store import StoreUnavailable
from shared.progress.pipeline_status import OperatorStatus
from shared.progress.sweep_record import SweepRecord
from shared.task_queue import TaskQueue
from worker.state.loss_signals import START_CAUSE

logger = logging.getLogger(__name__)

TICK_S = 15.0


class Check(Protocol):
    """One of the periodic checks."""

    def tick(self, now: float) -> None:
        """Check once. `now`: Unix seconds."""


class CountingStart:
    """Records since when the counters count, because Redis may have lost that."""

    def __init__(self, status: OperatorStatus) -> None:
        self._status = status

    def tick(self, now: float) -> None:
        """Record the time unless one is recorded."""
        self._status.start_counting(now)


class Watchdog:
    """Runs all periodic checks, in the order of the list.

    `upgrade` removes the state of earlier releases from Redis. It is called at each tick, because
    their processes may still run. `clock` returns Unix seconds.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        sweeps: SweepRecord,
        tasks: TaskQueue,
        upgrade: Callable[[], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._checks = checks
        self._sweeps = sweeps
        self._tasks = tasks
        self._upgrade = upgrade
        self._clock = clock

    def run_forever(self) -> None:
        """Tick every 15 s until the process ends; upgrade the keys and request a sweep first.

        Events may have been lost before the start. An unexpected exception ends the process.
        """
        try:
            self._tick_forever()
        except BaseException:
            # A thread that dies alone would go unnoticed: the listener keeps its heartbeat fresh.
            logger.exception("the watchdog failed; exiting, so that the process is restarted")
            os._exit(1)

    def _tick_forever(self) -> None:
        is_started = False
        while True:
            try:
                if not is_started:
                    self.start()
                self.tick()
                is_started = True
            except (RedisError, OperationalError, StoreUnavailable) as error:
                logger.warning("the watchdog's tick failed; the next tick retries: %s", error)
            time.sleep(TICK_S)

    def start(self) -> None:
        """Upgrade the keys in Redis if those of an earlier release exist, and request a sweep."""
        self._upgrade()
        self._sweeps.request(self._tasks, START_CAUSE)

    def tick(self) -> None:
        """Run all checks once.

        Raises `RedisError`, `OperationalError` or `StoreUnavailable` if a check fails in an outage
        of Redis or MinIO. The checks after it are skipped, and the next tick begins with the first.
        """
        self._upgrade()
        now = self._clock()
        for check in self._checks:
            check.tick(now)
