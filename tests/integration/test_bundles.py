"""Bundles, on a real MinIO and Redis: visibility, precedence, rejects, retries and loss."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from shared.object_store import ObjectStore, StoredObject, StoreUnavailable
from shared.published import BUNDLES, IMAGES, REJECTS, UNPACKED
from shared.records import InvalidCsv, ValidCsv
from shared.task_queue import BULK_QUEUE
from tests.archives import encrypted, tar_gz_of, tar_of, zip_of
from tests.integration.stepping import Stepping, csv_of
from worker.bundles import index_key
from worker.evidence import OVERDUE_S, Watch
from worker.refresh import judge
from worker.shelf import Shelf, Shelved, digest_of, read_shelf
from worker.unpack import MOST_TRIES, STUCK, Unpacker


def names(rowdrop: Stepping) -> dict[str, str]:
    return {user_id: row.first_name for user_id, row in rowdrop.rows().items()}


def drop(rowdrop: Stepping, key: str, files: Mapping[str, bytes]) -> None:
    """Put a bundle without an event; the extension of the key selects the format."""
    make = zip_of if key.endswith(".zip") else tar_of if key.endswith(".tar") else tar_gz_of
    rowdrop.source.put(key, make(files))


def land(rowdrop: Stepping, key: str, files: Mapping[str, bytes]) -> None:
    """Put a bundle, mark it, and process it up to the published files."""
    drop(rowdrop, key, files)
    rowdrop.land_bundles(key)


def next_second(rowdrop: Stepping, key: str) -> None:
    """Wait until the next object gets a later LastModified, in whole seconds, than this one."""
    put = rowdrop.source.last_modified(key)
    while int(time.time()) <= put + 1:
        time.sleep(0.05)


def copied(rowdrop: Stepping) -> set[str]:
    return {info.key for page in rowdrop.output.objects(folder=IMAGES) for info in page}


class Died(BaseException):
    """Stands for a kill of the process."""


class DiesAtTheIndex:
    """An output bucket that raises `Died` at the write of an index, the last one of an unpack."""

    def __init__(self, output: ObjectStore) -> None:
        self._output = output

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  delegate everything else
        return getattr(self._output, name)

    def put(self, key: str, body: bytes) -> str:
        if key.endswith("/index"):
            raise Died
        return self._output.put(key, body)


# -- content ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["users.zip", "users.tar", "users.tar.gz", "users.tgz"])
def test_the_members_of_a_bundle_are_rows(rowdrop: Stepping, key: str) -> None:
    files = {"a/0001.csv": csv_of("Ada"), "b/0001.png": b"image", "2.csv": csv_of("Bo"), "3.jpg": b"alone"}
    land(rowdrop, key, files)
    assert names(rowdrop) == {"0001": "Ada", "2": "Bo"}
    path = f"{rowdrop.output.bucket}/images/0001.png"
    assert (rowdrop.rows()["0001"].img_path, rowdrop.rows()["2"].img_path) == (path, "")
    assert rowdrop.output.get("images/0001.png").body == b"image"
    assert copied(rowdrop) == {"images/0001.png"}
    assert rowdrop.differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 0


def test_what_file_managers_leave_behind_is_passed_over_and_other_files_are_counted(rowdrop: Stepping) -> None:
    files = {"u/1.csv": csv_of(), "__MACOSX/u/._1.csv": b"x", "u/._1.csv": b"x", "u/.DS_Store": b"x", "Thumbs.db": b"x"}
    land(rowdrop, "u.zip", {**files, "notes.txt": b"x"})
    assert list(rowdrop.rows()) == ["1"]
    assert rowdrop.rejects() == {}
    assert read_shelf(rowdrop.output)[0].bundles["u.zip"].ignored == 1


def test_a_bad_csv_in_a_bundle_is_a_reject_of_that_user_alone(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"in/1.csv": csv_of(), "in/2.csv": b"broken"})
    assert list(rowdrop.rows()) == ["1"]
    assert rowdrop.rejects()["2"].key == "u.zip#in/2.csv"
    assert rowdrop.differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 0


def test_of_two_files_of_one_user_in_a_bundle_the_later_one_counts(rowdrop: Stepping) -> None:
    land(rowdrop, "u.tar", {"a/1.csv": csv_of("First"), "b/1.csv": csv_of("Second"), "1.jpg": b"x", "1.png": b"y"})
    assert names(rowdrop) == {"1": "Second"}
    assert rowdrop.rows()["1"].img_path.endswith("/images/1.png")
    assert rowdrop.differences() == []


# -- precedence ------------------------------------------------------------------------------------
def test_an_own_file_wins_part_by_part_and_when_it_goes_the_member_shows_again(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of("Bundle"), "1.png": b"bundle"})
    rowdrop.drop("1", csv_of("Own"))
    rowdrop.land("1")
    assert names(rowdrop) == {"1": "Own"}
    assert rowdrop.rows()["1"].img_path.endswith("/images/1.png")
    rowdrop.source.put("1.jpg", b"own")
    rowdrop.land("1")
    assert rowdrop.rows()["1"].img_path == f"{rowdrop.source.bucket}/1.jpg"
    assert copied(rowdrop) == set()
    assert rowdrop.differences() == []
    rowdrop.source.delete("1.csv")
    rowdrop.source.delete("1.jpg")
    rowdrop.land("1")
    assert names(rowdrop) == {"1": "Bundle"}
    assert copied(rowdrop) == {"images/1.png"}
    assert rowdrop.differences() == []


def test_an_own_broken_csv_wins_too(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of("Bundle")})
    rowdrop.drop("1", b"broken")
    rowdrop.land("1")
    assert rowdrop.rejects()["1"].key == "1.csv"
    assert names(rowdrop) == {"1": "Bundle"}  # the held row
    assert rowdrop.differences() == []


def test_of_several_bundles_the_one_dropped_last_counts_then_the_first_by_name(rowdrop: Stepping) -> None:
    land(rowdrop, "old.zip", {"1.csv": csv_of("Old"), "1.png": b"old", "2.csv": csv_of("Old")})
    next_second(rowdrop, "old.zip")
    land(rowdrop, "new.tar", {"1.csv": csv_of("New")})
    assert names(rowdrop) == {"1": "New", "2": "Old"}
    assert rowdrop.rows()["1"].img_path.endswith("/images/1.png")
    assert rowdrop.differences() == []
    while True:
        drop(rowdrop, "a.zip", {"1.csv": csv_of("A")})
        drop(rowdrop, "b.zip", {"1.csv": csv_of("B")})
        if rowdrop.source.last_modified("a.zip") == rowdrop.source.last_modified("b.zip"):
            break
    rowdrop.land_bundles("b.zip", "a.zip")
    assert names(rowdrop)["1"] == "A"
    rowdrop.source.delete("a.zip")
    rowdrop.land_bundles("a.zip")
    assert names(rowdrop)["1"] == "B"
    assert rowdrop.differences() == []


# -- replacing and deleting a bundle ---------------------------------------------------------------
def test_what_a_newer_version_leaves_out_goes(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of("One"), "1.png": b"x", "2.csv": csv_of("Two"), "3.csv": csv_of("Three")})
    rowdrop.drop("2", csv_of("Own"))
    rowdrop.land("2")
    next_second(rowdrop, "u.zip")
    land(rowdrop, "u.zip", {"3.csv": csv_of("Thrice"), "4.csv": csv_of("Four")})
    assert names(rowdrop) == {"2": "Own", "3": "Thrice", "4": "Four"}
    assert copied(rowdrop) == set()
    assert len(rowdrop.output.folders(UNPACKED)) == 1
    assert rowdrop.differences() == []


def test_a_deleted_bundle_takes_its_rows_along(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of(), "1.png": b"x"})
    rowdrop.source.delete("u.zip")
    rowdrop.land_bundles("u.zip")
    assert rowdrop.rows() == {}
    assert (copied(rowdrop), rowdrop.output.folders(UNPACKED)) == (set(), [])
    assert rowdrop.differences() == []


def test_the_same_bundle_again_changes_nothing(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of(), "1.png": b"x"})
    body = rowdrop.body()
    next_second(rowdrop, "u.zip")
    land(rowdrop, "u.zip", {"1.csv": csv_of(), "1.png": b"x"})
    rowdrop.land_bundles("u.zip")
    assert rowdrop.body() == body
    assert rowdrop.differences() == []


def test_half_a_bundle_is_never_seen_and_the_rest_is_gone_on_with(rowdrop: Stepping) -> None:
    """A partial unpack is not visible, and the next attempt resumes it."""
    files = {f"{number}.{kind}": csv_of(f"N{number}") for number in range(50) for kind in ("csv", "png")}
    drop(rowdrop, "u.zip", files)
    rowdrop.mark("/u.zip")
    wiring, fragile = rowdrop.wiring, DiesAtTheIndex(rowdrop.output)
    parts: Any = fragile, rowdrop.backlog, wiring.bulk, wiring.tasks, wiring.unpacks, wiring.readers
    with pytest.raises(Died):
        Unpacker(rowdrop.source, *parts).run("u.zip")
    assert rowdrop.output.folders(UNPACKED) != []
    assert read_shelf(rowdrop.output)[0].bundles == {}
    rowdrop.backlog.redis.delete("unpack:alive")
    rowdrop.sweep()
    assert len(rowdrop.rows()) == 50
    assert rowdrop.differences() == []


# -- rejects ---------------------------------------------------------------------------------------
def test_a_broken_bundle_is_one_reject_and_nothing_else(rowdrop: Stepping) -> None:
    land(rowdrop, "ok.zip", {"1.csv": csv_of()})
    rowdrop.source.put("a.zip", encrypted(zip_of({"2.csv": csv_of(), "2.png": b"x"})))
    rowdrop.source.put("b.tar.gz", tar_gz_of({"3.csv": csv_of()})[:-20])
    rowdrop.land_bundles("a.zip", "b.tar.gz")
    rejects = rowdrop.rejects()
    assert {user_id: reject.key for user_id, reject in rejects.items()} == {"/a.zip": "a.zip", "/b.tar.gz": "b.tar.gz"}
    assert "encrypted" in rejects["/a.zip"].reason
    assert "cut off" in rejects["/b.tar.gz"].reason
    assert b'\na.zip,,"it is encrypted' in rowdrop.output.get(REJECTS).body
    assert list(rowdrop.rows()) == ["1"]
    assert len(rowdrop.output.folders(UNPACKED)) == 1
    assert rowdrop.differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 0
    rowdrop.source.delete("a.zip")
    land(rowdrop, "b.tar.gz", {"3.csv": csv_of()})
    rowdrop.land_bundles("a.zip")
    assert rowdrop.rejects() == {}
    assert list(rowdrop.rows()) == ["1", "3"]


def test_a_bundle_replaced_by_a_broken_one_keeps_what_it_had_until_it_is_fixed_or_deleted(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of("Kept"), "1.png": b"x"})
    rowdrop.source.put("u.zip", zip_of({"1.csv": csv_of("Lost")})[:-30])
    rowdrop.land_bundles("u.zip")
    assert names(rowdrop) == {"1": "Kept"}
    assert "stays in use" in rowdrop.rejects()["/u.zip"].reason
    assert rowdrop.differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 0
    rowdrop.source.delete("u.zip")
    rowdrop.land_bundles("u.zip")
    assert (rowdrop.rows(), rowdrop.rejects()) == ({}, {})


def test_an_archive_that_cost_three_workers_is_given_up_and_tried_once_more_by_each_sweep(rowdrop: Stepping) -> None:
    """A poison bundle is given up after its last attempt; each sweep grants one more attempt."""
    drop(rowdrop, "u.zip", {"1.csv": csv_of()})
    digest = digest_of("u.zip", rowdrop.source.etag("u.zip") or "")
    for _ in range(MOST_TRIES):  # attempts that are killed before they end
        rowdrop.wiring.unpacks.begin(digest, "u.zip", time.time())
    rowdrop.land_bundles("u.zip")
    assert rowdrop.rejects()["/u.zip"].reason == STUCK
    rowdrop.land_bundles("u.zip")
    assert rowdrop.rejects()["/u.zip"].reason == STUCK
    assert rowdrop.differences() == []
    rowdrop.sweep()
    assert (list(rowdrop.rows()), rowdrop.rejects()) == (["1"], {})


def test_a_fault_of_ours_over_a_csv_concerns_that_user_alone(rowdrop: Stepping) -> None:
    def faulty(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
        if b"Poison" in stored.body:
            raise RecursionError
        return judge(key, stored)

    wiring = rowdrop.wiring
    drop(rowdrop, "u.zip", {"1.csv": csv_of(), "2.csv": csv_of("Poison")})
    rowdrop.mark("/u.zip")
    parts = rowdrop.output, rowdrop.backlog, wiring.bulk, wiring.tasks, wiring.unpacks, wiring.readers
    Unpacker(rowdrop.source, *parts, judge=faulty).run("u.zip")
    rowdrop.do_bulk_work()
    assert list(rowdrop.rows()) == ["1"]
    assert "fault of its own (RecursionError)" in rowdrop.rejects()["2"].reason


def test_a_bundle_that_is_replaced_while_it_is_unpacked_ends_in_the_newer_one(rowdrop: Stepping) -> None:
    drop(rowdrop, "u.zip", {f"{number}.png": bytes(1_000_000) for number in range(9)} | {"old.csv": csv_of("Old")})
    rowdrop.source.put("u.tar", tar_of({f"{number}.png": bytes(1_000_000) for number in range(9)}))

    class Replaced:
        """A source bucket in which the archive is replaced after its first block was read."""

        def __init__(self, source: ObjectStore) -> None:
            self._source, self._left = source, 1

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(self._source, name)

        def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
            body = self._source.get_range(key, etag, start, end)
            if self._left:
                self._left = 0
                drop(rowdrop, "u.tar", {"1.csv": csv_of("New")})
            return body

    wiring = rowdrop.wiring
    parts = rowdrop.output, rowdrop.backlog, wiring.bulk, wiring.tasks, wiring.unpacks, wiring.readers
    rowdrop.mark("/u.tar")
    Unpacker(Replaced(rowdrop.source), *parts).run("u.tar")
    rowdrop.do_bulk_work()
    assert names(rowdrop) == {"1": "New"}


def test_a_source_out_of_reach_leaves_the_bundle_as_it_is(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of()})
    client = rowdrop.wiring.init_client()
    client.remove_object(rowdrop.source.bucket, "u.zip")
    client.remove_bucket(rowdrop.source.bucket)
    rowdrop.mark("/u.zip")
    with pytest.raises(StoreUnavailable):
        rowdrop.wiring.unpacker.run("u.zip")
    assert rowdrop.backlog.dirty_users() == {"/u.zip"}
    assert list(read_shelf(rowdrop.output)[0].bundles) == ["u.zip"]
    assert not rowdrop.wiring.unpacks.alive()


# -- the catalog version ---------------------------------------------------------------------------
def test_a_reader_looks_at_the_shelf_again_when_its_token_is_another(rowdrop: Stepping) -> None:
    """A reader with a stale catalog reloads it, also after Redis lost the catalog version."""
    other = Stepping(rowdrop.wiring.settings)  # a worker that cached the empty catalog
    other.drop("9")
    other.land("9")
    land(rowdrop, "u.zip", {"1.csv": csv_of("One")})
    rowdrop.land_bundles("u.zip")
    other.land("1")
    assert names(other) == {"1": "One", "9": "Ivan"}
    rowdrop.source.delete("u.zip")
    rowdrop.land_bundles("u.zip")
    rowdrop.backlog.redis.delete("shelf")  # Redis lost the catalog version
    other.land("1")
    assert names(other) == {"9": "Ivan"}
    other.close()


def test_after_a_redis_that_fell_back_a_sweep_has_everyone_look_again(rowdrop: Stepping) -> None:
    """An older catalog version, restored by Redis, makes a stale cache valid until a sweep."""
    other = Stepping(rowdrop.wiring.settings)
    other.drop("9")
    other.land("9")
    token = rowdrop.backlog.redis.get("shelf")
    land(rowdrop, "u.zip", {"1.csv": csv_of("One")})
    rowdrop.backlog.redis.set("shelf", token)  # the version that `other` has cached
    other.land("1")
    assert names(other) == {"9": "Ivan"}  # it used the stale cache, which a loss signal covers
    rowdrop.publisher = other.publisher
    other.sweep()
    assert names(other) == {"1": "One", "9": "Ivan"}
    assert other.differences() == []
    other.close()


def test_a_write_of_the_shelf_that_lands_late_is_evidence(rowdrop: Stepping, watch: Watch) -> None:
    """A delayed write of the catalog is a loss signal, and the sweep removes its entries."""
    land(rowdrop, "u.zip", {"1.csv": csv_of()})
    rowdrop.sweep()
    ghost = Shelf({"ghost.zip": Shelved("e", 1, "d" * 32, 1)})
    rowdrop.output.put(BUNDLES, ghost.encode())
    for _ in range(2):
        watch.look_for_evidence()
    assert rowdrop.backlog.epoch() is None
    with pytest.raises(StoreUnavailable):  # the unpacked objects that it names do not exist
        rowdrop.wiring.sweep.run("test")
    rowdrop.do_bulk_work()
    rowdrop.sweep()
    assert list(read_shelf(rowdrop.output)[0].bundles) == ["u.zip"]
    assert rowdrop.differences() == []


# -- recovery from losses --------------------------------------------------------------------------
def test_a_sweep_finds_bundles_that_no_event_told_of(rowdrop: Stepping) -> None:
    land(rowdrop, "gone.zip", {"1.csv": csv_of()})
    land(rowdrop, "changed.zip", {"2.csv": csv_of("Old")})
    rowdrop.source.delete("gone.zip")
    drop(rowdrop, "changed.zip", {"2.csv": csv_of("New")})
    drop(rowdrop, "new.tar", {"3.csv": csv_of()})
    rowdrop.sweep()
    assert names(rowdrop) == {"2": "New", "3": "Ivan"}
    assert rowdrop.differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 0


def test_redis_emptied_costs_nothing(rowdrop: Stepping) -> None:
    """An emptied Redis loses no rows: a sweep reconciles the bundles."""
    land(rowdrop, "u.zip", {"1.csv": csv_of(), "1.png": b"x"})
    rowdrop.backlog.redis.flushall()
    land(rowdrop, "v.zip", {"2.csv": csv_of()})
    rowdrop.backlog.redis.flushall()
    rowdrop.sweep()
    assert list(rowdrop.rows()) == ["1", "2"]
    assert rowdrop.differences() == []


def test_a_shelf_deleted_by_hand_is_made_anew(rowdrop: Stepping, watch: Watch) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of(), "1.png": b"x"})
    rowdrop.sweep()
    rowdrop.output.delete(BUNDLES)
    for _ in range(2):
        watch.look_for_evidence()
    assert rowdrop.backlog.epoch() is None
    rowdrop.sweep()
    assert list(rowdrop.rows()) == ["1"]
    assert rowdrop.differences() == []


@pytest.mark.parametrize("what", ["index", "image"])
def test_what_was_unpacked_and_is_missing_is_unpacked_again(rowdrop: Stepping, what: str) -> None:
    """A read fails if an index or image is missing, and succeeds on a retry after the unpack."""
    land(rowdrop, "u.zip", {"1.csv": csv_of(), "1.png": b"x"})
    digest = read_shelf(rowdrop.output)[0].bundles["u.zip"].digest
    rowdrop.output.delete(index_key(digest) if what == "index" else f"{UNPACKED}/{digest}/1.png")
    rowdrop.output.delete("images/1.png")
    rowdrop.wiring.bundles.use(read_shelf(rowdrop.output)[0])
    rowdrop.wiring.bundles._indexes.clear()
    rowdrop.mark("1")
    with pytest.raises(StoreUnavailable):
        rowdrop.wiring.refresher.refresh(["1"])
    rowdrop.do_bulk_work()
    rowdrop.wiring.refresher.refresh(["1"])
    rowdrop.publish()
    assert rowdrop.output.get("images/1.png").body == b"x"
    assert rowdrop.differences() == []


def test_a_bundle_whose_message_was_lost_is_unpacked_all_the_same(rowdrop: Stepping, watch: Watch) -> None:
    drop(rowdrop, "u.zip", {"1.csv": csv_of()})
    rowdrop.mark("/u.zip")
    now = time.time()
    watch.enqueue_overdue(now)
    assert rowdrop.backlog.redis.llen(BULK_QUEUE) == 0
    watch.enqueue_overdue(now + OVERDUE_S + 1)
    assert rowdrop.backlog.redis.llen(BULK_QUEUE) == 1


def test_one_bundle_is_unpacked_at_a_time_and_the_next_one_follows(rowdrop: Stepping) -> None:
    """The unpack lease serializes bundles; at its release the next bundle is enqueued."""
    drop(rowdrop, "a.zip", {"1.csv": csv_of()})
    drop(rowdrop, "b.zip", {"2.csv": csv_of()})
    rowdrop.mark("/a.zip", "/b.zip")
    assert rowdrop.wiring.unpacks.take("another")
    rowdrop.wiring.unpacker.run("a.zip")
    assert read_shelf(rowdrop.output)[0].bundles == {}
    rowdrop.wiring.unpacks.give_back("another")
    rowdrop.wiring.unpacker.run("a.zip")
    assert rowdrop.backlog.redis.llen(BULK_QUEUE) >= 1
    rowdrop.do_bulk_work()
    assert list(rowdrop.rows()) == ["1", "2"]


def test_a_rebuild_reads_everyone_in_bundles_too(rowdrop: Stepping) -> None:
    land(rowdrop, "u.zip", {"1.csv": csv_of(), "1.png": b"x", "2.csv": b"broken"})
    rowdrop.drop("3")
    rowdrop.land("3")
    body = rowdrop.body()
    rowdrop.output.delete("output.csv")
    rowdrop.output.delete("manifest.parquet")
    rowdrop.publisher = rowdrop.new_publisher()
    task_id, _ = rowdrop.wiring.rebuilds.request(time.time())
    rowdrop.wiring.rebuild.start(task_id)
    rowdrop.do_bulk_work()
    rowdrop.wiring.rebuild.finish()
    status = rowdrop.wiring.rebuilds.get(task_id)
    assert status is not None
    assert (status.state, status.total) == ("done", 3)
    assert rowdrop.body() == body


def test_how_far_a_bundle_is_can_be_asked(rowdrop: Stepping) -> None:
    unpacks = rowdrop.wiring.unpacks
    drop(rowdrop, "u.zip", {"1.csv": csv_of(), "1.png": b"x", "2.csv": csv_of()})
    rowdrop.mark("/u.zip")
    assert unpacks.waiting() == ["u.zip"]
    rowdrop.unpack_next()
    (status,) = unpacks.newest(10)
    assert (status.bundle, status.state, status.done, status.total) == ("u.zip", "publishing", 3, 3)
    assert (status.users, status.published, status.finished_at) == (2, 0, None)
    assert unpacks.finish(time.time()) == []
    rowdrop.do_bulk_work()
    assert unpacks.finish(time.time()) == [status.task_id]
    (status,) = unpacks.newest(10)
    assert (status.state, status.published, unpacks.waiting()) == ("done", 2, [])
    assert status.started_at
    assert status.finished_at
    assert status.started_at < status.finished_at
    assert unpacks.finish(time.time()) == []
    rowdrop.source.put("u.zip", b"broken")
    rowdrop.land_bundles("u.zip")
    newest = unpacks.newest(10)[0]
    assert (newest.state, newest.error is not None) == ("rejected", True)
