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

from shared.formats.records import QUARANTINE_REASON, CsvResult, CsvVersion, InvalidCsv, ReadResult
from shared.formats.source_keys import (
    IMAGE_EXTENSIONS,
    MAX_FILE_NAME_BYTES,
    make_csv_key,
    make_image_key,
    parse_bundle_id,
    select_newest_image,
)
from shared.formats.user_csv import MAX_CSV_BYTES
from shared.object_store import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    StoreUnavailable,
)
from worker.bundles.lookup import BundleLookup, StaleCatalog
from worker.reading.csv_parsing import CsvParser, parse_csv, parse_csv_safely
from worker.reading.image_copies import ImageCopies, ImageRef
from worker.source.unreadable import RETRY_PAUSES_S, format_unreadable_reason
from worker.state.parts import StateParts
from worker.state.scripts import new_token
from worker.state.user_states import ReadBatch, VersionTokens
from worker.state.work_queues import ListedUser

logger = logging.getLogger(__name__)

MAX_READ_ROUNDS = 5
"""Attempts per call to read users that concurrent changes overtake; then they stay dirty."""
MAX_READ_S = 20.0
"""Seconds after which a read starts no further request. Users not read by then stay dirty."""
_READ_TIMEOUT_REASON = (
    f"the read took longer than {MAX_READ_S:.0f} s; unread users stay dirty and are retried"
)


_T = TypeVar("_T")


@dataclass(slots=True)
class ResolvedUser:
    """One user's CSV and the image that counts, or None for a missing one."""

    user_id: str
    csv: CsvResult
    image: ImageRef | None


@dataclass(slots=True)
class BatchResults:
    """What one read of several users found.

    `results` are the results. `users_with_new_copy` are the users with an image that this read copied. `again`
    are users to read again. `failure` is the error if some users could not be read. `suspect_users` are
    the ones among these that may have a stray image copy: the copy request had no answer.
    """

    results: list[ReadResult] = field(default_factory=list)
    users_with_new_copy: set[str] = field(default_factory=set)
    users_to_reread: list[str] = field(default_factory=list)
    failure: StoreUnavailable | None = None
    suspect_users: list[str] = field(default_factory=list)


class Refresher:
    """Refreshes users of one source bucket.

    At most `max_parallel` requests run concurrently, on the threads of `pool`. `deadline` is entered for
    each read and may kill the process. `judge` parses a CSV. Without `bundles`, bundles are not
    looked up. Without `copies`, no image is copied.
    """

    def __init__(
        self,
        source: ObjectStore,
        states: StateParts,
        pool: Executor,
        max_parallel: int,
        deadline: AbstractContextManager[None] | None = None,
        csv_parser: CsvParser = parse_csv,
        bundle_lookup: BundleLookup | None = None,
        image_copies: ImageCopies | None = None,
    ) -> None:
        self._source = source
        self._states = states
        self._pool = pool
        self._max_parallel = max_parallel
        self._bundle_lookup = bundle_lookup
        self._image_copies = image_copies
        self._deadline = deadline or nullcontext()
        self._csv_parser = csv_parser
        self._attempts = states.attempts
        self._has_failed = False
        self._unrefunded = list[tuple[str, str]]()

    def refresh(self, user_ids: Sequence[str]) -> None:
        """Read the current files of these users and submit the results.

        Skips IDs of bundles, users that are no longer dirty, and users that were read since their
        last mark. A user that a concurrent change overtakes is read again, `MAX_READ_ROUNDS` times in
        all. Raises `StoreUnavailable` if some users could not be read: they stay dirty, the results
        of the others are submitted.
        """
        user_ids = [
            user_id for user_id in dict.fromkeys(user_ids) if parse_bundle_id(user_id) is None
        ]
        for _ in range(MAX_READ_ROUNDS):
            if not user_ids:
                return
            with self._open_batch(user_ids) as (read_id, batch):
                batch_results = self.read_users(list(batch), batch.catalog_version)
                user_ids = self._submit_results(batch, batch_results, read_id, batch.suspect_users)
        if user_ids:
            logger.info(
                "%d users stay dirty: concurrent changes overtook all %d attempts; the watchdog retries",
                len(user_ids),
                MAX_READ_ROUNDS,
            )

    def refresh_listed(self, users: Sequence[ListedUser]) -> None:
        """Read users of which a LIST has shown the files, and submit the results.

        Like `refresh`, but takes from the LIST whether a user has a CSV and which image counts: one
        request per user instead of four. The LIST started after the version tokens were taken. A
        user with a read version that has changed since then is read by `refresh`.
        """
        with self._open_batch([user.user_id for user in users]) as (read_id, batch):
            current_users = [
                user
                for user in users
                if user.user_id in batch
                and batch[user.user_id].read_version == user.version_tokens.read_version
            ]
            # The read version of the page: SUBMIT RESULTS refuses a result that a newer one overtook;
            # but `pending` of now, which names the copies to supersede.
            version_tokens = {
                user.user_id: user.version_tokens._replace(pending=batch[user.user_id].pending)
                for user in current_users
            }
            batch_results = self.read_listed_users(current_users, batch.catalog_version)
            to_reread = self._submit_results(
                version_tokens, batch_results, read_id, batch.suspect_users
            )
        self.refresh([*to_reread, *(batch.keys() - version_tokens.keys())])

    def refresh_isolated(self, user_id: str) -> None:
        """Read one user in isolation, because its file may have killed a worker.

        One version of the CSV gets a limited number of attempts (`worker.state.read_attempts.MAX_READ_ATTEMPTS`).
        Then it is quarantined: it becomes a reject without being read. Raises `StoreUnavailable`;
        that attempt is refunded.
        """
        self._refund_attempts()
        if not self._states.users.begin_read([user_id]):
            return
        version = self._find_csv_version(lambda: self.find_version(make_csv_key(user_id)))
        etag = version[0] if version else None
        attempt_token = new_token()
        # "busy" has no case: another attempt is in progress, or the watchdog is about to end it.
        match self._attempts.begin_attempt(user_id, attempt_token, etag or ""):
            case "not_isolated":
                self.refresh([user_id])
            case "read":
                self._read_isolated(user_id, attempt_token)
            case "exhausted" if etag is not None:
                self.quarantine_csv(user_id, etag)
            case "exhausted":  # there is no CSV to quarantine
                self.refresh([user_id])

    def _read_isolated(self, user_id: str, attempt_token: str) -> None:
        logger.info("reading user %s in isolation, as it may have killed a worker", user_id)
        try:
            self.refresh([user_id])
        except BaseException:
            # The worker survived, so this attempt must not count against the file.
            self._unrefunded.append((user_id, attempt_token))
            with suppress(RedisError):
                self._refund_attempts()
            raise
        self._attempts.clear_users([user_id])

    def _refund_attempts(self) -> None:
        """Refund attempts that ended normally.

        If Redis is unavailable, the attempt stays listed, and the next isolated read retries it.
        """
        while self._unrefunded:
            self._attempts.refund_attempt(*self._unrefunded[-1])
            self._unrefunded.pop()

    def quarantine_csv(self, user_id: str, etag: str) -> None:
        """Submit a reject for a CSV without attempts left; do not read it."""
        batch = self._states.users.begin_read([user_id])
        if not batch:
            return
        version = self._find_csv_version(lambda: self.find_version(make_csv_key(user_id)))
        last_modified = version[1] if version else 0
        # The ETag is that of the failed attempts: a newer version of the CSV has a mark of its own
        # and must not be quarantined.
        csv = InvalidCsv(
            CsvVersion(make_csv_key(user_id), etag, last_modified), QUARANTINE_REASON, None
        )
        self._submit_results(
            batch, self.read_users([user_id], batch.catalog_version, {user_id: csv})
        )
        logger.warning(
            "user %s is quarantined: its CSV is a reject until it changes or a sweep retries it",
            user_id,
        )

    def _find_csv_version(self, call: Callable[[], _T]) -> _T:
        (version,) = run_in_order([call], time.monotonic() + MAX_READ_S)
        if isinstance(version, StoreUnavailable):
            self.report_read(version)
        return cast(_T, version)

    @contextmanager
    def _open_batch(self, user_ids: Sequence[str]) -> Iterator[tuple[str, ReadBatch]]:
        """Take the version tokens (BEGIN READ) and record the read in Redis while the block runs.

        A kill or a hang leaves the record behind, for the watchdog. An exception removes it here;
        without one, the block passes the read token to `UserStates.submit_results`, which
        removes it.
        """
        read_id = new_token()
        with self._deadline:
            try:
                yield read_id, self._states.users.begin_read(user_ids, read_id)
            except BaseException:
                with suppress(RedisError):
                    self._states.users.end_read(read_id)
                raise

    def _submit_results(
        self,
        version_tokens: Mapping[str, VersionTokens],
        batch_results: BatchResults,
        read_id: str = "",
        suspect_users: Collection[str] = (),
    ) -> list[str]:
        """Submit the results of a read and return the users to read again.

        `suspect_users`: suspect users, which may have stray image copies. Their results name the
        existing copies as superseded, so that the publisher deletes them. Raises `batch_results.failure`.
        """
        existing_copies = self.find_suspect_copies(
            [result.user_id for result in batch_results.results if result.user_id in suspect_users]
        )
        submissions = [
            (
                version_tokens[result.user_id],
                _add_superseded_copies(
                    result, version_tokens[result.user_id], existing_copies.get(result.user_id, ())
                ),
            )
            for result in batch_results.results
        ]
        # Before SUBMIT RESULTS, which removes the record of the read: a kill in between must not lose track
        # of copies that this read may have made.
        self._states.users.add_suspects(batch_results.suspect_users)
        to_reread = self._states.users.submit_results(
            submissions, read_id, batch_results.users_with_new_copy
        )
        # After SUBMIT RESULTS: from now on the accepted results name these copies.
        self._states.users.clear_suspects(existing_copies.keys() - set(to_reread))
        self._states.status.increment("results_refused", len(to_reread))
        self.report_read(batch_results.failure)
        return to_reread + batch_results.users_to_reread

    def report_read(self, failure: StoreUnavailable | None) -> None:
        """Record that the source bucket could not be read, or clear that record after a success."""
        if failure:
            self._has_failed = True
            self._states.status.set_source_failure(str(failure))
            raise failure
        if self._has_failed:
            self._has_failed = False
            self._states.status.clear_source_failure()

    # -- reading -----------------------------------------------------------------------------------
    def read_users(
        self,
        user_ids: Sequence[str],
        catalog_version: bytes | None,
        known_csvs: Mapping[str, CsvResult] | None = None,
    ) -> BatchResults:
        """Read these users: a request per CSV, and one per possible image.

        `catalog_version`: the version of the bundle catalog to use. `known_csvs`: CSVs by user that need no
        request; only the images of these users are read.
        """
        until = time.monotonic() + MAX_READ_S
        batch_results = BatchResults()
        image_keys = [
            make_image_key(user_id, extension)
            for user_id in user_ids
            for extension in IMAGE_EXTENSIONS
        ]
        calls: list[Callable[[], CsvResult | bool]] = [
            self._make_csv_call(user_id, known_csvs or {}) for user_id in user_ids
        ]
        calls += [
            partial(self._source.exists, key) if _fits_name_limit(key) else _return_false
            for key in image_keys
        ]
        # The last attempt at an unreadable CSV makes it a reject; an image is only retried.
        last_calls = [partial(self._read_csv_or_reject, user_id) for user_id in user_ids]
        answers: list[Any] = self.run_with_retries(
            calls, [*last_calls, *calls[len(last_calls) :]], until
        )
        csvs = answers[: len(user_ids)]
        image_exists = answers[len(user_ids) :]
        images_per_user = len(IMAGE_EXTENSIONS)
        self._load_catalog(catalog_version)
        resolved_users = []
        for index, user_id in enumerate(user_ids):
            user_slice = slice(index * images_per_user, (index + 1) * images_per_user)
            images = dict(zip(image_keys[user_slice], image_exists[user_slice], strict=True))
            resolved_users += self._resolve_user(
                batch_results, user_id, csvs[index], partial(self._resolve_own_image, images, until)
            )
        return self._make_copies(batch_results, resolved_users, None, until)

    def _make_csv_call(
        self, user_id: str, known_csvs: Mapping[str, CsvResult]
    ) -> Callable[[], CsvResult]:
        return (
            partial(known_csvs.get, user_id)
            if user_id in known_csvs
            else partial(self._read_csv, user_id)
        )

    def _resolve_own_image(
        self, exists_by_key: Mapping[str, bool | StoreUnavailable], until: float
    ) -> ImageRef | None:
        for answer in exists_by_key.values():
            if isinstance(answer, StoreUnavailable):
                raise answer
        key = self._find_newest_image(
            [key for key, exists in exists_by_key.items() if exists], until
        )
        return self._make_image_ref(key)

    def _make_image_ref(self, key: str | None, etag: str = "") -> ImageRef | None:
        if key is None:
            return None
        return self._image_copies.make_own_ref(key, etag) if self._image_copies else ImageRef(key)

    def read_listed_users(
        self, users: Sequence[ListedUser], catalog_version: bytes | None
    ) -> BatchResults:
        """Read users by what a LIST has shown of their files: one request per user."""
        until = time.monotonic() + MAX_READ_S
        batch_results = BatchResults()
        calls = [
            partial(self._read_csv, user.user_id) if user.has_csv else _return_none
            for user in users
        ]
        last_calls = [partial(self._read_csv_or_reject, user.user_id) for user in users]
        csvs = self.run_with_retries(calls, last_calls, until)
        self._load_catalog(catalog_version)
        resolved_users = []
        for user, csv in zip(users, csvs, strict=True):
            resolved_users += self._resolve_user(
                batch_results,
                user.user_id,
                csv,
                partial(self._make_image_ref, user.image_key, user.image_etag),
            )
        existing_copies = (
            self._image_copies.list_copies([user.user_id for user in resolved_users])
            if self._image_copies and _select_users_needing_copy(resolved_users)
            else None
        )
        return self._make_copies(batch_results, resolved_users, existing_copies, until)

    def _load_catalog(self, catalog_version: bytes | None) -> None:
        if self._bundle_lookup:
            self._bundle_lookup.ensure_version(catalog_version)

    def _resolve_user(
        self,
        batch_results: BatchResults,
        user_id: str,
        csv: CsvResult | StoreUnavailable,
        get_own_image: Callable[[], ImageRef | None],
    ) -> list[ResolvedUser]:
        """Resolve the user's CSV and image from its own files and from bundles.

        The list is empty if they cannot be resolved now; the reason is recorded in `batch_results`.
        """
        try:
            if isinstance(csv, StoreUnavailable):
                raise csv
            image = get_own_image()
            # An own file takes precedence over bundles, for the CSV and the image separately.
            if self._bundle_lookup:
                csv = csv or self._bundle_lookup.find_csv(user_id)
                image = image or self._find_bundle_image(user_id)
            return [ResolvedUser(user_id, csv, image)]
        except StaleCatalog:
            batch_results.users_to_reread.append(user_id)
        except StoreUnavailable as error:
            batch_results.failure = error
        return []

    def _find_bundle_image(self, user_id: str) -> ImageRef | None:
        image = self._bundle_lookup.find_image(user_id) if self._bundle_lookup else None
        return (
            self._image_copies.make_bundle_ref(user_id, image)
            if image and self._image_copies
            else None
        )

    # -- copying -----------------------------------------------------------------------------------
    def _make_copies(
        self,
        batch_results: BatchResults,
        resolved_users: list[ResolvedUser],
        existing_copies: Mapping[str, ObjectInfo] | None,
        until: float,
    ) -> BatchResults:
        """Make the image copies that these users need, and complete `batch_results`.

        `there`: the existing copies by key, if a LIST has shown them. None: look up each copy.
        """
        needed = _select_users_needing_copy(resolved_users)
        calls = [partial(self._make_copy, picture, existing_copies) for _, picture in needed]
        made = self.run_with_retries(calls, calls, until)
        answers = {user.user_id: answer for (user, _), answer in zip(needed, made, strict=True)}
        for user in resolved_users:
            self._record_copy(batch_results, user, answers.get(user.user_id, False))
        return batch_results

    def _make_copy(
        self, image: ImageRef, existing_copies: Mapping[str, ObjectInfo] | None
    ) -> bool | ObjectNotFound:
        copies = cast(ImageCopies, self._image_copies)
        try:
            return copies.make_copy(
                image,
                copies.get_copy_info(image)
                if existing_copies is None
                else existing_copies.get(image.image),
            )
        except (
            ObjectNotFound
        ) as error:  # returned: `run_in_order` would turn it into `StoreUnavailable`
            return error

    def find_suspect_copies(self, user_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the existing image copies per user.

        Users of which the copies cannot be looked up now are omitted; they stay suspect.
        """
        if not user_ids or not self._image_copies:
            return {}
        calls = [partial(self._image_copies.find_copies, user_id) for user_id in user_ids]
        answers = zip(
            user_ids, self.run_parallel(calls, time.monotonic() + MAX_READ_S), strict=True
        )
        return {
            user_id: answer
            for user_id, answer in answers
            if not isinstance(answer, StoreUnavailable)
        }

    def _record_copy(
        self,
        batch_results: BatchResults,
        resolved: ResolvedUser,
        answer: bool | ObjectNotFound | StoreUnavailable,
    ) -> None:
        image = resolved.image or ImageRef("")
        if isinstance(answer, StoreUnavailable) and not isinstance(answer, ObjectUnreadable):
            # Without an answer, the server may have made the copy, or may still make it.
            batch_results.suspect_users.append(resolved.user_id)
        is_missing = isinstance(answer, ObjectNotFound | ObjectUnreadable)
        if is_missing and image.bundle_key and self._bundle_lookup:
            # Either the cached catalog is stale, or the bundle must be unpacked again.
            answer = self._bundle_lookup.report_missing(image.bundle_key)
        if isinstance(answer, ObjectUnreadable):
            # Each sweep finds that the copy is missing and marks the user for another attempt.
            logger.warning(
                "%s: its image cannot be read; the row has no image until a retry: %s",
                resolved.user_id,
                answer,
            )
            image = ImageRef("")
            answer = False
        match answer:
            case ObjectNotFound() | StaleCatalog():
                batch_results.users_to_reread.append(resolved.user_id)
            case StoreUnavailable():
                batch_results.failure = answer
            case made:
                batch_results.users_with_new_copy |= {resolved.user_id} if made else set()
                batch_results.results.append(
                    ReadResult(
                        resolved.user_id, resolved.csv, image.image or None, image.image_source
                    )
                )

    # -- requests ----------------------------------------------------------------------------------
    def run_parallel(
        self, calls: Sequence[Callable[[], _T]], until: float
    ) -> list[_T | StoreUnavailable]:
        """Make these calls concurrently and return their answers in order, see `run_in_order`.

        Each thread makes an equal share of the calls: a pool task per call would cost more.
        """
        thread_count = min(len(calls), self._max_parallel)
        chunks = [calls[offset::thread_count] for offset in range(thread_count)]
        answers: list[Any] = [None] * len(calls)
        for offset, chunk in enumerate(
            self._pool.map(run_in_order, chunks, [until] * thread_count)
        ):
            answers[offset::thread_count] = chunk
        return answers

    def run_with_retries(
        self,
        calls: Sequence[Callable[[], _T]],
        last_calls: Sequence[Callable[[], _T]],
        until: float,
    ) -> list[_T | StoreUnavailable]:
        """Make these calls like `run_parallel`, with two retries for objects that cannot be read.

        One pause (`RETRY_PAUSES_S`) precedes each retry of all of them. The second retry makes the call
        of `last_calls` with the same index.
        """
        answers = self.run_parallel(calls, until)
        for pause, retried_calls in zip(RETRY_PAUSES_S, (calls, last_calls), strict=True):
            unreadable = [
                n for n, answer in enumerate(answers) if isinstance(answer, ObjectUnreadable)
            ]
            if unreadable:
                time.sleep(pause)
                retried_answers = self.run_parallel([retried_calls[n] for n in unreadable], until)
                for number, answer in zip(unreadable, retried_answers, strict=True):
                    answers[number] = answer
        return answers

    def _read_csv(self, user_id: str) -> CsvResult:
        key = make_csv_key(user_id)
        if not _fits_name_limit(key):
            return None
        try:
            stored = self._source.get(key, max_bytes=MAX_CSV_BYTES)
        except ObjectNotFound:
            return None
        return parse_csv_safely(self._csv_parser, key, stored)

    def _read_csv_or_reject(self, user_id: str) -> CsvResult:
        """Read a CSV; return a reject if it still cannot be read.

        Raises `StoreUnavailable`.
        """
        # LIST shows the ETag of an object on which HEAD fails. It comes before the GET: a sweep
        # reads a reject with an older ETag than that of the object again, but one with a newer ETag
        # might stay.
        info = self._source.get_list_entry(make_csv_key(user_id))
        try:
            return self._read_csv(user_id)
        except ObjectUnreadable as error:
            if info is None:
                raise StoreUnavailable(f"{error.key} changed while it was read; retrying") from None
            logger.warning("rejecting a CSV that cannot be read; each sweep retries it: %s", error)
            version = CsvVersion(info.key, info.etag, info.last_modified)
            return InvalidCsv(version, format_unreadable_reason(error), None)

    def find_version(self, key: str) -> tuple[str, int] | None:
        """Return the ETag and LastModified (whole seconds) of a key, or None if it does not exist.

        LIST shows both for an object that cannot be read.
        """
        try:
            info = self._source.get_info(key)
        except ObjectUnreadable:
            info = self._source.get_list_entry(key)
        return info and (info.etag, info.last_modified)

    def _find_newest_image(self, keys: Sequence[str], until: float) -> str | None:
        if len(keys) < 2:
            return keys[0] if keys else None
        candidates = []
        for key in keys:
            if time.monotonic() > until:
                raise StoreUnavailable(_READ_TIMEOUT_REASON)
            version = self.find_version(key)
            if version:  # else it was deleted since the check that it exists
                candidates.append((key, version[1]))
        return select_newest_image(candidates)


def _add_superseded_copies(
    result: ReadResult, version_tokens: VersionTokens, copies: tuple[str, ...]
) -> ReadResult:
    """Return the result with the image copies that it supersedes.

    These are the copies which the pending result (`version_tokens.pending`) names, and the stray `copies`.
    """
    if version_tokens.pending:
        pending = ReadResult.from_json(result.user_id, version_tokens.pending.decode())
        copies += (
            *pending.superseded_copies,
            *((pending.image,) if pending.image and pending.image_source else ()),
        )
    superseded = tuple(image for image in dict.fromkeys(copies) if image != result.image)
    return replace(result, superseded_copies=superseded) if superseded else result


def _fits_name_limit(key: str) -> bool:
    return len(key.encode()) <= MAX_FILE_NAME_BYTES


def _select_users_needing_copy(
    resolved_users: Sequence[ResolvedUser],
) -> list[tuple[ResolvedUser, ImageRef]]:
    """Select the users that need an image copy.

    A user without a CSV has no row and needs none.
    """
    return [
        (user, user.image)
        for user in resolved_users
        if user.csv and user.image and user.image.image_source
    ]


def _return_none() -> CsvResult:
    return None


def _return_false() -> bool:
    return False


def run_in_order(calls: Sequence[Callable[[], _T]], until: float) -> list[_T | StoreUnavailable]:
    """Make these calls one after the other and return their answers in order.

    No call starts after the deadline `until`, in seconds of `time.monotonic`. Every error is
    returned as a `StoreUnavailable`, which is retried.
    """
    answers: list[_T | StoreUnavailable] = []
    for call in calls:
        if time.monotonic() > until:
            answers.append(StoreUnavailable(_READ_TIMEOUT_REASON))
            continue
        try:
            answers.append(call())
        except StoreUnavailable as error:
            answers.append(error)
        except BaseException as error:  # noqa: BLE001  must not fail the other users
            answers.append(StoreUnavailable(f"a read failed with {type(error).__name__}; retrying"))
    return answers
