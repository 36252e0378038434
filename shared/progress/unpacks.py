"""Records of unpacking bundles in Redis. One bundle is unpacked at a time.

The worker writes the records. The API reports the progress from them.

The ID identifies a version of a bundle: the same archive under the same key has the same ID.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from shared.formats.source_keys import parse_bundle_id
from shared.redis_keys import (
    DIRTY_SINCE,
    PREVIOUS_VERSIONS,
    UNPACK_ATTEMPTS,
    UNPACK_IDS,
    UNPACK_PREFIX,
    UNPACKS_PUBLISHING,
)
from shared.scripts import Scripts, decode_record, decode_text, parse_time

UNPACK_TTL_S = 7 * 24 * 3600
"""Seconds for which the record of an unpack is kept."""
MAX_UNPACK_RECORDS = 1000
"""Records that are listed, the newest."""
MAX_LISTED_BUNDLES = 100
"""Bundles that GET /tasks lists: at most this many waiting ones, and this many newest records.

The status counts ignored members from the same records.
"""


@dataclass(frozen=True, slots=True)
class UnpackStatus:
    """The progress of unpacking one version of a bundle; times are in Unix seconds.

    `state` is one of:

    - unpacking: `done` of `total` members are unpacked. `total` stays None until it is
      known, which for a tar is at its end.
    - publishing: the members are visible, and `published` of `users` are published.
    - done.
    - rejected, with an `error`.
    - failed, with an `error`: the attempt ended, and the bundle is tried again.
    - superseded: the archive was replaced or deleted before it was unpacked.
    - removed: the archive was deleted.

    `ignored` counts the members that are not read, and `ignored_members` has position, path and
    reason of some of them. A time stays None until the event happens.
    """

    task_id: str
    bundle: str
    state: str
    done: int
    total: int | None
    users: int
    published: int
    ignored: int
    started_at: float | None
    finished_at: float | None
    error: str | None
    ignored_members: tuple[tuple[int, str, str], ...] = ()

    @property
    def has_no_users(self) -> bool:
        """Whether the bundle is unpacked and has no file of a user."""
        return self.state in {"publishing", "done"} and not self.users


def select_visible(newest: Iterable[UnpackStatus]) -> Iterator[UnpackStatus]:
    """Yield the record of the visible version of each bundle; `newest` are records, newest first.

    A version that is rejected or failed leaves the one before it visible.
    """
    bundles: set[str] = set()
    for status in newest:
        if status.bundle in bundles or status.state not in {"publishing", "done", "removed"}:
            continue
        bundles.add(status.bundle)
        if status.state != "removed":
            yield status


class Unpacks:
    """The records of unpacking. `now` is always in Unix seconds.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._finish = Scripts(client)["finish_unpacks"]

    # -- one bundle -------------------------------------------------------------------------------
    def begin_attempt(self, task_id: str, bundle: str, now: float) -> int:
        """Record an attempt to unpack a version of a bundle, before it begins.

        Resets the record. Returns the number of the attempt, which counts the attempts that did not
        end normally.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(UNPACK_PREFIX + task_id)
            pipe.hset(
                UNPACK_PREFIX + task_id,
                mapping={"bundle": bundle, "state": "unpacking", "started_at": now, "done": 0},
            )
            pipe.expire(UNPACK_PREFIX + task_id, UNPACK_TTL_S)
            pipe.zadd(UNPACK_IDS, {task_id: now})
            pipe.zremrangebyrank(UNPACK_IDS, 0, -MAX_UNPACK_RECORDS - 1)
            *_, attempt_number = pipe.hincrby(UNPACK_ATTEMPTS, task_id, 1).execute()
        return int(attempt_number)

    def end_attempt(self, task_id: str) -> None:
        """Refund the attempt: it ended normally, with or without success."""
        self._redis.hdel(UNPACK_ATTEMPTS, task_id)

    def grant_retry(self, task_id: str, attempt_count: int) -> None:
        """Set the number of attempts made, to grant one more."""
        self._redis.hset(UNPACK_ATTEMPTS, task_id, attempt_count)

    def is_retry_granted(self, task_id: str) -> bool:
        """Return whether an attempt was granted that has not started yet."""
        return bool(self._redis.hexists(UNPACK_ATTEMPTS, task_id))

    def set_progress(self, task_id: str, done: int, total: int | None) -> None:
        """Record how many members are unpacked, and their total number if it is known."""
        fields: dict[str, str | float] = {"done": done}
        if total is not None:
            fields["total"] = total
        self._update(task_id, fields)

    def set_ignored_members(self, task_id: str, members: Sequence[tuple[int, str, str]]) -> None:
        """Record position, path and reason of some members that are not read."""
        self._update(task_id, {"ignored_members": json.dumps(members)})

    def set_publishing(self, task_id: str, users: int, ignored: int, now: float) -> None:
        """Record that the members are visible and their users are marked."""
        counts: dict[str, str | float] = {"users": users, "ignored": ignored}
        self._update(task_id, {"state": "publishing", **counts, "marked_at": now})
        self._redis.sadd(UNPACKS_PUBLISHING, task_id)

    def finish_published(self, now: float) -> list[str]:
        """Set the bundles that have no unpublished users left to done, and return their IDs."""
        keys = [UNPACKS_PUBLISHING, DIRTY_SINCE["bundle"], UNPACK_PREFIX]
        return [decode_text(task_id) for task_id in self._finish(keys, [now])]

    def set_superseded(self, task_id: str, now: float) -> None:
        """Record that the archive was replaced or deleted, if it was being unpacked."""
        if self._redis.hget(UNPACK_PREFIX + task_id, "state") == b"unpacking":
            self.set_final_state(task_id, "superseded", now)

    def end_other_attempts(self, bundle: str, task_id: str, now: float) -> None:
        """End the attempts that were killed, and the granted ones, of other versions of a bundle.

        `task_id` is that of the archive that is there now; empty without one.
        """
        for other_id, other_bundle in self._find_attempts():
            if other_bundle == bundle and other_id != task_id:
                self.set_superseded(other_id, now)
                self.end_attempt(other_id)

    def set_final_state(self, task_id: str, state: str, now: float, error: str = "") -> None:
        """Record a final state: rejected, failed, superseded or removed."""
        fields: dict[str, str | float] = {"state": state, "finished_at": now}
        if error:
            fields["error"] = error
        self._update(task_id, fields)

    def _update(self, task_id: str, fields: Mapping[str, str | float]) -> None:
        if self._redis.exists(UNPACK_PREFIX + task_id):  # otherwise it has expired
            self._redis.hset(UNPACK_PREFIX + task_id, mapping=fields)

    # -- queries ----------------------------------------------------------------------------------
    def list_waiting_bundles(self) -> list[str]:
        """Return the keys of the bundles not yet unpacked or published as rejects, oldest first."""
        bundle_ids = self._redis.zrange(DIRTY_SINCE["unpack"], 0, MAX_UNPACK_RECORDS)
        keys = (parse_bundle_id(decode_text(bundle_id)) for bundle_id in bundle_ids)
        return [key for key in keys if key is not None]

    def find_tried_bundles(self) -> set[str]:
        """Return the keys of bundles with an attempt that did not end, or is granted by a sweep."""
        return {bundle for _, bundle in self._find_attempts()}

    def _find_attempts(self) -> list[tuple[str, str]]:
        """Return the attempts that did not end, or are granted: their IDs and bundles."""
        task_ids = [decode_text(task_id) for task_id in self._redis.hkeys(UNPACK_ATTEMPTS)]
        with self._redis.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.hget(UNPACK_PREFIX + task_id, "bundle")
            bundles = pipe.execute()
        return [
            (task_id, decode_text(bundle))
            for task_id, bundle in zip(task_ids, bundles, strict=True)
            if bundle
        ]

    def status(self, task_id: str) -> UnpackStatus | None:
        """Return the record of this ID, or None if it does not exist or has expired."""
        record = self._redis.hgetall(UNPACK_PREFIX + task_id)
        return self._parse_status(task_id, record) if record else None

    def _parse_status(self, task_id: str, record: Mapping[bytes, bytes]) -> UnpackStatus:
        fields = decode_record(record)
        state = fields["state"]
        users = int(fields.get("users", 0))
        unpublished_count = 0
        if state == "publishing":
            # An upper bound, because it includes users of other bundles that were marked earlier.
            unpublished_count = self._redis.zcount(
                DIRTY_SINCE["bundle"], "-inf", fields["marked_at"]
            )
        return UnpackStatus(
            task_id,
            bundle=fields["bundle"],
            state=state,
            done=int(fields["done"]),
            total=int(fields["total"]) if "total" in fields else None,
            users=users,
            published=max(0, users - unpublished_count),
            ignored=int(fields.get("ignored", 0)),
            started_at=parse_time(fields.get("started_at")),
            finished_at=parse_time(fields.get("finished_at")),
            error=fields.get("error"),
            ignored_members=tuple(
                (int(number), str(path), str(reason))
                for number, path, reason in json.loads(fields.get("ignored_members", "[]"))
            ),
        )

    def list_newest(self, limit: int) -> list[UnpackStatus]:
        """Return at most `limit` records, newest first."""
        encoded_ids = self._redis.zrevrange(UNPACK_IDS, 0, limit - 1)
        task_ids = [decode_text(task_id) for task_id in encoded_ids]
        with self._redis.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.hgetall(UNPACK_PREFIX + task_id)
            records = pipe.execute()
        return [
            self._parse_status(task_id, record)
            for task_id, record in zip(task_ids, records, strict=True)
            if record
        ]


class PreviousVersions:
    """The versions of bundles that were visible and have users that are not marked yet.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        self._clear = Scripts(client)["clear_previous_versions"]

    def add_digests(self, bundle: str, digests: Iterable[str]) -> None:
        """Record the digests that were visible, before the catalog entry changes.

        Their users must be marked after the change, even if this process dies before that.
        """
        # A union, because the users of an earlier change may not be marked yet.
        all_digests = {*digests, *(self.digests(bundle) or ())} - {""}
        self._redis.hset(PREVIOUS_VERSIONS, bundle, json.dumps(sorted(all_digests)))

    def digests(self, bundle: str) -> list[str] | None:
        """Return the digests recorded by `add_digests`, or None if all their users are marked."""
        encoded = self._redis.hget(PREVIOUS_VERSIONS, bundle)
        return None if encoded is None else list(json.loads(encoded))

    def clear_digests(self, bundle: str, digests: Iterable[str]) -> None:
        """Delete the record: all users of these digests are marked.

        Does nothing if more digests were recorded since.
        """
        # Compare-and-delete: the sorted JSON is exactly what `add_digests` wrote.
        self._clear([PREVIOUS_VERSIONS], [bundle, json.dumps(sorted(digests))])
