"""The view of one API process with a real MinIO and Redis, in normal operation and in outages."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from threading import enumerate as running_threads

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.snapshot.consistency import MARGIN_S
from api.snapshot.follower import Follower, FollowerConnections, SnapshotPoller
from api.snapshot.process_registry import ProcessRegistry
from local.ports import find_free_port
from local.servers import RedisServer, ServerUser
from shared.formats.object_names import OUTPUT_KEY, REJECTS_KEY
from shared.formats.output_csv import OUTPUT_HEADER
from shared.formats.records import Reject
from shared.formats.rejects_csv import encode_rejects
from shared.object_store import StoredObject
from shared.progress.pipeline_status import LastSweep, PipelineIssue, read_pipeline_status
from shared.redis_keys import (
    API_PROCESSES,
    COUNTERS,
    DEAD_LETTERS,
    DIRTY_SINCE,
    FAST_EVENTS,
    IGNORED_COUNT,
    IGNORED_KEYS,
    LAST_PUBLISH,
    LAST_SWEEP,
    PUBLISH_DONE_CHANNEL,
    TRUST_STATE,
)
from shared.s3.objects import S3ObjectStore
from tests.api_parts import make_dirty_counts
from tests.api_process import wait_until
from tests.fakes import DelegatingStore
from worker.services.state_parts import build_state

ONE = OUTPUT_HEADER + b"1,Ann,Lee,0,\n"
TWO = OUTPUT_HEADER + b"1,Ann,Lee,0,\n2,Zo\xc3\xab,,5,src-data/2.png\n"
REJECT = Reject("2.csv", "2", "no header", None, 1_700_000_000, "abc")


@pytest.fixture
def no_redis() -> Iterator["Redis"]:
    with Redis(port=find_free_port(), retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def poller(store: S3ObjectStore, redis: "Redis") -> SnapshotPoller:
    return SnapshotPoller(FollowerConnections(store, redis), time.time)


def rows(poller: SnapshotPoller) -> list[str]:
    assert poller.view.table is not None
    return [row["user_id"] for row in json.loads(poller.view.table.json)]


def test_poller_before_first_publish_has_no_table(poller: SnapshotPoller) -> None:
    poller.poll_once()
    assert poller.view.table is None
    assert poller.view.store_error == "output.csv does not exist"


def test_poller_shows_publish_at_next_poll(poller: SnapshotPoller, store: S3ObjectStore) -> None:
    store.put(OUTPUT_KEY, ONE)
    poller.poll_once()
    assert rows(poller) == ["1"]
    store.put(OUTPUT_KEY, TWO)
    store.put(REJECTS_KEY, encode_rejects([REJECT]))
    poller.poll_once()
    assert rows(poller) == ["1", "2"]
    assert poller.view.rejects == {"2": REJECT}
    assert poller.view.store_error is None


@pytest.mark.parametrize("body", [ONE, OUTPUT_HEADER])
def test_poller_keeps_same_table_when_unchanged(
    poller: SnapshotPoller, store: S3ObjectStore, body: bytes
) -> None:
    store.put(OUTPUT_KEY, body)
    poller.poll_once()
    table = poller.view.table
    poller.poll_once()
    assert poller.view.table is table


def test_poller_keeps_table_when_output_is_deleted(
    poller: SnapshotPoller, store: S3ObjectStore
) -> None:
    store.put(OUTPUT_KEY, ONE)
    poller.poll_once()
    store.delete(OUTPUT_KEY)
    poller.poll_once()
    assert rows(poller) == ["1"]
    assert poller.view.store_error == "output.csv does not exist"


def test_poller_ignores_invalid_output_until_repaired(
    poller: SnapshotPoller, store: S3ObjectStore
) -> None:
    store.put(OUTPUT_KEY, ONE)
    poller.poll_once()
    store.put(OUTPUT_KEY, OUTPUT_HEADER + b"what is this\n")
    poller.poll_once()
    assert rows(poller) == ["1"]
    assert poller.view.store_error is not None
    store.put(OUTPUT_KEY, TWO)
    poller.poll_once()
    assert rows(poller) == ["1", "2"]
    assert poller.view.store_error is None


def test_poller_reads_table_without_redis(store: S3ObjectStore, no_redis: "Redis") -> None:
    store.put(OUTPUT_KEY, ONE)
    poller = SnapshotPoller(FollowerConnections(store, no_redis), time.time)
    poller.poll_once()
    assert rows(poller) == ["1"]
    assert poller.view.redis_error is not None
    assert poller.view.redis_answered_at is None


def test_poller_reads_status_without_minio(
    unreachable_store: S3ObjectStore, redis: "Redis"
) -> None:
    poller = SnapshotPoller(FollowerConnections(unreachable_store, redis), time.time)
    poller.poll_once()
    assert poller.view.pipeline_status is not None
    assert poller.view.store_error is not None
    assert not ProcessRegistry(redis).all_polled_since(1.0)


def test_poller_registers_poll_only_after_reading(
    poller: SnapshotPoller, store: S3ObjectStore, redis: "Redis"
) -> None:
    presence = ProcessRegistry(redis)
    poller.poll_once()
    assert not presence.all_polled_since(1.0)  # there was no output.csv to read
    store.put(OUTPUT_KEY, ONE)
    published = presence.read_clock()
    poller.poll_once()
    assert presence.all_polled_since(published)
    assert not presence.all_polled_since(presence.read_clock())


class ReplacedAfterRead(DelegatingStore):
    """A store that replaces output.csv immediately after each read of it."""

    def __init__(self, store: S3ObjectStore, presence: ProcessRegistry) -> None:
        super().__init__(store)
        self._presence = presence
        self.replaced_at = 0.0

    def get(
        self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
    ) -> StoredObject:
        stored = self.inner.get(key, if_none_match, max_bytes)
        if key == OUTPUT_KEY:
            self.inner.put(OUTPUT_KEY, TWO)
            self.replaced_at = self._presence.read_clock()
        return stored


def test_poller_does_not_register_publish_during_its_read(
    store: S3ObjectStore, redis: "Redis"
) -> None:
    presence = ProcessRegistry(redis)
    replaced_store = ReplacedAfterRead(store, presence)
    store.put(OUTPUT_KEY, ONE)
    poller = SnapshotPoller(FollowerConnections(replaced_store, redis), time.time)
    poller.poll_once()
    assert rows(poller) == ["1"]
    assert not presence.all_polled_since(replaced_store.replaced_at)
    # Receipts rely on it, too.
    assert (poller.view.store_polled_at or 0) < replaced_store.replaced_at


def test_process_registry_waits_for_process_not_yet_polled(redis: "Redis") -> None:
    polled = ProcessRegistry(redis)
    slow = ProcessRegistry(redis)
    now = polled.send_heartbeat(0.0)
    polled.send_heartbeat(now)
    slow.send_heartbeat(now - 10)
    assert not polled.all_polled_since(now)
    slow.unregister()
    assert polled.all_polled_since(now)


def test_process_registry_removes_process_without_heartbeat(redis: "Redis") -> None:
    presence = ProcessRegistry(redis)
    now = presence.send_heartbeat(0.0)
    presence.send_heartbeat(now)
    redis.hset(API_PROCESSES, "dead", now - 31)
    assert presence.all_polled_since(now)
    assert redis.hlen(API_PROCESSES) == 1


def test_pipeline_status_reads_state_from_redis(redis: "Redis") -> None:
    redis.hset(IGNORED_KEYS, "1.CSV", json.dumps({"reason": "rename it", "since": 5}))
    redis.set(IGNORED_COUNT, 12)
    redis.rpush(
        DEAD_LETTERS, json.dumps({"reason": "not JSON", "since": 6, "key": None, "raw": "x"})
    )
    redis.zadd(DIRTY_SINCE["event"], {"a": 100.5, "b": 99.5})
    redis.zadd(DIRTY_SINCE["rebuild"], {"a": 1})
    redis.hset(LAST_PUBLISH, mapping={"writer_token": "x", "time": "123.25", "output_etag": "e"})
    sweep = {"at": "77.5", "metrics": "", "cause": "start", "objects": 9, "marked": 2}
    redis.hset(LAST_SWEEP, mapping=sweep)  # type: ignore[arg-type]
    redis.hset(TRUST_STATE, mapping={"state": "verified", "run_id": "run"})
    redis.rpush(FAST_EVENTS, "1", "2")
    counters = {
        "since": "55.5",
        "loss_signal:redis_emptied": 1,
        "silent_repairs": 4,
        "users_reenqueued": 9,
    }
    redis.hset(COUNTERS, mapping=counters)  # type: ignore[arg-type]
    status = read_pipeline_status(redis)
    assert status.ignored_keys == (PipelineIssue("1.CSV", "rename it", 5),)
    assert status.dead_letters == (PipelineIssue(None, "not JSON", 6),)
    assert status.ignored_count == 12
    assert status.dirty_counts == make_dirty_counts(event=2, rebuild=1)
    assert status.oldest_event_mark_at == 99.5
    assert status.last_publish_at == 123.25
    assert status.last_sweep_at == 77.5
    assert status.trust_state == "verified"
    assert (status.no_known_loss, status.detects_losses) == (True, False)
    assert status.last_sweep == LastSweep(77.5, "start", 9, 2)
    assert status.waiting_events == 2
    assert status.published_etag == "e"
    assert status.loss_signals == {"redis_emptied": 1}
    assert status.silent_repairs == 4
    assert status.counters_since == 55.5


def test_pipeline_status_of_empty_redis_has_defaults(redis: "Redis") -> None:
    status = read_pipeline_status(redis)
    assert status.ignored_keys == ()
    assert status.ignored_count == 0
    assert status.oldest_event_mark_at is None
    assert status.trust_state == "suspect"
    assert not status.no_known_loss
    assert status.last_sweep is None
    assert status.waiting_events == 0
    assert status.silent_repairs == 0


def test_pipeline_status_distinguishes_hourly_sweep_from_loss_sweep(redis: "Redis") -> None:
    state = build_state(redis)
    state.loss_signals.begin_sweep("first")
    assert not read_pipeline_status(redis).no_known_loss  # the trust state was absent before
    assert state.loss_signals.commit_sweep("first", None, (None, None), "run", {"at": 1})
    state.loss_signals.begin_sweep("hourly")
    status = read_pipeline_status(redis)
    assert (status.trust_state, status.no_known_loss) == ("verifying", True)
    state.loss_signals.add("files_changed")
    assert not read_pipeline_status(redis).no_known_loss
    state.loss_signals.begin_sweep("for a reason")
    assert not read_pipeline_status(redis).no_known_loss
    assert state.loss_signals.commit_sweep("for a reason", None, (None, None), "run", {"at": 1})
    assert read_pipeline_status(redis).no_known_loss


@pytest.mark.parametrize("body", [ONE, OUTPUT_HEADER])
def test_poller_reports_consistency_time_of_complete_table(
    store: S3ObjectStore, redis: "Redis", body: bytes
) -> None:
    now = 1000.0
    poller = SnapshotPoller(FollowerConnections(store, redis), lambda: now)
    etag = store.put(OUTPUT_KEY, body)
    redis.hset(LAST_PUBLISH, "output_etag", etag)
    poller.poll_once()
    assert poller.view.consistent_as_of is None  # no sweep has completed yet
    redis.hset(TRUST_STATE, mapping={"state": "verified", "run_id": "run"})
    poller.poll_once()
    assert poller.view.consistent_as_of == now - MARGIN_S
    redis.hset(LAST_PUBLISH, "output_etag", "etag of a version that this process has not read")
    now = 2000.0
    poller.poll_once()
    assert poller.view.consistent_as_of == 1000.0 - MARGIN_S
    redis.delete(TRUST_STATE)
    poller.poll_once()
    assert poller.view.consistent_as_of is None


def test_poller_keeps_consistency_time_while_output_is_unreadable(
    store: S3ObjectStore, redis: "Redis"
) -> None:
    now = 1000.0
    poller = SnapshotPoller(FollowerConnections(store, redis), lambda: now)
    redis.hset(LAST_PUBLISH, "output_etag", store.put(OUTPUT_KEY, ONE))
    redis.hset(TRUST_STATE, mapping={"state": "verified", "run_id": "run"})
    poller.poll_once()
    store.delete(OUTPUT_KEY)
    now = 2000.0
    poller.poll_once()
    assert poller.view.consistent_as_of == 1000.0 - MARGIN_S


def test_poller_keeps_consistency_time_after_redis_outage(
    store: S3ObjectStore, tmp_path: Path
) -> None:
    now = 1000.0
    etag = store.put(OUTPUT_KEY, ONE)
    with RedisServer(tmp_path, find_free_port(), ServerUser("", "password")) as server:
        client = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        poller = SnapshotPoller(FollowerConnections(store, client), lambda: now)

        def look() -> float | None:
            client.hset(LAST_PUBLISH, "output_etag", etag)
            client.hset(TRUST_STATE, mapping={"state": "verified", "run_id": "run"})
            poller.poll_once()
            return poller.view.consistent_as_of

        assert look() == 1000.0 - MARGIN_S
        server.kill()
        poller.poll_once()
        server.start()
        now = 1100.0
        assert look() == 1000.0 - MARGIN_S
        now = 1100.0 + MARGIN_S
        assert look() == 1100.0
        client.close()


def test_poller_detects_events_that_stay_unprocessed(store: S3ObjectStore, redis: "Redis") -> None:
    now = 1000.0
    poller = SnapshotPoller(FollowerConnections(store, redis), lambda: now)
    redis.rpush(FAST_EVENTS, "1", "2", "3")
    poller.poll_once()
    now = 1050.0
    poller.poll_once()
    assert poller.view.events_stalled_since == 1000.0
    redis.lpop(FAST_EVENTS)  # the listener processes events
    poller.poll_once()
    assert poller.view.events_stalled_since == 1050.0
    redis.delete(FAST_EVENTS)
    poller.poll_once()
    assert poller.view.events_stalled_since is None


def test_poller_reports_when_loss_was_first_seen(store: S3ObjectStore, redis: "Redis") -> None:
    now = 1000.0
    poller = SnapshotPoller(FollowerConnections(store, redis), lambda: now)
    poller.poll_once()
    now = 1030.0
    poller.poll_once()
    assert poller.view.suspect_since == 1000.0
    redis.hset(TRUST_STATE, mapping={"state": "verified", "run_id": "run"})
    poller.poll_once()
    assert poller.view.suspect_since is None


def test_poller_keeps_last_status_while_redis_is_down(store: S3ObjectStore, tmp_path: Path) -> None:
    with RedisServer(tmp_path, find_free_port(), ServerUser("", "password")) as server:
        client = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        client.set(IGNORED_COUNT, 3)
        poller = SnapshotPoller(FollowerConnections(store, client), time.time)
        poller.poll_once()
    poller.poll_once()
    assert poller.view.pipeline_status is not None
    assert poller.view.pipeline_status.ignored_count == 3
    assert poller.view.redis_error is not None
    client.close()


@pytest.fixture
def follower(store: S3ObjectStore, redis_server: RedisServer, redis: "Redis") -> Iterator[Follower]:
    with Redis.from_url(redis_server.url, socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
        follower = Follower(lambda: FollowerConnections(store, client))
        follower.start()
        yield follower
        follower.stop()


def shows(follower: Follower, count: int) -> bool:
    return follower.view.table is not None and follower.view.table.row_count == count


def test_follower_polls_on_publish_message(
    follower: Follower, store: S3ObjectStore, redis: "Redis"
) -> None:
    wait_until(lambda: redis.pubsub_numsub(PUBLISH_DONE_CHANNEL)[0][1] == 1)
    store.put(OUTPUT_KEY, ONE)
    started_at = time.monotonic()
    redis.publish(PUBLISH_DONE_CHANNEL, "etag")
    wait_until(lambda: shows(follower, 1))
    assert time.monotonic() - started_at < 1.0  # sooner than the poll interval of 2 s


def test_follower_polls_without_message(follower: Follower, store: S3ObjectStore) -> None:
    store.put(OUTPUT_KEY, TWO)
    wait_until(lambda: shows(follower, 2))


def test_follower_recovers_from_lost_connection(
    follower: Follower, store: S3ObjectStore, redis: "Redis"
) -> None:
    wait_until(lambda: redis.pubsub_numsub(PUBLISH_DONE_CHANNEL)[0][1] == 1)
    for client in redis.client_list():
        if client["id"] != str(redis.client_id()):
            redis.client_kill_filter(_id=client["id"])
    store.put(OUTPUT_KEY, ONE)
    wait_until(lambda: shows(follower, 1))
    wait_until(lambda: redis.pubsub_numsub(PUBLISH_DONE_CHANNEL)[0][1] == 1)


def test_follower_stop_removes_thread_and_registration(
    store: S3ObjectStore, redis: "Redis"
) -> None:
    follower = Follower(lambda: FollowerConnections(store, redis))
    follower.start()
    wait_until(lambda: redis.hlen(API_PROCESSES) == 1)
    follower.stop()
    assert redis.hlen(API_PROCESSES) == 0
    assert "follower" not in {thread.name for thread in running_threads()}


def test_follower_compares_rejects_with_table_before_requests(
    poller: SnapshotPoller, store: S3ObjectStore
) -> None:
    store.put(OUTPUT_KEY, TWO)
    store.put(REJECTS_KEY, encode_rejects([REJECT]))
    poller.poll_once()
    compared = poller.view.reject_list
    assert vars(compared)["held_user_ids"] == {"2"}
    poller.poll_once()
    assert poller.view.reject_list is compared
