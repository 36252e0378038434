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

from api.access.failure_limiter import MAX_FAILURES
from api.web.thread_pool import STORE_THREADS
from local.ports import find_free_port
from local.servers import MinioPorts, MinioServer, RedisServer, ServerUser
from shared.formats.output_csv import OUTPUT_HEADER
from shared.progress.rebuilds import Rebuilds
from shared.redis_keys import API_PROCESSES
from tests.api_process import ONE_ROW_CSV, ApiEnvironment, ApiProcess, wait_until
from tests.conftest import MINIO_PASSWORD, MINIO_USER


def test_api_serves_and_follows_published_output(api_environment: ApiEnvironment) -> None:
    api_environment.publish_output(ONE_ROW_CSV + b"0002,Ann,Lee,0,src-data/0002.png\n")
    wait_until(lambda: api_environment.shows_row_count(2))
    answer = api_environment.api.get("/data?is_image_exists=1")
    assert [row["user_id"] for row in answer.json] == ["0002"]
    etag = answer.headers["etag"]
    unchanged = api_environment.api.get("/data?is_image_exists=1", If_None_Match=etag)
    assert unchanged.status == 304
    assert api_environment.api.get("/stats").json["count"] == 2


def test_api_returns_503_before_first_publish(api_environment: ApiEnvironment) -> None:
    environment = {**api_environment.api.environment, "OUTPUT_BUCKET": "no-such-bucket"}
    with ApiProcess(environment, api_environment.api.log) as api:
        answer = api.get("/data")
        assert (answer.status, api.get("/health/live").status) == (503, 503)
        assert "retry-after" in answer.headers


def test_api_registers_both_processes(api_environment: ApiEnvironment) -> None:
    assert len(psutil.Process(api_environment.api.pid).children()) == 2
    assert api_environment.has_both_processes()


def test_api_replaces_killed_process_without_failed_gets(api_environment: ApiEnvironment) -> None:
    processes = psutil.Process(api_environment.api.pid).children
    killed = processes()[0]
    killed.kill()
    while killed in (now := processes()) or len(now) < 2:
        assert api_environment.api.get("/data").status == 200
    assert api_environment.shows_row_count(1)
    api_environment.publish_output(OUTPUT_HEADER)
    wait_until(lambda: api_environment.shows_row_count(0))


def test_api_without_redis_serves_gets_and_refuses_posts(api_environment: ApiEnvironment) -> None:
    assert {api_environment.api.post("/data").status for _ in range(10)} == {202}
    api_environment.redis_server.kill()
    wait_until(lambda: api_environment.api.get("/health/ready").status == 503)
    started_at = time.monotonic()
    for method, path in (("POST", "/data"), ("POST", "/data?wait=600"), ("GET", "/tasks/1")):
        assert api_environment.api.request(method, path).status == 503
    assert time.monotonic() - started_at < 5
    assert api_environment.shows_row_count(1)
    for path in ("/stats", "/errors", "/health/live"):
        assert api_environment.api.get(path).status == 200
    api_environment.store.put("output.csv", OUTPUT_HEADER)  # no message: found by polling
    wait_until(lambda: api_environment.shows_row_count(0))
    api_environment.redis_server.start()
    wait_until(lambda: api_environment.api.get("/health/ready").status == 200)
    with Redis.from_url(api_environment.redis_server.url) as redis:
        # The next POST must enqueue a rebuild, over a connection made before the outage.
        redis.flushall()
    assert {api_environment.api.post("/data").status for _ in range(10)} == {202}
    api_environment.publish_output(ONE_ROW_CSV)
    wait_until(lambda: api_environment.shows_row_count(1))


def test_api_with_frozen_redis_serves_gets_and_refuses_posts(
    api_environment: ApiEnvironment,
) -> None:
    os.kill(api_environment.redis_server.pid, signal.SIGSTOP)
    try:
        started_at = time.monotonic()
        assert api_environment.api.post("/data").status == 503
        assert time.monotonic() - started_at < 5
        assert api_environment.shows_row_count(1)
        wait_until(lambda: "Redis" in str(api_environment.api.get("/health/ready").json["reasons"]))
    finally:
        os.kill(api_environment.redis_server.pid, signal.SIGCONT)
    wait_until(lambda: api_environment.api.get("/health/ready").status == 200)


def test_api_starts_without_redis(api_environment: ApiEnvironment) -> None:
    api_environment.redis_server.kill()
    with ApiProcess(api_environment.api.environment, api_environment.api.log) as api:
        wait_until(lambda: api.get("/data").status == 200)
        assert api.get("/health/live").status == 200
        assert api.get("/health/ready").status == 503


def test_api_without_minio_serves_gets(
    minio_client: Minio, tmp_path: Path, minio_server: MinioServer
) -> None:
    with RedisServer(tmp_path / "redis", find_free_port(), ServerUser("", "a-password")) as redis:
        minio = MinioServer(
            tmp_path / "minio",
            MinioPorts(find_free_port(), find_free_port()),
            ServerUser(MINIO_USER, MINIO_PASSWORD),
            redis.address,
            minio_server.options,
        )
        with minio:
            Minio(f"127.0.0.1:{minio.port}", MINIO_USER, MINIO_PASSWORD, secure=False).make_bucket(
                "output"
            )
            api_environment = ApiEnvironment(minio, "output", redis, tmp_path / "api.log")
            api_environment.store.put("output.csv", ONE_ROW_CSV)
            stack = api_environment.api.__enter__()
            wait_until(api_environment.has_both_processes)
        try:
            wait_until(lambda: stack.get("/health/ready").status == 503)
            assert api_environment.shows_row_count(1)
            assert stack.get("/health/live").status == 200
            with minio:
                wait_until(lambda: stack.get("/health/ready").status == 200)
                api_environment.publish_output(OUTPUT_HEADER)
                wait_until(lambda: api_environment.shows_row_count(0))
        finally:
            stack.__exit__()


def test_api_with_frozen_minio_serves_rows(
    minio_client: Minio, tmp_path: Path, minio_server: MinioServer
) -> None:
    with RedisServer(tmp_path / "redis", find_free_port(), ServerUser("", "a-password")) as redis:
        minio = MinioServer(
            tmp_path / "minio",
            MinioPorts(find_free_port(), find_free_port()),
            ServerUser(MINIO_USER, MINIO_PASSWORD),
            redis.address,
            minio_server.options,
        )
        with minio, ThreadPoolExecutor(40) as threads:
            address = f"127.0.0.1:{minio.port}"
            client = Minio(address, MINIO_USER, MINIO_PASSWORD, secure=False)
            for bucket in ("output", "source"):
                client.make_bucket(bucket)
            api_environment = ApiEnvironment(minio, "output", redis, tmp_path / "api.log", "source")
            api_environment.store.put("output.csv", ONE_ROW_CSV)
            with api_environment.api:
                wait_until(api_environment.has_both_processes)
                minio_process = psutil.Process(minio.pid)
                minio_process.suspend()
                try:
                    requests = [
                        threads.submit(api_environment.api.get, "/files/1.csv") for _ in range(40)
                    ]
                    # Requests without a free thread are refused; the others wait for MinIO.
                    refused_count = 40 - 2 * STORE_THREADS
                    wait_until(lambda: sum(answer.done() for answer in requests) >= refused_count)
                    started_at = time.monotonic()
                    assert api_environment.shows_row_count(1)
                    assert time.monotonic() - started_at < 2
                finally:
                    minio_process.resume()
                assert {answer.result().status for answer in requests} <= {404, 503}


def test_api_shows_no_older_version_after_waited_post(api_environment: ApiEnvironment) -> None:
    with (
        Redis.from_url(api_environment.redis_server.url) as redis,
        ThreadPoolExecutor(1) as threads,
    ):
        rebuilds = Rebuilds(redis)
        for count in range(2, 12):
            answer = threads.submit(api_environment.api.post, "/data?wait=60")
            wait_until(rebuilds.get_queued_id)
            task_id = rebuilds.get_queued_id() or ""
            rebuilds.start(task_id, time.time())
            rebuilds.set_total(task_id, 0)
            rebuilds.mark_enqueued(task_id)
            # No message announces this version: the waiting POST makes every process check for it.
            api_environment.store.put(
                "output.csv", OUTPUT_HEADER + b"".join(b"%04d,,,0,\n" % n for n in range(count))
            )
            rebuilds.finish_if_done(time.time())
            assert (answer.result().status, answer.result().json["status"]) == (200, "updated")
            assert api_environment.shows_row_count(count)


def test_api_waiting_posts_do_not_block_gets(api_environment: ApiEnvironment) -> None:
    with ThreadPoolExecutor(12) as threads:
        posts = [threads.submit(api_environment.api.post, "/data?wait=4") for _ in range(12)]
        wait_until(lambda: any(post.done() for post in posts))  # those without a waiting slot
        started_at = time.monotonic()
        assert api_environment.shows_row_count(1)
        assert time.monotonic() - started_at < 2
        assert {post.result().status for post in posts} == {202}


def test_api_stops_promptly_and_unregisters(api_environment: ApiEnvironment) -> None:
    with (
        ApiProcess(api_environment.api.environment, api_environment.api.log) as api,
        Redis.from_url(api_environment.redis_server.url) as redis,
    ):
        wait_until(lambda: redis.hlen(API_PROCESSES) == 4)
        started_at = time.monotonic()
        os.kill(api.pid, signal.SIGTERM)
        wait_until(lambda: redis.hlen(API_PROCESSES) == 2)
        assert time.monotonic() - started_at < 8


# -- access ----------------------------------------------------------------------------------------
NAME = "rowdrop.example.org"
PROXIED = {"Host": NAME, "X_Forwarded_For": "203.0.113.9", "Via": "1.1 nginx"}
BEHIND_A_PROXY = {"BIND_ADDRESS": "127.0.0.1", "ALLOWED_HOSTS": NAME}
GENERATED = "generated-token-of-this-rowdrop"
WRITE = "write-token-of-the-operator"
READ = "read-token-of-a-dashboard"


def with_settings(api_environment: ApiEnvironment, **more: str) -> dict[str, str]:
    return {**api_environment.api.environment, **more}


def test_api_refuses_proxied_writes_without_token(
    api_environment: ApiEnvironment, tmp_path: Path
) -> None:
    api_environment.source.put("1.csv", b"before")
    with ApiProcess(with_settings(api_environment, **BEHIND_A_PROXY), tmp_path / "none.log") as api:
        assert api.request("PUT", "/files/1.csv", b"after", **PROXIED).status == 403
        assert api.request("DELETE", "/files/1.csv", None, **PROXIED).status == 403
        assert api.get("/data", **PROXIED).status == 403
        assert api.get("/files/1.csv", **PROXIED).status == 403
        assert api.request("DELETE", "/files/1.csv").status == 403  # 127.0.0.1 may be a proxy
        assert api.get("/health/live", **PROXIED).status == 200
    assert api.log.read_text().count("no API_TOKEN is set: every write") == 1
    with ApiProcess(
        with_settings(api_environment, **BEHIND_A_PROXY, GENERATED_API_TOKEN=GENERATED),
        tmp_path / "generated.log",
    ) as api:
        assert api.request("PUT", "/files/1.csv", b"after", **PROXIED).status == 401
        assert api.request("DELETE", "/files/1.csv", None, **PROXIED).status == 401
        assert api.get("/data", **PROXIED).status == 401
        assert api_environment.source.get("1.csv").body == b"before"
        sent = {**PROXIED, "Authorization": f"Bearer {GENERATED}"}
        assert api.get("/data", **sent).status == 200
        assert api.request("DELETE", "/files/1.csv", None, **sent).status == 202
    log = api.log.read_text()
    assert "no API_TOKEN is set" not in log
    assert "DELETE /files/1.csv by generated: 202" in log
    assert "refused DELETE /files/1.csv from 127.0.0.1: no token was sent" in log
    assert GENERATED not in log


def test_api_accepts_local_writes_without_token(
    api_environment: ApiEnvironment, tmp_path: Path
) -> None:
    environment = with_settings(api_environment, GENERATED_API_TOKEN=GENERATED)
    with ApiProcess(environment, tmp_path / "api.log") as api:
        assert api.request("PUT", "/files/1.csv", b"a").status == 202
        assert api.request("PUT", "/files/1.csv", b"a", X_Forwarded_For="127.0.0.1").status == 401
        wrong_token = f"Bearer {GENERATED}x"
        assert api.request("PUT", "/files/1.csv", b"a", Authorization=wrong_token).status == 401
    assert "PUT /files/1.csv by local: 202" in api.log.read_text()


def raw(api: ApiProcess, request: str) -> int:
    """Return the response status of a raw request, which http.client would refuse to send."""
    with socket.create_connection(("127.0.0.1", api.port), 10) as client:
        client.sendall(request.replace("\n", "\r\n").encode("latin-1"))
        return int(client.recv(100).split()[1])


def test_api_refuses_attempts_to_bypass_authentication(
    api_environment: ApiEnvironment, tmp_path: Path
) -> None:
    api_environment.source.put("1.csv", b"before")
    tokens = {
        "API_TOKENS": f"ci={WRITE}",
        "READ_TOKENS": f"web={READ}",
        "GENERATED_API_TOKEN": GENERATED,
    }
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
        *(
            f"POST {path} HTTP/1.1\nHost: localhost\n\n"
            for path in ("/data", "/data/", "/%64ata", "//data")
        ),
        *(
            f"{method} /data HTTP/1.1\nHost: localhost\n\n"
            for method in ("PATCH", "FOO", "TRACE", "PROPFIND")
        ),
    ]
    with ApiProcess(with_settings(api_environment, **tokens), tmp_path / "api.log") as api:
        for sent in authorizations:
            head = f"DELETE /files/1.csv HTTP/1.1\nHost: localhost\nAuthorization: {sent}\n\n"
            assert raw(api, head) in {400, 401}, sent
        for request in others:
            assert raw(api, request) in {400, 401}, request
        head = f"GET /data HTTP/1.1\nHost: localhost\nAuthorization: Bearer {READ}\n\n"
        assert raw(api, head) == 200
        head = f"DELETE /files/1.csv HTTP/1.1\nHost: localhost\nAuthorization: Bearer {READ}\n\n"
        assert raw(api, head) == 403
        assert api_environment.source.get("1.csv").body == b"before"
        head = (
            f"DELETE /files/1.csv HTTP/1.1\nHost: localhost\nAuthorization: bearer   {WRITE}  \n\n"
        )
        assert raw(api, head) == 202
    log = api.log.read_text()
    assert "DELETE /files/1.csv by ci: 202" in log
    assert not any(token in log for token in (WRITE[:-1], READ, GENERATED))


def test_api_treats_unusual_host_headers_as_remote(
    api_environment: ApiEnvironment, tmp_path: Path
) -> None:
    environment = with_settings(api_environment, GENERATED_API_TOKEN=GENERATED)
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


def test_api_logs_token_guessing_and_locks_out_no_client(
    api_environment: ApiEnvironment, tmp_path: Path
) -> None:
    environment = with_settings(api_environment, **BEHIND_A_PROXY, API_TOKEN=WRITE)
    with ApiProcess(environment, tmp_path / "api.log") as api, ThreadPoolExecutor(16) as threads:

        def send_wrong_token(number: int) -> int:
            return api.get("/data", Host=NAME, Authorization=f"Bearer guess-{number}").status

        requests = [threads.submit(send_wrong_token, number) for number in range(300)]
        started_at = time.monotonic()
        for _ in range(50):
            assert api.get("/data", Host=NAME, Authorization=f"Bearer {WRITE}").status == 200
            assert api.get("/health/live", Host=NAME).status == 200
        elapsed_s = time.monotonic() - started_at
        answers = [answer.result() for answer in requests]
        assert set(answers) == {401, 429}
        assert elapsed_s < 25  # 50 s or more if the delayed guesses held every thread
    log = api.log.read_text()
    assert 1 <= log.count("failed tokens from 127.0.0.1") <= 2  # each process has its own count
    assert MAX_FAILURES <= log.count("refused GET /data") <= 2 * MAX_FAILURES
    assert "guess-" not in log
    assert WRITE not in log


def test_api_log_contains_no_secret_and_no_query(api_environment: ApiEnvironment) -> None:
    api_environment.redis_server.kill()
    api_environment.api.get("/data?name=Ivan")
    wait_until(lambda: api_environment.api.get("/health/ready").status == 503)
    log = api_environment.api.log.read_text()
    assert MINIO_PASSWORD not in log
    assert "Ivan" not in log
    assert json.dumps(api_environment.api.get("/health/ready").json).find(MINIO_PASSWORD) == -1
