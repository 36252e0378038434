"""Generated entries of event lists: each yields events, or a dead letter with a reason.

Entries beside an invalid one must still be processed.
"""

import json
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis

from shared.formats.events import InvalidEvent, decode_entry
from shared.redis_keys import DEAD_LETTERS, FAST_EVENTS, MAX_DEAD_LETTERS
from tests.factories import CAPTURED_DIR, make_notification, read_captured_notification
from tests.fakes import FakeTaskQueue
from tests.faults.case_form import CaseForm
from worker.listener import Listener
from worker.services.state_parts import build_state
from worker.source.ignored_keys import IgnoredKeys

LONGEST_REASON = 200
REAL = [read_captured_notification(path.stem) for path in sorted(CAPTURED_DIR.glob("*.json"))]
UNUSUAL_JSON = [
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b"1e999",
    b"null",
    b"{}",
    b"[]",
    b'"%FF"',
    b'"%zz"',
    b'"\\u0000"',
    b"1",
]
DEEP = b"[" * 100_000
LONG = b'[{"Event":[{"s3":"' + b"x" * 10_000_000 + b'"}]}]'


@st.composite
def corrupted_notifications(draw: st.DrawFn) -> bytes:
    """Generate a real notification that is truncated, corrupted or has other values in it."""
    raw = draw(st.sampled_from(REAL))
    match draw(st.sampled_from(["cut", "spoil", "value", "key"])):
        case "cut":
            return raw[: draw(st.integers(0, len(raw) - 1))]
        case "spoil":
            place = draw(st.integers(0, len(raw) - 1))
            return raw[:place] + draw(st.binary(max_size=3)) + raw[place + 1 :]
        case "value":
            name = draw(
                st.sampled_from(
                    [
                        b'"key"',
                        b'"name"',
                        b'"bucket"',
                        b'"object"',
                        b'"s3"',
                        b'"Event"',
                        b'"eventName"',
                    ]
                )
            )
            place = raw.find(name) + len(name) + 1
            return raw[:place] + draw(st.sampled_from(UNUSUAL_JSON)) + b"," + raw[place:]
    return make_notification(draw(st.text(max_size=30)) or "x").replace(
        b"%", draw(st.sampled_from([b"%", b"%F", b""]))
    )


RAWS = (
    corrupted_notifications()
    | corrupted_notifications()
    | st.sampled_from([*UNUSUAL_JSON, *REAL])
    | st.binary(max_size=100)
)


def test_decode_entry_returns_events_or_reason(form: CaseForm) -> None:
    @hypothesis.seed(form.seed)
    @form.build_settings(short=1000, long=10_000)
    @example(b"")
    @example(DEEP)
    @example(LONG)
    @example(LONG[:900_000])
    @example(make_notification("1.csv", bucket="another"))
    @example(
        b'[{"Event":[{"eventName":"x","s3":{"bucket":{"name":"b"},"object":{"key":"%ED%A0%80"}}}]}]'
    )
    @example(
        json.dumps(
            [{"Event": [{"s3": {"bucket": {"name": "\ud83d"}, "object": {"key": "k"}}}]}]
        ).encode()
    )
    @given(RAWS)
    def check_entry(raw: bytes) -> None:
        reason = find_refusal_reason(raw)
        assert reason is None or 0 < len(reason) <= LONGEST_REASON

    check_entry()


def find_refusal_reason(raw: bytes) -> str | None:
    """Return why the entry cannot be decoded, or None.

    A decoded event must consist of text that Redis and MinIO accept (valid UTF-8).
    """
    try:
        events = decode_entry(raw)
    except InvalidEvent as refusal:
        return refusal.reason
    assert events
    for event in events:
        f"{event.bucket}{event.key}{event.name}".encode()
    return None


@pytest.fixture
def listen(redis: "Redis") -> Callable[[], None]:
    """Return a function that processes all entries of the fast list."""
    listener = Listener(
        build_state(redis).inbox, FakeTaskQueue(redis), IgnoredKeys(redis), "src-data", lambda: 1.0
    )

    def process_events() -> None:
        while redis.llen(FAST_EVENTS):
            listener.run_once(0.1)

    return process_events


def test_listener_marks_valid_events_among_invalid_ones(
    form: CaseForm, redis: "Redis", listen: Callable[[], None]
) -> None:
    @hypothesis.seed(form.seed)
    @form.build_settings(short=30, long=300)
    @given(st.lists(RAWS | st.sampled_from([b"", DEEP]), max_size=12))
    def check_valid_events(raws: list[bytes]) -> None:
        redis.flushall()
        for number, raw in enumerate(raws):
            redis.rpush(FAST_EVENTS, raw, make_notification(f"neighbour-{number}.csv"))
        listen()
        dirty = build_state(redis).users.dirty_users()
        assert dirty >= {f"neighbour-{number}" for number in range(len(raws))}
        assert redis.llen(DEAD_LETTERS) == sum(find_refusal_reason(raw) is not None for raw in raws)

    check_valid_events()


def test_dead_letters_are_limited_in_number_and_size(
    redis: "Redis", listen: Callable[[], None]
) -> None:
    redis.rpush(FAST_EVENTS, LONG, *[b"x" * 1000] * (MAX_DEAD_LETTERS + 10))
    listen()
    letters = redis.lrange(DEAD_LETTERS, 0, -1)
    assert len(letters) == MAX_DEAD_LETTERS
    assert max(map(len, letters)) < 1000
