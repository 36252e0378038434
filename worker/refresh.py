"""Read what some users' files say now, and stage it.  The one way by which anything gets into output.csv.

Events, sweeps and rebuilds only name users; what is there is read here, after the users' tokens were noted.  An event's
verb, order and ETag decide nothing: a user may be refreshed once or a hundred times and ends in the same row.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from shared.keys import IMAGE_EXTENSIONS, csv_key, image_key, newest_image
from shared.object_store import ObjectNotFound, ObjectStore, StoredObject, StoreUnavailable
from shared.records import QUARANTINED, CsvVersion, InvalidCsv, Outcome, ValidCsv
from worker.backlog import Backlog, ListedUser, Note, new_token
from worker.trials import Trials
from worker.user_csv import MAX_CSV_BYTES, InvalidUserFile, parse

logger = logging.getLogger(__name__)

MOST_READINGS = 5
READ_S = 20.0
"""When a reading has taken so long, no further request is begun, and the rest is left for another time."""
LONGEST_NAME = 255
"""Bytes of a name that a disk can hold, and so MinIO.  It does not say of a longer one that there is no such key."""

_TOO_LONG = f"not everybody was read within {READ_S:.0f} s"

Csv = ValidCsv | InvalidCsv | None
Judge = Callable[[str, StoredObject], ValidCsv | InvalidCsv]

_Answer = TypeVar("_Answer")


def judge(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
    """What one CSV says.  Pure: the same bytes always give the same answer."""
    version = CsvVersion(key, stored.etag, stored.last_modified)
    try:
        return ValidCsv(version, parse(stored.body))
    except InvalidUserFile as error:
        return InvalidCsv(version, error.reason, error.line)


class Refresher:
    """Refreshes users of one source bucket, with up to `readers` requests at a time by the threads of `pool`.

    `deadline` is entered for each reading, and may end the process; `judge` makes of a CSV what it says.
    """

    def __init__(
        self,
        source: ObjectStore,
        backlog: Backlog,
        pool: Executor,
        readers: int,
        deadline: AbstractContextManager[None] | None = None,
        judge: Judge = judge,
    ) -> None:
        self._source, self._backlog, self._pool, self._readers = source, backlog, pool, readers
        self._deadline, self._judge = deadline or nullcontext(), judge
        self._trials = Trials(backlog.redis)
        self._failed = False
        self._owed = list[tuple[str, str]]()

    def refresh(self, user_ids: Sequence[str]) -> None:
        """Read these users now and stage what was found.  Whoever is not dirty any more is left alone.

        Raises `StoreUnavailable` if some could not be read; they stay dirty, the others are staged.
        """
        user_ids = list(dict.fromkeys(user_ids))
        for _ in range(MOST_READINGS):
            if not user_ids:
                return
            with self._reading(user_ids) as (reading, notes):
                user_ids = self._stage(notes, self._read(list(notes)), reading)
        if user_ids:
            logger.info("%d users were read by others %d times meanwhile; left dirty", len(user_ids), MOST_READINGS)

    def refresh_listed(self, users: Sequence[ListedUser]) -> None:
        """The same for users whose images, and whether they have a CSV, a LIST has told that began after their notes.

        One request a user instead of four.  Whoever was read by another since then is read by `refresh`.
        """
        with self._reading([user.user_id for user in users]) as (reading, now):
            fresh = [user for user in users if user.user_id in now and now[user.user_id].slot == user.note.slot]
            notes = {user.user_id: user.note for user in fresh}
            again = self._stage(notes, self._read_listed(fresh), reading)
        self.refresh([*again, *(now.keys() - notes.keys())])

    def refresh_alone(self, user_id: str) -> None:
        """The same for a user over whom a worker may have died: at most so many attempts at one version of the CSV.

        After them it is a reject, unread.  Raises `StoreUnavailable`, and then this attempt does not count.
        """
        self._pay()
        if not self._backlog.note([user_id]):
            return
        etag = self._answer(lambda: self._source.etag(csv_key(user_id)))
        attempt = new_token()
        match self._trials.begin(user_id, attempt, etag or ""):
            case "unknown":
                self.refresh([user_id])
            case "read":
                self._attempt(user_id, attempt)
            case "guilty":
                self._quarantine(user_id, etag or "")

    def _attempt(self, user_id: str, attempt: str) -> None:
        logger.info("%s is read alone", user_id)
        try:
            self.refresh([user_id])
        except BaseException:  # whatever it is, it is neither a kill nor a hang
            self._owed.append((user_id, attempt))
            with suppress(RedisError):
                self._pay()
            raise
        self._trials.acquit([user_id])

    def _pay(self) -> None:
        """Take attempts back that came to their end; those of an outage of Redis as soon as it is over."""
        while self._owed:
            self._trials.failed(*self._owed[-1])
            self._owed.pop()

    def _quarantine(self, user_id: str, etag: str) -> None:
        note = self._backlog.note([user_id]).get(user_id)
        if note is None:
            return
        since = self._answer(lambda: self._source.last_modified(csv_key(user_id)))
        until = time.monotonic() + READ_S
        images, there = self._images([user_id])
        csv = InvalidCsv(CsvVersion(csv_key(user_id), etag, since), QUARANTINED, None)
        self._stage({user_id: note}, [self._outcome(user_id, csv, images, self._ask(there, until), until)])
        logger.warning("%s is quarantined: a reject, unread", user_id)

    def _answer(self, call: Callable[[], _Answer]) -> _Answer:
        (answer,) = call_all([call], time.monotonic() + READ_S)
        if isinstance(answer, StoreUnavailable):
            self._tell(answer)
        return cast(_Answer, answer)

    @contextmanager
    def _reading(self, user_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Note]]]:
        """NOTE, and what a kill or a hang would leave behind; any other end of the block takes it away."""
        reading = new_token()
        with self._deadline:
            try:
                yield reading, self._backlog.note(user_ids, reading)
            except BaseException:
                with suppress(RedisError):
                    self._backlog.end_reading(reading)
                raise

    def _stage(
        self, notes: Mapping[str, Note], readings: Iterable[Outcome | StoreUnavailable], reading: str = ""
    ) -> list[str]:
        outcomes: list[Outcome] = []
        failure: StoreUnavailable | None = None
        for read in readings:
            if isinstance(read, StoreUnavailable):
                failure = read
            else:
                outcomes.append(read)
        again = self._backlog.stage([(notes[outcome.user_id], outcome) for outcome in outcomes], reading)
        self._backlog.count("readings_refused", len(again))
        self._tell(failure)
        return again

    def _tell(self, failure: StoreUnavailable | None) -> None:
        if failure:
            self._failed = True
            self._backlog.note_source_failure(str(failure))
            raise failure
        if self._failed:
            self._failed = False
            self._backlog.note_source_read()

    # -- reading -----------------------------------------------------------------------------------------------------
    def _read(self, user_ids: Sequence[str]) -> Iterator[Outcome | StoreUnavailable]:
        until = time.monotonic() + READ_S
        images, there = self._images(user_ids)
        calls: list[Callable[[], Csv | bool]] = [partial(self._csv, user_id) for user_id in user_ids]
        answers: list[Any] = self._ask([*calls, *there], until)
        each = len(IMAGE_EXTENSIONS)
        for number, user_id in enumerate(user_ids):
            mine = slice(number * each, (number + 1) * each)
            yield self._outcome(user_id, answers[number], images[mine], answers[len(user_ids) :][mine], until)

    def _images(self, user_ids: Sequence[str]) -> tuple[list[str], list[Callable[[], bool]]]:
        """The keys that these users' images may have, and for each how to ask if it is there."""
        keys = [image_key(user_id, extension) for user_id in user_ids for extension in IMAGE_EXTENSIONS]
        return keys, [partial(self._source.exists, key) if _is_possible(key) else _no_image for key in keys]

    def _outcome(
        self,
        user_id: str,
        csv: Csv | StoreUnavailable,
        images: Sequence[str],
        there: Sequence[bool | StoreUnavailable],
        until: float,
    ) -> Outcome | StoreUnavailable:
        for answer in (csv, *there):
            if isinstance(answer, StoreUnavailable):
                return answer
        try:
            image = self._newest([key for key, exists in zip(images, there, strict=True) if exists], until)
        except StoreUnavailable as error:
            return error
        return Outcome(user_id, cast(Csv, csv), image)

    def _read_listed(self, users: Sequence[ListedUser]) -> Iterator[Outcome | StoreUnavailable]:
        calls = [partial(self._csv, user.user_id) if user.has_csv else _no_csv for user in users]
        for user, csv in zip(users, self._ask(calls, time.monotonic() + READ_S), strict=True):
            yield csv if isinstance(csv, StoreUnavailable) else Outcome(user.user_id, csv, user.image)

    def _ask(self, calls: Sequence[Callable[[], _Answer]], until: float) -> list[_Answer | StoreUnavailable]:
        """The answers of these calls, made side by side; each thread takes a share, as a task for each costs more."""
        width = min(len(calls), self._readers)
        shares = [calls[first::width] for first in range(width)]
        answers: list[Any] = [None] * len(calls)
        for first, share in enumerate(self._pool.map(call_all, shares, [until] * width)):
            answers[first::width] = share
        return answers

    def _csv(self, user_id: str) -> Csv:
        key = csv_key(user_id)
        if not _is_possible(key):
            return None
        try:
            stored = self._source.get(key, most=MAX_CSV_BYTES)
        except ObjectNotFound:
            return None
        try:
            return self._judge(key, stored)
        except MemoryError:  # not the file's fault, or not its alone
            raise
        except Exception as error:  # noqa: BLE001  the same bytes would end in the same way for ever
            reason = f"Rowdrop could not read it, by a fault of its own ({type(error).__name__})"
            return InvalidCsv(CsvVersion(key, stored.etag, stored.last_modified), reason, None)

    def _newest(self, keys: Sequence[str], until: float) -> str | None:
        if len(keys) < 2:
            return keys[0] if keys else None
        found = []
        for key in keys:
            if time.monotonic() > until:
                raise StoreUnavailable(_TOO_LONG)
            with suppress(ObjectNotFound):  # deleted since it was asked for
                found.append((key, self._source.last_modified(key)))
        return newest_image(found)


def _is_possible(key: str) -> bool:
    return len(key.encode()) <= LONGEST_NAME


def _no_csv() -> Csv:
    return None


def _no_image() -> bool:
    return False


def call_all(calls: Sequence[Callable[[], _Answer]], until: float) -> list[_Answer | StoreUnavailable]:
    """The answers of these calls, one after the other; none is begun after `until` (of the monotonic clock)."""
    answers: list[_Answer | StoreUnavailable] = []
    for call in calls:
        if time.monotonic() > until:
            answers.append(StoreUnavailable(_TOO_LONG))
            continue
        try:
            answers.append(call())
        except StoreUnavailable as error:
            answers.append(error)
        except BaseException as error:  # noqa: BLE001  a fault of ours, or a library's panic, is not its neighbours'
            answers.append(StoreUnavailable(f"a reading failed: {type(error).__name__}"))
    return answers
