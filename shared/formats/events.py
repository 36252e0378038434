"""Decoder for MinIO's events: one entry of its Redis target in `access` format. Pure.

    [{"Event": [{"eventName": …, "s3": {"bucket": {"name": …}, "object": {"key": …, …}}, …}],
      "EventTime": …}]

MinIO encodes keys with Go's `url.QueryEscape` (internal/event/name.go, cmd/event-notification.go).
Decoding them once gives the object's key. All other fields are ignored: an event is only a hint
that a key may have changed.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

MAX_ENTRY_BYTES = 1_000_000
"""Limit in bytes of one entry. A longer one is not decoded."""
MAX_KEY_BYTES = 1024
"""S3's limit in UTF-8 bytes. No object has a longer key."""


class TruncatedEntry(bytes):
    """The beginning of an entry that is longer than `MAX_ENTRY_BYTES`."""


class InvalidEvent(Exception):
    """An entry that is not a valid notification.

    `reason` says why, for logs and dead letters. It quotes nothing of the entry.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Event:
    """A notification about `key` in `bucket`. `name` is S3's event name: `s3:ObjectCreated:Put`."""

    bucket: str
    key: str
    name: str


def decode_entry(raw: bytes) -> list[Event]:
    """Return the events of one entry, at least one.

    Raises `InvalidEvent`, and no other exception, for any bytes.
    """
    if isinstance(raw, TruncatedEntry) or len(raw) > MAX_ENTRY_BYTES:
        raise InvalidEvent(f"longer than {MAX_ENTRY_BYTES:,} bytes")
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidEvent("not JSON") from None
    try:
        events = [
            _parse_event(event_record) for entry in entries for event_record in entry["Event"]
        ]
    except UnicodeError:
        raise InvalidEvent("a name is not UTF-8") from None
    except (TypeError, KeyError):
        raise InvalidEvent("not a notification in MinIO's access format") from None
    if not events:
        raise InvalidEvent("holds no event")
    return events


def _parse_event(event_record: dict[str, Any]) -> Event:
    s3 = event_record["s3"]
    bucket = s3["bucket"]["name"]
    key = s3["object"]["key"]
    name = event_record["eventName"]
    if not (type(bucket) is type(key) is type(name) is str):
        raise TypeError
    key = unquote_plus(key, errors="strict")
    # JSON can contain a lone surrogate, which has no UTF-8 encoding: fail here, not later in Redis.
    f"{bucket}{name}".encode()
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidEvent(f"a key is longer than {MAX_KEY_BYTES:,} bytes")
    return Event(bucket, key, name)
