"""Tests of the webhook forms of `shared.formats.events`: one example per store, and any bytes."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.formats.events import (
    MAX_NAME_LENGTH,
    Event,
    InvalidEvent,
    Notification,
    decode_entry,
    decode_notification,
    encode_entry,
)
from shared.formats.source_keys import MAX_KEY_BYTES
from tests.unit.test_events import JSON

EXAMPLES = Path(__file__).parents[1] / "notifications"
KEY = "Zoë 1+1, 100%.csv"
PUT = "s3:ObjectCreated:Put"
DELETE = "s3:ObjectRemoved:Delete"


def read_example(name: str) -> bytes:
    return (EXAMPLES / f"{name}.json").read_bytes()


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("minio", [(KEY, PUT)]),
        ("rustfs", [(KEY, PUT)]),
        ("ceph", [(KEY, PUT)]),
        ("aws", [(KEY, PUT)]),
        ("sns", [(KEY, PUT)]),
        ("eventbridge", [(KEY, PUT)]),
        ("eventbridge_deletion", [(KEY, DELETE)]),
        ("seaweedfs", [(KEY, PUT)]),
        ("seaweedfs_deletion", [(KEY, DELETE)]),
        ("seaweedfs_rename", [(KEY, DELETE), ("2.csv", PUT)]),
    ],
)
def test_decode_notification_reads_form_of_each_store(
    name: str, events: list[tuple[str, str]]
) -> None:
    expected = tuple(Event("src-data", key, event_name) for key, event_name in events)
    assert decode_notification(read_example(name)) == Notification(expected)


def test_decode_notification_examples_are_complete() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.json")}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert names == {name for name in names if f"`{name}" in listed or name == "minio"}


@pytest.mark.parametrize("name", ["aws_test", "seaweedfs_folder"])
def test_decode_notification_counts_message_without_object(name: str) -> None:
    assert decode_notification(read_example(name)) == Notification((), 1)


def test_decode_notification_returns_address_of_confirmation() -> None:
    url = json.loads(read_example("sns_confirmation"))["SubscribeURL"]
    assert decode_notification(read_example("sns_confirmation")) == Notification((), 1, url)


@pytest.mark.parametrize("name", ["aws", "aws_test", "eventbridge"])
def test_decode_notification_reads_every_form_within_sns(name: str) -> None:
    inner = read_example(name)
    body = json.dumps({"Type": "Notification", "Message": inner.decode()}).encode()
    assert decode_notification(body) == decode_notification(inner)


def test_decode_notification_ignores_parts_of_seaweedfs_uploads() -> None:
    message = json.loads(read_example("seaweedfs"))
    for path in ("/buckets/src-data/.uploads/1/0001.part", "/topics/.system/log", "/buckets/x"):
        body = json.dumps(message | {"key": path, "message": {}}).encode()
        assert decode_notification(body) == Notification((), 1)


def test_decode_notification_removes_duplicates_and_keeps_order() -> None:
    message = json.loads(read_example("aws"))
    other = json.loads(read_example("aws"))["Records"][0]
    other["s3"]["object"]["key"] = "2.csv"
    message["Records"] = [*message["Records"], other, *message["Records"]]
    events = decode_notification(json.dumps(message).encode()).events
    assert [event.key for event in events] == [KEY, "2.csv"]


def test_decode_notification_accepts_no_records() -> None:
    assert decode_notification(b'{"Records":[]}') == Notification(())


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"1", b'""', b"{}", b"[" * 100_000, b"1" * 5_000,
        b'{"Records":1}', b'{"Records":[1]}', b'{"Records":[{}]}', b'{"Records":[null]}',
        b'{"Type":"Notification"}', b'{"Type":"Notification","Message":1}',
        b'{"Type":"Notification","Message":"hello"}', b'{"Type":"Notification","Message":"[]"}',
        b'{"Type":"Notification","Message":"{\\"Type\\":\\"Notification\\"}"}',
        b'{"detail-type":"x","detail":{"bucket":1,"object":2}}',
        b'{"key":"/buckets/a/b","event_type":"create"}',
        b'{"key":"/buckets/a/b","event_type":"create","message":{"new_entry":7}}',
    ],
)  # fmt: skip
def test_decode_notification_refuses_unknown_form(body: bytes) -> None:
    with pytest.raises(InvalidEvent, match="not a notification in a known form"):
        decode_notification(body)


def test_decode_notification_refuses_names_that_no_object_has() -> None:
    message = json.loads(read_example("ceph"))
    for key, reason in (("x" * (MAX_KEY_BYTES + 1), "above 1,024 bytes"), ("\ud800", "not UTF-8")):
        message["Records"][0]["s3"]["object"]["key"] = key
        with pytest.raises(InvalidEvent, match=reason):
            decode_notification(json.dumps(message).encode())


@pytest.mark.parametrize("store", ["minio", "ceph", "sns"])
def test_decode_notification_limits_size_of_entries(store: str) -> None:
    """An entry has the event name of the request; the listener must be able to decode it."""
    message = json.loads(read_example(store))
    records = json.loads(message["Message"]) if "Message" in message else message
    event_record = records["Records"][0]
    event_record["s3"]["object"]["key"] = "é" * (MAX_KEY_BYTES // 2)

    def decode(name: str) -> Notification:
        event_record["eventName"] = name
        body = message | {"Message": json.dumps(records)} if "Message" in message else records
        return decode_notification(json.dumps(body).encode())

    (event,) = decode("é" * MAX_NAME_LENGTH).events
    assert len(encode_entry(event)) < 5_000
    with pytest.raises(InvalidEvent, match="event name above 100 characters"):
        decode("x" * (MAX_NAME_LENGTH + 1))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_encode_entry_is_read_back_as_same_event(key: str) -> None:
    event = Event("src-data", key, PUT)
    assert decode_entry(encode_entry(event)) == [event]


WORDS = st.sampled_from(
    ["Records", "s3", "bucket", "name", "object", "key", "eventName", "eventSource", "ceph:s3",
     "Type", "Notification", "Message", "detail-type", "detail", "event_type", "message",
     "new_entry", "old_entry", "new_parent_path", "/buckets/src-data/1.csv", "is_directory"]
)  # fmt: skip
NEAR_NOTIFICATIONS = st.recursive(
    JSON | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=30,
)


def replace_anywhere(value: Any, number: int, new: object) -> Any:  # noqa: ANN401
    """Replace one of the values within a JSON value, by its number."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    key, old = items[number % len(items)]
    number //= len(items)
    is_deeper = isinstance(old, dict | list) and old and number % 2
    changed = replace_anywhere(old, number // 2, new) if is_deeper else new
    if isinstance(value, dict):
        return {**value, key: changed}
    return [changed if index == key else item for index, item in items]


@settings(max_examples=500)
@given(st.binary() | NEAR_NOTIFICATIONS.map(lambda value: json.dumps(value).encode()))
def test_decode_notification_raises_only_documented_error(body: bytes) -> None:
    with contextlib.suppress(InvalidEvent):
        check_usable(decode_notification(body))


@settings(max_examples=500)
@given(
    st.sampled_from([path.stem for path in EXAMPLES.glob("*.json")]),
    st.integers(0, 2**40),
    NEAR_NOTIFICATIONS,
)
def test_decode_notification_handles_any_value_in_any_field(
    name: str, number: int, value: object
) -> None:
    message = replace_anywhere(json.loads(read_example(name)), number, value)
    with contextlib.suppress(InvalidEvent):
        check_usable(decode_notification(json.dumps(message).encode()))


def check_usable(notification: Notification) -> None:
    """Fail unless all events can be stored and read back."""
    for event in notification.events:
        assert decode_entry(encode_entry(event)) == [event]
    notification.subscribe_url.encode()
