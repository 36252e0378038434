"""Scenarios: two instances of single processes, a paused publisher, and clocks that jump."""

import time

from shared.published import OUTPUT
from tests.faults.live.rowdrop import NotInTime, until
from tests.faults.live.scenario import Scenario, Stage

ASLEEP_S, HOUR_S, HEALED_S = 60, 3600, 90.0


def two_of_each(stage: Stage) -> None:
    """Run two listeners, publishers and beats all the time."""
    with (
        stage.rowdrop(twice=("listener", "publisher", "beat")) as live,
        stage.traffic(live, users=200, per_second=100) as (traffic, _),
    ):
        time.sleep(30 if stage.long else 5)
        live.sweep()
        time.sleep(5)
        stage.converge(live, traffic, HEALED_S)


def paused_publisher(stage: Stage) -> None:
    """Pause one of two publishers for a minute, just before it writes and just after.

    The other publisher keeps running.
    """
    for point in (f"publisher before replace {OUTPUT}", f"publisher after replace {OUTPUT}"):
        with stage.rowdrop(twice=("publisher",)) as live:
            stage.seed += 1
            with stage.traffic(live, users=100, per_second=40) as (traffic, _):
                time.sleep(2)
                live.order("stop", point)
                try:
                    until(lambda: live.obeyed, 60, "a publisher is paused")
                except NotInTime as error:
                    stage.finding.failures.append(str(error))
                time.sleep(ASLEEP_S if stage.long else 12)
                live.resume()
                stage.converge(live, traffic, HEALED_S)
            replaced = live.redis.hget("counters", "evidence:publisher_replaced") or b"0"
            stage.finding.figures[f"asleep {point.removeprefix('publisher ')}"] = (
                f"converged in {stage.finding.converged_s or -1:.1f} s, reported as replaced {replaced.decode()} times"
            )


def clock_set_back(stage: Stage) -> None:
    """Set the clock of Rowdrop's processes back by an hour, then right, then an hour ahead."""
    with stage.rowdrop() as live:
        for number, offset in enumerate((-HOUR_S, 0, HOUR_S)):
            stage.seed += number
            with stage.traffic(live, users=100, per_second=40) as (traffic, _):
                time.sleep(2)
                live.set_clock(offset)
                time.sleep(2)
                live.order("kill", "worker before stage")  # by the new clock, its users are overdue
                until(lambda: live.obeyed, 60, "a worker is killed")
                stage.converge(live, traffic, HEALED_S)


SCENARIOS = {
    "two listeners, publishers, beats": Scenario(
        two_of_each, "0 lost updates", ("writer",), short=True, shows_late=True
    ),
    "a publisher asleep for 60 s": Scenario(paused_publisher, "0 lost updates", ("writer",)),
    "the clock set back an hour": Scenario(clock_set_back, "0 lost, nothing hangs", ("watch",)),
}
