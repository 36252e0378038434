"""Real API processes for tests: gunicorn with its production configuration, used over HTTP."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple, Self

from redis import Redis

from api.snapshot.process_registry import ProcessRegistry
from local.ports import HOST, find_free_port
from local.servers import MinioServer, RedisServer
from shared.formats.output_csv import OUTPUT_HEADER
from shared.redis_keys import API_PROCESSES, PUBLISH_DONE_CHANNEL
from shared.s3.connection import S3Connection
from shared.s3.objects import S3ObjectStore
from tests.conftest import MINIO_PASSWORD, MINIO_USER

ROOT = Path(__file__).parent.parent
ONE_ROW_CSV = OUTPUT_HEADER + b"0001,Ivan,Ivanov,946674000000,\n"


class ApiResponse(NamedTuple):
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401
        """The decoded JSON body."""
        return json.loads(self.body)


class ApiProcess:
    """gunicorn on a free port.

    Every request opens a new connection, so that any of the processes may answer it.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.environment = environment
        self.log = log
        self.port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start gunicorn; return when a process answers, even if only with a 503."""
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "api/gunicorn_conf.py",
            "--bind",
            f"{HOST}:{self.port}",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "api.asgi:app"],
                cwd=ROOT,
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._is_listening)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop gunicorn with SIGTERM; fail unless it exits with status 0 within 20 s."""
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(20) == 0

    @property
    def pid(self) -> int:
        """The PID of the arbiter, the parent of the processes that answer."""
        assert self._process is not None
        return self._process.pid

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> ApiResponse:
        """Send one request and return the answer."""
        connection = HTTPConnection(HOST, self.port, timeout=60)
        try:
            sent_headers = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request(method, path, body, sent_headers)
            response = connection.getresponse()
            body = response.read()
            return ApiResponse(
                response.status, {name.lower(): text for name, text in response.getheaders()}, body
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> ApiResponse:
        """Send a GET request."""
        return self.request("GET", path, None, **headers)

    def post(self, path: str) -> ApiResponse:
        """Send a POST request without a body."""
        return self.request("POST", path)

    def _is_listening(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            self.get("/health/live")
        except OSError:
            return False
        return True


class ApiEnvironment:
    """One API with a separate Redis and separate buckets.

    By default the source bucket does not exist.
    """

    def __init__(
        self,
        minio: MinioServer,
        bucket: str,
        redis: RedisServer,
        log: Path,
        source: str = "no-such-bucket",
    ) -> None:
        self.redis_server = redis
        self.bucket = bucket
        self.store = S3ObjectStore(
            S3Connection(bucket, minio.endpoint, MINIO_USER, MINIO_PASSWORD, "us-east-1")
        )
        self.source = S3ObjectStore(
            S3Connection(source, minio.endpoint, MINIO_USER, MINIO_PASSWORD, "us-east-1")
        )
        self.api = ApiProcess(
            {
                "MINIO_ENDPOINT": minio.endpoint,
                "MINIO_ACCESS_KEY": MINIO_USER,
                "MINIO_SECRET_KEY": MINIO_PASSWORD,
                "REDIS_URL": redis.url,
                "OUTPUT_BUCKET": bucket,
                "SOURCE_BUCKET": source,
            },
            log,
        )

    def publish_output(self, body: bytes) -> None:
        self.store.put("output.csv", body)
        with Redis.from_url(self.redis_server.url) as redis:
            redis.publish(PUBLISH_DONE_CHANNEL, "etag")

    def has_both_processes(self) -> bool:
        """Return whether both processes are registered and have completed a round."""
        with Redis.from_url(self.redis_server.url) as redis:
            return redis.hlen(API_PROCESSES) == 2 and ProcessRegistry(redis).all_polled_since(1.0)

    def shows_row_count(self, count: int) -> bool:
        """Return whether twenty consecutive answers, from any process, have `count` rows."""
        responses = [self.api.get("/data") for _ in range(20)]
        return all(answer.status == 200 and len(answer.json) == count for answer in responses)


def wait_until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Return as soon as the condition holds; fail after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"condition not met within {timeout_s} s: {condition}"
        time.sleep(0.01)
