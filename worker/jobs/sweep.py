"""Reconcile: compare the bucket with the published files and mark every user that is out of sync.

It costs one LIST of the source bucket and no GET of a user file. It runs every hour, at every
start, and on a loss signal; by hand: `rowdrop sweep`.

The order of the steps matters:
1. Read MinIO's metrics and start a new trust state (`trust_state`). A loss signal from here on
   makes the commit fail.
2. Compare, in the order that `worker.jobs.comparison` gives.
3. Mark every user that is out of sync or dirty.
4. Commit.

A user that is out of sync without an event is silent drift. The sweep records it, and the publisher
counts it if its row or reject changes. See `shared.progress.sweep_record` for what follows.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from shared.formats.bundle_catalog import BundleCatalog
from shared.formats.source_keys import make_bundle_id
from shared.progress.sweep_record import FinishedSweep, SilentChanges, SweepRecord
from shared.progress.unpacks import Unpacks
from shared.scripts import new_token
from worker.bundles.catalog import BundleRules
from worker.bundles.unpacked_folders import UnpackedFolders
from worker.jobs.bulk_reads import BulkReads
from worker.jobs.comparison import BucketComparison, Comparison
from worker.jobs.entry_builder import MAX_UNPACK_ATTEMPTS
from worker.publishing.published_files import PublishedFiles
from worker.source.ignored_keys import IgnoredKeys
from worker.source.listing import Listing
from worker.source.metrics import MinioMetrics
from worker.state.loss_signals import FIRST_START, START_CAUSE, UNFINISHED_CAUSE, LossSignals
from worker.state.publish_queue import PublishQueue
from worker.state.read_attempts import ReadAttempts
from worker.state.user_states import UserStates

logger = logging.getLogger(__name__)


class SweepStart(NamedTuple):
    """What was true before the LIST of a sweep.

    `token` is the sweep's. `run_id` is Redis's, `last_writer` the token of the last publisher.
    `expects_drift`: an interruption or a loss signal explains what the sweep finds.
    """

    token: str
    started_at: float
    cause: str
    metrics: str | None
    run_id: str
    last_writer: str | None
    silent_changes: SilentChanges
    expects_drift: bool


class SweepSession:
    """The begin and the commit of sweeps, and their lease. `clock` returns Unix seconds."""

    def __init__(
        self,
        record: SweepRecord,
        loss_signals: LossSignals,
        publish_queue: PublishQueue,
        metrics: MinioMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._record = record
        self._loss_signals = loss_signals
        self._publish_queue = publish_queue
        self._metrics = metrics
        self._clock = clock

    def hold_lease(self) -> AbstractContextManager[bool]:
        """Hold the lease while the block runs; yields False if another sweep holds it."""
        return self._record.hold_lease()

    def renew_lease(self) -> None:
        """Renew the lease. Raises `redis.exceptions.LockNotOwnedError` if it was lost."""
        self._record.lease.renew()

    def begin(self, token: str, cause: str) -> SweepStart:
        """Begin the sweep with this token; loss signals, if any, replace the cause."""
        started_at = self._clock()
        # Read before the LIST: what is lost after this point differs at the next comparison.
        metrics = self._metrics.read()
        run_id = self._loss_signals.run_id()
        last_writer = self._publish_queue.last_publish().writer_token
        silent_changes = self._record.read_silent_changes()
        signals = self._loss_signals.begin_sweep(token)
        expects_drift = bool(signals) or cause in {START_CAUSE, UNFINISHED_CAUSE}
        cause = ", ".join(sorted(signals - {FIRST_START})) or cause
        return SweepStart(
            token, started_at, cause, metrics, run_id, last_writer, silent_changes, expects_drift
        )

    def commit(self, start: SweepStart, comparison: Comparison, marked_count: int) -> bool:
        """Commit the sweep: all its users are marked.

        Returns False if there was a loss signal since it began.
        """
        published = comparison.published
        countdown = start.silent_changes.count_down(
            found=comparison.has_silent_changes, expects_drift=start.expects_drift
        )
        summary = {
            "at": start.started_at,
            "cause": start.cause,
            "objects": comparison.listing.object_count,
            "marked": marked_count,
            "metrics": start.metrics or "",
            "silent_repairs": start.silent_changes.repair_count,
            "silent_countdown": countdown,
            "expects_drift": "1" if start.expects_drift else "",
        }
        etags = published.output_etag, published.rejects_etag
        is_verified = self._loss_signals.commit_sweep(
            start.token, start.last_writer, etags, start.run_id, summary
        )
        self._record.add_to_history(
            FinishedSweep(
                start.started_at,
                self._clock(),
                start.cause,
                comparison.listing.object_count,
                marked_count,
            )
        )
        return is_verified

    def wake_publisher_if_incomplete(self, published: PublishedFiles) -> None:
        """Wake the publisher if a published file is missing or was edited by hand.

        It must be written even without a pending result. An empty bucket has an output.csv as well.
        """
        etags = {published.output_etag, published.rejects_etag}
        if not published.is_canonical or None in etags:
            self._publish_queue.wake_publisher()


class FindingsRecorder:
    """Records in Redis what a comparison found. `clock` returns Unix seconds."""

    def __init__(
        self,
        users: UserStates,
        attempts: ReadAttempts,
        unpacks: Unpacks,
        ignored_keys: IgnoredKeys,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._users = users
        self._attempts = attempts
        self._unpacks = unpacks
        self._ignored_keys = ignored_keys
        self._clock = clock

    def grant_retries(self, comparison: Comparison, bundle_rules: BundleRules) -> set[str]:
        """Grant one more attempt to each quarantined user, and to a few bundles that were given up.

        A quarantine may be wrong, and an unchanged file is not read again. Returns the users and
        the bundle IDs, with those of the bundles that exceeded the disk budget: it may have space
        now.
        """
        quarantined = comparison.published.find_quarantined()
        self._attempts.grant_retry(quarantined)
        over_budget = comparison.catalog.find_over_budget()
        return {
            *quarantined,
            *over_budget,
            *self._grant_bundle_retries(comparison.catalog, bundle_rules),
        }

    def _grant_bundle_retries(self, catalog: BundleCatalog, rules: BundleRules) -> set[str]:
        due_keys = catalog.find_due_retries(self._clock())
        for key in due_keys:
            digest = rules.make_digest(key, catalog.entries[key].etag)
            self._unpacks.grant_retry(digest, MAX_UNPACK_ATTEMPTS - 1)
        return {make_bundle_id(key) for key in due_keys}

    def mark(self, user_ids: Sequence[str], silent_drift: Collection[str]) -> None:
        """Mark these users; those in `silent_drift` must be among them."""
        # Before the marks, which lead to the publish that counts them.
        self._users.record_silent_drift(sorted(silent_drift))
        self._users.mark(user_ids, "sweep", self._clock())

    def replace_ignored_keys(self, listing: Listing) -> None:
        """Replace the list of ignored keys by that of the LIST."""
        self._ignored_keys.replace(listing.ignored, listing.ignored_count)


class Sweep:
    """Sweeps one source bucket."""

    def __init__(
        self,
        session: SweepSession,
        buckets: BucketComparison,
        recorder: FindingsRecorder,
        bulk_reads: BulkReads,
        folders: UnpackedFolders,
    ) -> None:
        self._session = session
        self._buckets = buckets
        self._recorder = recorder
        self._bulk_reads = bulk_reads
        self._folders = folders

    def run(self, cause: str) -> int:
        """Sweep once and return the number of marked users; -1 if another sweep is running.

        Raises `StoreUnavailable`, or `redis.exceptions.LockNotOwnedError` if the lease was lost.
        """
        with self._session.hold_lease() as is_held:
            return self._sweep_once(cause) if is_held else -1

    def _sweep_once(self, cause: str) -> int:
        start = self._session.begin(new_token(), cause)
        comparison = self._buckets.compare(self._folders.rules)
        # Without the lease, another sweep may have compared later. From here to the commit nothing
        # verifies the lease, because users with deleted copies must be marked.
        self._session.renew_lease()
        user_ids = (
            comparison.out_of_sync | comparison.dirty_users | comparison.published.find_unreadable()
        )
        user_ids |= self._recorder.grant_retries(comparison, self._folders.rules)
        user_ids |= self._buckets.delete_copies(comparison.orphan_copies)
        to_mark = sorted(user_ids)
        self._recorder.mark(to_mark, comparison.silent_drift)
        # Commit before the bulk work: every user is marked, so a crash from here on loses nothing.
        is_verified = self._session.commit(start, comparison, len(to_mark))
        self._recorder.replace_ignored_keys(comparison.listing)
        self._bulk_reads.enqueue(to_mark, self._session.renew_lease)
        self._folders.remove_invisible()
        self._session.wake_publisher_if_incomplete(comparison.published)
        logger.info(
            "sweep finished (%s) objects=%d marked=%d verified=%s",
            start.cause,
            comparison.listing.object_count,
            len(to_mark),
            is_verified,
        )
        return len(to_mark)
