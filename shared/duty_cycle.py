"""Throttle repeated work to a share of the time. Pure: the clock is an argument."""

import math
from collections.abc import Callable


class DutyCycle:
    """A token bucket that limits the duty cycle of work; its unit is seconds of work.

    The bucket is refilled by `fraction` seconds per second, up to `burst_s`, and debited by the
    duration of each piece of work. Work on an idle system therefore begins immediately, and
    continuous work gets `fraction` of the time, independent of the length of its pieces. No piece
    waits longer than `max_wait_s`, however large the deficit is. `clock` returns monotonic
    seconds. Not thread-safe. Raises `ValueError` for a fraction or burst out of range.
    """

    def __init__(
        self,
        fraction: float,
        burst_s: float,
        clock: Callable[[], float],
        max_wait_s: float = math.inf,
    ) -> None:
        if not (0 < fraction <= 1 and burst_s >= 0):
            raise ValueError("fraction must be above 0 and at most 1, burst_s must be 0 or more")
        self._fraction = fraction
        self._burst_s = burst_s
        self._clock = clock
        self._balance_s = burst_s
        self._refilled_at = clock()
        # `compute_wait_s` returns `max_wait_s` for this deficit.
        self._min_balance_s = -max_wait_s * fraction

    def compute_wait_s(self) -> float:
        """Return the seconds until the next piece of work may begin; 0 means now."""
        self._refill(self._clock())
        return max(0.0, -self._balance_s / self._fraction)

    def charge(self, work_s: float) -> None:
        """Debit the duration of a piece of work that has just ended."""
        now = self._clock()
        # Credit the refill before the debit: the bucket's cap applies at the start of the work.
        self._refill(max(self._refilled_at, now - work_s))
        self._balance_s -= work_s
        self._refill(now)
        self._balance_s = max(self._balance_s, self._min_balance_s)

    def _refill(self, now: float) -> None:
        refill_s = (now - self._refilled_at) * self._fraction
        self._balance_s = min(self._burst_s, self._balance_s + refill_s)
        self._refilled_at = now
