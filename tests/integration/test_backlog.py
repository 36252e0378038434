"""Tests of `worker.backlog`: the atomic steps of the state protocol, on a real Redis."""

import json
from typing import Any

import pytest
from redis import Redis

from shared.records import CsvVersion, Outcome, Person, ValidCsv
from worker.backlog import (
    FAST,
    SAFE,
    WAKE_BULK,
    WAKE_LIVE,
    Backlog,
    LeaseLost,
    ListedUser,
    Note,
    Notice,
    Page,
    Staged,
    new_token,
)

NOW = 1_795_000_000.0


@pytest.fixture
def backlog(redis: "Redis") -> Backlog:
    return Backlog(redis)


def reading(user_id: str, name: str = "Ada") -> Outcome:
    return Outcome(user_id, ValidCsv(CsvVersion(f"{user_id}.csv", "e", 1), Person(name, "B", 1)), None)


def said(redis: "Redis", source: str, *raws: bytes) -> None:
    for raw in raws:
        redis.rpush(source, raw)


def mark(backlog: Backlog, *users: str) -> None:
    backlog.mark(users, "event", NOW)


def publish_everything(backlog: Backlog) -> int:
    token = new_token()
    begun = backlog.begin(token)
    assert begun is not None
    return backlog.clean(token, "etag", "rej", 1, begun.batch, NOW)


def begin(backlog: Backlog, token: str) -> dict[str, Staged]:
    begun = backlog.begin(token)
    assert begun is not None
    return begun.batch


# -- MARK ------------------------------------------------------------------------------------------
def test_an_event_leaves_its_list_in_the_step_that_marks_its_user(redis: "Redis", backlog: Backlog) -> None:
    said(redis, FAST, b"1", b"2")
    assert backlog.note_events(FAST, [Notice(b"1", ["u"]), Notice(b"2", ["v"])], NOW) == ["u", "v"]
    assert redis.llen(FAST) == 0
    assert backlog.dirty_users() == {"u", "v"}


def test_only_what_was_peeked_is_popped(redis: "Redis", backlog: Backlog) -> None:
    # The listener peeked [1]. Then Redis was emptied, and MinIO pushed [2]. A pop by count would
    # lose [2].
    said(redis, FAST, b"2")
    assert backlog.note_events(FAST, [Notice(b"1", ["u"])], NOW) == ["u"]
    assert redis.lrange(FAST, 0, -1) == [b"2"]


def test_two_listeners_that_peeked_the_same_lose_nothing(redis: "Redis", backlog: Backlog) -> None:
    said(redis, FAST, b"1", b"2")
    backlog.note_events(FAST, [Notice(b"1", ["u"])], NOW)
    assert backlog.note_events(FAST, [Notice(b"1", ["u"])], NOW) == ["u"]
    assert redis.lrange(FAST, 0, -1) == [b"2"]


def test_a_safe_copy_of_a_noted_event_marks_nobody(redis: "Redis", backlog: Backlog) -> None:
    said(redis, FAST, b"1")
    said(redis, SAFE, b"1")
    backlog.note_events(FAST, [Notice(b"1", ["u"])], NOW)
    assert backlog.note_events(SAFE, [Notice(b"1", ["u"])], NOW) == []
    assert redis.llen(SAFE) == 0


def test_safe_copies_are_counted_so_that_no_change_hides_behind_one(redis: "Redis", backlog: Backlog) -> None:
    # Two identical events; one fast entry was lost. The second durable copy marks the user.
    said(redis, FAST, b"1")
    said(redis, SAFE, b"1", b"1")
    backlog.note_events(FAST, [Notice(b"1", ["u"])], NOW)
    assert backlog.note_events(SAFE, [Notice(b"1", ["u"]), Notice(b"1", ["u"])], NOW) == ["u"]


def test_a_safe_event_without_a_fast_one_marks(redis: "Redis", backlog: Backlog) -> None:
    said(redis, SAFE, b"1")
    assert backlog.note_events(SAFE, [Notice(b"1", ["u"])], NOW) == ["u"]


def test_an_undecodable_event_is_kept_with_its_reason_and_stops_nobody(redis: "Redis", backlog: Backlog) -> None:
    said(redis, FAST, b"\xff{", b"2")
    notices = [Notice(b"\xff{", (), "not JSON"), Notice(b"2", ["v"])]
    assert backlog.note_events(FAST, notices, NOW) == ["v"]
    (letter,) = map(json.loads, redis.lrange("dead_letters", 0, -1))
    assert (letter["reason"], letter["since"]) == ("not JSON", int(NOW))


def test_every_mark_renews_the_mark_and_keeps_the_slot(backlog: Backlog) -> None:
    mark(backlog, "u")
    first = backlog.note(["u"])["u"]
    mark(backlog, "u")
    second = backlog.note(["u"])["u"]
    assert first.mark != second.mark
    assert first.slot == second.slot


# -- STAGE -----------------------------------------------------------------------------------------
def test_a_slow_reader_does_not_replace_a_newer_reading(backlog: Backlog) -> None:
    mark(backlog, "u")
    slow, quick = backlog.note(["u"])["u"], backlog.note(["u"])["u"]
    assert backlog.stage([(quick, reading("u", "new"))]) == []
    assert backlog.stage([(slow, reading("u", "old"))]) == ["u"]
    assert begin(backlog, "one")["u"].outcome == reading("u", "new")


def test_a_slow_reader_is_refused_after_the_publish_too(backlog: Backlog) -> None:
    mark(backlog, "u")
    slow, quick = backlog.note(["u"])["u"], backlog.note(["u"])["u"]
    backlog.stage([(quick, reading("u"))])
    publish_everything(backlog)
    assert backlog.stage([(slow, reading("u", "old"))]) == []
    assert backlog.staged_count() == 0


def test_a_reading_is_refused_when_redis_was_emptied_meanwhile(redis: "Redis", backlog: Backlog) -> None:
    mark(backlog, "u")
    note = backlog.note(["u"])["u"]
    redis.flushall()
    backlog.stage([(note, reading("u", "old"))])
    assert backlog.staged_count() == 0
    mark(backlog, "u")
    assert backlog.stage([(note, reading("u", "old"))]) == ["u"]


def test_a_clean_user_is_not_noted(backlog: Backlog) -> None:
    assert backlog.note(["clean"]) == {}


def test_who_was_read_since_the_last_mark_is_noted_again_only_after_another_one(backlog: Backlog) -> None:
    for user in ("u", "v"):
        mark(backlog, user)
        backlog.stage([(backlog.note([user])[user], reading(user))])
    mark(backlog, "v")
    assert backlog.note(["u", "v"]).keys() == {"v"}


def test_of_a_reading_with_nobody_to_read_nothing_is_noted(redis: "Redis", backlog: Backlog) -> None:
    backlog.note(["clean"], "a reading")
    assert not redis.exists("readings")


def test_staging_wakes_the_publisher_once(redis: "Redis", backlog: Backlog) -> None:
    for user in ("u", "v"):
        mark(backlog, user)
        backlog.stage([(backlog.note([user])[user], reading(user))])
    assert (redis.llen(WAKE_LIVE), redis.llen(WAKE_BULK)) == (1, 0)


def test_bulk_readings_wake_by_a_list_of_their_own(redis: "Redis", backlog: Backlog) -> None:
    backlog.mark(["u"], "sweep", NOW)
    backlog.stage([(backlog.note(["u"])["u"], reading("u"))])
    assert (redis.llen(WAKE_LIVE), redis.llen(WAKE_BULK)) == (0, 1)


# -- BEGIN, BATCH, CLEAN ---------------------------------------------------------------------------
def test_there_is_one_writer_at_a_time(backlog: Backlog) -> None:
    assert backlog.begin("one") is not None
    assert backlog.begin("two") is None
    backlog.release("two", evidence=False)
    assert backlog.begin("three") is None
    backlog.release("one", evidence=False)
    assert backlog.begin("four") is not None


def test_a_writer_replaced_between_two_chunks_reads_no_further(redis: "Redis", backlog: Backlog) -> None:
    users = [f"u{number}" for number in range(1200)]
    mark(backlog, *users)
    notes = backlog.note(users)
    backlog.stage([(notes[user], reading(user)) for user in users])

    class Replaced(Backlog):
        """A publisher that loses its lease after the first chunk, as after a long pause."""

        def __init__(self, client: "Redis") -> None:
            super().__init__(client)
            further = self._batch

            def batch(*arguments: Any) -> Any:  # noqa: ANN401
                redis.set("writer", "two")
                return further(*arguments)

            self._batch = batch  # type: ignore[assignment]

    with pytest.raises(LeaseLost):
        Replaced(redis).begin("one")


def test_a_replaced_writer_cleans_nothing_and_leaves_evidence(redis: "Redis", backlog: Backlog) -> None:
    mark(backlog, "u")
    backlog.stage([(backlog.note(["u"])["u"], reading("u"))])
    redis.set("epoch", "ok:run")
    batch = begin(backlog, "one")
    redis.delete("writer")
    with pytest.raises(LeaseLost):
        backlog.clean("one", "e", "r", 1, batch, NOW)
    assert backlog.dirty_users() == {"u"}
    assert backlog.epoch() is None


def test_a_published_user_is_clean(backlog: Backlog) -> None:
    mark(backlog, "u")
    backlog.stage([(backlog.note(["u"])["u"], reading("u"))])
    assert publish_everything(backlog) == 0
    assert backlog.dirty_users() == set()
    assert backlog.overdue("event", NOW + 1, 10) == []


def test_a_user_marked_after_the_reading_stays_dirty(backlog: Backlog) -> None:
    mark(backlog, "u")
    backlog.stage([(backlog.note(["u"])["u"], reading("u"))])
    mark(backlog, "u")
    publish_everything(backlog)
    assert backlog.dirty_users() == {"u"}


def test_a_user_read_again_during_the_publish_stays_staged(backlog: Backlog) -> None:
    mark(backlog, "u")
    backlog.stage([(backlog.note(["u"])["u"], reading("u", "old"))])
    batch = begin(backlog, "one")
    mark(backlog, "u")
    backlog.stage([(backlog.note(["u"])["u"], reading("u", "new"))])
    assert backlog.clean("one", "e", "r", 1, batch, NOW) == 1
    assert backlog.dirty_users() == {"u"}


def test_more_users_than_one_chunk_are_all_published(backlog: Backlog) -> None:
    users = [f"u{number}" for number in range(1234)]
    mark(backlog, *users)
    notes = backlog.note(users)
    backlog.stage([(notes[user], reading(user)) for user in users])
    assert publish_everything(backlog) == 0
    assert backlog.dirty_users() == set()
    assert backlog.published().etag == "etag"


# -- overdue users, loss signals, sweeps -----------------------------------------------------------
def test_a_user_whose_message_was_lost_is_overdue_until_read(backlog: Backlog) -> None:
    mark(backlog, "u")
    assert backlog.overdue("event", NOW - 1, 10) == []
    assert backlog.overdue("event", NOW + 1, 10) == ["u"]
    backlog.stage([(backlog.note(["u"])["u"], reading("u"))])
    assert backlog.overdue("event", NOW + 1, 10) == []
    mark(backlog, "u")
    assert backlog.overdue("event", NOW + 1, 10) == ["u"]


def test_the_waiting_of_a_user_marked_again_and_again_begins_anew_with_each_publish(backlog: Backlog) -> None:
    # Otherwise a key that is written without a pause would look overdue.
    mark(backlog, "u")
    backlog.stage([(backlog.note(["u"])["u"], reading("u"))])
    mark(backlog, "u")
    begun = begin(backlog, "one")
    backlog.clean("one", "e", "r", 1, begun, NOW + 100)
    assert backlog.overdue("event", NOW + 50, 10) == []
    assert backlog.overdue("event", NOW + 150, 10) == ["u"]


def test_evidence_during_a_sweep_makes_its_commit_fail(backlog: Backlog) -> None:
    backlog.begin_sweep("one")
    backlog.add_evidence("test")
    assert not backlog.commit_sweep("one", None, ("e", "r"), "run", {"last_at": 1})
    assert backlog.epoch() is None


def test_a_sweep_without_new_evidence_sets_the_epoch(backlog: Backlog) -> None:
    backlog.begin_sweep("one")
    assert backlog.commit_sweep("one", None, ("e", "r"), "run", {"last_at": 1})
    assert backlog.epoch() == "ok:run"


def test_a_sweep_vouches_only_if_no_publisher_recorded_anything_meanwhile(backlog: Backlog) -> None:
    before = backlog.published().by
    backlog.begin_sweep("one")
    publish_everything(backlog)
    backlog.commit_sweep("one", before, ("orphan", "orphan"), "run", {"last_at": 1})
    assert backlog.published().etag == "etag"
    by = backlog.published().by
    backlog.begin_sweep("two")
    backlog.commit_sweep("two", by, ("seen", "seen-too"), "run", {"last_at": 1})
    assert backlog.published().etag == "seen"


def test_a_page_comes_back_as_it_was_queued(backlog: Backlog) -> None:
    listed = Page(
        listed=[ListedUser("ü", Note(b"m", b"s"), True, "ü.png"), ListedUser("v", Note(b"m", b"s"), False, None)]
    )
    for page in (Page(user_ids=["😀", 'q"']), listed):
        backlog.add_page(page)
        assert backlog.pages_left() == 1
        assert backlog.take_page() == page
    assert backlog.take_page() is None
