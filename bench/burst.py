"""Thousands of users dropped in a burst: the time until all of them are in output.csv."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.figures import Figure, at_most
from bench.rowdrop import Rowdrop
from bench.users import Users
from bench.watch import ObjectWatch
from shared.object_store import ObjectStore
from shared.published import OUTPUT

CLIENTS = 16
_PATIENCE_S = 600.0

Files = Sequence[tuple[str, bytes]]


def put_all(store: ObjectStore, files: Files) -> float:
    """PUT all these files with 16 concurrent requests; return the seconds."""
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(lambda file: store.put(*file), files):  # raises the errors of the threads
            pass
    return time.perf_counter() - began


def drop_all(rowdrop: Rowdrop, users: Users, count: int) -> tuple[float, float, Files]:
    """Drop CSV and image of `count` users and wait until output.csv has all of them.

    Returns the seconds for the PUTs, the seconds until output.csv is complete, and the files.
    """
    files = users.everyone(count)
    watch = ObjectWatch(rowdrop.objects_on_disk, rowdrop.output.bucket, OUTPUT)
    began = time.perf_counter()
    puts = put_all(rowdrop.source, files)
    took = watch.wait(users.etag, _PATIENCE_S) - began
    rowdrop.verify_output(users.output.body)
    return puts, took, files


def figures(rowdrop: Rowdrop, users: Users, count: int) -> list[Figure]:
    """Drop `count` users in a burst, then PUT the same files into a bucket without notifications.

    The first floor is the time of the burst's own PUTs, the second that of the other bucket's PUTs.
    """
    puts, took, files = drop_all(rowdrop, users, count)
    rowdrop.settle()
    bucket = rowdrop.new_bucket()
    unwatched = put_all(bucket, files)
    rowdrop.remove(bucket)
    name, samples = f"{count:,} users in a burst → output.csv", f"{2 * count:,} PUTs, {CLIENTS} at a time"
    return [
        Figure(f"{name} (floor: its PUTs)", took, "s", puts, at_most(1.4), samples),
        Figure(f"{name} (floor: PUTs without notifications)", took, "s", unwatched, None, samples),
    ]
