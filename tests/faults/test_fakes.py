"""The fakes behave like the real servers: they pass the same contract tests."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis import Redis

from local.servers import RedisServer
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE, TaskQueue, create_celery
from tests.contract import test_object_store as contract
from tests.fakes import FakeObjectStore, FakeTaskQueue

globals().update({name: value for name, value in vars(contract).items() if name.startswith("test_")})
"""The whole contract of an object store. The fixtures below replace those of a real MinIO."""


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore("bucket", lambda: 1_795_000_000.5)


@pytest.fixture
def beside(store: FakeObjectStore) -> FakeObjectStore:
    return FakeObjectStore("beside", lambda: 0.0, others={store.bucket: store})


@pytest.fixture
def no_bucket() -> FakeObjectStore:
    return FakeObjectStore("no-such-bucket", lambda: 0.0, reachable=False)


@pytest.fixture
def stranger(no_bucket: FakeObjectStore) -> FakeObjectStore:
    return no_bucket


@pytest.fixture
def nowhere(no_bucket: FakeObjectStore) -> FakeObjectStore:
    return no_bucket


@pytest.fixture
def seal(store: FakeObjectStore) -> Callable[[str, str], None]:
    def seal(bucket: str, key: str) -> None:
        assert bucket == store.bucket
        store.seal(key)

    return seal


@dataclass
class Client:
    """The write interface of minio-py."""

    store: FakeObjectStore

    def put_object(self, bucket: str, key: str, data: io.BytesIO, length: int) -> None:
        assert (bucket, length) == (self.store.bucket, len(data.getvalue()))
        self.store.put(key, data.getvalue())


@pytest.fixture
def minio_client(store: FakeObjectStore) -> Client:
    return Client(store)


# -- messages --------------------------------------------------------------------------------------
def celery_says(message: bytes) -> tuple[str, list[Any]]:
    """Return task and arguments of a message in the form in which Celery stores it in Redis."""
    envelope = json.loads(message)
    arguments, _, _ = json.loads(base64.b64decode(envelope["body"]))
    return envelope["headers"]["task"], arguments


def fake_says(message: bytes) -> tuple[str, list[Any]]:
    task, arguments = json.loads(message)
    return task, arguments


def messages(redis: "Redis", queue: TaskQueue, says: Callable[[bytes], Any]) -> dict[str, list[Any]]:
    """Return the messages of both queues, in the order in which a worker takes them."""
    redis.flushall()
    queue.refresh(["a", "ü"])
    queue.refresh(["b"])
    queue.refresh_alone("c", EVENTS_QUEUE)
    queue.refresh_alone("d", BULK_QUEUE)
    queue.refresh_page()
    queue.refresh_asked("e", "an id")
    queue.sweep("a cause")
    queue.rebuild("an id")
    queue.unpack("u.zip")
    found = {}
    for name in (EVENTS_QUEUE, BULK_QUEUE):
        lengths: Any = redis.llen(name)
        found[name] = [says(redis.rpop(name)) for _ in range(lengths)]  # type: ignore[arg-type]
    return found


def test_a_worker_finds_the_same_messages_in_the_same_places(redis: "Redis", redis_server: RedisServer) -> None:
    real = TaskQueue(create_celery(redis_server.url))
    found = messages(redis, real, celery_says)
    real.close()
    assert messages(redis, FakeTaskQueue(redis), fake_says) == found
    assert found[EVENTS_QUEUE][0] == ("refresh", [["a", "ü"]])
