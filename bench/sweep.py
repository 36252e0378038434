"""The duration of a sweep that finds no change, compared with the LIST it cannot do without."""

import time

from bench.bare import ReadFloor
from bench.measurements import Measurement, compute_median, max_ratio
from bench.rowdrop import RowdropInstance, UnexpectedResult


def measure_sweeps(rowdrop: RowdropInstance, count: int, pairs: int) -> list[Measurement]:
    """Sweep `pairs` times, each time after a LIST, and return the figure.

    A sweep is timed from its request to its end. Raises `UnexpectedResult` if one marks a user.
    """
    floor = ReadFloor(rowdrop.settings)
    floor_times = list[float]()
    times = list[float]()
    for _ in range(pairs):
        floor_times.append(floor.measure_list())
        started_at = time.perf_counter()
        marked_count = rowdrop.run_sweep()
        times.append(time.perf_counter() - started_at)
        if marked_count:
            raise UnexpectedResult(f"nothing was changed, but a sweep marked {marked_count} users")
    name = f"sweep, nothing changed, {2 * count:,} objects (floor: LIST)"
    measured_ms = 1000 * compute_median(times)
    floor_ms = 1000 * compute_median(floor_times)
    return [Measurement(name, measured_ms, "ms", floor_ms, max_ratio(1.1), f"{pairs} pairs")]
