"""The pipeline's state in Redis: event inbox, dirty users, pending results, loss signals.

Rowdrop reconciles level-triggered: an event, sweep or rebuild only marks a user dirty. A reader
then computes the result from the files as they are at that time. Results are accepted by
compare-and-set of version tokens. Each atomic step is one Lua script in `worker/lua/`.

Version tokens are random and are only compared for equality. They need no order, so they stay
correct when Redis is emptied or restarts from an older snapshot. Every method raises
`redis.exceptions.RedisError` if Redis is unavailable.

Keys:

    events:fast      list    event inbox: events that MinIO sent directly, not processed yet
    events:safe      list    event inbox: durable copies of the same events, by way of MinIO's disk
    dirty            hash    user -> "mark|slot". `mark` is the change version, renewed by each
                             mark; `slot` the read version, renewed by each accepted result.
                             A bundle is a user with the ID of `shared.keys.bundle_id`.
    since:<cause>    zset    user -> when it was first marked for this cause (Unix seconds)
    shelf            string  "token|etag": version of the bundle catalog, renewed after each change
                             of bundles.json, and the catalog's ETag ("" if unknown, "-" if absent)
    staged           hash    user -> "mark|slot|outcome": pending result, not published yet
    pages            list    bulk work: up to 1,000 marked users per entry
    writer           string  writer lease: the token of the publisher that may write
    published        hash    what the last publisher recorded: by, etag, rej_etag, time, rows
    epoch            string  trust state: "ok:<run_id>" (verified) or "s:<token>" (verifying);
                             deleted by each loss signal
    evidence:new     set     kinds of loss signals since the last sweep began
    evidence:looked  set     kinds of loss signals that a sweep handles, until one commits
    seen:<digest>    string  count of fast events that still lack their durable copy
    notifications    string  "none" if MinIO's events do not reach this Redis
    source_failure   string  why the source bucket could not be read recently
    safe_queue       string  number of durable copies stalled on MinIO's disk
    dead_letters     list    events that could not be decoded, with their reasons
    readings         hash    read token -> users of a read in progress; orphaned if its worker dies
    doubtful         set     suspect users, which may have stray image copies
    alone            hash    users to read in isolation: `worker.trials`
    unexplained      hash    silent drift that a sweep found: `worker.healed`
    counters         hash    counters for the operator; `since` is when counting began
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

from shared.records import QUARANTINED, InvalidCsv, Outcome
from worker.events import MAX_EVENT_BYTES, Cut

logger = logging.getLogger(__name__)

FAST, SAFE = "events:fast", "events:safe"
CAUSES = ("event", "sweep", "rebuild", "bundle", "unpack")
"""Why a user is marked. "bundle": its bundle was unpacked or removed. "unpack": it is a bundle."""
PAGES = "pages"
WAKE_LIVE, WAKE_BULK = "wake:live", "wake:bulk"

CHUNK = 500
"""Users per script call. Redis serves no other client for the few milliseconds of a call."""
LEASE_MS = 5000
"""TTL of the writer lease. Another publisher can take over when it expires."""
SEEN_S = 600
"""TTL in seconds of the count of fast events that still lack their durable copy."""
SHOWN_S = 60
"""TTL in seconds of conditions that `/health/ready` reports."""
MOST_DEAD_LETTERS = 1000
SHOWN_BYTES = 200
"""Bytes of an event that its dead letter keeps."""
MOST_PEEKED_BYTES = 16 << 20
"""A batch of events ends when this many bytes were read. The rest belongs to the next batch."""
MOST_UNEXPLAINED = 100_000
"""Maximum number of users recorded as silent drift. Further ones are repaired but not counted."""

EVIDENCE = {
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
NOTHING_KNOWN = "nothing_known"
"""Reason of a sweep that finds neither a trust state nor a loss signal: the first sweep of all."""

_SINCE = [f"since:{cause}" for cause in CAUSES]

_Item = TypeVar("_Item")


class Notice(NamedTuple):
    """One decoded entry of an event list: the users to mark, or why it could not be decoded."""

    raw: bytes
    user_ids: Sequence[str]
    dead_letter: str | None = None


class Note(NamedTuple):
    """Version tokens of a dirty user, as they were before its files were read.

    `mark` is the change version, `slot` the read version. `staged` is the pending result that this
    read will replace, as JSON. Submitting fails if another result was accepted in between.
    """

    mark: bytes
    slot: bytes
    staged: bytes = b""


class Notes(dict[str, Note]):
    """Version tokens of the users to read, and the bundle catalog's version, not read before them.

    `shelf` is the catalog version, None if Redis has none. `doubtful` holds the suspect users among
    them, which may have stray image copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shelf: bytes | None = None
        self.doubtful: set[str] = set()


class Staged(NamedTuple):
    """A pending result. `tokens` is "mark|slot", the version tokens with which it was accepted."""

    tokens: bytes
    outcome: Outcome


class Begun(NamedTuple):
    """Input of one publish: the ETags recorded as published, and all pending results.

    Without a recorded publish, both ETags are missing (None). If `watched`, some users are isolated
    or silent drift, and `clean` requires the set of changed users.
    """

    etag: str | None
    rej_etag: str | None
    batch: dict[str, Staged]
    watched: bool = False


class Published(NamedTuple):
    """What the last publisher recorded: its token and both ETags, None if never recorded."""

    by: str | None
    etag: str | None
    rej_etag: str | None


class ListedUser(NamedTuple):
    """Version tokens of a user, and what a LIST that began after they were read shows of its files.

    `has_csv`: whether there is a CSV. `image`: key of the image that counts, None without one.
    """

    user_id: str
    note: Note
    has_csv: bool
    image: str | None
    image_etag: str = ""


class Page(NamedTuple):
    """A page of bulk work: marked users, in `listed` if a LIST has shown which files they have."""

    user_ids: list[str] = []  # noqa: RUF012  never changed
    listed: list[ListedUser] = []  # noqa: RUF012

    def to_json(self) -> str:
        """Encode the page for Redis."""
        listed = [[u, note.mark.decode(), note.slot.decode(), *files] for u, note, *files in self.listed]
        return json.dumps([list(self.user_ids), listed], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: bytes) -> "Page":
        """Decode what `to_json` returned."""
        user_ids, listed = json.loads(text)
        return cls(user_ids, [ListedUser(u, Note(m.encode(), s.encode()), *files) for u, m, s, *files in listed])


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
        self.redis: Any = client
        load = _loader(client)
        self._peek: str = load("peek").script  # type: ignore[assignment]
        self._mark, self._note, self._stage = load("mark"), load("note"), load("stage")
        self._claim, self._doubt = load("claim"), load("doubt")
        self._begin, self._batch, self._clean = load("begin"), load("batch"), load("clean")
        self._evidence, self._sweep_begins, self._commit = load("evidence"), load("sweep_begins"), load("commit")

    # -- events in ---------------------------------------------------------------------------------
    def wait_for_event(self, seconds: float) -> bytes | None:
        """Return the first fast event, waiting up to `seconds`; None if no event arrives.

        Of an entry above `MAX_EVENT_BYTES`, the beginning is returned as `Cut`.
        """
        # BLMOVE onto the same end leaves the entry in the list: a killed listener loses no event.
        raw: bytes | None = self.redis.blmove(FAST, FAST, seconds, "LEFT", "LEFT")
        return Cut(raw[:SHOWN_BYTES]) if raw and len(raw) > MAX_EVENT_BYTES else raw

    def waiting(self, source: str, queue: str) -> tuple[int, int]:
        """Return the lengths of an event list and of a Celery queue."""
        with self.redis.pipeline(transaction=False) as pipe:
            events, messages = pipe.llen(source).llen(queue).execute()
        return events, messages

    def peek(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """Return the first entries of the fast and of the durable list (PEEK); removes nothing.

        At most `count` entries of each list, and fewer if they are large.
        """
        arguments = [count, MAX_EVENT_BYTES, SHOWN_BYTES, MOST_PEEKED_BYTES]
        with self.redis.pipeline(transaction=False) as pipe:
            for events in (FAST, SAFE):  # EVAL, as EVALSHA in a pipeline costs one more round trip
                pipe.eval(self._peek, 1, events, *arguments)
            fast, safe = pipe.execute()
        return _whole_or_cut(fast), _whole_or_cut(safe)

    def note_notifications(self, *, come: bool) -> None:
        """Record whether MinIO's events reach this Redis. If not, only sweeps detect changes."""
        if come:
            self.redis.delete("notifications")
        else:
            self.redis.set("notifications", "none")

    def notifications_come(self) -> bool:
        """Return whether MinIO's events reach this Redis, as `worker.init` recorded it."""
        return bool(self.redis.get("notifications") != b"none")

    def probe_came(self, key: str) -> bool:
        """Return whether the event of this probe key arrived.

        A listener has processed it, or it is among the last 50 entries of either list.
        """
        if self.redis.get("probe") == key.encode():
            return True
        waiting = self.redis.lrange(FAST, -50, -1) + self.redis.lrange(SAFE, -50, -1)
        return any(key.encode() in raw for raw in waiting)

    def note_probe(self, key: str) -> None:
        """Record for 60 seconds that the event of this probe key arrived."""
        self.redis.set("probe", key, ex=60)

    def note_events(self, source: str, notices: Sequence[Notice], now: float) -> list[str]:
        """Mark the users of these entries of `source` and pop the entries, atomically (MARK).

        Returns the users to enqueue. Users to be read in isolation are left to the watchdog. A
        durable copy of a processed fast event marks no user.
        """
        arguments: list[Any] = []
        for notice in notices:
            letter = "" if notice.dead_letter is None else _dead_letter(notice, now)
            # Both targets send identical bytes: the digest matches durable copies to fast events.
            digest = hashlib.sha1(notice.raw, usedforsecurity=False).digest()
            cut = isinstance(notice.raw, Cut)
            # A truncated entry cannot be compared with the head. MARK pops any overlong head then.
            arguments += ["" if cut else notice.raw, digest, letter]
            arguments += [-1] if cut else [len(notice.user_ids), *notice.user_ids]
        return self._run_mark(source, source.removeprefix("events:"), "event", arguments, now)

    def mark(self, user_ids: Sequence[str], cause: str, now: float, *, unexplained: bool = False) -> None:
        """Mark users without an event, for example for a sweep or a rebuild (MARK).

        `unexplained`: a sweep found that they are out of sync, and no known cause explains it.
        """
        kind = "unexplained" if unexplained else "named"
        for chunk in _chunks(user_ids):
            self._run_mark("", kind, cause, ["", "", "", len(chunk), *chunk], now)

    def _run_mark(self, source: str, kind: str, cause: str, arguments: list[Any], now: float) -> list[str]:
        keys = [source, "dirty", f"since:{cause}", "dead_letters", "seen:", "unexplained", "alone", "counters"]
        keys.append("since:unpack")  # bundles are marked here, for any cause
        limits = [SEEN_S, MOST_DEAD_LETTERS, MOST_UNEXPLAINED, MAX_EVENT_BYTES]
        marked = self._mark(keys, [new_token(), now, kind, *limits, *arguments])
        return [user.decode() for user in marked]

    # -- reading -----------------------------------------------------------------------------------
    def note(self, user_ids: Sequence[str], reading: str = "") -> Notes:
        """Return the version tokens of the users to read, before any file is read (NOTE).

        These are the dirty users, except those with a pending result read after their last mark.
        With a read token in `reading`, the users are also recorded as being read, until `stage` or
        `end_reading` gets that token. The watchdog isolates the users of a record that remains.
        """
        notes, users = Notes(), json.dumps(list(user_ids), ensure_ascii=False) if reading else ""
        for chunk in _chunks(user_ids):
            # Keeps the catalog version of the last chunk. It must not be older than any user's
            # tokens, as an unpack renews it before it marks the users of the bundle.
            keys = ["dirty", "staged", "readings", "shelf", "doubtful"]
            notes.shelf, doubtful, *answers = self._note(keys, [reading, users, *chunk])
            notes.doubtful.update(user.decode() for user in doubtful)
            notes |= {user: Note(*tokens.split(b"|", 2)) for user, tokens in zip(chunk, answers, strict=True) if tokens}
        return notes

    def end_reading(self, reading: str) -> None:
        """Delete the record of a read that ended without a result."""
        self.redis.hdel("readings", reading)

    def stage(
        self, readings: Sequence[tuple[Note, Outcome]], reading: str = "", copied: Collection[str] = ()
    ) -> list[str]:
        """Submit results by compare-and-set of the read version, and end this `reading` (STAGE).

        `copied`: users with an image that this read has copied. Returns the users to read again
        with new version tokens, because another result was accepted since theirs were read.
        """
        again = []
        chunks = list(_chunks(readings)) or [[]]  # without results, one call still ends the reading
        for number, chunk in enumerate(chunks, 1):
            # Only the last chunk deletes the record, which a worker killed before it leaves behind.
            arguments: list[Any] = [new_token(), reading if number == len(chunks) else ""]
            for note, outcome in chunk:
                user_id = outcome.user_id
                arguments += [user_id, note.mark, note.slot, outcome.to_json(), "1" if user_id in copied else ""]
            keys = ["dirty", "staged", "since:event", WAKE_LIVE, WAKE_BULK, "readings", "doubtful"]
            answers = self._stage(keys, arguments)
            again += [
                outcome.user_id for (_, outcome), answer in zip(chunk, answers, strict=True) if answer == b"again"
            ]
        return again

    def claim(self, user_id: str, note: Note) -> Note | None:
        """Take ownership before a write that is not a result, such as bundles.json (CLAIM).

        The renewed read version is a fencing token: results of other readers are refused. Returns
        the tokens to submit with, None if another reader submitted or took ownership since these
        were read.
        """
        token = new_token()
        return note._replace(slot=token.encode()) if self._claim(["dirty"], [user_id, note.slot, token]) else None

    # -- copies of images --------------------------------------------------------------------------
    def doubt(self, user_ids: Sequence[str]) -> None:
        """Mark users as suspect: they may have, or may yet get, stray image copies (DOUBT)."""
        for chunk in _chunks(user_ids):
            self._doubt(["doubtful", "dirty", "since:bundle"], [new_token(), *chunk])

    def end_doubt(self, user_ids: Collection[str]) -> None:
        """Clear suspect users after a submitted result has accounted for all their copies."""
        if user_ids:
            self.redis.srem("doubtful", *user_ids)

    # -- the bundle catalog ------------------------------------------------------------------------
    def shelf_token(self) -> bytes:
        """Return the bundle catalog's version and ETag; set a new version if it is missing."""
        self.redis.set("shelf", f"{new_token()}|", nx=True)
        return bytes(self.redis.get("shelf") or b"")

    def renew_shelf(self, etag: str | None, before: bytes | None = None) -> None:
        """Invalidate cached bundle catalogs.

        `etag` is the new catalog's ETag, None without a catalog. With `before`, the version is
        renewed only if it is still that one.
        """
        script = (
            "if ARGV[2] == '' or redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('SET', KEYS[1], ARGV[1]) end"
        )
        self.redis.eval(script, 1, "shelf", f"{new_token()}|{etag or '-'}", before or "")

    def shelf_etag(self) -> str | None:
        """Return the recorded ETag of the bundle catalog: "-" if absent, None if unknown."""
        _, _, etag = (self.redis.get("shelf") or b"").decode().partition("|")
        return etag or None

    # -- bulk work in pages ------------------------------------------------------------------------
    def add_page(self, page: Page) -> None:
        """Enqueue a page for `take_page`."""
        self.redis.rpush(PAGES, page.to_json())

    def take_page(self) -> Page | None:
        """Dequeue the next page, None if the queue is empty.

        If the worker loses it, its users are still dirty and become overdue.
        """
        page = self.redis.lpop(PAGES)
        return Page.from_json(page) if page else None

    def pages_left(self) -> int:
        """Return the number of pages that no worker has dequeued."""
        return int(self.redis.llen(PAGES))

    # -- publishing --------------------------------------------------------------------------------
    def wait_for_wake(self, keys: Sequence[str], seconds: float) -> bool:
        """Wait for a wake-up on these lists; return False after `seconds` without one."""
        return self.redis.blpop(list(keys), seconds) is not None

    def wake_publisher(self) -> None:
        """Wake the publisher, whether or not a result is pending."""
        self.redis.rpush(WAKE_LIVE, "1")

    def begin(self, token: str) -> Begun | None:
        """Acquire the writer lease and read all pending results (BEGIN, BATCH).

        Returns None while another publisher holds the lease. Each further chunk renews the lease;
        raises `LeaseLost` if another publisher took it.
        """
        keys = ["writer", "published", "staged", WAKE_LIVE, WAKE_BULK, "unexplained", "alone"]
        answer = self._begin(keys, [token, LEASE_MS, CHUNK])
        if answer is None:
            return None
        etag, rej_etag, watched, cursor, entries = answer
        batch = dict(_staged(entries))
        if cursor != b"0":
            batch |= self.batch(token, cursor)
        return Begun(_text(etag), _text(rej_etag), batch, bool(watched))

    def batch(self, token: str, cursor: bytes = b"0") -> dict[str, Staged]:
        """Read the pending results from `cursor` on; each chunk renews the lease (BATCH).

        Raises `LeaseLost`.
        """
        batch: dict[str, Staged] = {}
        while True:
            answer = self._batch(["writer", "staged"], [token, cursor, CHUNK, LEASE_MS])
            if answer is None:
                raise LeaseLost
            cursor, entries = answer
            batch.update(_staged(entries))  # HSCAN may return a user twice
            if cursor == b"0":
                return batch

    def renew(self, token: str) -> None:
        """Renew the writer lease. Raises `LeaseLost`."""
        script = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
        if not self.redis.eval(script, 1, "writer", token, LEASE_MS):
            raise LeaseLost

    def clean(
        self,
        token: str,
        etag: str,
        rej_etag: str,
        rows: int,
        batch: Mapping[str, Staged],
        now: float,
        changed: Collection[str] | None = None,
    ) -> int:
        """Record what was published and make its users clean (CLEAN).

        `changed`: users in the batch with a changed row or reject. Required if BEGIN returned
        `watched`. Returns the number of results that are still pending, and releases the lease.
        Raises `LeaseLost` if the lease was lost, and records that as a loss signal.
        """
        keys = ["writer", "published", "staged", "dirty", "epoch", "evidence:new", "counters", "unexplained", "alone"]
        chunks = list(_chunks(list(batch.items()))) or [[]]  # an empty batch still records the ETags
        left = 0
        for number, chunk in enumerate(chunks, 1):
            arguments: list[Any] = [token, etag, rej_etag, now, rows, "1" if number == len(chunks) else "0"]
            for user, staged in chunk:
                arguments += [user, staged.tokens, _what_it_did(user, staged.outcome, changed)]
            left = self._clean([*keys, *_SINCE], arguments)
            if left < 0:
                raise LeaseLost
        return left

    def release(self, token: str, *, evidence: bool) -> None:
        """Release the writer lease without recording a publish; `evidence` adds a loss signal."""
        # Compare first: after an expired lease, the key belongs to another publisher.
        script = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
        self.redis.eval(script, 1, "writer", token)
        if evidence:
            self.add_evidence("publish_broken_off")

    def staged_count(self) -> int:
        """Return the number of users with a pending result."""
        return int(self.redis.hlen("staged"))

    def dirty_count(self) -> int:
        """Return the number of dirty users."""
        return int(self.redis.hlen("dirty"))

    def dirty_users(self) -> set[str]:
        """Return all users that are dirty now."""
        return {user.decode() for user in self.redis.hkeys("dirty")}

    def dirty(self, user_ids: Sequence[str]) -> dict[str, Note]:
        """Return the version tokens of the dirty users among these, whether read since or not."""
        notes = dict[str, Note]()
        for chunk in _chunks(user_ids):
            tokens = zip(chunk, self.redis.hmget("dirty", chunk), strict=True)
            notes |= {user: Note(*value.split(b"|", 1)) for user, value in tokens if value}
        return notes

    def overdue(self, cause: str, before: float, most: int) -> list[str]:
        """Return up to `most` users marked for this cause before `before` and not read since.

        The message that named them may be lost.
        """
        users = [
            user.decode()
            for user in self.redis.zrange(f"since:{cause}", "-inf", before, byscore=True, offset=0, num=most)
        ]
        return list(self.note(users))

    def told_by_events(self, user_ids: Sequence[str]) -> set[str]:
        """Return those of the users that are dirty because of an event."""
        scores = self.redis.zmscore("since:event", user_ids) if user_ids else []
        return {user for user, score in zip(user_ids, scores, strict=True) if score is not None}

    # -- loss signals and trust state --------------------------------------------------------------
    def published(self) -> Published:
        """Return what the last publisher recorded."""
        return Published(*map(_text, self.redis.hmget("published", "by", "etag", "rej_etag")))

    def writer_active(self) -> bool:
        """Return whether a publisher holds the writer lease."""
        return bool(self.redis.exists("writer"))

    def run_id(self) -> str:
        """Return Redis's `run_id`. It changes with each restart, which may lose recent writes."""
        return str(self.redis.info("server")["run_id"])

    def epoch(self) -> str | None:
        """Return the trust state.

        `ok:<run_id>` (verified) while there is no known loss, `s:<token>` (verifying) while a sweep
        runs, None (suspect) after a loss signal.
        """
        return _text(self.redis.get("epoch"))

    def add_evidence(self, kind: str) -> None:
        """Add a loss signal, which leads to a sweep (EVIDENCE); `kind` is one of `EVIDENCE`.

        Each kind is logged and counted for the operator once until a sweep begins.
        """
        if self._evidence(["epoch", "evidence:new", "counters"], [kind]):
            logger.warning(
                "loss signal %s: %s; a sweep will reconcile all users",
                kind,
                EVIDENCE.get(kind, "events or writes may be lost"),
            )

    def evidence(self) -> set[str]:
        """Return the kinds of loss signals that no committed sweep covers."""
        return {kind.decode() for kind in self.redis.sunion("evidence:new", "evidence:looked")}

    def begin_sweep(self, token: str) -> set[str]:
        """Set the trust state to verifying, before the sweep's LIST (SWEEP BEGINS).

        A loss signal from now on makes the sweep's commit fail. Returns the kinds of loss signals
        that the sweep handles, "nothing_known" included.
        """
        kinds = self._sweep_begins(["epoch", "evidence:new", "evidence:looked"], [token])
        return {kind.decode() for kind in kinds}

    def commit_sweep(
        self,
        token: str,
        by: str | None,
        compared: tuple[str | None, str | None],
        run_id: str,
        record: Mapping[str, Any],
    ) -> bool:
        """Set the trust state to verified after a sweep has marked all its users (COMMIT).

        `by`: the publisher recorded before the LIST. `compared`: the ETags of the compared
        output.csv and rejects.csv. `record`: fields for the hash `sweep`. Returns False if there
        was a loss signal since the sweep began.
        """
        pairs = [item for pair in record.items() for item in pair]
        arguments = [token, by or "", compared[0] or "", compared[1] or "", run_id, *pairs]
        return bool(self._commit(["epoch", "published", "sweep", "evidence:looked"], arguments))

    def note_source_failure(self, reason: str) -> None:
        """Record why the source bucket could not be read, for 60 s or until `note_source_read`."""
        self.redis.set("source_failure", reason, ex=SHOWN_S)

    def note_source_read(self) -> None:
        """Clear the recorded failure: the source bucket could be read again."""
        self.redis.delete("source_failure")

    def note_safe_queue(self, length: int) -> None:
        """Record for the operator how many durable copies are stalled on MinIO's disk (0: none)."""
        if length:
            self.redis.set("safe_queue", length, ex=SHOWN_S)
        else:
            self.redis.delete("safe_queue")

    def count(self, name: str, amount: int = 1) -> None:
        """Add `amount` to a counter for the operator."""
        if amount:
            self.redis.hincrby("counters", name, amount)

    def counted(self, name: str) -> int:
        """Return the value of a counter."""
        return int(self.redis.hget("counters", name) or 0)

    def begin_counting(self, now: float) -> None:
        """Record when counting began, unless that is recorded."""
        self.redis.hsetnx("counters", "since", now)


def _loader(client: "Redis") -> Callable[[str], Script]:
    def load(name: str) -> Script:
        return client.register_script((Path(__file__).parent / "lua" / f"{name}.lua").read_text())

    return load


def _chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def _whole_or_cut(entries: Sequence[bytes | list[bytes]]) -> list[bytes]:
    return [Cut(entry[0]) if isinstance(entry, list) else entry for entry in entries]


def _what_it_did(user_id: str, outcome: Outcome, changed: Collection[str] | None) -> str:
    if changed is None:
        return ""
    if isinstance(outcome.csv, InvalidCsv) and outcome.csv.reason == QUARANTINED:
        return "verdict"
    return "changed" if user_id in changed else "same"


def _dead_letter(notice: Notice, now: float) -> str:
    shown = notice.raw[:SHOWN_BYTES].decode(errors="replace")
    return json.dumps({"reason": notice.dead_letter, "since": int(now), "key": None, "raw": shown})


def _staged(entries: Sequence[bytes]) -> Iterator[tuple[str, Staged]]:
    for user, entry in zip(entries[::2], entries[1::2], strict=True):
        mark, slot, outcome = entry.split(b"|", 2)
        yield user.decode(), Staged(mark + b"|" + slot, Outcome.from_json(user.decode(), outcome.decode()))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
