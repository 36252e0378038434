"""Hold repeated work to a share of the time.  Pure: the clock is an argument."""

import math
from collections.abc import Callable


class Pace:
    """A bucket of seconds of work: `share` of a second flows in every second, up to `burst_s`; work takes out.

    So work on an idle system begins at once, and what goes on and on gets `share` of the time, whatever the length of
    its pieces; but no piece waits for longer than `longest_wait_s`, whatever went before.  `clock` gives seconds that
    only grow.  Not for several threads.
    """

    def __init__(
        self, share: float, burst_s: float, clock: Callable[[], float], longest_wait_s: float = math.inf
    ) -> None:
        if not (0 < share <= 1 and burst_s >= 0):
            raise ValueError("share must be above 0 and at most 1, burst_s not negative")
        self._share, self._burst_s, self._clock = share, burst_s, clock
        self._left_s, self._at, self._least_s = burst_s, clock(), -longest_wait_s * share

    def wait_s(self) -> float:
        """Seconds until the next piece of work may begin; 0 for at once."""
        self._flow_in(self._clock())
        return max(0.0, -self._left_s / self._share)

    def spent(self, seconds: float) -> None:
        """Take out what a piece of work took that has just ended."""
        now = self._clock()
        # What flows in during the work pays for the work, so the brim counts at its beginning.
        self._flow_in(max(self._at, now - seconds))
        self._left_s -= seconds
        self._flow_in(now)
        self._left_s = max(self._left_s, self._least_s)

    def _flow_in(self, now: float) -> None:
        self._left_s = min(self._burst_s, self._left_s + (now - self._at) * self._share)
        self._at = now
