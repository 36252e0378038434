"""A progress bar for work that may take long."""

import time
from collections.abc import Callable
from typing import TextIO

from shared.text import format_count


class ProgressBar:
    """Progress output: a bar on a terminal, elsewhere a line every ten seconds.

    `noun` names one of what is counted. `total` may change from call to call.
    """

    def __init__(
        self,
        total: int,
        out: TextIO,
        clock: Callable[[], float] = time.monotonic,
        noun: str = "file",
    ) -> None:
        self._total = total
        self._out = out
        self._clock = clock
        self._noun = noun
        self._started_at = clock()
        # A terminal shows the bar immediately; a log gets its first line after ten seconds.
        self._reported_at = self._started_at if not out.isatty() else float("-inf")
        self._last: tuple[int, int] | None = None

    def __call__(self, done: int, total: int | None = None) -> None:
        """Report how many are done, and a new total if it has changed."""
        if total is not None:
            self._total = total
        now = self._clock()
        is_terminal = self._out.isatty()
        interval_s = 0.1 if is_terminal else 10
        is_early = now - self._reported_at < interval_s and done < self._total
        if is_early or (done, self._total) == self._last:
            return
        self._last = (done, self._total)
        self._reported_at = now
        filled_width = 30 * done // max(1, self._total)
        rate = done / max(now - self._started_at, 0.001)
        text = (
            f"[{'#' * filled_width}{'.' * (30 - filled_width)}] "
            f"{done:,} of {format_count(self._total, self._noun)}, {rate:,.0f} a second"
        )
        self._out.write(f"\r\x1b[K{text}" if is_terminal else f"{text}\n")
        if done >= self._total and is_terminal:
            self._out.write("\n")
        self._out.flush()
