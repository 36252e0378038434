"""Full rebuild: mark and read every user, and merge the results into the published files.

It covers every user that has a row, a reject, a CSV in a bundle or is dirty, and every other user
that the LIST finds. It never starts from an empty output.
"""

import logging
import time
from collections.abc import Callable, Collection

from shared.keys import bundle_id, bundle_key
from shared.object_store import ObjectStore
from shared.output_csv import OutputCsv
from shared.rebuilds import Rebuilds
from shared.task_queue import TaskQueue
from worker.backlog import Backlog
from worker.bulk import BulkWork
from worker.bundles import Bundles
from worker.published_files import read_published
from worker.trials import Trials

logger = logging.getLogger(__name__)


class Rebuild:
    """Runs rebuilds, one at a time. `clock` returns Unix seconds."""

    def __init__(
        self,
        output: ObjectStore,
        backlog: Backlog,
        bulk: BulkWork,
        tasks: TaskQueue,
        rebuilds: Rebuilds,
        clock: Callable[[], float] = time.time,
        bundles: Bundles | None = None,
    ) -> None:
        self._bundles = bundles
        self._output, self._backlog, self._bulk, self._tasks = output, backlog, bulk, tasks
        self._rebuilds, self._clock, self._trials = rebuilds, clock, Trials(backlog.redis)

    def start(self, task_id: str) -> None:
        """Start a queued rebuild, or resume one that was interrupted while it enqueued its users.

        Does nothing if another rebuild runs or another process holds the lease. Raises
        `StoreUnavailable`.
        """
        if not self._rebuilds.start(task_id, self._clock()) or not self._rebuilds.begin_naming(task_id):
            return
        try:
            self._name(task_id)
        finally:
            self._rebuilds.end_naming()
        # If all users are published by now, no later publish would finish the rebuild.
        self.finish()

    def _name(self, task_id: str) -> None:
        """Mark and enqueue all users of the rebuild."""
        published = read_published(self._output)
        # Redis may have lost the quarantine: without it these files would be read again.
        self._trials.remember(published.quarantined())
        users = {row.user_id for row in OutputCsv(published.output).rows()}
        users |= published.rejects.keys() | self._backlog.dirty_users() | self._in_bundles()
        # Bundles are marked as well, but the total counts only users.
        bundles = sum(1 for user_id in users if bundle_key(user_id))
        self._mark(users, task_id, len(users) - bundles)
        others = self._bulk.enqueue(sorted(users), self._rebuilds.still_alive, whole=True)
        # The LIST began before these users are marked, so it may be stale for them: they are
        # enqueued separately, and a later LIST is used to read them.
        others = sorted({*others} - users)
        bundles += sum(1 for user_id in others if bundle_key(user_id))
        self._mark(others, task_id, len(users) + len(others) - bundles)
        self._bulk.enqueue(others, self._rebuilds.still_alive)
        self._rebuilds.set_named(task_id)
        logger.info("rebuild %s enqueued users=%d others=%d", task_id, len(users), len(others))

    def _in_bundles(self) -> set[str]:
        """Return the IDs of all known bundles, and of all users with a CSV in one of them."""
        if self._bundles is None:
            return set()
        self._bundles.look(None)
        users = {bundle_id(key) for key in self._bundles.shelf.bundles}
        for _, _, index in self._bundles.indexes():
            users.update(user_id for user_id, csv, _ in index.entries() if csv)
        return users

    def _mark(self, users: Collection[str], task_id: str, total: int) -> None:
        """Mark these users and record the total so far."""
        self._backlog.mark(sorted(users), "rebuild", self._clock())
        self._rebuilds.set_total(task_id, total)

    def give_up(self, task_id: str, reason: str) -> None:
        """Record the rebuild as failed after its users could not be enqueued in any attempt."""
        logger.warning(
            "rebuild %s failed: %s; marked users stay dirty and are read; request a new rebuild", task_id, reason
        )
        self._rebuilds.fail(task_id, reason, self._clock())

    def finish(self) -> None:
        """Record the running rebuild as done if all its users are published; enqueue the next."""
        finished = self._rebuilds.finish(self._clock())
        if finished:
            logger.info("rebuild %s done", finished)
            queued = self._rebuilds.queued()
            if queued:
                self._tasks.rebuild(queued)
