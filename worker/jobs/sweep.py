"""Reconcile: compare the bucket with the published files and mark every user that is out of sync.

It costs one LIST of the source bucket and no GET of a user file. It runs every hour, at every
start, and on a loss signal; by hand: `rowdrop sweep`.

The order of the steps matters:
1. Read MinIO's metrics and start a new trust state (`trust_state`). A loss signal from here on makes the
   commit fail.
2. LIST the source bucket.
3. Read the dirty users. They are marked again, because their pending results may be older than the
   LIST.
4. Read the published files.

A user that is out of sync, and was dirty neither before nor after the LIST, may be silent drift:
see `worker.watchdog.silent_repairs`.
"""

import logging
import time
from collections.abc import Callable, Mapping

from shared.formats.object_names import IMAGES_FOLDER, UNPACKED_FOLDER
from shared.formats.output_csv import OutputCsv
from shared.formats.records import Buckets
from shared.formats.source_keys import make_bundle_id, parse_bundle_id
from shared.object_store import ObjectInfo, ObjectStore, StoreUnavailable
from shared.progress.job_records import JobRecords
from worker.bundles.catalog import GAVE_UP_REASON, is_up_to_date, make_version_digest, read_catalog
from worker.bundles.lookup import BundleLookup
from worker.bundles.unpacked_folders import remove_folder
from worker.jobs.bulk_reads import BulkReads
from worker.jobs.desired_state import DesiredState, build_desired_state
from worker.jobs.drift import (
    _find_users_of_other_rules,
    find_out_of_sync_users,
    find_rejects_without_row,
)
from worker.jobs.unpacker import MAX_UNPACK_ATTEMPTS
from worker.publishing.published_files import PublishedFiles, read_published_files
from worker.reading.image_copies import ImageCopies
from worker.source.ignored_keys import MAX_LISTED_IGNORED, IgnoredKeys
from worker.source.listing import Listing
from worker.source.metrics import MinioMetrics
from worker.state.loss_signals import FIRST_START
from worker.state.parts import StateParts
from worker.state.scripts import new_token

logger = logging.getLogger(__name__)


class Sweep:
    """Sweeps one source bucket. `clock` returns Unix seconds."""

    def __init__(
        self,
        source: ObjectStore,
        output: ObjectStore,
        states: StateParts,
        records: JobRecords,
        bulk_reads: BulkReads,
        ignored_keys: IgnoredKeys,
        metrics: MinioMetrics,
        clock: Callable[[], float] = time.time,
        bundle_lookup: BundleLookup | None = None,
        image_copies: ImageCopies | None = None,
    ) -> None:
        self._buckets = Buckets(source.bucket, output.bucket)
        self._bundle_lookup = bundle_lookup or BundleLookup(
            output, states.catalog_version, states.users, clock
        )
        self._image_copies = image_copies or ImageCopies(source, output, all_images=False)
        self._unpacks = records.unpacks
        self._unpack_lease = records.unpack_lease
        self._source = source
        self._output = output
        self._states = states
        self._bulk_reads = bulk_reads
        self._ignored_keys = ignored_keys
        self._metrics = metrics
        self._clock = clock
        self._record = records.sweeps
        self._attempts = states.attempts

    def run(self, cause: str) -> int:
        """Sweep once and return the number of marked users; -1 if another sweep is running.

        Raises `StoreUnavailable`.
        """
        sweep_token = new_token()
        if not self._record.acquire_lease(sweep_token):
            return -1
        try:
            return self._sweep_once(sweep_token, cause)
        finally:
            self._record.release_lease(sweep_token)

    def _sweep_once(self, sweep_token: str, cause: str) -> int:
        started_at = self._clock()
        # Read before the LIST: what is lost after this point differs at the next comparison.
        metrics = self._metrics.read()
        run_id = self._states.loss_signals.run_id()
        last_publisher = self._states.publish_queue.last_publish().writer_token
        cause = (
            ", ".join(sorted(self._states.loss_signals.begin_sweep(sweep_token) - {FIRST_START}))
            or cause
        )
        # A user that is published during the LIST is dirty only here.
        dirty_before = self._states.users.dirty_users()
        listing = self.list_source()
        existing_copies = self._list_copies()
        self.load_catalog()
        dirty = self._states.users.dirty_users()
        desired = build_desired_state(
            listing, self._bundle_lookup, self._image_copies, self._buckets
        )
        published = read_published_files(self._output)
        # A user with a reject and no held row needs no image copy: no row could name it.
        desired = desired.without_copies_of(find_rejects_without_row(published))
        out_of_sync = find_out_of_sync_users(desired, published) | desired.find_users_missing_copy(
            existing_copies
        )
        silent_drift = self.find_silent_drift(out_of_sync, dirty | dirty_before, published)
        quarantined = published.find_quarantined()
        # A quarantine may be wrong, and an unchanged file is not read again: grant one attempt.
        self._attempts.grant_retry(quarantined)
        out_of_sync |= self.find_out_of_sync_bundles(listing) | self.delete_orphan_copies(
            desired, existing_copies, published
        )
        to_mark = sorted(out_of_sync | dirty | quarantined.keys() | published.find_unreadable())
        # Marked separately, so that `worker.watchdog.silent_repairs` can count silent repairs.
        self._states.users.mark(sorted(silent_drift), "sweep", self._clock(), silent_drift=True)
        self._states.users.mark(
            [user for user in to_mark if user not in silent_drift], "sweep", self._clock()
        )
        record = {
            "at": started_at,
            "cause": cause,
            "objects": listing.object_count,
            "marked": len(to_mark),
            "metrics": metrics or "",
        }
        # Commit before the bulk work: every user is marked, so a crash from here on loses nothing.
        is_verified = self._states.loss_signals.commit_sweep(
            sweep_token,
            last_publisher,
            (published.output_etag, published.rejects_etag),
            run_id,
            record,
        )
        self._ignored_keys.replace(listing.ignored, listing.ignored_count)
        self._bulk_reads.enqueue(to_mark, self._record.renew_lease)
        self.remove_invisible_versions()
        if not published.is_canonical or None in {published.output_etag, published.rejects_etag}:
            # A file is missing or was edited by hand: the publisher must write it, even without a
            # pending result. An empty bucket has an output.csv as well.
            self._states.publish_queue.wake_publisher()
        logger.info(
            "sweep finished (%s) objects=%d marked=%d whole=%s",
            cause,
            listing.object_count,
            len(to_mark),
            is_verified,
        )
        return len(to_mark)

    def list_source(self) -> Listing:
        """List the source bucket. An outage is recorded for `/health/ready`, and raised."""
        listing = Listing(max_ignored=MAX_LISTED_IGNORED)
        try:
            for objects in self._source.list_objects():
                self._record.renew_lease()
                listing.add_objects(objects)
        except StoreUnavailable as error:
            self._states.status.set_source_failure(str(error))
            raise
        self._states.status.clear_source_failure()
        return listing

    def _list_copies(self) -> dict[str, ObjectInfo]:
        copies: dict[str, ObjectInfo] = {}
        for page in self._output.list_objects(folder=IMAGES_FOLDER):
            self._record.renew_lease()
            copies.update((info.key, info) for info in page)
        return copies

    # -- bundles -----------------------------------------------------------------------------------
    def load_catalog(self) -> None:
        """Load the current bundle catalog and invalidate the catalogs that other processes cache.

        This must happen before the dirty users are read: a bundle is dirty until all users that are
        or were in it are marked.
        """
        catalog_version = self._states.catalog_version.current()
        catalog, etag = read_catalog(self._output)
        self._states.catalog_version.renew(etag, catalog_version)
        self._bundle_lookup.use_catalog(catalog)

    def find_out_of_sync_bundles(self, listing: Listing) -> set[str]:
        """Return the IDs of the bundles that do not match their catalog entry.

        A bundle that was given up is granted one more attempt.
        """
        entries = self._bundle_lookup.catalog.entries
        out_of_sync = set()
        for key in entries.keys() | listing.bundles.keys():
            info = listing.bundles.get(key)
            entry = entries.get(key)
            if entry and entry.reason.startswith(GAVE_UP_REASON):
                self._unpacks.grant_retry(
                    make_version_digest(key, entry.etag), MAX_UNPACK_ATTEMPTS - 1
                )
                out_of_sync.add(make_bundle_id(key))
            if not is_up_to_date(key, entry, (info.etag, info.last_modified) if info else None):
                out_of_sync.add(make_bundle_id(key))
        return out_of_sync

    def remove_invisible_versions(self) -> None:
        """Delete unpacked folders that no catalog entry names.

        Skipped while another process holds the unpack lease, because its folder is not in the
        catalog yet.
        """
        lease_token = new_token()
        if not self._unpack_lease.acquire(lease_token):
            return
        try:
            catalog, _ = read_catalog(self._output)
            visible_digests = {entry.digest for entry in catalog.entries.values()}
            for digest in set(self._output.list_folders(UNPACKED_FOLDER)) - visible_digests:
                remove_folder(self._output, digest, self._unpack_lease.renew)
        finally:
            self._unpack_lease.release(lease_token)

    def delete_orphan_copies(
        self,
        desired: DesiredState,
        existing_copies: Mapping[str, ObjectInfo],
        published: PublishedFiles,
    ) -> set[str]:
        """Delete orphaned image copies that no row names; return the users to mark.

        These users are marked after the deletion: a concurrent read may have found the copy in
        place, so the user must be read again.
        """
        output = OutputCsv(published.output)
        orphans = desired.find_orphan_copies(existing_copies)
        paths = {key: self._buckets.img_path(key, "a copy") for key in orphans}
        rows = {key: output.get(user_id) for key, user_id in orphans.items()}
        unreferenced = [
            key for key, row in rows.items() if row is None or row.img_path != paths[key]
        ]
        self._output.delete_many(unreferenced)
        return {orphans[key] for key in unreferenced}

    def find_silent_drift(
        self, out_of_sync: set[str], dirty: set[str], published: PublishedFiles
    ) -> set[str]:
        """Return the out-of-sync users that no event, bundle or change of rules explains.

        Empty while a bundle is dirty, because its users may be out of sync for that reason.
        """
        if not published.output_etag or any(map(parse_bundle_id, dirty)):
            return set()
        return {
            user
            for user in out_of_sync - dirty - _find_users_of_other_rules(published)
            if parse_bundle_id(user) is None
        }
