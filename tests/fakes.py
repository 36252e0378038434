"""Fakes of external systems. The contract tests of the real ones verify them.

See `tests/faults/test_fakes.py`. There is no fake Redis: the Lua scripts are the protocol, so every
test runs them on a real one.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from redis import Redis

from shared.object_store import (
    LIST_PAGE,
    NotModified,
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    Readable,
    Segment,
    StoredObject,
    StoreUnavailable,
)
from shared.task_queue import TaskQueue
from worker.server_figures import ServerFigures


@dataclass
class FakeObjectStore(ObjectStore):
    """A bucket in memory.

    `clock` returns Unix seconds. `reachable` False simulates an outage, or a missing bucket.
    `sealed`: the keys of objects that exist and cannot be read.
    """

    bucket: str
    clock: Callable[[], float]
    reachable: bool = True
    stored: dict[str, StoredObject] = field(default_factory=dict)
    others: dict[str, "FakeObjectStore"] = field(default_factory=dict)
    """Other buckets of the same server, by name: the sources of copies into this one."""
    sealed: set[str] = field(default_factory=set)

    def seal(self, key: str) -> None:
        """Write an object under this key that cannot be read."""
        self.put(key, b"sealed")
        self.sealed.add(key)

    def check_readable(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self._found(key)

    def listed(self, key: str) -> ObjectInfo | None:
        held = self._reached().get(key)
        return held and ObjectInfo(key, held.etag, held.last_modified, len(held.body))

    def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
        found = self._found(key)
        if found.etag == if_none_match:
            raise NotModified(key)
        return found if most is None or len(found.body) <= most else found._replace(body=found.body[: most + 1])

    def exists(self, key: str) -> bool:
        return key in self._reached()

    def last_modified(self, key: str) -> int:
        return self._found(key).last_modified

    def etag(self, key: str) -> str | None:
        info = self.info(key)
        return info and info.etag

    def info(self, key: str) -> ObjectInfo | None:
        self._refuse_sealed(key)
        return self.listed(key)

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        found = self._found(key)
        if found.etag != etag:
            raise PreconditionFailed(key)
        return found.body[start:end]

    def put(self, key: str, body: bytes) -> str:
        return self.put_at(key, body, self.clock())

    def put_at(self, key: str, body: bytes, modified: float) -> str:
        """Write with a given LastModified in Unix seconds, as a tar upload does."""
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self._reached()[key] = StoredObject(body, etag, int(modified))
        self.sealed.discard(key)
        return etag

    def replace(self, key: str, body: bytes, expected: str | None) -> str:
        if self.etag(key) != expected:
            raise PreconditionFailed(key)
        return self.put(key, body)

    def copy_from(self, bucket: str, key: str, to: str) -> None:
        there = self if bucket == self.bucket else self.others.get(bucket)
        if there is None:
            raise StoreUnavailable(f"{bucket}: no such bucket")
        self.put(to, there._found(key).body)

    def delete(self, key: str) -> None:
        self._reached().pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        # This listing is a snapshot. MinIO's listing may change between two pages.
        keys = [key for key in self._reached() if not folder or key.startswith(f"{folder}/")]
        found = sorted((key for key in keys if key.encode() > after.encode()), key=str.encode)
        listed = [ObjectInfo(key, held.etag, held.last_modified, len(held.body)) for key, held in self._of(found)]
        return (listed[start : start + LIST_PAGE] for start in range(0, len(listed), LIST_PAGE))

    def segment(
        self, key: str, start: int, length: int, if_match: str | None = None, if_none_match: str | None = None
    ) -> Segment:
        found = self._found(key)
        if found.etag == if_none_match:
            raise NotModified(key)
        if if_match not in {None, found.etag}:
            raise PreconditionFailed(key)
        return Segment(found.body[start : start + length], found.etag, found.last_modified, len(found.body))

    def upload(self, key: str, body: Readable, length: int) -> str:
        read = b""
        while len(read) < length:
            part = body.read(length - len(read))
            if not part:
                raise EOFError(f"{length - len(read)} bytes are missing")
            read += part
        return self.put(key, read)

    def page(self, prefix: str, after: str, most: int) -> list[ObjectInfo]:
        found = (info for page in self.objects(after) for info in page if info.key.startswith(prefix))
        return list(islice(found, most))

    def folders(self, folder: str) -> list[str]:
        rests = [key.removeprefix(f"{folder}/") for key in self._reached() if key.startswith(f"{folder}/")]
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def _of(self, keys: list[str]) -> Iterator[tuple[str, StoredObject]]:
        return ((key, self.stored[key]) for key in keys)

    def _found(self, key: str) -> StoredObject:
        found = self._reached().get(key)
        if found is None:
            raise ObjectNotFound(key)
        self._refuse_sealed(key)
        return found

    def _refuse_sealed(self, key: str) -> None:
        if key in self.sealed and key in self._reached():
            said = "It was stored using a form of Server Side Encryption."
            raise ObjectUnreadable(self.bucket, key, "InvalidRequest", said)

    def _reached(self) -> dict[str, StoredObject]:
        if not self.reachable:
            raise StoreUnavailable(f"{self.bucket}: not reachable")
        return self.stored


class FakeTaskQueue(TaskQueue):
    """A queue of JSON messages in the Redis lists that Celery uses.

    The lists' lengths and FLUSHALL therefore have the same effect as with Celery.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _send(self, queue: str, task: str, *arguments: object) -> None:
        self._redis.lpush(queue, json.dumps([task, arguments]))


class FakeFigures(ServerFigures):
    """MinIO's metrics, as set by the test; None if the server does not provide them."""

    def __init__(self, told: Callable[[], str | None]) -> None:
        self._told = told

    def read(self) -> str | None:
        return self._told()


class InlineExecutor(Executor):
    """Runs each call synchronously in the caller's thread: concurrent reads become sequential."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":  # noqa: ANN401
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  `result` raises it, as for any executor
            future.set_exception(error)
        return future
