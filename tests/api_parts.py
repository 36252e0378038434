"""The dependencies of the API for tests that run the application without further servers."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from falcon.testing import ASGIConductor, Result, TestClient
from redis import Redis

from api.app import Dependencies
from api.controllers.completion_waiter import CompletionWaiter
from api.controllers.event_controller import EventController
from api.controllers.rebuild_controller import RebuildController
from api.controllers.refresh_controller import RefreshController
from api.snapshot.process_registry import ProcessRegistry
from api.snapshot.view import View
from api.web.thread_pool import ThreadPool
from api.web.transfers import Transfers
from shared.object_store import FileStore
from shared.progress.rebuilds import Rebuilds, RefreshRequests
from shared.progress.receipts import Receipts
from shared.progress.sweep_record import SweepRecord
from shared.progress.unpacks import Unpacks
from shared.redis_keys import CAUSES
from shared.task_queue import TaskQueue
from tests.fakes import FakeObjectStore, FakeTaskQueue

MAX_UPLOAD_BYTES = 3_000_000


class ApiClient(TestClient):
    """A client of the application, for which the headers of a test take precedence.

    For ASGI, falcon adds its own `Host` and `Content-Length` to those that a test sends.
    """

    def __init__(self, app: Any, headers: Mapping[str, str] | None = None) -> None:  # noqa: ANN401
        async def drop_added_headers(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
            if "headers" in scope:
                pairs = [tuple(pair) for pair in scope["headers"]]
                names = [name for name, _ in pairs]
                added = {b"host", b"content-length"}
                scope["headers"] = [
                    pair
                    for number, pair in enumerate(pairs)
                    if pair[0] not in added or pair[0] not in names[:number]
                ]
            await app(scope, receive, send)

        super().__init__(drop_added_headers, headers)
        self.api = app
        self._sent_headers = headers

    def simulate_request(self, *args: Any, **kwargs: Any) -> Result:  # noqa: ANN401
        """Send a request; in a thread, by an event loop of its own."""
        if threading.current_thread() is threading.main_thread():
            return super().simulate_request(*args, **kwargs)

        async def send() -> Result:
            async with ASGIConductor(self.app, self._sent_headers) as conductor:
                result: Result = await conductor.simulate_request(*args, **kwargs)
            return result

        return asyncio.run(send())


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
    compute_pool = ThreadPool("computation", 2, 5.0)
    redis_pool = ThreadPool("Redis", 8, 5.0)
    waiter = CompletionWaiter(ProcessRegistry(redis), 2, redis_pool)
    tasks = queue or FakeTaskQueue(redis)
    store = files or FakeObjectStore("src-data", clock)
    output = copies or FakeObjectStore("processed-data", clock)
    rebuilds = Rebuilds(redis)
    return Dependencies(
        get_view=view,
        rebuild_controller=RebuildController(rebuilds, tasks.rebuild, waiter, clock, redis_pool),
        refresh_controller=RefreshController(
            RefreshRequests(redis), tasks.refresh_requested, waiter, redis_pool
        ),
        event_controller=EventController(redis, store.bucket, compute_pool, redis_pool),
        waiter=waiter,
        source_transfers=Transfers(store.bucket, lambda: store, redis_pool),
        copy_transfers=Transfers(output.bucket, lambda: output, redis_pool),
        rebuilds=rebuilds,
        unpacks=Unpacks(redis),
        sweeps=SweepRecord(redis),
        receipts=Receipts(redis),
        compute_pool=compute_pool,
        redis_pool=redis_pool,
        max_upload_bytes=MAX_UPLOAD_BYTES,
        sweep_interval_s=3600,
        is_stopping=lambda: True,  # a stream ends immediately
    )
