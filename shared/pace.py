"""Throttle repeated work to a share of the time. Pure: the clock is an argument."""

import math
from collections.abc import Callable


class Pace:
    """A token bucket that limits the duty cycle of work; its unit is seconds of work.

    The bucket is refilled by `share` seconds per second, up to `burst_s`, and debited by the
    duration of each piece of work. Work on an idle system therefore begins immediately, and
    continuous work gets `share` of the time, independent of the length of its pieces. No piece
    waits longer than `longest_wait_s`, however large the deficit is. `clock` returns monotonic
    seconds. Not thread-safe.
    """

    def __init__(
        self, share: float, burst_s: float, clock: Callable[[], float], longest_wait_s: float = math.inf
    ) -> None:
        if not (0 < share <= 1 and burst_s >= 0):
            raise ValueError("share must be above 0 and at most 1, and burst_s must not be negative")
        self._share, self._burst_s, self._clock = share, burst_s, clock
        self._left_s, self._at, self._least_s = burst_s, clock(), -longest_wait_s * share

    def wait_s(self) -> float:
        """Return the seconds until the next piece of work may begin; 0 means now."""
        self._flow_in(self._clock())
        return max(0.0, -self._left_s / self._share)

    def spent(self, seconds: float) -> None:
        """Debit the duration of a piece of work that has just ended."""
        now = self._clock()
        # Credit the refill before the debit: the bucket's cap applies at the start of the work.
        self._flow_in(max(self._at, now - seconds))
        self._left_s -= seconds
        self._flow_in(now)
        self._left_s = max(self._left_s, self._least_s)

    def _flow_in(self, now: float) -> None:
        self._left_s = min(self._burst_s, self._left_s + (now - self._at) * self._share)
        self._at = now
