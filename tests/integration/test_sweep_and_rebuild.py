"""Sweep, rebuild, watchdog and bulk work, on a real MinIO and Redis."""

import io
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.formats import rejects_csv
from shared.formats.manifest import Manifest
from shared.formats.object_names import MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.object_store import StoreUnavailable
from shared.redis_keys import (
    IGNORED_COUNT,
    IGNORED_KEYS,
    LAST_PUBLISH,
    LAST_SWEEP,
    TRUST_STATE,
    WAKE_LIVE,
)
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.bulk_work import request_sweep
from worker.services.builders import build_bulk_reads
from worker.state.loss_signals import TrustState
from worker.watchdog.checks import WatchdogChecks
from worker.watchdog.overdue import OVERDUE_S
from worker.watchdog.watchdog import Watchdog


def published(rowdrop: RowdropHarness, *users: str) -> None:
    """Drop, read and publish these users, and write the manifest."""
    for user in users:
        rowdrop.put_files(user)
    rowdrop.process_users(*users)
    rowdrop.publisher.write_manifest()


# -- the sweep -------------------------------------------------------------------------------------
def test_sweep_finds_changes_without_events(rowdrop: RowdropHarness) -> None:
    published(rowdrop, "same", "changed", "gone", "image-new", "image-gone", "broken")
    rowdrop.source.put("image-gone.png", b"x")
    rowdrop.process_users("image-gone")
    rowdrop.publisher.write_manifest()
    rowdrop.put_files("changed", make_csv("New"))
    rowdrop.source.delete("gone.csv")
    rowdrop.source.put("image-new.png", b"x")
    rowdrop.source.delete("image-gone.png")
    rowdrop.put_files("broken", b"x")
    rowdrop.put_files("new")
    assert rowdrop.run_sweep() == 6
    assert rowdrop.find_differences() == []
    assert rowdrop.state.users.dirty_users() == set()
    assert rowdrop.state.loss_signals.trust_state() == TrustState(
        "verified", rowdrop.state.loss_signals.run_id()
    )


def test_sweep_of_consistent_state_marks_no_user(rowdrop: RowdropHarness) -> None:
    published(rowdrop, "a", "b")
    rowdrop.put_files("b", b"broken")
    rowdrop.put_files("never-valid", b"broken")
    rowdrop.source.put("image-alone.png", b"x")
    rowdrop.source.put("ignored.txt", b"x")
    rowdrop.process_users("b", "never-valid", "image-alone")
    assert rowdrop.run_sweep() == 0


def test_sweep_adds_itself_to_history(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    marked = [rowdrop.run_sweep("one"), rowdrop.run_sweep("other")]
    newest, first = rowdrop.services.records.sweeps.list_history()[:2]
    assert [first.marked, newest.marked] == marked
    assert (newest.objects, newest.cause) == (1, "other")
    assert first.started_at <= first.finished_at <= newest.started_at


def test_sweep_marks_dirty_users_again(rowdrop: RowdropHarness) -> None:
    """A dirty user is marked again, although its published row matches the LIST."""
    # B is read and pending. Then A is restored, and its event is lost. LIST and output both have A,
    # but the pending result would publish B.
    published(rowdrop, "u")
    rowdrop.put_files("u", make_csv("B"))
    rowdrop.read_users("u")
    rowdrop.put_files("u")
    assert rowdrop.run_sweep() == 1
    assert rowdrop.find_differences() == []


def test_sweep_without_manifest_reads_every_user_once(rowdrop: RowdropHarness) -> None:
    published(rowdrop, "a", "b")
    rowdrop.output.delete(MANIFEST_KEY)
    assert rowdrop.run_sweep() == 2
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0


def test_sweep_finds_replaced_invalid_csv(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u", b"broken")
    rowdrop.process_users("u")
    rowdrop.put_files("u", b"first_name\nbroken otherwise\n")
    assert rowdrop.run_sweep() == 1
    assert rowdrop.find_differences() == []


def test_sweep_ignores_cache_of_other_rules_version(rowdrop: RowdropHarness) -> None:
    """Another `RULES_VERSION` invalidates rejects and manifest entries: their CSVs are re-read."""
    published(rowdrop, "good", "bad")
    rowdrop.put_files("bad", b"broken")
    rowdrop.process_users("bad")
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0
    rejects = [replace(reject, rules="0") for reject in rowdrop.read_rejects().values()]
    rowdrop.output.put(REJECTS_KEY, rejects_csv.encode_rejects(rejects))
    assert rowdrop.run_sweep() == 1
    table = pq.read_table(io.BytesIO(rowdrop.output.get(MANIFEST_KEY).body))
    rules = table.schema.field("rules")
    column = pa.array(["0"] * len(table)).cast(rules.type)
    older = table.set_column(table.schema.get_field_index("rules"), rules, column)
    sink = io.BytesIO()
    pq.write_table(older, sink)
    rowdrop.output.put(MANIFEST_KEY, sink.getvalue())
    assert Manifest.decode(sink.getvalue()).get("good") is not None
    assert rowdrop.run_sweep() == 1


def test_sweep_removes_rows_of_deleted_users(rowdrop: RowdropHarness) -> None:
    published(rowdrop, "a", "gone")
    rowdrop.source.delete("gone.csv")
    rowdrop.run_sweep()
    assert list(rowdrop.read_rows()) == ["a"]


def test_sweep_commit_fails_after_new_loss_signal(rowdrop: RowdropHarness) -> None:
    """A loss signal during a sweep makes its commit fail, so that another sweep follows."""
    published(rowdrop, "a")
    rowdrop.run_sweep()
    rowdrop.state.loss_signals.begin_sweep("slow")
    rowdrop.state.loss_signals.add("test")
    assert not rowdrop.state.loss_signals.commit_sweep("slow", None, (None, None), "run", {"at": 0})
    assert rowdrop.state.loss_signals.trust_state() is None


def test_sweep_counts_and_lists_ignored_keys(rowdrop: RowdropHarness) -> None:
    for key in ("1.CSV", "notes.txt", "folder/2.csv"):
        rowdrop.source.put(key, b"x")
    rowdrop.run_sweep()
    redis = rowdrop.redis
    assert int(redis.get(IGNORED_COUNT)) == 3
    assert b"rename" in redis.hget(IGNORED_KEYS, "1.CSV")


# -- the rebuild -----------------------------------------------------------------------------------
def rebuild(rowdrop: RowdropHarness) -> str:
    """Run a rebuild to its end; return its task ID."""
    task_id, _ = rowdrop.services.records.rebuilds.request(time.time())
    rowdrop.services.rebuild.start(task_id)
    rowdrop.run_bulk_work()
    rowdrop.services.rebuild.finish()
    return task_id


def test_rebuild_changes_no_byte_of_correct_output(rowdrop: RowdropHarness) -> None:
    published(rowdrop, *[f"u{number}" for number in range(100)])
    body = rowdrop.read_output()
    task_id = rebuild(rowdrop)
    status = rowdrop.services.records.rebuilds.status(task_id)
    assert status is not None
    assert (status.state, status.done, status.total) == ("done", 100, 100)
    assert rowdrop.read_output() == body


def test_rebuild_adds_missing_and_removes_deleted_users(rowdrop: RowdropHarness) -> None:
    published(rowdrop, "b", "d", "gone")
    rowdrop.source.delete("gone.csv")
    for user in ("a", "c", "e", "a.b"):
        rowdrop.put_files(user)
    rebuild(rowdrop)
    assert list(rowdrop.read_rows()) == ["a", "a.b", "b", "c", "d", "e"]
    assert rowdrop.find_differences() == []


def test_rebuild_of_empty_output_reads_whole_bucket(rowdrop: RowdropHarness) -> None:
    for number in range(50):
        rowdrop.put_files(f"u{number}")
    rebuild(rowdrop)
    assert len(rowdrop.read_rows()) == 50


def test_rebuild_keeps_held_rows(rowdrop: RowdropHarness) -> None:
    published(rowdrop, "u")
    rowdrop.put_files("u", b"broken")
    rowdrop.process_users("u")
    body = rowdrop.read_output()
    rebuild(rowdrop)
    assert rowdrop.read_output() == body


def test_rebuilds_allow_one_running_and_one_queued(rowdrop: RowdropHarness) -> None:
    published(rowdrop, "u")
    rebuilds = rowdrop.services.records.rebuilds
    first, new = rebuilds.request(time.time())
    assert (rebuilds.request(time.time()), new) == ((first, False), True)
    rowdrop.services.rebuild.start(first)
    second, new = rebuilds.request(time.time())
    assert new
    assert second != first
    assert rebuilds.request(time.time()) == (second, False)
    assert not rebuilds.start(second, time.time())
    rowdrop.run_bulk_work()
    rowdrop.services.rebuild.finish()
    assert rebuilds.start(second, time.time())


def test_rebuild_resumes_after_interrupted_enqueueing(rowdrop: RowdropHarness) -> None:
    """A rebuild that was started and not yet enqueued resumes at the next attempt."""
    published(rowdrop, "u")
    task_id, _ = rowdrop.services.records.rebuilds.request(time.time())
    assert rowdrop.services.records.rebuilds.start(task_id, time.time())
    assert rowdrop.services.records.rebuilds.finish_if_done(time.time()) is None
    rowdrop.services.rebuild.start(task_id)
    rowdrop.run_bulk_work()
    rowdrop.services.rebuild.finish()
    status = rowdrop.services.records.rebuilds.status(task_id)
    assert status is not None
    assert status.state == "done"


def test_rebuild_that_fails_reports_reason_and_allows_next(rowdrop: RowdropHarness) -> None:
    published(rowdrop, "u")
    rebuilds = rowdrop.services.records.rebuilds
    task_id, _ = rebuilds.request(time.time())
    assert rebuilds.start(task_id, time.time())
    rowdrop.services.rebuild.fail(task_id, "the output bucket is gone")
    status = rebuilds.status(task_id)
    assert status is not None
    assert (status.state, status.error) == ("failed", "the output bucket is gone")
    next_id, _ = rebuilds.request(time.time())
    assert rebuilds.start(next_id, time.time())
    rebuilds.fail(task_id, "late", time.time())
    assert rebuilds.get_running_id() == next_id


# -- the watchdog ----------------------------------------------------------------------------------
def messages(rowdrop: RowdropHarness, queue: str) -> int:
    """Return the length of a queue."""
    return int(rowdrop.redis.llen(queue))


def test_overdue_users_are_enqueued_after_lost_message(
    rowdrop: RowdropHarness, checks: WatchdogChecks
) -> None:
    rowdrop.mark_users("u")
    now = time.time()
    checks.overdue_users.tick(now)
    assert messages(rowdrop, EVENTS_QUEUE) == 0
    checks.overdue_users.tick(now + OVERDUE_S + 1)
    assert messages(rowdrop, EVENTS_QUEUE) == 1
    checks.overdue_users.tick(now + OVERDUE_S + 1)
    assert messages(rowdrop, EVENTS_QUEUE) == 1


def test_watchdog_resends_lost_wake_up(rowdrop: RowdropHarness, watchdog: Watchdog) -> None:
    rowdrop.put_files("u")
    rowdrop.read_users("u")
    rowdrop.redis.delete(WAKE_LIVE)
    watchdog.tick()
    assert messages(rowdrop, WAKE_LIVE) == 1


def test_stalled_jobs_resend_lost_page_message(
    rowdrop: RowdropHarness, checks: WatchdogChecks
) -> None:
    rowdrop.put_files("u")
    rowdrop.sweep.run("test")
    rowdrop.redis.delete(BULK_QUEUE)
    checks.stalled_jobs.tick(time.time())
    assert messages(rowdrop, BULK_QUEUE) == 1


@pytest.mark.parametrize("key", [OUTPUT_KEY, REJECTS_KEY])
def test_published_files_check_detects_deleted_file(
    rowdrop: RowdropHarness, checks: WatchdogChecks, key: str
) -> None:
    published(rowdrop, "u")
    rowdrop.run_sweep()
    rowdrop.output.delete(key)
    checks.published_files.tick(time.time())
    checks.server_loss.tick(time.time())
    assert (
        rowdrop.state.loss_signals.trust_state() is not None
    )  # one tick may see a write in progress
    checks.published_files.tick(time.time())
    checks.server_loss.tick(time.time())
    assert rowdrop.state.loss_signals.trust_state() is None


def test_watchdog_requests_sweep_after_redis_was_emptied(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    published(rowdrop, "u")
    rowdrop.run_sweep()
    watchdog.tick()
    assert messages(rowdrop, BULK_QUEUE) == 0
    rowdrop.redis.flushall()
    watchdog.tick()
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_watchdog_requests_sweep_after_redis_restart(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    rowdrop.run_sweep()
    rowdrop.redis.hset(TRUST_STATE, mapping={"state": "verified", "run_id": "another-run"})
    watchdog.tick()
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_watchdog_requests_sweep_after_changed_minio_metrics(
    rowdrop: RowdropHarness, watchdog: Watchdog
) -> None:
    rowdrop.run_sweep()
    watchdog.tick()
    assert messages(rowdrop, BULK_QUEUE) == 0
    rowdrop.redis.hset(LAST_SWEEP, "metrics", '[["minio_node_process_starttime_seconds", "", 1.0]]')
    watchdog.tick()
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_sweep_schedule_requests_overdue_sweep(
    rowdrop: RowdropHarness, checks: WatchdogChecks
) -> None:
    rowdrop.run_sweep()
    now = time.time()
    checks.sweep_schedule.tick(now)
    assert messages(rowdrop, BULK_QUEUE) == 0
    checks.sweep_schedule.tick(now + 2 * rowdrop.services.clients.settings.sweep_interval_s + 1)
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_sweep_schedule_requests_sweep_every_five_minutes_without_events(
    rowdrop: RowdropHarness, checks: WatchdogChecks
) -> None:
    rowdrop.run_sweep()
    now = time.time()
    checks.sweep_schedule.tick(now + 301)
    assert messages(rowdrop, BULK_QUEUE) == 0
    rowdrop.state.inbox.set_events_available(available=False)
    checks.sweep_schedule.tick(now + 301)
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_watchdog_and_sweep_do_not_repeat_forever(
    rowdrop: RowdropHarness, watchdog: Watchdog, checks: WatchdogChecks
) -> None:
    """A sweep restores the record of the published ETags, so the watchdog requests no other."""
    # The record of the published ETags is lost, and nothing is pending. The sweep records the ETags
    # that it compared as verified.
    rowdrop.run_sweep()
    rowdrop.redis.delete(LAST_PUBLISH)
    for _ in range(3):
        watchdog.tick()
    rowdrop.run_sweep()
    for _ in range(3):
        checks.published_files.tick(time.time())
        checks.server_loss.tick(time.time())
    assert rowdrop.state.loss_signals.trust_state() == TrustState(
        "verified", rowdrop.state.loss_signals.run_id()
    )


# -- bulk work -------------------------------------------------------------------------------------
def in_pages_of(rowdrop: RowdropHarness, users: int) -> None:
    """Set the page size of bulk work."""
    services = rowdrop.services
    services.bulk_reads = build_bulk_reads(
        services.clients.source,
        services.state,
        services.refresher,
        services.clients.tasks,
        max_page_users=users,
    )


def test_rebuild_by_list_gives_same_rows(rowdrop: RowdropHarness) -> None:
    users = ["a", "a.b", "a.k", "gone", *(f"u{number}" for number in range(60))]
    for number, user in enumerate(users):
        rowdrop.put_files(user, make_csv(f"N{number}"), images=["jpg", "png", "jpeg"][: number % 4])
    rowdrop.process_users(*users)
    one_by_one = rowdrop.read_rows()
    rowdrop.source.delete("gone.csv")
    in_pages_of(rowdrop, 7)
    rebuild(rowdrop)
    del one_by_one["gone"]
    assert rowdrop.read_rows() == one_by_one
    assert rowdrop.find_differences() == []


def test_rebuild_rereads_user_read_after_list(rowdrop: RowdropHarness) -> None:
    """A page with a stale LIST does not overwrite a newer result."""
    # The LIST has no image. Then an image is dropped and published by its event, and only then the
    # page is processed.
    published(rowdrop, "u")
    task_id, _ = rowdrop.services.records.rebuilds.request(time.time())
    rowdrop.services.rebuild.start(task_id)
    rowdrop.source.put("u.png", b"x")
    rowdrop.process_users("u")
    rowdrop.run_bulk_work()
    assert rowdrop.read_rows()["u"].img_path.endswith("u.png")


def test_sweep_limits_queued_pages(rowdrop: RowdropHarness) -> None:
    """The producer of pages processes pages itself if the backlog in Redis is too long."""
    in_pages_of(rowdrop, 2)
    for number in range(30):
        rowdrop.put_files(f"u{number}")
    rowdrop.sweep.run("test")
    assert 0 < rowdrop.state.work_queues.count_pages() <= 4
    rowdrop.run_bulk_work()
    assert len(rowdrop.read_rows()) == 30


def test_bulk_reads_keep_page_that_failed(rowdrop: RowdropHarness) -> None:
    """A page is enqueued again if the source bucket is unavailable."""
    published(rowdrop, "u")
    rowdrop.put_files("u", make_csv("New"))
    rowdrop.sweep.run("test")
    client = rowdrop.services.clients.create_minio_client()
    client.remove_object(rowdrop.source.bucket, "u.csv")
    client.remove_bucket(rowdrop.source.bucket)
    with pytest.raises(StoreUnavailable):
        rowdrop.services.bulk_reads.read_next_page()
    assert rowdrop.state.work_queues.count_pages() == 1
    assert list(rowdrop.read_rows()) == ["u"]


def test_request_sweep_enqueues_sweep_once(rowdrop: RowdropHarness) -> None:
    record = rowdrop.services.records.sweeps
    request_sweep(record, rowdrop.services.clients.tasks)
    request_sweep(record, rowdrop.services.clients.tasks)
    assert messages(rowdrop, BULK_QUEUE) == 1
