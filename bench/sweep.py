"""The duration of a sweep that finds no change, compared with the LIST it cannot do without."""

import time

from bench.bare import BareReads
from bench.figures import Figure, at_most, median
from bench.rowdrop import Rowdrop, UnexpectedResult


def figures(rowdrop: Rowdrop, count: int, pairs: int) -> list[Figure]:
    """Sweep `pairs` times, each time after a LIST, and return the figure.

    A sweep is timed from its request to its end. Raises `UnexpectedResult` if one marks a user.
    """
    bare = BareReads(rowdrop.settings)
    floors, times = list[float](), list[float]()
    for _ in range(pairs):
        floors.append(bare.list_all())
        began = time.perf_counter()
        marked = rowdrop.sweep()
        times.append(time.perf_counter() - began)
        if marked:
            raise UnexpectedResult(f"nothing was changed, but a sweep marked {marked} users")
    name = f"sweep, nothing changed, {2 * count:,} objects (floor: LIST)"
    return [
        Figure(name, 1000 * median(times), "ms", 1000 * median(floors), at_most(1.1), f"{pairs} pairs"),
    ]
