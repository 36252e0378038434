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
    LIST_PAGE_SIZE,
    ByteReader,
    NotModified,
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    Segment,
    StoredObject,
    StoreUnavailable,
)
from shared.task_queue import TaskQueue
from worker.source.metrics import MinioMetrics


class DelegatingStore:
    """Passes all requests on to another store. Subclasses alter some of them."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.inner, name)


@dataclass
class FakeObjectStore(ObjectStore):
    """A bucket in memory.

    `clock` returns Unix seconds. `is_reachable` False simulates an outage, or a missing bucket.
    `unreadable_keys`: the keys of objects that exist and cannot be read.
    """

    bucket: str
    clock: Callable[[], float]
    is_reachable: bool = True
    objects: dict[str, StoredObject] = field(default_factory=dict)
    other_buckets: dict[str, "FakeObjectStore"] = field(default_factory=dict)
    """Other buckets of the same server, by name: the sources of copies into this one."""
    unreadable_keys: set[str] = field(default_factory=set)
    source_etags: dict[str, str] = field(default_factory=dict)
    """The ETags of the sources of copies, by key of the copy."""

    def make_unreadable(self, key: str) -> None:
        """Write an object under this key that cannot be read."""
        self.put(key, b"sealed")
        self.unreadable_keys.add(key)

    def check_readable(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self._read_object(key)

    def get_list_entry(self, key: str) -> ObjectInfo | None:
        stored = self._get_objects().get(key)
        return stored and ObjectInfo(key, stored.etag, stored.last_modified, len(stored.body))

    def get(
        self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
    ) -> StoredObject:
        stored = self._read_object(key)
        if stored.etag == if_none_match:
            raise NotModified(key)
        if max_bytes is None or len(stored.body) <= max_bytes:
            return stored
        return stored._replace(body=stored.body[: max_bytes + 1])

    def exists(self, key: str) -> bool:
        return key in self._get_objects()

    def get_etag(self, key: str) -> str | None:
        self._check_readable(key)
        info = self.get_list_entry(key)
        return info and info.etag

    def get_info(self, key: str) -> ObjectInfo | None:
        self._check_readable(key)
        info = self.get_list_entry(key)
        return info and info._replace(source_etag=self.source_etags.get(key, ""))

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        stored = self._read_object(key)
        if stored.etag != etag:
            raise PreconditionFailed(key)
        return stored.body[start:end]

    def put(self, key: str, body: bytes) -> str:
        return self.put_with_time(key, body, self.clock())

    def put_with_time(self, key: str, body: bytes, modified: float) -> str:
        """Write with a given LastModified in Unix seconds, as a tar upload does."""
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self._get_objects()[key] = StoredObject(body, etag, int(modified))
        self.unreadable_keys.discard(key)
        self.source_etags.pop(key, None)
        return etag

    def put_if_unchanged(self, key: str, body: bytes, expected: str | None) -> str:
        if self.get_etag(key) != expected:
            raise PreconditionFailed(key)
        return self.put(key, body)

    def copy_from(
        self, bucket: str, key: str, to: str, source_etag: str = "", *, if_match: bool = False
    ) -> str:
        source_bucket = self if bucket == self.bucket else self.other_buckets.get(bucket)
        if source_bucket is None:
            raise StoreUnavailable(f"{bucket}: no such bucket")
        source = source_bucket._read_object(key)
        if if_match and source.etag != source_etag:
            raise PreconditionFailed(key)
        etag = self.put(to, source.body)
        self.source_etags[to] = source_etag
        return etag if source_etag else ""

    def delete(self, key: str) -> None:
        self._get_objects().pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def list_objects(
        self, after: str = "", folder: str = "", *, with_source_etags: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        # This listing is a snapshot. MinIO's listing may change between two pages.
        keys = [key for key in self._get_objects() if not folder or key.startswith(f"{folder}/")]
        keys_after = sorted((key for key in keys if key.encode() > after.encode()), key=str.encode)
        listed = [
            ObjectInfo(
                key,
                stored.etag,
                stored.last_modified,
                len(stored.body),
                self.source_etags.get(key, "") if with_source_etags else "",
            )
            for key, stored in self._iterate_objects(keys_after)
        ]
        return (
            listed[start : start + LIST_PAGE_SIZE]
            for start in range(0, len(listed), LIST_PAGE_SIZE)
        )

    def get_segment(
        self,
        key: str,
        start: int,
        length: int,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Segment:
        stored = self._read_object(key)
        if stored.etag == if_none_match:
            raise NotModified(key)
        if if_match not in {None, stored.etag}:
            raise PreconditionFailed(key)
        return Segment(
            stored.body[start : start + length],
            stored.etag,
            stored.last_modified,
            len(stored.body),
        )

    def upload(self, key: str, body: ByteReader, length: int) -> str:
        read = b""
        while len(read) < length:
            part = body.read(length - len(read))
            if not part:
                raise EOFError(f"{length - len(read)} bytes are missing")
            read += part
        return self.put(key, read)

    def list_page(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        infos = (
            info
            for page in self.list_objects(after)
            for info in page
            if info.key.startswith(prefix)
        )
        return list(islice(infos, limit))

    def list_folders(self, folder: str) -> list[str]:
        relative_keys = [
            key.removeprefix(f"{folder}/")
            for key in self._get_objects()
            if key.startswith(f"{folder}/")
        ]
        return sorted({rest.partition("/")[0] for rest in relative_keys if "/" in rest})

    def _iterate_objects(self, keys: list[str]) -> Iterator[tuple[str, StoredObject]]:
        return ((key, self.objects[key]) for key in keys)

    def _read_object(self, key: str) -> StoredObject:
        stored = self._get_objects().get(key)
        if stored is None:
            raise ObjectNotFound(key)
        self._check_readable(key)
        return stored

    def _check_readable(self, key: str) -> None:
        if key in self.unreadable_keys and key in self._get_objects():
            message = "It was stored using a form of Server Side Encryption."
            raise ObjectUnreadable(self.bucket, key, "InvalidRequest", message)

    def _get_objects(self) -> dict[str, StoredObject]:
        if not self.is_reachable:
            raise StoreUnavailable(f"{self.bucket}: not reachable")
        return self.objects


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


class FakeMinioMetrics(MinioMetrics):
    """MinIO's metrics, as set by the test; None if the server does not provide them."""

    def __init__(self, get_metrics: Callable[[], str | None]) -> None:
        self._get_metrics = get_metrics

    def read(self) -> str | None:
        return self._get_metrics()


class InlineExecutor(Executor):
    """Runs each call synchronously in the caller's thread: concurrent reads become sequential."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":  # noqa: ANN401
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  `result` raises it, as for any executor
            future.set_exception(error)
        return future
