"""Tests IMAGES=copy on a real MinIO and Redis: `img_path` names a copy in the output bucket."""

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared.formats.object_names import IMAGES_FOLDER, OUTPUT_KEY
from shared.formats.source_keys import make_bundle_id
from shared.object_store import ObjectStore, StoreUnavailable
from shared.redis_keys import SUSPECT_USERS
from shared.scripts import new_token
from shared.settings import Settings
from tests.archives import make_zip
from tests.fakes import DelegatingStore
from tests.integration.stepping import RowdropHarness, make_csv
from worker.state.work_queues import ListedUser
from worker.watchdog.broken_reads import BROKEN_READ_TICKS


@pytest.fixture
def copying(settings: Settings) -> Iterator[RowdropHarness]:
    stepping = RowdropHarness(replace(settings, copy_images=True))
    yield stepping
    stepping.close()


def copies(rowdrop: RowdropHarness) -> dict[str, str]:
    return {
        info.key: info.etag
        for page in rowdrop.output.list_objects(folder=IMAGES_FOLDER)
        for info in page
    }


def path(rowdrop: RowdropHarness, name: str) -> str:
    return f"{rowdrop.output.bucket}/images/{name}"


def rebuild(rowdrop: RowdropHarness) -> None:
    task_id, _ = rowdrop.services.records.rebuilds.request(time.time())
    rowdrop.services.rebuild.start(task_id)
    rowdrop.run_bulk_work()
    rowdrop.services.rebuild.finish()


class SlowOutput(DelegatingStore):
    """An output bucket in which a copy takes effect only after the calls of `changes`."""

    def __init__(self, output: ObjectStore, changes: list[object]) -> None:
        super().__init__(output)
        self._changes = changes

    def copy_from(
        self, bucket: str, key: str, to: str, source_etag: str = "", *, if_match: bool = False
    ) -> str:
        existing = self.inner.get(to) if self.inner.exists(to) else None
        etag = self.inner.copy_from(bucket, key, to, source_etag, if_match=if_match)
        old = self.inner.get(to).body
        while self._changes:
            change = self._changes.pop()
            assert callable(change)
            change()
            self.inner.put(to, old)  # the delayed copy takes effect now
        assert existing is None or existing.body
        return etag


def test_image_copies_follow_source_image(copying: RowdropHarness) -> None:
    copying.put_files("1", images=["png"])
    copying.process_users("1")
    assert copying.read_rows()["1"].img_path == path(copying, "1.png")
    assert copying.output.get("images/1.png").body == b"image"
    copying.source.put("1.png", b"another")
    copying.process_users("1")
    assert copying.output.get("images/1.png").body == b"another"
    copying.source.put("1.jpg", b"third")
    copying.source.delete("1.png")
    copying.process_users("1")
    assert list(copies(copying)) == ["images/1.jpg"]
    assert copying.find_differences() == []
    copying.source.delete("1.jpg")
    copying.process_users("1")
    assert (copying.read_rows()["1"].img_path, copies(copying)) == ("", {})
    assert copying.find_differences() == []


def test_image_copies_are_removed_with_csv(copying: RowdropHarness) -> None:
    copying.put_files("1", images=["png"])
    copying.process_users("1")
    copying.source.delete("1.csv")
    copying.process_users("1")
    assert copies(copying) == {}
    assert copying.find_differences() == []


def test_image_copies_without_published_row_are_removed(copying: RowdropHarness) -> None:
    # The copy is made, but the image is deleted before the row is published.
    copying.put_files("1", images=["png"])
    copying.read_users("1")
    copying.source.delete("1.png")
    copying.process_users("1")
    assert copies(copying) == {}
    copying.source.put("1.png", b"x")
    copying.read_users("1")
    copying.source.delete("1.png")
    copying.source.put("1.jpg", b"x")
    copying.read_users("1")
    copying.source.delete("1.jpg")
    copying.source.put("1.png", b"y")
    copying.process_users("1")
    assert list(copies(copying)) == ["images/1.png"]
    assert copying.find_differences() == []


def test_image_copies_without_published_row_are_removed_by_rebuild(copying: RowdropHarness) -> None:
    copying.put_files("1", images=["png"])
    copying.read_users("1")
    copying.source.delete("1.png")
    rebuild(copying)
    assert (copying.read_rows()["1"].img_path, copies(copying)) == ("", {})


def test_image_copies_need_a_csv(copying: RowdropHarness) -> None:
    copying.source.put("1.png", b"x")
    copying.process_users("1")
    assert copies(copying) == {}
    assert copying.run_sweep() == 0


def test_image_copies_of_invalid_csv_need_a_row(copying: RowdropHarness) -> None:
    copying.put_files("1", b"broken", images=["png"])
    copying.process_users("1")
    assert copies(copying) == {}
    assert copying.find_differences() == []
    copying.publisher.write_manifest()
    assert copying.run_sweep() == 0
    copying.output.put("images/1.png", b"left")
    assert copying.run_sweep() == 1
    assert copies(copying) == {}
    copying.put_files("1")
    copying.process_users("1")
    assert list(copies(copying)) == ["images/1.png"]


def test_image_copies_are_removed_with_unpublished_csv(copying: RowdropHarness) -> None:
    copying.put_files("1", images=["png"])
    copying.read_users("1")
    copying.source.delete("1.csv")
    copying.process_users("1")
    assert copies(copying) == {}


def test_image_copies_exist_for_held_rows(copying: RowdropHarness) -> None:
    copying.put_files("1", make_csv("Held"))
    copying.process_users("1")
    copying.put_files("1", b"broken", images=["png"])
    copying.process_users("1")
    assert copying.read_rows()["1"].img_path == path(copying, "1.png")
    copying.publisher.write_manifest()
    assert copying.find_differences() == []
    assert copying.run_sweep() == 0


def test_image_copies_are_not_repeated_when_current(copying: RowdropHarness) -> None:
    users = [f"u{number:03d}" for number in range(40)]
    for user in users:
        copying.put_files(user, images=["png"])
    copying.process_users(*users)
    before = {
        info.key: info.last_modified
        for page in copying.output.list_objects(folder=IMAGES_FOLDER)
        for info in page
    }
    while int(time.time()) <= max(before.values()) + 1:
        time.sleep(0.05)
    copying.process_users(*users)
    rebuild(copying)
    after = {
        info.key: info.last_modified
        for page in copying.output.list_objects(folder=IMAGES_FOLDER)
        for info in page
    }
    assert after == before


def test_sweep_of_equal_etags_sends_no_further_request(copying: RowdropHarness) -> None:
    users = [f"u{number:02}" for number in range(5)]
    for user in users:
        copying.put_files(user, images=["png"])
    copying.process_users(*users)
    copying.publisher.write_manifest()
    requests = list[str]()

    class Output:
        def __init__(self) -> None:
            self.bucket = copying.output.bucket

        def __getattr__(self, name: str) -> object:
            requests.append(name)
            return getattr(copying.output, name)

    output: Any = Output()
    assert copying.create_sweep(output=output).run("test") == 0
    # Nothing is deleted. The catalog is read twice, and each published file once.
    assert sorted(requests) == ["delete_many", *["get"] * 5, "list_folders", "list_objects"]


def test_image_copies_of_multipart_upload_are_made_once(copying: RowdropHarness) -> None:
    client = copying.services.clients.create_minio_client()
    body = bytes(11_000_000)
    client.put_object(
        copying.source.bucket, "1.png", io.BytesIO(body), len(body), part_size=5 << 20
    )
    copying.put_files("1")
    copying.process_users("1")
    assert copying.output.get("images/1.png").body == body
    copying.publisher.write_manifest()
    assert copying.run_sweep() == 0


@pytest.mark.parametrize("name", ["é", "a b", "a+b", "100%", "😀", "..", 'q"q', "a#b?c"])
def test_image_copies_support_unusual_names(copying: RowdropHarness, name: str) -> None:
    copying.put_files(name, images=["png"])
    copying.process_users(name)
    assert copying.output.get(f"images/{name}.png").body == b"image"
    assert copying.find_differences() == []
    copying.publisher.write_manifest()
    assert copying.run_sweep() == 0
    copying.source.delete(f"{name}.png")
    copying.process_users(name)
    assert copies(copying) == {}


def test_image_copies_setting_is_applied_by_rebuild(
    rowdrop: RowdropHarness, settings: Settings
) -> None:
    for number in range(30):
        rowdrop.put_files(f"u{number:02}", images=["png"])
    rowdrop.source.put("u.zip", make_zip({"in-bundle.csv": make_csv(), "in-bundle.png": b"x"}))
    rowdrop.process_users(*[f"u{number:02}" for number in range(30)])
    rowdrop.process_bundles("u.zip")
    by_reference = rowdrop.read_output()
    assert list(copies(rowdrop)) == ["images/in-bundle.png"]
    copying = RowdropHarness(replace(settings, copy_images=True))
    rebuild(copying)
    assert len(copies(copying)) == 31
    assert copying.find_differences() == []
    rowdrop.publisher = rowdrop.create_publisher()
    rebuild(rowdrop)
    assert rowdrop.read_output() == by_reference
    assert list(copies(rowdrop)) == ["images/in-bundle.png"]
    assert rowdrop.find_differences() == []
    copying.close()


def test_sweep_repairs_lost_changed_and_stray_copies(copying: RowdropHarness) -> None:
    for user in ("lost", "changed", "fine"):
        copying.put_files(user, images=["png"])
    copying.process_users("lost", "changed", "fine")
    copying.publisher.write_manifest()
    assert copying.run_sweep() == 0
    copying.output.delete("images/lost.png")
    copying.output.put("images/changed.png", b"by hand")
    copying.output.put("images/nobody.png", b"left")
    copying.output.put("images/notes.txt", b"not ours")
    assert copying.run_sweep() == 3
    assert copies(copying).keys() == {
        "images/lost.png",
        "images/changed.png",
        "images/fine.png",
        "images/notes.txt",
    }
    assert copying.output.get("images/changed.png").body == b"image"
    copying.output.delete("images/notes.txt")
    assert copying.find_differences() == []


def test_image_copies_by_slow_reader_do_not_stay(copying: RowdropHarness) -> None:
    # Read R1 copies the old image and is suspended. The new image is read, copied and published,
    # and the user is clean. Then R1's copy takes effect.
    copying.put_files("1", images=["png"])

    def change_image() -> None:
        copying.source.put("1.png", b"new")
        copying.process_users("1")

    slow_output = SlowOutput(copying.output, [change_image])
    copying.mark_users("1")
    copying.create_readers(output=slow_output).refresher.refresh(["1"])
    copying.publish_pending()
    assert copying.output.get("images/1.png").body == b"new"
    assert copying.state.users.dirty_users() == set()
    assert copying.find_differences() == []


def test_image_copies_by_slow_reader_do_not_replace_pending(
    copying: RowdropHarness,
) -> None:
    # Like the test above, but R1's copy takes effect before the publish. With its old mark, BEGIN
    # READ would skip the user, because it was read since that mark.
    copying.put_files("1", images=["png"])
    services = copying.services

    def change_image() -> None:
        copying.source.put("1.png", b"new")
        services.refresher.refresh(["1"])

    slow_output = SlowOutput(copying.output, [change_image])
    copying.mark_users("1")
    copying.create_readers(output=slow_output).refresher.refresh(["1"])
    copying.publish_pending()
    assert copying.output.get("images/1.png").body == b"new"
    assert copying.state.users.dirty_users() == set()
    assert copying.find_differences() == []


@pytest.mark.parametrize("is_published", [False, True])
def test_image_copies_of_refused_bulk_read_are_removed(
    copying: RowdropHarness, is_published: bool
) -> None:
    # While the users of a LIST are read, the image is deleted and a concurrent read takes the user.
    copying.put_files("1", images=["png"])
    copying.mark_users("1")
    listed = ListedUser("1", copying.state.users.begin_read(["1"])["1"], True, "1.png")

    def change_image() -> None:
        copying.source.delete("1.png")
        copying.services.refresher.refresh(["1"])
        if is_published:
            copying.publish_pending()

    slow_output = SlowOutput(copying.output, [change_image])
    readers = copying.create_readers(output=slow_output)
    readers.refresher.refresh_listed([listed])
    copying.publish_pending()
    assert (copying.read_rows()["1"].img_path, copies(copying)) == ("", {})
    assert copying.state.users.dirty_users() == set()


def test_broken_reads_mark_users_of_dead_worker(copying: RowdropHarness) -> None:
    # The worker may have copied an old image just before it died.
    checks = copying.create_checks()
    copying.put_files("1", images=["png"])
    copying.mark_users("1")
    copying.state.users.begin_read(["1"], new_token())
    copying.services.refresher.refresh(["1"])
    copying.publish_pending()
    copying.output.put("images/1.png", b"old")
    for _ in range(BROKEN_READ_TICKS):
        checks.broken_reads.isolate_broken_reads()
    assert copying.state.users.dirty_users() == {"1"}


class OutputWithoutResponse(DelegatingStore):
    """An output bucket that makes copies, but never answers the copy request."""

    def copy_from(
        self, bucket: str, key: str, to: str, source_etag: str = "", *, if_match: bool = False
    ) -> str:
        self.inner.copy_from(bucket, key, to, source_etag, if_match=if_match)
        raise StoreUnavailable("no answer")


@pytest.mark.parametrize("in_bulk", [False, True])
def test_image_copies_without_response_are_removed_by_next_read(
    copying: RowdropHarness, in_bulk: bool
) -> None:
    copying.put_files("1", images=["png"])
    readers = copying.create_readers(output=OutputWithoutResponse(copying.output))
    copying.mark_users("1")
    with pytest.raises(StoreUnavailable):
        readers.refresher.refresh(["1"])
    assert list(copies(copying)) == ["images/1.png"]
    copying.source.delete("1.png")
    if in_bulk:
        rebuild(copying)
    else:
        copying.services.refresher.refresh(["1"])
        copying.publish_pending()
    assert (copying.read_rows()["1"].img_path, copies(copying)) == ("", {})
    assert not copying.redis.exists(SUSPECT_USERS)


def test_image_copies_of_dead_worker_are_removed_without_sweep(copying: RowdropHarness) -> None:
    checks = copying.create_checks()
    copying.put_files("1")
    copying.process_users("1")
    copying.mark_users("1")
    copying.state.users.begin_read(
        ["1"], new_token()
    )  # a worker reads the user with an image, and dies
    copying.output.put("images/1.png", b"its copy")
    for _ in range(BROKEN_READ_TICKS):
        checks.broken_reads.isolate_broken_reads()
    copying.services.isolated_reads.refresh_isolated("1")
    copying.publish_pending()
    assert copies(copying) == {}


def test_image_copies_that_are_suspect_but_needed_stay(copying: RowdropHarness) -> None:
    copying.put_files("1", images=["png"])
    copying.process_users("1")
    copying.output.put("images/1.jpg", b"left")
    copying.state.users.add_suspects(["1"])
    copying.services.refresher.refresh(["1"])
    copying.publish_pending()
    assert list(copies(copying)) == ["images/1.png"]
    assert copying.find_differences() == []


def test_image_copies_restored_during_deletion_are_made_again(copying: RowdropHarness) -> None:
    copying.put_files("1", images=["png"])
    copying.process_users("1")
    copying.source.delete("1.png")
    copying.read_users("1")

    class RacingOutput(DelegatingStore):
        def put_if_unchanged(self, key: str, body: bytes, expected: str | None) -> str:
            if key == OUTPUT_KEY:  # during this write the image comes back and is read
                copying.source.put("1.png", b"back")
                copying.read_users("1")
            return self.inner.put_if_unchanged(key, body, expected)

    publisher = copying.create_publisher(RacingOutput(copying.output))
    publisher.publish()
    assert copies(copying) == {}  # deleted, because the published row names no image
    assert copying.state.users.begin_read(["1"]).keys() == {"1"}
    copying.services.refresher.refresh(["1"])
    copying.publish_pending()
    assert copying.output.get("images/1.png").body == b"back"
    assert copying.find_differences() == []


def test_refresher_prefers_own_image_over_bundle_copy(rowdrop: RowdropHarness) -> None:
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv(), "1.png": b"bundle"}))
    rowdrop.process_bundles("u.zip")
    assert rowdrop.read_rows()["1"].img_path == path(rowdrop, "1.png")
    rowdrop.source.put("1.png", b"own")
    rowdrop.process_users("1")
    assert rowdrop.read_rows()["1"].img_path == f"{rowdrop.source.bucket}/1.png"
    assert copies(rowdrop) == {}
    assert make_bundle_id("u.zip") not in rowdrop.state.users.dirty_users()
