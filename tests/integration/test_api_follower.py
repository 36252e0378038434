"""The view of one API process with a real MinIO and Redis, in normal operation and in outages."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from threading import enumerate as running_threads
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.consistency import MARGIN_S
from api.figures import LastSweep, Trouble, read_figures
from api.follower import Connections, Follower, Rounds
from api.presence import SNAPSHOTS, Presence
from local.ports import free_port
from local.servers import RedisServer
from shared.object_store import S3ObjectStore, StoredObject
from shared.output_csv import HEADER
from shared.published import OUTPUT, REJECTS
from shared.records import Reject
from shared.rejects import encode
from tests.api_parts import dirty
from tests.api_process import eventually
from worker.backlog import Backlog

ONE = HEADER + b"1,Ann,Lee,0,\n"
TWO = HEADER + b"1,Ann,Lee,0,\n2,Zo\xc3\xab,,5,src-data/2.png\n"
REJECT = Reject("2.csv", "2", "no header", None, 1_700_000_000, "abc")


@pytest.fixture
def no_redis() -> Iterator["Redis"]:
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def rounds(store: S3ObjectStore, redis: "Redis") -> Rounds:
    return Rounds(Connections(store, redis), time.time)


def rows(rounds: Rounds) -> list[str]:
    assert rounds.view.table is not None
    return [row["user_id"] for row in json.loads(rounds.view.table.json)]


def test_before_the_first_publish_there_is_no_table_and_a_reason(rounds: Rounds) -> None:
    rounds.run()
    assert rounds.view.table is None
    assert rounds.view.store_error == "output.csv does not exist"


def test_a_publish_is_shown_by_the_next_look(rounds: Rounds, store: S3ObjectStore) -> None:
    store.put(OUTPUT, ONE)
    rounds.run()
    assert rows(rounds) == ["1"]
    store.put(OUTPUT, TWO)
    store.put(REJECTS, encode([REJECT]))
    rounds.run()
    assert rows(rounds) == ["1", "2"]
    assert rounds.view.rejects == {"2": REJECT}
    assert rounds.view.store_error is None


def test_what_did_not_change_is_the_same_object(rounds: Rounds, store: S3ObjectStore) -> None:
    store.put(OUTPUT, ONE)
    rounds.run()
    table = rounds.view.table
    rounds.run()
    assert rounds.view.table is table


def test_a_removed_output_csv_is_served_on(rounds: Rounds, store: S3ObjectStore) -> None:
    store.put(OUTPUT, ONE)
    rounds.run()
    store.delete(OUTPUT)
    rounds.run()
    assert rows(rounds) == ["1"]
    assert rounds.view.store_error == "output.csv does not exist"


def test_an_output_csv_spoilt_by_hand_is_not_shown_and_a_mended_one_is(rounds: Rounds, store: S3ObjectStore) -> None:
    store.put(OUTPUT, ONE)
    rounds.run()
    store.put(OUTPUT, HEADER + b"what is this\n")
    rounds.run()
    assert rows(rounds) == ["1"]
    assert rounds.view.store_error is not None
    store.put(OUTPUT, TWO)
    rounds.run()
    assert rows(rounds) == ["1", "2"]
    assert rounds.view.store_error is None


def test_without_redis_the_table_is_read_all_the_same(store: S3ObjectStore, no_redis: "Redis") -> None:
    store.put(OUTPUT, ONE)
    rounds = Rounds(Connections(store, no_redis), time.time)
    rounds.run()
    assert rows(rounds) == ["1"]
    assert rounds.view.redis_error is not None
    assert rounds.view.heard_at is None


def test_without_minio_redis_is_heard_all_the_same(nowhere: S3ObjectStore, redis: "Redis") -> None:
    rounds = Rounds(Connections(nowhere, redis), time.time)
    rounds.run()
    assert rounds.view.figures is not None
    assert rounds.view.store_error is not None
    assert not Presence(redis).all_looked_since(1.0)


def test_a_process_is_known_to_have_looked_after_its_look_only(
    rounds: Rounds, store: S3ObjectStore, redis: "Redis"
) -> None:
    presence = Presence(redis)
    rounds.run()
    assert not presence.all_looked_since(1.0)  # there was no output.csv to read
    store.put(OUTPUT, ONE)
    published = presence.now()
    rounds.run()
    assert presence.all_looked_since(published)
    assert not presence.all_looked_since(presence.now())


class Overtaken:
    """A store that replaces output.csv immediately after each read of it."""

    def __init__(self, store: S3ObjectStore, presence: Presence) -> None:
        self.bucket, self._store, self._presence = store.bucket, store, presence
        self.replaced_at = 0.0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  delegates to the real store
        return getattr(self._store, name)

    def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
        stored = self._store.get(key, if_none_match, most)
        if key == OUTPUT:
            self._store.put(OUTPUT, TWO)
            self.replaced_at = self._presence.now()
        return stored


def test_a_publish_that_comes_in_the_middle_of_a_look_is_not_taken_for_seen(
    store: S3ObjectStore, redis: "Redis"
) -> None:
    presence = Presence(redis)
    overtaken = Overtaken(store, presence)
    store.put(OUTPUT, ONE)
    rounds = Rounds(Connections(overtaken, redis), time.time)
    rounds.run()
    assert rows(rounds) == ["1"]
    assert not presence.all_looked_since(overtaken.replaced_at)


def test_one_process_that_has_not_looked_is_waited_for(redis: "Redis") -> None:
    quick, slow = Presence(redis), Presence(redis)
    now = quick.sign(0.0)
    quick.sign(now)
    slow.sign(now - 10)
    assert not quick.all_looked_since(now)
    slow.leave()
    assert quick.all_looked_since(now)


def test_a_silent_process_is_taken_for_dead_and_forgotten(redis: "Redis") -> None:
    presence = Presence(redis)
    now = presence.sign(0.0)
    presence.sign(now)
    redis.hset(SNAPSHOTS, "dead", f"0.0 {now - 31}")
    assert presence.all_looked_since(now)
    assert redis.hlen(SNAPSHOTS) == 1


def test_the_figures_are_what_the_pipeline_left_in_redis(redis: "Redis") -> None:
    redis.hset("ignored", "1.CSV", json.dumps({"reason": "rename it", "since": 5}))
    redis.set("ignored:total", 12)
    redis.rpush("dead_letters", json.dumps({"reason": "not JSON", "since": 6, "key": None, "raw": "x"}))
    redis.zadd("since:event", {"a": 100.5, "b": 99.5})
    redis.zadd("since:rebuild", {"a": 1})
    redis.hset("published", mapping={"by": "x", "time": "123.25", "etag": "e"})
    sweep = {"last_at": "77.5", "figures": "", "last_cause": "start", "last_objects": 9, "last_marked": 2}
    redis.hset("sweep", mapping=sweep)  # type: ignore[arg-type]
    redis.set("epoch", "ok:run")
    redis.set("safe_queue", 5)
    redis.rpush("events:fast", "1", "2")
    redis.rpush("events:safe", "3")
    counters = {"since": "55.5", "evidence:redis_emptied": 1, "lost_and_healed": 4, "enqueued_again": 9}
    redis.hset("counters", mapping=counters)  # type: ignore[arg-type]
    figures = read_figures(redis)
    assert figures.ignored == (Trouble("1.CSV", "rename it", 5),)
    assert figures.dead_letters == (Trouble(None, "not JSON", 6),)
    assert (figures.ignored_total, figures.dirty) == (12, dirty(event=2, rebuild=1))
    assert (figures.oldest_event, figures.published_at, figures.sweep_at) == (99.5, 123.25, 77.5)
    assert (figures.whole, figures.sound, figures.sees_losses) == (True, True, False)
    assert figures.sweep == LastSweep(77.5, "start", 9, 2)
    assert (figures.waiting, figures.published_etag, figures.stuck_copies) == (3, "e", 5)
    assert (figures.evidence, figures.healed, figures.counting_since) == ({"redis_emptied": 1}, 4, 55.5)


def test_an_empty_redis_has_figures_too(redis: "Redis") -> None:
    figures = read_figures(redis)
    assert (figures.ignored, figures.ignored_total, figures.oldest_event, figures.whole) == ((), 0, None, False)
    assert (figures.sound, figures.sweep, figures.waiting, figures.healed) == (False, None, 0, 0)


def test_a_sweep_without_evidence_is_no_doubt_and_one_for_a_reason_is(redis: "Redis") -> None:
    backlog = Backlog(redis)
    backlog.begin_sweep("first")
    assert not read_figures(redis).sound  # the trust state was absent before
    assert backlog.commit_sweep("first", None, (None, None), "run", {"last_at": 1})
    backlog.begin_sweep("hourly")
    figures = read_figures(redis)
    assert (figures.whole, figures.sound) == (False, True)
    backlog.add_evidence("files_changed")
    assert not read_figures(redis).sound
    backlog.begin_sweep("for a reason")
    assert not read_figures(redis).sound
    assert backlog.commit_sweep("for a reason", None, (None, None), "run", {"last_at": 1})
    assert read_figures(redis).sound


def test_it_is_known_as_of_when_the_table_is_complete(store: S3ObjectStore, redis: "Redis") -> None:
    now = 1000.0
    rounds = Rounds(Connections(store, redis), lambda: now)
    etag = store.put(OUTPUT, ONE)
    redis.hset("published", "etag", etag)
    rounds.run()
    assert rounds.view.consistent_as_of is None  # no sweep has completed yet
    redis.set("epoch", "ok:run")
    rounds.run()
    assert rounds.view.consistent_as_of == now - MARGIN_S
    redis.hset("published", "etag", "etag of a version that this process has not read")
    now = 2000.0
    rounds.run()
    assert rounds.view.consistent_as_of == 1000.0 - MARGIN_S
    redis.delete("epoch")
    rounds.run()
    assert rounds.view.consistent_as_of is None


def test_nothing_new_is_known_while_output_csv_cannot_be_read(store: S3ObjectStore, redis: "Redis") -> None:
    now = 1000.0
    rounds = Rounds(Connections(store, redis), lambda: now)
    redis.hset("published", "etag", store.put(OUTPUT, ONE))
    redis.set("epoch", "ok:run")
    rounds.run()
    store.delete(OUTPUT)
    now = 2000.0
    rounds.run()
    assert rounds.view.consistent_as_of == 1000.0 - MARGIN_S


def test_nothing_new_is_known_right_after_redis_was_away(store: S3ObjectStore, tmp_path: Path) -> None:
    now = 1000.0
    etag = store.put(OUTPUT, ONE)
    with RedisServer(tmp_path, free_port(), "password") as server:
        client = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        rounds = Rounds(Connections(store, client), lambda: now)

        def look() -> float | None:
            client.hset("published", "etag", etag)
            client.set("epoch", "ok:run")
            rounds.run()
            return rounds.view.consistent_as_of

        assert look() == 1000.0 - MARGIN_S
        server.kill()
        rounds.run()
        server.start()
        now = 1100.0
        assert look() == 1000.0 - MARGIN_S
        now = 1100.0 + MARGIN_S
        assert look() == 1100.0
        client.close()


def test_the_same_event_at_the_head_of_its_list_is_noticed(store: S3ObjectStore, redis: "Redis") -> None:
    now = 1000.0
    rounds = Rounds(Connections(store, redis), lambda: now)
    redis.rpush("events:fast", "1", "2", "3")
    rounds.run()
    now = 1050.0
    rounds.run()
    assert rounds.view.stuck_since == 1000.0
    redis.lpop("events:fast")  # the listener processes events
    rounds.run()
    assert rounds.view.stuck_since == 1050.0
    redis.delete("events:fast")
    rounds.run()
    assert rounds.view.stuck_since is None


def test_evidence_of_loss_is_timed_from_when_it_was_first_heard(store: S3ObjectStore, redis: "Redis") -> None:
    now = 1000.0
    rounds = Rounds(Connections(store, redis), lambda: now)
    rounds.run()
    now = 1030.0
    rounds.run()
    assert rounds.view.broken_since == 1000.0
    redis.set("epoch", "ok:run")
    rounds.run()
    assert rounds.view.broken_since is None


def test_figures_are_remembered_while_redis_is_away(store: S3ObjectStore, tmp_path: Path) -> None:
    with RedisServer(tmp_path, free_port(), "password") as server:
        client = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        client.set("ignored:total", 3)
        rounds = Rounds(Connections(store, client), time.time)
        rounds.run()
    rounds.run()
    assert rounds.view.figures is not None
    assert rounds.view.figures.ignored_total == 3
    assert rounds.view.redis_error is not None
    client.close()


@pytest.fixture
def follower(store: S3ObjectStore, redis_server: RedisServer, redis: "Redis") -> Iterator[Follower]:
    with Redis.from_url(redis_server.url, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
        follower = Follower(lambda: Connections(store, client))
        follower.start()
        yield follower
        follower.stop()


def shows(follower: Follower, count: int) -> bool:
    return follower.view.table is not None and len(follower.view.table) == count


def test_a_follower_looks_when_told(follower: Follower, store: S3ObjectStore, redis: "Redis") -> None:
    eventually(lambda: redis.pubsub_numsub("published")[0][1] == 1)
    store.put(OUTPUT, ONE)
    began = time.monotonic()
    redis.publish("published", "etag")
    eventually(lambda: shows(follower, 1))
    assert time.monotonic() - began < 1.0  # sooner than the poll interval of 2 s


def test_a_follower_looks_untold(follower: Follower, store: S3ObjectStore) -> None:
    store.put(OUTPUT, TWO)
    eventually(lambda: shows(follower, 2))


def test_a_follower_comes_through_a_lost_connection(follower: Follower, store: S3ObjectStore, redis: "Redis") -> None:
    eventually(lambda: redis.pubsub_numsub("published")[0][1] == 1)
    for client in redis.client_list():
        if client["id"] != str(redis.client_id()):
            redis.client_kill_filter(_id=client["id"])
    store.put(OUTPUT, ONE)
    eventually(lambda: shows(follower, 1))
    eventually(lambda: redis.pubsub_numsub("published")[0][1] == 1)


def test_a_stopped_follower_leaves_neither_thread_nor_name(store: S3ObjectStore, redis: "Redis") -> None:
    follower = Follower(lambda: Connections(store, redis))
    follower.start()
    eventually(lambda: redis.hlen(SNAPSHOTS) == 1)
    follower.stop()
    assert redis.hlen(SNAPSHOTS) == 0
    assert "follower" not in {thread.name for thread in running_threads()}
