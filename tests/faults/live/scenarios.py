"""All fault scenarios in the order of the report, and the function that runs one of them."""

import shutil
import tempfile
import traceback
from pathlib import Path

from tests.faults.live import disks, duplicate_processes, event_faults, kills, outages, unreadable
from tests.faults.live.scenario import Finding, Scenario, ScenarioRun

SCENARIOS: dict[str, Scenario] = {
    **kills.SCENARIOS,
    **outages.SCENARIOS,
    **event_faults.SCENARIOS,
    **duplicate_processes.SCENARIOS,
    **disks.SCENARIOS,
    **unreadable.SCENARIOS,
}


def run_scenario(name: str, seed: int, *, long: bool, without: str = "") -> Finding:
    """Run a scenario in a temporary folder, and return its finding.

    An exception during the run becomes a failure of the scenario. The folder with the logs is kept
    if a scenario fails with all protections.
    """
    folder = Path(tempfile.mkdtemp(prefix="rowdrop-fault-"))
    run = ScenarioRun(name, folder, seed, long=long, without=without)
    try:
        SCENARIOS[name].run(run)
    except Exception as error:  # noqa: BLE001  the other scenarios must run as well
        run.finding.failures.append(f"{type(error).__name__}: {error}")
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
    if without or not run.finding.failures:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        run.finding.figures["logs"] = str(folder)
    return run.finding
