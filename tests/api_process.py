"""The API as it is run: gunicorn with its configuration and its processes, asked over HTTP."""

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

from api.presence import SNAPSHOTS, Presence
from local.ports import HOST, free_port
from local.servers import MinioServer, RedisServer
from shared.object_store import S3ObjectStore
from shared.output_csv import HEADER
from tests.conftest import PASSWORD, USER

ROOT = Path(__file__).parent.parent
ROWS = HEADER + b"0001,Ivan,Ivanov,946674000000,\n"


class Answer(NamedTuple):
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  whatever the answer is
        """The body, decoded."""
        return json.loads(self.body)


class ApiProcess:
    """gunicorn on a free port.  Every request has a connection of its own, so that any process may answer it."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.environment, self.log = environment, log
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start; some process answers by now, if only to say that nothing is published yet."""
        command = [sys.executable, "-m", "gunicorn", "-c", "api/gunicorn_conf.py", "--bind", f"{HOST}:{self.port}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "api.wsgi:app"],
                cwd=ROOT,
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and be sure that it ended by itself."""
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(20) == 0

    @property
    def pid(self) -> int:
        """Of the arbiter, the parent of those that answer."""
        assert self._process is not None
        return self._process.pid

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request."""
        connection = HTTPConnection(HOST, self.port, timeout=60)
        try:
            sent = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            body = response.read()
            return Answer(response.status, {name.lower(): text for name, text in response.getheaders()}, body)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.ask("GET", path, None, **headers)

    def post(self, path: str) -> Answer:
        """POST without a body."""
        return self.ask("POST", path)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            self.get("/health/live")
        except OSError:
            return False
        return True


class Stage:
    """One API with a Redis of its own and buckets of its own; `source` may be one that is not there."""

    def __init__(
        self, minio: MinioServer, bucket: str, redis: RedisServer, log: Path, source: str = "no-such-bucket"
    ) -> None:
        self.redis_server, self.bucket = redis, bucket
        self.store = S3ObjectStore(bucket, minio.endpoint, USER, PASSWORD, "us-east-1")
        self.source = S3ObjectStore(source, minio.endpoint, USER, PASSWORD, "us-east-1")
        self.api = ApiProcess(
            {
                "MINIO_ENDPOINT": minio.endpoint,
                "MINIO_ACCESS_KEY": USER,
                "MINIO_SECRET_KEY": PASSWORD,
                "REDIS_URL": redis.url,
                "OUTPUT_BUCKET": bucket,
                "SOURCE_BUCKET": source,
            },
            log,
        )

    def publish(self, body: bytes) -> None:
        self.store.put("output.csv", body)
        with Redis.from_url(self.redis_server.url) as redis:
            redis.publish("published", "etag")

    def both_processes_follow(self) -> bool:
        """Whether both are known, and have looked."""
        with Redis.from_url(self.redis_server.url) as redis:
            return redis.hlen(SNAPSHOTS) == 2 and Presence(redis).all_looked_since(1.0)

    def every_process_shows(self, count: int) -> bool:
        """Whether twenty answers in a row, whoever gave them, have so many rows."""
        answers = [self.api.get("/data") for _ in range(20)]
        return all(answer.status == 200 and len(answer.json) == count for answer in answers)


def eventually(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Return as soon as the condition holds; fail if it does not within the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {condition}"
        time.sleep(0.01)
