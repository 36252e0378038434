"""Records in Redis of what the API requests: rebuilds, and refreshes of single users.

At most one rebuild runs and one is queued. The worker writes the records, and the API reports the
progress of rebuilds. For a refresh (`POST /data/{user_id}`) the worker records that the user is
marked. From then on the API polls until the user is published.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from shared.progress.leases import Lease
from shared.redis_keys import (
    CHANGE_VERSIONS,
    DIRTY_SINCE,
    REBUILD_IDS,
    REBUILD_LEASE,
    REBUILD_PREFIX,
    REBUILD_QUEUED,
    REBUILD_RUNNING,
    REFRESH_REQUEST_PREFIX,
)
from shared.scripts import Scripts, decode_optional, decode_record, decode_text, parse_time

REBUILD_TTL_S = 7 * 24 * 3600
"""Seconds for which the record of a rebuild is kept."""
MAX_REBUILD_RECORDS = 50
"""Records that are listed, the newest."""
REFRESH_REQUEST_TTL_S = 900
"""Seconds for which the record of a refresh is kept: longer than any client waits."""


@dataclass(frozen=True, slots=True)
class RebuildStatus:
    """The progress of a rebuild: `done` of `total` users are published; times are in Unix seconds.

    `state` is queued, running, done or failed. `total` stays None until it is set.
    """

    task_id: str
    state: str
    done: int
    total: int | None
    queued_at: float | None
    started_at: float | None
    finished_at: float | None
    error: str | None


class Rebuilds:
    """The records of rebuilds, and the lease to enqueue the users of one.

    `now` is always in Unix seconds.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self.enqueue_lease = Lease(client, REBUILD_LEASE)
        scripts = Scripts(client)
        self._request = scripts["request_rebuild"]
        self._start = scripts["start_rebuild"]
        self._finish = scripts["finish_rebuild"]
        self._fail = scripts["fail_rebuild"]

    def request(self, now: float) -> tuple[str, bool]:
        """Queue a rebuild unless one is queued already.

        Returns the ID of the queued rebuild, and whether this call queued it.
        """
        new_id = secrets.token_hex(8)
        keys = [REBUILD_QUEUED, REBUILD_PREFIX + new_id]
        task_id, is_new = self._request(keys, [new_id, now, REBUILD_TTL_S])
        if is_new:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.zadd(REBUILD_IDS, {new_id: now})
                pipe.zremrangebyrank(REBUILD_IDS, 0, -MAX_REBUILD_RECORDS - 1)
                pipe.execute()
        return decode_text(task_id), bool(is_new)

    def start(self, task_id: str, now: float) -> bool:
        """Move the queued rebuild to running.

        Returns True if it runs now, also if it did before. Returns False if another rebuild runs,
        or this one has ended.
        """
        keys = [REBUILD_QUEUED, REBUILD_RUNNING, REBUILD_PREFIX + task_id]
        running_id = self._start(keys, [task_id, now])
        return running_id is not None and decode_text(running_id) == task_id

    def set_total(self, task_id: str, total: int) -> None:
        """Record the number of users in the rebuild, as far as it is known."""
        self._redis.hset(REBUILD_PREFIX + task_id, "total", total)

    def mark_enqueued(self, task_id: str) -> None:
        """Record that all users of the rebuild are marked and enqueued."""
        self._redis.hset(REBUILD_PREFIX + task_id, "enqueued", 1)

    def is_enqueued(self, task_id: str) -> bool:
        """Return whether `mark_enqueued` was called for this rebuild."""
        return bool(self._redis.hexists(REBUILD_PREFIX + task_id, "enqueued"))

    def finish_if_done(self, now: float) -> str | None:
        """Set the running rebuild to done if all its users are enqueued and published.

        Returns its ID, or None if no rebuild finished.
        """
        task_id = self._finish([REBUILD_RUNNING, DIRTY_SINCE["rebuild"], REBUILD_PREFIX], [now])
        return decode_text(task_id) if task_id else None

    def fail(self, task_id: str, reason: str, now: float) -> None:
        """Set the running rebuild to failed, with a reason.

        The users that it has marked stay dirty and are read by the ordinary retries.
        """
        self._fail([REBUILD_RUNNING, REBUILD_PREFIX + task_id], [task_id, now, reason])

    def get_queued_id(self) -> str | None:
        """Return the ID of the queued rebuild, or None."""
        return decode_optional(self._redis.get(REBUILD_QUEUED))

    def get_running_id(self) -> str | None:
        """Return the ID of the running rebuild, or None."""
        return decode_optional(self._redis.get(REBUILD_RUNNING))

    def status(self, task_id: str) -> RebuildStatus | None:
        """Return the record of a rebuild, or None if it does not exist or has expired."""
        statuses = self._read_statuses([task_id])
        return statuses[0] if statuses else None

    def list_newest(self) -> list[RebuildStatus]:
        """Return the running, the queued and the latest rebuilds, the unfinished ones first."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.get(REBUILD_RUNNING)
            pipe.get(REBUILD_QUEUED)
            pipe.zrevrange(REBUILD_IDS, 0, MAX_REBUILD_RECORDS - 1)
            running_id, queued_id, newest_ids = pipe.execute()
        task_ids = [decode_text(each) for each in (running_id, queued_id, *newest_ids) if each]
        return self._read_statuses(list(dict.fromkeys(task_ids)))

    def _read_statuses(self, task_ids: Sequence[str]) -> list[RebuildStatus]:
        """Return the records that exist, in this order."""
        with self._redis.pipeline(transaction=True) as pipe:
            for task_id in task_ids:
                pipe.hgetall(REBUILD_PREFIX + task_id)
            pipe.zcard(DIRTY_SINCE["rebuild"])
            *records, dirty_count = pipe.execute()
        return [
            self._parse_status(task_id, record, dirty_count)
            for task_id, record in zip(task_ids, records, strict=True)
            if record
        ]

    @staticmethod
    def _parse_status(
        task_id: str, record: Mapping[bytes, bytes], dirty_count: int
    ) -> RebuildStatus:
        fields = decode_record(record)
        state = fields["state"]
        total = int(fields["total"]) if "total" in fields else None
        unpublished_count = dirty_count if state == "running" else 0
        # Users are marked before `total` is updated, so the count may exceed it for a moment.
        done = 0 if total is None else max(0, total - unpublished_count)
        return RebuildStatus(
            task_id,
            state,
            done,
            total,
            queued_at=parse_time(fields.get("queued_at")),
            started_at=parse_time(fields.get("started_at")),
            finished_at=parse_time(fields.get("finished_at")),
            error=fields.get("error"),
        )


class RefreshRequests:
    """The records of refresh requests.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    @staticmethod
    def new_id() -> str:
        """Return a new random request ID."""
        return secrets.token_hex(8)

    def record_marked(self, request_id: str) -> None:
        """Record that the user is marked: everything dropped before now will be read."""
        self._redis.set(REFRESH_REQUEST_PREFIX + request_id, 1, ex=REFRESH_REQUEST_TTL_S)

    def is_published(self, request_id: str, user_id: str) -> bool:
        """Return whether the user was marked for this request and is no longer dirty."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.exists(REFRESH_REQUEST_PREFIX + request_id)
            pipe.hexists(CHANGE_VERSIONS, user_id)
            is_marked, is_dirty = pipe.execute()
        return bool(is_marked) and not is_dirty
