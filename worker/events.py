"""What MinIO says of a bucket: decode one entry of its Redis target in `access` format.  Pure.

    [{"Event": [{"eventName": …, "s3": {"bucket": {"name": …}, "object": {"key": …, …}}, …}], "EventTime": …}]

MinIO writes keys by Go's `url.QueryEscape` (internal/event/name.go and cmd/event-notification.go): once decoded they
are the object's key.  All else in a record is left aside; an event only says that a key is worth a look.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

MAX_EVENT_BYTES = 1_000_000
MAX_KEY_BYTES = 1024
"""S3's limit; nobody can ask for an object with a longer one, nor for one without end."""


class Cut(bytes):
    """The beginning of an entry that is longer than `MAX_EVENT_BYTES`."""


class InvalidEvent(Exception):
    """An entry that is no notification; `reason` says why, without any of its content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Event:
    """Something was said of `key` in `bucket`; `name` as in S3: `s3:ObjectCreated:Put`."""

    bucket: str
    key: str
    name: str


def decode(raw: bytes) -> list[Event]:
    """The events of one entry, at least one.  Raises `InvalidEvent`, and nothing else, whatever the bytes."""
    if isinstance(raw, Cut) or len(raw) > MAX_EVENT_BYTES:
        raise InvalidEvent(f"longer than {MAX_EVENT_BYTES:,} bytes")
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidEvent("not JSON") from None
    try:
        events = [_event(record) for entry in entries for record in entry["Event"]]
    except UnicodeError:
        raise InvalidEvent("a name is not UTF-8") from None
    except (TypeError, KeyError):
        raise InvalidEvent("not a notification in MinIO's access format") from None
    if not events:
        raise InvalidEvent("holds no event")
    return events


def _event(record: dict[str, Any]) -> Event:
    s3 = record["s3"]
    bucket, key, name = s3["bucket"]["name"], s3["object"]["key"], record["eventName"]
    if not (type(bucket) is type(key) is type(name) is str):
        raise TypeError
    key = unquote_plus(key, errors="strict")
    # JSON can spell half a surrogate pair, which no UTF-8 can, and Redis would refuse it later.
    f"{bucket}{name}".encode()
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidEvent(f"a key is longer than {MAX_KEY_BYTES:,} bytes")
    return Event(bucket, key, name)
