"""What is answered, and what is lost (nothing), while a server is away; each process stopped by its pid."""

import io
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from minio import Minio

from tests.system.running import Run, named, until
from tests.system.test_a_users_day import FORM_OF_THE_PUBLIC_TASK, SOURCE, get, line_of, output, post, put


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def test_gets_go_on_and_posts_say_so_while_redis_is_away(rowdrop: Run, s3: Minio) -> None:
    put(s3, "kept.csv", FORM_OF_THE_PUBLIC_TASK)
    until(lambda: line_of(s3, "kept"))
    until(lambda: get(rowdrop, "/data"))
    with frozen(named(rowdrop.folder, "redis.conf")[0]):
        assert len(get(rowdrop, "/data")) == 1
        assert get(rowdrop, "/stats")["count"] == 1
        assert get(rowdrop, "/errors") == []
        assert get(rowdrop, "/health/live")
        assert post(rowdrop, "/data")[0] == 503
        assert rowdrop.get("/tasks/0123456789abcdef")[0] == 503
        put(s3, "meanwhile.csv", FORM_OF_THE_PUBLIC_TASK)
        until(lambda: rowdrop.get("/health/ready")[0] == 503)
    until(lambda: line_of(s3, "meanwhile"))
    until(rowdrop.is_healthy)


def test_gets_go_on_while_minio_is_away(rowdrop: Run, s3: Minio) -> None:
    put(s3, "kept.csv", FORM_OF_THE_PUBLIC_TASK)
    until(lambda: line_of(s3, "kept"))
    count = len(get(rowdrop, "/data"))
    with frozen(named(rowdrop.folder, "minio/data")[0]):
        for _ in range(20):
            assert len(get(rowdrop, "/data")) == count
            time.sleep(0.05)
        assert get(rowdrop, "/health/live")
    until(rowdrop.is_healthy)


def test_what_is_dropped_while_each_process_dies_is_published_all_the_same(rowdrop: Run, s3: Minio) -> None:
    programs = (
        "worker.listener",
        "worker.publisher",
        "-Q events",
        "-Q bulk",
        "celery -A worker.scheduler beat",
        "api.wsgi",
    )
    for number, words in enumerate(programs):
        named(rowdrop.folder, words)[0].kill()
        put(s3, f"death-{number}.csv", FORM_OF_THE_PUBLIC_TASK)
    until(lambda: output(s3).count(b"death-") == len(programs), patience_s=90)
    until(rowdrop.is_healthy, patience_s=90)


def test_a_worker_that_hangs_keeps_nobody_waiting(rowdrop: Run, s3: Minio) -> None:
    with frozen(named(rowdrop.folder, "-Q events")[0]):
        for number in range(10):
            put(s3, f"hang-{number}.csv", FORM_OF_THE_PUBLIC_TASK)
        until(lambda: output(s3).count(b"hang-") == 10, patience_s=90)


def test_a_bucket_renamed_while_drops_are_pending_takes_not_one_row_along(rowdrop: Run, s3: Minio) -> None:
    for number in range(20):
        put(s3, f"pending-{number:02d}.csv", FORM_OF_THE_PUBLIC_TASK)
    until(lambda: output(s3).count(b"pending-") == 20)
    data = rowdrop.folder / "minio" / "data"
    with frozen(*named(rowdrop.folder, "-Q events")):
        for number in range(20):
            put(s3, f"pending-{number:02d}.csv", b"first_name,last_name,birthts\nNew,Name,1\n")
        (data / SOURCE).rename(data / "renamed")
        until(lambda: not s3.bucket_exists(SOURCE))
    before = output(s3)
    post(rowdrop, "/data")
    until(lambda: b"source bucket cannot be read" in rowdrop.get("/health/ready")[1])
    assert [line.split(b",")[0] for line in output(s3).splitlines()] == [
        line.split(b",")[0] for line in before.splitlines()
    ]
    (data / "renamed").rename(data / SOURCE)
    until(lambda: output(s3).count(b",New,Name,1,") == 20, patience_s=120)


def test_an_emptied_redis_costs_no_row(rowdrop: Run, s3: Minio) -> None:
    from redis import Redis

    # No user of Rowdrop may send FLUSHALL: the worker's may delete every key, and here it does so in one step.
    script = """
    local cursor = '0'
    repeat
      local found = redis.call('SCAN', cursor, 'COUNT', 1000)
      cursor = found[1]
      for _, key in ipairs(found[2]) do redis.call('DEL', key) end
    until cursor == '0'
    return redis.call('EXISTS', 'dirty', 'epoch')
    """
    with Redis.from_url(rowdrop.credentials_of("worker")["REDIS_URL"]) as client:
        for number in range(50):
            put(s3, f"flushed-{number:02d}.csv", FORM_OF_THE_PUBLIC_TASK)
            if number % 10 == 5:
                assert client.eval(script, 0) == 0  # in the same step: the listener marks the next user at any time
    until(lambda: output(s3).count(b"flushed-") == 50, patience_s=90)
    until(rowdrop.is_healthy, patience_s=90)


def test_an_object_that_grows_beyond_all_bounds_is_a_reject_and_stops_nobody(rowdrop: Run, s3: Minio) -> None:
    body = b"first_name,last_name,birthts\n" + b"x" * 5_000_000
    s3.put_object(SOURCE, "huge.csv", io.BytesIO(body), len(body))
    put(s3, "small.csv", FORM_OF_THE_PUBLIC_TASK)
    until(lambda: line_of(s3, "small"))
    until(lambda: [error for error in get(rowdrop, "/errors") if error["user_id"] == "huge"])
