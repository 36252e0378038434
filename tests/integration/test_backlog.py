"""Tests of `worker.state`: the atomic steps of the state protocol, on a real Redis."""

import json
from typing import Any

import pytest
from redis import Redis

from shared.formats.records import CsvVersion, Person, ReadResult, ValidCsv
from shared.redis_keys import (
    ACTIVE_READS,
    DEAD_LETTERS,
    FAST_EVENTS,
    SAFE_EVENTS,
    TRUST_STATE,
    VERIFIED_PREFIX,
    WAKE_BULK,
    WAKE_LIVE,
    WRITER_LEASE,
)
from worker.state.event_inbox import DecodedEntry
from worker.state.parts import StateParts, build_state
from worker.state.publish_queue import LeaseLost, PendingResult, PublishQueue
from worker.state.scripts import Scripts, new_token
from worker.state.user_states import VersionTokens
from worker.state.work_queues import ListedUser, Page

NOW = 1_795_000_000.0


@pytest.fixture
def backlog(redis: "Redis") -> StateParts:
    return build_state(redis)


def reading(user_id: str, name: str = "Ada") -> ReadResult:
    return ReadResult(user_id, ValidCsv(CsvVersion(f"{user_id}.csv", "e", 1), Person(name, "B", 1)), None)


def said(redis: "Redis", source: str, *raws: bytes) -> None:
    for raw in raws:
        redis.rpush(source, raw)


def mark(backlog: StateParts, *users: str) -> None:
    backlog.users.mark(users, "event", NOW)


def publish_everything(backlog: StateParts) -> int:
    token = new_token()
    begun = backlog.publish_queue.acquire_writer(token)
    assert begun is not None
    return backlog.publish_queue.commit_publish(token, "etag", "rej", 1, begun.pending, NOW)


def begin(backlog: StateParts, token: str) -> dict[str, PendingResult]:
    begun = backlog.publish_queue.acquire_writer(token)
    assert begun is not None
    return begun.pending


# -- MARK ------------------------------------------------------------------------------------------
def test_event_inbox_pops_event_in_the_step_that_marks(redis: "Redis", backlog: StateParts) -> None:
    said(redis, FAST_EVENTS, b"1", b"2")
    assert backlog.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"]), DecodedEntry(b"2", ["v"])], NOW) == [
        "u",
        "v",
    ]
    assert redis.llen(FAST_EVENTS) == 0
    assert backlog.users.dirty_users() == {"u", "v"}


def test_event_inbox_pops_only_peeked_entries(redis: "Redis", backlog: StateParts) -> None:
    # The listener peeked [1]. Then Redis was emptied, and MinIO pushed [2]. A pop by count would
    # lose [2].
    said(redis, FAST_EVENTS, b"2")
    assert backlog.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW) == ["u"]
    assert redis.lrange(FAST_EVENTS, 0, -1) == [b"2"]


def test_event_inbox_two_listeners_lose_nothing(redis: "Redis", backlog: StateParts) -> None:
    said(redis, FAST_EVENTS, b"1", b"2")
    backlog.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW)
    assert backlog.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW) == ["u"]
    assert redis.lrange(FAST_EVENTS, 0, -1) == [b"2"]


def test_event_inbox_durable_duplicate_marks_no_user(redis: "Redis", backlog: StateParts) -> None:
    said(redis, FAST_EVENTS, b"1")
    said(redis, SAFE_EVENTS, b"1")
    backlog.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW)
    assert backlog.inbox.mark_and_pop(SAFE_EVENTS, [DecodedEntry(b"1", ["u"])], NOW) == []
    assert redis.llen(SAFE_EVENTS) == 0


def test_event_inbox_counts_durable_duplicates_per_event(redis: "Redis", backlog: StateParts) -> None:
    # Two identical events; one fast entry was lost. The second durable copy marks the user.
    said(redis, FAST_EVENTS, b"1")
    said(redis, SAFE_EVENTS, b"1", b"1")
    backlog.inbox.mark_and_pop(FAST_EVENTS, [DecodedEntry(b"1", ["u"])], NOW)
    assert backlog.inbox.mark_and_pop(SAFE_EVENTS, [DecodedEntry(b"1", ["u"]), DecodedEntry(b"1", ["u"])], NOW) == ["u"]


def test_event_inbox_marks_durable_event_without_original(redis: "Redis", backlog: StateParts) -> None:
    said(redis, SAFE_EVENTS, b"1")
    assert backlog.inbox.mark_and_pop(SAFE_EVENTS, [DecodedEntry(b"1", ["u"])], NOW) == ["u"]


def test_event_inbox_keeps_undecodable_entry_as_dead_letter(redis: "Redis", backlog: StateParts) -> None:
    said(redis, FAST_EVENTS, b"\xff{", b"2")
    notices = [DecodedEntry(b"\xff{", (), "not JSON"), DecodedEntry(b"2", ["v"])]
    assert backlog.inbox.mark_and_pop(FAST_EVENTS, notices, NOW) == ["v"]
    (letter,) = map(json.loads, redis.lrange(DEAD_LETTERS, 0, -1))
    assert (letter["reason"], letter["since"]) == ("not JSON", int(NOW))


def test_user_states_mark_renews_change_version_only(backlog: StateParts) -> None:
    mark(backlog, "u")
    first = backlog.users.begin_read(["u"])["u"]
    mark(backlog, "u")
    second = backlog.users.begin_read(["u"])["u"]
    assert first.change_version != second.change_version
    assert first.read_version == second.read_version


# -- SUBMIT RESULTS --------------------------------------------------------------------------------
def test_user_states_submit_refuses_older_result(backlog: StateParts) -> None:
    mark(backlog, "u")
    slow, quick = backlog.users.begin_read(["u"])["u"], backlog.users.begin_read(["u"])["u"]
    assert backlog.users.submit_results([(quick, reading("u", "new"))]) == []
    assert backlog.users.submit_results([(slow, reading("u", "old"))]) == ["u"]
    assert begin(backlog, "one")["u"].result == reading("u", "new")


def test_user_states_submit_refuses_older_result_after_publish(backlog: StateParts) -> None:
    mark(backlog, "u")
    slow, quick = backlog.users.begin_read(["u"])["u"], backlog.users.begin_read(["u"])["u"]
    backlog.users.submit_results([(quick, reading("u"))])
    publish_everything(backlog)
    assert backlog.users.submit_results([(slow, reading("u", "old"))]) == []
    assert backlog.publish_queue.count_pending() == 0


def test_user_states_submit_refuses_result_after_redis_was_emptied(redis: "Redis", backlog: StateParts) -> None:
    mark(backlog, "u")
    note = backlog.users.begin_read(["u"])["u"]
    redis.flushall()
    backlog.users.submit_results([(note, reading("u", "old"))])
    assert backlog.publish_queue.count_pending() == 0
    mark(backlog, "u")
    assert backlog.users.submit_results([(note, reading("u", "old"))]) == ["u"]


def test_user_states_begin_read_skips_clean_user(backlog: StateParts) -> None:
    assert backlog.users.begin_read(["clean"]) == {}


def test_user_states_begin_read_skips_user_read_since_mark(backlog: StateParts) -> None:
    for user in ("u", "v"):
        mark(backlog, user)
        backlog.users.submit_results([(backlog.users.begin_read([user])[user], reading(user))])
    mark(backlog, "v")
    assert backlog.users.begin_read(["u", "v"]).keys() == {"v"}


def test_user_states_begin_read_records_no_empty_read(redis: "Redis", backlog: StateParts) -> None:
    backlog.users.begin_read(["clean"], "a reading")
    assert not redis.exists(ACTIVE_READS)


def test_user_states_submit_wakes_publisher_once(redis: "Redis", backlog: StateParts) -> None:
    for user in ("u", "v"):
        mark(backlog, user)
        backlog.users.submit_results([(backlog.users.begin_read([user])[user], reading(user))])
    assert (redis.llen(WAKE_LIVE), redis.llen(WAKE_BULK)) == (1, 0)


def test_user_states_submit_uses_bulk_wake_list(redis: "Redis", backlog: StateParts) -> None:
    backlog.users.mark(["u"], "sweep", NOW)
    backlog.users.submit_results([(backlog.users.begin_read(["u"])["u"], reading("u"))])
    assert (redis.llen(WAKE_LIVE), redis.llen(WAKE_BULK)) == (0, 1)


# -- ACQUIRE WRITER, READ PENDING, COMMIT PUBLISH --------------------------------------------------
def test_publish_queue_allows_one_writer_at_a_time(backlog: StateParts) -> None:
    assert backlog.publish_queue.acquire_writer("one") is not None
    assert backlog.publish_queue.acquire_writer("two") is None
    backlog.publish_queue.release_writer("two", signal_loss=False)
    assert backlog.publish_queue.acquire_writer("three") is None
    backlog.publish_queue.release_writer("one", signal_loss=False)
    assert backlog.publish_queue.acquire_writer("four") is not None


def test_publish_queue_replaced_writer_reads_no_further_chunk(redis: "Redis", backlog: StateParts) -> None:
    users = [f"u{number}" for number in range(1200)]
    mark(backlog, *users)
    notes = backlog.users.begin_read(users)
    backlog.users.submit_results([(notes[user], reading(user)) for user in users])

    class Replaced(PublishQueue):
        """A publisher that loses its lease after the first chunk, as after a long pause."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            read_pending = self._read_pending

            def read_pending_late(*arguments: Any) -> Any:  # noqa: ANN401
                redis.set(WRITER_LEASE, "two")
                return read_pending(*arguments)

            self._read_pending = read_pending_late  # type: ignore[assignment]

    with pytest.raises(LeaseLost):
        Replaced(redis, Scripts(redis), backlog.loss_signals).acquire_writer("one")


def test_publish_queue_replaced_writer_commits_nothing_and_signals_loss(redis: "Redis", backlog: StateParts) -> None:
    mark(backlog, "u")
    backlog.users.submit_results([(backlog.users.begin_read(["u"])["u"], reading("u"))])
    redis.set(TRUST_STATE, f"{VERIFIED_PREFIX}run")
    batch = begin(backlog, "one")
    redis.delete(WRITER_LEASE)
    with pytest.raises(LeaseLost):
        backlog.publish_queue.commit_publish("one", "e", "r", 1, batch, NOW)
    assert backlog.users.dirty_users() == {"u"}
    assert backlog.loss_signals.trust_state() is None


def test_publish_queue_commit_cleans_published_user(backlog: StateParts) -> None:
    mark(backlog, "u")
    backlog.users.submit_results([(backlog.users.begin_read(["u"])["u"], reading("u"))])
    assert publish_everything(backlog) == 0
    assert backlog.users.dirty_users() == set()
    assert backlog.users.overdue_users("event", NOW + 1, 10) == []


def test_publish_queue_commit_keeps_user_marked_after_read(backlog: StateParts) -> None:
    mark(backlog, "u")
    backlog.users.submit_results([(backlog.users.begin_read(["u"])["u"], reading("u"))])
    mark(backlog, "u")
    publish_everything(backlog)
    assert backlog.users.dirty_users() == {"u"}


def test_publish_queue_commit_keeps_result_of_later_read(backlog: StateParts) -> None:
    mark(backlog, "u")
    backlog.users.submit_results([(backlog.users.begin_read(["u"])["u"], reading("u", "old"))])
    batch = begin(backlog, "one")
    mark(backlog, "u")
    backlog.users.submit_results([(backlog.users.begin_read(["u"])["u"], reading("u", "new"))])
    assert backlog.publish_queue.commit_publish("one", "e", "r", 1, batch, NOW) == 1
    assert backlog.users.dirty_users() == {"u"}


def test_publish_queue_commit_handles_several_chunks(backlog: StateParts) -> None:
    users = [f"u{number}" for number in range(1234)]
    mark(backlog, *users)
    notes = backlog.users.begin_read(users)
    backlog.users.submit_results([(notes[user], reading(user)) for user in users])
    assert publish_everything(backlog) == 0
    assert backlog.users.dirty_users() == set()
    assert backlog.publish_queue.last_publish().output_etag == "etag"


# -- overdue users, loss signals, sweeps -----------------------------------------------------------
def test_user_states_overdue_users_lists_user_until_read(backlog: StateParts) -> None:
    mark(backlog, "u")
    assert backlog.users.overdue_users("event", NOW - 1, 10) == []
    assert backlog.users.overdue_users("event", NOW + 1, 10) == ["u"]
    backlog.users.submit_results([(backlog.users.begin_read(["u"])["u"], reading("u"))])
    assert backlog.users.overdue_users("event", NOW + 1, 10) == []
    mark(backlog, "u")
    assert backlog.users.overdue_users("event", NOW + 1, 10) == ["u"]


def test_publish_queue_commit_restarts_overdue_time(backlog: StateParts) -> None:
    # Otherwise a key that is written without a pause would look overdue.
    mark(backlog, "u")
    backlog.users.submit_results([(backlog.users.begin_read(["u"])["u"], reading("u"))])
    mark(backlog, "u")
    begun = begin(backlog, "one")
    backlog.publish_queue.commit_publish("one", "e", "r", 1, begun, NOW + 100)
    assert backlog.users.overdue_users("event", NOW + 50, 10) == []
    assert backlog.users.overdue_users("event", NOW + 150, 10) == ["u"]


def test_loss_signals_during_sweep_fail_its_commit(backlog: StateParts) -> None:
    backlog.loss_signals.begin_sweep("one")
    backlog.loss_signals.add("test")
    assert not backlog.loss_signals.commit_sweep("one", None, ("e", "r"), "run", {"at": 1})
    assert backlog.loss_signals.trust_state() is None


def test_loss_signals_commit_sweep_sets_verified_state(backlog: StateParts) -> None:
    backlog.loss_signals.begin_sweep("one")
    assert backlog.loss_signals.commit_sweep("one", None, ("e", "r"), "run", {"at": 1})
    assert backlog.loss_signals.trust_state() == f"{VERIFIED_PREFIX}run"


def test_loss_signals_commit_sweep_records_etags_only_without_publish(backlog: StateParts) -> None:
    before = backlog.publish_queue.last_publish().writer_token
    backlog.loss_signals.begin_sweep("one")
    publish_everything(backlog)
    backlog.loss_signals.commit_sweep("one", before, ("orphan", "orphan"), "run", {"at": 1})
    assert backlog.publish_queue.last_publish().output_etag == "etag"
    by = backlog.publish_queue.last_publish().writer_token
    backlog.loss_signals.begin_sweep("two")
    backlog.loss_signals.commit_sweep("two", by, ("seen", "seen-too"), "run", {"at": 1})
    assert backlog.publish_queue.last_publish().output_etag == "seen"


def test_work_queues_return_page_as_added(backlog: StateParts) -> None:
    listed = Page(
        listed_users=[
            ListedUser("ü", VersionTokens(b"m", b"s"), True, "ü.png"),
            ListedUser("v", VersionTokens(b"m", b"s"), False, None),
        ]
    )
    for page in (Page(user_ids=["😀", 'q"']), listed):
        backlog.work_queues.add_page(page)
        assert backlog.work_queues.count_pages() == 1
        assert backlog.work_queues.take_page() == page
    assert backlog.work_queues.take_page() is None
