"""What the API shows to the operator: counters, and conditions that expire."""

from typing import Any

from redis import Redis

from shared.redis_keys import COUNTERS, SOURCE_FAILURE

STATUS_TTL_S = 60
"""TTL in seconds of conditions that `/health/ready` reports."""


class OperatorStatus:
    """Counters, and conditions that `/health/ready` reports.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def increment(self, counter: str, amount: int = 1) -> None:
        """Add `amount` to a counter for the operator."""
        if amount:
            self._redis.hincrby(COUNTERS, counter, amount)

    def counter_value(self, counter: str) -> int:
        """Return the value of a counter."""
        return int(self._redis.hget(COUNTERS, counter) or 0)

    def start_counting(self, now: float) -> None:
        """Record when counting began, unless that is recorded."""
        self._redis.hsetnx(COUNTERS, "since", now)

    def set_source_failure(self, reason: str) -> None:
        """Record why the source bucket could not be read.

        The record expires after 60 s, or ends with `clear_source_failure`.
        """
        self._redis.set(SOURCE_FAILURE, reason, ex=STATUS_TTL_S)

    def clear_source_failure(self) -> None:
        """Clear the recorded failure: the source bucket could be read again."""
        self._redis.delete(SOURCE_FAILURE)
