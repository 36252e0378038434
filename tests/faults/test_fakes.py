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

globals().update(
    {name: value for name, value in vars(contract).items() if name.startswith("test_")}
)
"""The whole contract of an object store. The fixtures below replace those of a real MinIO."""


@pytest.fixture
def store() -> FakeObjectStore:
    return FakeObjectStore("bucket", lambda: 1_795_000_000.5)


@pytest.fixture
def open_files() -> Callable[[FakeObjectStore], FakeObjectStore]:
    """Return the fake itself, which implements both ports."""
    return lambda store: store


@pytest.fixture
def other_store(store: FakeObjectStore) -> FakeObjectStore:
    return FakeObjectStore("beside", lambda: 0.0, other_buckets={store.bucket: store})


@pytest.fixture
def missing_bucket_store() -> FakeObjectStore:
    return FakeObjectStore("no-such-bucket", lambda: 0.0, is_reachable=False)


@pytest.fixture
def unauthorized_store(missing_bucket_store: FakeObjectStore) -> FakeObjectStore:
    return missing_bucket_store


@pytest.fixture
def unreachable_store(missing_bucket_store: FakeObjectStore) -> FakeObjectStore:
    return missing_bucket_store


@pytest.fixture
def make_unreadable(store: FakeObjectStore) -> Callable[[str, str], None]:
    def replace_object(bucket: str, key: str) -> None:
        assert bucket == store.bucket
        store.make_unreadable(key)

    return replace_object


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
def parse_celery_message(message: bytes) -> tuple[str, list[Any]]:
    """Return task and arguments of a message in the form in which Celery stores it in Redis."""
    envelope = json.loads(message)
    arguments, _, _ = json.loads(base64.b64decode(envelope["body"]))
    return envelope["headers"]["task"], arguments


def parse_fake_message(message: bytes) -> tuple[str, list[Any]]:
    task, arguments = json.loads(message)
    return task, arguments


def messages(
    redis: "Redis", queue: TaskQueue, parse: Callable[[bytes], Any]
) -> dict[str, list[Any]]:
    """Return the messages of both queues, in the order in which a worker takes them."""
    redis.flushall()
    queue.refresh(["a", "ü"])
    queue.refresh(["b"])
    queue.refresh_isolated("c", EVENTS_QUEUE)
    queue.refresh_isolated("d", BULK_QUEUE)
    queue.refresh_page()
    queue.refresh_requested("e", "an id")
    queue.sweep("a cause")
    queue.rebuild("an id")
    queue.unpack("u.zip")
    sent_messages = {}
    for name in (EVENTS_QUEUE, BULK_QUEUE):
        lengths: Any = redis.llen(name)
        sent_messages[name] = [parse(redis.rpop(name)) for _ in range(lengths)]  # type: ignore[arg-type]
    return sent_messages


def test_fake_task_queue_stores_same_messages_as_celery(
    redis: "Redis", redis_server: RedisServer
) -> None:
    real = TaskQueue(create_celery(redis_server.url))
    expected = messages(redis, real, parse_celery_message)
    real.close()
    assert messages(redis, FakeTaskQueue(redis), parse_fake_message) == expected
    assert expected[EVENTS_QUEUE][0] == ("refresh", [["a", "ü"]])
