"""Leases: locks in Redis that expire, so that one process at a time does a job."""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock

logger = logging.getLogger(__name__)

LEASE_TTL_S = 60
"""Seconds after which a lease expires, unless its holder renews it."""


class Lease:
    """The lease of one key. Its holder is a thread, so threads may share this object.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis", key: str) -> None:
        self._key = key
        # The lock keeps a token per thread. With one token per object, a thread that lost the lease
        # to another thread of its process would renew and release the lease of that thread.
        self._lock = Lock(client, key, timeout=LEASE_TTL_S, blocking=False, thread_local=True)

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold the lease while the block runs; yield False, without it, if it is held already."""
        is_acquired = self._lock.acquire(token=secrets.token_hex(9))
        try:
            yield is_acquired
        finally:
            if is_acquired:
                self._release()

    def _release(self) -> None:
        try:
            self._lock.release()
        except LockNotOwnedError:
            logger.warning(
                "%s expired before its holder released it, and another process may hold it; "
                "what this process left undone is enqueued again",
                self._key,
            )

    def renew(self) -> None:
        """Renew the lease of this thread, which must happen at least once a minute.

        Raises `redis.exceptions.LockNotOwnedError` if it has expired, even if it is free: another
        process may have held it since. The holder must then end its job. That error is a
        `RedisError`, so Celery retries the task.
        """
        self._lock.reacquire()

    def is_held(self) -> bool:
        """Return whether a process holds the lease."""
        return self._lock.locked()
