"""Overdue users and bundles: the message that named them may be lost, so it is sent again."""

import logging

from shared.formats.source_keys import parse_bundle_id
from shared.progress.leases import Lease
from shared.progress.pipeline_status import OperatorStatus
from shared.scripts import CHUNK_SIZE
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, TaskQueue
from worker.state.user_states import UserStates
from worker.state.work_queues import Page, WorkQueues
from worker.watchdog.broken_reads import BrokenReads

logger = logging.getLogger(__name__)

OVERDUE_S = 30.0
"""A user that is dirty and unread for longer than this is overdue: its message may be lost."""


class OverdueUsers:
    """Enqueues overdue users again, except those that `broken_reads` excludes."""

    def __init__(
        self,
        users: UserStates,
        work_queues: WorkQueues,
        tasks: TaskQueue,
        broken_reads: BrokenReads,
        status: OperatorStatus,
    ) -> None:
        self._users = users
        self._work_queues = work_queues
        self._tasks = tasks
        self._broken_reads = broken_reads
        self._status = status

    def tick(self, now: float) -> None:
        """Re-enqueue users that are overdue while the queue of their messages is empty."""
        # With messages in the queue, these users may just be waiting for a busy worker.
        if not self._work_queues.count_messages(EVENTS_QUEUE):
            overdue = self._broken_reads.select_batchable(
                self._users.overdue_users("event", now - OVERDUE_S, CHUNK_SIZE)
            )
            if overdue:
                logger.info(
                    "%s and %d more are overdue; enqueuing them again", overdue[0], len(overdue) - 1
                )
                self._status.increment("users_reenqueued", len(overdue))
                self._tasks.refresh(overdue)
        if not self._work_queues.count_messages(BULK_QUEUE) and not self._work_queues.count_pages():
            for cause in ("sweep", "rebuild", "bundle"):
                overdue = self._broken_reads.select_batchable(
                    self._users.overdue_users(cause, now - OVERDUE_S, 2 * CHUNK_SIZE)
                )
                if overdue:
                    self._status.increment("users_reenqueued", len(overdue))
                    self._work_queues.add_page(Page(user_ids=overdue))


class OverdueBundles:
    """Enqueues the first overdue bundle again."""

    def __init__(
        self,
        users: UserStates,
        work_queues: WorkQueues,
        tasks: TaskQueue,
        unpack_lease: Lease,
    ) -> None:
        self._users = users
        self._work_queues = work_queues
        self._tasks = tasks
        self._unpack_lease = unpack_lease

    def tick(self, now: float) -> None:
        """Enqueue a bundle that is overdue while no bulk work waits and no bundle is unpacked."""
        bundles = self._users.overdue_users("unpack", now - OVERDUE_S, CHUNK_SIZE)
        if (
            bundles
            and not self._work_queues.count_messages(BULK_QUEUE)
            and not self._unpack_lease.is_held()
        ):
            self._tasks.unpack(parse_bundle_id(bundles[0]) or "")
