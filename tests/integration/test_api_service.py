"""The API as it runs in production: gunicorn with two processes, on real servers with outages."""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from minio import Minio
from redis import Redis

from api.failures import MAX_FAILURES
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
    stage.store.put("output.csv", HEADER)  # no message: found by polling
    eventually(lambda: stage.every_process_shows(0))
    stage.redis_server.start()
    eventually(lambda: stage.api.get("/health/ready").status == 200)
    with Redis.from_url(stage.redis_server.url) as redis:
        # The next POST must enqueue a rebuild, over a connection made before the outage.
        redis.flushall()
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
                    # Requests without a free slot are refused; the others wait for MinIO.
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
            # No message announces this version: the waiting POST must make every process check for it.
            stage.store.put("output.csv", HEADER + b"".join(b"%04d,,,0,\n" % n for n in range(count)))
            rebuilds.finish(time.time())
            assert (answer.result().status, answer.result().json["status"]) == (200, "updated")
            assert stage.every_process_shows(count)


def test_waiting_posts_do_not_keep_gets_waiting(stage: Stage) -> None:
    with ThreadPoolExecutor(12) as threads:
        posts = [threads.submit(stage.api.post, "/data?wait=4") for _ in range(12)]
        eventually(lambda: any(post.done() for post in posts))  # those without a waiting slot
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


# -- access ----------------------------------------------------------------------------------------
NAME = "rowdrop.example.org"
PROXIED = {"Host": NAME, "X_Forwarded_For": "203.0.113.9", "Via": "1.1 nginx"}
BEHIND_A_PROXY = {"BIND_ADDRESS": "127.0.0.1", "ALLOWED_HOSTS": NAME}
GENERATED = "generated-token-of-this-rowdrop"
WRITE = "write-token-of-the-operator"
READ = "read-token-of-a-dashboard"


def with_settings(stage: Stage, **more: str) -> dict[str, str]:
    return {**stage.api.environment, **more}


def test_writes_through_a_proxy_are_refused_without_a_token(stage: Stage, tmp_path: Path) -> None:
    stage.source.put("1.csv", b"before")
    with ApiProcess(with_settings(stage, **BEHIND_A_PROXY), tmp_path / "none.log") as api:
        assert api.ask("PUT", "/files/1.csv", b"after", **PROXIED).status == 403
        assert api.ask("DELETE", "/files/1.csv", None, **PROXIED).status == 403
        assert api.get("/data", **PROXIED).status == 403
        assert api.get("/files/1.csv", **PROXIED).status == 403
        assert api.ask("DELETE", "/files/1.csv").status == 403  # 127.0.0.1 may be a proxy
        assert api.get("/health/live", **PROXIED).status == 200
    assert api.log.read_text().count("no API_TOKEN is set: every write") == 1
    with ApiProcess(
        with_settings(stage, **BEHIND_A_PROXY, GENERATED_API_TOKEN=GENERATED),
        tmp_path / "generated.log",
    ) as api:
        assert api.ask("PUT", "/files/1.csv", b"after", **PROXIED).status == 401
        assert api.ask("DELETE", "/files/1.csv", None, **PROXIED).status == 401
        assert api.get("/data", **PROXIED).status == 401
        assert stage.source.get("1.csv").body == b"before"
        sent = {**PROXIED, "Authorization": f"Bearer {GENERATED}"}
        assert api.get("/data", **sent).status == 200
        assert api.ask("DELETE", "/files/1.csv", None, **sent).status == 202
    log = api.log.read_text()
    assert "no API_TOKEN is set" not in log
    assert "DELETE /files/1.csv by generated: 202" in log
    assert "refused DELETE /files/1.csv from 127.0.0.1: no token was sent" in log
    assert GENERATED not in log


def test_this_machine_writes_without_a_token_beside_a_generated_one(stage: Stage, tmp_path: Path) -> None:
    environment = with_settings(stage, GENERATED_API_TOKEN=GENERATED)
    with ApiProcess(environment, tmp_path / "api.log") as api:
        assert api.ask("PUT", "/files/1.csv", b"a").status == 202
        assert api.ask("PUT", "/files/1.csv", b"a", X_Forwarded_For="127.0.0.1").status == 401
        assert api.ask("PUT", "/files/1.csv", b"a", Authorization=f"Bearer {GENERATED}x").status == 401
    assert "PUT /files/1.csv by local: 202" in api.log.read_text()


def raw(api: ApiProcess, request: str) -> int:
    """Return the response status of a raw request, which http.client would refuse to send."""
    with socket.create_connection(("127.0.0.1", api.port), 10) as client:
        client.sendall(request.replace("\n", "\r\n").encode("latin-1"))
        return int(client.recv(100).split()[1])


def test_ways_past_the_guard_are_refused(stage: Stage, tmp_path: Path) -> None:
    stage.source.put("1.csv", b"before")
    tokens = {"API_TOKENS": f"ci={WRITE}", "READ_TOKENS": f"web={READ}", "GENERATED_API_TOKEN": GENERATED}
    authorizations = [
        f"Bearer\t{WRITE}",
        f"Bearer {WRITE[:-1]}",
        f"Bearer {WRITE}%00",
        "Bearer ",
        f"Basic {WRITE}",
        f"Bearer x\nAuthorization: Bearer {WRITE}",
        f"Bearer {WRITE}\nAuthorization: Bearer x",
        f"Bearer {WRITE}\xe9",
    ]
    others = [
        f"DELETE /files/1.csv?token={WRITE} HTTP/1.1\nHost: localhost\n\n",
        f"DELETE /files/1.csv HTTP/1.1\nHost: localhost\nHTTP_AUTHORIZATION: Bearer {WRITE}\n\n",
        "DELETE http://localhost/files/1.csv HTTP/1.1\nHost: localhost\n\n",
        "DELETE /files/1.csv HTTP/1.1\nHost: localhost\nPATH_INFO: /health/live\n\n",
        "DELETE /files/1.csv HTTP/1.1\nHost: localhost\nX-HTTP-Method-Override: GET\n\n",
        "DELETE /health/live/../../files/1.csv HTTP/1.1\nHost: localhost\n\n",
        "DELETE /files/1.csv HTTP/1.0\n\n",
        *(f"POST {path} HTTP/1.1\nHost: localhost\n\n" for path in ("/data", "/data/", "/%64ata", "//data")),
        *(f"{method} /data HTTP/1.1\nHost: localhost\n\n" for method in ("PATCH", "FOO", "TRACE", "PROPFIND")),
    ]
    with ApiProcess(with_settings(stage, **tokens), tmp_path / "api.log") as api:
        for sent in authorizations:
            head = f"DELETE /files/1.csv HTTP/1.1\nHost: localhost\nAuthorization: {sent}\n\n"
            assert raw(api, head) in {400, 401}, sent
        for request in others:
            assert raw(api, request) in {400, 401}, request
        assert raw(api, f"GET /data HTTP/1.1\nHost: localhost\nAuthorization: Bearer {READ}\n\n") == 200
        head = f"DELETE /files/1.csv HTTP/1.1\nHost: localhost\nAuthorization: Bearer {READ}\n\n"
        assert raw(api, head) == 403
        assert stage.source.get("1.csv").body == b"before"
        head = f"DELETE /files/1.csv HTTP/1.1\nHost: localhost\nAuthorization: bearer   {WRITE}  \n\n"
        assert raw(api, head) == 202
    log = api.log.read_text()
    assert "DELETE /files/1.csv by ci: 202" in log
    assert not any(token in log for token in (WRITE[:-1], READ, GENERATED))


def test_hosts_that_no_browser_sends_are_not_local(stage: Stage, tmp_path: Path) -> None:
    environment = with_settings(stage, GENERATED_API_TOKEN=GENERATED)
    with ApiProcess(environment, tmp_path / "api.log") as api:
        for lines in (
            "GET /data HTTP/1.0\n\n",
            "GET /data HTTP/1.1\nHost:\n\n",
            "GET /data HTTP/1.1\nHost: 10.0.0.1\n\n",
            "GET http://localhost/data HTTP/1.1\nHost: 10.0.0.1\n\n",
            "GET /data HTTP/1.1\nHost: 10.0.0.1\nHost: localhost\n\n",
            "GET /data HTTP/1.1\nHost: localhost, 10.0.0.1\n\n",
            "GET /data HTTP/1.1\nHost: a,b.localhost\n\n",
        ):
            assert raw(api, lines) in {400, 401, 421}, lines
        assert raw(api, "GET /data HTTP/1.1\nHost: a.localhost\n\n") == 200


def test_guessing_tokens_is_logged_and_keeps_nobody_out(stage: Stage, tmp_path: Path) -> None:
    environment = with_settings(stage, **BEHIND_A_PROXY, API_TOKEN=WRITE)
    with ApiProcess(environment, tmp_path / "api.log") as api, ThreadPoolExecutor(16) as threads:

        def guess(number: int) -> int:
            return api.get("/data", Host=NAME, Authorization=f"Bearer guess-{number}").status

        guesses = [threads.submit(guess, number) for number in range(300)]
        began = time.monotonic()
        for _ in range(50):
            assert api.get("/data", Host=NAME, Authorization=f"Bearer {WRITE}").status == 200
            assert api.get("/health/live", Host=NAME).status == 200
        took = time.monotonic() - began
        answers = [answer.result() for answer in guesses]
        assert set(answers) == {401, 429}
        assert took < 25  # 50 s or more if the delayed guesses held every thread
    log = api.log.read_text()
    assert 1 <= log.count("failed tokens from 127.0.0.1") <= 2  # each process has its own count
    assert MAX_FAILURES <= log.count("refused GET /data") <= 2 * MAX_FAILURES
    assert "guess-" not in log
    assert WRITE not in log


def test_log_lines_hold_no_secret_and_no_request(stage: Stage) -> None:
    stage.redis_server.kill()
    stage.api.get("/data?name=Ivan")
    eventually(lambda: stage.api.get("/health/ready").status == 503)
    log = stage.api.log.read_text()
    assert PASSWORD not in log
    assert "Ivan" not in log
    assert json.dumps(stage.api.get("/health/ready").json).find(PASSWORD) == -1
