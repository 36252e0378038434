"""The pipeline's state in Redis: event inbox, dirty users, pending results, loss signals.

Rowdrop reconciles level-triggered: an event, sweep or rebuild only marks a user dirty. A reader
then computes the result from the files as they are at that time. Results are accepted by
compare-and-set of version tokens. Each atomic step is one Lua script in `worker/state/lua/`.

Version tokens are random and are only compared for equality. They need no order, so they stay
correct when Redis is emptied or restarts from an older snapshot. Every method raises
`redis.exceptions.RedisError` if Redis is unavailable.

The keys are declared in `shared.redis_keys`.
"""

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from redis import Redis
from redis.commands.core import Script

from shared.formats.events import MAX_ENTRY_BYTES, TruncatedEntry
from shared.formats.records import QUARANTINE_REASON, InvalidCsv, ReadResult
from shared.redis_keys import (
    ACTIVE_READS,
    CATALOG_VERSION,
    COUNTERS,
    DEAD_LETTERS,
    DIRTY,
    DIRTY_SINCE,
    EVENTS_AVAILABLE,
    FAST_EVENTS,
    ISOLATED_USERS,
    LAST_PUBLISH,
    LAST_SWEEP,
    LOSS_SIGNALS,
    LOSS_SIGNALS_IN_SWEEP,
    MAX_DEAD_LETTERS,
    PAGES,
    PENDING_RESULTS,
    PROBE,
    PROBE_OF_VERSION_1,
    PUBLISH_DONE_CHANNEL,
    SAFE_EVENTS,
    SAFE_QUEUE,
    SEEN_PREFIX,
    SILENT_DRIFT,
    SOURCE_FAILURE,
    SUSPECT_USERS,
    TRUST_STATE,
    WAKE_BULK,
    WAKE_LIVE,
    WRITER_LEASE,
)

logger = logging.getLogger(__name__)

CHUNK_SIZE = 500
"""Users per script call. Redis serves no other client for the few milliseconds of a call."""
WRITER_LEASE_MS = 5000
"""TTL of the writer lease. Another publisher can take over when it expires."""
SEEN_S = 600
"""TTL in seconds of the count of fast events that still lack their durable copy."""
STATUS_TTL_S = 60
"""TTL in seconds of conditions that `/health/ready` reports."""
MAX_EXCERPT_BYTES = 200
"""Bytes of an event that its dead letter keeps."""
MAX_PEEK_BYTES = 16 << 20
"""A batch of events ends when this many bytes were read. The rest belongs to the next batch."""
MAX_SILENT_DRIFT = 100_000
"""Maximum number of users recorded as silent drift. Further ones are repaired but not counted."""

LOSS_SIGNAL_KINDS = {
    "minio_restarted": "MinIO was restarted",
    "events_skipped": "MinIO skipped events because its in-memory queue was full",
    "events_failed": "MinIO failed to send events",
    "safe_queue_stalled": "MinIO's on-disk queue of durable event copies is stalled",
    "rules_missing": "MinIO's notification rules for the source bucket were missing",
    "redis_restarted": "Redis was restarted",
    "redis_emptied": "Redis was emptied",
    "files_changed": "output.csv, rejects.csv or bundles.json is not what was last written",
    "publish_broken_off": "a publish was aborted, and its writes may have happened",
    "publisher_replaced": "a publisher lost its lease while it wrote",
}
"""The kinds of loss signals. Each has the same effect: the watchdog requests a sweep."""
FIRST_START = "first_start"
"""Reason of a sweep that finds neither a trust state nor a loss signal: the first sweep of all."""

_Item = TypeVar("_Item")


class DecodedEntry(NamedTuple):
    """One decoded entry of an event list: the users to mark, or why it could not be decoded."""

    raw: bytes
    user_ids: Sequence[str]
    decode_error: str | None = None


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

    `catalog_version` is the catalog version, None if Redis has none. `suspect_users` holds the suspect users among
    them, which may have stray image copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.catalog_version: bytes | None = None
        self.suspect_users: set[str] = set()


class PendingResult(NamedTuple):
    """A pending result. `version_tokens`: "change version|read version", with which it was accepted."""

    version_tokens: bytes
    result: ReadResult


class PublishInput(NamedTuple):
    """Input of one publish: the ETags recorded as published, and all pending results.

    Without a recorded publish, both ETags are missing (None). If `needs_changes`, some users are isolated
    or silent drift, and `commit_publish` requires the set of changed users.
    """

    output_etag: str | None
    rejects_etag: str | None
    pending: dict[str, PendingResult]
    needs_changes: bool = False


class LastPublish(NamedTuple):
    """What the last publisher recorded: its token and both ETags, None if never recorded."""

    writer_token: str | None
    output_etag: str | None
    rejects_etag: str | None


class ListedUser(NamedTuple):
    """Version tokens of a user, and what a LIST that began after they were read shows of its files.

    `has_csv`: whether there is a CSV. `image_key`: key of the image that counts, None without one.
    """

    user_id: str
    version_tokens: VersionTokens
    has_csv: bool
    image_key: str | None
    image_etag: str = ""


class Page(NamedTuple):
    """A page of bulk work: marked users, in `listed_users` if a LIST has shown which files they have."""

    user_ids: list[str] = []  # noqa: RUF012  never changed
    listed_users: list[ListedUser] = []  # noqa: RUF012

    def to_json(self) -> str:
        """Encode the page for Redis."""
        listed_users = [
            [user_id, version_tokens.change_version.decode(), version_tokens.read_version.decode(), *files]
            for user_id, version_tokens, *files in self.listed_users
        ]
        return json.dumps([list(self.user_ids), listed_users], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: bytes) -> "Page":
        """Decode what `to_json` returned."""
        user_ids, listed_users = json.loads(text)
        return cls(
            user_ids,
            [
                ListedUser(user_id, VersionTokens(change_version.encode(), read_version.encode()), *files)
                for user_id, change_version, read_version, *files in listed_users
            ],
        )


class LeaseLost(Exception):
    """The writer lease expired or was taken over: another publisher may be writing."""


def new_token() -> str:
    """Return 72 random bits as hex. Unlike a counter, they stay unique when Redis is emptied."""
    return secrets.token_hex(9)


class Backlog:
    """User states, event inbox, publish queue and loss signals.

    `client` must not decode replies, because event lists may hold any bytes.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        load = make_script_loader(client)
        self._peek: str = load("peek").script  # type: ignore[assignment]
        self._mark = load("mark")
        self._begin_read = load("begin_read")
        self._submit_results = load("submit_results")
        self._take_ownership = load("take_ownership")
        self._add_suspects = load("add_suspects")
        self._acquire_writer = load("acquire_writer")
        self._read_pending = load("read_pending")
        self._commit_publish = load("commit_publish")
        self._add_loss_signal = load("add_loss_signal")
        self._begin_sweep = load("begin_sweep")
        self._commit_sweep = load("commit_sweep")

    # -- events in ---------------------------------------------------------------------------------
    def wait_for_event(self, timeout_s: float) -> bytes | None:
        """Return the first fast event, waiting up to `timeout_s`; None if no event arrives.

        Of an entry above `MAX_ENTRY_BYTES`, the beginning is returned as `TruncatedEntry`.
        """
        # BLMOVE onto the same end leaves the entry in the list: a killed listener loses no event.
        raw: bytes | None = self._redis.blmove(FAST_EVENTS, FAST_EVENTS, timeout_s, "LEFT", "LEFT")
        return TruncatedEntry(raw[:MAX_EXCERPT_BYTES]) if raw and len(raw) > MAX_ENTRY_BYTES else raw

    def measure_lengths(self, event_list: str, message_queue: str) -> tuple[int, int]:
        """Return the lengths of an event list and of a Celery queue."""
        with self._redis.pipeline(transaction=False) as pipeline:
            events, messages = pipeline.llen(event_list).llen(message_queue).execute()
        return events, messages

    def peek(self, max_entries: int) -> tuple[list[bytes], list[bytes]]:
        """Return the first entries of the fast and of the durable list (PEEK); removes nothing.

        At most `count` entries of each list, and fewer if they are large.
        """
        arguments = [max_entries, MAX_ENTRY_BYTES, MAX_EXCERPT_BYTES, MAX_PEEK_BYTES]
        with self._redis.pipeline(transaction=False) as pipe:
            for event_list in (FAST_EVENTS, SAFE_EVENTS):  # EVAL, as EVALSHA in a pipeline costs one more round trip
                pipe.eval(self._peek, 1, event_list, *arguments)
            fast, safe = pipe.execute()
        return _wrap_truncated(fast), _wrap_truncated(safe)

    def set_events_available(self, *, available: bool) -> None:
        """Record whether MinIO's events reach this Redis. If not, only sweeps detect changes."""
        if available:
            self._redis.delete(EVENTS_AVAILABLE)
        else:
            self._redis.set(EVENTS_AVAILABLE, "no")

    def events_available(self) -> bool:
        """Return whether MinIO's events reach this Redis, as `worker.commands.init` recorded it."""
        return bool(self._redis.get(EVENTS_AVAILABLE) != b"no")

    def has_probe_arrived(self, key: str) -> bool:
        """Return whether the event of this probe key arrived.

        A listener has processed it, or it is among the last 50 entries of either list.
        """
        if key.encode() in self._redis.mget(PROBE, PROBE_OF_VERSION_1):
            return True
        entries = self._redis.lrange(FAST_EVENTS, -50, -1) + self._redis.lrange(SAFE_EVENTS, -50, -1)
        return any(key.encode() in raw for raw in entries)

    def record_probe(self, key: str) -> None:
        """Record for 60 seconds that the event of this probe key arrived."""
        self._redis.set(PROBE, key, ex=60)

    def mark_and_pop(self, event_list: str, entries: Sequence[DecodedEntry], now: float) -> list[str]:
        """Mark the users of these entries of `event_list` and pop the entries, atomically (MARK).

        Returns the users to enqueue. Users to be read in isolation are left to the watchdog. A
        durable copy of a processed fast event marks no user.
        """
        arguments: list[Any] = []
        for entry in entries:
            dead_letter = "" if entry.decode_error is None else _encode_dead_letter(entry, now)
            # Both targets send identical bytes: the digest matches durable copies to fast events.
            digest = hashlib.sha1(entry.raw, usedforsecurity=False).digest()
            is_truncated = isinstance(entry.raw, TruncatedEntry)
            # A truncated entry cannot be compared with the head. MARK pops any overlong head then.
            arguments += ["" if is_truncated else entry.raw, digest, dead_letter]
            arguments += [-1] if is_truncated else [len(entry.user_ids), *entry.user_ids]
        return self.run_mark(event_list, "fast" if event_list == FAST_EVENTS else "safe", "event", arguments, now)

    def mark(self, user_ids: Sequence[str], cause: str, now: float, *, silent_drift: bool = False) -> None:
        """Mark users without an event, for example for a sweep or a rebuild (MARK).

        `silent_drift`: a sweep found that they are out of sync, and no known cause explains it.
        """
        origin = "silent_drift" if silent_drift else "named"
        for chunk in split_into_chunks(user_ids):
            self.run_mark("", origin, cause, ["", "", "", len(chunk), *chunk], now)

    def run_mark(self, event_list: str, origin: str, cause: str, arguments: list[Any], now: float) -> list[str]:
        """Run the script MARK and return the users to read now. `arguments` are those of the script per event."""
        keys = [
            event_list,
            DIRTY,
            DIRTY_SINCE[cause],
            DEAD_LETTERS,
            SEEN_PREFIX,
            SILENT_DRIFT,
            ISOLATED_USERS,
            COUNTERS,
        ]
        # Bundles are marked in the set of "unpack", for any cause.
        keys += [DIRTY_SINCE["unpack"], DIRTY_SINCE["event"]]
        limits = [SEEN_S, MAX_DEAD_LETTERS, MAX_SILENT_DRIFT, MAX_ENTRY_BYTES]
        marked = self._mark(keys, [new_token(), now, origin, *limits, *arguments])
        return [user.decode() for user in marked]

    # -- reading -----------------------------------------------------------------------------------
    def begin_read(self, user_ids: Sequence[str], read_id: str = "") -> ReadBatch:
        """Return the version tokens of the users to read, before any file is read (BEGIN READ).

        These are the dirty users, except those with a pending result read after their last mark.
        With a read token in `read_id`, the users are also recorded as being read, until `submit_results` or
        `end_read` gets that token. The watchdog isolates the users of a record that remains.
        """
        batch, encoded_users = ReadBatch(), json.dumps(list(user_ids), ensure_ascii=False) if read_id else ""
        for chunk in split_into_chunks(user_ids):
            # Keeps the catalog version of the last chunk. It must not be older than any user's
            # tokens, as an unpack renews it before it marks the users of the bundle.
            keys = [DIRTY, PENDING_RESULTS, ACTIVE_READS, CATALOG_VERSION, SUSPECT_USERS]
            batch.catalog_version, suspects, *replies = self._begin_read(keys, [read_id, encoded_users, *chunk])
            batch.suspect_users.update(user.decode() for user in suspects)
            batch |= {
                user: VersionTokens(*tokens.split(b"|", 2))
                for user, tokens in zip(chunk, replies, strict=True)
                if tokens
            }
        return batch

    def end_read(self, read_id: str) -> None:
        """Delete the record of a read that ended without a result."""
        self._redis.hdel(ACTIVE_READS, read_id)

    def submit_results(
        self, results: Sequence[tuple[VersionTokens, ReadResult]], read_id: str = "", copied_users: Collection[str] = ()
    ) -> list[str]:
        """Submit results by compare-and-set of the read version, and end this `read_id` (SUBMIT RESULTS).

        `copied_users`: users with an image that this read has copied. Returns the users to read again
        with new version tokens, because another result was accepted since theirs were read.
        """
        refused = []
        chunks = list(split_into_chunks(results)) or [[]]  # without results, one call still ends the reading
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
            keys = [DIRTY, PENDING_RESULTS, DIRTY_SINCE["event"], WAKE_LIVE, WAKE_BULK, ACTIVE_READS, SUSPECT_USERS]
            replies = self._submit_results(keys, arguments)
            refused += [
                result.user_id for (_, result), reply in zip(chunk, replies, strict=True) if reply == b"refused"
            ]
        return refused

    def take_ownership(self, user_id: str, version_tokens: VersionTokens) -> VersionTokens | None:
        """Take ownership before a write that is not a result, such as bundles.json (TAKE OWNERSHIP).

        The renewed read version is a fencing token: results of other readers are refused. Returns
        the tokens to submit with, None if another reader submitted or took ownership since these
        were read.
        """
        read_version = new_token()
        return (
            version_tokens._replace(read_version=read_version.encode())
            if self._take_ownership([DIRTY], [user_id, version_tokens.read_version, read_version])
            else None
        )

    # -- copies of images --------------------------------------------------------------------------
    def add_suspects(self, user_ids: Sequence[str]) -> None:
        """Mark users as suspect: they may have, or may yet get, stray image copies (ADD SUSPECTS)."""
        for chunk in split_into_chunks(user_ids):
            self._add_suspects([SUSPECT_USERS, DIRTY, DIRTY_SINCE["bundle"]], [new_token(), *chunk])

    def clear_suspects(self, user_ids: Collection[str]) -> None:
        """Clear suspect users after a submitted result has accounted for all their copies."""
        if user_ids:
            self._redis.srem(SUSPECT_USERS, *user_ids)

    # -- the bundle catalog ------------------------------------------------------------------------
    def current(self) -> bytes:
        """Return the bundle catalog's version and ETag; set a new version if it is missing."""
        self._redis.set(CATALOG_VERSION, f"{new_token()}|", nx=True)
        return bytes(self._redis.get(CATALOG_VERSION) or b"")

    def renew(self, etag: str | None, expected: bytes | None = None) -> None:
        """Invalidate cached bundle catalogs.

        `etag` is the new catalog's ETag, None without a catalog. With `before`, the version is
        renewed only if it is still that one.
        """
        script = (
            "if ARGV[2] == '' or redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('SET', KEYS[1], ARGV[1]) end"
        )
        self._redis.eval(script, 1, CATALOG_VERSION, f"{new_token()}|{etag or '-'}", expected or "")

    def recorded_etag(self) -> str | None:
        """Return the recorded ETag of the bundle catalog: "-" if absent, None if unknown."""
        _, _, etag = (self._redis.get(CATALOG_VERSION) or b"").decode().partition("|")
        return etag or None

    # -- bulk work in pages ------------------------------------------------------------------------
    def add_page(self, page: Page) -> None:
        """Enqueue a page for `take_page`."""
        self._redis.rpush(PAGES, page.to_json())

    def take_page(self) -> Page | None:
        """Dequeue the next page, None if the queue is empty.

        If the worker loses it, its users are still dirty and become overdue.
        """
        page = self._redis.lpop(PAGES)
        return Page.from_json(page) if page else None

    def count_pages(self) -> int:
        """Return the number of pages that no worker has dequeued."""
        return int(self._redis.llen(PAGES))

    # -- publishing --------------------------------------------------------------------------------
    def wait_for_wakeup(self, keys: Sequence[str], timeout_s: float) -> bool:
        """Wait for a wake-up on these lists; return False after `timeout_s` without one."""
        return self._redis.blpop(list(keys), timeout_s) is not None

    def wake_publisher(self) -> None:
        """Wake the publisher, whether or not a result is pending."""
        self._redis.rpush(WAKE_LIVE, "1")

    def acquire_writer(self, writer_token: str) -> PublishInput | None:
        """Acquire the writer lease and read all pending results (ACQUIRE WRITER, READ PENDING).

        Returns None while another publisher holds the lease. Each further chunk renews the lease;
        raises `LeaseLost` if another publisher took it.
        """
        keys = [WRITER_LEASE, LAST_PUBLISH, PENDING_RESULTS, WAKE_LIVE, WAKE_BULK, SILENT_DRIFT, ISOLATED_USERS]
        reply = self._acquire_writer(keys, [writer_token, WRITER_LEASE_MS, CHUNK_SIZE])
        if reply is None:
            return None
        output_etag, rejects_etag, needs_changes, cursor, entries = reply
        pending = dict(_parse_pending(entries))
        if cursor != b"0":
            pending |= self.read_pending(writer_token, cursor)
        return PublishInput(decode_optional(output_etag), decode_optional(rejects_etag), pending, bool(needs_changes))

    def read_pending(self, token: str, cursor: bytes = b"0") -> dict[str, PendingResult]:
        """Read the pending results from `cursor` on; each chunk renews the lease (READ PENDING).

        Raises `LeaseLost`.
        """
        pending: dict[str, PendingResult] = {}
        while True:
            answer = self._read_pending([WRITER_LEASE, PENDING_RESULTS], [token, cursor, CHUNK_SIZE, WRITER_LEASE_MS])
            if answer is None:
                raise LeaseLost
            cursor, entries = answer
            pending.update(_parse_pending(entries))  # HSCAN may return a user twice
            if cursor == b"0":
                return pending

    def renew_writer(self, token: str) -> None:
        """Renew the writer lease. Raises `LeaseLost`."""
        script = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
        if not self._redis.eval(script, 1, WRITER_LEASE, token, WRITER_LEASE_MS):
            raise LeaseLost

    def commit_publish(
        self,
        token: str,
        output_etag: str,
        rejects_etag: str,
        row_count: int,
        published: Mapping[str, PendingResult],
        now: float,
        changed_users: Collection[str] | None = None,
    ) -> int:
        """Record what was published and make its users clean (COMMIT PUBLISH).

        `changed_users`: users in the batch with a changed row or reject. Required if ACQUIRE WRITER returned
        `needs_changes`. Returns the number of results that are still pending, and releases the lease.
        Raises `LeaseLost` if the lease was lost, and records that as a loss signal.
        """
        keys = [
            WRITER_LEASE,
            LAST_PUBLISH,
            PENDING_RESULTS,
            DIRTY,
            TRUST_STATE,
            LOSS_SIGNALS,
            COUNTERS,
            SILENT_DRIFT,
            ISOLATED_USERS,
        ]
        chunks = list(split_into_chunks(list(published.items()))) or [[]]  # an empty batch still records the ETags
        still_pending = 0
        for number, chunk in enumerate(chunks, 1):
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
                arguments += [user, pending.version_tokens, _change_kind(user, pending.result, changed_users)]
            still_pending = self._commit_publish([*keys, *DIRTY_SINCE.values()], arguments)
            if still_pending < 0:
                raise LeaseLost
        return still_pending

    def release_writer(self, token: str, *, signal_loss: bool) -> None:
        """Release the writer lease without recording a publish; `signal_loss` adds a loss signal."""
        # Compare first: after an expired lease, the key belongs to another publisher.
        script = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
        self._redis.eval(script, 1, WRITER_LEASE, token)
        if signal_loss:
            self.add("publish_broken_off")

    def count_pending(self) -> int:
        """Return the number of users with a pending result."""
        return int(self._redis.hlen(PENDING_RESULTS))

    def count_dirty(self) -> int:
        """Return the number of dirty users."""
        return int(self._redis.hlen(DIRTY))

    def dirty_users(self) -> set[str]:
        """Return all users that are dirty now."""
        return {user.decode() for user in self._redis.hkeys(DIRTY)}

    def dirty_tokens(self, user_ids: Sequence[str]) -> dict[str, VersionTokens]:
        """Return the version tokens of the dirty users among these, whether read since or not."""
        tokens_by_user = dict[str, VersionTokens]()
        for chunk in split_into_chunks(user_ids):
            tokens = zip(chunk, self._redis.hmget(DIRTY, chunk), strict=True)
            tokens_by_user |= {user: VersionTokens(*value.split(b"|", 1)) for user, value in tokens if value}
        return tokens_by_user

    def overdue_users(self, cause: str, before: float, limit: int) -> list[str]:
        """Return up to `limit` users marked for this cause before `before` and not read since.

        The message that named them may be lost.
        """
        users = [
            user.decode()
            for user in self._redis.zrange(DIRTY_SINCE[cause], "-inf", before, byscore=True, offset=0, num=limit)
        ]
        return list(self.begin_read(users))

    def marked_by_event(self, user_ids: Sequence[str]) -> set[str]:
        """Return those of the users that are dirty because of an event."""
        scores = self._redis.zmscore(DIRTY_SINCE["event"], user_ids) if user_ids else []
        return {user for user, score in zip(user_ids, scores, strict=True) if score is not None}

    # -- loss signals and trust state --------------------------------------------------------------
    def last_publish(self) -> LastPublish:
        """Return what the last publisher recorded."""
        return LastPublish(
            *map(decode_optional, self._redis.hmget(LAST_PUBLISH, "writer_token", "output_etag", "rejects_etag"))
        )

    def is_writer_active(self) -> bool:
        """Return whether a publisher holds the writer lease."""
        return bool(self._redis.exists(WRITER_LEASE))

    def run_id(self) -> str:
        """Return Redis's `run_id`. It changes with each restart, which may lose recent writes."""
        return str(self._redis.info("server")["run_id"])

    def trust_state(self) -> str | None:
        """Return the trust state.

        `verified:<run_id>` while there is no known loss, `verifying:<token>` while a sweep runs,
        None (suspect) after a loss signal.
        """
        return decode_optional(self._redis.get(TRUST_STATE))

    def add(self, kind: str) -> None:
        """Add a loss signal, which leads to a sweep (ADD LOSS SIGNAL); `kind` is one of `LOSS_SIGNAL_KINDS`.

        Each kind is logged and counted for the operator once until a sweep begins.
        """
        if self._add_loss_signal([TRUST_STATE, LOSS_SIGNALS, COUNTERS], [kind]):
            logger.warning(
                "loss signal %s: %s; a sweep will reconcile all users",
                kind,
                LOSS_SIGNAL_KINDS.get(kind, "events or writes may be lost"),
            )

    def unresolved(self) -> set[str]:
        """Return the kinds of loss signals that no committed sweep covers."""
        return {kind.decode() for kind in self._redis.sunion(LOSS_SIGNALS, LOSS_SIGNALS_IN_SWEEP)}

    def begin_sweep(self, token: str) -> set[str]:
        """Set the trust state to verifying, before the sweep's LIST (BEGIN SWEEP).

        A loss signal from now on makes the sweep's commit fail. Returns the kinds of loss signals
        that the sweep handles, `FIRST_START` included.
        """
        kinds = self._begin_sweep([TRUST_STATE, LOSS_SIGNALS, LOSS_SIGNALS_IN_SWEEP], [token])
        return {kind.decode() for kind in kinds}

    def commit_sweep(
        self,
        sweep_token: str,
        writer_before: str | None,
        compared_etags: tuple[str | None, str | None],
        run_id: str,
        summary: Mapping[str, Any],
    ) -> bool:
        """Set the trust state to verified after a sweep has marked all its users (COMMIT SWEEP).

        `writer_before`: the token of the publisher recorded before the LIST. `compared_etags`: the
        ETags of the compared output.csv and rejects.csv. `summary`: fields of the last sweep.
        Returns False if there was a loss signal since the sweep began.
        """
        pairs = [item for pair in summary.items() for item in pair]
        arguments = [sweep_token, writer_before or "", compared_etags[0] or "", compared_etags[1] or "", run_id, *pairs]
        return bool(self._commit_sweep([TRUST_STATE, LAST_PUBLISH, LAST_SWEEP, LOSS_SIGNALS_IN_SWEEP], arguments))

    def set_source_failure(self, reason: str) -> None:
        """Record why the source bucket could not be read, for 60 s or until `clear_source_failure`."""
        self._redis.set(SOURCE_FAILURE, reason, ex=STATUS_TTL_S)

    def clear_source_failure(self) -> None:
        """Clear the recorded failure: the source bucket could be read again."""
        self._redis.delete(SOURCE_FAILURE)

    def set_stalled_copies(self, length: int) -> None:
        """Record for the operator how many durable copies are stalled on MinIO's disk (0: none)."""
        if length:
            self._redis.set(SAFE_QUEUE, length, ex=STATUS_TTL_S)
        else:
            self._redis.delete(SAFE_QUEUE)

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


def make_script_loader(client: "Redis") -> Callable[[str], Script]:
    """Return a function that registers a script of `lua/` by its name."""

    def load(name: str) -> Script:
        return client.register_script((Path(__file__).parent / "lua" / f"{name}.lua").read_text())

    return load


def split_into_chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Yield the items in chunks of at most `CHUNK_SIZE`: a script blocks Redis while it runs."""
    for start in range(0, len(items), CHUNK_SIZE):
        yield items[start : start + CHUNK_SIZE]


def _wrap_truncated(entries: Sequence[bytes | list[bytes]]) -> list[bytes]:
    return [TruncatedEntry(entry[0]) if isinstance(entry, list) else entry for entry in entries]


def _change_kind(user_id: str, result: ReadResult, changed_users: Collection[str] | None) -> str:
    if changed_users is None:
        return ""
    if isinstance(result.csv, InvalidCsv) and result.csv.reason == QUARANTINE_REASON:
        return "unread"
    return "changed" if user_id in changed_users else "unchanged"


def _encode_dead_letter(entry: DecodedEntry, now: float) -> str:
    beginning = entry.raw[:MAX_EXCERPT_BYTES].decode(errors="replace")
    return json.dumps({"reason": entry.decode_error, "since": int(now), "key": None, "raw": beginning})


def _parse_pending(entries: Sequence[bytes]) -> Iterator[tuple[str, PendingResult]]:
    for user, entry in zip(entries[::2], entries[1::2], strict=True):
        change_version, read_version, encoded_result = entry.split(b"|", 2)
        yield (
            user.decode(),
            PendingResult(
                change_version + b"|" + read_version, ReadResult.from_json(user.decode(), encoded_result.decode())
            ),
        )


def decode_optional(value: bytes | None) -> str | None:
    """Return the text, or None if there is no value."""
    return None if value is None else value.decode()
