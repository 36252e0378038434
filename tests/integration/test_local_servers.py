"""`local.servers`: the servers that run.sh, the tests and the benchmarks start."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.notificationconfig import NotificationConfig, QueueConfig
from redis import Redis

from local.errors import StartupError
from local.ports import find_free_port
from local.servers import MinioOptions, MinioPorts, MinioServer, RedisServer, ServerUser, find_minio
from shared.redis_keys import FAST_EVENTS

USER = "somebody"
PASSWORD = "a-password-%-of-\"'-tests"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(
        tmp_path / "a folder" / "redis", find_free_port(), ServerUser("", PASSWORD)
    ) as server:
        yield server


@pytest.fixture
def own_minio(tmp_path: Path, own_redis: RedisServer) -> Iterator[MinioServer]:
    server = MinioServer(
        tmp_path / "a folder" / "minio",
        MinioPorts(find_free_port(), find_free_port()),
        ServerUser(USER, PASSWORD),
        own_redis.address,
        MinioOptions(find_minio()),
    )
    with server:
        yield server


def connect(server: RedisServer) -> "Redis":
    return Redis(port=server.port, password=server.user.password, decode_responses=True)


def wait_until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timeout: the condition is still false"
        time.sleep(0.01)


def create_notifying_bucket(minio: MinioServer, bucket: str) -> Minio:
    """Return a client, and create a bucket that sends the events of new objects to Redis."""
    client = Minio(urlsplit(minio.endpoint).netloc, USER, PASSWORD, secure=False)
    client.make_bucket(bucket)
    created = ["s3:ObjectCreated:*"]
    rule = QueueConfig(queue="arn:minio:sqs::FAST:redis", events=created, config_id="new")
    client.set_bucket_notification(bucket, NotificationConfig(queue_config_list=[rule]))
    return client


def test_redis_server_needs_password_and_never_evicts(own_redis: RedisServer) -> None:
    with connect(own_redis) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert own_redis.url.startswith("redis://:")
    assert PASSWORD not in " ".join(own_redis.build_command())
    assert (own_redis.folder / "redis.conf").stat().st_mode & 0o777 == 0o600


def test_redis_server_keeps_data_across_restart(own_redis: RedisServer) -> None:
    with connect(own_redis) as client:
        client.set("kept", "yes")
    own_redis.stop()
    own_redis.start()
    with connect(own_redis) as client:
        assert client.get("kept") == "yes"


def test_minio_server_sends_events_after_kill(
    own_redis: RedisServer, own_minio: MinioServer
) -> None:
    client = create_notifying_bucket(own_minio, "told")
    own_minio.kill()
    own_minio.start()
    own_minio.wait_ready()
    client.put_object("told", "0001.csv", io.BytesIO(b"x"), 1)
    with connect(own_redis) as redis:
        wait_until(lambda: redis.llen(FAST_EVENTS) == 1)


def test_minio_server_command_line_contains_no_secret(own_minio: MinioServer) -> None:
    assert PASSWORD not in " ".join(own_minio.build_command())


def test_redis_server_reports_why_it_cannot_start(own_redis: RedisServer, tmp_path: Path) -> None:
    second = RedisServer(tmp_path / "second", own_redis.port, ServerUser("", "another password"))
    with pytest.raises(StartupError, match=r"Redis exited with code 1:(.|\n)*in use"):
        second.start()
    second.stop()


def test_redis_server_stop_is_harmless_when_stopped(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", find_free_port(), ServerUser("", PASSWORD))
    server.stop()
    server.start()
    server.kill()
    server.stop()
