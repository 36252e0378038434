"""Tests of `shared.formats.events`: decoding of MinIO's notifications, valid and invalid."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.formats.events import MAX_ENTRY_BYTES, Event, InvalidEvent, TruncatedEntry, decode_entry
from shared.formats.source_keys import MAX_KEY_BYTES
from tests.factories import make_notification, read_captured_notification

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
PLACES: list[list[str | int]] = [
    [],
    [0],
    [0, "Event"],
    [0, "Event", 0],
    [0, "Event", 0, "eventName"],
    [0, "Event", 0, "s3"],
    [0, "Event", 0, "s3", "bucket"],
    [0, "Event", 0, "s3", "bucket", "name"],
    [0, "Event", 0, "s3", "object"],
    [0, "Event", 0, "s3", "object", "key"],
]


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("put", Event("src-data", "0001.csv", "s3:ObjectCreated:Put")),
        (
            "put_of_an_odd_name",
            Event("src-data", "Zoë +1 & «два», 100%.png", "s3:ObjectCreated:Put"),
        ),
        ("removal", Event("src-data", "0001.csv", "s3:ObjectRemoved:Delete")),
        ("put_in_a_folder", Event("src-data", "folder/2.csv", "s3:ObjectCreated:Put")),
        ("put_by_tar", Event("src-data", "tar-1.csv", "s3:ObjectCreated:Put")),
    ],
)
def test_decode_entry_reads_captured_minio_events(name: str, event: Event) -> None:
    assert decode_entry(read_captured_notification(name)) == [event]


@pytest.mark.parametrize(
    "key", ["a b.csv", "a+b.csv", "a%2Fb.csv", "%.csv", "100%25.csv", "Иван.csv", "a&b=c.csv", ""]
)
def test_decode_entry_decodes_key_once(key: str) -> None:
    assert decode_entry(make_notification(key)) == [Event("src-data", key, "s3:ObjectCreated:Put")]


def test_decode_entry_accepts_longest_key() -> None:
    key = "x" * (MAX_KEY_BYTES - 4) + ".csv"
    assert decode_entry(make_notification(key)) == [Event("src-data", key, "s3:ObjectCreated:Put")]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decode_entry_returns_any_key(key: str) -> None:
    assert decode_entry(make_notification(key))[0].key == key


def test_decode_entry_returns_all_events() -> None:
    entries = json.loads(make_notification("1.csv")) + json.loads(make_notification("2.csv"))
    entries[0]["Event"] *= 2
    events = decode_entry(json.dumps(entries).encode())
    assert [event.key for event in events] == ["1.csv", "1.csv", "2.csv"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"PING", "not JSON"),
        (b"\xff\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5_000, "not JSON"),
        (b"[]", "holds no event"),
        (b'[{"Event":[]}]', "holds no event"),
        (b"{}", "holds no event"),
        (b"null", "not a notification"),
        (b'[{"Records":[]}]', "not a notification"),
        (b'{"Records":[]}', "not a notification"),
        (make_notification().replace(b'"1.csv"', b"1"), "not a notification"),
        (make_notification().replace(b'"1.csv"', b'"%FF.csv"'), "a name is not UTF-8"),
        (make_notification().replace(b'"1.csv"', b'"\\ud800.csv"'), "a name is not UTF-8"),
        (b" " * (MAX_ENTRY_BYTES + 1), "longer than 1,000,000 bytes"),
        (TruncatedEntry(make_notification()), "longer than 1,000,000 bytes"),
        (b'[{"Event":' + b"[" * 900_000, "not JSON"),
        (b'[{"Event":[{"s3":{"bucket":' + b'{"name":' * 100_000, "not JSON"),
        (b"\x00" * 100, "not JSON"),
        (make_notification().replace(b'"1.csv"', b"1" * 5_000), "not JSON"),
        (make_notification().replace(b'"1.csv"', b"1e999999"), "not a notification"),
        (
            make_notification("x" * MAX_KEY_BYTES + ".csv"),
            "a notification with a key above 1,024 bytes",
        ),
        (
            make_notification("é" * (MAX_KEY_BYTES // 2) + ".csv"),
            "a notification with a key above 1,024 bytes",
        ),
    ],
)
def test_decode_entry_refuses_invalid_entry_with_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidEvent) as refusal:
        decode_entry(raw)
    assert reason in refusal.value.reason
    assert str(refusal.value) == refusal.value.reason


@settings(max_examples=500)
@given(st.binary())
def test_decode_entry_raises_only_documented_error(raw: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode_entry(raw)


@settings(max_examples=500)
@given(st.sampled_from(PLACES), JSON)
def test_decode_entry_handles_any_value_in_any_field(place: list[str | int], value: object) -> None:
    message = replace_value(json.loads(make_notification()), place, value)
    with contextlib.suppress(InvalidEvent):
        for event in decode_entry(json.dumps(message).encode()):
            f"{event.bucket}{event.key}{event.name}".encode()


def replace_value(message: object, place: list[str | int], value: object) -> object:
    match message, place:
        case _, []:
            return value
        case list(), [int(index), *rest]:
            return [
                *message[:index],
                replace_value(message[index], rest, value),
                *message[index + 1 :],
            ]
        case dict(), [str(name), *rest]:
            return {**message, name: replace_value(message[name], rest, value)}
    raise AssertionError(f"there is no {place}")
