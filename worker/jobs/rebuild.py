"""Full rebuild: mark and read every user, and merge the results into the published files.

It covers every user that has a row, a reject, a CSV in a bundle or is dirty, and every other user
that the LIST finds. It never starts from an empty output.
"""

import logging
import time
from collections.abc import Callable, Collection

from shared.formats.output_csv import OutputCsv
from shared.formats.source_keys import make_bundle_id, parse_bundle_id
from shared.object_store import ObjectStore
from shared.progress.rebuilds import Rebuilds
from shared.task_queue import TaskQueue
from worker.bundles.lookup import BundleLookup
from worker.jobs.bulk_reads import BulkReads
from worker.publishing.published_files import read_published_files
from worker.state.read_attempts import ReadAttempts
from worker.state.user_states import UserStates

logger = logging.getLogger(__name__)


class RebuildScope:
    """Finds and marks the users of a rebuild. `clock` returns Unix seconds."""

    def __init__(
        self,
        output: ObjectStore,
        users: UserStates,
        bundle_lookup: BundleLookup,
        attempts: ReadAttempts,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._output = output
        self._users = users
        self._bundle_lookup = bundle_lookup
        self._attempts = attempts
        self._clock = clock

    def find_users(self) -> set[str]:
        """Return all known users, and the IDs of all known bundles. Raises `StoreUnavailable`.

        Restores the quarantine of files first: Redis may have lost it, and without it these files
        would be read again.
        """
        published = read_published_files(self._output)
        self._attempts.restore_quarantine(published.find_quarantined())
        users = {row.user_id for row in OutputCsv(published.output).iterate_rows()}
        users |= published.rejects.keys()
        users |= self._users.dirty_users()
        users |= self._find_bundle_users()
        return users

    def _find_bundle_users(self) -> set[str]:
        """Return the IDs of all known bundles, and of all users with a CSV in one of them."""
        self._bundle_lookup.ensure_version(None)
        users = {make_bundle_id(key) for key in self._bundle_lookup.catalog.entries}
        for _, _, index in self._bundle_lookup.read_indexes():
            users.update(user_id for user_id, csv, _ in index.iterate_users() if csv)
        return users

    def mark(self, user_ids: Collection[str]) -> None:
        """Mark these users for the rebuild."""
        self._users.mark(sorted(user_ids), "rebuild", self._clock())


class Rebuild:
    """Runs rebuilds, one at a time. `clock` returns Unix seconds."""

    def __init__(
        self,
        rebuilds: Rebuilds,
        scope: RebuildScope,
        bulk_reads: BulkReads,
        tasks: TaskQueue,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rebuilds = rebuilds
        self._scope = scope
        self._bulk_reads = bulk_reads
        self._tasks = tasks
        self._clock = clock

    def start(self, task_id: str) -> None:
        """Start a queued rebuild, or resume one that was interrupted while it enqueued its users.

        Does nothing if another rebuild runs or another process holds the lease. Raises
        `StoreUnavailable`, or `redis.exceptions.LockNotOwnedError` if the lease was lost.
        """
        if not self._rebuilds.start(task_id, self._clock()):
            return
        with self._rebuilds.enqueue_lease.hold() as is_held:
            if not is_held or self._rebuilds.is_enqueued(task_id):
                return
            self._enqueue_users(task_id)
        # If all users are published by now, no later publish would finish the rebuild.
        self.finish()

    def _enqueue_users(self, task_id: str) -> None:
        """Mark and enqueue all users of the rebuild."""
        renew_lease = self._rebuilds.enqueue_lease.renew
        users = self._scope.find_users()
        renew_lease()
        self._scope.mark(users)
        user_count = _count_users(users)
        self._rebuilds.set_total(task_id, user_count)
        unmarked_ids = self._bulk_reads.enqueue(sorted(users), renew_lease, list_bucket=True)
        # The LIST began before these users are marked, so it may be stale for them: they are
        # enqueued separately, and a later LIST is used to read them.
        added_users = sorted({*unmarked_ids} - users)
        self._scope.mark(added_users)
        self._rebuilds.set_total(task_id, user_count + _count_users(added_users))
        self._bulk_reads.enqueue(added_users, renew_lease)
        # Without the lease, another process may enqueue users, and the rebuild must not end yet.
        renew_lease()
        self._rebuilds.mark_enqueued(task_id)
        logger.info("rebuild %s enqueued users=%d others=%d", task_id, len(users), len(added_users))

    def fail(self, task_id: str, reason: str) -> None:
        """Record the rebuild as failed after its users could not be enqueued in any attempt."""
        logger.warning(
            "rebuild %s failed: %s; marked users stay dirty and are read; request a new rebuild",
            task_id,
            reason,
        )
        self._rebuilds.fail(task_id, reason, self._clock())

    def finish(self) -> None:
        """Record the running rebuild as done if all its users are published; enqueue the next."""
        finished = self._rebuilds.finish_if_done(self._clock())
        if finished:
            self.enqueue_next(finished)

    def enqueue_next(self, finished_id: str) -> None:
        """Log that a rebuild is done, and enqueue the one that waits for its end."""
        logger.info("rebuild %s done", finished_id)
        queued = self._rebuilds.get_queued_id()
        if queued:
            self._tasks.rebuild(queued)


def _count_users(ids: Collection[str]) -> int:
    """Return the number of users. Bundles are marked as well, but the total counts only users."""
    return sum(1 for user_id in ids if parse_bundle_id(user_id) is None)
