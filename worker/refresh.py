"""Reads the current files of users and stages the results: the only way into output.csv.

Events, sweeps and rebuilds only name users. This module first takes the users' version tokens,
then reads what is in the buckets now. The verb, order and ETag of an event decide nothing, so a
refresh is idempotent: one or a hundred refreshes of a user end in the same row.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from shared.keys import IMAGE_EXTENSIONS, LONGEST_NAME, bundle_key, csv_key, image_key, newest_image
from shared.object_store import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    StoredObject,
    StoreUnavailable,
)
from shared.records import QUARANTINED, CsvVersion, InvalidCsv, Outcome, ValidCsv
from worker.backlog import Backlog, ListedUser, Note, Notes, new_token
from worker.bundles import Bundles, Outdated
from worker.images import Copies, Picture
from worker.trials import Trials
from worker.unreadable import PAUSES_S, reason_of
from worker.user_csv import MAX_CSV_BYTES, InvalidUserFile, parse

logger = logging.getLogger(__name__)

MOST_READINGS = 5
"""Attempts per call to read users that concurrent changes overtake; then they stay dirty."""
READ_S = 20.0
"""Seconds after which a read starts no further request. Users not read by then stay dirty."""
_TOO_LONG = f"the read took longer than {READ_S:.0f} s; unread users stay dirty and are retried"

Csv = ValidCsv | InvalidCsv | None
Judge = Callable[[str, StoredObject], ValidCsv | InvalidCsv]

_Answer = TypeVar("_Answer")


def judge(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
    """Parse one CSV.

    Pure: the same bytes always give the same result.
    """
    version = CsvVersion(key, stored.etag, stored.last_modified)
    try:
        return ValidCsv(version, parse(stored.body))
    except InvalidUserFile as error:
        return InvalidCsv(version, error.reason, error.line)


def judge_safely(judge: Judge, key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
    """Parse one CSV with `judge`, and reject the CSV if `judge` raises an unexpected error.

    Raises `MemoryError`, which is retried: other work in the process may be its cause.
    """
    try:
        return judge(key, stored)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  every retry would fail likewise
        reason = f"Rowdrop could not read it, by a fault of its own ({type(error).__name__})"
        return InvalidCsv(CsvVersion(key, stored.etag, stored.last_modified), reason, None)


@dataclass(slots=True)
class _Found:
    """One user's CSV and the image that counts, or None for a missing one."""

    user_id: str
    csv: Csv
    picture: Picture | None


@dataclass(slots=True)
class _Read:
    """What one read of several users found.

    `outcomes` are the results. `copied` are the users with an image that this read copied. `again`
    are users to read again. `failure` is the error if some users could not be read. `doubtful` are
    the ones among these that may have a stray image copy: the copy request had no answer.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    copied: set[str] = field(default_factory=set)
    again: list[str] = field(default_factory=list)
    failure: StoreUnavailable | None = None
    doubtful: list[str] = field(default_factory=list)


class Refresher:
    """Refreshes users of one source bucket.

    At most `readers` requests run concurrently, on the threads of `pool`. `deadline` is entered for
    each read and may kill the process. `judge` parses a CSV. Without `bundles`, bundles are not
    looked up. Without `copies`, no image is copied.
    """

    def __init__(
        self,
        source: ObjectStore,
        backlog: Backlog,
        pool: Executor,
        readers: int,
        deadline: AbstractContextManager[None] | None = None,
        judge: Judge = judge,
        bundles: Bundles | None = None,
        copies: Copies | None = None,
    ) -> None:
        self._source, self._backlog, self._pool, self._readers = source, backlog, pool, readers
        self._bundles, self._copies = bundles, copies
        self._deadline, self._judge = deadline or nullcontext(), judge
        self._trials = Trials(backlog.redis)
        self._failed = False
        self._owed = list[tuple[str, str]]()

    def refresh(self, user_ids: Sequence[str]) -> None:
        """Read the current files of these users and stage the results.

        Skips IDs of bundles, users that are no longer dirty, and users that were read since their
        last mark. A user that a concurrent change overtakes is read again, `MOST_READINGS` times in
        all. Raises `StoreUnavailable` if some users could not be read: they stay dirty, the results
        of the others are staged.
        """
        user_ids = [user_id for user_id in dict.fromkeys(user_ids) if bundle_key(user_id) is None]
        for _ in range(MOST_READINGS):
            if not user_ids:
                return
            with self._reading(user_ids) as (reading, notes):
                read = self._read(list(notes), notes.shelf)
                user_ids = self._stage(notes, read, reading, notes.doubtful)
        if user_ids:
            logger.info(
                "%d users stay dirty: concurrent changes overtook all %d attempts; the watchdog retries",
                len(user_ids),
                MOST_READINGS,
            )

    def refresh_listed(self, users: Sequence[ListedUser]) -> None:
        """Read users of which a LIST has shown the files, and stage the results.

        Like `refresh`, but takes from the LIST whether a user has a CSV and which image counts: one
        request per user instead of four. The LIST started after the version tokens were taken. A
        user with a read version that has changed since then is read by `refresh`.
        """
        with self._reading([user.user_id for user in users]) as (reading, now):
            fresh = [user for user in users if user.user_id in now and now[user.user_id].slot == user.note.slot]
            # The read version of the page: STAGE refuses a result that a newer one overtook;
            # but `staged` of now, which names the copies to supersede.
            notes = {user.user_id: user.note._replace(staged=now[user.user_id].staged) for user in fresh}
            read = self._read_listed(fresh, now.shelf)
            again = self._stage(notes, read, reading, now.doubtful)
        self.refresh([*again, *(now.keys() - notes.keys())])

    def refresh_alone(self, user_id: str) -> None:
        """Read one user in isolation, because its file may have killed a worker.

        One version of the CSV gets a limited number of attempts (`worker.trials.MOST_ATTEMPTS`).
        Then it is quarantined: it becomes a reject without being read. Raises `StoreUnavailable`;
        that attempt is refunded.
        """
        self._pay()
        if not self._backlog.note([user_id]):
            return
        version = self._answer(lambda: self._version_of(csv_key(user_id)))
        etag = version[0] if version else None
        attempt = new_token()
        # "busy" has no case: another attempt is in progress, or the watchdog is about to end it.
        match self._trials.begin(user_id, attempt, etag or ""):
            case "unknown":
                self.refresh([user_id])
            case "read":
                self._attempt(user_id, attempt)
            case "guilty" if etag is not None:
                self._quarantine(user_id, etag)
            case "guilty":  # there is no CSV to quarantine
                self.refresh([user_id])

    def _attempt(self, user_id: str, attempt: str) -> None:
        logger.info("reading user %s in isolation, as it may have killed a worker", user_id)
        try:
            self.refresh([user_id])
        except BaseException:
            # The worker survived, so this attempt must not count against the file.
            self._owed.append((user_id, attempt))
            with suppress(RedisError):
                self._pay()
            raise
        self._trials.acquit([user_id])

    def _pay(self) -> None:
        """Refund attempts that ended normally.

        If Redis is unavailable, the attempt stays listed, and the next isolated read retries it.
        """
        while self._owed:
            self._trials.failed(*self._owed[-1])
            self._owed.pop()

    def _quarantine(self, user_id: str, etag: str) -> None:
        notes = self._backlog.note([user_id])
        if not notes:
            return
        version = self._answer(lambda: self._version_of(csv_key(user_id)))
        since = version[1] if version else 0
        # The ETag is that of the failed attempts: a newer version of the CSV has a mark of its own
        # and must not be quarantined.
        csv = InvalidCsv(CsvVersion(csv_key(user_id), etag, since), QUARANTINED, None)
        self._stage(notes, self._read([user_id], notes.shelf, {user_id: csv}))
        logger.warning(
            "user %s is quarantined: its CSV is a reject until it changes or a sweep retries it",
            user_id,
        )

    def _answer(self, call: Callable[[], _Answer]) -> _Answer:
        (answer,) = call_all([call], time.monotonic() + READ_S)
        if isinstance(answer, StoreUnavailable):
            self._tell(answer)
        return cast(_Answer, answer)

    @contextmanager
    def _reading(self, user_ids: Sequence[str]) -> Iterator[tuple[str, Notes]]:
        """Take the version tokens (NOTE) and record the read in Redis while the block runs.

        A kill or a hang leaves the record behind, for the watchdog. An exception removes it here;
        without one, the block passes the read token to `Backlog.stage`, which removes it.
        """
        reading = new_token()
        with self._deadline:
            try:
                yield reading, self._backlog.note(user_ids, reading)
            except BaseException:
                with suppress(RedisError):
                    self._backlog.end_reading(reading)
                raise

    def _stage(
        self, notes: Mapping[str, Note], read: _Read, reading: str = "", doubtful: Collection[str] = ()
    ) -> list[str]:
        """Submit the results of a read and return the users to read again.

        `doubtful`: suspect users, which may have stray image copies. Their results name the
        existing copies as superseded, so that the publisher deletes them. Raises `read.failure`.
        """
        lying = self._lying_about([found.user_id for found in read.outcomes if found.user_id in doubtful])
        readings = [
            (notes[found.user_id], _superseding(found, notes[found.user_id], lying.get(found.user_id, ())))
            for found in read.outcomes
        ]
        # Before STAGE, which removes the record of the read: a kill in between must not lose track
        # of copies that this read may have made.
        self._backlog.doubt(read.doubtful)
        again = self._backlog.stage(readings, reading, read.copied)
        # After STAGE: from now on the accepted results name these copies.
        self._backlog.end_doubt(lying.keys() - set(again))
        self._backlog.count("readings_refused", len(again))
        self._tell(read.failure)
        return again + read.again

    def _tell(self, failure: StoreUnavailable | None) -> None:
        if failure:
            self._failed = True
            self._backlog.note_source_failure(str(failure))
            raise failure
        if self._failed:
            self._failed = False
            self._backlog.note_source_read()

    # -- reading -----------------------------------------------------------------------------------
    def _read(self, user_ids: Sequence[str], shelf: bytes | None, known: Mapping[str, Csv] | None = None) -> _Read:
        """Read these users: a request per CSV, and one per possible image.

        `shelf`: the version of the bundle catalog to use. `known`: CSVs by user that need no
        request; only the images of these users are read.
        """
        until, read = time.monotonic() + READ_S, _Read()
        keys = [image_key(user_id, extension) for user_id in user_ids for extension in IMAGE_EXTENSIONS]
        calls: list[Callable[[], Csv | bool]] = [self._how_to_get(user_id, known or {}) for user_id in user_ids]
        calls += [partial(self._source.exists, key) if _is_possible(key) else _no_image for key in keys]
        # The last attempt at an unreadable CSV makes it a reject; an image is only retried.
        last = [partial(self._last_attempt_at_csv, user_id) for user_id in user_ids]
        answers: list[Any] = self._ask_patiently(calls, [*last, *calls[len(last) :]], until)
        csvs, there, each = answers[: len(user_ids)], answers[len(user_ids) :], len(IMAGE_EXTENSIONS)
        self._look(shelf)
        found = []
        for number, user_id in enumerate(user_ids):
            mine = slice(number * each, (number + 1) * each)
            images = dict(zip(keys[mine], there[mine], strict=True))
            found += self._found(read, user_id, csvs[number], partial(self._own_picture, images, until))
        return self._copied(read, found, None, until)

    def _how_to_get(self, user_id: str, known: Mapping[str, Csv]) -> Callable[[], Csv]:
        return partial(known.get, user_id) if user_id in known else partial(self._csv, user_id)

    def _own_picture(self, images: Mapping[str, bool | StoreUnavailable], until: float) -> Picture | None:
        for answer in images.values():
            if isinstance(answer, StoreUnavailable):
                raise answer
        key = self._newest([key for key, exists in images.items() if exists], until)
        return self._picture(key)

    def _picture(self, key: str | None, etag: str = "") -> Picture | None:
        if key is None:
            return None
        return self._copies.own(key, etag) if self._copies else Picture(key)

    def _read_listed(self, users: Sequence[ListedUser], shelf: bytes | None) -> _Read:
        until, read = time.monotonic() + READ_S, _Read()
        calls = [partial(self._csv, user.user_id) if user.has_csv else _no_csv for user in users]
        last = [partial(self._last_attempt_at_csv, user.user_id) for user in users]
        csvs = self._ask_patiently(calls, last, until)
        self._look(shelf)
        found = []
        for user, csv in zip(users, csvs, strict=True):
            found += self._found(read, user.user_id, csv, partial(self._picture, user.image, user.image_etag))
        there = self._copies.there([user.user_id for user in found]) if self._copies and _copied(found) else None
        return self._copied(read, found, there, until)

    def _look(self, shelf: bytes | None) -> None:
        if self._bundles:
            self._bundles.look(shelf)

    def _found(
        self, read: _Read, user_id: str, csv: Csv | StoreUnavailable, own_picture: Callable[[], Picture | None]
    ) -> list[_Found]:
        """Resolve the user's CSV and image from its own files and from bundles.

        The list is empty if they cannot be resolved now; the reason is recorded in `read`.
        """
        try:
            if isinstance(csv, StoreUnavailable):
                raise csv
            picture = own_picture()
            # An own file takes precedence over bundles, for the CSV and the image separately.
            if self._bundles:
                csv = csv or self._bundles.csv(user_id)
                picture = picture or self._picture_of_bundle(user_id)
            return [_Found(user_id, csv, picture)]
        except Outdated:
            read.again.append(user_id)
        except StoreUnavailable as error:
            read.failure = error
        return []

    def _picture_of_bundle(self, user_id: str) -> Picture | None:
        image = self._bundles.image(user_id) if self._bundles else None
        return self._copies.of_bundle(user_id, image) if image and self._copies else None

    # -- copying -----------------------------------------------------------------------------------
    def _copied(self, read: _Read, found: list[_Found], there: Mapping[str, ObjectInfo] | None, until: float) -> _Read:
        """Make the image copies that these users need, and complete `read`.

        `there`: the existing copies by key, if a LIST has shown them. None: look up each copy.
        """
        wanted = _copied(found)
        calls = [partial(self._copy, picture, there) for _, picture in wanted]
        made = self._ask_patiently(calls, calls, until)
        answers = {user.user_id: answer for (user, _), answer in zip(wanted, made, strict=True)}
        for user in found:
            self._note_copy(read, user, answers.get(user.user_id, False))
        return read

    def _copy(self, picture: Picture, there: Mapping[str, ObjectInfo] | None) -> bool | ObjectNotFound:
        copies = cast(Copies, self._copies)
        try:
            return copies.make(picture, copies.look(picture) if there is None else there.get(picture.image))
        except ObjectNotFound as gone:  # returned: `call_all` would turn it into `StoreUnavailable`
            return gone

    def _lying_about(self, user_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the existing image copies per user.

        Users of which the copies cannot be looked up now are omitted; they stay suspect.
        """
        if not user_ids or not self._copies:
            return {}
        calls = [partial(self._copies.lying_there, user_id) for user_id in user_ids]
        answers = zip(user_ids, self._ask(calls, time.monotonic() + READ_S), strict=True)
        return {user_id: answer for user_id, answer in answers if not isinstance(answer, StoreUnavailable)}

    def _note_copy(self, read: _Read, user: _Found, answer: bool | ObjectNotFound | StoreUnavailable) -> None:
        picture = user.picture or Picture("")
        if isinstance(answer, StoreUnavailable) and not isinstance(answer, ObjectUnreadable):
            # Without an answer, the server may have made the copy, or may still make it.
            read.doubtful.append(user.user_id)
        is_gone = isinstance(answer, ObjectNotFound | ObjectUnreadable)
        if is_gone and picture.bundle and self._bundles:
            # Either the cached catalog is stale, or the bundle must be unpacked again.
            answer = self._bundles.missing(picture.bundle)
        if isinstance(answer, ObjectUnreadable):
            # Each sweep finds that the copy is missing and marks the user for another attempt.
            logger.warning(
                "%s: its image cannot be read; the row has no image until a retry: %s",
                user.user_id,
                answer,
            )
            picture = Picture("")
            answer = False
        match answer:
            case ObjectNotFound() | Outdated():
                read.again.append(user.user_id)
            case StoreUnavailable():
                read.failure = answer
            case made:
                read.copied |= {user.user_id} if made else set()
                read.outcomes.append(Outcome(user.user_id, user.csv, picture.image or None, picture.image_source))

    # -- requests ----------------------------------------------------------------------------------
    def _ask(self, calls: Sequence[Callable[[], _Answer]], until: float) -> list[_Answer | StoreUnavailable]:
        """Make these calls concurrently and return their answers in order, see `call_all`.

        Each thread makes an equal share of the calls: a pool task per call would cost more.
        """
        width = min(len(calls), self._readers)
        shares = [calls[first::width] for first in range(width)]
        answers: list[Any] = [None] * len(calls)
        for first, share in enumerate(self._pool.map(call_all, shares, [until] * width)):
            answers[first::width] = share
        return answers

    def _ask_patiently(
        self, calls: Sequence[Callable[[], _Answer]], last: Sequence[Callable[[], _Answer]], until: float
    ) -> list[_Answer | StoreUnavailable]:
        """Make these calls like `_ask`, with two retries for objects that cannot be read.

        One pause (`PAUSES_S`) precedes each retry of all of them. The second retry makes the call
        of `last` with the same index.
        """
        answers = self._ask(calls, until)
        for pause, attempts in zip(PAUSES_S, (calls, last), strict=True):
            unread = [n for n, answer in enumerate(answers) if isinstance(answer, ObjectUnreadable)]
            if unread:
                time.sleep(pause)
                found = self._ask([attempts[n] for n in unread], until)
                for number, answer in zip(unread, found, strict=True):
                    answers[number] = answer
        return answers

    def _csv(self, user_id: str) -> Csv:
        key = csv_key(user_id)
        if not _is_possible(key):
            return None
        try:
            stored = self._source.get(key, most=MAX_CSV_BYTES)
        except ObjectNotFound:
            return None
        return judge_safely(self._judge, key, stored)

    def _last_attempt_at_csv(self, user_id: str) -> Csv:
        """Read a CSV; return a reject if it still cannot be read.

        Raises `StoreUnavailable`.
        """
        # LIST shows the ETag of an object on which HEAD fails. It comes before the GET: a sweep
        # reads a reject with an older ETag than that of the object again, but one with a newer ETag
        # might stay.
        info = self._source.listed(csv_key(user_id))
        try:
            return self._csv(user_id)
        except ObjectUnreadable as error:
            if info is None:
                raise StoreUnavailable(f"{error.key} changed while it was read; retrying") from None
            logger.warning("rejecting a CSV that cannot be read; each sweep retries it: %s", error)
            version = CsvVersion(info.key, info.etag, info.last_modified)
            return InvalidCsv(version, reason_of(error), None)

    def _version_of(self, key: str) -> tuple[str, int] | None:
        """Return the ETag and LastModified (whole seconds) of a key, or None if it does not exist.

        LIST shows both for an object that cannot be read.
        """
        try:
            info = self._source.info(key)
        except ObjectUnreadable:
            info = self._source.listed(key)
        return info and (info.etag, info.last_modified)

    def _newest(self, keys: Sequence[str], until: float) -> str | None:
        if len(keys) < 2:
            return keys[0] if keys else None
        found = []
        for key in keys:
            if time.monotonic() > until:
                raise StoreUnavailable(_TOO_LONG)
            version = self._version_of(key)
            if version:  # else it was deleted since the check that it exists
                found.append((key, version[1]))
        return newest_image(found)


def _superseding(found: Outcome, note: Note, copies: tuple[str, ...]) -> Outcome:
    """Return the result with the image copies that it supersedes.

    These are the copies which the pending result (`note.staged`) names, and the stray `copies`.
    """
    if note.staged:
        staged = Outcome.from_json(found.user_id, note.staged.decode())
        copies += (*staged.dropped, *((staged.image,) if staged.image and staged.image_source else ()))
    dropped = tuple(image for image in dict.fromkeys(copies) if image != found.image)
    return replace(found, dropped=dropped) if dropped else found


def _is_possible(key: str) -> bool:
    return len(key.encode()) <= LONGEST_NAME


def _copied(found: Sequence[_Found]) -> list[tuple[_Found, Picture]]:
    """Select the users that need an image copy.

    A user without a CSV has no row and needs none.
    """
    return [(user, user.picture) for user in found if user.csv and user.picture and user.picture.image_source]


def _no_csv() -> Csv:
    return None


def _no_image() -> bool:
    return False


def call_all(calls: Sequence[Callable[[], _Answer]], until: float) -> list[_Answer | StoreUnavailable]:
    """Make these calls one after the other and return their answers in order.

    No call starts after the deadline `until`, in seconds of `time.monotonic`. Every error is
    returned as a `StoreUnavailable`, which is retried.
    """
    answers: list[_Answer | StoreUnavailable] = []
    for call in calls:
        if time.monotonic() > until:
            answers.append(StoreUnavailable(_TOO_LONG))
            continue
        try:
            answers.append(call())
        except StoreUnavailable as error:
            answers.append(error)
        except BaseException as error:  # noqa: BLE001  must not fail the other users
            answers.append(StoreUnavailable(f"a read failed with {type(error).__name__}; retrying"))
    return answers
