"""Throttling per peer address: limit the log lines, and slow down clients that guess tokens.

The delay only costs the client time, because a 429 also means that the token is wrong. What
protects the tokens against guessing is their length.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

FAILURE_WINDOW_S = 60.0
"""Seconds after which the counters of an address restart at zero."""
MAX_FAILURES = 10
"""Limit of undelayed failed tokens, and of logged refusals, per address and window."""
FAILED_TOKEN_DELAY_S = 1.0
"""Seconds by which the response to a failed token is delayed."""
MAX_DELAYED_REQUESTS = 1
"""Limit of concurrently delayed requests in one process: each of them occupies a connection."""
MAX_ADDRESSES = 1_000
"""Limit of addresses with counters in one process."""


class _FailureWindow:
    """Counters of one address since `started_at`, in seconds of the clock."""

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.refusals = 0
        self.failed_tokens = 0


class FailureLimiter:
    """Counters of refusals and failed tokens per address.

    `clock` returns seconds of a monotonic clock. `sleep` waits for the given seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._windows: OrderedDict[str, _FailureWindow] = OrderedDict()
        self._delayed_count = 0

    def count_refusal(self, address: str) -> int:
        """Count a refusal; return the number of refusals of the address in this window."""
        window = self._get_window(address)
        window.refusals += 1
        return window.refusals

    def count_failed_token(self, address: str) -> int:
        """Count a failed token; return the number of those of the address in this window."""
        window = self._get_window(address)
        window.failed_tokens += 1
        return window.failed_tokens

    async def delay_response(self) -> bool:
        """Wait for `FAILED_TOKEN_DELAY_S` and return True.

        Return False immediately if `MAX_DELAYED_REQUESTS` requests are delayed already.
        """
        if self._delayed_count >= MAX_DELAYED_REQUESTS:
            return False
        self._delayed_count += 1
        try:
            await self._sleep(FAILED_TOKEN_DELAY_S)
        finally:
            self._delayed_count -= 1
        return True

    @property
    def address_count(self) -> int:
        """The number of addresses with counters."""
        return len(self._windows)

    def _get_window(self, address: str) -> _FailureWindow:
        now = self._clock()
        window = self._windows.get(address)
        if window is None or now - window.started_at >= FAILURE_WINDOW_S:
            window = _FailureWindow(now)
            self._windows[address] = window
        self._windows.move_to_end(address)
        # Evict the least recently seen address: many addresses must not fill the memory.
        if len(self._windows) > MAX_ADDRESSES:
            self._windows.popitem(last=False)
        return window
