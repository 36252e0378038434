"""File locks between processes.  The kernel releases a lock when its holder dies."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def try_lock_file(file: IO[str]) -> bool:
    """Try to acquire the lock on this open file, without waiting.  Return whether it was acquired.

    The lock is held until the file is closed.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def lock_path(path: Path, on_wait: Callable[[float], None]) -> Iterator[None]:
    """Hold the lock on `path` during the `with` block.

    While another process holds it, retry once a second and call `on_wait` with the seconds waited.
    """
    started_at = time.monotonic()
    # The file is never deleted: with a new file, two processes could hold the lock.
    with path.open("a") as file:
        while not try_lock_file(file):
            on_wait(time.monotonic() - started_at)
            time.sleep(1)
        yield
