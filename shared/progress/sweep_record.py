"""State of sweeps in Redis: the last one, the running one, and the enqueued one.

The record of the last sweep has the fields at (Unix seconds), cause, objects, marked and metrics
(MinIO's metrics before its LIST).

Lease and request expire, so a killed sweep or a lost message does not block the next sweep.
"""

from contextlib import AbstractContextManager
from typing import Any

from redis import Redis

from shared.progress.leases import Lease
from shared.redis_keys import LAST_SWEEP, SWEEP_LEASE, SWEEP_REQUESTED
from shared.task_queue import TaskQueue

SWEEP_REQUEST_TTL_S = 120
"""After this time, an enqueued sweep that did not begin counts as lost. Another can be enqueued."""


class SweepRecord:
    """The record of the last sweep, the `lease` of the running one, and the request for the next.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self.lease = Lease(client, SWEEP_LEASE)

    def get_field(self, field: str) -> str | None:
        """Return a field of the last sweep, None if it is missing."""
        value = self._redis.hget(LAST_SWEEP, field)
        return None if value is None else value.decode()

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
