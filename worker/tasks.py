"""The Celery application and its tasks.

Each task only translates a message into one call. A message names users; the task reads what is in
the buckets now. If a server is unavailable, the task is retried with exponential backoff. After the
last retry the users are still dirty, and the watchdog enqueues them again.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.signals import worker_process_init
from redis.exceptions import RedisError

from shared.formats.source_keys import explain_unusable_name, make_csv_key
from shared.object_store import StoreUnavailable
from shared.settings import Settings
from shared.task_queue import (
    REBUILD,
    REFRESH,
    REFRESH_ISOLATED,
    REFRESH_PAGE,
    REFRESH_REQUESTED,
    SWEEP,
    UNPACK,
    create_celery,
)
from worker.services.container import Services, freeze_gc

logger = logging.getLogger(__name__)

# The retries take about two minutes at most; then the watchdog takes over.
RETRY_OPTIONS: dict[str, Any] = {
    "autoretry_for": (StoreUnavailable, RedisError),
    "retry_backoff": 1,
    "retry_backoff_max": 30,
    "retry_jitter": True,
    "max_retries": 8,
}
LONG_TASK_OPTIONS: dict[str, Any] = {"time_limit": 3600, "soft_time_limit": 3500}
"""Time limits in seconds of tasks that hold a lease.

The broker may redeliver such a message while the task runs: the second delivery finds the lease
held and returns.
"""
_APP_OPTIONS: dict[str, Any] = {"shared": False}
"""Registers a task with this application only, not with every Celery application in the process."""


def create_app(settings: Settings, get_services: Callable[[], Services]) -> Celery:
    """Create the workers' Celery application with its tasks.

    `get_services` returns the parts of this process, the same object at each call.
    """
    celery = create_celery(settings.redis_url)
    _add_tasks(celery, get_services)
    return celery


def _add_tasks(celery: Celery, get_services: Callable[[], Services]) -> None:
    def freeze_after_fork(**_: object) -> None:
        # Runs after the fork of a prefork pool and before the first task. It sends no request.
        get_services()
        freeze_gc()

    worker_process_init.connect(freeze_after_fork, weak=False)

    @celery.task(name=REFRESH, **RETRY_OPTIONS, **_APP_OPTIONS)
    def refresh(user_ids: list[str]) -> None:
        """Read these users' files and submit the results."""
        get_services().refresher.refresh(user_ids)

    @celery.task(name=REFRESH_ISOLATED, **RETRY_OPTIONS, **_APP_OPTIONS)
    def refresh_isolated(user_id: str) -> None:
        """Read one user in isolation, because its file may have killed a worker."""
        get_services().isolated_reads.refresh_isolated(user_id)

    @celery.task(name=REFRESH_REQUESTED, **RETRY_OPTIONS, **_APP_OPTIONS)
    def refresh_requested(user_id: str, request_id: str) -> None:
        """Mark one user on request (POST /data/{user_id}) and read its files."""
        if explain_unusable_name(make_csv_key(user_id)):
            # The API sends no such ID. No file of a user has such a name: the user would stay
            # dirty.
            logger.warning("ignoring a message for a user ID that no file can have: %.80r", user_id)
            return
        services = get_services()
        services.state.users.mark([user_id], "event", time.time())
        services.records.refresh_requests.record_marked(request_id)
        # A plain read, unless the user is in isolation.
        services.isolated_reads.refresh_isolated(user_id)

    @celery.task(name=REFRESH_PAGE, **RETRY_OPTIONS, **_APP_OPTIONS)
    def refresh_page() -> None:
        """Read the next page of a sweep or rebuild."""
        get_services().bulk_reads.read_next_page()

    @celery.task(name=SWEEP, **LONG_TASK_OPTIONS, **RETRY_OPTIONS, **_APP_OPTIONS)
    def sweep(cause: str) -> None:
        """Compare the source bucket with the published files."""
        get_services().sweep.run(cause)

    @celery.task(name=UNPACK, **LONG_TASK_OPTIONS, **RETRY_OPTIONS, **_APP_OPTIONS)
    def unpack(key: str) -> None:
        """Read the current version of a bundle: unpack it, reject it, or remove it."""
        get_services().unpacker.run(key)

    class RebuildTask(Task):  # type: ignore[type-arg]
        """A task that records the rebuild as failed after the last retry."""

        def on_failure(
            self,
            exc: Exception,
            task_id: str,
            args: Any,  # noqa: ANN401
            kwargs: Any,  # noqa: ANN401
            einfo: Any,  # noqa: ANN401
        ) -> None:
            """Record the failure.

            Celery calls this after the last retry.
            """
            get_services().rebuild.fail(args[0], str(exc))

    @celery.task(
        name=REBUILD, base=RebuildTask, **LONG_TASK_OPTIONS, **RETRY_OPTIONS, **_APP_OPTIONS
    )
    def rebuild(task_id: str) -> None:
        """Start a full rebuild, or resume an interrupted one."""
        get_services().rebuild.start(task_id)
