"""The API as it is run, on real servers that come and go: gunicorn, two processes, four threads each."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from minio import Minio
from redis import Redis

from api.presence import SNAPSHOTS
from api.transfers import MOST_AT_WORK
from local.ports import free_port
from local.servers import MinioServer, RedisServer
from shared.output_csv import HEADER
from shared.rebuilds import Rebuilds
from tests.api_process import ROWS, ApiProcess, Stage, eventually
from tests.conftest import PASSWORD, USER


def test_it_serves_what_is_published_and_follows(stage: Stage) -> None:
    stage.publish(ROWS + b"0002,Ann,Lee,0,src-data/0002.png\n")
    eventually(lambda: stage.every_process_shows(2))
    answer = stage.api.get("/data?is_image_exists=1")
    assert [row["user_id"] for row in answer.json] == ["0002"]
    assert stage.api.get("/data?is_image_exists=1", If_None_Match=answer.headers["etag"]).status == 304
    assert stage.api.get("/stats").json["count"] == 2


def test_before_the_first_publish_it_asks_to_come_again(stage: Stage) -> None:
    environment = {**stage.api.environment, "OUTPUT_BUCKET": "no-such-bucket"}
    with ApiProcess(environment, stage.api.log) as api:
        answer = api.get("/data")
        assert (answer.status, api.get("/health/live").status) == (503, 503)
        assert "retry-after" in answer.headers


def test_two_processes_answer_and_are_known_by_name(stage: Stage) -> None:
    assert len(psutil.Process(stage.api.pid).children()) == 2
    assert stage.both_processes_follow()


def test_a_killed_process_is_replaced_and_no_get_notices(stage: Stage) -> None:
    processes = psutil.Process(stage.api.pid).children
    killed = processes()[0]
    killed.kill()
    while killed in (now := processes()) or len(now) < 2:
        assert stage.api.get("/data").status == 200
    assert stage.every_process_shows(1)
    stage.publish(HEADER)
    eventually(lambda: stage.every_process_shows(0))


def test_a_redis_that_is_gone_stops_no_get_and_refuses_posts_at_once(stage: Stage) -> None:
    assert {stage.api.post("/data").status for _ in range(10)} == {202}
    stage.redis_server.kill()
    eventually(lambda: stage.api.get("/health/ready").status == 503)
    began = time.monotonic()
    for method, path in (("POST", "/data"), ("POST", "/data?wait=600"), ("GET", "/tasks/1")):
        assert stage.api.ask(method, path).status == 503
    assert time.monotonic() - began < 5
    assert stage.every_process_shows(1)
    for path in ("/stats", "/errors", "/health/live"):
        assert stage.api.get(path).status == 200
    stage.store.put("output.csv", HEADER)  # nobody can tell, so it is seen by looking
    eventually(lambda: stage.every_process_shows(0))
    stage.redis_server.start()
    eventually(lambda: stage.api.get("/health/ready").status == 200)
    with Redis.from_url(stage.redis_server.url) as redis:
        redis.flushall()  # so that the next one must be queued, over connections made before
    assert {stage.api.post("/data").status for _ in range(10)} == {202}
    stage.publish(ROWS)
    eventually(lambda: stage.every_process_shows(1))


def test_a_redis_that_hangs_does_neither(stage: Stage) -> None:
    os.kill(stage.redis_server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert stage.api.post("/data").status == 503
        assert time.monotonic() - began < 5
        assert stage.every_process_shows(1)
        eventually(lambda: "Redis" in str(stage.api.get("/health/ready").json["reasons"]))
    finally:
        os.kill(stage.redis_server.pid, signal.SIGCONT)
    eventually(lambda: stage.api.get("/health/ready").status == 200)


def test_it_starts_and_serves_with_redis_down(stage: Stage) -> None:
    stage.redis_server.kill()
    with ApiProcess(stage.api.environment, stage.api.log) as api:
        eventually(lambda: api.get("/data").status == 200)
        assert api.get("/health/live").status == 200
        assert api.get("/health/ready").status == 503


def test_a_minio_that_is_gone_stops_no_get(minio_client: Minio, tmp_path: Path, minio_server: MinioServer) -> None:
    with RedisServer(tmp_path / "redis", free_port(), "a-password") as redis:
        minio = MinioServer(
            tmp_path / "minio", free_port(), free_port(), USER, PASSWORD,
            redis.port, redis.password, minio_server.binary,
        )  # fmt: skip
        with minio:
            Minio(f"127.0.0.1:{minio.port}", USER, PASSWORD, secure=False).make_bucket("output")
            stage = Stage(minio, "output", redis, tmp_path / "api.log")
            stage.store.put("output.csv", ROWS)
            stack = stage.api.__enter__()
            eventually(stage.both_processes_follow)
        try:
            eventually(lambda: stack.get("/health/ready").status == 503)
            assert stage.every_process_shows(1)
            assert stack.get("/health/live").status == 200
            with minio:
                eventually(lambda: stack.get("/health/ready").status == 200)
                stage.publish(HEADER)
                eventually(lambda: stage.every_process_shows(0))
        finally:
            stack.__exit__()


def test_a_minio_that_hangs_keeps_no_get_of_rows_waiting(
    minio_client: Minio, tmp_path: Path, minio_server: MinioServer
) -> None:
    with RedisServer(tmp_path / "redis", free_port(), "a-password") as redis:
        minio = MinioServer(
            tmp_path / "minio", free_port(), free_port(), USER, PASSWORD,
            redis.port, redis.password, minio_server.binary,
        )  # fmt: skip
        with minio, ThreadPoolExecutor(40) as threads:
            for bucket in ("output", "source"):
                Minio(f"127.0.0.1:{minio.port}", USER, PASSWORD, secure=False).make_bucket(bucket)
            stage = Stage(minio, "output", redis, tmp_path / "api.log", "source")
            stage.store.put("output.csv", ROWS)
            with stage.api:
                eventually(stage.both_processes_follow)
                minio_process = psutil.Process(minio.pid)
                minio_process.suspend()
                try:
                    asked = [threads.submit(stage.api.get, "/files/1.csv") for _ in range(40)]
                    # Those that found no place are refused; the others wait for MinIO.
                    eventually(lambda: sum(answer.done() for answer in asked) >= 40 - 2 * MOST_AT_WORK)
                    began = time.monotonic()
                    assert stage.every_process_shows(1)
                    assert time.monotonic() - began < 2
                finally:
                    minio_process.resume()
                assert {answer.result().status for answer in asked} <= {404, 503}


def test_after_a_post_that_waited_no_process_shows_an_older_version(stage: Stage) -> None:
    with Redis.from_url(stage.redis_server.url) as redis, ThreadPoolExecutor(1) as threads:
        rebuilds = Rebuilds(redis)
        for count in range(2, 12):
            answer = threads.submit(stage.api.post, "/data?wait=60")
            eventually(rebuilds.queued)
            task_id = rebuilds.queued() or ""
            rebuilds.start(task_id, time.time())
            rebuilds.set_total(task_id, 0)
            rebuilds.set_named(task_id)
            # The publish that nobody was told of is the one that must be seen.
            stage.store.put("output.csv", HEADER + b"".join(b"%04d,,,0,\n" % n for n in range(count)))
            rebuilds.finish(time.time())
            assert (answer.result().status, answer.result().json["status"]) == (200, "updated")
            assert stage.every_process_shows(count)


def test_waiting_posts_do_not_keep_gets_waiting(stage: Stage) -> None:
    with ThreadPoolExecutor(12) as threads:
        posts = [threads.submit(stage.api.post, "/data?wait=4") for _ in range(12)]
        eventually(lambda: any(post.done() for post in posts))  # those that found no room
        began = time.monotonic()
        assert stage.every_process_shows(1)
        assert time.monotonic() - began < 2
        assert {post.result().status for post in posts} == {202}


def test_it_ends_at_once_and_leaves_no_name_behind(stage: Stage) -> None:
    with ApiProcess(stage.api.environment, stage.api.log) as api, Redis.from_url(stage.redis_server.url) as redis:
        eventually(lambda: redis.hlen(SNAPSHOTS) == 4)
        began = time.monotonic()
        os.kill(api.pid, signal.SIGTERM)
        eventually(lambda: redis.hlen(SNAPSHOTS) == 2)
        assert time.monotonic() - began < 8


def test_log_lines_hold_no_secret_and_no_request(stage: Stage) -> None:
    stage.redis_server.kill()
    stage.api.get("/data?name=Ivan")
    eventually(lambda: stage.api.get("/health/ready").status == 503)
    log = stage.api.log.read_text()
    assert PASSWORD not in log
    assert "Ivan" not in log
    assert json.dumps(stage.api.get("/health/ready").json).find(PASSWORD) == -1
