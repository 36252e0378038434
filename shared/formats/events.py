"""Events in the entries of the event list, and in the requests of stores to `POST /events`. Pure.

`decode_entry` reads one entry of the list: what MinIO's Redis target writes in `access` format, and
what `encode_entry` writes in the same form.

    [{"Event": [{"eventName": …, "s3": {"bucket": {"name": …}, "object": {"key": …, …}}, …}],
      "EventTime": …}]

MinIO encodes keys with Go's `url.QueryEscape` (internal/event/name.go, cmd/event-notification.go).
Decoding them once gives the object's key. All other fields are ignored: an event is only a hint
that a key may have changed.

`decode_notification` reads the body of a request, in one of these forms:

- `{"Records": [<event>, …]}`: AWS, by SNS with raw delivery, and MinIO, RustFS and Ceph. Ceph does
  not encode keys.
- `{"Type": "Notification", "Message": "<one of the other forms>"}`: AWS SNS. The `Type` of a
  message about the subscription itself is another one.
- `{"detail-type": …, "detail": {"bucket": {"name": …}, "object": {"key": …}}}`: AWS EventBridge,
  which does not encode keys.
- `{"Event": "s3:TestEvent", …}`: AWS, when a rule is set.
- `{"key": "/buckets/<bucket>/<key>", "event_type": …, "message": {…}}`: SeaweedFS, which sends the
  paths of its filer.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote_plus, unquote_plus

from shared.formats.source_keys import MAX_KEY_BYTES

EVENT_TARGET = "FAST"
"""ID of MinIO's Redis target, which sends to `shared.redis_keys.FAST_EVENTS`."""
MAX_ENTRY_BYTES = 1_000_000
"""Limit in bytes of one entry. A longer one is not decoded."""
MAX_NAME_LENGTH = 100
"""Limit in characters of the event name in a request, which gets into the entry of the list."""
FILER_BUCKETS = "/buckets/"
"""The folder of SeaweedFS's filer in which the buckets are."""
_CREATED = "s3:ObjectCreated:Put"
_REMOVED = "s3:ObjectRemoved:Delete"


class TruncatedEntry(bytes):
    """The beginning of an entry that is longer than `MAX_ENTRY_BYTES`."""


class InvalidEvent(Exception):
    """An entry or a request that is not a valid notification.

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


def encode_entry(event: Event) -> bytes:
    """Return the entry of the event list that `decode_entry` reads as this event."""
    s3 = {"bucket": {"name": event.bucket}, "object": {"key": quote_plus(event.key)}}
    return json.dumps([{"Event": [{"eventName": event.name, "s3": s3}]}]).encode()


class Notification(NamedTuple):
    """The content of a request: its events, without duplicates.

    `ignored_count` counts what is about no object. `subscribe_url` is not empty if the sender
    asks for the confirmation of a subscription (AWS SNS).
    """

    events: tuple[Event, ...]
    ignored_count: int = 0
    subscribe_url: str = ""


def decode_notification(body: bytes) -> Notification:
    """Return the content of a request of a store.

    Raises `InvalidEvent`, and no other exception, for any bytes.
    """
    try:
        message = json.loads(body)
        if message.get("Type") == "Notification":
            message = json.loads(message["Message"])
        notification = _parse_message(message)
    except UnicodeError:
        raise InvalidEvent("not UTF-8") from None
    # AttributeError: a value is no object.
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise InvalidEvent("not a notification in a known form") from None
    return notification._replace(events=tuple(dict.fromkeys(notification.events)))


def _parse_message(message: dict[str, Any]) -> Notification:
    match message:
        case {"Records": [*records]}:
            return Notification(tuple(map(_parse_record, records)))
        case {"detail-type": str(name), "detail": {"bucket": bucket, "object": s3_object}}:
            name = _REMOVED if name == "Object Deleted" else _CREATED
            return Notification((_make_event(bucket["name"], s3_object["key"], name),))
        case {"key": str(path), "event_type": str(), "message": dict(details)}:
            return _parse_filer_event(path, details)
        case {"Event": "s3:TestEvent"} | {"Type": "UnsubscribeConfirmation"}:
            return Notification((), 1)
        case {"Type": "SubscriptionConfirmation", "SubscribeURL": str(url)}:
            url.encode()
            return Notification((), 1, url)
    raise KeyError


def _parse_record(event_record: dict[str, Any]) -> Event:
    if event_record.get("eventSource") == "ceph:s3":
        s3 = event_record["s3"]
        event = _make_event(s3["bucket"]["name"], s3["object"]["key"], event_record["eventName"])
    else:
        event = _parse_event(event_record)
    if len(event.name) > MAX_NAME_LENGTH:
        raise InvalidEvent(f"a notification with an event name above {MAX_NAME_LENGTH} characters")
    # AWS and Ceph omit the prefix.
    has_prefix = event.name.startswith("s3:")
    return event if has_prefix else Event(event.bucket, event.key, f"s3:{event.name}")


def _parse_filer_event(path: str, details: dict[str, Any]) -> Notification:
    """Return the events of the old and the new path of an entry, which differ if it was moved."""
    old_entry = details.get("old_entry")
    new_entry = details.get("new_entry")
    is_folder = (new_entry or old_entry or {}).get("is_directory", False)
    events = [] if is_folder else list(_list_filer_events(path, details, new_entry))
    return Notification(tuple(events), not events)


def _list_filer_events(
    path: str, details: dict[str, Any], new_entry: dict[str, Any] | None
) -> Iterator[Event]:
    new_path = path
    if new_entry and details.get("new_parent_path"):
        new_path = f"{details['new_parent_path']}/{new_entry['name']}"
    names = {path: _REMOVED if new_entry is None or new_path != path else _CREATED}
    if new_path != path:
        names[new_path] = _CREATED
    for object_path, name in names.items():
        bucket, _, key = object_path.removeprefix(FILER_BUCKETS).partition("/")
        # The parts of an unfinished upload are no objects.
        is_upload_part = key.startswith(".uploads/")
        if object_path.startswith(FILER_BUCKETS) and key and not is_upload_part:
            yield _make_event(bucket, key, name)


def _parse_event(event_record: dict[str, Any]) -> Event:
    s3 = event_record["s3"]
    key = s3["object"]["key"]
    if type(key) is not str:
        raise TypeError
    key = unquote_plus(key, errors="strict")
    return _make_event(s3["bucket"]["name"], key, event_record["eventName"])


def _make_event(bucket: Any, key: Any, name: Any) -> Event:  # noqa: ANN401
    if not (type(bucket) is type(key) is type(name) is str):
        raise TypeError
    # JSON can contain a lone surrogate, which has no UTF-8 encoding: fail here, not later in Redis.
    f"{bucket}{name}".encode()
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidEvent(f"a notification with a key above {MAX_KEY_BYTES:,} bytes")
    return Event(bucket, key, name)
