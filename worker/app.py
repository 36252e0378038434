"""The workers: `python -m worker.app NAME…` with the names `events`, `events-2` and `bulk`.

They do not start by Celery's command line, which imports all its commands and Flower: 15 MB in each
process.
"""

import socket
import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib import import_module

from shared import logs
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, SWEEP
from worker.heartbeat import Heartbeat
from worker.reading.deadline import Deadline
from worker.services.clients import ServerClients
from worker.services.container import Services, freeze_gc
from worker.services.forked_processes import ForkedProcesses
from worker.sweep_clock import SweepClock
from worker.tasks import create_app

BULK = "bulk"
"""The name of the worker of the queue `bulk`; all other names are of event workers."""
BULK_PROCESSES = 2
"""Two, so that pages are read while a sweep runs."""
MAX_PROCESS_KB = 120_000
"""A process of the bulk worker that has used more, after a sweep or a bundle, ends after its task.

The fork that replaces it shares the parent's memory again.
"""
LATE_IMPORTS = (
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.concurrency.solo",
    "celery.events.state",
    "celery.worker.autoscale",
    "celery.worker.consumer",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.pidbox",
    "celery.worker.strategy",
    "kombu.transport.redis",
)
"""Modules that Celery imports when a worker starts."""
BULK_IMPORTS = (
    "celery.concurrency.prefork",
    "minio",
    "pyarrow.pandas_compat",
    "worker.jobs.rebuild",
    "worker.jobs.sweep",
    "worker.jobs.unpacker",
    "worker.source.metrics",
)
"""Modules that are imported by the first bulk tasks."""

settings = Settings.from_environment()
logs.configure_logging(settings.log_level)
Heartbeat(settings.progress_file).follow_celery()
# `cache`: one set of parts per process, created on first use, after the fork.
app = create_app(settings, cache(lambda: Services(ServerClients(settings), Deadline())))


def main(names: Sequence[str]) -> None:
    """Run a worker per name until SIGTERM.

    They are forked from this process, so that they share the memory of what it imports. With two
    event workers, events are still processed while one of them hangs on a file.
    """
    for module in (*LATE_IMPORTS, *(BULK_IMPORTS if BULK in names else ())):
        import_module(module)
    app.finalize()
    # A collection in a forked process would write to all objects, and so copy their memory.
    freeze_gc()
    if len(names) == 1:
        run_worker(names[0])
    else:
        ForkedProcesses({name: partial(run_worker, name) for name in names}).run_until_stopped()


def run_worker(name: str) -> None:
    """Run a worker in this process until it is stopped, and exit with its status."""
    is_bulk = name == BULK
    if is_bulk:
        SweepClock(_enqueue_sweep, settings.sweep_interval_s).follow_celery()
    worker = app.Worker(
        hostname=f"{name}@{socket.gethostname()}",
        queues=BULK_QUEUE if is_bulk else EVENTS_QUEUE,
        pool_cls="prefork" if is_bulk else "solo",
        concurrency=BULK_PROCESSES if is_bulk else 1,
        max_memory_per_child=MAX_PROCESS_KB,
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


def _enqueue_sweep() -> None:
    app.send_task(SWEEP, ("schedule",), queue=BULK_QUEUE, expires=settings.sweep_interval_s)


if __name__ == "__main__":
    main(sys.argv[1:])
