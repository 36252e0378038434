"""Read the current files of users: the CSV and the image that count, with the image's copy.

A user's own file takes precedence over those in bundles.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shared.formats.records import CsvResult, ReadResult
from shared.formats.source_keys import IMAGE_EXTENSIONS, make_image_key, select_newest_image
from shared.object_store import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    StoreUnavailable,
)
from worker.bundles.lookup import BundleLookup, StaleCatalog
from worker.reading.csv_parsing import CsvParser, CsvReader, fits_name_limit, parse_csv
from worker.reading.image_copies import ImageCopies, ImageRef
from worker.reading.parallel import MAX_READ_S, ParallelCalls, check_time
from worker.source.unreadable import find_object
from worker.state.work_queues import ListedUser

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ResolvedUser:
    """One user's CSV and the image that counts, or None for a missing one."""

    user_id: str
    csv: CsvResult
    image: ImageRef | None


@dataclass(slots=True)
class BatchResults:
    """What one read of several users found.

    `users_with_new_copy` are the users with an image that this read copied. `users_to_reread` are
    to be read again. `failure` is the error if some users could not be read. `suspect_users` are
    the ones among these that may have a stray image copy: the copy request had no answer.
    """

    results: list[ReadResult] = field(default_factory=list)
    users_with_new_copy: set[str] = field(default_factory=set)
    users_to_reread: list[str] = field(default_factory=list)
    failure: StoreUnavailable | None = None
    suspect_users: list[str] = field(default_factory=list)


class UserReader:
    """Reads the files of users in one source bucket, and in bundles, and copies images.

    `csv_parser` parses the users' own CSVs.
    """

    def __init__(
        self,
        source: ObjectStore,
        calls: ParallelCalls,
        bundle_lookup: BundleLookup,
        image_copies: ImageCopies,
        csv_parser: CsvParser = parse_csv,
    ) -> None:
        self._source = source
        self._calls = calls
        self._bundle_lookup = bundle_lookup
        self._image_copies = image_copies
        self._csv_reader = CsvReader(source, csv_parser)

    def read_users(
        self,
        user_ids: Sequence[str],
        catalog_version: bytes | None,
        known_csvs: Mapping[str, CsvResult] | None = None,
    ) -> BatchResults:
        """Read these users: a request per CSV, and one per possible image.

        `catalog_version`: the version of the bundle catalog to use. `known_csvs`: CSVs by user that
        need no request; only the images of these users are read.
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
            partial(self._source.exists, key) if fits_name_limit(key) else _return_false
            for key in image_keys
        ]
        # The last attempt at an unreadable CSV makes it a reject; an image is only retried.
        last_calls = [partial(self._csv_reader.read_csv_or_reject, user_id) for user_id in user_ids]
        answers: list[Any] = self._calls.run_with_retries(
            calls, [*last_calls, *calls[len(last_calls) :]], until
        )
        csvs = answers[: len(user_ids)]
        image_exists = answers[len(user_ids) :]
        images_per_user = len(IMAGE_EXTENSIONS)
        self._bundle_lookup.ensure_version(catalog_version)
        resolved_users = []
        for index, user_id in enumerate(user_ids):
            user_slice = slice(index * images_per_user, (index + 1) * images_per_user)
            images = dict(zip(image_keys[user_slice], image_exists[user_slice], strict=True))
            resolved_users += self._resolve_user(
                batch_results, user_id, csvs[index], partial(self._resolve_own_image, images, until)
            )
        return self._make_copies(batch_results, resolved_users, None, until)

    def read_listed_users(
        self, users: Sequence[ListedUser], catalog_version: bytes | None
    ) -> BatchResults:
        """Read users by what a LIST has shown of their files: one request per user."""
        until = time.monotonic() + MAX_READ_S
        batch_results = BatchResults()
        calls = [
            partial(self._csv_reader.read_csv, user.user_id) if user.has_csv else _return_none
            for user in users
        ]
        last_calls = [partial(self._csv_reader.read_csv_or_reject, user.user_id) for user in users]
        csvs = self._calls.run_with_retries(calls, last_calls, until)
        self._bundle_lookup.ensure_version(catalog_version)
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
            if _select_users_needing_copy(resolved_users)
            else None
        )
        return self._make_copies(batch_results, resolved_users, existing_copies, until)

    def find_suspect_copies(self, user_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the existing image copies per user.

        Users of which the copies cannot be looked up now are omitted; they stay suspect.
        """
        if not user_ids:
            return {}
        calls = [partial(self._image_copies.find_copies, user_id) for user_id in user_ids]
        answers = zip(
            user_ids, self._calls.run_parallel(calls, time.monotonic() + MAX_READ_S), strict=True
        )
        return {
            user_id: answer
            for user_id, answer in answers
            if not isinstance(answer, StoreUnavailable)
        }

    def find_version(self, key: str) -> tuple[str, int] | None:
        """Return the ETag and LastModified (whole seconds) of a key, or None if it does not exist.

        The object need not be readable.
        """
        info = find_object(self._source, key)
        return info and (info.etag, info.last_modified)

    def _make_csv_call(
        self, user_id: str, known_csvs: Mapping[str, CsvResult]
    ) -> Callable[[], CsvResult]:
        return (
            partial(known_csvs.get, user_id)
            if user_id in known_csvs
            else partial(self._csv_reader.read_csv, user_id)
        )

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
            csv = csv or self._bundle_lookup.find_csv(user_id)
            image = image or self._find_bundle_image(user_id)
            return [ResolvedUser(user_id, csv, image)]
        except StaleCatalog:
            batch_results.users_to_reread.append(user_id)
        except StoreUnavailable as error:
            batch_results.failure = error
        return []

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

    def _find_newest_image(self, keys: Sequence[str], until: float) -> str | None:
        if len(keys) < 2:
            return keys[0] if keys else None
        candidates = []
        for key in keys:
            check_time(until)
            version = self.find_version(key)
            if version:  # else it was deleted since the check that it exists
                candidates.append((key, version[1]))
        return select_newest_image(candidates)

    def _make_image_ref(self, key: str | None, etag: str = "") -> ImageRef | None:
        if key is None:
            return None
        return self._image_copies.make_own_ref(key, etag)

    def _find_bundle_image(self, user_id: str) -> ImageRef | None:
        image = self._bundle_lookup.find_image(user_id)
        return self._image_copies.make_bundle_ref(user_id, image) if image else None

    def _make_copies(
        self,
        batch_results: BatchResults,
        resolved_users: list[ResolvedUser],
        existing_copies: Mapping[str, ObjectInfo] | None,
        until: float,
    ) -> BatchResults:
        """Make the image copies that these users need, and complete `batch_results`.

        `existing_copies`: those that a LIST has shown, by key. None: look up each copy.
        """
        needed = _select_users_needing_copy(resolved_users)
        calls = [partial(self._make_copy, image, existing_copies) for _, image in needed]
        copy_answers = self._calls.run_with_retries(calls, calls, until)
        answers = {
            user.user_id: answer for (user, _), answer in zip(needed, copy_answers, strict=True)
        }
        for user in resolved_users:
            self._record_copy(batch_results, user, answers.get(user.user_id, False))
        return batch_results

    def _make_copy(
        self, image: ImageRef, existing_copies: Mapping[str, ObjectInfo] | None
    ) -> bool | ObjectNotFound:
        try:
            existing = (
                self._image_copies.get_copy_info(image)
                if existing_copies is None
                else existing_copies.get(image.image)
            )
            return self._image_copies.make_copy(image, existing)
        except ObjectNotFound as error:
            # Returned, as `run_in_order` would turn it into `StoreUnavailable`.
            return error

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
        if is_missing and image.bundle_key:
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
            case is_new:
                if is_new:
                    batch_results.users_with_new_copy.add(resolved.user_id)
                batch_results.results.append(
                    ReadResult(
                        resolved.user_id, resolved.csv, image.image or None, image.image_source
                    )
                )


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
