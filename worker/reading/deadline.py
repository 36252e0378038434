"""A deadline that kills the process even if it hangs in C code or holds the GIL.

Celery's time limits have no effect in the solo pool, which the workers of single drops use. This
deadline is a timer of the kernel: SIGALRM, which kills the process by default. `faulthandler` first
writes the stack of every thread to stderr: names of functions, no data. Supervisor (in containers:
Docker) restarts the process, and the watchdog isolates the users that it was reading.
"""

import faulthandler
import os
import signal
from types import TracebackType

DEADLINE_S = 90.0
"""Seconds for one read of up to 1,000 users.

A read ends before that even if no server answers: see `worker.reading.parallel.MAX_READ_S` and the
timeouts of the clients, 15 seconds per request.
"""


class Deadline:
    """Context manager that kills the process if its block takes longer than `seconds`.

    A process has one such timer, so it may enter one block at a time.
    """

    def __init__(self, seconds: float = DEADLINE_S) -> None:
        self._seconds = seconds
        self._pid = 0

    def __enter__(self) -> None:
        """Start the timer."""
        if self._pid != os.getpid():
            # Registered here and not before the fork: Celery resets the signal handlers in the
            # children of a prefork pool. After the dump, `chain` runs the default action: a kill.
            faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
            self._pid = os.getpid()
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the timer."""
        signal.setitimer(signal.ITIMER_REAL, 0)
