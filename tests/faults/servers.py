"""The buckets of a history, in memory or on a real MinIO, and the events of each write."""

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
from shared.redis_keys import FAST_EVENTS
from tests.factories import make_notification
from tests.fakes import FakeObjectStore
from worker.source.notifications import EVENT_TARGET_ARN, EVENT_TYPES

MAX_EVENT_WAIT_S = 30

TarMember = tuple[str, bytes, float]
"""A member of a tar: key, body, and LastModified in Unix seconds."""


class BucketPair(Protocol):
    """Two buckets. Each write returns the events that it caused, as MinIO would push them."""

    @property
    def source(self) -> ObjectStore:
        """Return the bucket into which users drop files."""

    @property
    def output(self) -> ObjectStore:
        """Return the bucket with the published files."""

    def put(self, key: str, body: bytes) -> list[bytes]:
        """Write one object."""

    def upload_tar(self, members: Sequence[TarMember]) -> Iterator[bytes]:
        """Upload a tar that MinIO unpacks, with the times in the tar.

        A member exists as soon as its event is taken from the iterator, and no later member does.
        """

    def delete(self, key: str) -> list[bytes]:
        """Delete one existing object."""

    def delete_many(self, keys: Sequence[str]) -> list[bytes]:
        """Delete keys in one request.

        It causes an event for each key, including keys that do not exist.
        """


class FakeBucketPair:
    """Buckets in memory.

    Members of one tar with the same key, body and time cause identical events.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.source = FakeObjectStore("src-data", clock)
        self.output = FakeObjectStore("processed-data", clock)
        self.output.other_buckets[self.source.bucket] = self.source
        self._clock = clock
        self._requests = count(1)

    def put(self, key: str, body: bytes) -> list[bytes]:
        return list(self.upload_tar([(key, body, self._clock())]))

    def upload_tar(self, members: Sequence[TarMember]) -> Iterator[bytes]:
        request = next(self._requests)
        for key, body, last_modified in members:
            etag = self.source.put_with_time(key, body, last_modified)
            yield self._make_event(request, key, "s3:ObjectCreated:Put", etag, last_modified)

    def delete(self, key: str) -> list[bytes]:
        return self.delete_many([key])

    def delete_many(self, keys: Sequence[str]) -> list[bytes]:
        request = next(self._requests)
        for key in keys:
            self.source.delete(key)
        return [
            self._make_event(request, key, "s3:ObjectRemoved:Delete", "", self._clock())
            for key in keys
        ]

    def _make_event(
        self, request: int, key: str, name: str, etag: str, last_modified: float
    ) -> bytes:
        (entry,) = json.loads(make_notification(key, self.source.bucket, name))
        (event,) = entry["Event"]
        event["responseElements"] = {"x-amz-request-id": f"{request:016X}"}
        event["s3"]["object"] |= {"eTag": etag, "sequencer": f"{int(last_modified * 1e9):X}"}
        return json.dumps([entry]).encode()


@dataclass
class RealBucketPair:
    """Buckets of a real MinIO.

    MinIO pushes the events of `source` into `redis`. The test takes them out again and delivers
    them when it decides to.
    """

    source: ObjectStore
    output: ObjectStore
    minio: Minio
    redis: "Redis"

    def __post_init__(self) -> None:
        """Configure MinIO to push events to the list."""
        queue = QueueConfig(EVENT_TYPES, "fast", queue=EVENT_TARGET_ARN)
        self.minio.set_bucket_notification(
            self.source.bucket, NotificationConfig(queue_config_list=[queue])
        )

    def put(self, key: str, body: bytes) -> list[bytes]:
        return self._write_and_collect_events(lambda: self.source.put(key, body), [key])

    def upload_tar(self, members: Sequence[TarMember]) -> Iterator[bytes]:
        for key, body, last_modified in members:  # one tar each: MinIO unpacks members in any order
            when = datetime.fromtimestamp(last_modified, UTC)
            member = SnowballObject(key, data=io.BytesIO(body), length=len(body), mod_time=when)
            yield from self._write_and_collect_events(
                partial(self.minio.upload_snowball_objects, self.source.bucket, [member]), [key]
            )

    def delete(self, key: str) -> list[bytes]:
        return self._write_and_collect_events(lambda: self.source.delete(key), [key])

    def delete_many(self, keys: Sequence[str]) -> list[bytes]:
        def delete() -> None:
            errors = list(self.minio.remove_objects(self.source.bucket, map(DeleteObject, keys)))
            assert errors == []

        return self._write_and_collect_events(delete, keys)

    def _write_and_collect_events(
        self, write: Callable[[], object], keys: Iterable[str]
    ) -> list[bytes]:
        """Write, and take the events of these keys out of Redis when all have arrived.

        The events may arrive in any order. The list may hold events that the test has delivered and
        no listener has read. They arrived before the write, so they are at the head of the list,
        and stay there.
        """
        delivered: Any = self.redis.llen(FAST_EVENTS)
        write()
        expected_keys = list(keys)
        events = list[bytes]()
        deadline = time.monotonic() + MAX_EVENT_WAIT_S
        while expected_keys:
            assert time.monotonic() < deadline, (
                "expected an event of each written key within the timeout, "
                f"found none of {expected_keys}"
            )
            list_length: Any = self.redis.llen(FAST_EVENTS)
            if list_length <= delivered:
                time.sleep(0.001)
                continue
            raw: Any = self.redis.rpop(FAST_EVENTS)
            key = json.loads(raw)[0]["Event"][0]["s3"]["object"]["key"]
            if key in expected_keys:
                expected_keys.remove(key)
                events.append(raw)
        return events
