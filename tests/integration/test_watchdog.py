"""Tests of `worker.watchdog` on real servers: loss signals are counted and request a sweep."""

import io
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio
from minio.notificationconfig import NotificationConfig

from local.ports import find_free_port
from local.servers import MinioPorts, MinioServer, RedisServer, ServerUser
from shared.formats.object_names import OUTPUT_KEY
from shared.redis_keys import (
    COUNTERS,
    FAST_EVENTS,
    LAST_SWEEP,
    SWEEP_REQUESTED,
    TRUST_STATE,
    WRITER_LEASE,
)
from shared.scripts import new_token
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE
from tests.api_process import wait_until
from tests.conftest import MINIO_PASSWORD, MINIO_USER
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.init import Initializer
from worker.source.notifications import NotificationRules
from worker.state.loss_signals import LOSS_SIGNAL_KINDS
from worker.state.publish_queue import LeaseLost
from worker.watchdog.checks import WatchdogChecks
from worker.watchdog.watchdog import Watchdog


def count_loss_signals(rowdrop: RowdropHarness) -> dict[str, int]:
    counters = rowdrop.redis.hgetall(COUNTERS)
    names = {
        name.decode(): int(count)
        for name, count in counters.items()
        if name.startswith(b"loss_signal:")
    }
    return {name.removeprefix("loss_signal:"): count for name, count in names.items()}


def count_queued_sweeps(rowdrop: RowdropHarness) -> int:
    return int(rowdrop.services.clients.redis.llen(BULK_QUEUE))


def sweep_and_tick(rowdrop: RowdropHarness, watchdog: Watchdog) -> None:
    """Reach the state after a start: swept once, and nothing is out of sync."""
    rowdrop.run_sweep()
    watchdog.tick()
    assert count_queued_sweeps(rowdrop) == 0


def last_cause(rowdrop: RowdropHarness) -> str:
    return str(rowdrop.redis.hget(LAST_SWEEP, "cause").decode())


# -- signals of Rowdrop's own parts ----------------------------------------------------------------
@pytest.mark.parametrize("kind", LOSS_SIGNAL_KINDS)
def test_watchdog_starts_one_sweep_for_each_loss_signal(
    rowdrop: RowdropHarness, watchdog: Watchdog, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    sweep_and_tick(rowdrop, watchdog)
    for _ in range(3):  # a repeated signal
        rowdrop.state.loss_signals.add(kind)
        watchdog.tick()
    assert count_loss_signals(rowdrop) == {kind: 1}
    assert count_queued_sweeps(rowdrop) == 1
    messages = [record.getMessage() for record in caplog.records]
    warning = f"loss signal {kind}: {LOSS_SIGNAL_KINDS[kind]}; a sweep will reconcile all users"
    assert messages.count(warning) == 1
    rowdrop.run_sweep("test")
    assert last_cause(rowdrop) == kind
    watchdog.tick()
    assert count_queued_sweeps(rowdrop) == 0
    assert count_loss_signals(rowdrop) == {kind: 1}


def test_watchdog_starts_one_sweep_for_two_signals(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    sweep_and_tick(rowdrop, watchdog)
    rowdrop.state.loss_signals.add("files_changed")
    rowdrop.state.loss_signals.add("events_failed")
    watchdog.tick()
    assert count_queued_sweeps(rowdrop) == 1
    rowdrop.run_sweep()
    assert last_cause(rowdrop) == "events_failed, files_changed"


def test_loss_signals_during_sweep_cause_the_next_one(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    sweep_and_tick(rowdrop, watchdog)
    rowdrop.state.loss_signals.add("files_changed")
    assert rowdrop.state.loss_signals.begin_sweep("one") == {"files_changed"}
    rowdrop.state.loss_signals.add("files_changed")
    assert not rowdrop.state.loss_signals.commit_sweep("one", None, (None, None), "run", {"at": 1})
    assert count_loss_signals(rowdrop) == {"files_changed": 2}
    assert rowdrop.state.loss_signals.begin_sweep("two") == {"files_changed"}
    assert rowdrop.state.loss_signals.commit_sweep("two", None, (None, None), "run", {"at": 1})
    assert rowdrop.state.loss_signals.unresolved() == set()


def test_loss_signals_survive_interrupted_sweep(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    sweep_and_tick(rowdrop, watchdog)
    rowdrop.state.loss_signals.add("events_skipped")
    rowdrop.state.loss_signals.begin_sweep("killed")
    watchdog.tick()
    assert count_queued_sweeps(rowdrop) == 1
    assert rowdrop.services.clients.redis.get(SWEEP_REQUESTED) == b"events_skipped"
    rowdrop.run_sweep()
    assert last_cause(rowdrop) == "events_skipped"


def test_sweep_at_first_start_has_no_loss_signal(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    watchdog.tick()
    assert count_queued_sweeps(rowdrop) == 1
    rowdrop.run_sweep("start")
    assert last_cause(rowdrop) == "start"
    assert count_loss_signals(rowdrop) == {}


def test_watchdog_detects_emptied_redis(rowdrop: RowdropHarness, watchdog: Watchdog) -> None:
    sweep_and_tick(rowdrop, watchdog)
    for _ in range(2):
        rowdrop.services.clients.redis.flushall()
        watchdog.tick()
        assert count_queued_sweeps(rowdrop) == 1
        assert count_loss_signals(rowdrop) == {"redis_emptied": 1}
        rowdrop.run_sweep()
        assert last_cause(rowdrop) == "redis_emptied"
        watchdog.tick()


def test_watchdog_detects_redis_emptied_during_sweep(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    sweep_and_tick(rowdrop, watchdog)
    rowdrop.state.loss_signals.begin_sweep("one")
    watchdog.tick()
    rowdrop.services.clients.redis.flushall()
    assert not rowdrop.state.loss_signals.commit_sweep("one", None, (None, None), "run", {"at": 1})
    watchdog.tick()
    assert count_loss_signals(rowdrop) == {"redis_emptied": 1}


def test_watchdog_detects_restarted_redis(rowdrop: RowdropHarness, watchdog: Watchdog) -> None:
    sweep_and_tick(rowdrop, watchdog)
    rowdrop.services.clients.redis.hset(
        TRUST_STATE, mapping={"state": "verified", "run_id": "another-run"}
    )
    watchdog.tick()
    assert count_loss_signals(rowdrop) == {"redis_restarted": 1}
    assert count_queued_sweeps(rowdrop) == 1


def test_watchdog_detects_manually_changed_files(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    sweep_and_tick(rowdrop, watchdog)
    rowdrop.output.delete(OUTPUT_KEY)
    for _ in range(4):
        watchdog.tick()
    assert count_loss_signals(rowdrop) == {"files_changed": 1}
    assert count_queued_sweeps(rowdrop) == 1


def test_watchdog_detects_replaced_publisher(rowdrop: RowdropHarness, watchdog: Watchdog) -> None:
    sweep_and_tick(rowdrop, watchdog)
    token = new_token()
    publish_input = rowdrop.state.publish_queue.acquire_writer(token)
    assert publish_input is not None
    rowdrop.services.clients.redis.set(WRITER_LEASE, "another")
    with pytest.raises(LeaseLost):
        rowdrop.state.publish_queue.commit_publish(
            token, "e", "r", 0, publish_input.pending, time.time()
        )
    watchdog.tick()
    assert count_loss_signals(rowdrop) == {"publisher_replaced": 1}
    assert count_queued_sweeps(rowdrop) == 1


# -- signals of MinIO ------------------------------------------------------------------------------
class Deployment:
    """A MinIO and a Redis for one test, initialised by `rowdrop init`."""

    def __init__(self, minio: MinioServer, redis: RedisServer) -> None:
        self.minio = minio
        self.redis = redis
        self.rowdrop = RowdropHarness(
            Settings(minio.endpoint, MINIO_USER, MINIO_PASSWORD, redis.url)
        )
        Initializer(self.rowdrop.services).run()
        self.checks: WatchdogChecks = self.rowdrop.create_checks()
        self.watchdog = self.rowdrop.create_watchdog(self.checks)

    def put(self, key: str) -> None:
        client = Minio(
            self.minio.endpoint.removeprefix("http://"), MINIO_USER, MINIO_PASSWORD, secure=False
        )
        client.put_object("src-data", key, io.BytesIO(make_csv()), len(make_csv()))


@pytest.fixture
def deployment(tmp_path: Path, minio_server: MinioServer) -> Iterator[Deployment]:
    redis = RedisServer(tmp_path / "redis", find_free_port(), ServerUser("", "a-password"))
    with redis:
        minio = MinioServer(
            tmp_path / "minio",
            MinioPorts(find_free_port(), find_free_port()),
            ServerUser(MINIO_USER, MINIO_PASSWORD),
            redis.address,
            minio_server.options,
        )
        with minio:
            deployment = Deployment(minio, redis)
            yield deployment
            deployment.rowdrop.close()


def test_watchdog_detects_killed_minio(deployment: Deployment) -> None:
    sweep_and_tick(deployment.rowdrop, deployment.watchdog)
    deployment.minio.kill()
    deployment.checks.broken_reads.isolate_broken_reads()
    deployment.minio.start()
    deployment.minio.wait_ready()
    deployment.watchdog.tick()
    assert count_loss_signals(deployment.rowdrop) == {"minio_restarted": 1}
    assert count_queued_sweeps(deployment.rowdrop) == 1


def test_watchdog_detects_events_that_minio_failed_to_send(deployment: Deployment) -> None:
    sweep_and_tick(deployment.rowdrop, deployment.watchdog)
    deployment.redis.kill()
    deployment.put("u.csv")
    deployment.redis.start()
    metrics = deployment.rowdrop.services.minio_metrics
    known = deployment.rowdrop.redis.hget(LAST_SWEEP, "metrics")
    wait_until(lambda: metrics.read() != known.decode())  # MinIO's metrics are up to 10 s old
    deployment.watchdog.tick()
    assert count_loss_signals(deployment.rowdrop) == {"redis_restarted": 1, "events_failed": 1}
    assert count_queued_sweeps(deployment.rowdrop) == 1


def test_watchdog_restores_missing_notification_rules(deployment: Deployment) -> None:
    redis = deployment.rowdrop.services.clients.redis
    services = deployment.rowdrop.services
    checks = deployment.rowdrop.create_checks(notification_rules=services.notification_rules)
    watchdog = deployment.rowdrop.create_watchdog(checks)
    sweep_and_tick(deployment.rowdrop, watchdog)
    services.clients.create_minio_client().set_bucket_notification("src-data", NotificationConfig())
    deployment.put("without-event.csv")
    for _ in range(2):
        watchdog.tick()
    assert count_loss_signals(deployment.rowdrop)["rules_missing"] == 1
    assert count_queued_sweeps(deployment.rowdrop) == 1
    redis.delete(FAST_EVENTS)
    deployment.put("with-event.csv")
    wait_until(lambda: redis.llen(FAST_EVENTS))


def test_watchdog_ignores_rules_of_missing_bucket(deployment: Deployment) -> None:
    services = deployment.rowdrop.services
    rules = NotificationRules(services.clients.create_minio_client(), "no-such-bucket")
    watchdog = deployment.rowdrop.create_watchdog(
        deployment.rowdrop.create_checks(notification_rules=rules)
    )
    sweep_and_tick(deployment.rowdrop, watchdog)
    watchdog.tick()
    assert count_loss_signals(deployment.rowdrop) == {}


def test_loss_signals_log_contains_no_user_data(
    rowdrop: RowdropHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rowdrop.put_files("u", make_csv("Secretname"))
    rowdrop.run_sweep()
    rowdrop.state.loss_signals.add("files_changed")
    assert "Secretname" not in caplog.text
