"""When the watchdog requests a sweep."""

from collections.abc import Callable

from shared.progress.sweep_record import SweepRecord
from shared.task_queue import TaskQueue
from worker.state.loss_signals import FIRST_START, LossSignals

UNMONITORED_SWEEP_S = 300
"""Seconds between sweeps if MinIO's metrics cannot show whether it lost events."""


class SweepSchedule:
    """Requests a sweep after a loss signal, or if the last sweep is overdue.

    `is_unmonitored` returns whether lost events would not be detected at present.
    """

    def __init__(
        self,
        loss_signals: LossSignals,
        sweeps: SweepRecord,
        tasks: TaskQueue,
        interval_s: float,
        is_unmonitored: Callable[[], bool],
    ) -> None:
        self._loss_signals = loss_signals
        self._sweeps = sweeps
        self._tasks = tasks
        self._interval_s = interval_s
        self._is_unmonitored = is_unmonitored

    def tick(self, now: float) -> None:
        """Request a sweep on a loss signal, or if the last one is overdue.

        The bulk worker requests the regular sweeps. One counts as overdue after two intervals, or
        after `UNMONITORED_SWEEP_S` if lost events would not be detected otherwise.
        """
        trust_state = self._loss_signals.trust_state()
        last_sweep_at = float(self._sweeps.get_field("at") or 0)
        max_interval_s: float = 2 * self._interval_s
        if self._is_unmonitored():
            max_interval_s = min(UNMONITORED_SWEEP_S, max_interval_s)
        if trust_state is None or not trust_state.is_verified:
            if not self._sweeps.is_running():
                default_cause = "start" if trust_state is None else "the last sweep did not finish"
                kinds = self._loss_signals.unresolved() - {FIRST_START}
                self._sweeps.request(self._tasks, ", ".join(sorted(kinds)) or default_cause)
        elif now - last_sweep_at > max_interval_s:
            self._sweeps.request(self._tasks, "overdue")
