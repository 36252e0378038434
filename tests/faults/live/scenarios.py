"""All faults, in the order of the report; and how one is played."""

import shutil
import tempfile
import traceback
from pathlib import Path

from tests.faults.live import disks, kills, outages, storms, twos, unreadable
from tests.faults.live.scenario import Finding, Scenario, Stage

SCENARIOS: dict[str, Scenario] = {
    **kills.SCENARIOS,
    **outages.SCENARIOS,
    **storms.SCENARIOS,
    **twos.SCENARIOS,
    **disks.SCENARIOS,
    **unreadable.SCENARIOS,
}


def play(name: str, seed: int, *, long: bool, without: str = "") -> Finding:
    """Play one in a temporary folder, which is kept if it did not go as promised.

    Whatever is raised while it is played is a failure of it.
    """
    folder = Path(tempfile.mkdtemp(prefix="rowdrop-fault-"))
    stage = Stage(name, folder, seed, long=long, without=without)
    try:
        SCENARIOS[name].play(stage)
    except Exception as error:  # noqa: BLE001  the other faults are to be played all the same
        stage.finding.failures.append(f"{type(error).__name__}: {error}")
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
    if without or not stage.finding.failures:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        stage.finding.figures["logs"] = str(folder)
    return stage.finding
