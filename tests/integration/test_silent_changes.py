"""Changes that send no event: a sweep that finds some is followed by more frequent ones.

Uses real servers. MinIO sends no event for a forced deletion, and none for what replication writes.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from minio import Minio
from redis import Redis

from api.resources.health import SILENT_CHANGES_WARNING, describe_readiness
from api.snapshot.consistency import MARGIN_S
from api.snapshot.follower import FollowerConnections, SnapshotPoller
from shared.formats.source_keys import make_bundle_id
from shared.progress.pipeline_status import read_pipeline_status
from shared.progress.sweep_record import CLEAN_SWEEPS
from shared.redis_keys import SWEEP_REQUESTED
from shared.settings import Settings
from tests.api_process import wait_until
from tests.archives import make_zip
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.init import Initializer
from worker.listener import Listener
from worker.state.loss_signals import START_CAUSE, UNFINISHED_CAUSE
from worker.watchdog.sweep_schedule import UNMONITORED_SWEEP_S


def count_down(rowdrop: RowdropHarness) -> int:
    """Return how many sweeps must still find no silent change."""
    countdown = read_pipeline_status(rowdrop.redis).silent_countdown
    assert rowdrop.services.records.sweeps.read_silent_changes().countdown == countdown
    return countdown


def request_sweep_after(rowdrop: RowdropHarness, seconds: float) -> str | None:
    """Return the cause of the sweep that the watchdog requests so long after the last one."""
    rowdrop.redis.delete(SWEEP_REQUESTED)
    started_at = float(rowdrop.services.records.sweeps.get_field("at") or 0)
    rowdrop.create_checks().sweep_schedule.tick(started_at + seconds)
    cause = rowdrop.redis.get(SWEEP_REQUESTED)
    return None if cause is None else cause.decode()


def publish(rowdrop: RowdropHarness, *users: str) -> None:
    """Publish these users as after their events, and let a sweep find all in sync."""
    for user in users:
        rowdrop.put_files(user, images=["png"])
    rowdrop.process_users(*users)
    rowdrop.publisher.write_manifest()
    rowdrop.run_sweep(START_CAUSE)
    assert rowdrop.run_sweep("schedule") == 0
    assert count_down(rowdrop) == 0


def sweep_without_findings(rowdrop: RowdropHarness) -> None:
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep("changes without events") == 0


# -- with real events ------------------------------------------------------------------------------
class RowdropWithEvents(RowdropHarness):
    """A Rowdrop that reads MinIO's events."""

    def __init__(self, settings: Settings, minio: Minio) -> None:
        super().__init__(settings)
        self._minio = minio
        Initializer(self.services).run()
        self.listener: Listener = self.create_listener()

    def process_events_until(self, user_id: str) -> set[str]:
        """Read the users of events until this one has come; return all of them, published."""

        def read_event() -> bool:
            self.listener.run_once(0.1)
            return user_id in self.state.users.dirty_users()

        wait_until(read_event)
        users = self.state.users.dirty_users()
        self.services.refresher.refresh(sorted(users))
        self.publish_pending()
        return users

    def force_deletion(self, key: str) -> None:
        """Delete a key as `mc rm --force --purge` does."""
        self._send("DELETE", key, {"x-minio-force-delete": "true"})

    def replicate(self, key: str, body: bytes) -> None:
        """Write a key as the replication of another MinIO does, with an old LastModified."""
        self._send(
            "PUT",
            key,
            {
                "X-Minio-Source-Replication-Request": "true",
                "X-Minio-Source-Mtime": "2026-01-02T03:04:05Z",
            },
            body,
        )

    def _send(self, method: str, key: str, headers: dict[str, str], body: bytes = b"") -> None:
        # minio-py has no public method for the headers of MinIO's own clients.
        self._minio._execute(method, self.source.bucket, key, body, dict(headers))


@pytest.fixture
def with_events(settings: Settings, minio_client: Minio) -> Iterator[RowdropWithEvents]:
    rowdrop = RowdropWithEvents(settings, minio_client)
    yield rowdrop
    rowdrop.close()


@pytest.mark.minio_events
def test_silent_changes_lead_to_a_sweep_every_five_minutes(with_events: RowdropWithEvents) -> None:
    rowdrop = with_events
    now = time.time() + 1000
    poller = SnapshotPoller(FollowerConnections(rowdrop.output, rowdrop.redis), lambda: now)

    def read_warnings() -> list[str]:
        poller.poll_once()
        readiness = describe_readiness(poller.view, 3600, now)
        assert readiness["ready"], readiness["reasons"]
        return list(readiness["warnings"])

    for user in ("stays", "deleted"):
        rowdrop.put_files(user)
    wait_until(lambda: rowdrop.process_events_until("deleted") and len(rowdrop.read_rows()) == 2)
    rowdrop.publisher.write_manifest()
    rowdrop.run_sweep(START_CAUSE)
    assert read_warnings() == []
    assert poller.view.consistent_as_of == now - MARGIN_S

    rowdrop.force_deletion("deleted.csv")
    rowdrop.replicate("replicated.csv", make_csv("Copied"))
    rowdrop.put_files("announced")
    assert rowdrop.process_events_until("announced") == {"announced"}
    assert set(rowdrop.read_rows()) == {"stays", "deleted", "announced"}
    assert (read_warnings(), count_down(rowdrop)) == ([], 0)
    assert request_sweep_after(rowdrop, UNMONITORED_SWEEP_S + 1) is None

    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep("schedule") == 2
    assert set(rowdrop.read_rows()) == {"stays", "replicated", "announced"}
    for remaining in range(CLEAN_SWEEPS, 0, -1):
        assert count_down(rowdrop) == remaining
        assert read_warnings() == [SILENT_CHANGES_WARNING]
        started_at = float(rowdrop.services.records.sweeps.get_field("at") or 0)
        assert poller.view.consistent_as_of == started_at
        assert request_sweep_after(rowdrop, UNMONITORED_SWEEP_S - 1) is None
        cause = request_sweep_after(rowdrop, UNMONITORED_SWEEP_S + 1)
        assert cause == "changes without events"
        sweep_without_findings(rowdrop)

    assert count_down(rowdrop) == 0
    assert read_warnings() == []
    assert poller.view.consistent_as_of == now - MARGIN_S
    assert request_sweep_after(rowdrop, UNMONITORED_SWEEP_S + 1) is None
    assert request_sweep_after(rowdrop, 2 * 3600 + 1) == "overdue"


# -- without events --------------------------------------------------------------------------------
def test_silent_changes_restart_the_countdown(rowdrop: RowdropHarness) -> None:
    publish(rowdrop, "u")
    for expected in (3, 2, 3, 2, 1, 0):
        if expected == 3:
            rowdrop.put_files("u", make_csv(f"By {time.time()}"))
            assert rowdrop.run_sweep("schedule") == 1
        else:
            sweep_without_findings(rowdrop)
        assert count_down(rowdrop) == expected


@pytest.mark.parametrize("cause", [START_CAUSE, UNFINISHED_CAUSE, "signal", "emptied"])
def test_silent_changes_with_a_known_cause_keep_the_interval(
    rowdrop: RowdropHarness, cause: str
) -> None:
    publish(rowdrop, "u", "v")
    rowdrop.put_files("u", make_csv("Dropped while something was down"))
    if cause == "signal":
        rowdrop.state.loss_signals.add("events_failed")
    elif cause == "emptied":
        rowdrop.redis.flushall()
    assert rowdrop.run_sweep(cause) == 1
    assert read_pipeline_status(rowdrop.redis).silent_repairs == 1
    assert count_down(rowdrop) == 0
    sweep_without_findings(rowdrop)
    assert count_down(rowdrop) == 0


def test_silent_changes_are_counted_after_sweep_with_known_cause(
    rowdrop: RowdropHarness,
) -> None:
    """A loss signal in between neither ends nor shortens the frequent sweeps."""
    publish(rowdrop, "u")
    rowdrop.put_files("u", make_csv("Silent"))
    rowdrop.run_sweep("schedule")
    rowdrop.publisher.write_manifest()
    for _ in range(2):
        rowdrop.state.loss_signals.add("minio_restarted")
        rowdrop.run_sweep("minio_restarted")
        assert count_down(rowdrop) == CLEAN_SWEEPS
    sweep_without_findings(rowdrop)
    assert count_down(rowdrop) == CLEAN_SWEEPS - 1


def test_silent_changes_exclude_stale_manifest_and_dirty_users(rowdrop: RowdropHarness) -> None:
    publish(rowdrop, "u", "v")
    rowdrop.put_files("u", make_csv("By an event"))
    rowdrop.process_users("u")  # the manifest is stale until it is written
    rowdrop.put_files("v", make_csv("Its event has come"))
    rowdrop.mark_users("v")
    assert rowdrop.run_sweep("schedule") == 2
    assert count_down(rowdrop) == 0


def test_silent_changes_exclude_events_during_the_sweep(rowdrop: RowdropHarness) -> None:
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv()}))
    rowdrop.process_bundles("u.zip")
    publish(rowdrop, "u")
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv("New")}))
    rowdrop.create_sweep(wait=lambda _: rowdrop.process_bundles("u.zip")).run("schedule")
    assert count_down(rowdrop) == 0


@pytest.mark.parametrize("change", ["replaced", "deleted", "new"])
def test_silent_changes_of_bundles_count(rowdrop: RowdropHarness, change: str) -> None:
    for key in ("replaced.zip", "deleted.zip"):
        rowdrop.source.put(key, make_zip({f"{key}.csv": make_csv()}))
        rowdrop.process_bundles(key)
    publish(rowdrop, "u")
    if change == "deleted":
        rowdrop.source.delete("deleted.zip")
    else:
        rowdrop.source.put(f"{change}.zip", make_zip({"1.csv": make_csv("New")}))
    assert rowdrop.run_sweep("schedule") == 1
    assert rowdrop.find_differences() == []
    assert count_down(rowdrop) == CLEAN_SWEEPS
    sweep_without_findings(rowdrop)
    assert count_down(rowdrop) == CLEAN_SWEEPS - 1


def test_silent_changes_of_copied_images_count(settings: Settings) -> None:
    """They change no row."""
    copying = RowdropHarness(replace(settings, copy_images=True))
    publish(copying, "u", "v")
    copying.source.put("u.png", b"replaced")
    assert copying.run_sweep("schedule") == 1
    assert count_down(copying) == CLEAN_SWEEPS
    sweep_without_findings(copying)
    copying.output.delete("images/v.png")  # by hand: the image has not changed
    assert copying.run_sweep("schedule") == 1
    assert count_down(copying) == CLEAN_SWEEPS - 2
    copying.close()


def test_silent_changes_of_images_exclude_users_of_dirty_bundles(settings: Settings) -> None:
    """A worker has made the new version of a bundle visible, and then marks its users."""
    copying = RowdropHarness(replace(settings, copy_images=True))
    copying.source.put("u.zip", make_zip({"1.csv": make_csv(), "1.png": b"old"}))
    copying.process_bundles("u.zip")
    publish(copying, "u")
    copying.source.put("u.png", b"replaced")  # as if it were one of these users
    copying.mark_users(make_bundle_id("u.zip"))
    copying.sweep.run("schedule")
    assert count_down(copying) == 0
    copying.close()


def test_silent_changes_before_the_first_publish_do_not_count(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv()}))
    rowdrop.run_sweep("schedule")
    assert count_down(rowdrop) == 0


def test_sweep_record_of_earlier_release_shows_no_silent_change(
    rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    redis.hset("rowdrop:counters", "silent_repairs", 7)
    redis.hset("rowdrop:v3:last_sweep", mapping={"at": 1.5, "cause": "schedule", "metrics": ""})
    assert count_down(rowdrop) == 0
