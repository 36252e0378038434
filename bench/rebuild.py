"""The duration of a full rebuild, compared with reading all CSVs with bare requests."""

import json

from bench.bare import FLOOR_READERS, ReadFloor
from bench.measurements import Measurement, compute_median, max_ratio
from bench.rowdrop import RowdropInstance, UnexpectedResult, wait_until
from shared.progress.rebuilds import Rebuilds

_TIMEOUT_S = 600.0


def measure_rebuilds(rowdrop: RowdropInstance, count: int, pairs: int) -> list[Measurement]:
    """Rebuild `pairs` times, each time after a run of the bare requests, and return the figure."""
    floor = ReadFloor(rowdrop.settings)
    rebuilds = Rebuilds(rowdrop.redis)
    floor_times = list[float]()
    times = list[float]()
    for _ in range(pairs):
        floor_times.append(floor.measure_list_and_get())
        times.append(_measure_rebuild(rowdrop, rebuilds))
        rowdrop.wait_until_idle()
    name = f"full rebuild, {count:,} users (floor: LIST, then {FLOOR_READERS} GETs at a time)"
    seconds = compute_median(times)
    floor_s = compute_median(floor_times)
    return [Measurement(name, seconds, "s", floor_s, max_ratio(1.1), f"{pairs} pairs")]


def _measure_rebuild(rowdrop: RowdropInstance, rebuilds: Rebuilds) -> float:
    """Run a rebuild and return the seconds from its POST until it is done, by its own record."""
    connection = rowdrop.connect_api()
    connection.request("POST", "/data")
    task_id = json.loads(connection.getresponse().read())["task_id"]
    connection.close()

    def is_finished() -> bool:
        status = rebuilds.status(task_id)
        return status is not None and status.finished_at is not None

    wait_until(is_finished, _TIMEOUT_S, "a rebuild", 0.01)
    status = rebuilds.status(task_id)
    if status is None or status.state != "done" or not (status.finished_at and status.queued_at):
        raise UnexpectedResult(f"a rebuild failed: {status}")
    return status.finished_at - status.queued_at
