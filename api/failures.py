"""Count refusals per peer address, to bound the log and to slow clients that guess tokens.

The delay only costs the client time: a 429 also means that the token was wrong.  What keeps tokens
from being guessed is their length.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

WINDOW_S = 60.0
MAX_FAILURES = 10
"""Failed tokens (and log lines about refusals) from one address within a window."""
DELAY_S = 1.0
MAX_DELAYED = 1
"""Requests of one process that are delayed at a time: each of them holds a thread."""
MAX_ADDRESSES = 1_000


class _Window:
    """What one address has done since `began`."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.refusals = 0
        self.failed_tokens = 0


class FailureLimiter:
    """Thread-safe.  `clock` gives seconds; `sleep` blocks for seconds."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._free = threading.Semaphore(MAX_DELAYED)

    def count_refusal(self, address: str) -> int:
        """Count a refusal; return how many the address has had within this window."""
        with self._lock:
            window = self._window(address)
            window.refusals += 1
            return window.refusals

    def count_failed_token(self, address: str) -> int:
        """Count a failed token; return how many the address has sent within this window."""
        with self._lock:
            window = self._window(address)
            window.failed_tokens += 1
            return window.failed_tokens

    def delay(self) -> bool:
        """Block for `DELAY_S`; return False at once if too many requests are delayed already."""
        if not self._free.acquire(blocking=False):
            return False
        try:
            self._sleep(DELAY_S)
        finally:
            self._free.release()
        return True

    @property
    def address_count(self) -> int:
        """Return the number of addresses that are remembered."""
        return len(self._windows)

    def _window(self, address: str) -> _Window:
        now = self._clock()
        window = self._windows.get(address)
        if window is None or now - window.began >= WINDOW_S:
            window = _Window(now)
            self._windows[address] = window
        self._windows.move_to_end(address)
        if len(self._windows) > MAX_ADDRESSES:
            self._windows.popitem(last=False)
        return window
