"""Scenario: kill -9 at named points of the listener, the publisher and the workers."""

import time

from shared.formats.object_names import CATALOG_KEY, MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.task_queue import VISIBILITY_TIMEOUT_S
from tests.faults.live.observer import measure_post
from tests.faults.live.rowdrop import LiveRowdrop, WaitTimeout, wait_until
from tests.faults.live.scenario import Scenario, ScenarioRun

UNPACK_POINTS = (
    "worker-bulk before put",
    "worker-bulk after put",
    "worker-bulk before take_ownership",
    "worker-bulk after take_ownership",
    "worker-bulk after add_digests",
    f"worker-bulk before put_if_unchanged {CATALOG_KEY}",
    f"worker-bulk after put_if_unchanged {CATALOG_KEY}",
    "worker-bulk before copy_from",
    "worker-bulk after copy_from",
    "worker-bulk before clear_digests",
)
"""Points that are reached only with bundles."""
SWEEP_POINTS = (
    "worker-bulk after begin_sweep",
    "worker-bulk before mark",
    "worker-bulk after mark",
    "worker-bulk before commit_sweep",
    "worker-bulk after commit_sweep",
)
"""Points that a sweep reaches."""
REBUILD_POINTS = (
    "worker-bulk after start",
    "worker-bulk before mark_enqueued",
    "worker-bulk after take_page",
)
"""Points that a rebuild reaches."""
KILL_POINTS = (
    "listener after peek",
    "listener before mark_and_pop",
    "listener after mark_and_pop",
    "listener before refresh",
    "listener after refresh",
    "worker before begin_read",
    "worker after begin_read",
    "worker after get",
    "worker before submit_results",
    "worker after submit_results",
    "publisher after acquire_writer",
    f"publisher before put_if_unchanged {OUTPUT_KEY}",
    f"publisher after put_if_unchanged {OUTPUT_KEY}",
    f"publisher before put_if_unchanged {REJECTS_KEY}",
    f"publisher after put_if_unchanged {REJECTS_KEY}",
    "publisher before commit_publish",
    "publisher after commit_publish",
    f"publisher before put {MANIFEST_KEY}",
    f"publisher after put {MANIFEST_KEY}",
    *SWEEP_POINTS,
    *REBUILD_POINTS,
    *UNPACK_POINTS,
)
SHORT_POINTS = (
    "listener after mark_and_pop",
    "worker before submit_results",
    f"publisher after put_if_unchanged {OUTPUT_KEY}",
    f"worker-bulk after put_if_unchanged {CATALOG_KEY}",
)
REDELIVERY_LIMIT_S = VISIBILITY_TIMEOUT_S + 15.0


def run_kills_at_points(run: ScenarioRun) -> None:
    """Kill a process at each point in turn under traffic, and wait until all is right."""
    points = KILL_POINTS if run.long else SHORT_POINTS
    slowest = (0.0, "")
    with run.start_rowdrop() as live:
        for number, point in enumerate(points):
            run.seed += number
            elapsed_s = _kill_at(run, live, point)
            slowest = max(slowest, (elapsed_s, point))
            if run.finding.failures:
                break
        unreached_points = set(points) - live.list_passed_points()
        run.finding.check(
            f"expected every point to be reached, found points that were not: {unreached_points}",
            holds=not unreached_points,
        )
    run.finding.figures["points"] = str(len(points))
    run.finding.figures["slowest"] = f"{slowest[1]}: {slowest[0]:.1f} s"


def _kill_at(run: ScenarioRun, live: LiveRowdrop, point: str) -> float:
    with run.start_traffic(live, users=60, per_second=30) as (traffic, _):
        time.sleep(1)
        live.give_order("kill", point)
        if point in SWEEP_POINTS:
            live.request_sweep()
        elif point in REBUILD_POINTS:
            measure_post(live)
        try:
            # A rebuild may wait for another.
            wait_until(lambda: live.was_obeyed, 180, f"a process is killed at {point}")
        except WaitTimeout as error:
            run.finding.failures.append(str(error))
        killed_at = time.monotonic()
        live.cancel_order()
        time.sleep(1)
        run.wait_until_correct(live, traffic, REDELIVERY_LIMIT_S, killed_at)
        elapsed_s = time.monotonic() - killed_at
    run.finding.failures = [f"{point}: {failure}" for failure in run.finding.failures]
    return elapsed_s


SCENARIOS = {
    "kill -9 at named points": Scenario(
        run_kills_at_points,
        protections=("watchdog",),
        in_short_form=True,
    ),
}
