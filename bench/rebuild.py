"""The duration of a full rebuild, compared with reading all CSVs with bare requests."""

import json

from bench.bare import READERS, BareReads
from bench.figures import Figure, at_most, median
from bench.rowdrop import Rowdrop, UnexpectedResult, until
from shared.rebuilds import Rebuilds

_PATIENCE_S = 600.0


def figures(rowdrop: Rowdrop, count: int, pairs: int) -> list[Figure]:
    """Rebuild `pairs` times, each time after a run of the bare requests, and return the figure."""
    bare, rebuilds = BareReads(rowdrop.settings), Rebuilds(rowdrop.redis)
    floors, times = list[float](), list[float]()
    for _ in range(pairs):
        floors.append(bare.list_and_get())
        times.append(_rebuild(rowdrop, rebuilds))
        rowdrop.settle()
    name = f"full rebuild, {count:,} users (floor: LIST, then {READERS} GETs at a time)"
    return [Figure(name, median(times), "s", median(floors), at_most(1.1), f"{pairs} pairs")]


def _rebuild(rowdrop: Rowdrop, rebuilds: Rebuilds) -> float:
    """Run a rebuild and return the seconds from its POST until it is done, by its own record."""
    connection = rowdrop.connect_api()
    connection.request("POST", "/data")
    task_id = json.loads(connection.getresponse().read())["task_id"]
    connection.close()

    def is_over() -> bool:
        status = rebuilds.get(task_id)
        return status is not None and status.finished_at is not None

    until(is_over, _PATIENCE_S, "a rebuild", 0.01)
    status = rebuilds.get(task_id)
    if status is None or status.state != "done" or not (status.finished_at and status.queued_at):
        raise UnexpectedResult(f"a rebuild failed: {status}")
    return status.finished_at - status.queued_at
