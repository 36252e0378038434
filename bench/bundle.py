"""Thousands of users dropped as one zip: the time until all of them are in output.csv."""

import io
import time
import zipfile

from bench.burst import CLIENTS, Files, put_all
from bench.figures import Figure, at_most
from bench.rowdrop import Rowdrop
from bench.users import Users
from bench.watch import ObjectWatch
from shared.published import OUTPUT

KEY = "bench.zip"
_PATIENCE_S = 600.0


def figures(rowdrop: Rowdrop, users: Users, first: int, count: int) -> list[Figure]:
    """Measure the time from the PUT of a zip until output.csv has all its users.

    The zip holds a CSV and an image of `count` users, numbered from `first`, which have no files of
    their own. The floor is the time to PUT the same files one by one into a bucket without
    notifications. Half of them are written before and half after the measurement, because a disk
    may be twice as fast a minute later. The bundle is deleted at the end.
    """
    before = users.output
    files = users.in_bundle(rowdrop.settings.output_bucket, first, count)
    archive, half = _zip(files), len(files) // 2
    unwatched = rowdrop.new_bucket()
    floor = put_all(unwatched, files[:half])
    watch = ObjectWatch(rowdrop.objects_on_disk, rowdrop.output.bucket, OUTPUT)
    began = time.perf_counter()
    rowdrop.source.put(KEY, archive)
    took = watch.wait(users.etag, _PATIENCE_S) - began
    rowdrop.verify_output(users.output.body)
    floor += put_all(unwatched, files[half:])
    rowdrop.remove(unwatched)
    users.output = before
    rowdrop.source.delete(KEY)
    watch.wait(users.etag, _PATIENCE_S)
    name, samples = f"a bundle of {len(files):,} members → output.csv", f"{len(files):,} PUTs, {CLIENTS} at a time"
    return [Figure(f"{name} (floor: PUTs of its members)", took, "s", floor, at_most(1.5), samples)]


def _zip(files: Files) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return body.getvalue()
