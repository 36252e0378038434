"""The dependencies of the API for tests that run the application without further servers."""

import time
from collections.abc import Callable

from redis import Redis

from api.app import Parts
from api.figures import CAUSES
from api.presence import Presence
from api.refreshes import RefreshDesk
from api.tasks import RebuildDesk
from api.transfers import Transfers
from api.view import View
from api.waiting import Waiting
from shared.object_store import FileStore
from shared.rebuilds import Rebuilds
from shared.requests import Requests
from shared.task_queue import TaskQueue
from shared.unpacks import Unpacks
from tests.fakes import FakeObjectStore, FakeTaskQueue

MOST_UPLOAD_BYTES = 3_000_000


def dirty(**counts: int) -> dict[str, int]:
    """Return the number of dirty users by cause, 0 for each cause that is not given."""
    return dict.fromkeys(CAUSES, 0) | counts


def api_parts(
    redis: "Redis",
    view: Callable[[], View] = View,
    files: FileStore | None = None,
    copies: FileStore | None = None,
    queue: TaskQueue | None = None,
    clock: Callable[[], float] = time.time,
) -> Parts:
    """Return the dependencies of the application.

    The defaults of `files` and `copies` are empty in-memory buckets. The default of `queue` is a
    fake queue, which no Celery worker reads.
    """
    waiting, tasks = Waiting(Presence(redis), 2), queue or FakeTaskQueue(redis)
    store, output = files or FakeObjectStore("src-data", clock), copies or FakeObjectStore("processed-data", clock)
    return Parts(
        current=view,
        rebuilds=RebuildDesk(Rebuilds(redis), tasks.rebuild, waiting, clock),
        refreshes=RefreshDesk(Requests(redis), tasks.refresh_asked, waiting),
        transfers=Transfers(store.bucket, lambda: store),
        copies=Transfers(output.bucket, lambda: output),
        unpacks=Unpacks(redis),
        max_upload_bytes=MOST_UPLOAD_BYTES,
        sweep_interval_s=3600,
    )
