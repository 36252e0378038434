"""The Celery tasks.  Each only translates a message into a call: a message names users, what is there is read now.

A failure of a server is tried again with growing pauses; when that ends, the users are still dirty, and the watch
enqueues them anew.
"""

from functools import cache
from typing import Any

from celery import Task, shared_task
from celery.signals import worker_process_init
from redis.exceptions import RedisError

from shared.object_store import StoreUnavailable
from shared.task_queue import REBUILD, REFRESH, REFRESH_PAGE, SWEEP
from worker.wiring import Wiring

RETRIED: dict[str, Any] = {
    "autoretry_for": (StoreUnavailable, RedisError),
    "retry_backoff": 1,
    "retry_backoff_max": 30,
    "retry_jitter": True,
    "max_retries": 8,
}
LONG: dict[str, Any] = {"time_limit": 3600, "soft_time_limit": 3500}
"""Of tasks that hold a lease: a second delivery while the first one works finds that, and leaves."""


@cache
def wiring() -> Wiring:
    """The parts of this process."""
    return Wiring.from_environment()


@worker_process_init.connect
def prepare(**_: object) -> None:
    """Make the parts before the first task, and after the fork of a prefork pool; no server is asked for anything."""
    wiring().settle()


@shared_task(name=REFRESH, **RETRIED)
def refresh(user_ids: list[str]) -> None:
    """Read these users' files and stage what they say."""
    wiring().refresher.refresh(user_ids)


@shared_task(name=REFRESH_PAGE, **RETRIED)
def refresh_page() -> None:
    """Do the next page of a sweep or rebuild."""
    wiring().bulk.next_page()


@shared_task(name=SWEEP, **LONG, **RETRIED)
def sweep(cause: str) -> None:
    """Compare the bucket with what is published."""
    wiring().sweep.run(cause)


class RebuildTask(Task):  # type: ignore[type-arg]
    """A task whose record says so when it was tried in vain."""

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ANN401
        """Celery calls this after the last try."""
        wiring().rebuild.give_up(args[0], str(exc))


@shared_task(name=REBUILD, base=RebuildTask, **LONG, **RETRIED)
def rebuild(task_id: str) -> None:
    """Begin a full rebuild, or go on with one."""
    wiring().rebuild.start(task_id)
