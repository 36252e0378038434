"""The buckets of a history, in memory or on a real MinIO, and what MinIO says of each write."""

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, Protocol

from minio import Minio
from minio.commonconfig import SnowballObject
from minio.deleteobjects import DeleteObject
from minio.notificationconfig import NotificationConfig, QueueConfig
from redis import Redis

from shared.object_store import ObjectStore
from tests.factories import notification
from tests.fakes import FakeObjectStore
from worker.backlog import FAST
from worker.notifications import EVENTS, arn

EVENT_PATIENCE_S = 30

Member = tuple[str, bytes, float]
"""Of a tar: key, body, LastModified."""


class Servers(Protocol):
    """Two buckets.  Every write returns the events that it caused, each as MinIO would push it."""

    @property
    def source(self) -> ObjectStore:
        """Where people drop."""

    @property
    def output(self) -> ObjectStore:
        """What is published."""

    def put(self, key: str, body: bytes) -> list[bytes]:
        """Write one object."""

    def unpack(self, members: Sequence[Member]) -> Iterator[bytes]:
        """Upload a tar that MinIO unpacks, with the times that the tar tells.

        A member is there when its event is taken, and none of those after it.
        """

    def delete(self, key: str) -> list[bytes]:
        """Delete one object that is there."""

    def delete_many(self, keys: Sequence[str]) -> list[bytes]:
        """Delete in one request, which tells of every key, there or not."""


class FakeServers:
    """In memory.  Members of one tar with the same key, bytes and time have the very same event."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.source, self.output = FakeObjectStore("src-data", clock), FakeObjectStore("processed-data", clock)
        self.output.others[self.source.bucket] = self.source
        self._clock, self._requests = clock, count(1)

    def put(self, key: str, body: bytes) -> list[bytes]:
        return list(self.unpack([(key, body, self._clock())]))

    def unpack(self, members: Sequence[Member]) -> Iterator[bytes]:
        request = next(self._requests)
        for key, body, modified in members:
            etag = self.source.put_at(key, body, modified)
            yield self._event(request, key, "s3:ObjectCreated:Put", etag, modified)

    def delete(self, key: str) -> list[bytes]:
        return self.delete_many([key])

    def delete_many(self, keys: Sequence[str]) -> list[bytes]:
        request = next(self._requests)
        for key in keys:
            self.source.delete(key)
        return [self._event(request, key, "s3:ObjectRemoved:Delete", "", self._clock()) for key in keys]

    def _event(self, request: int, key: str, name: str, etag: str, modified: float) -> bytes:
        (entry,) = json.loads(notification(key, self.source.bucket, name))
        (event,) = entry["Event"]
        event["responseElements"] = {"x-amz-request-id": f"{request:016X}"}
        event["s3"]["object"] |= {"eTag": etag, "sequencer": f"{int(modified * 1e9):X}"}
        return json.dumps([entry]).encode()


@dataclass
class RealServers:
    """Buckets of a real MinIO, which pushes the events of `source` into `redis`, whence the test takes them again."""

    source: ObjectStore
    output: ObjectStore
    minio: Minio
    redis: "Redis"

    def __post_init__(self) -> None:
        """Have it push them by the fast way; what goes by the other one is the same to the byte."""
        queue = QueueConfig(EVENTS, "fast", queue=arn("FAST"))
        self.minio.set_bucket_notification(self.source.bucket, NotificationConfig(queue_config_list=[queue]))

    def put(self, key: str, body: bytes) -> list[bytes]:
        return self._events_of(lambda: self.source.put(key, body), [key])

    def unpack(self, members: Sequence[Member]) -> Iterator[bytes]:
        for key, body, modified in members:  # a tar each: MinIO unpacks the members of one in any order
            when = datetime.fromtimestamp(modified, UTC)
            member = SnowballObject(key, data=io.BytesIO(body), length=len(body), mod_time=when)
            yield from self._events_of(partial(self.minio.upload_snowball_objects, self.source.bucket, [member]), [key])

    def delete(self, key: str) -> list[bytes]:
        return self._events_of(lambda: self.source.delete(key), [key])

    def delete_many(self, keys: Sequence[str]) -> list[bytes]:
        def delete() -> None:
            errors = list(self.minio.remove_objects(self.source.bucket, map(DeleteObject, keys)))
            assert errors == []

        return self._events_of(delete, keys)

    def _events_of(self, write: Callable[[], object], keys: Iterable[str]) -> list[bytes]:
        """Write, and take the events of these keys out of Redis as soon as all are there, in any order.

        The list may hold events that the test has delivered and no listener has read.  They came before the write, so
        they are at the left of it, and stay.
        """
        delivered: Any = self.redis.llen(FAST)
        write()
        wanted, events = list(keys), list[bytes]()
        deadline = time.monotonic() + EVENT_PATIENCE_S
        while wanted:
            assert time.monotonic() < deadline, f"no event of {wanted}"
            arrived: Any = self.redis.llen(FAST)
            if arrived <= delivered:
                time.sleep(0.001)
                continue
            raw: Any = self.redis.rpop(FAST)
            key = json.loads(raw)[0]["Event"][0]["s3"]["object"]["key"]
            if key in wanted:
                wanted.remove(key)
                events.append(raw)
        return events
