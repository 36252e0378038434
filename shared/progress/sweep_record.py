"""State of sweeps in Redis: the last one, the running one, and the enqueued one.

The record of the last sweep has the fields at (Unix seconds), cause, objects, marked and metrics
(MinIO's metrics before its LIST), and for silent changes: silent_repairs (their counter before its
LIST), expects_drift ("1" if it verified a loss signal or a start, else empty) and silent_countdown.

A silent change is one that no event announced, such as a forced deletion. Such changes come in
series. So after a sweep that finds one, sweeps are more frequent until `CLEAN_SWEEPS` in a row find
none. What a sweep finds is known for sure when it is published: then the counter of silent repairs
grows. Bundles and image copies are known earlier, and set the countdown.

Lease and request expire, so a killed sweep or a lost message does not block the next sweep.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from redis import Redis

from shared.progress.leases import Lease
from shared.redis_keys import (
    COUNTERS,
    LAST_SWEEP,
    SWEEP_HISTORY,
    SWEEP_LEASE,
    SWEEP_REQUESTED,
)
from shared.scripts import decode_optional, decode_record
from shared.task_queue import TaskQueue

SWEEP_REQUEST_TTL_S = 120
"""After this time, an enqueued sweep that did not begin counts as lost. Another can be enqueued."""

MAX_SWEEP_HISTORY = 50
"""Sweeps that the history keeps, the newest."""

CLEAN_SWEEPS = 3
"""Sweeps in a row that must find no silent change before the regular interval applies again."""


class FinishedSweep(NamedTuple):
    """A sweep that has marked all its users; times are in Unix seconds."""

    started_at: float
    finished_at: float
    cause: str
    objects: int
    marked: int


class SilentChanges(NamedTuple):
    """What is known about silent changes: `repair_count`, the counter of silent repairs.

    `countdown`: how many sweeps must still find none; 0 if none was found lately.
    """

    repair_count: int
    countdown: int

    def count_down(self, *, found: bool, expects_drift: bool) -> int:
        """Return the countdown after one more sweep. Pure.

        `found`: it found a silent change for sure. `expects_drift`: what it finds has a known
        cause, so it proves nothing.
        """
        if expects_drift:
            return self.countdown
        return CLEAN_SWEEPS if found else max(0, self.countdown - 1)


def parse_silent_changes(record: Mapping[str, str], repair_count: int) -> SilentChanges:
    """Return what the record of the last sweep says about silent changes. Pure.

    `repair_count`: the counter of silent repairs now. Its growth since the sweep is what the sweep
    found, unless that was expected.
    """
    known_count = int(record.get("silent_repairs", repair_count))
    if repair_count > known_count and not record.get("expects_drift"):
        return SilentChanges(repair_count, CLEAN_SWEEPS)
    return SilentChanges(repair_count, int(record.get("silent_countdown", 0)))


class SweepRecord:
    """The record of the last sweep, the `lease` of the running one, and the request for the next.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self.lease = Lease(client, SWEEP_LEASE)

    def get_field(self, field: str) -> str | None:
        """Return a field of the last sweep, None if it is missing."""
        return decode_optional(self._redis.hget(LAST_SWEEP, field))

    def add_to_history(self, sweep: FinishedSweep) -> None:
        """Add a sweep to those that are shown; nothing else depends on it."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.lpush(SWEEP_HISTORY, json.dumps(sweep))
            pipe.ltrim(SWEEP_HISTORY, 0, MAX_SWEEP_HISTORY - 1)
            pipe.execute()

    def list_history(self) -> list[FinishedSweep]:
        """Return the newest sweeps, the newest first."""
        return [
            FinishedSweep(*json.loads(each)) for each in self._redis.lrange(SWEEP_HISTORY, 0, -1)
        ]

    def read_silent_changes(self) -> SilentChanges:
        """Return what is known about silent changes."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(LAST_SWEEP)
            pipeline.hget(COUNTERS, "silent_repairs")
            record, repair_count = pipeline.execute()
        return parse_silent_changes(decode_record(record), int(repair_count or 0))

    def request(self, tasks: TaskQueue, cause: str) -> None:
        """Enqueue a sweep, unless one is already enqueued.

        Raises `kombu.exceptions.OperationalError` if the message cannot be sent.
        """
        if self._redis.set(SWEEP_REQUESTED, cause, nx=True, ex=SWEEP_REQUEST_TTL_S):
            tasks.sweep(cause)

    def hold_lease(self) -> AbstractContextManager[bool]:
        """Consume the request, and hold the lease of the running sweep: see `Lease.hold`."""
        # The message is consumed whether or not the lease is free: another sweep can be enqueued.
        self._redis.delete(SWEEP_REQUESTED)
        return self.lease.hold()

    def is_running(self) -> bool:
        """Return whether a sweep is running."""
        return self.lease.is_held()

    def is_requested(self) -> bool:
        """Return whether a sweep is enqueued and still waits for a worker."""
        return bool(self._redis.exists(SWEEP_REQUESTED))
