"""Scenarios: a full disk of MinIO, and of Redis.

They need the permission to mount a file system in memory (tmpfs).
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minio.error import MinioException
from redis.exceptions import RedisError
from urllib3.exceptions import HTTPError

from tests.faults.live.rowdrop import Live, until
from tests.faults.live.scenario import Scenario, Stage
from tests.faults.live.watching import timed_post

MB = 1 << 20
BACK_S = 90.0


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of this size, and unmount it at the end.

    Raises `subprocess.CalledProcessError` if mounting is not permitted.
    """
    folder.mkdir(parents=True)
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the rest of the disk, and return the file to delete."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(MB))
    with file.open("ab", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(1024))
    return file


def minio_disk_full(stage: Stage) -> None:
    """Fill the disk of MinIO, so that it refuses drops and published files.

    No protection can be removed here to show harm: a write that is not acknowledged cannot be lost.
    """
    with small_disk(stage.folder / "disk", 600) as disk, stage.rowdrop(minio_folder=disk / "minio") as live:
        _fill_and_empty(stage, live, disk, lambda: _takes_files(live))


def redis_disk_full(stage: Stage) -> None:
    """Fill the disk of Redis, so that it cannot write its append-only file.

    Redis then refuses all commands that change data.
    """
    with small_disk(stage.folder / "disk", 32) as disk, stage.rowdrop(redis_folder=disk / "redis") as live:

        def clients() -> None:
            status, took = timed_post(live)
            stage.finding.expect(
                f"POST: expected 503 in less than 5 s, found {status} after {took:.1f} s",
                holds=status == 503 and took < 5,
            )

        _fill_and_empty(stage, live, disk, lambda: _takes_writes(live), clients)


def _fill_and_empty(
    stage: Stage, live: Live, disk: Path, has_room: Callable[[], bool], clients: Callable[[], None] = lambda: None
) -> None:
    """Fill the disk under traffic, make room again, and wait until every row is right.

    `has_room` tries a write on the server. `clients` checks the response to a client while the disk
    is full.
    """
    with stage.traffic(live, users=200, per_second=60) as (traffic, eyes):
        time.sleep(3)
        filler = fill(disk)
        until(lambda: not has_room(), 60, "the server refuses writes")
        clients()
        time.sleep(10)
        filler.unlink()
        until(has_room, 120, "the server accepts writes again")
        stage.converge(live, traffic, BACK_S)
        stage.finding.figures["writes refused"] = str(traffic.refused)
        stage.finding.expect(
            f"GET: expected only status 200, found these numbers by status: {dict(eyes.answers)}",
            holds=set(eyes.answers) == {200},
        )


def _takes_files(live: Live) -> bool:
    try:
        live.put("room.txt", bytes(100_000))
    except (MinioException, HTTPError):
        return False
    return True


def _takes_writes(live: Live) -> bool:
    try:
        live.redis.set("room", bytes(10_000), ex=10)
    except RedisError:
        return False
    return True


SCENARIOS = {
    "MinIO's disk full": Scenario(minio_disk_full, f"every row is right {BACK_S:.0f} s after the disk has room again"),
    "Redis's disk full": Scenario(redis_disk_full, "the same", ("care of events",)),
}
