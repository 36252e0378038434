"""gunicorn configuration of the API.

The listening address comes from the command line (`--bind`).
"""

import asyncio
import ctypes
import gc
import os
import signal
from typing import Any

worker_class = "asgi"  # api/web/connections.py adds the limits that it does not have
workers = 2
asgi_lifespan = "off"
asgi_loop = "uvloop"
preload_app = True  # import before the fork, so that the workers share the libraries' memory
control_socket_disable = True
keepalive = 15
limit_request_line = 8190
limit_request_fields = 64
graceful_timeout = 5
accesslog = None
errorlog = "-"

# Bodies of several MB come and go.  By default Arrow and glibc keep what is freed: with 130 slow
# readers of different pages of 100,000 rows a process grew to 761 MB, with this to 423 MB.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
_libc = ctypes.CDLL(None)
_is_glibc = hasattr(_libc, "mallopt") and hasattr(_libc, "malloc_trim")
_M_MMAP_THRESHOLD = -3
if _is_glibc:
    _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
TRIM_INTERVAL_S = 5.0
"""Seconds after which a worker returns free memory to the system; it takes 0.2 to 9 ms."""

FIRST_POLL_TIMEOUT_S = 10.0
"""The maximum time in seconds that a new worker waits for its first check of output.csv."""


def when_ready(server: object) -> None:
    """Exclude everything imported before the forks from garbage collection.

    A collection writes to the objects' headers, and the workers would no longer share that memory.
    """
    gc.collect()
    gc.freeze()


def post_worker_init(worker: Any) -> None:  # noqa: ANN401
    """Start this worker's follower thread and connections, which would not survive a fork.

    The worker creates its server later, on the loop that is watched here.

    Waits for the first check of output.csv, so that a replacement worker accepts no request before
    it can serve rows.  With the timeout the worker also starts if MinIO hangs.
    """
    # Preloaded by now.  At the top of this file, the import would run when gunicorn reads its
    # settings, before it preloads the application.
    from api.asgi import connections, follower  # noqa: PLC0415

    def stop(*_: object) -> None:
        worker.alive = False

    # uvloop ignores signals until it runs, and the follower's first check may take seconds.
    signal.signal(signal.SIGTERM, stop)
    connections.watch(worker.loop, lambda: not worker.alive)
    if _is_glibc:
        _trim_memory(worker.loop)
    follower.start(FIRST_POLL_TIMEOUT_S)


def _trim_memory(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(TRIM_INTERVAL_S, _trim_memory, loop)
    _libc.malloc_trim(0)


def worker_exit(server: object, worker: object) -> None:
    """Stop the follower and unregister this process, so that no request waits for its snapshot."""
    from api.asgi import follower  # noqa: PLC0415

    follower.stop()
