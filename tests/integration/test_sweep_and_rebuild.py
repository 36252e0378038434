"""Sweep, rebuild, watchdog and bulk work, on a real MinIO and Redis."""

import io
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared import rejects as rejects_csv
from shared.manifest import Manifest
from shared.object_store import StoreUnavailable
from shared.published import MANIFEST, OUTPUT, REJECTS
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.integration.stepping import Stepping, csv_of
from worker.bulk import BulkWork
from worker.evidence import OVERDUE_S, Watch
from worker.sweep import main as sweep_by_hand


def published(rowdrop: Stepping, *users: str) -> None:
    """Drop, read and publish these users, and write the manifest."""
    for user in users:
        rowdrop.drop(user)
    rowdrop.land(*users)
    rowdrop.publisher.write_manifest()


# -- the sweep -------------------------------------------------------------------------------------
def test_a_sweep_finds_every_change_that_no_event_told_of(rowdrop: Stepping) -> None:
    published(rowdrop, "same", "changed", "gone", "image-new", "image-gone", "broken")
    rowdrop.source.put("image-gone.png", b"x")
    rowdrop.land("image-gone")
    rowdrop.publisher.write_manifest()
    rowdrop.drop("changed", csv_of("New"))
    rowdrop.source.delete("gone.csv")
    rowdrop.source.put("image-new.png", b"x")
    rowdrop.source.delete("image-gone.png")
    rowdrop.drop("broken", b"x")
    rowdrop.drop("new")
    assert rowdrop.sweep() == 6
    assert rowdrop.differences() == []
    assert rowdrop.backlog.dirty_users() == set()
    assert rowdrop.backlog.epoch() == f"ok:{rowdrop.backlog.run_id()}"


def test_a_sweep_of_what_is_fine_marks_nobody(rowdrop: Stepping) -> None:
    published(rowdrop, "a", "b")
    rowdrop.drop("b", b"broken")
    rowdrop.drop("never-valid", b"broken")
    rowdrop.source.put("image-alone.png", b"x")
    rowdrop.source.put("ignored.txt", b"x")
    rowdrop.land("b", "never-valid", "image-alone")
    assert rowdrop.sweep() == 0


def test_a_sweep_marks_again_who_is_dirty(rowdrop: Stepping) -> None:
    """A dirty user is marked again, although its published row matches the LIST."""
    # B is read and pending. Then A is restored, and its event is lost. LIST and output both have A,
    # but the pending result would publish B.
    published(rowdrop, "u")
    rowdrop.drop("u", csv_of("B"))
    rowdrop.refresh("u")
    rowdrop.drop("u")
    assert rowdrop.sweep() == 1
    assert rowdrop.differences() == []


def test_a_sweep_without_a_manifest_reads_everyone_once(rowdrop: Stepping) -> None:
    published(rowdrop, "a", "b")
    rowdrop.output.delete(MANIFEST)
    assert rowdrop.sweep() == 2
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 0


def test_a_broken_csv_replaced_by_another_broken_one_is_found(rowdrop: Stepping) -> None:
    rowdrop.drop("u", b"broken")
    rowdrop.land("u")
    rowdrop.drop("u", b"first_name\nbroken otherwise\n")
    assert rowdrop.sweep() == 1
    assert rowdrop.differences() == []


def test_after_a_release_with_other_rules_nothing_that_was_remembered_is_believed(rowdrop: Stepping) -> None:
    """Another `RULES_VERSION` invalidates rejects and manifest entries: their CSVs are re-read."""
    published(rowdrop, "good", "bad")
    rowdrop.drop("bad", b"broken")
    rowdrop.land("bad")
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 0
    rejects = [replace(reject, rules="0") for reject in rowdrop.rejects().values()]
    rowdrop.output.put(REJECTS, rejects_csv.encode(rejects))
    assert rowdrop.sweep() == 1
    table = pq.read_table(io.BytesIO(rowdrop.output.get(MANIFEST).body))
    rules = table.schema.field("rules")
    column = pa.array(["0"] * len(table)).cast(rules.type)
    older = table.set_column(table.schema.get_field_index("rules"), rules, column)
    sink = io.BytesIO()
    pq.write_table(older, sink)
    rowdrop.output.put(MANIFEST, sink.getvalue())
    assert Manifest.decode(sink.getvalue()).get("good") is not None
    assert rowdrop.sweep() == 1


def test_rows_of_users_long_gone_are_removed_although_nobody_names_them(rowdrop: Stepping) -> None:
    published(rowdrop, "a", "gone")
    rowdrop.source.delete("gone.csv")
    rowdrop.sweep()
    assert list(rowdrop.rows()) == ["a"]


def test_evidence_during_a_sweep_means_another_one(rowdrop: Stepping) -> None:
    """A loss signal during a sweep makes its commit fail, so that another sweep follows."""
    published(rowdrop, "a")
    rowdrop.sweep()
    rowdrop.backlog.begin_sweep("slow")
    rowdrop.backlog.add_evidence("test")
    assert not rowdrop.backlog.commit_sweep("slow", None, (None, None), "run", {"last_at": 0})
    assert rowdrop.backlog.epoch() is None


def test_ignored_keys_are_counted_and_listed_with_what_to_do(rowdrop: Stepping) -> None:
    for key in ("1.CSV", "notes.txt", "folder/2.csv"):
        rowdrop.source.put(key, b"x")
    rowdrop.sweep()
    redis = rowdrop.backlog.redis
    assert int(redis.get("ignored:total")) == 3
    assert b"rename" in redis.hget("ignored", "1.CSV")


# -- the rebuild -----------------------------------------------------------------------------------
def rebuild(rowdrop: Stepping) -> str:
    """Run a rebuild to its end; return its task ID."""
    task_id, _ = rowdrop.wiring.rebuilds.request(time.time())
    rowdrop.wiring.rebuild.start(task_id)
    rowdrop.do_bulk_work()
    rowdrop.wiring.rebuild.finish()
    return task_id


def test_a_rebuild_changes_not_one_byte_of_what_is_right(rowdrop: Stepping) -> None:
    published(rowdrop, *[f"u{number}" for number in range(100)])
    body = rowdrop.body()
    task_id = rebuild(rowdrop)
    status = rowdrop.wiring.rebuilds.get(task_id)
    assert status is not None
    assert (status.state, status.done, status.total) == ("done", 100, 100)
    assert rowdrop.body() == body


def test_a_rebuild_finds_who_has_no_row_yet_and_who_has_no_file_any_more(rowdrop: Stepping) -> None:
    published(rowdrop, "b", "d", "gone")
    rowdrop.source.delete("gone.csv")
    for user in ("a", "c", "e", "a.b"):
        rowdrop.drop(user)
    rebuild(rowdrop)
    assert list(rowdrop.rows()) == ["a", "a.b", "b", "c", "d", "e"]
    assert rowdrop.differences() == []


def test_a_rebuild_of_an_empty_output_reads_the_whole_bucket(rowdrop: Stepping) -> None:
    for number in range(50):
        rowdrop.drop(f"u{number}")
    rebuild(rowdrop)
    assert len(rowdrop.rows()) == 50


def test_a_rebuild_keeps_held_rows(rowdrop: Stepping) -> None:
    published(rowdrop, "u")
    rowdrop.drop("u", b"broken")
    rowdrop.land("u")
    body = rowdrop.body()
    rebuild(rowdrop)
    assert rowdrop.body() == body


def test_one_rebuild_runs_and_one_waits_and_never_more(rowdrop: Stepping) -> None:
    published(rowdrop, "u")
    rebuilds = rowdrop.wiring.rebuilds
    first, new = rebuilds.request(time.time())
    assert (rebuilds.request(time.time()), new) == ((first, False), True)
    rowdrop.wiring.rebuild.start(first)
    second, new = rebuilds.request(time.time())
    assert new
    assert second != first
    assert rebuilds.request(time.time()) == (second, False)
    assert not rebuilds.start(second, time.time())
    rowdrop.do_bulk_work()
    rowdrop.wiring.rebuild.finish()
    assert rebuilds.start(second, time.time())


def test_a_rebuild_interrupted_before_its_pages_were_named_is_resumed(rowdrop: Stepping) -> None:
    """A rebuild that was started and not yet enqueued resumes at the next attempt."""
    published(rowdrop, "u")
    task_id, _ = rowdrop.wiring.rebuilds.request(time.time())
    assert rowdrop.wiring.rebuilds.start(task_id, time.time())
    rowdrop.wiring.rebuild.start(task_id)
    rowdrop.do_bulk_work()
    rowdrop.wiring.rebuild.finish()
    status = rowdrop.wiring.rebuilds.get(task_id)
    assert status is not None
    assert status.state == "done"


def test_a_rebuild_tried_in_vain_says_why_and_the_next_one_may_begin(rowdrop: Stepping) -> None:
    published(rowdrop, "u")
    rebuilds = rowdrop.wiring.rebuilds
    task_id, _ = rebuilds.request(time.time())
    assert rebuilds.start(task_id, time.time())
    rowdrop.wiring.rebuild.give_up(task_id, "the output bucket is gone")
    status = rebuilds.get(task_id)
    assert status is not None
    assert (status.state, status.error) == ("failed", "the output bucket is gone")
    assert rebuild(rowdrop) != task_id


# -- the watchdog ----------------------------------------------------------------------------------
def messages(rowdrop: Stepping, queue: str) -> int:
    """Return the length of a queue."""
    return int(rowdrop.backlog.redis.llen(queue))


def test_a_user_whose_message_was_lost_is_enqueued_again(rowdrop: Stepping, watch: Watch) -> None:
    rowdrop.mark("u")
    now = time.time()
    watch.enqueue_overdue(now)
    assert messages(rowdrop, EVENTS_QUEUE) == 0
    watch.enqueue_overdue(now + OVERDUE_S + 1)
    assert messages(rowdrop, EVENTS_QUEUE) == 1
    watch.enqueue_overdue(now + OVERDUE_S + 1)
    assert messages(rowdrop, EVENTS_QUEUE) == 1


def test_a_lost_wake_up_is_sent_again(rowdrop: Stepping, watch: Watch) -> None:
    rowdrop.drop("u")
    rowdrop.refresh("u")
    rowdrop.backlog.redis.delete("wake:live")
    watch.tick()
    assert messages(rowdrop, "wake:live") == 1


def test_pages_whose_message_was_lost_are_gone_on_with(rowdrop: Stepping, watch: Watch) -> None:
    rowdrop.drop("u")
    rowdrop.wiring.sweep.run("test")
    rowdrop.backlog.redis.delete(BULK_QUEUE)
    watch.push_bulk(time.time())
    assert messages(rowdrop, BULK_QUEUE) == 1


@pytest.mark.parametrize("key", [OUTPUT, REJECTS])
def test_a_published_file_deleted_by_hand_is_evidence(rowdrop: Stepping, watch: Watch, key: str) -> None:
    published(rowdrop, "u")
    rowdrop.sweep()
    rowdrop.output.delete(key)
    watch.look_for_evidence()
    assert rowdrop.backlog.epoch() is not None  # one tick may see a write in progress
    watch.look_for_evidence()
    assert rowdrop.backlog.epoch() is None


def test_an_emptied_redis_is_swept_at_once(rowdrop: Stepping, watch: Watch) -> None:
    published(rowdrop, "u")
    rowdrop.sweep()
    watch.tick()
    assert messages(rowdrop, BULK_QUEUE) == 0
    rowdrop.backlog.redis.flushall()
    watch.tick()
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_another_run_of_redis_is_evidence(rowdrop: Stepping, watch: Watch) -> None:
    rowdrop.sweep()
    rowdrop.backlog.redis.set("epoch", "ok:another-run")
    watch.tick()
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_changed_figures_of_minio_are_evidence(rowdrop: Stepping, watch: Watch) -> None:
    rowdrop.sweep()
    watch.tick()
    assert messages(rowdrop, BULK_QUEUE) == 0
    rowdrop.backlog.redis.hset("sweep", "figures", '[["minio_node_process_starttime_seconds", "", 1.0]]')
    watch.tick()
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_a_sweep_long_overdue_is_begun_without_beat(rowdrop: Stepping, watch: Watch) -> None:
    rowdrop.sweep()
    now = time.time()
    watch.sweep_if_due(now)
    assert messages(rowdrop, BULK_QUEUE) == 0
    watch.sweep_if_due(now + 2 * rowdrop.wiring.settings.sweep_interval_s + 1)
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_without_events_the_bucket_is_swept_every_five_minutes(rowdrop: Stepping, watch: Watch) -> None:
    rowdrop.sweep()
    now = time.time()
    watch.sweep_if_due(now + 301)
    assert messages(rowdrop, BULK_QUEUE) == 0
    rowdrop.backlog.note_notifications(come=False)
    watch.sweep_if_due(now + 301)
    assert messages(rowdrop, BULK_QUEUE) == 1


def test_watch_and_sweep_do_not_call_each_other_for_ever(rowdrop: Stepping, watch: Watch) -> None:
    """A sweep restores the record of the published ETags, so the watchdog requests no other."""
    # The record of the published ETags is lost, and nothing is pending. The sweep records the ETags
    # that it compared as verified.
    rowdrop.sweep()
    rowdrop.backlog.redis.delete("published")
    for _ in range(3):
        watch.tick()
    rowdrop.sweep()
    for _ in range(3):
        watch.look_for_evidence()
    assert rowdrop.backlog.epoch() == f"ok:{rowdrop.backlog.run_id()}"


# -- bulk work -------------------------------------------------------------------------------------
def in_pages_of(rowdrop: Stepping, users: int) -> None:
    """Set the page size of bulk work."""
    wiring = rowdrop.wiring
    wiring.bulk = BulkWork(wiring.source, wiring.refresher, wiring.backlog, wiring.tasks, page_users=users)


def test_many_users_are_read_by_one_list_to_the_same_rows(rowdrop: Stepping) -> None:
    users = ["a", "a.b", "a.k", "gone", *(f"u{number}" for number in range(60))]
    for number, user in enumerate(users):
        rowdrop.drop(user, csv_of(f"N{number}"), images=["jpg", "png", "jpeg"][: number % 4])
    rowdrop.land(*users)
    one_by_one = rowdrop.rows()
    rowdrop.source.delete("gone.csv")
    in_pages_of(rowdrop, 7)
    rebuild(rowdrop)
    del one_by_one["gone"]
    assert rowdrop.rows() == one_by_one
    assert rowdrop.differences() == []


def test_a_user_read_by_another_after_the_list_is_read_anew(rowdrop: Stepping) -> None:
    """A page with a stale LIST does not overwrite a newer result."""
    # The LIST has no image. Then an image is dropped and published by its event, and only then the
    # page is processed.
    published(rowdrop, "u")
    task_id, _ = rowdrop.wiring.rebuilds.request(time.time())
    rowdrop.wiring.rebuild.start(task_id)
    rowdrop.source.put("u.png", b"x")
    rowdrop.land("u")
    rowdrop.do_bulk_work()
    assert rowdrop.rows()["u"].img_path.endswith("u.png")


def test_pages_do_not_pile_up_in_redis(rowdrop: Stepping) -> None:
    """The producer of pages processes pages itself if the backlog in Redis is too long."""
    in_pages_of(rowdrop, 2)
    for number in range(30):
        rowdrop.drop(f"u{number}")
    rowdrop.wiring.sweep.run("test")
    assert 0 < rowdrop.backlog.pages_left() <= 4
    rowdrop.do_bulk_work()
    assert len(rowdrop.rows()) == 30


def test_a_page_that_could_not_be_read_is_kept(rowdrop: Stepping) -> None:
    """A page is enqueued again if the source bucket is unavailable."""
    published(rowdrop, "u")
    rowdrop.drop("u", csv_of("New"))
    rowdrop.wiring.sweep.run("test")
    client = rowdrop.wiring.init_client()
    client.remove_object(rowdrop.source.bucket, "u.csv")
    client.remove_bucket(rowdrop.source.bucket)
    with pytest.raises(StoreUnavailable):
        rowdrop.wiring.bulk.next_page()
    assert rowdrop.backlog.pages_left() == 1
    assert list(rowdrop.rows()) == ["u"]


def test_a_sweep_by_hand_is_enqueued_once(rowdrop: Stepping, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = rowdrop.wiring.settings
    monkeypatch.setenv("MINIO_ENDPOINT", settings.minio_endpoint)
    monkeypatch.setenv("MINIO_ACCESS_KEY", settings.minio_access_key)
    monkeypatch.setenv("MINIO_SECRET_KEY", settings.minio_secret_key)
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    sweep_by_hand()
    sweep_by_hand()
    assert messages(rowdrop, BULK_QUEUE) == 1
