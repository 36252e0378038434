"""Thousands of users dropped as one zip: the time until all of them are in output.csv."""

import io
import time
import zipfile

from bench.burst import CONCURRENT_PUTS, BenchFiles, put_files
from bench.measurements import Measurement, max_ratio
from bench.rowdrop import RowdropInstance
from bench.users import BenchUsers
from bench.watch import ObjectWatcher
from shared.formats.object_names import OUTPUT_KEY

BUNDLE_KEY = "bench.zip"
_TIMEOUT_S = 600.0


def measure_bundle(
    rowdrop: RowdropInstance, users: BenchUsers, first_number: int, count: int
) -> list[Measurement]:
    """Measure the time from the PUT of a zip until output.csv has all its users.

    The zip holds a CSV and an image of `count` users, numbered from `first_number`, which have no
    files of their own. The floor is the time to PUT the same files one by one into a bucket without
    notifications. Half of them are written before and half after the measurement, because a disk
    may be twice as fast a minute later. The bundle is deleted at the end.
    """
    output_before = users.output
    files = users.make_bundle_files(rowdrop.settings.output_bucket, first_number, count)
    zip_body = _build_zip(files)
    half_count = len(files) // 2
    plain_bucket = rowdrop.create_bucket()
    floor_s = put_files(plain_bucket, files[:half_count])
    watcher = ObjectWatcher(rowdrop.objects_on_disk, rowdrop.output.bucket, OUTPUT_KEY)
    started_at = time.perf_counter()
    rowdrop.source.put(BUNDLE_KEY, zip_body)
    elapsed_s = watcher.wait_for_etag(users.etag, _TIMEOUT_S) - started_at
    rowdrop.verify_output(users.output.body)
    floor_s += put_files(plain_bucket, files[half_count:])
    rowdrop.delete_bucket(plain_bucket)
    users.output = output_before
    rowdrop.source.delete(BUNDLE_KEY)
    watcher.wait_for_etag(users.etag, _TIMEOUT_S)
    name = f"a bundle of {len(files):,} members → output.csv"
    samples = f"{len(files):,} PUTs, {CONCURRENT_PUTS} at a time"
    goal = max_ratio(1.5)
    full_name = f"{name} (floor: PUTs of its members)"
    return [Measurement(full_name, elapsed_s, "s", floor_s, goal, samples)]


def _build_zip(files: BenchFiles) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return body.getvalue()
