"""The Celery application and its tasks.

Each task only translates a message into a call: a message names users, what is there is read now.
A failure of a server is tried again with growing pauses; when that ends, the users are still dirty, and the watch
enqueues them anew.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.signals import worker_process_init
from redis.exceptions import RedisError

from shared.keys import csv_key, refusal_of
from shared.object_store import StoreUnavailable
from shared.settings import Settings
from shared.task_queue import (
    BULK_QUEUE,
    REBUILD,
    REFRESH,
    REFRESH_ALONE,
    REFRESH_ASKED,
    REFRESH_PAGE,
    SWEEP,
    UNPACK,
    create_celery,
)
from worker.wiring import Wiring

logger = logging.getLogger(__name__)

RETRIED: dict[str, Any] = {
    "autoretry_for": (StoreUnavailable, RedisError),
    "retry_backoff": 1,
    "retry_backoff_max": 30,
    "retry_jitter": True,
    "max_retries": 8,
}
LONG: dict[str, Any] = {"time_limit": 3600, "soft_time_limit": 3500}
"""Of tasks that hold a lease: a second delivery while the first one works finds that, and leaves."""
_OURS: dict[str, Any] = {"shared": False}
"""Tasks of this application, and of no other in the process."""


def create_app(settings: Settings, wiring: Callable[[], Wiring]) -> Celery:
    """The application with its tasks.

    `wiring` returns the parts of this process, the same at each call.
    """
    celery = create_celery(settings.redis_url)
    _add_tasks(celery, wiring)
    return celery


def create_scheduler(settings: Settings) -> Celery:
    """Return the application of beat and Flower, with its one schedule: the sweep that needs no evidence."""
    celery = create_celery(settings.redis_url)
    # Flower consumes the workers' events: what it has not acknowledged must not be among the workers' messages.
    names = ("unacked_key", "unacked_index_key", "unacked_mutex_key")
    celery.conf.broker_transport_options |= {name: f"flower:{name}" for name in names}
    celery.conf.beat_schedule = {
        "sweep": {
            "task": SWEEP,
            "schedule": float(settings.sweep_interval_s),
            "args": ("schedule",),
            "options": {"queue": BULK_QUEUE, "expires": settings.sweep_interval_s},
        }
    }
    return celery


def _add_tasks(celery: Celery, wiring: Callable[[], Wiring]) -> None:
    def prepare(**_: object) -> None:
        # Before the first task, and after the fork of a prefork pool; no server is asked for anything.
        wiring().settle()

    worker_process_init.connect(prepare, weak=False)

    @celery.task(name=REFRESH, **RETRIED, **_OURS)
    def refresh(user_ids: list[str]) -> None:
        """Read these users' files and stage what they say."""
        wiring().refresher.refresh(user_ids)

    @celery.task(name=REFRESH_ALONE, **RETRIED, **_OURS)
    def refresh_alone(user_id: str) -> None:
        """The same for one over whom a worker may have died."""
        wiring().refresher.refresh_alone(user_id)

    @celery.task(name=REFRESH_ASKED, **RETRIED, **_OURS)
    def refresh_asked(user_id: str, request_id: str) -> None:
        """Mark a user of whom somebody asks it, and read the files."""
        if refusal_of(csv_key(user_id)):
            # The API asks for no such user.  Nobody could read it, and it would stay dirty.
            logger.warning("a message asks for a user that cannot be: %.80r; it is ignored", user_id)
            return
        parts = wiring()
        parts.backlog.mark([user_id], "event", time.time())
        parts.requests.note_marked(request_id)
        parts.refresher.refresh_alone(user_id)  # this user may be one to be read alone

    @celery.task(name=REFRESH_PAGE, **RETRIED, **_OURS)
    def refresh_page() -> None:
        """Do the next page of a sweep or rebuild."""
        wiring().bulk.next_page()

    @celery.task(name=SWEEP, **LONG, **RETRIED, **_OURS)
    def sweep(cause: str) -> None:
        """Compare the bucket with what is published."""
        wiring().sweep.run(cause)

    @celery.task(name=UNPACK, **LONG, **RETRIED, **_OURS)
    def unpack(key: str) -> None:
        """Look at a bundle."""
        wiring().unpacker.run(key)

    class RebuildTask(Task):  # type: ignore[type-arg]
        """A task whose record says so when it was tried in vain."""

        def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ANN401
            """Celery calls this after the last try."""
            wiring().rebuild.give_up(args[0], str(exc))

    @celery.task(name=REBUILD, base=RebuildTask, **LONG, **RETRIED, **_OURS)
    def rebuild(task_id: str) -> None:
        """Begin a full rebuild, or go on with one."""
        wiring().rebuild.start(task_id)
