"""Tests IMAGES=copy on a real MinIO and Redis: `img_path` names a copy in the output bucket."""

import io
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shared.keys import bundle_id
from shared.object_store import ObjectStore, StoreUnavailable
from shared.published import IMAGES, OUTPUT
from shared.settings import Settings
from tests.archives import zip_of
from tests.integration.stepping import Stepping, csv_of
from worker.backlog import ListedUser, new_token
from worker.evidence import LOOKS_BROKEN_OFF
from worker.images import Copies
from worker.refresh import Refresher


@pytest.fixture
def copying(settings: Settings) -> Iterator[Stepping]:
    stepping = Stepping(replace(settings, copies_images=True))
    yield stepping
    stepping.close()


def copies(rowdrop: Stepping) -> dict[str, str]:
    return {info.key: info.etag for page in rowdrop.output.objects(folder=IMAGES) for info in page}


def path(rowdrop: Stepping, name: str) -> str:
    return f"{rowdrop.output.bucket}/images/{name}"


def rebuild(rowdrop: Stepping) -> None:
    task_id, _ = rowdrop.wiring.rebuilds.request(time.time())
    rowdrop.wiring.rebuild.start(task_id)
    rowdrop.do_bulk_work()
    rowdrop.wiring.rebuild.finish()


class Slow:
    """An output bucket in which a copy takes effect only after the calls of `happens`."""

    def __init__(self, output: ObjectStore, happens: list[object]) -> None:
        self._output, self._happens, self.bucket = output, happens, output.bucket

    def __getattr__(self, name: str) -> object:
        return getattr(self._output, name)

    def copy_from(self, bucket: str, key: str, to: str) -> None:
        held = self._output.get(to) if self._output.exists(to) else None
        self._output.copy_from(bucket, key, to)
        old = self._output.get(to).body
        while self._happens:
            happens = self._happens.pop()
            assert callable(happens)
            happens()
            self._output.put(to, old)  # the delayed copy takes effect now
        assert held is None or held.body


def test_the_image_is_copied_follows_and_is_removed(copying: Stepping) -> None:
    copying.drop("1", images=["png"])
    copying.land("1")
    assert copying.rows()["1"].img_path == path(copying, "1.png")
    assert copying.output.get("images/1.png").body == b"image"
    copying.source.put("1.png", b"another")
    copying.land("1")
    assert copying.output.get("images/1.png").body == b"another"
    copying.source.put("1.jpg", b"third")
    copying.source.delete("1.png")
    copying.land("1")
    assert list(copies(copying)) == ["images/1.jpg"]
    assert copying.differences() == []
    copying.source.delete("1.jpg")
    copying.land("1")
    assert (copying.rows()["1"].img_path, copies(copying)) == ("", {})
    assert copying.differences() == []


def test_a_deleted_csv_takes_the_copy_along(copying: Stepping) -> None:
    copying.drop("1", images=["png"])
    copying.land("1")
    copying.source.delete("1.csv")
    copying.land("1")
    assert copies(copying) == {}
    assert copying.differences() == []


def test_a_copy_that_no_row_ever_named_goes_too(copying: Stepping) -> None:
    # The copy is made, but the image is deleted before the row is published.
    copying.drop("1", images=["png"])
    copying.refresh("1")
    copying.source.delete("1.png")
    copying.land("1")
    assert copies(copying) == {}
    copying.source.put("1.png", b"x")
    copying.refresh("1")
    copying.source.delete("1.png")
    copying.source.put("1.jpg", b"x")
    copying.refresh("1")
    copying.source.delete("1.jpg")
    copying.source.put("1.png", b"y")
    copying.land("1")
    assert list(copies(copying)) == ["images/1.png"]
    assert copying.differences() == []


def test_a_copy_that_no_row_ever_named_goes_too_when_everyone_is_read_by_one_list(copying: Stepping) -> None:
    copying.drop("1", images=["png"])
    copying.refresh("1")
    copying.source.delete("1.png")
    rebuild(copying)
    assert (copying.rows()["1"].img_path, copies(copying)) == ("", {})


def test_an_image_without_a_csv_is_not_copied(copying: Stepping) -> None:
    copying.source.put("1.png", b"x")
    copying.land("1")
    assert copies(copying) == {}
    assert copying.sweep() == 0


def test_a_broken_csv_without_a_row_from_before_needs_no_copy(copying: Stepping) -> None:
    copying.drop("1", b"broken", images=["png"])
    copying.land("1")
    assert copies(copying) == {}
    assert copying.differences() == []
    copying.publisher.write_manifest()
    assert copying.sweep() == 0
    copying.output.put("images/1.png", b"left")
    assert copying.sweep() == 1
    assert copies(copying) == {}
    copying.drop("1")
    copying.land("1")
    assert list(copies(copying)) == ["images/1.png"]


def test_a_copy_goes_when_the_csv_was_deleted_before_its_row_was_published(copying: Stepping) -> None:
    copying.drop("1", images=["png"])
    copying.refresh("1")
    copying.source.delete("1.csv")
    copying.land("1")
    assert copies(copying) == {}


def test_a_held_row_has_its_copy_too(copying: Stepping) -> None:
    copying.drop("1", csv_of("Held"))
    copying.land("1")
    copying.drop("1", b"broken", images=["png"])
    copying.land("1")
    assert copying.rows()["1"].img_path == path(copying, "1.png")
    copying.publisher.write_manifest()
    assert copying.differences() == []
    assert copying.sweep() == 0


def test_what_is_copied_already_is_not_copied_again(copying: Stepping) -> None:
    users = [f"u{number:03d}" for number in range(40)]
    for user in users:
        copying.drop(user, images=["png"])
    copying.land(*users)
    before = {info.key: info.last_modified for page in copying.output.objects(folder=IMAGES) for info in page}
    while int(time.time()) <= max(before.values()) + 1:
        time.sleep(0.05)
    copying.land(*users)
    rebuild(copying)
    after = {info.key: info.last_modified for page in copying.output.objects(folder=IMAGES) for info in page}
    assert after == before


def test_an_image_that_was_uploaded_in_parts_is_copied_once(copying: Stepping) -> None:
    client, body = copying.wiring.init_client(), bytes(11_000_000)
    client.put_object(copying.source.bucket, "1.png", io.BytesIO(body), len(body), part_size=5 << 20)
    copying.drop("1")
    copying.land("1")
    assert copying.output.get("images/1.png").body == body
    copying.publisher.write_manifest()
    assert copying.sweep() == 0


@pytest.mark.parametrize("name", ["é", "a b", "a+b", "100%", "😀", "..", 'q"q', "a#b?c"])
def test_odd_names_are_copied_too(copying: Stepping, name: str) -> None:
    copying.drop(name, images=["png"])
    copying.land(name)
    assert copying.output.get(f"images/{name}.png").body == b"image"
    assert copying.differences() == []
    copying.publisher.write_manifest()
    assert copying.sweep() == 0
    copying.source.delete(f"{name}.png")
    copying.land(name)
    assert copies(copying) == {}


def test_the_setting_is_switched_by_a_rebuild_either_way(rowdrop: Stepping, settings: Settings) -> None:
    for number in range(30):
        rowdrop.drop(f"u{number:02}", images=["png"])
    rowdrop.source.put("u.zip", zip_of({"in-bundle.csv": csv_of(), "in-bundle.png": b"x"}))
    rowdrop.land(*[f"u{number:02}" for number in range(30)])
    rowdrop.land_bundles("u.zip")
    by_reference = rowdrop.body()
    assert list(copies(rowdrop)) == ["images/in-bundle.png"]
    copying = Stepping(replace(settings, copies_images=True))
    rebuild(copying)
    assert len(copies(copying)) == 31
    assert copying.differences() == []
    rowdrop.publisher = rowdrop.new_publisher()
    rebuild(rowdrop)
    assert rowdrop.body() == by_reference
    assert list(copies(rowdrop)) == ["images/in-bundle.png"]
    assert rowdrop.differences() == []
    copying.close()


def test_a_sweep_puts_copies_right_that_were_lost_changed_or_left(copying: Stepping) -> None:
    for user in ("lost", "changed", "fine"):
        copying.drop(user, images=["png"])
    copying.land("lost", "changed", "fine")
    copying.publisher.write_manifest()
    assert copying.sweep() == 0
    copying.output.delete("images/lost.png")
    copying.output.put("images/changed.png", b"by hand")
    copying.output.put("images/nobody.png", b"left")
    copying.output.put("images/notes.txt", b"not ours")
    assert copying.sweep() == 3
    assert copies(copying).keys() == {"images/lost.png", "images/changed.png", "images/fine.png", "images/notes.txt"}
    assert copying.output.get("images/changed.png").body == b"image"
    copying.output.delete("images/notes.txt")
    assert copying.differences() == []


def test_a_slow_copy_of_an_old_image_does_not_stay(copying: Stepping) -> None:
    # Read R1 copies the old image and is suspended. The new image is read, copied and published,
    # and the user is clean. Then R1's copy takes effect.
    copying.drop("1", images=["png"])

    def meanwhile() -> None:
        copying.source.put("1.png", b"new")
        copying.land("1")

    wiring = copying.wiring
    slow = Copies(copying.source, Slow(copying.output, [meanwhile]), all_images=True)  # type: ignore[arg-type]
    copying.mark("1")
    Refresher(copying.source, copying.backlog, wiring.readers, 4, copies=slow).refresh(["1"])
    copying.publish()
    assert copying.output.get("images/1.png").body == b"new"
    assert copying.backlog.dirty_users() == set()
    assert copying.differences() == []


def test_a_slow_copy_of_an_old_image_does_not_stay_when_the_newer_reading_waits_to_be_published(
    copying: Stepping,
) -> None:
    # Like the test above, but R1's copy takes effect before the publish. With its old mark, NOTE
    # would skip the user, because it was read since that mark.
    copying.drop("1", images=["png"])
    wiring = copying.wiring

    def meanwhile() -> None:
        copying.source.put("1.png", b"new")
        wiring.refresher.refresh(["1"])

    slow = Copies(copying.source, Slow(copying.output, [meanwhile]), all_images=True)  # type: ignore[arg-type]
    copying.mark("1")
    Refresher(copying.source, copying.backlog, wiring.readers, 4, copies=slow).refresh(["1"])
    copying.publish()
    assert copying.output.get("images/1.png").body == b"new"
    assert copying.backlog.dirty_users() == set()
    assert copying.differences() == []


@pytest.mark.parametrize("is_published", [False, True])
def test_a_copy_of_a_refused_reading_in_bulk_goes(copying: Stepping, is_published: bool) -> None:
    # While the users of a LIST are read, the image is deleted and a concurrent read takes the user.
    copying.drop("1", images=["png"])
    copying.mark("1")
    listed = ListedUser("1", copying.backlog.note(["1"])["1"], True, "1.png")

    def meanwhile() -> None:
        copying.source.delete("1.png")
        copying.wiring.refresher.refresh(["1"])
        if is_published:
            copying.publish()

    slow = Copies(copying.source, Slow(copying.output, [meanwhile]), all_images=True)  # type: ignore[arg-type]
    Refresher(copying.source, copying.backlog, copying.wiring.readers, 4, copies=slow).refresh_listed([listed])
    copying.publish()
    assert (copying.rows()["1"].img_path, copies(copying)) == ("", {})
    assert copying.backlog.dirty_users() == set()


def test_whoever_was_being_read_when_a_worker_died_is_read_again(copying: Stepping) -> None:
    # The worker may have copied an old image just before it died.
    watch = copying.new_watch()
    copying.drop("1", images=["png"])
    copying.mark("1")
    copying.backlog.note(["1"], new_token())
    copying.wiring.refresher.refresh(["1"])
    copying.publish()
    copying.output.put("images/1.png", b"old")
    for _ in range(LOOKS_BROKEN_OFF):
        watch.look_for_broken_readings()
    assert copying.backlog.dirty_users() == {"1"}


class Silent:
    """An output bucket that makes copies, but never answers the copy request."""

    def __init__(self, output: ObjectStore) -> None:
        self._output, self.bucket = output, output.bucket

    def __getattr__(self, name: str) -> object:
        return getattr(self._output, name)

    def copy_from(self, bucket: str, key: str, to: str) -> None:
        self._output.copy_from(bucket, key, to)
        raise StoreUnavailable("no answer")


@pytest.mark.parametrize("in_bulk", [False, True])
def test_a_copy_that_was_made_without_an_answer_goes_with_the_next_reading(copying: Stepping, in_bulk: bool) -> None:
    copying.drop("1", images=["png"])
    silent = Copies(copying.source, Silent(copying.output), all_images=True)  # type: ignore[arg-type]
    copying.mark("1")
    with pytest.raises(StoreUnavailable):
        Refresher(copying.source, copying.backlog, copying.wiring.readers, 4, copies=silent).refresh(["1"])
    assert list(copies(copying)) == ["images/1.png"]
    copying.source.delete("1.png")
    if in_bulk:
        rebuild(copying)
    else:
        copying.wiring.refresher.refresh(["1"])
        copying.publish()
    assert (copying.rows()["1"].img_path, copies(copying)) == ("", {})
    assert not copying.backlog.redis.exists("doubtful")


def test_the_copy_of_a_worker_that_died_goes_without_a_sweep(copying: Stepping) -> None:
    watch = copying.new_watch()
    copying.drop("1")
    copying.land("1")
    copying.mark("1")
    copying.backlog.note(["1"], new_token())  # a worker reads the user with an image, and dies
    copying.output.put("images/1.png", b"its copy")
    for _ in range(LOOKS_BROKEN_OFF):
        watch.look_for_broken_readings()
    copying.wiring.refresher.refresh_alone("1")
    copying.publish()
    assert copies(copying) == {}


def test_a_copy_that_is_in_doubt_and_needed_stays(copying: Stepping) -> None:
    copying.drop("1", images=["png"])
    copying.land("1")
    copying.output.put("images/1.jpg", b"left")
    copying.backlog.doubt(["1"])
    copying.wiring.refresher.refresh(["1"])
    copying.publish()
    assert list(copies(copying)) == ["images/1.png"]
    assert copying.differences() == []


def test_a_copy_that_came_back_while_it_was_deleted_is_made_again(copying: Stepping) -> None:
    copying.drop("1", images=["png"])
    copying.land("1")
    copying.source.delete("1.png")
    copying.refresh("1")

    class Racing:
        def __init__(self, output: ObjectStore) -> None:
            self._output, self.bucket = output, output.bucket

        def __getattr__(self, name: str) -> object:
            return getattr(self._output, name)

        def replace(self, key: str, body: bytes, expected: str | None) -> str:
            if key == OUTPUT:  # during this write the image comes back and is read
                copying.source.put("1.png", b"back")
                copying.refresh("1")
            return self._output.replace(key, body, expected)

    publisher = copying.new_publisher(Racing(copying.output))  # type: ignore[arg-type]
    publisher.publish()
    assert copies(copying) == {}  # deleted, because the published row names no image
    assert copying.backlog.note(["1"]).keys() == {"1"}
    copying.wiring.refresher.refresh(["1"])
    copying.publish()
    assert copying.output.get("images/1.png").body == b"back"
    assert copying.differences() == []


def test_an_own_image_by_reference_wins_over_the_copy_of_a_bundles(rowdrop: Stepping) -> None:
    rowdrop.source.put("u.zip", zip_of({"1.csv": csv_of(), "1.png": b"bundle"}))
    rowdrop.land_bundles("u.zip")
    assert rowdrop.rows()["1"].img_path == path(rowdrop, "1.png")
    rowdrop.source.put("1.png", b"own")
    rowdrop.land("1")
    assert rowdrop.rows()["1"].img_path == f"{rowdrop.source.bucket}/1.png"
    assert copies(rowdrop) == {}
    assert bundle_id("u.zip") not in rowdrop.backlog.dirty_users()
