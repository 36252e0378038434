"""When the watchdog requests a sweep."""

from collections.abc import Callable

from shared.progress.sweep_record import SweepRecord
from shared.task_queue import TaskQueue
from worker.state.loss_signals import FIRST_START, START_CAUSE, UNFINISHED_CAUSE, LossSignals

UNMONITORED_SWEEP_S = 300
"""Seconds between sweeps if changes without an event are to be expected: MinIO's metrics cannot
show whether it lost events, or a sweep has found silent changes."""


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
        after `UNMONITORED_SWEEP_S` if changes would not be detected otherwise.
        """
        trust_state = self._loss_signals.trust_state()
        last_sweep_at = float(self._sweeps.get_field("at") or 0)
        max_interval_s: float = 2 * self._interval_s
        has_silent_changes = self._sweeps.read_silent_changes().countdown > 0
        if self._is_unmonitored() or has_silent_changes:
            max_interval_s = min(UNMONITORED_SWEEP_S, max_interval_s)
        if trust_state is None or not trust_state.is_verified:
            if not self._sweeps.is_running():
                default_cause = START_CAUSE if trust_state is None else UNFINISHED_CAUSE
                kinds = self._loss_signals.unresolved() - {FIRST_START}
                self._sweeps.request(self._tasks, ", ".join(sorted(kinds)) or default_cause)
        elif now - last_sweep_at > max_interval_s:
            cause = "changes without events" if has_silent_changes else "overdue"
            self._sweeps.request(self._tasks, cause)
