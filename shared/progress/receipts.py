"""Receipts: what became of the files of a user, and when. No row depends on them.

The publisher writes a receipt for each result that was dropped or that changed a published file.
If Redis loses them, only the times and the history are lost: the result of a file follows from the
source bucket and the published files.
"""

import itertools
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from shared.formats.records import InvalidCsv, ReadResult
from shared.redis_keys import CHANGE_VERSIONS, DIRTY_SINCE, READ_TIMES, RECEIPT_TIMES, RECEIPTS
from shared.scripts import split_into_chunks

RECEIPT_TTL_S = 7 * 24 * 3600
"""Seconds for which a receipt is kept after it was written."""
MAX_RECEIPT_USERS = 100_000
"""Users with receipts. The oldest are removed first. They take about 50 MB, and at most 250 MB."""
MAX_USER_RECEIPTS = 5
"""Receipts that are kept of one user, the newest."""
MAX_USER_BYTES = 2_000
"""Bytes of the receipts of one user, with two copies of its ID.

The names of files may be long: a path in a bundle has up to 1 MiB. The oldest receipts that exceed
the limit are removed, and so is the newest one if it exceeds the limit alone.
"""
MAX_EXPIRED = 1_000
"""Receipts that one publish removes because of their age."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receipt:
    """One published result of a user. Times are in Unix seconds, None if they are not known.

    `marked_at`: when the first event since the previous publish was seen; None if no event named
    the user before the read, as in a sweep. `read_at`: when its files had been read. `csv_source`
    and `csv_etag` identify the CSV, a key or a member of a bundle; None without one. `reason` and
    `line` are those of a reject. `image` is the source of the image, None without one.
    `output_etag` is the version of output.csv that has the result.
    """

    marked_at: float | None
    read_at: float | None
    published_at: float
    output_etag: str
    csv_source: str | None
    csv_etag: str | None
    reason: str | None
    line: int | None
    image: str | None

    @property
    def outcome(self) -> tuple[str | None, str | None, str | None, int | None, str | None]:
        """Which files were read, and what became of them: everything but times and version."""
        return self.csv_source, self.csv_etag, self.reason, self.line, self.image


class PublishTimes(NamedTuple):
    """When the published users were marked and read, in Unix seconds."""

    marked_at: Mapping[str, float]
    read_at: Mapping[str, float]


class Receipts:
    """The receipts of all users. `clock` returns Unix seconds.

    Only `read_user` raises `redis.exceptions.RedisError`: without receipts everything else works.
    """

    def __init__(self, client: "Redis", clock: Callable[[], float] = time.time) -> None:
        self._redis: Any = client
        self._clock = clock

    def record_reads(self, user_ids: Sequence[str]) -> None:
        """Record that the files of these users were read, before their results are submitted."""
        now = f"{self._clock():.3f}"
        try:
            for chunk in split_into_chunks(user_ids):
                self._redis.hset(READ_TIMES, mapping=dict.fromkeys(chunk, now))
        except RedisError as error:
            logger.debug("the times of a read are not recorded: %s", error)

    def read_times(self, user_ids: Sequence[str]) -> PublishTimes:
        """Return when these users were marked and read, before they become clean."""
        marked_at: dict[str, float] = {}
        read_at: dict[str, float] = {}
        try:
            for chunk in split_into_chunks(user_ids):
                with self._redis.pipeline(transaction=False) as pipe:
                    pipe.execute_command("ZMSCORE", DIRTY_SINCE["event"], *chunk)
                    pipe.hmget(READ_TIMES, chunk)
                    scores, times = pipe.execute()
                marked_at |= _select_known(chunk, scores)
                read_at |= _select_known(chunk, times)
        except RedisError as error:
            logger.debug("the times of a publish are not known: %s", error)
        return PublishTimes(marked_at, read_at)

    def write(
        self,
        results: Mapping[str, ReadResult],
        changed_users: Collection[str],
        times: PublishTimes,
        output_etag: str,
        now: float,
    ) -> None:
        """Write the receipts of a committed publish.

        Users without an event get one only if they are among the `changed_users`: a rebuild reads
        every user, and says nothing about a file.
        """
        receipts = {
            user_id: _make_receipt(result, times, output_etag, now)
            for user_id, result in results.items()
            if user_id in times.marked_at or user_id in changed_users
        }
        try:
            for chunk in split_into_chunks(list(receipts)):
                self._add(chunk, receipts, now)
        except (RedisError, ValueError) as error:
            logger.info("the receipts of a publish are lost: %s", error)
        # Also if Redis has no memory left for new ones.
        try:
            self._remove_oldest(results, now)
        except RedisError as error:
            logger.info("old receipts are not removed: %s", error)

    def _add(self, user_ids: Sequence[str], receipts: Mapping[str, Receipt], now: float) -> None:
        previous = self._redis.hmget(RECEIPTS, user_ids)
        entries = {
            user_id: _encode_newest(user_id, _prepend(receipts[user_id], _decode(encoded)))
            for user_id, encoded in zip(user_ids, previous, strict=True)
        }
        kept = {user_id: entry for user_id, entry in entries.items() if entry}
        # Earlier receipts would look as if they were the newest.
        too_long = entries.keys() - kept.keys()
        with self._redis.pipeline(transaction=False) as pipe:
            if kept:
                pipe.hset(RECEIPTS, mapping=kept)
                pipe.zadd(RECEIPT_TIMES, dict.fromkeys(kept, now))
            if too_long:
                pipe.hdel(RECEIPTS, *too_long)
                pipe.zrem(RECEIPT_TIMES, *too_long)
            pipe.execute()

    def _remove_oldest(self, results: Collection[str], now: float) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for chunk in split_into_chunks(list(results)):
                pipe.hmget(CHANGE_VERSIONS, chunk)
            versions = itertools.chain.from_iterable(pipe.execute())
        # A user that is dirty again may have been read again: then the time is that of its next
        # receipt.
        clean = [user for user, version in zip(results, versions, strict=True) if not version]
        with self._redis.pipeline(transaction=False) as pipe:
            for chunk in split_into_chunks(clean):
                pipe.hdel(READ_TIMES, *chunk)
            pipe.hlen(READ_TIMES)
            pipe.zcard(RECEIPT_TIMES)
            pipe.zrangebyscore(RECEIPT_TIMES, "-inf", now - RECEIPT_TTL_S, 0, MAX_EXPIRED)
            *_, read_count, count, expired = pipe.execute()
        # Results that were refused leave their times behind.
        if read_count > MAX_RECEIPT_USERS:
            self._redis.delete(READ_TIMES)
        if count > MAX_RECEIPT_USERS:
            expired = self._redis.zrange(RECEIPT_TIMES, 0, count - MAX_RECEIPT_USERS - 1)
        for chunk in split_into_chunks(expired):
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.hdel(RECEIPTS, *chunk)
                pipe.zrem(RECEIPT_TIMES, *chunk)
                pipe.execute()

    def read_user(self, user_id: str) -> tuple[list[Receipt], bool]:
        """Return the receipts of a user, newest first, and whether the user is dirty."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(RECEIPTS, user_id)
            pipe.hexists(CHANGE_VERSIONS, user_id)
            encoded, is_dirty = pipe.execute()
        return _decode(encoded), bool(is_dirty)


def _select_known(user_ids: Sequence[str], values: Sequence[Any]) -> dict[str, float]:
    pairs = zip(user_ids, values, strict=True)
    return {user_id: float(value) for user_id, value in pairs if value is not None}


def _make_receipt(result: ReadResult, times: PublishTimes, output_etag: str, now: float) -> Receipt:
    csv = result.csv
    return Receipt(
        marked_at=times.marked_at.get(result.user_id),
        read_at=times.read_at.get(result.user_id),
        published_at=now,
        output_etag=output_etag,
        csv_source=csv.version.source if csv else None,
        csv_etag=csv.version.etag if csv else None,
        reason=csv.reason if isinstance(csv, InvalidCsv) else None,
        line=csv.line if isinstance(csv, InvalidCsv) else None,
        image=result.image_source or result.image,
    )


def _prepend(receipt: Receipt, previous: Sequence[Receipt]) -> list[Receipt]:
    """Return the receipts with this one first. It replaces the newest one of the same outcome.

    The same files may be read twice: an upload with `?wait=` has an event, too.
    """
    is_repeated = bool(previous) and receipt.outcome == previous[0].outcome
    if _is_marked_after_read(receipt):
        # A mark during a publish restarts at its end, when the files may have been read again.
        known_mark = previous[0].marked_at if is_repeated else None
        receipt = replace(receipt, marked_at=known_mark)
    return [receipt, *previous[is_repeated:]]


def _is_marked_after_read(receipt: Receipt) -> bool:
    if receipt.marked_at is None or receipt.read_at is None:
        return False
    # Times of reads have whole milliseconds.
    return round(receipt.marked_at, 3) > receipt.read_at


def _encode_newest(user_id: str, receipts: Sequence[Receipt]) -> bytes:
    """Return as many of the newest receipts as fit; nothing if the newest one is too long."""
    newest = [_list_fields(receipt) for receipt in receipts[:MAX_USER_RECEIPTS]]
    max_bytes = MAX_USER_BYTES - 2 * len(user_id.encode())
    while newest:
        text = json.dumps(newest, ensure_ascii=False, separators=(",", ":"))
        # A path in a bundle may have lone surrogates.
        entry = text.encode(errors="replace")
        if len(entry) <= max_bytes:
            return entry
        newest.pop()
    return b""


def _decode(entry: bytes | None) -> list[Receipt]:
    """Return the receipts of an entry; none if it has another form, as one of another release."""
    try:
        return [Receipt(*fields) for fields in json.loads(entry or b"[]")]
    except (ValueError, TypeError):
        return []


def _list_fields(receipt: Receipt) -> list[Any]:
    times = (receipt.marked_at, receipt.read_at, receipt.published_at)
    return [
        *(time if time is None else round(time, 3) for time in times),
        receipt.output_etag,
        receipt.csv_source,
        receipt.csv_etag,
        receipt.reason,
        receipt.line,
        receipt.image,
    ]
