"""Request a sweep or a rebuild, which the running workers do, and wait until it is done."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.progress.pipeline_status import LastSweep, read_pipeline_status
from shared.progress.rebuilds import Rebuilds, RebuildStatus
from shared.progress.sweep_record import SweepRecord
from shared.task_queue import TaskQueue

if TYPE_CHECKING:
    from worker.services.clients import ServerClients

POLL_INTERVAL_S = 0.2
REQUEST_RETRY_S = 30.0
"""Seconds after which a sweep is requested again if it is neither enqueued nor running."""

ProgressCallback = Callable[[int, int], None]
"""Takes the number of users that are done, and of all users."""


class RecordLost(Exception):
    """Redis does not have the record of a rebuild any more."""


def request_sweep(record: SweepRecord, tasks: TaskQueue) -> None:
    """Enqueue a sweep, unless one is enqueued already."""
    record.request(tasks, "by hand")


def run_sweep(clients: "ServerClients", on_progress: ProgressCallback) -> LastSweep:
    """Request a sweep, and return its record when all users that it marked are published.

    Raises `RedisError`, and `kombu.exceptions.OperationalError`.
    """
    record = SweepRecord(clients.redis)
    # A request during a sweep may be consumed without effect, as only one sweep runs at a time.
    while record.is_running():
        time.sleep(POLL_INTERVAL_S)
    previous = record.get_field("at")
    request_sweep(record, clients.tasks)
    retry_at = time.monotonic() + REQUEST_RETRY_S
    while record.get_field("at") == previous:
        is_pending = record.is_requested() or record.is_running()
        if not is_pending and time.monotonic() > retry_at:
            request_sweep(record, clients.tasks)
            retry_at = time.monotonic() + REQUEST_RETRY_S
        time.sleep(POLL_INTERVAL_S)
    while True:
        status = read_pipeline_status(clients.redis)
        # The record exists since `at` changed, unless Redis was emptied in between.
        sweep = status.last_sweep or LastSweep(time.time(), "", 0, 0)
        waiting = status.dirty_counts["sweep"]
        on_progress(max(0, sweep.marked_count - waiting), sweep.marked_count)
        if not waiting:
            return sweep
        time.sleep(POLL_INTERVAL_S)


def request_rebuild(rebuilds: Rebuilds, tasks: TaskQueue) -> str:
    """Enqueue a rebuild, unless one is enqueued already, and return its ID."""
    task_id, is_new = rebuilds.request(time.time())
    if is_new:
        tasks.rebuild(task_id)
    return task_id


def wait_for_rebuild(
    rebuilds: Rebuilds, task_id: str, on_progress: ProgressCallback
) -> RebuildStatus:
    """Return the record of a rebuild when it is done or has failed. Raises `RecordLost`."""
    while True:
        status = read_rebuild(rebuilds, task_id)
        if status.total is not None:
            on_progress(status.done, status.total)
        if status.state not in {"queued", "running"}:
            return status
        time.sleep(POLL_INTERVAL_S)


def read_rebuild(rebuilds: Rebuilds, task_id: str) -> RebuildStatus:
    """Return the record of a rebuild. Raises `RecordLost`."""
    status = rebuilds.status(task_id)
    if status is None:
        raise RecordLost(
            f"Redis has no record of the rebuild {task_id} any more; request a new one."
        )
    return status
