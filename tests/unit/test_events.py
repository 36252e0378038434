"""Tests of `worker.events`: decoding of MinIO's notifications, valid and invalid."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories import captured, notification
from worker.events import MAX_EVENT_BYTES, MAX_KEY_BYTES, Cut, Event, InvalidEvent, decode

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
        ("put_of_an_odd_name", Event("src-data", "Zoë +1 & «два», 100%.png", "s3:ObjectCreated:Put")),
        ("removal", Event("src-data", "0001.csv", "s3:ObjectRemoved:Delete")),
        ("put_in_a_folder", Event("src-data", "folder/2.csv", "s3:ObjectCreated:Put")),
        ("put_by_tar", Event("src-data", "tar-1.csv", "s3:ObjectCreated:Put")),
    ],
)
def test_what_a_real_minio_pushed_is_understood(name: str, event: Event) -> None:
    assert decode(captured(name)) == [event]


@pytest.mark.parametrize("key", ["a b.csv", "a+b.csv", "a%2Fb.csv", "%.csv", "100%25.csv", "Иван.csv", "a&b=c.csv", ""])
def test_a_key_is_decoded_exactly_once(key: str) -> None:
    assert decode(notification(key)) == [Event("src-data", key, "s3:ObjectCreated:Put")]


def test_a_key_as_long_as_s3_allows_comes_through() -> None:
    key = "x" * (MAX_KEY_BYTES - 4) + ".csv"
    assert decode(notification(key)) == [Event("src-data", key, "s3:ObjectCreated:Put")]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_key_comes_through(key: str) -> None:
    assert decode(notification(key))[0].key == key


def test_several_events_of_one_entry_are_all_told() -> None:
    entries = json.loads(notification("1.csv")) + json.loads(notification("2.csv"))
    entries[0]["Event"] *= 2
    assert [event.key for event in decode(json.dumps(entries).encode())] == ["1.csv", "1.csv", "2.csv"]


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
        (notification().replace(b'"1.csv"', b"1"), "not a notification"),
        (notification().replace(b'"1.csv"', b'"%FF.csv"'), "a name is not UTF-8"),
        (notification().replace(b'"1.csv"', b'"\\ud800.csv"'), "a name is not UTF-8"),
        (b" " * (MAX_EVENT_BYTES + 1), "longer than 1,000,000 bytes"),
        (Cut(notification()), "longer than 1,000,000 bytes"),
        (b'[{"Event":' + b"[" * 900_000, "not JSON"),
        (b'[{"Event":[{"s3":{"bucket":' + b'{"name":' * 100_000, "not JSON"),
        (b"\x00" * 100, "not JSON"),
        (notification().replace(b'"1.csv"', b"1" * 5_000), "not JSON"),
        (notification().replace(b'"1.csv"', b"1e999999"), "not a notification"),
        (notification("x" * MAX_KEY_BYTES + ".csv"), "a key is longer than 1,024 bytes"),
        (notification("é" * (MAX_KEY_BYTES // 2) + ".csv"), "a key is longer than 1,024 bytes"),
    ],
)
def test_anything_else_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidEvent) as refusal:
        decode(raw)
    assert reason in refusal.value.reason
    assert str(refusal.value) == refusal.value.reason


@settings(max_examples=500)
@given(st.binary())
def test_whatever_the_bytes_nothing_but_the_refusal_is_raised(raw: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode(raw)


@settings(max_examples=500)
@given(st.sampled_from(PLACES), JSON)
def test_whatever_stands_in_a_place_of_a_notification_the_answer_is_events_or_the_refusal(
    place: list[str | int], value: object
) -> None:
    message = replaced(json.loads(notification()), place, value)
    with contextlib.suppress(InvalidEvent):
        for event in decode(json.dumps(message).encode()):
            f"{event.bucket}{event.key}{event.name}".encode()


def replaced(message: object, place: list[str | int], value: object) -> object:
    match message, place:
        case _, []:
            return value
        case list(), [int(index), *rest]:
            return [*message[:index], replaced(message[index], rest, value), *message[index + 1 :]]
        case dict(), [str(name), *rest]:
            return {**message, name: replaced(message[name], rest, value)}
    raise AssertionError(f"there is no {place}")
