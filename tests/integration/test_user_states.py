"""Tests of `worker.state.user_states` on a real Redis: mark, read, submit."""

import random
from typing import Any

from redis import Redis

from shared.redis_keys import (
    ACTIVE_READS,
    CHANGE_VERSIONS,
    PENDING_CHANGE_VERSIONS,
    PENDING_RESULTS,
    READ_VERSIONS,
    WAKE_BULK,
    WAKE_LIVE,
)
from tests.integration.state_steps import (
    NOW,
    make_result,
    mark_users,
    publish_pending,
    read_pending,
)
from worker.services.state_parts import StateParts
from worker.state.publish_queue import PublishInput


def test_user_states_mark_renews_change_version_only(state: StateParts) -> None:
    mark_users(state, "u")
    first = state.users.begin_read(["u"])["u"]
    mark_users(state, "u")
    second = state.users.begin_read(["u"])["u"]
    assert first.change_version != second.change_version
    assert first.read_version == second.read_version


def test_user_states_submit_refuses_older_result(state: StateParts) -> None:
    mark_users(state, "u")
    slow = state.users.begin_read(["u"])["u"]
    quick = state.users.begin_read(["u"])["u"]
    assert state.users.submit_results([(quick, make_result("u", "new"))]) == []
    assert state.users.submit_results([(slow, make_result("u", "old"))]) == ["u"]
    assert read_pending(state, "one")["u"].result == make_result("u", "new")


def test_user_states_submit_refuses_older_result_after_publish(state: StateParts) -> None:
    mark_users(state, "u")
    slow = state.users.begin_read(["u"])["u"]
    quick = state.users.begin_read(["u"])["u"]
    state.users.submit_results([(quick, make_result("u"))])
    publish_pending(state)
    assert state.users.submit_results([(slow, make_result("u", "old"))]) == []
    assert state.publish_queue.count_pending() == 0


def test_user_states_submit_refuses_result_after_redis_was_emptied(
    redis: "Redis", state: StateParts
) -> None:
    mark_users(state, "u")
    tokens = state.users.begin_read(["u"])["u"]
    redis.flushall()
    state.users.submit_results([(tokens, make_result("u", "old"))])
    assert state.publish_queue.count_pending() == 0
    mark_users(state, "u")
    assert state.users.submit_results([(tokens, make_result("u", "old"))]) == ["u"]


def test_user_states_take_ownership_discards_pending_result(state: StateParts) -> None:
    """An owner that dies leaves a dirty user that is read again."""
    mark_users(state, "u")
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u", "old"))])
    mark_users(state, "u")
    tokens = state.users.begin_read(["u"])["u"]
    publish_input = state.publish_queue.acquire_writer("one")
    assert publish_input
    assert state.users.take_ownership("u", tokens)
    state.publish_queue.commit_publish("one", "e", "r", 1, publish_input.pending, NOW)
    assert state.users.begin_read(["u"])["u"].pending == b""
    assert state.publish_queue.count_pending() == 0


def test_user_states_pending_results_have_tokens_of_dirty_users(
    redis: "Redis", state: StateParts
) -> None:
    """In any order of steps, a pending result belongs to a dirty user and has its read version."""
    client: Any = redis
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    users = ["u", "v", "/w.zip"]
    known_tokens = {user: state.users.begin_read(users).get(user) for user in users}
    publish_input: PublishInput | None = None
    for _ in range(500):
        user = rng.choice(users)
        tokens = known_tokens[user]
        match rng.randrange(7):
            case 0:
                mark_users(state, user)
            case 1:
                known_tokens[user] = state.users.begin_read([user]).get(user, tokens)
            case 2 | 3 if tokens:
                copied = rng.choice([(), (user,)])
                state.users.submit_results([(tokens, make_result(user))], copied_users=copied)
            case 4 if tokens:
                known_tokens[user] = state.users.take_ownership(user, tokens) or tokens
            case 5:
                state.users.add_suspects([user])
            case 6 if publish_input:
                state.publish_queue.commit_publish("one", "e", "r", 1, publish_input.pending, NOW)
                publish_input = None
            case 6:
                publish_input = state.publish_queue.acquire_writer("one")
        dirty = set(client.hkeys(CHANGE_VERSIONS))
        pending = set(client.hkeys(PENDING_RESULTS))
        assert set(client.hkeys(READ_VERSIONS)) == dirty, seed
        assert set(client.hkeys(PENDING_CHANGE_VERSIONS)) == pending, seed
        assert pending <= dirty, seed


def test_user_states_begin_read_skips_clean_user(state: StateParts) -> None:
    assert state.users.begin_read(["clean"]) == {}


def test_user_states_begin_read_skips_user_read_since_mark(state: StateParts) -> None:
    for user in ("u", "v"):
        mark_users(state, user)
        state.users.submit_results([(state.users.begin_read([user])[user], make_result(user))])
    mark_users(state, "v")
    assert state.users.begin_read(["u", "v"]).keys() == {"v"}


def test_user_states_begin_read_records_no_empty_read(redis: "Redis", state: StateParts) -> None:
    state.users.begin_read(["clean"], "a reading")
    assert not redis.exists(ACTIVE_READS)


def test_user_states_submit_wakes_publisher_once(redis: "Redis", state: StateParts) -> None:
    for user in ("u", "v"):
        mark_users(state, user)
        state.users.submit_results([(state.users.begin_read([user])[user], make_result(user))])
    assert (redis.llen(WAKE_LIVE), redis.llen(WAKE_BULK)) == (1, 0)


def test_user_states_submit_uses_bulk_wake_list(redis: "Redis", state: StateParts) -> None:
    state.users.mark(["u"], "sweep", NOW)
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u"))])
    assert (redis.llen(WAKE_LIVE), redis.llen(WAKE_BULK)) == (0, 1)


def test_user_states_overdue_users_lists_user_until_read(state: StateParts) -> None:
    mark_users(state, "u")
    assert state.users.overdue_users("event", NOW - 1, 10) == []
    assert state.users.overdue_users("event", NOW + 1, 10) == ["u"]
    state.users.submit_results([(state.users.begin_read(["u"])["u"], make_result("u"))])
    assert state.users.overdue_users("event", NOW + 1, 10) == []
    mark_users(state, "u")
    assert state.users.overdue_users("event", NOW + 1, 10) == ["u"]
