"""A deadline that also ends a process which hangs in C code, or holds the interpreter's lock.

Celery's time limits do not hold in the solo pool, which the workers of single drops run in.  This one is a timer of the
kernel: SIGALRM, whose default is to end the process.  `faulthandler` writes first where every thread stands: names of
functions, and no data.  Supervisor starts the process anew, and the watch sets apart whom it was reading.
"""

import faulthandler
import os
import signal
from types import TracebackType

DEADLINE_S = 90.0
"""For one reading of up to 1,000 users.  It ends by itself before that, even if no server answers any more: see
`worker.refresh.READ_S`, and the time-outs of the clients, 15 seconds a request."""


class Deadline:
    """`with deadline:` ends the process if the block takes longer than `seconds`.  One block at a time in a process."""

    def __init__(self, seconds: float = DEADLINE_S) -> None:
        self._seconds, self._pid = seconds, 0

    def __enter__(self) -> None:
        """Start the timer."""
        if self._pid != os.getpid():
            # Here and not before a fork: the children of a prefork pool have their signals set anew.
            faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
            self._pid = os.getpid()
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop it."""
        signal.setitimer(signal.ITIMER_REAL, 0)
