"""Tests of `worker.state.event_inbox` on a real Redis: one step marks and pops the events."""

import json

from redis import Redis

from shared.redis_keys import DEAD_LETTERS, FAST_EVENTS, SAFE_EVENTS_OF_0_3
from tests.integration.state_steps import NOW, push_entries
from worker.services.state_parts import StateParts
from worker.state.event_inbox import DecodedEntry
from worker.watchdog.loss_detection import EventsOfRelease03


def test_event_inbox_pops_event_in_the_step_that_marks(redis: "Redis", state: StateParts) -> None:
    push_entries(redis, FAST_EVENTS, b"1", b"2")
    entries = [DecodedEntry(b"1", ["u"]), DecodedEntry(b"2", ["v"])]
    assert state.inbox.mark_and_pop(entries, NOW) == ["u", "v"]
    assert redis.llen(FAST_EVENTS) == 0
    assert state.users.dirty_users() == {"u", "v"}


def test_event_inbox_pops_only_peeked_entries(redis: "Redis", state: StateParts) -> None:
    """The listener peeked [1]. Then Redis was emptied, and MinIO pushed [2].

    A pop by count would lose [2].
    """
    push_entries(redis, FAST_EVENTS, b"2")
    assert state.inbox.mark_and_pop([DecodedEntry(b"1", ["u"])], NOW) == ["u"]
    assert redis.lrange(FAST_EVENTS, 0, -1) == [b"2"]


def test_event_inbox_two_listeners_lose_nothing(redis: "Redis", state: StateParts) -> None:
    push_entries(redis, FAST_EVENTS, b"1", b"2")
    state.inbox.mark_and_pop([DecodedEntry(b"1", ["u"])], NOW)
    assert state.inbox.mark_and_pop([DecodedEntry(b"1", ["u"])], NOW) == ["u"]
    assert redis.lrange(FAST_EVENTS, 0, -1) == [b"2"]


def test_event_inbox_moves_copies_of_0_3(redis: "Redis", state: StateParts) -> None:
    """A MinIO with the settings of release 0.3 still sends to the second list."""
    push_entries(redis, FAST_EVENTS, b"1")
    push_entries(redis, SAFE_EVENTS_OF_0_3, *(b"%d" % number for number in range(2, 1003)))
    check = EventsOfRelease03(state.inbox)
    check.tick(NOW)
    assert redis.lrange(FAST_EVENTS, 0, -1) == [b"%d" % number for number in range(1, 1003)]
    assert not redis.exists(SAFE_EVENTS_OF_0_3)
    check.tick(NOW)
    assert redis.llen(FAST_EVENTS) == 1002


def test_event_inbox_keeps_undecodable_entry_as_dead_letter(
    redis: "Redis", state: StateParts
) -> None:
    push_entries(redis, FAST_EVENTS, b"\xff{", b"2")
    notices = [DecodedEntry(b"\xff{", (), "not JSON"), DecodedEntry(b"2", ["v"])]
    assert state.inbox.mark_and_pop(notices, NOW) == ["v"]
    (letter,) = map(json.loads, redis.lrange(DEAD_LETTERS, 0, -1))
    assert (letter["reason"], letter["since"]) == ("not JSON", int(NOW))
