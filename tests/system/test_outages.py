"""Tests that responses stay correct and no row is lost while a server or a process is down.

Each process is stopped by its PID.
"""

import io
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from minio import Minio

from shared.redis_keys import CHANGE_VERSIONS, TRUST_STATE
from tests.system.running import (
    RunShProcess,
    find_bulk_worker,
    find_event_workers,
    find_processes,
    wait_until,
)
from tests.system.test_a_users_day import (
    FORM_OF_THE_PUBLIC_TASK,
    SOURCE,
    get,
    line_of,
    output,
    post,
    put,
)


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def test_api_serves_gets_and_refuses_posts_without_redis(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "kept.csv", FORM_OF_THE_PUBLIC_TASK)
    wait_until(lambda: line_of(s3, "kept"))
    wait_until(lambda: get(rowdrop, "/data"))
    with frozen(find_processes(rowdrop.folder, "redis.conf")[0]):
        assert len(get(rowdrop, "/data")) == 1
        assert get(rowdrop, "/stats")["count"] == 1
        assert get(rowdrop, "/errors") == []
        assert get(rowdrop, "/health/live")
        assert post(rowdrop, "/data")[0] == 503
        assert rowdrop.get("/tasks/0123456789abcdef")[0] == 503
        put(s3, "meanwhile.csv", FORM_OF_THE_PUBLIC_TASK)
        wait_until(lambda: rowdrop.get("/health/ready")[0] == 503)
    wait_until(lambda: line_of(s3, "meanwhile"))
    wait_until(rowdrop.is_healthy)


def test_api_serves_gets_without_minio(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "kept.csv", FORM_OF_THE_PUBLIC_TASK)
    wait_until(lambda: line_of(s3, "kept"))
    count = len(get(rowdrop, "/data"))
    with frozen(find_processes(rowdrop.folder, "minio/data")[0]):
        for _ in range(20):
            assert len(get(rowdrop, "/data")) == count
            time.sleep(0.05)
        assert get(rowdrop, "/health/live")
    wait_until(rowdrop.is_healthy)


def test_rowdrop_publishes_drops_while_each_process_dies(rowdrop: RunShProcess, s3: Minio) -> None:
    find_process: tuple[Callable[[Path], psutil.Process], ...] = (
        lambda folder: find_processes(folder, "worker.listener")[0],
        lambda folder: find_processes(folder, "worker.publisher")[0],
        lambda folder: find_event_workers(folder)[0],
        find_bulk_worker,
        lambda folder: find_processes(folder, "api.asgi")[0],
        lambda folder: find_processes(folder, "worker.app")[0],  # the parent of all workers
    )
    for number, find in enumerate(find_process):
        find(rowdrop.folder).kill()
        put(s3, f"death-{number}.csv", FORM_OF_THE_PUBLIC_TASK)
    wait_until(lambda: output(s3).count(b"death-") == len(find_process), timeout_s=90)
    wait_until(rowdrop.is_healthy, timeout_s=90)


def test_rowdrop_publishes_drops_while_worker_hangs(rowdrop: RunShProcess, s3: Minio) -> None:
    with frozen(find_event_workers(rowdrop.folder)[0]):
        for number in range(10):
            put(s3, f"hang-{number}.csv", FORM_OF_THE_PUBLIC_TASK)
        wait_until(lambda: output(s3).count(b"hang-") == 10, timeout_s=90)


def test_rowdrop_keeps_rows_while_bucket_is_renamed(rowdrop: RunShProcess, s3: Minio) -> None:
    for number in range(20):
        put(s3, f"pending-{number:02d}.csv", FORM_OF_THE_PUBLIC_TASK)
    wait_until(lambda: output(s3).count(b"pending-") == 20)
    data = rowdrop.folder / "minio" / "data"
    with frozen(*find_event_workers(rowdrop.folder)):
        for number in range(20):
            put(s3, f"pending-{number:02d}.csv", b"first_name,last_name,birthts\nNew,Name,1\n")
        (data / SOURCE).rename(data / "renamed")
        wait_until(lambda: not s3.bucket_exists(SOURCE))
    before = output(s3)
    post(rowdrop, "/data")
    wait_until(lambda: b"source bucket cannot be read" in rowdrop.get("/health/ready")[1])
    assert [line.split(b",")[0] for line in output(s3).splitlines()] == [
        line.split(b",")[0] for line in before.splitlines()
    ]
    (data / "renamed").rename(data / SOURCE)
    wait_until(lambda: output(s3).count(b",New,Name,1,") == 20, timeout_s=120)


def test_rowdrop_keeps_rows_after_emptied_redis(rowdrop: RunShProcess, s3: Minio) -> None:
    from redis import Redis

    # No Redis user of Rowdrop may send FLUSHALL. The worker's user may delete every key, which this
    # script does atomically.
    script = """
    local cursor = '0'
    repeat
      local found = redis.call('SCAN', cursor, 'COUNT', 1000)
      cursor = found[1]
      for _, key in ipairs(found[2]) do redis.call('DEL', key) end
    until cursor == '0'
    return redis.call('EXISTS', unpack(ARGV))
    """
    with Redis.from_url(rowdrop.read_credentials_of("worker")["REDIS_URL"]) as client:
        for number in range(50):
            put(s3, f"flushed-{number:02d}.csv", FORM_OF_THE_PUBLIC_TASK)
            if number % 10 == 5:
                # The script looks itself: the listener may mark the next user at any time.
                assert client.eval(script, 0, CHANGE_VERSIONS, TRUST_STATE) == 0
    wait_until(lambda: output(s3).count(b"flushed-") == 50, timeout_s=90)
    wait_until(rowdrop.is_healthy, timeout_s=90)


def test_rowdrop_rejects_huge_file_and_publishes_others(rowdrop: RunShProcess, s3: Minio) -> None:
    body = b"first_name,last_name,birthts\n" + b"x" * 5_000_000
    s3.put_object(SOURCE, "huge.csv", io.BytesIO(body), len(body))
    put(s3, "small.csv", FORM_OF_THE_PUBLIC_TASK)
    wait_until(lambda: line_of(s3, "small"))
    wait_until(lambda: [error for error in get(rowdrop, "/errors") if error["user_id"] == "huge"])
