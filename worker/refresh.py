"""Read what some users' files say now, and stage it.  The one way by which anything gets into output.csv.

Events, sweeps and rebuilds only name users; what is there is read here, after the users' tokens were noted.  An event's
verb, order and ETag decide nothing: a user may be refreshed once or a hundred times and ends in the same row.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

from shared.keys import IMAGE_EXTENSIONS, csv_key, image_key, newest_image
from shared.object_store import ObjectNotFound, ObjectStore, StoredObject, StoreUnavailable
from shared.records import CsvVersion, InvalidCsv, Outcome, ValidCsv
from worker.backlog import Backlog, ListedUser, Note
from worker.user_csv import MAX_CSV_BYTES, InvalidUserFile, parse

logger = logging.getLogger(__name__)

MOST_READINGS = 5

Csv = ValidCsv | InvalidCsv | None

_Answer = TypeVar("_Answer")


class Refresher:
    """Refreshes users of one source bucket, with up to `readers` requests at a time by the threads of `pool`."""

    def __init__(self, source: ObjectStore, backlog: Backlog, pool: Executor, readers: int) -> None:
        self._source, self._backlog, self._pool, self._readers = source, backlog, pool, readers
        self._failed = False

    def refresh(self, user_ids: Sequence[str]) -> None:
        """Read these users now and stage what was found.  Whoever is not dirty any more is left alone.

        Raises `StoreUnavailable` if some could not be read; they stay dirty, the others are staged.
        """
        user_ids = list(dict.fromkeys(user_ids))
        for _ in range(MOST_READINGS):
            if not user_ids:
                return
            notes = self._backlog.note(user_ids)
            user_ids = self._stage(notes, self._read(list(notes)))
        if user_ids:
            logger.info("%d users were read by others %d times meanwhile; left dirty", len(user_ids), MOST_READINGS)

    def refresh_listed(self, users: Sequence[ListedUser]) -> None:
        """The same for users whose images, and whether they have a CSV, a LIST has told that began after their notes.

        One request a user instead of four.  Whoever was read by another since then is read by `refresh`.
        """
        now = self._backlog.note([user.user_id for user in users])
        fresh = [user for user in users if user.user_id in now and now[user.user_id].slot == user.note.slot]
        notes = {user.user_id: user.note for user in fresh}
        again = self._stage(notes, self._read_listed(fresh))
        self.refresh([*again, *(now.keys() - notes.keys())])

    def _stage(self, notes: Mapping[str, Note], readings: Iterable[Outcome | StoreUnavailable]) -> list[str]:
        outcomes: list[Outcome] = []
        failure: StoreUnavailable | None = None
        for reading in readings:
            if isinstance(reading, StoreUnavailable):
                failure = reading
            else:
                outcomes.append(reading)
        again = self._backlog.stage([(notes[outcome.user_id], outcome) for outcome in outcomes])
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
        images = [image_key(user_id, extension) for user_id in user_ids for extension in IMAGE_EXTENSIONS]
        calls: list[Callable[[], Csv | bool]] = [partial(self._csv, user_id) for user_id in user_ids]
        calls += [partial(self._source.exists, key) for key in images]
        answers: list[Any] = self._ask(calls)
        each = len(IMAGE_EXTENSIONS)
        for number, user_id in enumerate(user_ids):
            mine = slice(number * each, (number + 1) * each)
            yield self._outcome(user_id, answers[number], images[mine], answers[len(user_ids) :][mine])

    def _outcome(
        self, user_id: str, csv: Csv | StoreUnavailable, images: Sequence[str], there: Sequence[bool | StoreUnavailable]
    ) -> Outcome | StoreUnavailable:
        for answer in (csv, *there):
            if isinstance(answer, StoreUnavailable):
                return answer
        try:
            image = self._newest([key for key, exists in zip(images, there, strict=True) if exists])
        except StoreUnavailable as error:
            return error
        return Outcome(user_id, cast(Csv, csv), image)

    def _read_listed(self, users: Sequence[ListedUser]) -> Iterator[Outcome | StoreUnavailable]:
        calls = [partial(self._csv, user.user_id) if user.has_csv else _no_csv for user in users]
        for user, csv in zip(users, self._ask(calls), strict=True):
            yield csv if isinstance(csv, StoreUnavailable) else Outcome(user.user_id, csv, user.image)

    def _ask(self, calls: Sequence[Callable[[], _Answer]]) -> list[_Answer | StoreUnavailable]:
        """The answers of these calls, made side by side; each thread takes a share, as a task for each costs more."""
        width = min(len(calls), self._readers)
        answers: list[Any] = [None] * len(calls)
        for first, share in enumerate(self._pool.map(_call_all, [calls[first::width] for first in range(width)])):
            answers[first::width] = share
        return answers

    def _csv(self, user_id: str) -> Csv:
        try:
            return judge(csv_key(user_id), self._source.get(csv_key(user_id), most=MAX_CSV_BYTES))
        except ObjectNotFound:
            return None

    def _newest(self, keys: Sequence[str]) -> str | None:
        if len(keys) < 2:
            return keys[0] if keys else None
        found = []
        for key in keys:
            with suppress(ObjectNotFound):  # deleted since it was asked for
                found.append((key, self._source.last_modified(key)))
        return newest_image(found)


def _no_csv() -> Csv:
    return None


def _call_all(calls: Sequence[Callable[[], _Answer]]) -> list[_Answer | StoreUnavailable]:
    answers: list[_Answer | StoreUnavailable] = []
    for call in calls:
        try:
            answers.append(call())
        except StoreUnavailable as error:
            answers.append(error)
    return answers


def judge(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
    """What one CSV says.  Pure: the same bytes always give the same answer."""
    version = CsvVersion(key, stored.etag, stored.last_modified)
    try:
        return ValidCsv(version, parse(stored.body))
    except InvalidUserFile as error:
        return InvalidCsv(version, error.reason, error.line)
