"""File locks between processes.  The kernel releases a lock when its holder dies."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def try_lock(file: IO[str]) -> bool:
    """Try to acquire the lock on this open file, without waiting.  Return whether it was acquired.

    The lock is held until the file is closed.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def lock(path: Path, waiting: Callable[[float], None]) -> Iterator[None]:
    """Hold the lock on `path` during the `with` block.

    While another process holds it, retry once a second and call `waiting` with the seconds waited.
    """
    started = time.monotonic()
    # The file is never deleted: with a new file, two processes could hold the lock.
    with path.open("a") as file:
        while not try_lock(file):
            waiting(time.monotonic() - started)
            time.sleep(1)
        yield
