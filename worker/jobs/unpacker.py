"""Unpack a bundle and make its members visible by one atomic write of the bundle catalog.

A bundle is processed like a user: get its version tokens, read its current archive, submit the
result (a reject or nothing). If the worker is killed, the next attempt resumes in the partial
folder, or a sweep deletes it. After the catalog is written, every user that is in the bundle, or
was in its previous version, is marked.
"""

import logging
import time
from collections.abc import Callable, Iterator, Set

from shared.formats.bundle_catalog import CatalogEntry
from shared.formats.records import CsvVersion, InvalidCsv, ReadResult
from shared.formats.source_keys import make_bundle_id
from shared.object_store import ObjectNotFound, PreconditionFailed
from shared.progress.leases import Lease
from shared.progress.unpacks import Unpacks
from worker.bundles.catalog import CatalogWriter
from worker.bundles.unpacked_folders import UnpackedFolders
from worker.jobs.bulk_reads import BulkReads
from worker.jobs.entry_builder import EntryBuilder
from worker.reading.refresher import MAX_READ_ROUNDS
from worker.state.user_states import UserStates

logger = logging.getLogger(__name__)


class MemberMarker:
    """Does what follows from a new catalog entry: marks users, enqueues reads, records the end.

    `clock` returns Unix seconds.
    """

    def __init__(
        self,
        users: UserStates,
        bulk_reads: BulkReads,
        folders: UnpackedFolders,
        unpacks: Unpacks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._users = users
        self._bulk_reads = bulk_reads
        self._folders = folders
        self._unpacks = unpacks
        self._clock = clock

    def mark_members(self, key: str, entry: CatalogEntry | None, old_digests: list[str]) -> None:
        """Mark and enqueue all users that are or were in the bundle.

        Then delete the unpacked folders in `old_digests` that are no longer visible.
        """
        visible_digest = entry.digest if entry else ""
        digests = {visible_digest, *old_digests} - {""}
        users = sorted({user for digest in digests for user in self._read_user_ids(digest)})
        self._users.mark(users, "bundle", self._clock())
        if entry and not entry.reason:
            self._unpacks.set_publishing(entry.digest, entry.users, entry.ignored, self._clock())
        self._bulk_reads.enqueue(users, self._folders.renew_lease)
        # Deleted after the catalog is written: a reader with a stale catalog gets `StaleCatalog`
        # and retries.
        for digest in set(old_digests) - {visible_digest}:
            self._folders.remove_folder(digest)
        logger.info("bundle %s marked users=%d", key, len(users))

    def _read_user_ids(self, digest: str) -> Iterator[str]:
        index = self._folders.read_index(digest)
        return index.user_ids() if index else iter(())

    def record_removed(self, key: str, entry: CatalogEntry) -> None:
        """Record that the archive of this entry was deleted."""
        digest = self._folders.rules.make_digest(key, entry.etag)
        self._unpacks.set_final_state(digest, "removed", self._clock())

    def end_other_attempts(self, key: str, entry: CatalogEntry | None) -> None:
        """End the attempts at archives of this bundle that were replaced or deleted."""
        digest = self._folders.rules.make_digest(key, entry.etag) if entry else ""
        self._unpacks.end_other_attempts(key, digest, self._clock())

    def record_restored(self, entry: CatalogEntry) -> None:
        """Record the end of an attempt that restored missing objects of the visible version."""
        status = self._unpacks.status(entry.digest)
        if status and status.state == "unpacking":
            self._unpacks.set_publishing(entry.digest, entry.users, entry.ignored, self._clock())

    def finish_published(self) -> None:
        """Record the bundles as done that have no unpublished users left."""
        self._unpacks.finish_published(self._clock())

    def select_bundle(self, key: str) -> str:
        """Return the bundle to unpack: `key`, or the first waiting one if tried bundles wait.

        A bundle that may kill its worker waits until all others are unpacked.
        """
        tried_keys = self._unpacks.find_tried_bundles()
        if not tried_keys:
            return key
        return next(iter(self._list_waiting(tried_keys)), key)

    def enqueue_next(self, key: str) -> None:
        """Enqueue the next waiting bundle, except `key`."""
        waiting_keys = self._list_waiting(self._unpacks.find_tried_bundles())
        self._bulk_reads.enqueue_bundles(
            make_bundle_id(waiting_key) for waiting_key in waiting_keys if waiting_key != key
        )

    def _list_waiting(self, tried_keys: Set[str]) -> list[str]:
        """Return the waiting bundles in the order in which to unpack them.

        The bundle that waits longest is first. But while tried bundles wait, the newest untried one
        is first: those that were dropped with the tried ones may kill workers, too.
        """
        waiting_ids = [make_bundle_id(waiting) for waiting in self._unpacks.list_waiting_bundles()]
        # Omits bundles with a pending result: they need no further attempt.
        dirty_keys = [bundle_id[1:] for bundle_id in self._users.begin_read(waiting_ids)]
        tried = [key for key in dirty_keys if key in tried_keys]
        untried = [key for key in dirty_keys if key not in tried_keys]
        return [*reversed(untried), *tried] if tried else untried


class Unpacker:
    """Unpacks bundles, one at a time."""

    def __init__(
        self,
        lease: Lease,
        users: UserStates,
        builder: EntryBuilder,
        catalog: CatalogWriter,
        members: MemberMarker,
    ) -> None:
        self._lease = lease
        self._users = users
        self._builder = builder
        self._catalog = catalog
        self._members = members

    def run(self, key: str) -> None:
        """Process this bundle, or a waiting one that goes first, then enqueue the next one.

        Does nothing while another process holds the unpack lease: that process enqueues the next
        bundle. Raises `StoreUnavailable`, or `redis.exceptions.LockNotOwnedError` if the lease was
        lost. The bundle then stays marked, and is retried.
        """
        with self._lease.hold() as is_held:
            if not is_held:
                return
            key = self._members.select_bundle(key)
            self._process_bundle(key)
        self._members.enqueue_next(key)

    def _process_bundle(self, key: str) -> None:
        """Process the bundle until a result is submitted, at most `MAX_READ_ROUNDS` times."""
        bundle_id = make_bundle_id(key)
        built: CatalogEntry | None = None
        for _ in range(MAX_READ_ROUNDS):
            version_tokens = self._users.begin_read([bundle_id]).get(bundle_id)
            if version_tokens is None:
                return
            try:
                info = self._builder.find_archive(key)
                catalog = self._catalog.read_catalog()
                previous = catalog.entries.get(key)
                built = self._builder.build_entry(info, catalog, built) if info else None
                # Without the lease, a sweep may have deleted the folder that nothing named yet.
                self._lease.renew()
                owned_tokens = self._catalog.commit_entry(key, previous, built, version_tokens)
            except (PreconditionFailed, ObjectNotFound):
                # The archive was replaced or deleted, or the catalog was written concurrently.
                continue
            if owned_tokens is None:
                continue
            if built is None and previous:
                self._members.record_removed(key, previous)
            self._members.end_other_attempts(key, built)
            self._mark_changed_members(key, built)
            if not self._users.submit_results([(owned_tokens, _make_result(key, built))]):
                return
        logger.info(
            "bundle %s or the catalog changed during each attempt; "
            "the bundle stays dirty and is enqueued again",
            key,
        )

    def _mark_changed_members(self, key: str, entry: CatalogEntry | None) -> None:
        """Mark all users that are or were in the bundle, unless that is done already."""
        old_digests = self._catalog.find_unmarked_digests(key)
        if old_digests is None:
            if entry and not entry.reason:
                self._members.record_restored(entry)
            return
        self._members.mark_members(key, entry, old_digests)
        self._catalog.clear_unmarked_digests(key, old_digests)
        # Other workers may have read and published all users already.
        self._members.finish_published()


def _make_result(key: str, entry: CatalogEntry | None) -> ReadResult:
    """Return the result to submit for a bundle: a reject, or nothing."""
    csv = None
    if entry and entry.reason:
        csv = InvalidCsv(CsvVersion(key, entry.etag, entry.since), entry.reason, None)
    return ReadResult(make_bundle_id(key), csv, None)
