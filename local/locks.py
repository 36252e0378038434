"""Locks between processes, by files; the kernel drops them when their holder dies."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def try_lock(file: IO[str]) -> bool:
    """Whether the lock on this open file is ours now.  It is until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def lock(path: Path, waiting: Callable[[float], None]) -> Iterator[None]:
    """Hold the lock on `path`; until it is free call `waiting` once a second, with the seconds waited."""
    started = time.monotonic()
    with path.open("a") as file:
        while not try_lock(file):
            waiting(time.monotonic() - started)
            time.sleep(1)
        yield
