"""Tests of `worker.state.event_inbox` on a real Redis: one step marks and pops the events."""

import json

from redis import Redis

from shared.redis_keys import (
    DEAD_LETTERS,
    FAST_EVENTS,
    SAFE_EVENTS,
)
from tests.integration.state_steps import NOW, push_entries
from worker.services.state_parts import StateParts
from worker.state.event_inbox import DecodedEntry


def test_event_inbox_pops_event_in_the_step_that_marks(redis: "Redis", state: StateParts) -> None:
    push_entries(redis, FAST_EVENTS, b"1", b"2")
    entries = [DecodedEntry(b"1", ["u"]), DecodedEntry(b"2", ["v"])]
    assert state.inbox.mark_and_pop(FAST_EVENTS, entries, NOW) == ["u", "v"]
    assert redis.llen(FAST_EVENTS) == 0
    assert state.users.dirty_users() == {"u", "v"}


def test_event_inbox_pops_only_peeked_entries(redis: "Redis", state: StateParts) -> None:
    """The listener peeked [1]. Then Redis was emptied, and MinIO pushed [2].

    A pop by count would lose [2].
    """
    push_entries(redis, FAST_EVENTS, b"2")
    assert state.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW) == ["u"]
    assert redis.lrange(FAST_EVENTS, 0, -1) == [b"2"]


def test_event_inbox_two_listeners_lose_nothing(redis: "Redis", state: StateParts) -> None:
    push_entries(redis, FAST_EVENTS, b"1", b"2")
    state.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW)
    assert state.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW) == ["u"]
    assert redis.lrange(FAST_EVENTS, 0, -1) == [b"2"]


def test_event_inbox_durable_duplicate_marks_no_user(redis: "Redis", state: StateParts) -> None:
    push_entries(redis, FAST_EVENTS, b"1")
    push_entries(redis, SAFE_EVENTS, b"1")
    state.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW)
    assert state.inbox.mark_and_pop(SAFE_EVENTS, [DecodedEntry(b"1", ["u"])], NOW) == []
    assert redis.llen(SAFE_EVENTS) == 0


def test_event_inbox_counts_durable_duplicates_per_event(redis: "Redis", state: StateParts) -> None:
    """Two identical events; one fast entry was lost. The second durable copy marks the user."""
    push_entries(redis, FAST_EVENTS, b"1")
    push_entries(redis, SAFE_EVENTS, b"1", b"1")
    state.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW)
    duplicates = [DecodedEntry(b"1", ["u"]), DecodedEntry(b"1", ["u"])]
    assert state.inbox.mark_and_pop(SAFE_EVENTS, duplicates, NOW) == ["u"]


def test_event_inbox_marks_durable_event_without_original(
    redis: "Redis", state: StateParts
) -> None:
    push_entries(redis, SAFE_EVENTS, b"1")
    assert state.inbox.mark_and_pop(SAFE_EVENTS, [DecodedEntry(b"1", ["u"])], NOW) == ["u"]


def test_event_inbox_keeps_undecodable_entry_as_dead_letter(
    redis: "Redis", state: StateParts
) -> None:
    push_entries(redis, FAST_EVENTS, b"\xff{", b"2")
    notices = [DecodedEntry(b"\xff{", (), "not JSON"), DecodedEntry(b"2", ["v"])]
    assert state.inbox.mark_and_pop(FAST_EVENTS, notices, NOW) == ["v"]
    (letter,) = map(json.loads, redis.lrange(DEAD_LETTERS, 0, -1))
    assert (letter["reason"], letter["since"]) == ("not JSON", int(NOW))
