"""Scenario: kill -9 at named points of the listener, the publisher and the workers."""

import time

from shared.published import BUNDLES, MANIFEST, OUTPUT, REJECTS
from shared.task_queue import VISIBILITY_TIMEOUT_S
from tests.faults.live.rowdrop import Live, NotInTime, until
from tests.faults.live.scenario import Scenario, Stage
from tests.faults.live.watching import timed_post

UNPACKS = (
    "worker-bulk before put",
    "worker-bulk after put",
    "worker-bulk before claim",
    "worker-bulk after claim",
    "worker-bulk after note_old",
    f"worker-bulk before replace {BUNDLES}",
    f"worker-bulk after replace {BUNDLES}",
    "worker-bulk before copy_from",
    "worker-bulk after copy_from",
    "worker-bulk before forget_old",
)
"""Points that are reached only with bundles."""
POINTS = (
    "listener after peek",
    "listener before note_events",
    "listener after note_events",
    "listener before refresh",
    "listener after refresh",
    "worker before note",
    "worker after note",
    "worker after get",
    "worker before stage",
    "worker after stage",
    "publisher after begin",
    f"publisher before replace {OUTPUT}",
    f"publisher after replace {OUTPUT}",
    f"publisher before replace {REJECTS}",
    f"publisher after replace {REJECTS}",
    "publisher before clean",
    "publisher after clean",
    f"publisher before put {MANIFEST}",
    f"publisher after put {MANIFEST}",
    "worker-bulk after begin_sweep",
    "worker-bulk before mark",
    "worker-bulk after mark",
    "worker-bulk before commit_sweep",
    "worker-bulk after commit_sweep",
    "worker-bulk after start",
    "worker-bulk before set_named",
    "worker-bulk after take_page",
    *UNPACKS,
)
SHORT = (
    "listener after note_events",
    "worker before stage",
    f"publisher after replace {OUTPUT}",
    f"worker-bulk after replace {BUNDLES}",
)
REDELIVERED_S = VISIBILITY_TIMEOUT_S + 15.0


def killed_at_named_points(stage: Stage) -> None:
    """Kill a process at each point in turn under traffic, and wait until all is right."""
    points = POINTS if stage.long else SHORT
    slowest = (0.0, "")
    with stage.rowdrop() as live:
        for number, point in enumerate(points):
            stage.seed += number
            took = _kill_at(stage, live, point)
            slowest = max(slowest, (took, point))
            if stage.finding.failures:
                break
        unknown = set(points) - live.points()
        stage.finding.expect(
            f"expected every point to be reached, found points that were not: {unknown}", holds=not unknown
        )
    stage.finding.figures["points"] = str(len(points))
    stage.finding.figures["slowest"] = f"{slowest[1]}: {slowest[0]:.1f} s"


def _kill_at(stage: Stage, live: Live, point: str) -> float:
    with stage.traffic(live, users=60, per_second=30) as (traffic, _):
        time.sleep(1)
        live.order("kill", point)
        if "worker-bulk" in point and point not in UNPACKS:
            (live.sweep if "sweep" in point or "mark" in point else lambda: timed_post(live))()
        try:
            until(lambda: live.obeyed, 180, f"a process is killed at {point}")  # a rebuild may wait for another
        except NotInTime as error:
            stage.finding.failures.append(str(error))
        killed = time.monotonic()
        live.cancel()
        time.sleep(1)
        stage.converge(live, traffic, REDELIVERED_S, killed)
        took = time.monotonic() - killed
    stage.finding.failures = [f"{point}: {failure}" for failure in stage.finding.failures]
    return took


SCENARIOS = {
    "kill -9 at named points": Scenario(
        killed_at_named_points,
        "0 lost after the visibility timeout + 15 s",
        remedies=("watch",),
        short=True,
    ),
}
