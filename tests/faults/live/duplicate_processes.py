"""Scenarios: two instances of single processes, a paused publisher, and clocks that jump."""

import time

from shared.formats.object_names import OUTPUT_KEY
from shared.redis_keys import COUNTERS
from tests.faults.live.rowdrop import WaitTimeout, wait_until
from tests.faults.live.scenario import Scenario, ScenarioRun

STALL_S = 60
HOUR_S = 3600
RECOVERY_LIMIT_S = 90.0


def run_two_of_each(run: ScenarioRun) -> None:
    """Run two listeners, two publishers and two bulk workers all the time."""
    with (
        run.start_rowdrop(doubled_programs=("listener", "publisher", "worker-bulk")) as live,
        run.start_traffic(live, users=200, per_second=100) as (traffic, _),
    ):
        time.sleep(30 if run.long else 5)
        live.request_sweep()
        time.sleep(5)
        run.wait_until_correct(live, traffic, RECOVERY_LIMIT_S)


def run_stalled_publisher(run: ScenarioRun) -> None:
    """Pause one of two publishers for a minute, just before it writes and just after.

    The other publisher keeps running.
    """
    for point in (
        f"publisher before put_if_unchanged {OUTPUT_KEY}",
        f"publisher after put_if_unchanged {OUTPUT_KEY}",
    ):
        with run.start_rowdrop(doubled_programs=("publisher",)) as live:
            run.seed += 1
            with run.start_traffic(live, users=100, per_second=40) as (traffic, _):
                time.sleep(2)
                live.give_order("stop", point)
                try:
                    wait_until(lambda: live.was_obeyed, 60, "a publisher is paused")
                except WaitTimeout as error:
                    run.finding.failures.append(str(error))
                time.sleep(STALL_S if run.long else 12)
                live.resume_stopped()
                run.wait_until_correct(live, traffic, RECOVERY_LIMIT_S)
            replaced_count = live.redis.hget(COUNTERS, "loss_signal:publisher_replaced") or b"0"
            run.finding.figures[f"asleep {point.removeprefix('publisher ')}"] = (
                f"converged in {run.finding.converged_s or -1:.1f} s, "
                f"reported as replaced {replaced_count.decode()} times"
            )


def run_clock_changes(run: ScenarioRun) -> None:
    """Set the clock of Rowdrop's processes back by an hour, then right, then an hour ahead."""
    with run.start_rowdrop() as live:
        for number, offset in enumerate((-HOUR_S, 0, HOUR_S)):
            run.seed += number
            with run.start_traffic(live, users=100, per_second=40) as (traffic, _):
                time.sleep(2)
                live.set_clock(offset)
                time.sleep(2)
                # By the new clock, the users of that worker are overdue.
                live.give_order("kill", "worker before submit_results")
                wait_until(lambda: live.was_obeyed, 60, "a worker is killed")
                run.wait_until_correct(live, traffic, RECOVERY_LIMIT_S)


SCENARIOS = {
    "two listeners, publishers, bulk workers": Scenario(
        run_two_of_each, ("writer",), in_short_form=True, needs_long_form=True
    ),
    "a publisher asleep for 60 s": Scenario(run_stalled_publisher, ("writer",)),
    "the clock set back an hour": Scenario(run_clock_changes, ("watchdog",)),
}
