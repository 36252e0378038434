"""Reads that did not end: their worker was killed or hangs. Their users are read in isolation."""

import logging

from shared.scripts import CHUNK_SIZE
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, TaskQueue
from worker.state.read_attempts import ReadAttempts
from worker.state.user_states import UserStates
from worker.state.work_queues import WorkQueues

logger = logging.getLogger(__name__)

BROKEN_READ_TICKS = 3
"""A read seen by this many ticks takes longer than 30 s: its worker is probably dead or hangs."""
DEAD_ATTEMPT_TICKS = 8
"""An isolated read seen by this many ticks (105 s) is over.

`worker.reading.deadline` killed it at 90 s. Ticks are counted instead of reading a
clock, so clock skew cannot quarantine a file.
"""


class BrokenReads:
    """Isolates the users of broken reads, and enqueues isolated users."""

    def __init__(
        self, attempts: ReadAttempts, users: UserStates, tasks: TaskQueue, work_queues: WorkQueues
    ) -> None:
        self._attempts = attempts
        self._users = users
        self._tasks = tasks
        self._work_queues = work_queues
        self._tick_counts: dict[str, int] = {}

    def tick(self, now: float) -> None:
        """Run both steps."""
        self.isolate_broken_reads()
        self.enqueue_isolated()

    def isolate_broken_reads(self) -> None:
        """Isolate the users of reads that did not end, and end attempts that cannot be running."""
        isolated = self._attempts.isolated_users()
        running_attempts = {
            isolated_user.attempt_id: user_id
            for user_id, isolated_user in isolated.items()
            if isolated_user.attempt_id
        }
        read_ids = self._attempts.active_reads()
        self._tick_counts = {
            each: self._tick_counts.get(each, 0) + 1 for each in (*read_ids, *running_attempts)
        }
        for attempt_id, user_id in running_attempts.items():
            if self._tick_counts[attempt_id] >= DEAD_ATTEMPT_TICKS:
                logger.warning(
                    "isolated read of %s did not end, attempt %d: its worker was killed or hung",
                    user_id,
                    isolated[user_id].attempt_count,
                )
                self._attempts.expire_attempt(user_id, attempt_id)
        broken_reads = [
            read_id for read_id in read_ids if self._tick_counts[read_id] >= BROKEN_READ_TICKS
        ]
        for read_id, user_ids in self._attempts.users_of_reads(broken_reads).items():
            newly_isolated = self._attempts.isolate(read_id, user_ids)
            if newly_isolated:
                logger.warning(
                    "a read of %s and %d more did not end; its worker died or hangs;"
                    " isolating these users",
                    newly_isolated[0],
                    len(newly_isolated) - 1,
                )
            # The worker may have left image copies that are stale by now, or that no row names.
            self._users.add_suspects(user_ids)

    def enqueue_isolated(self) -> None:
        """Enqueue one message per isolated user that is dirty."""
        isolated = self._attempts.isolated_users()
        idle_users = [
            user_id for user_id, isolated_user in isolated.items() if not isolated_user.attempt_id
        ]
        dirty_users = list(self._users.begin_read(idle_users))
        # Isolation ends for users that are clean or were read since, but not for quarantined ones.
        self._attempts.clear_users(
            user
            for user in idle_users
            if user not in dirty_users and not isolated[user].is_exhausted
        )
        for queue, user_ids in self._split_by_queue(dirty_users).items():
            # With an empty queue, the messages of the last tick were consumed or lost.
            if user_ids and not self._work_queues.count_messages(queue):
                for user_id in user_ids[:CHUNK_SIZE]:
                    self._tasks.refresh_isolated(user_id, queue)

    def _split_by_queue(self, user_ids: list[str]) -> dict[str, list[str]]:
        event_users = self._users.marked_by_event(user_ids)
        return {
            EVENTS_QUEUE: [user_id for user_id in user_ids if user_id in event_users],
            BULK_QUEUE: [user_id for user_id in user_ids if user_id not in event_users],
        }

    def select_batchable(self, user_ids: list[str]) -> list[str]:
        """Return the users that may be read in one batch.

        Excludes isolated users, and users of a read seen by two ticks: its worker may be dead.
        """
        if not user_ids:
            return []
        read_ids = [each for each, ticks in self._tick_counts.items() if ticks > 1]
        excluded_users = self._attempts.isolated_ids().union(
            *self._attempts.users_of_reads(read_ids).values()
        )
        return [user_id for user_id in user_ids if user_id not in excluded_users]
