"""Tests of `worker.state.publish_queue` on a real Redis: one writer, and what it makes clean."""

from typing import Any

import pytest
from redis import Redis

from shared.redis_keys import (
    TRUST_STATE,
    WRITER_LEASE,
)
from shared.scripts import CHUNK_SIZE, Scripts
from tests.integration.state_steps import (
    NOW,
    make_result,
    mark_users,
    publish_pending,
    read_pending,
)
from worker.services.state_parts import StateParts
from worker.state.publish_queue import WRITER_LEASE_MS, LeaseLost, PublishQueue


def test_publish_queue_allows_one_writer_at_a_time(state: StateParts) -> None:
    assert state.publish_queue.acquire_writer("one") is not None
    assert state.publish_queue.acquire_writer("two") is None
    state.publish_queue.release_writer("two", signal_loss=False)
    assert state.publish_queue.acquire_writer("three") is None
    state.publish_queue.release_writer("one", signal_loss=False)
    assert state.publish_queue.acquire_writer("four") is not None


def test_publish_queue_renews_and_releases_only_its_own_lease(
    redis: "Redis", state: StateParts
) -> None:
    assert state.publish_queue.acquire_writer("one") is not None
    redis.pexpire(WRITER_LEASE, 1000)
    state.publish_queue.renew_writer("one")
    lease_ms: Any = redis.pttl(WRITER_LEASE)
    assert 1000 < lease_ms <= WRITER_LEASE_MS
    redis.set(WRITER_LEASE, "two", px=1000)
    with pytest.raises(LeaseLost):
        state.publish_queue.renew_writer("one")
    state.publish_queue.release_writer("one", signal_loss=False)
    left_ms: Any = redis.pttl(WRITER_LEASE)
    assert (redis.get(WRITER_LEASE), left_ms <= 1000) == (b"two", True)


def test_publish_queue_replaced_writer_reads_no_further_chunk(
    redis: "Redis", state: StateParts
) -> None:
    users = [f"u{number}" for number in range(1200)]
    mark_users(state, *users)
    tokens = state.users.begin_read(users)
    state.users.submit_results([(tokens[user], make_result(user)) for user in users])

    class Replaced(PublishQueue):
        """A publisher that loses its lease after the first chunk, as after a long pause."""

        def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
            super().__init__(*arguments)
            read_pending = self._read_pending

            def read_pending_late(*arguments: Any) -> Any:  # noqa: ANN401
                redis.set(WRITER_LEASE, "two")
                return read_pending(*arguments)

            self._read_pending = read_pending_late  # type: ignore[assignment]

    with pytest.raises(LeaseLost):
        Replaced(redis, Scripts(redis), state.loss_signals).acquire_writer("one")


def test_publish_queue_replaced_writer_commits_nothing_and_signals_loss(
    redis: "Redis", state: StateParts
) -> None:
    mark_users(state, "u")
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u"))])
    redis.hset(TRUST_STATE, mapping={"state": "verified", "run_id": "run"})
    batch = read_pending(state, "one")
    redis.delete(WRITER_LEASE)
    with pytest.raises(LeaseLost):
        state.publish_queue.commit_publish("one", "e", "r", 1, batch, NOW)
    assert state.users.dirty_users() == {"u"}
    assert state.loss_signals.trust_state() is None


def test_publish_queue_commit_cleans_published_user(state: StateParts) -> None:
    mark_users(state, "u")
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u"))])
    assert publish_pending(state) == 0
    assert state.users.dirty_users() == set()
    assert state.users.overdue_users("event", NOW + 1, 10) == []


def test_publish_queue_commit_keeps_user_marked_after_read(state: StateParts) -> None:
    mark_users(state, "u")
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u"))])
    mark_users(state, "u")
    publish_pending(state)
    assert state.users.dirty_users() == {"u"}


def test_publish_queue_commit_keeps_result_of_later_read(state: StateParts) -> None:
    mark_users(state, "u")
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u", "old"))])
    batch = read_pending(state, "one")
    mark_users(state, "u")
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u", "new"))])
    assert state.publish_queue.commit_publish("one", "e", "r", 1, batch, NOW) == 1
    assert state.users.dirty_users() == {"u"}


def test_publish_queue_commit_handles_several_chunks(state: StateParts) -> None:
    users = [f"u{number}" for number in range(1234)]
    mark_users(state, *users)
    tokens = state.users.begin_read(users)
    state.users.submit_results([(tokens[user], make_result(user)) for user in users])
    assert publish_pending(state) == 0
    assert state.users.dirty_users() == set()
    assert state.publish_queue.last_publish().output_etag == "etag"


def test_publish_queue_takes_results_in_batches(redis: "Redis", state: StateParts) -> None:
    """A publish of any number of results ends before its lease: the others stay pending."""
    users = [f"u{number}" for number in range(2500)]
    mark_users(state, *users)
    tokens = state.users.begin_read(users)
    state.users.submit_results([(tokens[user], make_result(user)) for user in users])
    queue = PublishQueue(redis, Scripts(redis), state.loss_signals, max_batch_results=1000)
    published: set[str] = set()
    while queue.count_pending():
        publish_input = queue.acquire_writer("one")
        assert publish_input is not None
        left = queue.count_pending()
        for batch in (publish_input.pending, queue.read_pending("one")):
            assert min(1000, left) <= len(batch) < 2000
            assert published.isdisjoint(batch)
        published |= batch.keys()
        left = queue.commit_publish("one", "e", "r", 1, batch, NOW)
        assert left == len(users) - len(published)
        assert state.users.dirty_users() == {*users} - published
    assert published == {*users}


def test_publish_queue_renews_lease_between_chunks_of_commit(
    redis: "Redis", state: StateParts
) -> None:
    users = [f"u{number}" for number in range(2500)]
    mark_users(state, *users)
    tokens = state.users.begin_read(users)
    state.users.submit_results([(tokens[user], make_result(user)) for user in users])
    left_ms: list[Any] = []

    class Slow(PublishQueue):
        """A publisher with a lease that is about to expire after each chunk."""

        def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
            super().__init__(*arguments)
            commit_publish = self._commit_publish

            def commit_slowly(*arguments: Any) -> Any:  # noqa: ANN401
                left_ms.append(redis.pttl(WRITER_LEASE))
                answer = commit_publish(*arguments)
                redis.pexpire(WRITER_LEASE, 1000)
                return answer

            self._commit_publish = commit_slowly  # type: ignore[assignment]

    queue = Slow(redis, Scripts(redis), state.loss_signals)
    publish_input = queue.acquire_writer("one")
    assert publish_input is not None
    assert queue.commit_publish("one", "e", "r", 1, publish_input.pending, NOW) == 0
    assert len(left_ms) == 2500 // CHUNK_SIZE
    assert all(1000 < each <= WRITER_LEASE_MS for each in left_ms)


def test_publish_queue_commit_restarts_overdue_time(state: StateParts) -> None:
    """Otherwise a key that is written without a pause would look overdue."""
    mark_users(state, "u")
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u"))])
    mark_users(state, "u")
    publish_input = read_pending(state, "one")
    state.publish_queue.commit_publish("one", "e", "r", 1, publish_input, NOW + 100)
    assert state.users.overdue_users("event", NOW + 50, 10) == []
    assert state.users.overdue_users("event", NOW + 150, 10) == ["u"]
