"""The to-do list in Redis: who is dirty, what was read of them, who may write.  Every atomic step and its promise.

    events:fast, events:safe   list   what MinIO said, not yet noted
    dirty                      hash   user -> "mark|slot": `mark` renewed by marks, `slot` by accepted readings;
                                      a bundle is in it by the id of `shared.keys.bundle_id`
    since:<cause>              zset   user -> when first marked dirty for this cause (Unix seconds)
    shelf                      string "token|etag": renewed after each change of bundles.json; etag "" for unknown
    staged                     hash   user -> "mark|slot|outcome": read, not yet published
    pages                      list   bulk work: users marked by a sweep or rebuild, a thousand an entry
    writer                     string the token of the publisher that may write, with a lease
    published                  hash   what the last publisher recorded: by, etag, rej_etag, time, rows
    epoch                      string "ok:<run_id>" while nothing is known to be lost; evidence deletes it
    evidence:new               set    kinds of evidence that came up since the last sweep began
    evidence:looked            set    kinds of evidence that a sweep looks into, until one has come to its end
    seen:<digest>              string fast events whose safe copy has not come yet
    notifications              string "none" where MinIO's events do not reach this Redis
    source_failure             string why the source bucket could not be read lately
    safe_queue                 string how many safe copies wait on MinIO's disk and do not get on
    dead_letters               list   events that could not be decoded, with their reasons
    readings                   hash   token -> the users that a worker is reading; left by one that died over them
    doubtful                   set    users of whom copies of images may lie about that nobody knows of
    alone                      hash   users to be read alone, as a worker may have died over them: `worker.trials`
    unexplained                hash   users whom a sweep found to differ, and no event told of: `worker.healed`
    counters                   hash   figures for the operator; `since` is when the counting began

Tokens are random and only ever compared for equality: they need no order, so nothing goes wrong when Redis is emptied
or falls back.  Each step is one Lua script in `worker/lua/`; an outage raises `redis.exceptions.RedisError`.
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
"""Why a user is marked; "bundle": one was unpacked, or has gone.  "unpack" is for the bundles themselves."""
PAGES = "pages"
WAKE_LIVE, WAKE_BULK = "wake:live", "wake:bulk"

CHUNK = 500
"""Users in one script call: a few milliseconds in which Redis does nothing else."""
LEASE_MS = 5000
SEEN_S = 600
SHOWN_S = 60
MOST_DEAD_LETTERS = 1000
SHOWN_BYTES = 200
"""So much of an event is kept in its dead letter."""
MOST_PEEKED_BYTES = 16 << 20
"""When so many bytes of events were looked at, the rest of a batch goes into the next one."""
MOST_UNEXPLAINED = 100_000
"""So many users are remembered as found to differ by a sweep; further ones are mended without being counted."""

EVIDENCE = {
    "minio_restarted": "MinIO was started anew",
    "events_skipped": "MinIO skipped events, as its queue in memory was full",
    "events_failed": "MinIO failed to send events",
    "safe_queue_stalled": "MinIO's queue of safe copies does not get on",
    "rules_missing": "MinIO had no rules any more to send events by",
    "redis_restarted": "Redis was started anew",
    "redis_emptied": "Redis was emptied",
    "files_changed": "output.csv, rejects.csv or bundles.json is not what was last written",
    "publish_broken_off": "a publish was broken off",
    "publisher_replaced": "a publisher was replaced while it wrote",
}
"""The kinds of evidence of a loss.  All of it has one effect: a sweep, as soon as the watch sees it."""
NOTHING_KNOWN = "nothing_known"
"""What a sweep looks into when there is no epoch and no evidence: the first sweep of all."""

_SINCE = [f"since:{cause}" for cause in CAUSES]

_Item = TypeVar("_Item")


class Notice(NamedTuple):
    """One entry of an event list as the listener understood it: whom to mark, or why it could not be decoded."""

    raw: bytes
    user_ids: Sequence[str]
    dead_letter: str | None = None


class Note(NamedTuple):
    """A dirty user's tokens as they were before its files were read; and what is `staged` of an earlier reading.

    That is the one which this reading is going to supersede: if another came in between, this one is refused.
    """

    mark: bytes
    slot: bytes
    staged: bytes = b""


class Notes(dict[str, Note]):
    """The tokens of those users that are dirty; and the token of the shelf, as it was not before those.

    `doubtful`: those of them of whom copies of images may lie about.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shelf: bytes | None = None
        self.doubtful: set[str] = set()


class Staged(NamedTuple):
    """A reading that waits for its publish; `tokens` is "mark|slot" as it was accepted."""

    tokens: bytes
    outcome: Outcome


class Begun(NamedTuple):
    """What a publisher begins with: the ETags recorded as published (None: nothing was), and all that is staged.

    `watched`: somebody wants to know whether readings changed what was published (see CLEAN).
    """

    etag: str | None
    rej_etag: str | None
    batch: dict[str, Staged]
    watched: bool = False


class Published(NamedTuple):
    """What the last publisher recorded; None for what was never recorded."""

    by: str | None
    etag: str | None
    rej_etag: str | None


class ListedUser(NamedTuple):
    """A user's tokens, and what a LIST that began after they were noted told: has a CSV, the image's key and ETag."""

    user_id: str
    note: Note
    has_csv: bool
    image: str | None
    image_etag: str = ""


class Page(NamedTuple):
    """A page of bulk work: users who were marked before, `listed` if a LIST has told of their files."""

    user_ids: list[str] = []  # noqa: RUF012  never changed
    listed: list[ListedUser] = []  # noqa: RUF012

    def to_json(self) -> str:
        """The page as it lies in Redis."""
        listed = [[u, note.mark.decode(), note.slot.decode(), *files] for u, note, *files in self.listed]
        return json.dumps([list(self.user_ids), listed], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: bytes) -> "Page":
        """The inverse of `to_json`."""
        user_ids, listed = json.loads(text)
        return cls(user_ids, [ListedUser(u, Note(m.encode(), s.encode()), *files) for u, m, s, *files in listed])


class LeaseLost(Exception):
    """Another publisher may be writing by now."""


def new_token() -> str:
    """72 random bits, which never come again."""
    return secrets.token_hex(9)


class Backlog:
    """The to-do list.  `client` must not decode answers: event lists may hold any bytes."""

    def __init__(self, client: "Redis") -> None:
        self.redis: Any = client
        load = _loader(client)
        self._peek: str = load("peek").script  # type: ignore[assignment]
        self._mark, self._note, self._stage = load("mark"), load("note"), load("stage")
        self._claim, self._doubt = load("claim"), load("doubt")
        self._begin, self._batch, self._clean = load("begin"), load("batch"), load("clean")
        self._evidence, self._sweep_begins, self._commit = load("evidence"), load("sweep_begins"), load("commit")

    # -- events in ---------------------------------------------------------------------------------------------------
    def wait_for_event(self, seconds: float) -> bytes | None:
        """Wait until MinIO has said something by the fast way.  Takes nothing: the head moves onto itself."""
        raw: bytes | None = self.redis.blmove(FAST, FAST, seconds, "LEFT", "LEFT")
        return Cut(raw[:SHOWN_BYTES]) if raw and len(raw) > MAX_EVENT_BYTES else raw

    def waiting(self, source: str, queue: str) -> tuple[int, int]:
        """The length of an event list, and of a Celery queue."""
        with self.redis.pipeline(transaction=False) as pipe:
            events, messages = pipe.llen(source).llen(queue).execute()
        return events, messages

    def peek(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """PEEK: the first entries of the fast and of the safe list; at most `count`, fewer of large ones."""
        arguments = [count, MAX_EVENT_BYTES, SHOWN_BYTES, MOST_PEEKED_BYTES]
        with self.redis.pipeline(transaction=False) as pipe:
            for events in (FAST, SAFE):  # by EVAL: in a pipeline, EVALSHA costs a round trip more
                pipe.eval(self._peek, 1, events, *arguments)
            fast, safe = pipe.execute()
        return _whole_or_cut(fast), _whole_or_cut(safe)

    def note_notifications(self, *, come: bool) -> None:
        """Whether MinIO's events reach this Redis at all; if not, only sweeps see changes."""
        if come:
            self.redis.delete("notifications")
        else:
            self.redis.set("notifications", "none")

    def notifications_come(self) -> bool:
        """What init has found."""
        return bool(self.redis.get("notifications") != b"none")

    def probe_came(self, key: str) -> bool:
        """Whether the event of this probe key has come, to a listener or to the head of either list."""
        if self.redis.get("probe") == key.encode():
            return True
        waiting = self.redis.lrange(FAST, -50, -1) + self.redis.lrange(SAFE, -50, -1)
        return any(key.encode() in raw for raw in waiting)

    def note_probe(self, key: str) -> None:
        """The event of a probe key has come."""
        self.redis.set("probe", key, ex=60)

    def note_events(self, source: str, notices: Sequence[Notice], now: float) -> list[str]:
        """MARK the users of these entries of `source` and pop what was peeked, in one step.

        Returns whom to refresh; who is to be read alone is left to the watch.  A safe copy of an event that came the
        fast way marks nobody.
        """
        arguments: list[Any] = []
        for notice in notices:
            letter = "" if notice.dead_letter is None else _dead_letter(notice, now)
            digest = hashlib.sha1(notice.raw, usedforsecurity=False).digest()
            cut = isinstance(notice.raw, Cut)
            arguments += ["" if cut else notice.raw, digest, letter]
            arguments += [-1] if cut else [len(notice.user_ids), *notice.user_ids]
        return self._run_mark(source, source.removeprefix("events:"), "event", arguments, now)

    def mark(self, user_ids: Sequence[str], cause: str, now: float, *, unexplained: bool = False) -> None:
        """MARK users that a sweep or a rebuild names.

        `unexplained`: a sweep found them to differ from what is published, and knows of no reason.
        """
        kind = "unexplained" if unexplained else "named"
        for chunk in _chunks(user_ids):
            self._run_mark("", kind, cause, ["", "", "", len(chunk), *chunk], now)

    def _run_mark(self, source: str, kind: str, cause: str, arguments: list[Any], now: float) -> list[str]:
        keys = [source, "dirty", f"since:{cause}", "dead_letters", "seen:", "unexplained", "alone", "counters"]
        keys.append("since:unpack")
        limits = [SEEN_S, MOST_DEAD_LETTERS, MOST_UNEXPLAINED, MAX_EVENT_BYTES]
        marked = self._mark(keys, [new_token(), now, kind, *limits, *arguments])
        return [user.decode() for user in marked]

    # -- reading -----------------------------------------------------------------------------------------------------
    def note(self, user_ids: Sequence[str], reading: str = "") -> Notes:
        """NOTE, before any reading: the tokens of those of the users who are to be read.

        That is who is dirty, but for those who have been read since their last mark and wait to be published.  With
        the token of a `reading` it is noted too that these users are being read, until `stage` or `end_reading` is
        given the token.  What is left of a reading that never came to its end sets its users apart.
        """
        notes, users = Notes(), json.dumps(list(user_ids), ensure_ascii=False) if reading else ""
        for chunk in _chunks(user_ids):
            keys = ["dirty", "staged", "readings", "shelf", "doubtful"]
            notes.shelf, doubtful, *answers = self._note(keys, [reading, users, *chunk])
            notes.doubtful.update(user.decode() for user in doubtful)
            notes |= {user: Note(*tokens.split(b"|", 2)) for user, tokens in zip(chunk, answers, strict=True) if tokens}
        return notes

    def end_reading(self, reading: str) -> None:
        """The reading came to its end without anything to be staged."""
        self.redis.hdel("readings", reading)

    def stage(
        self, readings: Sequence[tuple[Note, Outcome]], reading: str = "", copied: Collection[str] = ()
    ) -> list[str]:
        """STAGE what was read, and end the reading of this token; `copied` are users whose image it has copied.

        Returns the users to note and read again: another reading was accepted meanwhile.
        """
        again = []
        chunks = list(_chunks(readings)) or [[]]
        for number, chunk in enumerate(chunks, 1):
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
        """CLAIM: be the reading whose outcome counts, and that alone may write what is no outcome.

        The tokens to STAGE with; None if another reading was accepted, or has claimed, since these were noted.
        """
        token = new_token()
        return note._replace(slot=token.encode()) if self._claim(["dirty"], [user_id, note.slot, token]) else None

    # -- copies of images --------------------------------------------------------------------------------------------
    def doubt(self, user_ids: Sequence[str]) -> None:
        """DOUBT: copies of these users' images may have been made, or may be made yet, that nobody knows of."""
        for chunk in _chunks(user_ids):
            self._doubt(["doubtful", "dirty", "since:bundle"], [new_token(), *chunk])

    def end_doubt(self, user_ids: Collection[str]) -> None:
        """What lies there of these users is known: it was staged."""
        if user_ids:
            self.redis.srem("doubtful", *user_ids)

    # -- the shelf of bundles ----------------------------------------------------------------------------------------
    def shelf_token(self) -> bytes:
        """The token of the shelf; a new one if there is none."""
        self.redis.set("shelf", f"{new_token()}|", nx=True)
        return bytes(self.redis.get("shelf") or b"")

    def renew_shelf(self, etag: str | None, before: bytes | None = None) -> None:
        """What readers have kept of the shelf is out of date; `etag` is what it has now (None: there is no shelf).

        With `before`, only if the token is still that one.
        """
        script = (
            "if ARGV[2] == '' or redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('SET', KEYS[1], ARGV[1]) end"
        )
        self.redis.eval(script, 1, "shelf", f"{new_token()}|{etag or '-'}", before or "")

    def shelf_etag(self) -> str | None:
        """The ETag of the shelf as recorded ("-": there is none); None if nothing is recorded."""
        _, _, etag = (self.redis.get("shelf") or b"").decode().partition("|")
        return etag or None

    # -- bulk work in pages ------------------------------------------------------------------------------------------
    def add_page(self, page: Page) -> None:
        """Queue a page for `take_page`."""
        self.redis.rpush(PAGES, page.to_json())

    def take_page(self) -> Page | None:
        """The next page.  If it gets lost, its users are still dirty, and found overdue."""
        page = self.redis.lpop(PAGES)
        return Page.from_json(page) if page else None

    def pages_left(self) -> int:
        """Pages of bulk work that nobody has begun."""
        return int(self.redis.llen(PAGES))

    # -- publishing --------------------------------------------------------------------------------------------------
    def wait_for_wake(self, keys: Sequence[str], seconds: float) -> bool:
        """Wait until something was staged."""
        return self.redis.blpop(list(keys), seconds) is not None

    def wake_publisher(self) -> None:
        """Have the publisher look, whether or not something was staged."""
        self.redis.rpush(WAKE_LIVE, "1")

    def begin(self, token: str) -> Begun | None:
        """BEGIN: become the writer, and read all that is staged; None while another's lease runs.

        Each chunk read begins the lease anew.  Raises `LeaseLost`.
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
        """BATCH: what is staged, from `cursor` on; each chunk begins the lease anew.  Raises `LeaseLost`."""
        batch: dict[str, Staged] = {}
        while True:
            answer = self._batch(["writer", "staged"], [token, cursor, CHUNK, LEASE_MS])
            if answer is None:
                raise LeaseLost
            cursor, entries = answer
            batch.update(_staged(entries))
            if cursor == b"0":
                return batch

    def renew(self, token: str) -> None:
        """Begin the lease anew.  Raises `LeaseLost`."""
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
        """CLEAN: record what was published, forget what it made clean.  Returns how much is staged still.

        `changed`: those of the batch whose row or reject was another before; to be told if `Begun.watched`.
        Raises `LeaseLost`, after noting that as evidence.
        """
        keys = ["writer", "published", "staged", "dirty", "epoch", "evidence:new", "counters", "unexplained", "alone"]
        chunks = list(_chunks(list(batch.items()))) or [[]]
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
        """Stop being the writer without having recorded anything; `evidence` asks for a sweep."""
        script = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
        self.redis.eval(script, 1, "writer", token)
        if evidence:
            self.add_evidence("publish_broken_off")

    def staged_count(self) -> int:
        """Users read and not yet published."""
        return int(self.redis.hlen("staged"))

    def dirty_count(self) -> int:
        """Users marked and not yet clean."""
        return int(self.redis.hlen("dirty"))

    def dirty_users(self) -> set[str]:
        """Everyone who is dirty now."""
        return {user.decode() for user in self.redis.hkeys("dirty")}

    def dirty(self, user_ids: Sequence[str]) -> dict[str, Note]:
        """The tokens of those of the users who are dirty, whether they were read since or not."""
        notes = dict[str, Note]()
        for chunk in _chunks(user_ids):
            tokens = zip(chunk, self.redis.hmget("dirty", chunk), strict=True)
            notes |= {user: Note(*value.split(b"|", 1)) for user, value in tokens if value}
        return notes

    def overdue(self, cause: str, before: float, most: int) -> list[str]:
        """Users marked before `before` for this cause whose last mark has not been read: their message may be lost."""
        users = [
            user.decode()
            for user in self.redis.zrange(f"since:{cause}", "-inf", before, byscore=True, offset=0, num=most)
        ]
        return list(self.note(users))

    def told_by_events(self, user_ids: Sequence[str]) -> set[str]:
        """Those of the users who are dirty by an event."""
        scores = self.redis.zmscore("since:event", user_ids) if user_ids else []
        return {user for user, score in zip(user_ids, scores, strict=True) if score is not None}

    # -- what is known to be lost ------------------------------------------------------------------------------------
    def published(self) -> Published:
        """What the last publisher recorded."""
        return Published(*map(_text, self.redis.hmget("published", "by", "etag", "rej_etag")))

    def writer_active(self) -> bool:
        """Whether some publisher's lease runs."""
        return bool(self.redis.exists("writer"))

    def run_id(self) -> str:
        """The id of this run of the Redis server: another one means that it was restarted, perhaps with less in it."""
        return str(self.redis.info("server")["run_id"])

    def epoch(self) -> str | None:
        """`ok:<run_id>` while nothing is known to be lost, `s:<token>` while a sweep looks, None on evidence."""
        return _text(self.redis.get("epoch"))

    def add_evidence(self, kind: str) -> None:
        """EVIDENCE: something may have been lost, so have a sweep look; `kind` is one of `EVIDENCE`.

        Logged, and counted for the operator, once for each kind until a sweep begins.
        """
        if self._evidence(["epoch", "evidence:new", "counters"], [kind]):
            logger.warning("%s: %s; a sweep will look", kind, EVIDENCE.get(kind, "something may have been lost"))

    def evidence(self) -> set[str]:
        """The kinds of evidence that no sweep has looked into, to its end."""
        return {kind.decode() for kind in self.redis.sunion("evidence:new", "evidence:looked")}

    def begin_sweep(self, token: str) -> set[str]:
        """SWEEP BEGINS, before its LIST.  Evidence found from now on makes its commit fail.

        Returns the kinds of evidence that it looks into; "nothing_known" is one too.
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
        """COMMIT a sweep whose users are all marked.  False if new evidence came up since it began."""
        pairs = [item for pair in record.items() for item in pair]
        arguments = [token, by or "", compared[0] or "", compared[1] or "", run_id, *pairs]
        return bool(self._commit(["epoch", "published", "sweep", "evidence:looked"], arguments))

    def note_source_failure(self, reason: str) -> None:
        """The source bucket could not be read; shown to the operator for a minute, or until `note_source_read`."""
        self.redis.set("source_failure", reason, ex=SHOWN_S)

    def note_source_read(self) -> None:
        """It could be read again."""
        self.redis.delete("source_failure")

    def note_safe_queue(self, length: int) -> None:
        """So many safe copies wait on MinIO's disk and do not get on (0: they do); shown to the operator."""
        if length:
            self.redis.set("safe_queue", length, ex=SHOWN_S)
        else:
            self.redis.delete("safe_queue")

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter that the operator sees."""
        if amount:
            self.redis.hincrby("counters", name, amount)

    def counted(self, name: str) -> int:
        """What `count` has come to."""
        return int(self.redis.hget("counters", name) or 0)

    def begin_counting(self, now: float) -> None:
        """Note since when there are counters, unless that is known."""
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
