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

from tests.faults.live.observer import measure_post
from tests.faults.live.rowdrop import LiveRowdrop, wait_until
from tests.faults.live.scenario import Scenario, ScenarioRun

MEGABYTE = 1 << 20
RECOVERY_LIMIT_S = 90.0


@contextmanager
def mount_small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of this size, and unmount it at the end.

    Raises `subprocess.CalledProcessError` if mounting is not permitted.
    """
    folder.mkdir(parents=True)
    subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)


def fill_disk(folder: Path) -> Path:
    """Fill the rest of the disk, and return the file to delete."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as filler_file, suppress(OSError):
        while True:
            filler_file.write(bytes(MEGABYTE))
    with file.open("ab", buffering=0) as filler_file, suppress(OSError):
        while True:
            filler_file.write(bytes(1024))
    return file


def run_minio_disk_full(run: ScenarioRun) -> None:
    """Fill the disk of MinIO, so that it refuses drops and published files.

    No protection can be removed here to show harm: a write that is not acknowledged cannot be lost.
    """
    with (
        mount_small_disk(run.folder / "disk", 600) as disk,
        run.start_rowdrop(minio_folder=disk / "minio") as live,
    ):
        _fill_and_empty(run, live, disk, lambda: _accepts_files(live))


def run_redis_disk_full(run: ScenarioRun) -> None:
    """Fill the disk of Redis, so that it cannot write its append-only file.

    Redis then refuses all commands that change data.
    """
    with (
        mount_small_disk(run.folder / "disk", 32) as disk,
        run.start_rowdrop(redis_folder=disk / "redis") as live,
    ):

        def check_clients() -> None:
            status, elapsed_s = measure_post(live)
            run.finding.check(
                f"POST: expected 503 in less than 5 s, found {status} after {elapsed_s:.1f} s",
                holds=status == 503 and elapsed_s < 5,
            )

        _fill_and_empty(run, live, disk, lambda: _accepts_writes(live), check_clients)


def _fill_and_empty(
    run: ScenarioRun,
    live: LiveRowdrop,
    disk: Path,
    accepts_writes: Callable[[], bool],
    check_clients: Callable[[], None] = lambda: None,
) -> None:
    """Fill the disk under traffic, make room again, and wait until every row is right.

    `accepts_writes` tries a write on the server. `check_clients` checks the response to a client
    while the disk is full.
    """
    with run.start_traffic(live, users=200, per_second=60) as (traffic, observer):
        time.sleep(3)
        filler = fill_disk(disk)
        wait_until(lambda: not accepts_writes(), 60, "the server refuses writes")
        check_clients()
        time.sleep(10)
        filler.unlink()
        wait_until(accepts_writes, 120, "the server accepts writes again")
        run.wait_until_correct(live, traffic, RECOVERY_LIMIT_S)
        run.finding.figures["writes refused"] = str(traffic.refused)
        run.finding.check(
            "GET: expected only status 200, "
            f"found these numbers by status: {dict(observer.status_counts)}",
            holds=set(observer.status_counts) == {200},
        )


def _accepts_files(live: LiveRowdrop) -> bool:
    try:
        live.put_object("room.txt", bytes(100_000))
    except (MinioException, HTTPError):
        return False
    return True


def _accepts_writes(live: LiveRowdrop) -> bool:
    try:
        live.redis.set("room", bytes(10_000), ex=10)
    except RedisError:
        return False
    return True


SCENARIOS = {
    "MinIO's disk full": Scenario(
        run_minio_disk_full,
    ),
    "Redis's disk full": Scenario(run_redis_disk_full, ("sweeps",)),
}
