"""Dirty users and their version tokens: mark, read, submit.

A mark makes a user dirty. Each mark renews the user's change version, each accepted result its read
version.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from redis import Redis
from redis.commands.core import Script

from shared.formats.events import MAX_ENTRY_BYTES
from shared.formats.records import ReadResult
from shared.progress.receipts import Receipts
from shared.redis_keys import (
    ACTIVE_READS,
    CATALOG_VERSION,
    CHANGE_VERSIONS,
    DEAD_LETTERS,
    DIRTY_SINCE,
    ISOLATED_USERS,
    MAX_DEAD_LETTERS,
    PENDING_CHANGE_VERSIONS,
    PENDING_RESULTS,
    READ_VERSIONS,
    SILENT_DRIFT,
    SUSPECT_USERS,
    WAKE_BULK,
    WAKE_LIVE,
)
from shared.scripts import Scripts, new_token, split_into_chunks

MAX_SILENT_DRIFT = 100_000
"""Maximum number of users that one sweep records as silent drift. Further ones are repaired but not
counted."""


class VersionTokens(NamedTuple):
    """Version tokens of a dirty user, as they were before its files were read.

    `pending` is the pending result that this read will replace, as JSON. Submitting fails if
    another result was accepted in between.
    """

    change_version: bytes
    read_version: bytes
    pending: bytes = b""


class ReadBatch(dict[str, VersionTokens]):
    """Version tokens of the users to read, and the bundle catalog's version, not read before them.

    `catalog_version` is the catalog version, None if Redis has none. `suspect_users` holds the
    suspect users among them, which may have stray image copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.catalog_version: bytes | None = None
        self.suspect_users: set[str] = set()


class UserStates:
    """The state of each user: whether it is dirty, and what its readers may submit.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis", scripts: Scripts) -> None:
        self._redis: Any = client
        self._receipts = Receipts(client)
        self._mark = scripts["mark"]
        self._begin_read = scripts["begin_read"]
        self._submit_results = scripts["submit_results"]
        self._take_ownership = scripts["take_ownership"]
        self._add_suspects = scripts["add_suspects"]

    def mark(self, user_ids: Sequence[str], cause: str, now: float) -> None:
        """Mark users without an event, for example for a sweep or a rebuild (MARK)."""
        for chunk in split_into_chunks(user_ids):
            run_mark(self._mark, "", cause, ["", "", len(chunk), *chunk], now)

    def record_silent_drift(self, user_ids: Sequence[str]) -> None:
        """Record users that a sweep marks next although no event named them.

        The publisher counts each of them with a row or reject that it changes.
        """
        for chunk in split_into_chunks(user_ids[:MAX_SILENT_DRIFT]):
            self._redis.sadd(SILENT_DRIFT, *chunk)

    def begin_read(self, user_ids: Sequence[str], read_id: str = "") -> ReadBatch:
        """Return the version tokens of the users to read, before any file is read (BEGIN READ).

        These are the dirty users, except those with a pending result read after their last mark.
        With a `read_id`, the users are also recorded as being read, until `submit_results` or
        `end_read` gets that ID. The watchdog isolates the users of a record that remains.
        """
        batch = ReadBatch()
        encoded_users = json.dumps(list(user_ids), ensure_ascii=False) if read_id else ""
        for chunk in split_into_chunks(user_ids):
            # Keeps the catalog version of the last chunk. It must not be older than any user's
            # tokens, as an unpack renews it before it marks the users of the bundle.
            keys = [
                CHANGE_VERSIONS,
                READ_VERSIONS,
                PENDING_RESULTS,
                PENDING_CHANGE_VERSIONS,
                ACTIVE_READS,
                CATALOG_VERSION,
                SUSPECT_USERS,
            ]
            batch.catalog_version, suspects, *tokens = self._begin_read(
                keys, [read_id, encoded_users, *chunk]
            )
            batch.suspect_users.update(user.decode() for user in suspects)
            batch |= {
                user: VersionTokens(change_version, read_version, pending or b"")
                for user, change_version, read_version, pending in zip(chunk, *tokens, strict=True)
                if change_version
            }
        return batch

    def end_read(self, read_id: str) -> None:
        """Delete the record of a read that ended without a result."""
        self._redis.hdel(ACTIVE_READS, read_id)

    def submit_results(
        self,
        results: Sequence[tuple[VersionTokens, ReadResult]],
        read_id: str = "",
        copied_users: Collection[str] = (),
    ) -> list[str]:
        """Submit results by compare-and-set of the read version (SUBMIT RESULTS).

        Ends the read `read_id`. `copied_users`: users with an image that this read has copied.
        Returns the users to read again with new version tokens, because another result was accepted
        since theirs were read.
        """
        refused = []
        self._receipts.record_reads([result.user_id for _, result in results])
        # Without results, one call still ends the read.
        chunks = list(split_into_chunks(results)) or [[]]
        for number, chunk in enumerate(chunks, 1):
            # Only the last chunk deletes the record, which a worker killed before it leaves behind.
            arguments: list[Any] = [new_token(), read_id if number == len(chunks) else ""]
            for version_tokens, result in chunk:
                user_id = result.user_id
                arguments += [
                    user_id,
                    version_tokens.change_version,
                    version_tokens.read_version,
                    result.to_json(),
                    "1" if user_id in copied_users else "",
                ]
            keys = [
                CHANGE_VERSIONS,
                READ_VERSIONS,
                PENDING_RESULTS,
                PENDING_CHANGE_VERSIONS,
                DIRTY_SINCE["event"],
                WAKE_LIVE,
                WAKE_BULK,
                ACTIVE_READS,
                SUSPECT_USERS,
            ]
            replies = self._submit_results(keys, arguments)
            refused += [
                result.user_id
                for (_, result), reply in zip(chunk, replies, strict=True)
                if reply == b"refused"
            ]
        return refused

    def take_ownership(self, user_id: str, version_tokens: VersionTokens) -> VersionTokens | None:
        """Take ownership before a write that is not a result (TAKE OWNERSHIP).

        Such a write is that of bundles.json. The renewed read version is a fencing token: results
        of other readers are refused, and a pending one is discarded. Returns the tokens to submit
        with, None if another reader submitted or took ownership since these were read.
        """
        read_version = new_token()
        keys = [CHANGE_VERSIONS, READ_VERSIONS, PENDING_RESULTS, PENDING_CHANGE_VERSIONS]
        return (
            version_tokens._replace(read_version=read_version.encode())
            if self._take_ownership(keys, [user_id, version_tokens.read_version, read_version])
            else None
        )

    def add_suspects(self, user_ids: Sequence[str]) -> None:
        """Mark users as suspect (ADD SUSPECTS).

        They may have, or may yet get, stray image copies.
        """
        keys = [SUSPECT_USERS, CHANGE_VERSIONS, READ_VERSIONS, DIRTY_SINCE["bundle"]]
        for chunk in split_into_chunks(user_ids):
            self._add_suspects(keys, [new_token(), *chunk])

    def clear_suspects(self, user_ids: Collection[str]) -> None:
        """Clear suspect users after a submitted result has accounted for all their copies."""
        if user_ids:
            self._redis.srem(SUSPECT_USERS, *user_ids)

    def dirty_users(self) -> set[str]:
        """Return all users that are dirty now."""
        return {user.decode() for user in self._redis.hkeys(CHANGE_VERSIONS)}

    def dirty_tokens(self, user_ids: Sequence[str]) -> dict[str, VersionTokens]:
        """Return the version tokens of the dirty users among these, whether read since or not."""
        tokens_by_user = dict[str, VersionTokens]()
        for chunk in split_into_chunks(user_ids):
            with self._redis.pipeline(transaction=True) as pipeline:
                versions = pipeline.hmget(CHANGE_VERSIONS, chunk).hmget(READ_VERSIONS, chunk)
                tokens = zip(chunk, *versions.execute(), strict=True)
            tokens_by_user |= {
                user: VersionTokens(change_version, read_version)
                for user, change_version, read_version in tokens
                if change_version
            }
        return tokens_by_user

    def overdue_users(self, cause: str, before: float, limit: int) -> list[str]:
        """Return up to `limit` users marked for this cause before `before` and not read since.

        The message that named them may be lost.
        """
        users = [
            user.decode()
            for user in self._redis.zrange(
                DIRTY_SINCE[cause], "-inf", before, byscore=True, offset=0, num=limit
            )
        ]
        return list(self.begin_read(users))

    def marked_by_event(self, user_ids: Sequence[str]) -> set[str]:
        """Return those of the users that are dirty because of an event."""
        scores = self._redis.zmscore(DIRTY_SINCE["event"], user_ids) if user_ids else []
        return {user for user, score in zip(user_ids, scores, strict=True) if score is not None}


def run_mark(
    script: Script, event_list: str, cause: str, arguments: list[Any], now: float
) -> list[str]:
    """Run the script MARK and return the users to read now.

    `arguments` are those of the script per event.
    """
    keys = [
        event_list,
        CHANGE_VERSIONS,
        READ_VERSIONS,
        DIRTY_SINCE[cause],
        DEAD_LETTERS,
        ISOLATED_USERS,
        DIRTY_SINCE["unpack"],  # of bundles, for any cause
    ]
    limits = [MAX_DEAD_LETTERS, MAX_ENTRY_BYTES]
    marked = script(keys, [new_token(), now, *limits, *arguments])
    return [user.decode() for user in marked]
