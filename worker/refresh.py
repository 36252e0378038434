"""Read what some users' files say now, and stage it.  The one way by which anything gets into output.csv.

Events, sweeps and rebuilds only name users; what is there is read here, after the users' tokens were noted.  An event's
verb, order and ETag decide nothing: a user may be refreshed once or a hundred times and ends in the same row.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple

from shared.keys import IMAGE_EXTENSIONS, UserFile, classify, csv_key, image_key, newest_image

from shared.object_store import ObjectInfo, ObjectNotFound, ObjectStore, StoredObject, StoreUnavailable
from shared.records import CsvVersion, InvalidCsv, Outcome, ValidCsv
from worker.backlog import Backlog, Page
from worker.user_csv import MAX_CSV_BYTES, InvalidUserFile, parse

logger = logging.getLogger(__name__)

MANY = 64
"""From this many users on, one LIST of their range of keys costs less than three requests for each user's images."""
MOST_READINGS = 5


class Listing(NamedTuple):
    """Part of the bucket as one LIST saw it: which users have a CSV, and their images as (key, LastModified in s)."""

    csvs: dict[str, ObjectInfo]
    images: dict[str, list[tuple[str, int]]]

    def add(self, objects: Iterable[ObjectInfo]) -> None:
        """Sort listed objects to their users; whatever belongs to no user is passed over."""
        for found in objects:
            file = classify(found.key)
            if isinstance(file, UserFile):
                if file.is_csv:
                    self.csvs[file.user_id] = found
                else:
                    self.images.setdefault(file.user_id, []).append((found.key, found.last_modified))


class Refresher:
    """Refreshes users of one source bucket.  `pool` reads side by side; `clock` gives Unix seconds."""

    def __init__(self, source: ObjectStore, backlog: Backlog, pool: Executor, clock: Callable[[], float]) -> None:
        self._source, self._backlog, self._pool, self._clock = source, backlog, pool, clock

    def refresh(self, user_ids: Sequence[str]) -> None:
        """Read these users now and stage what was found.  Whoever is not dirty any more is left alone.

        Raises `StoreUnavailable` if some could not be read; they stay dirty, the others are staged.
        """
        self._refresh(list(dict.fromkeys(user_ids)), self._read)

    def refresh_page(self, page: Page, cause: str) -> list[str]:
        """Refresh a page of bulk work; returns users that were found in its range of keys and that nobody had named.

        These are marked dirty, not yet read.  Raises `StoreUnavailable` like `refresh`.
        """
        unnamed: list[str] = []

        def read(user_ids: Sequence[str]) -> "Readings":
            listing = self._list(page.after or "", page.until) or Listing({}, {})
            unnamed.extend(sorted(listing.csvs.keys() - set(page.user_ids)))
            self._backlog.mark(unnamed, cause, self._clock())
            return self._read_listed(user_ids, listing)

        if page.after is None:
            self._refresh(page.user_ids, self._read)
        elif page.user_ids:
            self._refresh(page.user_ids, read)
        else:
            read([])
        return list(dict.fromkeys(unnamed))

    def _refresh(self, user_ids: Sequence[str], read: "Callable[[Sequence[str]], Readings]") -> None:
        for _ in range(MOST_READINGS):
            notes = self._backlog.note(user_ids)
            if not notes:
                return
            outcomes, failure = read(list(notes))
            user_ids = self._backlog.stage([(notes[outcome.user_id], outcome) for outcome in outcomes])
            self._backlog.count("readings_refused", len(user_ids))
            if failure:
                raise failure
            read = self._read
        if user_ids:
            logger.info("%d users were read by others %d times meanwhile; left dirty", len(user_ids), MOST_READINGS)

    # -- reading -----------------------------------------------------------------------------------------------------
    def _read(self, user_ids: Sequence[str]) -> "Readings":
        if len(user_ids) >= MANY:
            listing = self._list_span(user_ids)
            if listing is not None:
                return self._read_listed(user_ids, listing)
        if len(user_ids) == 1:
            return _gather([self._start_one(user_ids[0], self._read_csv)])
        return _gather([self._start_one(user_id, self._csv_in_pool) for user_id in user_ids])

    def _start_one(self, user_id: str, read_csv: "Callable[[str], Callable[[], Csv]]") -> "Reading":
        # The images first, so that the CSV is read in this thread while the pool asks for them.
        keys = [image_key(user_id, extension) for extension in IMAGE_EXTENSIONS]
        asked = [self._pool.submit(self._source.exists, key) for key in keys]
        csv = read_csv(user_id)

        def image() -> str | None:
            there = [key for key, answer in zip(keys, asked, strict=True) if answer.result()]
            return there[0] if len(there) == 1 else newest_image(self._with_times(there))

        return lambda: Outcome(user_id, csv(), image())

    def _with_times(self, keys: Sequence[str]) -> list[tuple[str, int]]:
        found = []
        for key in keys:
            try:
                found.append((key, self._source.last_modified(key)))
            except ObjectNotFound:  # deleted since it was asked for
                continue
        return found

    def _read_csv(self, user_id: str) -> "Callable[[], Csv]":
        try:
            csv = self._csv(user_id)
        except StoreUnavailable as error:
            failure = error

            def fail() -> "Csv":
                raise failure

            return fail
        return lambda: csv

    def _csv_in_pool(self, user_id: str) -> "Callable[[], Csv]":
        answer: Future[Csv] = self._pool.submit(self._csv, user_id)
        return answer.result

    def _csv(self, user_id: str) -> "Csv":
        try:
            return judge(csv_key(user_id), self._source.get(csv_key(user_id), most=MAX_CSV_BYTES))
        except ObjectNotFound:
            return None

    # -- reading by one LIST -----------------------------------------------------------------------------------------
    def _list_span(self, user_ids: Sequence[str]) -> Listing | None:
        """The range of keys in which these users' files lie, or None if it holds mostly other users' files."""
        after, until = span(user_ids)
        return self._list(after, until, most=6 * len(user_ids) + 1000)

    def _list(self, after: str, until: str | None, most: int | None = None) -> Listing | None:
        listing = Listing({}, {})
        listed = 0
        for objects in self._source.objects(after):
            listing.add(objects)
            listed += len(objects)
            if until is not None and objects[-1].key > until:
                break
            if most is not None and listed > most:
                return None
        return listing

    def _read_listed(self, user_ids: Sequence[str], listing: Listing) -> "Readings":
        def start(user_id: str) -> "Reading":
            csv = self._csv_in_pool(user_id) if user_id in listing.csvs else lambda: None
            image = newest_image(listing.images.get(user_id, ()))
            return lambda: Outcome(user_id, csv(), image)

        return _gather([start(user_id) for user_id in user_ids])


Csv = ValidCsv | InvalidCsv | None
Reading = Callable[[], Outcome]
Readings = tuple[list[Outcome], StoreUnavailable | None]


def judge(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
    """What one CSV says.  Pure: the same bytes always give the same answer."""
    version = CsvVersion(key, stored.etag, stored.last_modified)
    try:
        return ValidCsv(version, parse(stored.body))
    except InvalidUserFile as error:
        return InvalidCsv(version, error.reason, error.line)


def span(user_ids: Iterable[str]) -> tuple[str, str]:
    """The smallest range (exclusive, inclusive) of keys that holds all files these users may have."""
    stems = [f"{user_id}." for user_id in user_ids]
    return min(stems), max(stem + max(IMAGE_EXTENSIONS) for stem in stems)


def _gather(readings: Sequence[Reading]) -> Readings:
    outcomes: list[Outcome] = []
    failure: StoreUnavailable | None = None
    for reading in readings:
        try:
            outcomes.append(reading())
        except StoreUnavailable as error:
            failure = error
    return outcomes, failure
