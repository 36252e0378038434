"""Poison-file isolation: attempts at users that may have killed or stalled a worker.

The record of a read is stored before the read and deleted when it ends. Only a kill or a hang
orphans it. From then on its users are read in isolation, one message each. A user that is read
successfully leaves isolation. After `MAX_READ_ATTEMPTS` attempts that killed or stalled a worker,
the CSV with that ETag is quarantined: a reject that is not read. Quarantine ends with another
version of the file. Each sweep grants one more attempt.

An attempt is presumed dead after a number of watchdog ticks that takes longer than the deadline of
`worker.reading.deadline`. Ticks are counted, not time, so clock skew cannot quarantine a file.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis

from shared.redis_keys import ACTIVE_READS, CHANGE_VERSIONS, ISOLATED_PREFIX, ISOLATED_USERS
from shared.scripts import Scripts

MAX_READ_ATTEMPTS = 3
"""Retry budget: isolated reads of one file version that may kill or stall their worker."""


class IsolatedUser(NamedTuple):
    """Attempts at an isolated user.

    `attempt_count` is the number of attempts not refunded. `attempt_id` is the token of the attempt
    that may be running, or empty.
    """

    attempt_count: int
    attempt_id: str

    @property
    def is_exhausted(self) -> bool:
        """Whether all attempts are used up: the file is, or is about to be, quarantined."""
        return self.attempt_count >= MAX_READ_ATTEMPTS and not self.attempt_id


class ReadAttempts:
    """Isolated users and their attempts in Redis.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis", scripts: Scripts) -> None:
        self._redis: Any = client
        self._isolate = scripts["isolate"]
        self._read_attempt = scripts["read_attempt"]

    # -- reads in progress -------------------------------------------------------------------------
    def active_reads(self) -> list[str]:
        """Return the tokens of reads that are in progress or orphaned."""
        return [read_id.decode() for read_id in self._redis.hkeys(ACTIVE_READS)]

    def users_of_reads(self, read_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the users of these reads. Reads that have ended are omitted."""
        if not read_ids:
            return {}
        replies = zip(read_ids, self._redis.hmget(ACTIVE_READS, read_ids), strict=True)
        return {read_id: json.loads(users) for read_id, users in replies if users}

    def isolate(self, read_id: str, user_ids: Sequence[str]) -> list[str]:
        """Isolate the dirty users of a read that did not end, and return them (ISOLATE)."""
        keys = [ACTIVE_READS, CHANGE_VERSIONS, ISOLATED_USERS]
        return [user.decode() for user in self._isolate(keys, [read_id, *user_ids])]

    # -- isolated users ----------------------------------------------------------------------------
    def isolated_ids(self) -> set[str]:
        """Return all isolated users, quarantined ones included."""
        return {user.decode() for user in self._redis.smembers(ISOLATED_USERS)}

    def isolated_users(self) -> dict[str, IsolatedUser]:
        """Return the attempts of all isolated users."""
        users = self.isolated_ids()
        with self._redis.pipeline(transaction=False) as pipeline:
            for user in users:
                pipeline.hmget(ISOLATED_PREFIX + user, "attempt_count", "attempt_id")
            records = pipeline.execute()
        return {
            user: IsolatedUser(int(attempt_count or 0), (attempt_id or b"").decode())
            for user, (attempt_count, attempt_id) in zip(users, records, strict=True)
        }

    def begin_attempt(self, user_id: str, attempt_id: str, etag: str) -> str:
        """Start the attempt with this token at the file version `etag` (empty without a CSV).

        Returns "read" if the attempt may begin; it counts until it is refunded. Otherwise returns
        "exhausted" (no attempts left), "busy" (another attempt may be running) or "not_isolated"
        (the user is not isolated).
        """
        return self._run(user_id, "begin", attempt_id, etag, MAX_READ_ATTEMPTS)

    def refund_attempt(self, user_id: str, attempt: str) -> None:
        """Refund the attempt: it ended without a result, for a reason unrelated to the file."""
        self._run(user_id, "refund", attempt)

    def expire_attempt(self, user_id: str, attempt: str) -> None:
        """End an attempt that cannot be running any more. It killed or stalled its worker."""
        self._run(user_id, "expire", attempt)

    def clear_users(self, user_ids: Iterable[str]) -> None:
        """End the isolation of users that were read, or that need no read."""
        for user_id in user_ids:
            self._run(user_id, "clear")

    def grant_retry(self, etags: Mapping[str, str]) -> None:
        """Grant one more attempt to each quarantined user; `etags` maps each to its CSV's ETag."""
        for user_id, etag in etags.items():
            self._run(user_id, "grant_retry", etag, MAX_READ_ATTEMPTS)

    def restore_quarantine(self, etags: Mapping[str, str]) -> None:
        """Restore quarantine state from rejects.csv, which Redis may have lost.

        `etags` maps each quarantined user to the ETag of its CSV.
        """
        for user_id, etag in etags.items():
            self._run(user_id, "restore", etag, MAX_READ_ATTEMPTS)

    def _run(self, user_id: str, *arguments: str | int) -> str:
        keys = [ISOLATED_USERS, ISOLATED_PREFIX + user_id]
        reply: bytes = self._read_attempt(keys, [user_id, *arguments])
        return reply.decode()
