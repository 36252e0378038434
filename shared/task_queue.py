"""The Celery application as both sides see it: where the messages go, and the tasks by name.

The API enqueues by name and never imports the worker.  A message is only a hint: what is to be done stands in Redis
(`dirty`, `staged`, the rebuild's record), so that a lost message costs a delay and never a row.
"""

from collections.abc import Sequence

from celery import Celery
from kombu import Queue

EVENTS_QUEUE = "events"
BULK_QUEUE = "bulk"

REFRESH = "refresh"
REFRESH_ALONE = "refresh_alone"
REFRESH_PAGE = "refresh_page"
REFRESH_ASKED = "refresh_asked"
SWEEP = "sweep"
REBUILD = "rebuild"
UNPACK = "unpack"

VISIBILITY_TIMEOUT_S = 300
TASK_TIME_LIMIT_S = 270


def create_celery(redis_url: str, timeout_s: float = 10) -> Celery:
    """A Celery application on `redis_url`, which waits `timeout_s` seconds for an answer.  Opens no connection."""
    celery = Celery("rowdrop", broker=redis_url)
    celery.conf.update(
        task_default_queue=BULK_QUEUE,
        # No acknowledgement for refreshes: `dirty` knows of a lost one, sooner than a redelivery would come, and the
        # two transactions a message are a twentieth of a drop's time.
        task_queues=[
            Queue(EVENTS_QUEUE, routing_key=EVENTS_QUEUE, no_ack=True),
            Queue(BULK_QUEUE, routing_key=BULK_QUEUE),
        ],
        task_create_missing_queues=False,
        task_routes={REFRESH: {"queue": EVENTS_QUEUE}, REFRESH_ASKED: {"queue": EVENTS_QUEUE}},
        # A task is acknowledged when it is done; a killed worker's task comes back after the visibility timeout.
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
            "priority_steps": [0],  # no priorities: one list a queue to wait at, instead of four
            "unacked_restore_throttle": 1,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": min(3, timeout_s),
            "health_check_interval": 5,
        },
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5},
    )
    return celery


class TaskQueue:
    """Puts messages on Celery's queues.  Every method raises `kombu.exceptions.OperationalError` when Redis is away."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def close(self) -> None:
        """Give the connections back."""
        self._celery.close()

    def refresh(self, user_ids: Sequence[str]) -> None:
        """Have these users (1 to 500) read anew, ahead of all bulk work."""
        self._send(EVENTS_QUEUE, REFRESH, list(user_ids))

    def refresh_alone(self, user_id: str, queue: str) -> None:
        """Have a user read anew, over whom a worker may have died."""
        self._send(queue, REFRESH_ALONE, user_id)

    def refresh_page(self) -> None:
        """Have the next page of bulk work done."""
        self._send(BULK_QUEUE, REFRESH_PAGE)

    def refresh_asked(self, user_id: str, request_id: str) -> None:
        """Have a user marked and read anew because somebody asks for it; see `shared.requests`."""
        self._send(EVENTS_QUEUE, REFRESH_ASKED, user_id, request_id)

    def sweep(self, cause: str) -> None:
        """Have the bucket compared with what is published; `cause` is shown to the operator."""
        self._send(BULK_QUEUE, SWEEP, cause)

    def unpack(self, key: str) -> None:
        """Have the bundle under this key looked at."""
        self._send(BULK_QUEUE, UNPACK, key)

    def rebuild(self, task_id: str) -> None:
        """Have the rebuild of this id started or resumed."""
        self._send(BULK_QUEUE, REBUILD, task_id)

    def _send(self, queue: str, task: str, *arguments: object) -> None:
        self._celery.send_task(task, arguments, queue=queue)
