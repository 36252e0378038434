"""Build the catalog entry of a bundle from the archive that is in the source bucket.

A valid archive is unpacked to a folder of its own in the output bucket, named by a digest of key
and ETag. Nothing refers to the folder before the catalog does. An archive that is not valid becomes
a reject.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

from shared.csv_reader.decoding import excerpt
from shared.formats.bundle_catalog import (
    ATTEMPTS_EXHAUSTED_REASON,
    OVER_BUDGET_REASON,
    BundleCatalog,
    CatalogEntry,
)
from shared.formats.records import PREVIOUS_VERSION_KEPT
from shared.formats.source_keys import IgnoredFile, format_member_source
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
from shared.progress.unpacks import Unpacks
from worker.bundles.archive import Archive, open_archive
from worker.bundles.catalog import schedule_retry
from worker.bundles.index import BundleImage, IndexBuilder, make_unpacked_image_key
from worker.bundles.members import IgnoredMembers, InvalidArchive, Member, SelectedMembers
from worker.bundles.unpacked_folders import (
    COUNTED_INDEX_COPIES,
    DiskBudget,
    ObjectWriter,
    OverBudget,
    UnpackedFolders,
)
from worker.bundles.zip_archive import MAX_DIRECTORY_BYTES
from worker.reading.csv_parsing import CsvParser, format_fault_reason, parse_csv, parse_csv_safely
from worker.source.ranged_file import RangedFile
from worker.source.unreadable import (
    find_object,
    format_unreadable_reason,
    is_unreadable_reason,
    retry_unreadable,
)

logger = logging.getLogger(__name__)

MAX_UNPACK_ATTEMPTS = 3
"""Number of attempts that may kill their worker before the bundle is given up."""
INTERRUPTED = "the object store did not answer or refused access; the bundle is tried again"
"""The error of an attempt that a failure of the object store ended."""
PROGRESS_EVERY_S = 1.0
"""Seconds between two progress reports, each of which renews the unpack lease."""

ProgressCallback = Callable[[int, int | None], None]
"""Called with the number of unpacked members, and the number of all members if it is known."""


class ArchiveUnpacker:
    """Unpacks archives of `source` into folders; `pool` runs the requests.

    `deadline` is entered for each member. It may kill the process.
    """

    def __init__(
        self,
        source: ObjectStore,
        folders: UnpackedFolders,
        pool: Executor,
        deadline: AbstractContextManager[None] | None = None,
        csv_parser: CsvParser = parse_csv,
    ) -> None:
        self._source = source
        self._folders = folders
        self._pool = pool
        self._deadline = deadline or nullcontext()
        self._csv_parser = csv_parser

    def unpack_archive(
        self,
        info: ObjectInfo,
        digest: str,
        budget: DiskBudget,
        on_progress: ProgressCallback,
    ) -> tuple[CatalogEntry, IgnoredMembers]:
        """Unpack an archive into the folder of its digest.

        Returns its catalog entry, and the members that were ignored.

        Raises `InvalidArchive`, also if it exceeds the budget; `ObjectUnreadable`;
        `StoreUnavailable`; and `PreconditionFailed` or `ObjectNotFound` if the archive is replaced
        or deleted during that.
        """
        key = info.key

        def read_range(start: int, end: int) -> bytes:
            return retry_unreadable(partial(self._source.get_range, key, info.etag, start, end))

        # LIST reports size 0 for an object that the server cannot read.
        retry_unreadable(partial(self._source.check_readable, key))
        # A large member that is ignored takes longer than the lease on a slow link.
        file = RangedFile(
            read_range, info.size, self._pool, MAX_DIRECTORY_BYTES, self._folders.renew_lease
        )
        index = IndexBuilder()
        selected = SelectedMembers()
        ignored = IgnoredMembers()
        with self._folders.open_writer(digest, self._pool, budget) as writer:
            for member in self._read_members(key, file, on_progress):
                if isinstance(member.file, IgnoredFile):
                    ignored.add(member.name, member.file)
                    continue
                duplicate = selected.add(member.name)
                if duplicate:
                    ignored.add(*duplicate)
                    if duplicate[0] is member.name:
                        continue
                if member.file.is_csv:
                    self._add_csv(index, key, info, member)
                else:
                    _add_image(index, writer, digest, member)
            writer.finish()
            index_body = index.encode()
            writer.reserve(COUNTED_INDEX_COPIES * len(index_body))
        self._folders.write_index(digest, index_body)
        since = info.last_modified
        entry = CatalogEntry(
            info.etag,
            since,
            digest,
            since,
            len(index.user_ids()),
            ignored.count,
            rules=self._folders.rules.version,
            stored_bytes=writer.stored_bytes,
        )
        return entry, ignored

    def _read_members(
        self, key: str, file: RangedFile, on_progress: ProgressCallback
    ) -> Iterator[Member]:
        with self._deadline, _convert_faults():
            archive = open_archive(key, file, self._folders.rules.zip_names)
        members = _convert_member_faults(archive)
        done = 0
        reported_at = 0.0
        while True:
            if time.monotonic() - reported_at > PROGRESS_EVERY_S:
                reported_at = time.monotonic()
                self._folders.renew_lease()
                on_progress(done, archive.member_count)
            # The deadline includes the caller's work on the member, which runs during `yield`.
            with self._deadline:
                try:
                    member = next(members)
                except StopIteration:
                    break
                if member:
                    yield member
                    done += 1
        on_progress(done, done)

    def _add_csv(self, index: IndexBuilder, key: str, info: ObjectInfo, member: Member) -> None:
        assert not isinstance(member.file, IgnoredFile)  # noqa: S101
        stored = StoredObject(member.body, md5_etag(member.body), info.last_modified)
        csv = parse_csv_safely(self._csv_parser, format_member_source(key, member.path), stored)
        index.add_csv(member.file.user_id, member.path, csv)


def _add_image(index: IndexBuilder, writer: ObjectWriter, digest: str, member: Member) -> None:
    assert not isinstance(member.file, IgnoredFile)  # noqa: S101
    user_id = member.file.user_id
    image = BundleImage(member.path, md5_etag(member.body), member.file.extension)
    if index.add_image(user_id, image):
        writer.put(make_unpacked_image_key(digest, user_id, image), member.body, image.etag)


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
        raise InvalidArchive(format_fault_reason(error)) from error


def _convert_member_faults(archive: Archive) -> Iterator[Member | None]:
    with _convert_faults():
        yield from archive.members()


class EntryBuilder:
    """Builds catalog entries of the bundles of `source`. `clock` returns Unix seconds."""

    def __init__(
        self,
        source: ObjectStore,
        folders: UnpackedFolders,
        archives: ArchiveUnpacker,
        unpacks: Unpacks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._folders = folders
        self._rules = folders.rules
        self._archives = archives
        self._unpacks = unpacks
        self._clock = clock

    def find_archive(self, key: str) -> ObjectInfo | None:
        """Return the archive as it is in the source bucket, or None if it does not exist."""
        return find_object(self._source, key)

    def build_entry(
        self, info: ObjectInfo, catalog: BundleCatalog, built: CatalogEntry | None
    ) -> CatalogEntry:
        """Return the catalog entry for the archive that is in the source bucket.

        `catalog` is the current catalog. `built` is the entry of an earlier iteration that
        could not be published, and is reused if the archive is unchanged.

        Raises `PreconditionFailed` or `ObjectNotFound` if the archive is replaced or deleted while
        it is read, and `StoreUnavailable`.
        """
        key = info.key
        previous = catalog.entries.get(key)
        archive_version = info.etag, info.last_modified
        if built and not built.reason and (built.etag, built.since) == archive_version:
            return built
        digest = self._rules.make_digest(key, info.etag)
        budget = self._folders.get_budget(catalog, key, digest)
        if previous and previous.etag == info.etag and self._is_current(digest, previous, budget):
            return self._reuse_entry(info, previous)
        if self._unpacks.begin_attempt(digest, key, self._clock()) > MAX_UNPACK_ATTEMPTS:
            self._unpacks.end_attempt(digest)
            self._folders.remove_folder(digest)  # what the attempts have unpacked
            error = InvalidArchive(ATTEMPTS_EXHAUSTED_REASON)
            entry = self._reject_archive(digest, info, previous, error)
            return schedule_retry(entry, previous, self._clock())
        report_progress = partial(self._unpacks.set_progress, digest)
        try:
            entry, ignored = self._archives.unpack_archive(info, digest, budget, report_progress)
        except OverBudget as error:
            self._folders.remove_folder(digest)
            entry = self._reject_archive(digest, info, previous, error)
            return replace(entry, needed_bytes=error.needed_bytes)
        except InvalidArchive as error:
            self._folders.remove_folder(digest)
            return self._reject_archive(digest, info, previous, error)
        except StoreUnavailable as error:
            # Another key is that of an unpacked object.
            if isinstance(error, ObjectUnreadable) and error.key == key:
                return self._reject_unreadable(key, previous, error)
            self._unpacks.set_final_state(digest, "failed", self._clock(), INTERRUPTED)
            raise
        except (PreconditionFailed, ObjectNotFound):
            self._unpacks.set_superseded(digest, self._clock())
            raise
        finally:
            # The worker survived, so this attempt must not count against the bundle.
            self._unpacks.end_attempt(digest)
        self._record_ignored(key, entry, ignored)
        return entry

    def _record_ignored(self, key: str, entry: CatalogEntry, ignored: IgnoredMembers) -> None:
        self._unpacks.set_ignored_members(entry.digest, ignored.list_named())
        if ignored.count or not entry.users:
            named = ignored.list_named()
            logger.log(
                logging.INFO if entry.users else logging.WARNING,
                "bundle %s unpacked: %s, %d members ignored%s",
                key,
                f"users={entry.users}" if entry.users else "it has no users",
                ignored.count,
                "".join(
                    f"; member {member.number} ({member.path}): {member.reason}" for member in named
                ),
            )

    def _is_current(self, digest: str, previous: CatalogEntry, budget: DiskBudget) -> bool:
        """Return whether the entry of this unchanged archive can be reused."""
        if previous.reason and previous.rules != self._rules.version:
            return False  # another version of the rules may accept it, or give another reason
        if is_unreadable_reason(previous.reason):
            return False  # retried by each check
        if previous.reason.startswith(OVER_BUDGET_REASON):
            return previous.needed_bytes > budget.free_bytes
        if previous.reason.startswith(ATTEMPTS_EXHAUSTED_REASON):
            # Sweeps grant a bundle that was given up another attempt from time to time.
            return not self._unpacks.is_retry_granted(digest)
        if previous.reason:
            return True
        return previous.digest == digest and self._folders.is_complete(digest)

    def _reuse_entry(self, info: ObjectInfo, previous: CatalogEntry) -> CatalogEntry:
        """Return the entry of an unchanged archive, with its current LastModified.

        The same archive may have been dropped again, which changes its rank among the bundles.
        """
        since = info.last_modified
        if not previous.reason:
            return replace(previous, since=since, visible_since=since)
        if previous.digest and not self._folders.is_complete(previous.digest):
            # The archive of the previous version is gone: its missing objects cannot be restored.
            reason = previous.reason.removesuffix(PREVIOUS_VERSION_KEPT)
            return replace(
                previous,
                since=since,
                digest="",
                visible_since=0,
                users=0,
                ignored=0,
                reason=reason,
                stored_bytes=0,
            )
        return replace(previous, since=since)

    def _reject_unreadable(
        self, key: str, previous: CatalogEntry | None, error: ObjectUnreadable
    ) -> CatalogEntry:
        info = self._source.get_list_entry(key)
        if info is None:
            raise ObjectNotFound(key)
        digest = self._rules.make_digest(key, info.etag)
        reject = InvalidArchive(format_unreadable_reason(error))
        return self._reject_archive(digest, info, previous, reject)

    def _reject_archive(
        self,
        digest: str,
        info: ObjectInfo,
        previous: CatalogEntry | None,
        error: InvalidArchive,
    ) -> CatalogEntry:
        reason = error.reason
        # Only the log names the member: the reason is published.
        member = f" ({excerpt(error.member_path, 200)})" if error.member_path else ""
        logger.warning("bundle %s is rejected: %s%s", info.key, reason, member)
        self._unpacks.set_final_state(digest, "rejected", self._clock(), reason)
        # The previous version stays visible, unless it is this very archive.
        if previous is None or previous.digest in {"", digest}:
            rules = self._rules.version
            return CatalogEntry(info.etag, info.last_modified, "", reason=reason, rules=rules)
        return replace(
            previous,
            etag=info.etag,
            since=info.last_modified,
            reason=reason + PREVIOUS_VERSION_KEPT,
            rules=self._rules.version,
            needed_bytes=0,
            retries=0,
            retry_at=0,
        )
