"""The publish queue: pending results, the writer lease and what was published last."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis

from shared.formats.records import QUARANTINE_REASON, InvalidCsv, ReadResult
from shared.progress.receipts import Receipts
from shared.redis_keys import (
    CHANGE_VERSIONS,
    COUNTERS,
    DIRTY_SINCE,
    ISOLATED_PREFIX,
    ISOLATED_USERS,
    LAST_PUBLISH,
    LOSS_SIGNALS,
    PENDING_CHANGE_VERSIONS,
    PENDING_RESULTS,
    PUBLISH_DONE_CHANNEL,
    READ_VERSIONS,
    SILENT_DRIFT,
    TRUST_STATE,
    WAKE_BULK,
    WAKE_LIVE,
    WRITER_LEASE,
)
from shared.scripts import CHUNK_SIZE, Scripts, decode_optional, split_into_chunks
from worker.state.loss_signals import LossSignals

WRITER_LEASE_MS = 5000
"""TTL of the writer lease. Another publisher can take over when it expires."""
MAX_BATCH_RESULTS = 20_000
"""Results after which a batch is complete; the next publish takes the others.

The time from one renewal of the lease to the next must be much shorter than its TTL, for any number
of pending results.
"""


class PendingResult(NamedTuple):
    """A pending result.

    `change_version`: the one that it was read after. `read_version`: the one of its acceptance.
    """

    change_version: bytes
    read_version: bytes
    result: ReadResult


class PublishInput(NamedTuple):
    """Input of one publish: the ETags recorded as published, and a batch of results.

    Without a recorded publish, both ETags are missing (None). `has_silent_drift`: there may
    be silent drift among the pending results, see `count_silent_repairs`.
    """

    output_etag: str | None
    rejects_etag: str | None
    pending: dict[str, PendingResult]
    has_silent_drift: bool = False


class LastPublish(NamedTuple):
    """What the last publisher recorded: its token and both ETags, None if never recorded."""

    writer_token: str | None
    output_etag: str | None
    rejects_etag: str | None


class LeaseLost(Exception):
    """The writer lease expired or was taken over: another publisher may be writing."""


class PublishQueue:
    """The results that wait for the publisher, and the lease of the one writer.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(
        self,
        client: "Redis",
        scripts: Scripts,
        loss_signals: LossSignals,
        max_batch_results: int = MAX_BATCH_RESULTS,
    ) -> None:
        self._redis: Any = client
        self._max_batch_results = max_batch_results
        self._receipts = Receipts(client)
        self._acquire_writer = scripts["acquire_writer"]
        self._read_pending = scripts["read_pending"]
        self._commit_publish = scripts["commit_publish"]
        self._renew_writer = scripts["renew_writer"]
        self._release_writer = scripts["release_writer"]
        self._loss_signals = loss_signals

    def wait_for_wakeup(self, keys: Sequence[str], timeout_s: float) -> bool:
        """Wait for a wake-up on these lists; return False after `timeout_s` without one."""
        return self._redis.blpop(list(keys), timeout_s) is not None

    def wake_publisher(self) -> None:
        """Wake the publisher, whether or not a result is pending."""
        self._redis.rpush(WAKE_LIVE, "1")

    def acquire_writer(self, writer_token: str) -> PublishInput | None:
        """Acquire the writer lease and read a batch (ACQUIRE WRITER, READ PENDING).

        Returns None while another publisher holds the lease. Each further chunk renews the lease;
        raises `LeaseLost` if another publisher took it.
        """
        keys = [
            WRITER_LEASE,
            LAST_PUBLISH,
            PENDING_RESULTS,
            PENDING_CHANGE_VERSIONS,
            READ_VERSIONS,
            WAKE_LIVE,
            WAKE_BULK,
            SILENT_DRIFT,
        ]
        reply = self._acquire_writer(keys, [writer_token, WRITER_LEASE_MS, CHUNK_SIZE])
        if reply is None:
            return None
        output_etag, rejects_etag, has_silent_drift, cursor, *chunk = reply
        pending = dict(_parse_pending(*chunk))
        if cursor != b"0":
            pending |= self.read_pending(writer_token, cursor)
            has_silent_drift = True  # a sweep may have recorded some since
        return PublishInput(
            decode_optional(output_etag),
            decode_optional(rejects_etag),
            pending,
            bool(has_silent_drift),
        )

    def read_pending(self, token: str, cursor: bytes = b"0") -> dict[str, PendingResult]:
        """Read a batch of pending results from `cursor` on (READ PENDING).

        It has all of them, or at least `max_batch_results`. Each chunk renews the lease. Raises
        `LeaseLost`.
        """
        keys = [WRITER_LEASE, PENDING_RESULTS, PENDING_CHANGE_VERSIONS, READ_VERSIONS]
        pending: dict[str, PendingResult] = {}
        while True:
            answer = self._read_pending(keys, [token, cursor, CHUNK_SIZE, WRITER_LEASE_MS])
            if answer is None:
                raise LeaseLost
            cursor, *chunk = answer
            pending.update(_parse_pending(*chunk))  # HSCAN may return a user twice
            if cursor == b"0" or len(pending) >= self._max_batch_results:
                return pending

    def renew_writer(self, token: str) -> None:
        """Renew the writer lease. Raises `LeaseLost`."""
        if not self._renew_writer([WRITER_LEASE], [token, WRITER_LEASE_MS]):
            raise LeaseLost

    def commit_publish(
        self,
        token: str,
        output_etag: str,
        rejects_etag: str,
        row_count: int,
        published: Mapping[str, PendingResult],
        now: float,
        changed_users: Collection[str] = (),
    ) -> int:
        """Record what was published and make its users clean (COMMIT PUBLISH).

        Each further chunk renews the lease. Then writes the receipts. `changed_users` have a row or
        reject that this publish changed. Returns the number of results that are still pending, and
        releases the lease. Raises `LeaseLost` if the lease was lost. COMMIT PUBLISH also records
        that as a loss signal, a renewal does not.
        """
        keys = [
            WRITER_LEASE,
            LAST_PUBLISH,
            CHANGE_VERSIONS,
            READ_VERSIONS,
            PENDING_RESULTS,
            PENDING_CHANGE_VERSIONS,
            TRUST_STATE,
            LOSS_SIGNALS,
            COUNTERS,
            ISOLATED_USERS,
            ISOLATED_PREFIX,
        ]
        # An empty batch still records the ETags.
        chunks = list(split_into_chunks(list(published.items()))) or [[]]
        still_pending = 0
        times = self._receipts.read_times(list(published))
        for number, chunk in enumerate(chunks, 1):
            if number > 1:
                self.renew_writer(token)
            arguments: list[Any] = [
                token,
                output_etag,
                rejects_etag,
                now,
                row_count,
                "1" if number == len(chunks) else "0",
                PUBLISH_DONE_CHANNEL,
            ]
            for user, pending in chunk:
                arguments += [
                    user,
                    pending.change_version,
                    pending.read_version,
                    "" if _is_quarantined(pending.result) else "1",
                ]
            still_pending = self._commit_publish([*keys, *DIRTY_SINCE.values()], arguments)
            if still_pending < 0:
                raise LeaseLost
        results = {user: pending.result for user, pending in published.items()}
        self._receipts.write(results, changed_users, times, output_etag, now)
        return still_pending

    def count_silent_repairs(
        self, published_users: Sequence[str], changed_users: Collection[str]
    ) -> list[str]:
        """Count the silent repairs of a publish, and return their users.

        `changed_users`: those of the published users with a row or reject that changes. The others
        were no silent drift: the manifest was stale, not the row.
        """
        repaired = list[str]()
        for chunk in split_into_chunks(published_users):
            flags = self._redis.smismember(SILENT_DRIFT, chunk)
            drift = [user for user, flag in zip(chunk, flags, strict=True) if flag]
            if drift:
                self._redis.srem(SILENT_DRIFT, *drift)
                repaired += [user for user in drift if user in changed_users]
        if repaired:
            self._redis.hincrby(COUNTERS, "silent_repairs", len(repaired))
        return repaired

    def release_writer(self, token: str, *, signal_loss: bool) -> None:
        """Release the writer lease without recording a publish.

        `signal_loss` adds a loss signal.
        """
        self._release_writer([WRITER_LEASE], [token])
        if signal_loss:
            self._loss_signals.add("publish_broken_off")

    def count_pending(self) -> int:
        """Return the number of users with a pending result."""
        return int(self._redis.hlen(PENDING_RESULTS))

    def last_publish(self) -> LastPublish:
        """Return what the last publisher recorded."""
        return LastPublish(
            *map(
                decode_optional,
                self._redis.hmget(LAST_PUBLISH, "writer_token", "output_etag", "rejects_etag"),
            )
        )

    def is_writer_active(self) -> bool:
        """Return whether a publisher holds the writer lease."""
        return bool(self._redis.exists(WRITER_LEASE))


def _is_quarantined(result: ReadResult) -> bool:
    return isinstance(result.csv, InvalidCsv) and result.csv.reason == QUARANTINE_REASON


def _parse_pending(
    entries: Sequence[bytes],
    change_versions: Sequence[bytes | None],
    read_versions: Sequence[bytes | None],
) -> Iterator[tuple[str, PendingResult]]:
    users = map(bytes.decode, entries[::2])
    tokens = zip(users, change_versions, read_versions, entries[1::2], strict=True)
    for user, change_version, read_version, encoded_result in tokens:
        result = ReadResult.from_json(user, encoded_result.decode())
        yield user, PendingResult(change_version or b"", read_version or b"", result)
