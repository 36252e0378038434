"""The dependencies of the API for tests that run the application without further servers."""

import time
from collections.abc import Callable

from redis import Redis

from api.app import Dependencies
from api.presence import ProcessRegistry
from api.refreshes import RefreshController
from api.tasks import RebuildController
from api.transfers import Transfers
from api.view import View
from api.waiting import CompletionWaiter
from shared.object_store import FileStore
from shared.rebuilds import Rebuilds
from shared.redis_keys import CAUSES
from shared.requests import RefreshRequests
from shared.task_queue import TaskQueue
from shared.unpacks import Unpacks
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
    waiter, tasks = CompletionWaiter(ProcessRegistry(redis), 2), queue or FakeTaskQueue(redis)
    store, output = files or FakeObjectStore("src-data", clock), copies or FakeObjectStore("processed-data", clock)
    return Dependencies(
        get_view=view,
        rebuild_controller=RebuildController(Rebuilds(redis), tasks.rebuild, waiter, clock),
        refresh_controller=RefreshController(RefreshRequests(redis), tasks.refresh_requested, waiter),
        source_transfers=Transfers(store.bucket, lambda: store),
        copy_transfers=Transfers(output.bucket, lambda: output),
        unpacks=Unpacks(redis),
        max_upload_bytes=MAX_UPLOAD_BYTES,
        sweep_interval_s=3600,
    )
