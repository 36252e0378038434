"""Checks for work that waits in Redis although the message or wake-up for it is lost."""

from shared.progress.rebuilds import Rebuilds
from shared.progress.unpacks import Unpacks
from shared.task_queue import BULK_QUEUE, TaskQueue
from worker.state.publish_queue import PublishQueue
from worker.state.work_queues import WorkQueues

MAX_PAGE_MESSAGES = 2
"""Maximum page messages sent in one tick. While the queue stays empty, the next tick sends more."""


class StalledJobs:
    """Enqueues pages and rebuilds again, and closes finished bulk work.

    `work_queues` counts what waits in Redis, and `tasks` sends Celery messages.
    """

    def __init__(
        self, work_queues: WorkQueues, tasks: TaskQueue, rebuilds: Rebuilds, unpacks: Unpacks
    ) -> None:
        self._work_queues = work_queues
        self._tasks = tasks
        self._rebuilds = rebuilds
        self._unpacks = unpacks

    def tick(self, now: float) -> None:
        """Re-enqueue pages and rebuilds after a lost message, and close finished bulk work.

        `now` is in Unix seconds.
        """
        if self._work_queues.count_messages(BULK_QUEUE):
            return
        for _ in range(min(MAX_PAGE_MESSAGES, self._work_queues.count_pages())):
            self._tasks.refresh_page()
        self._rebuilds.finish_if_done(now)
        self._unpacks.finish_published(now)
        running_id = self._rebuilds.get_running_id()
        queued_id = self._rebuilds.get_queued_id()
        if (
            running_id
            and not self._rebuilds.is_enqueued(running_id)
            and not self._rebuilds.enqueue_lease.is_held()
        ):
            self._tasks.rebuild(running_id)
        elif queued_id and not running_id:
            self._tasks.rebuild(queued_id)


class PendingResults:
    """Wakes the publisher while results are pending."""

    def __init__(self, publish_queue: PublishQueue) -> None:
        self._publish_queue = publish_queue

    def tick(self, now: float) -> None:
        """Wake the publisher: a publisher that died may have taken the wake-up."""
        if self._publish_queue.count_pending():
            self._publish_queue.wake_publisher()
