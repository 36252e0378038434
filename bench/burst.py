"""Thousands of users dropped in a burst: the time until all of them are in output.csv."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.measurements import Measurement, max_ratio
from bench.rowdrop import RowdropInstance
from bench.users import BenchUsers
from bench.watch import ObjectWatcher
from shared.formats.object_names import OUTPUT_KEY
from shared.object_store import ObjectStore

CONCURRENT_PUTS = 16
_TIMEOUT_S = 600.0

BenchFiles = Sequence[tuple[str, bytes]]


def put_files(store: ObjectStore, files: BenchFiles) -> float:
    """PUT all these files with 16 concurrent requests; return the seconds."""
    started_at = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENT_PUTS) as pool:
        for _ in pool.map(lambda file: store.put(*file), files):  # raises the errors of the threads
            pass
    return time.perf_counter() - started_at


def drop_users(
    rowdrop: RowdropInstance, users: BenchUsers, count: int
) -> tuple[float, float, BenchFiles]:
    """Drop CSV and image of `count` users and wait until output.csv has all of them.

    Returns the seconds for the PUTs, the seconds until output.csv is complete, and the files.
    """
    files = users.make_files(count)
    watcher = ObjectWatcher(rowdrop.objects_on_disk, rowdrop.output.bucket, OUTPUT_KEY)
    started_at = time.perf_counter()
    put_s = put_files(rowdrop.source, files)
    elapsed_s = watcher.wait_for_etag(users.etag, _TIMEOUT_S) - started_at
    rowdrop.verify_output(users.output.body)
    return put_s, elapsed_s, files


def measure_burst(rowdrop: RowdropInstance, users: BenchUsers, count: int) -> list[Measurement]:
    """Drop `count` users in a burst, then PUT the same files into a bucket without notifications.

    The first floor is the time of the burst's own PUTs, the second that of the other bucket's PUTs.
    """
    put_s, elapsed_s, files = drop_users(rowdrop, users, count)
    rowdrop.wait_until_idle()
    bucket = rowdrop.create_bucket()
    floor_s = put_files(bucket, files)
    rowdrop.delete_bucket(bucket)
    name = f"{count:,} users in a burst → output.csv"
    samples = f"{2 * count:,} PUTs, {CONCURRENT_PUTS} at a time"
    return [
        Measurement(f"{name} (floor: its PUTs)", elapsed_s, "s", put_s, max_ratio(1.4), samples),
        Measurement(
            f"{name} (floor: PUTs without notifications)", elapsed_s, "s", floor_s, None, samples
        ),
    ]
