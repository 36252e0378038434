"""Tests of `worker.state.schema_upgrade`: the first start after a release with other keys in Redis.

`tests/captured/redis-0.2.0.json` is the state that release 0.2.0 left in a Redis: users of each
cause, pending results, leases, records, messages and unprocessed events. It was written by that
release itself. Its MinIO had the files that `publish_old_files` writes; the files that changed
afterwards are those of `change_files`. `redis-0.3.0.json` is the same of release 0.3.0, without
messages.
"""

import base64
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.notificationconfig import NotificationConfig, QueueConfig
from redis import Redis

from local.ports import find_free_port
from local.servers import MinioPorts, MinioServer, RedisServer, ServerUser
from shared import redis_keys
from shared.formats.object_names import OUTPUT_KEY
from shared.redis_keys import (
    COUNTERS,
    DEAD_LETTERS,
    FAST_EVENTS,
    LAST_PUBLISH,
    MAX_DEAD_LETTERS,
    PENDING_RESULTS,
    SAFE_EVENTS_OF_0_3,
    SCHEMA_VERSION,
    STATE_VERSION,
    SWEEP_REQUESTED,
)
from shared.settings import Settings
from shared.task_queue import (
    BULK_QUEUE,
    EVENTS_QUEUE,
    REBUILD,
    REFRESH,
    REFRESH_ISOLATED,
    REFRESH_PAGE,
    REFRESH_REQUESTED,
    SWEEP,
    UNPACK,
)
from tests.api_process import wait_until
from tests.archives import make_zip
from tests.conftest import MINIO_PASSWORD, MINIO_USER
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.init import Initializer
from worker.listener import Listener
from worker.source.notifications import RuleState
from worker.state.loss_signals import TrustState
from worker.state.schema_upgrade import KEYS_OF_VERSION_2, OLD_KEYS, upgrade_schema
from worker.tasks import create_app
from worker.watchdog.watchdog import Watchdog

CapturedState = Mapping[str, Mapping[str, Any]]

CAPTURED: Mapping[str, CapturedState] = json.loads(
    (Path(__file__).parents[1] / "captured" / "redis-0.2.0.json").read_text(encoding="utf-8")
)
"""A verified state, and the same state with loss signals during a sweep."""
CAPTURED_3: Mapping[str, CapturedState] = json.loads(
    (Path(__file__).parents[1] / "captured" / "redis-0.3.0.json").read_text(encoding="utf-8")
)
SOURCE_BUCKET = "captured-source"
OUTPUT_BUCKET = "captured-output"
"""The buckets that the captured events name."""
EXPIRING_PREFIXES = (b"seen:", b"asked:", b"rebuild:", b"unpack:")


@pytest.fixture
def upgraded(settings: Settings, minio_client: Minio) -> Iterator[RowdropHarness]:
    """Return a Rowdrop of this release on empty buckets with the captured names."""
    for bucket in (SOURCE_BUCKET, OUTPUT_BUCKET):
        minio_client.make_bucket(bucket)
    harness = RowdropHarness(
        replace(
            settings, source_bucket=SOURCE_BUCKET, output_bucket=OUTPUT_BUCKET, copy_images=True
        )
    )
    yield harness
    harness.close()
    for bucket in (SOURCE_BUCKET, OUTPUT_BUCKET):
        keys = [
            DeleteObject(str(entry.object_name))
            for entry in minio_client.list_objects(bucket, recursive=True)
        ]
        assert list(minio_client.remove_objects(bucket, keys)) == []
        minio_client.remove_bucket(bucket)


def publish_old_files(rowdrop: RowdropHarness) -> None:
    for user in ("same", "changed", "removed", "stale", "quarantined", "drift"):
        rowdrop.put_files(user, make_csv("Old"), images=["png"])
    rowdrop.source.put("1.CSV", b"x")
    rowdrop.source.put("old.zip", make_zip({"inzip.csv": make_csv("Zipped")}))
    rowdrop.run_sweep()
    rowdrop.publisher.write_manifest()


def change_files(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("changed", make_csv("New"))
    rowdrop.put_files("drift", make_csv("Drifted"))
    # Newer than its pending result in the captured state.
    rowdrop.put_files("stale", make_csv("Newest"))
    rowdrop.put_files("waiting", make_csv("Waiting"))  # its event is not processed
    rowdrop.source.delete("removed.csv")


def restore(redis: "Redis", state: CapturedState) -> None:
    client: Any = redis
    for key, entry in state.items():
        name = encode(key)
        value = entry["value"]
        match entry["type"]:
            case "string":
                client.set(name, encode(value))
            case "hash":
                client.hset(
                    name,
                    mapping={encode(field): encode(content) for field, content in value.items()},
                )
            case "list":
                client.rpush(name, *map(encode, value))
            case "set":
                client.sadd(name, *map(encode, value))
            case "zset":
                client.zadd(name, {encode(member): score for member, score in value.items()})
        if entry["ttl_ms"] > 0:
            client.pexpire(name, entry["ttl_ms"])


def encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def dump_state(redis: "Redis") -> dict[bytes, bytes]:
    client: Any = redis
    return {key: client.dump(key) for key in client.keys("*")}


def start(rowdrop: RowdropHarness) -> Watchdog:
    """Start this release on what the previous one has left."""
    watchdog = rowdrop.create_watchdog()
    watchdog.start()
    watchdog.tick()
    return watchdog


def load_captured_state(
    state: CapturedState, upgraded: RowdropHarness, redis: "Redis"
) -> CapturedState:
    publish_old_files(upgraded)
    change_files(upgraded)
    redis.flushall()
    restore(redis, state)
    return state


@pytest.fixture(params=list(CAPTURED))
def captured_state(
    request: pytest.FixtureRequest, upgraded: RowdropHarness, redis: "Redis"
) -> CapturedState:
    """Load a captured state into Redis, with the buckets that belong to it."""
    return load_captured_state(CAPTURED[request.param], upgraded, redis)


@pytest.fixture(params=list(CAPTURED_3))
def captured_state_3(
    request: pytest.FixtureRequest, upgraded: RowdropHarness, redis: "Redis"
) -> CapturedState:
    """Load a captured state of release 0.3 into Redis, with the buckets that belong to it."""
    return load_captured_state(CAPTURED_3[request.param], upgraded, redis)


def test_captured_state_has_every_old_key() -> None:
    captured = {key: entry["type"] for state in CAPTURED.values() for key, entry in state.items()}
    assert {key: captured.get(key) for key in OLD_KEYS} == OLD_KEYS
    moved = {"counters", "dead_letters"}
    unchanged = {FAST_EVENTS, SAFE_EVENTS_OF_0_3, EVENTS_QUEUE, BULK_QUEUE}
    others = {
        key for key in captured if not encode(key).startswith((b"_kombu.", *EXPIRING_PREFIXES))
    }
    assert others - OLD_KEYS.keys() == moved | unchanged


def test_upgrade_leaves_right_rows_after_one_sweep(
    upgraded: RowdropHarness,
    captured_state: CapturedState,
    redis: "Redis",
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    start(upgraded)
    assert "removed the state of version 1" in caplog.text
    check_rows_after_one_sweep(upgraded, redis)


def check_rows_after_one_sweep(upgraded: RowdropHarness, redis: "Redis") -> None:
    """Process the waiting event and run the requested sweep: all rows must be right."""
    assert redis.get(SWEEP_REQUESTED) == b"start"
    assert not redis.exists(PENDING_RESULTS)
    services = upgraded.services
    listener = Listener(
        upgraded.state.inbox,
        services.clients.tasks,
        services.ignored_keys,
        SOURCE_BUCKET,
        time.time,
    )
    listener.run_once(0.1)
    assert upgraded.state.users.marked_by_event(["waiting"]) == {"waiting"}
    upgraded.run_sweep("start")
    services.refresher.refresh(["waiting"])
    upgraded.publish_pending()
    assert upgraded.find_differences() == []
    assert {user: row.first_name for user, row in upgraded.read_rows().items()} == {
        "same": "Old",
        "changed": "New",
        "stale": "Newest",
        "quarantined": "Old",
        "drift": "Drifted",
        "inzip": "Zipped",
        "waiting": "Waiting",
    }
    loss_signals = upgraded.state.loss_signals
    assert loss_signals.trust_state() == TrustState("verified", loss_signals.run_id())
    assert upgraded.state.users.dirty_users() == set()


def test_captured_state_3_has_every_old_key() -> None:
    captured = {key for state in CAPTURED_3.values() for key in state}
    assert set(KEYS_OF_VERSION_2) <= captured
    unchanged = {value for value in vars(redis_keys).values() if isinstance(value, str)}
    prefixes = (redis_keys.REBUILD_PREFIX, redis_keys.UNPACK_PREFIX)
    others = {key for key in captured if not key.startswith(prefixes)}
    assert others - set(KEYS_OF_VERSION_2) <= unchanged


def test_upgrade_of_version_2_is_complete_after_one_sweep(
    upgraded: RowdropHarness,
    captured_state_3: CapturedState,
    redis: "Redis",
    caplog: pytest.LogCaptureFixture,
) -> None:
    client: Any = redis
    caplog.set_level(logging.INFO)
    start(upgraded)
    assert caplog.text.count("removed the state of release 0.3") == 1
    assert not client.exists(*KEYS_OF_VERSION_2)
    assert client.get(SCHEMA_VERSION) == STATE_VERSION.encode()
    check_rows_after_one_sweep(upgraded, redis)
    kept = captured_state_3[COUNTERS]["value"]
    counters = {name.decode(): value.decode() for name, value in client.hgetall(COUNTERS).items()}
    assert {name: counters.get(name) for name in kept} == kept
    letters = [entry.decode() for entry in client.lrange(DEAD_LETTERS, 0, -1)]
    assert letters == captured_state_3[DEAD_LETTERS]["value"]


def test_upgrade_of_version_2_starts_running_rebuild_again(
    upgraded: RowdropHarness, captured_state_3: CapturedState
) -> None:
    rebuilds = upgraded.services.records.rebuilds
    task_id = rebuilds.get_running_id()
    assert task_id
    assert rebuilds.is_enqueued(task_id)
    start(upgraded)
    assert rebuilds.get_running_id() == task_id
    assert not rebuilds.is_enqueued(task_id)
    upgraded.services.rebuild.start(task_id)
    upgraded.run_bulk_work()
    upgraded.services.rebuild.finish()
    status = rebuilds.status(task_id)
    assert status
    assert status.state == "done"
    assert upgraded.find_differences() == []


def test_upgrade_repeats_what_process_of_version_2_does_later(
    upgraded: RowdropHarness, captured_state_3: CapturedState, redis: "Redis"
) -> None:
    """A listener of release 0.3 takes an event after the sweep of the upgrade, and then ends."""
    watchdog = start(upgraded)
    upgraded.run_sweep("start")
    upgraded.put_files("drift", make_csv("Late"))
    for key in (FAST_EVENTS, SWEEP_REQUESTED):
        redis.delete(key)
    old_keys = captured_state_3.keys() & KEYS_OF_VERSION_2
    restore(redis, {key: captured_state_3[key] for key in old_keys})
    watchdog.tick()
    assert not redis.exists(*KEYS_OF_VERSION_2)
    assert upgraded.state.loss_signals.unresolved() == {"earlier_release"}
    assert redis.get(SWEEP_REQUESTED) == b"earlier_release"
    upgraded.run_sweep("earlier_release")
    assert upgraded.find_differences() == []
    assert upgraded.read_rows()["drift"].first_name == "Late"


def test_upgrade_after_return_to_version_2_publishes_newest_result(
    upgraded: RowdropHarness, captured_state_3: CapturedState, redis: "Redis"
) -> None:
    """This release leaves a pending result; release 0.3 publishes newer ones; this one returns."""
    start(upgraded)
    upgraded.state.users.mark(["drift"], "event", time.time())
    upgraded.services.refresher.refresh(["drift"])
    assert upgraded.state.publish_queue.count_pending() == 1
    restore(redis, captured_state_3)
    start(upgraded)
    assert upgraded.state.publish_queue.count_pending() == 0
    assert upgraded.state.loss_signals.trust_state() is None


def test_upgrade_removes_old_keys_and_keeps_counters(
    upgraded: RowdropHarness, captured_state: CapturedState, redis: "Redis"
) -> None:
    client: Any = redis
    start(upgraded)
    remaining_keys = {
        key for key in client.keys("*") if not key.startswith((b"rowdrop:", b"_kombu."))
    }
    expiring = {key for key in remaining_keys if key.startswith(EXPIRING_PREFIXES)}
    assert all(client.ttl(key) > 0 for key in expiring)
    assert remaining_keys - expiring == {
        key.encode() for key in (FAST_EVENTS, EVENTS_QUEUE, BULK_QUEUE)
    }
    old_counters = captured_state["counters"]["value"]
    losses = {
        name.removeprefix("evidence:"): count
        for name, count in old_counters.items()
        if "evidence:" in name
    }
    assert losses["events_skipped"] == "1"
    assert {name.decode(): value.decode() for name, value in client.hgetall(COUNTERS).items()} == {
        "since": old_counters["since"],
        "silent_repairs": "1",
        "users_reenqueued": "2",
        "results_refused": "4",
        **{f"loss_signal:{kind}": count for kind, count in losses.items()},
    }
    for new_list, old_lists in (
        (DEAD_LETTERS, ("dead_letters",)),
        (FAST_EVENTS, (FAST_EVENTS, SAFE_EVENTS_OF_0_3)),
    ):
        entries = [entry.decode() for entry in client.lrange(new_list, 0, -1)]
        assert entries == [
            entry for old_list in old_lists for entry in captured_state[old_list]["value"]
        ]


def test_upgrade_happens_once(
    upgraded: RowdropHarness, captured_state: CapturedState, redis: "Redis"
) -> None:
    assert upgrade_schema(redis)
    before = dump_state(redis)
    assert not upgrade_schema(redis)
    restore(redis, {"pages": captured_state["pages"]})  # of another application, by now
    assert not upgrade_schema(redis)
    assert dump_state(redis) == before | {b"pages": redis.dump("pages")}


def test_upgrade_processes_messages_of_the_previous_release(
    upgraded: RowdropHarness, captured_state: CapturedState, redis: "Redis"
) -> None:
    """A message is only a hint: each task of the previous release exists and changes no row."""
    start(upgraded)
    app = create_app(upgraded.services.clients.settings, lambda: upgraded.services)
    processed = set()
    for queue in (EVENTS_QUEUE, BULK_QUEUE):
        for raw in captured_state[queue]["value"]:
            message = json.loads(raw)
            task = message["headers"]["task"]
            (arguments, *_) = json.loads(base64.b64decode(message["body"]))
            app.tasks[task](*arguments)
            processed.add(task)
    assert processed == {
        REFRESH,
        REFRESH_ISOLATED,
        REFRESH_PAGE,
        REFRESH_REQUESTED,
        SWEEP,
        REBUILD,
        UNPACK,
    }
    redis.delete(EVENTS_QUEUE, BULK_QUEUE, FAST_EVENTS, SAFE_EVENTS_OF_0_3)
    upgraded.run_sweep("start")
    assert upgraded.find_differences() == []
    app.close()


def test_upgrade_repairs_late_write_of_old_publisher(
    upgraded: RowdropHarness, captured_state: CapturedState, redis: "Redis"
) -> None:
    """A publisher of the previous release, with the old keys, writes after the upgrade sweep."""
    watchdog = start(upgraded)
    upgraded.run_sweep("start")
    etag = upgraded.output.put(OUTPUT_KEY, upgraded.read_output().replace(b"Drifted", b"Stale"))
    restore(redis, {"published": captured_state["published"]})
    redis.hset("published", "etag", etag)
    for _ in range(2):
        watchdog.tick()
    assert upgraded.state.loss_signals.unresolved() == {"files_changed"}
    upgraded.run_sweep("files_changed")
    assert upgraded.find_differences() == []
    assert redis.hget(LAST_PUBLISH, "output_etag") != etag.encode()


class MinioServerOfRelease03(MinioServer):
    """A MinIO with the two event targets that release 0.3 needed."""

    def build_environment(self) -> dict[str, str]:
        environment = super().build_environment()
        second_target = {
            name.replace("_FAST", "_SAFE"): value
            for name, value in environment.items()
            if name.endswith("_FAST")
        }
        return {
            **environment,
            **second_target,
            "MINIO_NOTIFY_REDIS_KEY_SAFE": SAFE_EVENTS_OF_0_3,
            "MINIO_NOTIFY_REDIS_QUEUE_DIR_SAFE": str(self.folder / "queue"),
        }


def test_upgrade_loses_no_event_of_minio_with_two_targets(
    tmp_path: Path, redis_server: RedisServer, redis: "Redis", minio_server: MinioServer
) -> None:
    """First MinIO keeps the settings of release 0.3, then it is started with those of this one."""
    client: Any = redis
    ports = MinioPorts(find_free_port(), find_free_port())
    root = ServerUser(MINIO_USER, MINIO_PASSWORD)
    parts = (tmp_path / "minio", ports, root, redis_server.address, minio_server.options)
    with MinioServerOfRelease03(*parts) as minio:
        settings = Settings(minio.endpoint, MINIO_USER, MINIO_PASSWORD, redis_server.url)
        rowdrop = RowdropHarness(settings)
        s3 = rowdrop.services.clients.create_minio_client()
        s3.make_bucket(settings.source_bucket)
        events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
        rules = [
            QueueConfig(events, f"rowdrop-{name.lower()}", queue=f"arn:minio:sqs::{name}:redis")
            for name in ("FAST", "SAFE")
        ]
        s3.set_bucket_notification(
            settings.source_bucket, NotificationConfig(queue_config_list=rules)
        )
        rowdrop.put_files("copied")
        wait_until(lambda: client.llen(FAST_EVENTS) and client.llen(SAFE_EVENTS_OF_0_3))
        Initializer(rowdrop.services).run()
        rowdrop.create_checks().events_of_0_3.tick(0)
        assert not client.exists(SAFE_EVENTS_OF_0_3)
        assert sum(b"copied.csv" in raw for raw in client.lrange(FAST_EVENTS, 0, -1)) == 2
        kept = s3.get_bucket_notification(settings.source_bucket).queue_config_list
        assert [rule.config_id for rule in kept] == ["rowdrop-fast"]
        s3.set_bucket_notification(
            settings.source_bucket, NotificationConfig(queue_config_list=rules)
        )
    with MinioServer(*parts):
        redis.delete(FAST_EVENTS)
        rowdrop.put_files("new")
        wait_until(lambda: client.llen(FAST_EVENTS) == 1)
        assert b"new.csv" in client.lindex(FAST_EVENTS, 0)
        assert rowdrop.services.notification_rules.ensure_rules() is RuleState.PRESENT
    rowdrop.close()


def test_event_inbox_sees_probe_that_previous_listener_processed(
    rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    """With compose, `init` of this release runs while the previous listener processes events."""
    restore(redis, {"probe": CAPTURED["verified"]["probe"]})
    assert rowdrop.state.inbox.has_probe_arrived(".rowdrop-probe-captured")
    assert not rowdrop.state.inbox.has_probe_arrived(".rowdrop-probe-another")


def test_upgrade_leaves_keys_of_other_applications_alone(redis: "Redis") -> None:
    """A new installation in a shared Redis: other applications may use the names of version 1."""
    redis.hset("counters", "visits", 7)
    redis.rpush("pages", "home")
    redis.set("sweep", "chimney")
    before = dump_state(redis)
    assert not upgrade_schema(redis)
    assert dump_state(redis) == before | {SCHEMA_VERSION.encode(): redis.dump(SCHEMA_VERSION)}
    assert redis.get(SCHEMA_VERSION) == STATE_VERSION.encode()


def test_upgrade_leaves_keys_of_other_types_alone(redis: "Redis") -> None:
    redis.hset("counters", "since", 1.5)
    redis.set("dead_letters", "returned to sender")
    redis.set("pages", "a string")
    redis.set("epoch", "ok:run")
    assert upgrade_schema(redis)
    assert (redis.get("dead_letters"), redis.get("pages")) == (b"returned to sender", b"a string")
    assert not redis.exists("epoch", "counters", DEAD_LETTERS)


def test_upgrade_adds_counters_and_dead_letters_of_both_releases(redis: "Redis") -> None:
    redis.hset("counters", mapping={"since": 1.5, "evidence:redis_emptied": 2, "safe_events": 9})
    redis.hset(COUNTERS, mapping={"since": 3.5, "loss_signal:redis_emptied": 1})
    redis.rpush("dead_letters", *(f"old {number}" for number in range(MAX_DEAD_LETTERS)))
    redis.rpush(DEAD_LETTERS, "new")
    assert upgrade_schema(redis)
    assert redis.hgetall(COUNTERS) == {b"since": b"1.5", b"loss_signal:redis_emptied": b"3"}
    assert redis.llen(DEAD_LETTERS) == MAX_DEAD_LETTERS
    assert redis.lrange(DEAD_LETTERS, -2, -1) == [f"old {MAX_DEAD_LETTERS - 1}".encode(), b"new"]
