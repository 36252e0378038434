"""The Celery application and the task queue, shared by api and worker: queues and task names.

The API enqueues tasks by name and never imports the worker. A message is only a hint: the state
that it refers to is in Redis (dirty users, pages, records). A lost message therefore
costs a delay, never a row.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

EVENTS_QUEUE = "events"
BULK_QUEUE = "bulk"

# The values are in messages that wait in the queues during an upgrade, so they never change.
REFRESH = "refresh"
REFRESH_ISOLATED = "refresh_alone"
REFRESH_PAGE = "refresh_page"
REFRESH_REQUESTED = "refresh_asked"
SWEEP = "sweep"
REBUILD = "rebuild"
UNPACK = "unpack"

VISIBILITY_TIMEOUT_S = 300
"""Seconds after which a task that was not acknowledged is delivered again."""
TASK_TIME_LIMIT_S = 270
"""Seconds after which Celery kills a bulk task, less than the visibility timeout.

The solo pool of the event workers has no time limit: see `worker.reading.deadline`.
"""


def create_celery(redis_url: str, timeout_s: float = 10) -> "Celery":
    """Create the Celery application for a broker URL, without opening a connection.

    `timeout_s` is the timeout of each Redis command in seconds.
    """
    from celery import Celery  # noqa: PLC0415  the publisher does without it
    from kombu import Queue  # noqa: PLC0415

    celery = Celery("rowdrop", broker=redis_url)
    celery.conf.update(
        task_default_queue=BULK_QUEUE,
        # Refresh messages are not acknowledged. A user that stays dirty reveals a lost message
        # sooner than it would be redelivered, and the two Redis transactions per message are 5 % of
        # the time of a drop.
        task_queues=[
            Queue(EVENTS_QUEUE, routing_key=EVENTS_QUEUE, no_ack=True),
            Queue(BULK_QUEUE, routing_key=BULK_QUEUE),
        ],
        task_create_missing_queues=False,
        task_routes={REFRESH: {"queue": EVENTS_QUEUE}, REFRESH_REQUESTED: {"queue": EVENTS_QUEUE}},
        # Bulk tasks are acknowledged when they are done. A killed worker's task is redelivered
        # after the visibility timeout, so tasks must be idempotent (at-least-once delivery).
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_time_limit=TASK_TIME_LIMIT_S,
        task_soft_time_limit=TASK_TIME_LIMIT_S - 15,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        task_send_sent_event=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_soft_shutdown_timeout=20.0,
        worker_enable_soft_shutdown_on_idle=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_restore_interval": 5,
            "priority_steps": [0],  # without priorities kombu polls one list per queue, not four
            "unacked_restore_throttle": 1,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": min(3, timeout_s),
            "health_check_interval": 5,
        },
        task_publish_retry_policy={
            "max_retries": 2,
            "interval_start": 0.1,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
    )
    return celery


class TaskQueue:
    """Enqueues tasks by name.

    Every method raises `kombu.exceptions.OperationalError` if Redis is unavailable.
    """

    def __init__(self, celery: "Celery") -> None:
        self._celery = celery

    def close(self) -> None:
        """Close the connections to the broker."""
        self._celery.close()

    def refresh(self, user_ids: Sequence[str]) -> None:
        """Enqueue a read of these users (1 to 500), ahead of all bulk work."""
        self._send(EVENTS_QUEUE, REFRESH, list(user_ids))

    def refresh_isolated(self, user_id: str, queue: str) -> None:
        """Enqueue an isolated read of a user that may have killed a worker.

        `queue` is `EVENTS_QUEUE` or `BULK_QUEUE`.
        """
        self._send(queue, REFRESH_ISOLATED, user_id)

    def refresh_page(self) -> None:
        """Enqueue the next page of bulk work."""
        self._send(BULK_QUEUE, REFRESH_PAGE)

    def refresh_requested(self, user_id: str, request_id: str) -> None:
        """Enqueue marking and reading a user on request of a client.

        See `shared.progress.rebuilds`.
        """
        self._send(EVENTS_QUEUE, REFRESH_REQUESTED, user_id, request_id)

    def sweep(self, cause: str) -> None:
        """Enqueue a sweep. `cause` is shown to the operator."""
        self._send(BULK_QUEUE, SWEEP, cause)

    def unpack(self, key: str) -> None:
        """Enqueue a check of the bundle under this key, which unpacks it if necessary."""
        self._send(BULK_QUEUE, UNPACK, key)

    def rebuild(self, task_id: str) -> None:
        """Enqueue the start, or the resumption, of the rebuild with this ID."""
        self._send(BULK_QUEUE, REBUILD, task_id)

    def _send(self, queue: str, task: str, *arguments: object) -> None:
        self._celery.send_task(task, arguments, queue=queue)
