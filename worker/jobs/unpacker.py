"""Unpack a bundle and make its members visible by one atomic write of the bundle catalog.

A bundle is processed like a user: get its version tokens, read its current archive, submit the
result (a reject or nothing). Members are unpacked to a folder of their own in the output bucket,
named by a digest of key and ETag. Nothing refers to the folder before the catalog does. If the
worker is killed, the next attempt resumes in the partial folder, or a sweep deletes it. After the
catalog is written, every user that is in the bundle, or was in its previous version, is marked.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial

from shared.formats.object_names import CATALOG_KEY, UNPACKED_FOLDER
from shared.formats.records import CsvVersion, InvalidCsv, ReadResult
from shared.formats.source_keys import (
    IgnoredFile,
    format_member_source,
    make_bundle_id,
    parse_bundle_id,
)
from shared.object_store import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    StoredObject,
    StoreUnavailable,
    md5_etag,
)
from shared.progress.job_records import JobRecords
from shared.task_queue import TaskQueue
from worker.bundles.archive import open_archive
from worker.bundles.catalog import (
    GAVE_UP_REASON,
    PREVIOUS_VERSION_KEPT,
    CatalogEntry,
    make_version_digest,
    read_catalog,
)
from worker.bundles.index import (
    BundleImage,
    BundleIndex,
    IndexBuilder,
    InvalidIndex,
    make_index_key,
    make_unpacked_image_key,
)
from worker.bundles.members import InvalidArchive, Member
from worker.bundles.unpacked_folders import ObjectWriter, remove_folder
from worker.bundles.zip_archive import MAX_DIRECTORY_BYTES
from worker.jobs.bulk_reads import BulkReads
from worker.reading.csv_parsing import CsvParser, parse_csv, parse_csv_safely
from worker.reading.refresher import MAX_READ_ROUNDS
from worker.source.ranged_file import RangedFile
from worker.source.unreadable import (
    format_unreadable_reason,
    is_unreadable_reason,
    retry_unreadable,
)
from worker.state.parts import StateParts
from worker.state.scripts import new_token
from worker.state.user_states import VersionTokens

logger = logging.getLogger(__name__)

MAX_UNPACK_ATTEMPTS = 3
"""Number of attempts that may kill their worker before the bundle is given up."""
PROGRESS_EVERY_S = 1.0
"""Seconds between two progress reports, which also renew the unpack lease."""


class Unpacker:
    """Unpacks the bundles of `source` into `output`; `pool` runs the requests.

    `deadline` is entered for each member. It may kill the process. `clock` returns Unix seconds.
    """

    def __init__(
        self,
        source: ObjectStore,
        output: ObjectStore,
        states: StateParts,
        bulk_reads: BulkReads,
        tasks: TaskQueue,
        records: JobRecords,
        pool: Executor,
        deadline: AbstractContextManager[None] | None = None,
        csv_parser: CsvParser = parse_csv,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._output = output
        self._states = states
        self._bulk_reads = bulk_reads
        self._tasks = tasks
        self._unpacks = records.unpacks
        self._unpack_lease = records.unpack_lease
        self._previous_versions = records.previous_versions
        self._pool = pool
        self._clock = clock
        self._deadline = deadline or nullcontext()
        self._csv_parser = csv_parser

    def run(self, key: str) -> None:
        """Process this bundle, then enqueue the next waiting one.

        Does nothing while another process holds the unpack lease: that process enqueues the next
        bundle. Raises `StoreUnavailable`. The bundle then stays marked, and is retried.
        """
        lease_token = new_token()
        if not self._unpack_lease.acquire(lease_token):
            return
        try:
            self._process_bundle(key)
        finally:
            self._unpack_lease.release(lease_token)
        # `version_tokens` omits bundles with a pending result: they need no further attempt.
        waiting_ids = list(
            self._states.users.begin_read(
                [make_bundle_id(other) for other in self._unpacks.list_waiting_bundles()]
            )
        )
        other_ids = [other for other in waiting_ids if other != make_bundle_id(key)]
        if other_ids:
            self._tasks.unpack(parse_bundle_id(other_ids[0]) or "")

    def _process_bundle(self, key: str) -> None:
        """Process the bundle until a result is submitted, at most `MAX_READ_ROUNDS` times."""
        built: CatalogEntry | None = None
        for _ in range(MAX_READ_ROUNDS):
            version_tokens = self._states.users.begin_read([make_bundle_id(key)]).get(
                make_bundle_id(key)
            )
            if version_tokens is None:
                return
            try:
                info = self.find_archive(key)
                previous = read_catalog(self._output)[0].entries.get(key)
                built = self.build_entry(key, info, previous, built) if info else None
                owned_tokens = self.commit_entry(key, previous, built, version_tokens)
            except (PreconditionFailed, ObjectNotFound):
                continue  # the archive was replaced or deleted, or the catalog was written concurrently
            if owned_tokens is None:
                continue
            self._settle_members(key, built)
            if not self._states.users.submit_results([(owned_tokens, _make_result(key, built))]):
                return
        logger.info(
            "bundle %s or the catalog changed during each attempt; the bundle stays dirty and is enqueued again",
            key,
        )

    def commit_entry(
        self,
        key: str,
        previous: CatalogEntry | None,
        entry: CatalogEntry | None,
        version_tokens: VersionTokens,
    ) -> VersionTokens | None:
        """Publish `entry` as the catalog entry of the bundle, into the current catalog.

        Returns the version tokens to submit with; None if another result of this bundle was
        accepted.

        The order is: read the catalog, take ownership of the bundle, write the catalog, even if it
        is unchanged. So of two concurrent workers the one that read the bundle later wins, although
        either may be suspended at any point.

        Raises `PreconditionFailed` if the catalog was written concurrently. After
        `StoreUnavailable` the write may have happened.
        """
        catalog, etag = read_catalog(self._output)
        if self._states.catalog_version.recorded_etag() not in {None, etag or "-"}:
            # No process recorded this ETag: the catalog was edited or deleted by hand, or a
            # delayed write landed. Its previous content is lost: only a sweep finds what changed.
            self._states.loss_signals.add("files_changed")
        # Another worker changed the entry since `_process_bundle` read it: retry with the current one.
        if catalog.entries.get(key) != previous:
            raise PreconditionFailed(CATALOG_KEY)
        owned_tokens = self._states.users.take_ownership(make_bundle_id(key), version_tokens)
        if owned_tokens is None:
            return None
        if entry != previous:
            # Recorded before the write: if this worker dies after it, the next one marks the users.
            self._previous_versions.add_digests(key, [previous.digest] if previous else [])
        # Renewed after the write and before users are marked: a read of a marked user then loads
        # the new catalog.
        self._states.catalog_version.renew(
            self._output.put_if_unchanged(
                CATALOG_KEY, catalog.with_entry(key, entry).encode(), etag
            )
        )
        if entry is None and previous:
            self._unpacks.set_final_state(
                make_version_digest(key, previous.etag), "removed", self._clock()
            )
        return owned_tokens

    def _settle_members(self, key: str, entry: CatalogEntry | None) -> None:
        """Mark all users that are or were in the bundle, unless that is done already."""
        old_digests = self._previous_versions.digests(key)
        if old_digests is not None:
            self.mark_members(key, entry, old_digests)
            self._previous_versions.clear_digests(key, old_digests)
            self._unpacks.finish_published(
                self._clock()
            )  # other workers may have read and published all users already

    def mark_members(self, key: str, entry: CatalogEntry | None, old_digests: list[str]) -> None:
        """Mark and enqueue all users that are or were in the bundle.

        Then delete the unpacked folders in `old_digests` that are no longer visible.
        """
        visible_digest = entry.digest if entry else ""
        users = sorted(
            {
                user
                for digest in {visible_digest, *old_digests} - {""}
                for user in self._read_user_ids(digest)
            }
        )
        self._states.users.mark(users, "bundle", self._clock())
        if entry and not entry.reason:
            self._unpacks.set_publishing(entry.digest, entry.users, entry.ignored, self._clock())
        self._bulk_reads.enqueue(users, self._unpack_lease.renew)
        # Deleted after the switch: a reader with a stale catalog gets `StaleCatalog` and retries.
        for digest in set(old_digests) - {visible_digest}:
            remove_folder(self._output, digest, self._unpack_lease.renew)
        logger.info("bundle %s marked users=%d", key, len(users))

    def _read_user_ids(self, digest: str) -> Iterator[str]:
        index = self.read_index(digest)
        return index.user_ids() if index else iter(())

    def read_index(self, digest: str) -> BundleIndex | None:
        """Return the index of an unpacked version, or None if it is missing or invalid."""
        with suppress(ObjectNotFound, ObjectUnreadable, InvalidIndex):
            # Callers use only users and images, so the key and date of the bundle do not matter.
            return BundleIndex("", 0, self._output.get(make_index_key(digest)).body)
        return None

    def find_archive(self, key: str) -> ObjectInfo | None:
        """Return the archive as it is in the source bucket, or None if it does not exist."""
        try:
            return self._source.get_info(key)
        except ObjectUnreadable:  # LIST reports an object that cannot be read
            return self._source.get_list_entry(key)

    # -- one version of a bundle -------------------------------------------------------------------
    def build_entry(
        self, key: str, info: ObjectInfo, previous: CatalogEntry | None, built: CatalogEntry | None
    ) -> CatalogEntry:
        """Return the catalog entry for the archive that is in the source bucket.

        `previous` is the entry in the catalog. `built` is the entry of an earlier iteration that could
        not be published, and is reused if the archive is unchanged.

        Raises `PreconditionFailed` or `ObjectNotFound` if the archive is replaced or deleted while
        it is read, and `StoreUnavailable`.
        """
        if (
            built
            and not built.reason
            and (built.etag, built.since) == (info.etag, info.last_modified)
        ):
            return built
        digest = make_version_digest(key, info.etag)
        if previous and previous.etag == info.etag and self._is_current(digest, previous):
            return self._reuse_entry(info, previous)
        if self._unpacks.begin_attempt(digest, key, self._clock()) > MAX_UNPACK_ATTEMPTS:
            self._unpacks.end_attempt(digest)
            return self._reject_archive(digest, info, previous, GAVE_UP_REASON)
        try:
            entry = self.unpack_archive(key, info, digest)
        except InvalidArchive as error:
            remove_folder(self._output, digest, self._unpack_lease.renew)
            entry = self._reject_archive(digest, info, previous, error.reason)
        except ObjectUnreadable as error:
            if error.key != key:  # an unpacked object, not the archive
                raise
            entry = self._reject_unreadable(key, previous, error)
        finally:
            # The worker survived, so this attempt must not count against the bundle.
            self._unpacks.end_attempt(digest)
        return entry

    def _reject_unreadable(
        self, key: str, previous: CatalogEntry | None, error: ObjectUnreadable
    ) -> CatalogEntry:
        info = self._source.get_list_entry(key)
        if info is None:
            raise ObjectNotFound(key)
        return self._reject_archive(
            make_version_digest(key, info.etag), info, previous, format_unreadable_reason(error)
        )

    def _is_current(self, digest: str, previous: CatalogEntry) -> bool:
        """Return whether the entry of this unchanged archive can be reused."""
        if is_unreadable_reason(previous.reason):
            return False  # retried by each check
        if previous.reason:
            # A sweep grants a bundle that was given up one more attempt.
            return not (
                previous.reason.startswith(GAVE_UP_REASON)
                and self._unpacks.is_retry_granted(digest)
            )
        return previous.digest == digest and self.is_complete(digest)

    def _reuse_entry(self, info: ObjectInfo, previous: CatalogEntry) -> CatalogEntry:
        """Return the entry of an unchanged archive, with its current LastModified.

        The same archive may have been dropped again, which changes its rank among the bundles.
        """
        if not previous.reason:
            return replace(previous, since=info.last_modified, visible_since=info.last_modified)
        if previous.digest and not self.is_complete(previous.digest):
            # The archive of the previous version is gone: its missing objects cannot be restored.
            return CatalogEntry(
                info.etag,
                info.last_modified,
                "",
                reason=previous.reason.removesuffix(PREVIOUS_VERSION_KEPT),
            )
        return replace(previous, since=info.last_modified)

    def is_complete(self, digest: str) -> bool:
        """Tell whether the index and every image of an unpacked version exist."""
        index = self.read_index(digest)
        if index is None:
            return False
        etags = self.list_etags(digest)
        images = ((user_id, image) for user_id, _, image in index.iterate_users() if image)
        return all(
            etags.get(make_unpacked_image_key(digest, user_id, image)) == image.etag
            for user_id, image in images
        )

    def list_etags(self, digest: str) -> dict[str, str]:
        """Return the ETag of each object of an unpacked version, by key."""
        etags: dict[str, str] = {}
        for page in self._output.list_objects(folder=f"{UNPACKED_FOLDER}/{digest}"):
            etags.update((info.key, info.etag) for info in page)
            self._unpack_lease.renew()
        return etags

    def _reject_archive(
        self, digest: str, info: ObjectInfo, previous: CatalogEntry | None, reason: str
    ) -> CatalogEntry:
        logger.warning("bundle %s is rejected: %s", info.key, reason)
        # The previous version stays visible, unless it is this very archive.
        held_digest = previous.digest if previous and previous.digest != digest else ""
        self._unpacks.set_final_state(digest, "rejected", self._clock(), reason)
        if not held_digest or previous is None:
            return CatalogEntry(info.etag, info.last_modified, "", reason=reason)
        return replace(
            previous,
            etag=info.etag,
            since=info.last_modified,
            reason=reason + PREVIOUS_VERSION_KEPT,
        )

    def unpack_archive(self, key: str, info: ObjectInfo, digest: str) -> CatalogEntry:
        """Unpack an archive into the folder of its digest and return its catalog entry."""

        def read_range(start: int, end: int) -> bytes:
            return retry_unreadable(partial(self._source.get_range, key, info.etag, start, end))

        # LIST reports size 0 for an object that the server cannot read.
        retry_unreadable(partial(self._source.check_readable, key))
        file = RangedFile(read_range, info.size, self._pool, MAX_DIRECTORY_BYTES)
        index = IndexBuilder()
        ignored_count = 0
        with ObjectWriter(self._output, self._pool, self.list_etags(digest)) as writer:
            for member in self._read_members(key, file, digest):
                if isinstance(member.file, IgnoredFile):
                    ignored_count += 1
                elif member.file.is_csv:
                    self._add_csv(index, key, info, member)
                else:
                    self._add_image(index, writer, digest, member)
            writer.finish()
        # The index is written last: it exists only after all images were written.
        self._output.put(make_index_key(digest), index.encode())
        since = info.last_modified
        return CatalogEntry(info.etag, since, digest, since, len(index.user_ids()), ignored_count)

    def _read_members(self, key: str, file: RangedFile, digest: str) -> Iterator[Member]:
        with self._deadline, _convert_faults():
            archive = open_archive(key, file)
        members = archive.members()
        done = 0
        reported_at = 0.0
        while True:
            if time.monotonic() - reported_at > PROGRESS_EVERY_S:
                reported_at = time.monotonic()
                self._unpack_lease.renew()
                self._unpacks.set_progress(digest, done, archive.member_count)
            # The deadline includes the caller's work on the member, which runs during `yield`.
            with self._deadline:
                with _convert_faults():
                    member = next(members, None)
                if member is None:
                    break
                yield member
            done += 1
        self._unpacks.set_progress(digest, done, done)

    def _add_csv(self, index: IndexBuilder, key: str, info: ObjectInfo, member: Member) -> None:
        assert not isinstance(member.file, IgnoredFile)  # noqa: S101
        stored = StoredObject(member.body, md5_etag(member.body), info.last_modified)
        csv = parse_csv_safely(self._csv_parser, format_member_source(key, member.path), stored)
        index.add_csv(member.file.user_id, member.path, csv)

    def _add_image(
        self, index: IndexBuilder, writer: "ObjectWriter", digest: str, member: Member
    ) -> None:
        assert not isinstance(member.file, IgnoredFile)  # noqa: S101
        image = BundleImage(member.path, md5_etag(member.body), member.file.extension)
        if index.add_image(member.file.user_id, image):
            writer.put(
                make_unpacked_image_key(digest, member.file.user_id, image), member.body, image.etag
            )


@contextmanager
def _convert_faults() -> Iterator[None]:
    """Convert an unexpected exception into a reject of the archive.

    A retry would fail in the same way, because the bytes are the same. A shortage of memory or a
    failure of the object store does not depend on the bytes, so those exceptions are passed
    through.
    """
    try:
        yield
    except (InvalidArchive, StoreUnavailable, PreconditionFailed, ObjectNotFound, MemoryError):
        raise
    except Exception as error:
        raise InvalidArchive(
            f"Rowdrop could not read it, by a fault of its own ({type(error).__name__})"
        ) from error


def _make_result(key: str, entry: CatalogEntry | None) -> ReadResult:
    """Return the result to submit for a bundle: a reject, or nothing."""
    csv = None
    if entry and entry.reason:
        csv = InvalidCsv(CsvVersion(key, entry.etag, entry.since), entry.reason, None)
    return ReadResult(make_bundle_id(key), csv, None)
