"""The dependencies of the API for tests that run the application without further servers."""

import time
from collections.abc import Callable

from redis import Redis

from api.app import Dependencies
from api.controllers.completion_waiter import CompletionWaiter
from api.controllers.rebuild_controller import RebuildController
from api.controllers.refresh_controller import RefreshController
from api.snapshot.process_registry import ProcessRegistry
from api.snapshot.view import View
from api.web.transfers import Transfers
from shared.object_store import FileStore
from shared.progress.rebuilds import Rebuilds
from shared.progress.refresh_requests import RefreshRequests
from shared.progress.unpacks import Unpacks
from shared.redis_keys import CAUSES
from shared.task_queue import TaskQueue
from tests.fakes import FakeObjectStore, FakeTaskQueue

MAX_UPLOAD_BYTES = 3_000_000


def make_dirty_counts(**counts: int) -> dict[str, int]:
    """Return the number of dirty users by cause, 0 for each cause that is not given."""
    return dict.fromkeys(CAUSES, 0) | counts


def make_dependencies(
    redis: "Redis",
    view: Callable[[], View] = View,
    files: FileStore | None = None,
    copies: FileStore | None = None,
    queue: TaskQueue | None = None,
    clock: Callable[[], float] = time.time,
) -> Dependencies:
    """Return the dependencies of the application.

    The defaults of `files` and `copies` are empty in-memory buckets. The default of `queue` is a
    fake queue, which no Celery worker reads.
    """
    waiter = CompletionWaiter(ProcessRegistry(redis), 2)
    tasks = queue or FakeTaskQueue(redis)
    store = files or FakeObjectStore("src-data", clock)
    output = copies or FakeObjectStore("processed-data", clock)
    return Dependencies(
        get_view=view,
        rebuild_controller=RebuildController(Rebuilds(redis), tasks.rebuild, waiter, clock),
        refresh_controller=RefreshController(
            RefreshRequests(redis), tasks.refresh_requested, waiter
        ),
        source_transfers=Transfers(store.bucket, lambda: store),
        copy_transfers=Transfers(output.bucket, lambda: output),
        unpacks=Unpacks(redis),
        max_upload_bytes=MAX_UPLOAD_BYTES,
        sweep_interval_s=3600,
    )
