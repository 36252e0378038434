"""Tests the way from a user's files to output.csv, on a real MinIO and Redis."""

import time

import pytest

from shared.object_store import StoreUnavailable
from shared.published import MANIFEST, OUTPUT, REJECTS
from shared.records import Row
from tests.integration.stepping import Stepping, csv_of
from worker.backlog import LeaseLost
from worker.publisher import PublisherLoop
from worker.refresh import call_all


def img(rowdrop: Stepping, key: str) -> str:
    return f"{rowdrop.source.bucket}/{key}"


def test_a_csv_becomes_a_row(rowdrop: Stepping) -> None:
    rowdrop.drop("0001", b"first_name, last_name, birthts\nIvan, Ivanov, 946674000000\n")
    rowdrop.land("0001")
    assert rowdrop.body() == b"user_id,first_name,last_name,birthts,img_path\n0001,Ivan,Ivanov,946674000000,\n"


def test_an_image_fills_img_path_and_its_removal_empties_it(rowdrop: Stepping) -> None:
    rowdrop.drop("0001", images=["jpg"])
    rowdrop.land("0001")
    assert rowdrop.rows()["0001"].img_path == img(rowdrop, "0001.jpg")
    rowdrop.source.delete("0001.jpg")
    rowdrop.land("0001")
    assert rowdrop.rows()["0001"].img_path == ""


def test_an_image_alone_makes_no_row(rowdrop: Stepping) -> None:
    rowdrop.source.put("0001.png", b"image")
    rowdrop.land("0001")
    assert rowdrop.rows() == {}
    assert rowdrop.rejects() == {}


def test_of_several_images_the_newest_by_the_second_counts_then_png_jpg_jpeg(rowdrop: Stepping) -> None:
    rowdrop.drop("u", images=["jpeg", "jpg"])
    second = rowdrop.source.last_modified("u.jpg")
    while int(time.time()) <= second + 1:
        time.sleep(0.05)
    rowdrop.source.put("u.jpeg", b"newer")
    rowdrop.land("u")
    assert rowdrop.rows()["u"].img_path == img(rowdrop, "u.jpeg")
    while True:  # until both have the same LastModified in whole seconds
        rowdrop.source.put("u.jpeg", b"newest")
        rowdrop.source.put("u.png", b"newest")
        if rowdrop.source.last_modified("u.jpeg") == rowdrop.source.last_modified("u.png"):
            break
    rowdrop.land("u")
    assert rowdrop.rows()["u"].img_path == img(rowdrop, "u.png")
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 0  # LIST has milliseconds, but must choose the same image


def test_a_deleted_csv_removes_the_row(rowdrop: Stepping) -> None:
    rowdrop.drop("u", images=["png"])
    rowdrop.land("u")
    rowdrop.source.delete("u.csv")
    rowdrop.land("u")
    assert rowdrop.rows() == {}


def test_a_broken_csv_holds_the_row_until_it_is_fixed(rowdrop: Stepping) -> None:
    rowdrop.drop("u", csv_of("Ada"))
    rowdrop.land("u")
    rowdrop.drop("u", b"first_name,last_name\nAda,Lovelace\n", images=["png"])
    rowdrop.land("u")
    assert rowdrop.rows()["u"] == Row("u", "Ada", "Ivanov", 946_674_000_000, img(rowdrop, "u.png"))
    assert "birthts" in rowdrop.rejects()["u"].reason
    rowdrop.drop("u", csv_of("Eve"))
    rowdrop.land("u")
    assert rowdrop.rows()["u"].first_name == "Eve"
    assert rowdrop.rejects() == {}


def test_a_broken_csv_that_is_deleted_takes_row_and_reject_along(rowdrop: Stepping) -> None:
    rowdrop.drop("u")
    rowdrop.land("u")
    rowdrop.drop("u", b"nothing")
    rowdrop.land("u")
    rowdrop.source.delete("u.csv")
    rowdrop.land("u")
    assert (rowdrop.rows(), rowdrop.rejects()) == ({}, {})


def test_a_csv_that_was_never_valid_is_a_reject_without_a_row(rowdrop: Stepping) -> None:
    rowdrop.drop("u", b"")
    rowdrop.land("u")
    assert rowdrop.rows() == {}
    assert rowdrop.rejects()["u"].key == "u.csv"


def test_a_reject_of_the_same_bytes_keeps_its_time(rowdrop: Stepping) -> None:
    rowdrop.drop("u", b"bad")
    rowdrop.land("u")
    since = rowdrop.rejects()["u"].since
    while int(time.time()) <= since + 1:
        time.sleep(0.05)
    rowdrop.drop("u", b"bad")
    rowdrop.land("u")
    assert rowdrop.rejects()["u"].since == since


def test_one_bad_file_among_many_stops_nobody(rowdrop: Stepping) -> None:
    users = [f"u{number:03d}" for number in range(200)]
    for user in users:
        rowdrop.drop(user, b"bad" if user == "u100" else None)
    rowdrop.land(*users)
    assert len(rowdrop.rows()) == 199
    assert list(rowdrop.rejects()) == ["u100"]
    assert rowdrop.differences() == []


def test_refreshing_again_changes_not_one_byte(rowdrop: Stepping) -> None:
    for user in ("b", "a", "a b", "é", "😀", '"q"', "a.b"):
        rowdrop.drop(user, images=["png"])
    users = ["b", "a", "a b", "é", "😀", '"q"', "a.b"]
    rowdrop.land(*users)
    body = rowdrop.body()
    for _ in range(3):
        rowdrop.land(*reversed(users))
    assert rowdrop.body() == body
    assert list(rowdrop.rows()) == sorted(users)


def test_many_users_are_read_by_one_list_and_few_by_requests_to_the_same_rows(rowdrop: Stepping) -> None:
    users = [f"u{number:03d}" for number in range(100)]
    for number, user in enumerate(users):
        rowdrop.drop(user, csv_of(f"N{number}"), images=["png", "jpg", "jpeg"][: number % 4])
    rowdrop.land(*users)
    by_list = rowdrop.body()
    rowdrop.land(*users[:3])
    for user in users[3:20]:
        rowdrop.land(user)
    assert rowdrop.body() == by_list
    assert rowdrop.differences() == []


def test_users_far_apart_in_a_large_bucket_are_read_too(rowdrop: Stepping) -> None:
    others = [f"m{number:05d}" for number in range(3000)]
    list(rowdrop.wiring.readers.map(lambda user: rowdrop.source.put(f"{user}.csv", csv_of()), others))
    users = [f"{letter}{number}" for letter in "az" for number in range(40)]
    for user in users:
        rowdrop.drop(user, images=["jpg"])
    rowdrop.land(*users)
    assert set(rowdrop.rows()) == set(users)
    assert all(row.img_path for row in rowdrop.rows().values())


@pytest.mark.parametrize("letters", [250, 251])  # 251 and ".jpeg" exceed 255 bytes, the maximum
def test_a_name_as_long_as_the_bucket_takes_gives_a_row(rowdrop: Stepping, letters: int) -> None:
    user = "x" * letters
    rowdrop.drop(user, images=["png"])
    rowdrop.land(user)
    assert rowdrop.rows()[user].img_path == img(rowdrop, f"{user}.png")
    assert rowdrop.differences() == []


def test_a_name_that_no_object_can_have_is_a_user_without_files(rowdrop: Stepping) -> None:
    for user in ("x" * 300, "é" * 200, "x" * 1000):
        rowdrop.land(user)
    assert rowdrop.backlog.dirty_users() == set()


def test_a_csv_may_have_a_million_bytes_and_no_more(rowdrop: Stepping) -> None:
    for user, size in (("a", 1_000_000), ("b", 1_000_001), ("c", 3_000_000)):
        rowdrop.drop(user, csv_of() + b"\n" * (size - len(csv_of())))
    rowdrop.land(*"abc")
    assert list(rowdrop.rows()) == ["a"]
    assert {reject.reason for reject in rowdrop.rejects().values()} == {"larger than 1,000,000 bytes"}


@pytest.mark.parametrize("first", "=+-@")
def test_what_a_spreadsheet_would_take_for_a_formula_is_published_as_it_was_written(
    rowdrop: Stepping, first: str
) -> None:
    rowdrop.drop("u", csv_of(f"{first}1+1"))
    rowdrop.land("u")
    assert rowdrop.rows()["u"].first_name == f"{first}1+1"


def test_a_user_who_is_not_dirty_is_not_read(rowdrop: Stepping) -> None:
    rowdrop.drop("u")
    rowdrop.wiring.refresher.refresh(["u"])
    assert rowdrop.backlog.staged_count() == 0


def test_a_missing_bucket_removes_nobody(rowdrop: Stepping) -> None:
    rowdrop.drop("u", images=["png"])
    rowdrop.land("u")
    body = rowdrop.body()
    for key in ("u.csv", "u.png"):
        rowdrop.source.delete(key)
    rowdrop.wiring.init_client().remove_bucket(rowdrop.source.bucket)
    rowdrop.mark("u")
    with pytest.raises(StoreUnavailable):
        rowdrop.wiring.refresher.refresh(["u"])
    with pytest.raises(StoreUnavailable):
        rowdrop.wiring.sweep.run("test")
    rowdrop.publish()
    assert rowdrop.body() == body
    assert rowdrop.backlog.dirty_users() == {"u"}


# -- the publisher ---------------------------------------------------------------------------------
def test_an_empty_bucket_gives_the_header_alone(rowdrop: Stepping) -> None:
    assert rowdrop.sweep() == 0
    assert rowdrop.body() == b"user_id,first_name,last_name,birthts,img_path\n"


def test_nothing_changed_is_not_written_again(rowdrop: Stepping) -> None:
    rowdrop.drop("u")
    rowdrop.land("u")
    written = rowdrop.output.last_modified(OUTPUT)
    while int(time.time()) <= written + 1:
        time.sleep(0.05)
    rowdrop.land("u")
    assert rowdrop.output.last_modified(OUTPUT) == written
    assert rowdrop.backlog.dirty_users() == set()


def test_a_publisher_whose_write_is_refused_reads_the_staged_rows_anew(rowdrop: Stepping) -> None:
    # Another publisher has published a newer result: the stale batch must be dropped with the stale
    # table.
    rowdrop.drop("u", csv_of("Old"))
    rowdrop.land("u")
    other = rowdrop.new_publisher()
    rowdrop.drop("u", csv_of("New"))
    rowdrop.refresh("u")
    assert other.publish() == 0
    rowdrop.drop("v")
    rowdrop.land("v")
    assert {user: row.first_name for user, row in rowdrop.rows().items()} == {"u": "New", "v": "Ivan"}


def test_output_csv_deleted_by_hand_comes_back_whole(rowdrop: Stepping) -> None:
    for user in ("a", "b", "held"):
        rowdrop.drop(user)
    rowdrop.land("a", "b", "held")
    rowdrop.drop("held", b"broken")
    rowdrop.land("held")
    rowdrop.publisher.write_manifest()
    body = rowdrop.body()
    rowdrop.output.delete(OUTPUT)
    rowdrop.publisher = rowdrop.new_publisher()
    rowdrop.land("a")
    assert rowdrop.body() == body
    assert rowdrop.backlog.epoch() is None


def test_output_csv_edited_by_hand_is_evidence_and_a_sweep_mends_it(rowdrop: Stepping) -> None:
    for user in ("a", "b", "c"):
        rowdrop.drop(user)
    rowdrop.land("a", "b", "c")
    rowdrop.publisher.write_manifest()
    rowdrop.sweep()
    body = rowdrop.body()
    edited = b"\n".join(reversed(body.replace(b"b,Ivan", b"b,Evil").splitlines()[1:])) + b"\n"
    rowdrop.output.put(OUTPUT, body.splitlines(keepends=True)[0] + edited + b"garbage\n")
    rowdrop.publisher = rowdrop.new_publisher()
    rowdrop.land("a")
    assert rowdrop.backlog.epoch() is None
    rowdrop.sweep()
    assert rowdrop.body() == body
    assert rowdrop.differences() == []


def test_an_output_csv_that_is_only_out_of_order_is_put_right_too(rowdrop: Stepping) -> None:
    for user in ("a", "b"):
        rowdrop.drop(user)
    rowdrop.land("a", "b")
    rowdrop.publisher.write_manifest()
    body = rowdrop.body()
    header, a, b = body.splitlines(keepends=True)
    for edited in (header + b + a, body + b"1,a,b\n", header.replace(b"\n", b"\r\n") + a + b, b"nonsense"):
        rowdrop.output.put(OUTPUT, edited)
        rowdrop.sweep()
        assert rowdrop.body() == body


@pytest.mark.parametrize("key", [OUTPUT, REJECTS])
def test_a_file_without_anybodys_line_that_was_deleted_by_hand_comes_back(rowdrop: Stepping, key: str) -> None:
    # The publisher runs and has nothing to publish; its cached table is stale.
    rowdrop.sweep()
    written = rowdrop.output.etag(key)
    rowdrop.output.delete(key)
    rowdrop.sweep()
    assert rowdrop.output.etag(key) == written
    rowdrop.sweep()
    assert rowdrop.backlog.epoch() == f"ok:{rowdrop.backlog.run_id()}"


def test_rejects_csv_is_written_before_anyone_is_called_clean(rowdrop: Stepping) -> None:
    rowdrop.drop("u")
    rowdrop.land("u")
    rowdrop.output.delete(REJECTS)
    rowdrop.drop("u", b"bad")
    rowdrop.refresh("u")
    rowdrop.publish()
    assert list(rowdrop.rejects()) == ["u"]
    assert rowdrop.backlog.dirty_users() == set()


def test_a_failed_write_leaves_everyone_dirty_and_the_next_publish_makes_it_good(rowdrop: Stepping) -> None:
    rowdrop.drop("u")
    rowdrop.refresh("u")
    client, bucket = rowdrop.wiring.init_client(), rowdrop.output.bucket
    client.remove_bucket(bucket)
    with pytest.raises(StoreUnavailable):
        rowdrop.publisher.publish()
    assert rowdrop.backlog.dirty_users() == {"u"}
    client.make_bucket(bucket)
    rowdrop.publish()
    assert list(rowdrop.rows()) == ["u"]


def test_the_manifest_says_what_each_row_was_made_of(rowdrop: Stepping) -> None:
    rowdrop.drop("u", csv_of("Ada"), images=["png"])
    rowdrop.land("u")
    assert rowdrop.publisher.manifest_due(idle=True)
    rowdrop.publisher.write_manifest()
    assert not rowdrop.publisher.manifest_due(idle=True)
    from shared.manifest import Manifest

    fact = Manifest.decode(rowdrop.output.get(MANIFEST).body).get("u")
    assert fact is not None
    assert (fact.version.source, fact.version.etag) == ("u.csv", rowdrop.source.etag("u.csv"))
    assert (fact.person.first_name, fact.image, fact.held) == ("Ada", "u.png", False)


def test_a_publisher_replaced_before_it_has_read_the_files_writes_nothing(rowdrop: Stepping) -> None:
    # Publisher P1 begins and reads the batch. It is suspended and replaced, and the other publisher
    # publishes newer rows. Then P1 reads the files. Its batch is older than their ETags, so
    # If-Match would accept its write.
    rowdrop.drop("u", csv_of("Old"))
    rowdrop.refresh("u")
    begun = rowdrop.backlog.begin("one")
    assert begun is not None
    rowdrop.backlog.release("one", evidence=False)
    rowdrop.drop("u", csv_of("New"))
    rowdrop.land("u")
    body = rowdrop.body()
    with pytest.raises(LeaseLost):
        rowdrop.new_publisher()._publish("one", begun)
    assert rowdrop.body() == body


def test_with_a_least_interval_a_second_publish_waits_for_its_time(rowdrop: Stepping) -> None:
    loop = PublisherLoop(rowdrop.publisher, rowdrop.backlog, lambda: None, min_interval_s=2.5)
    times = []
    for user_id in ("a", "b"):
        rowdrop.drop(user_id)
        rowdrop.refresh(user_id)
        loop.run_once(1)
        times.append(rowdrop.output.last_modified(OUTPUT))
    assert times[1] - times[0] >= 2  # whole seconds
    assert rowdrop.rows().keys() == {"a", "b"}


def test_when_a_reading_has_taken_too_long_the_rest_is_left_for_another_time() -> None:
    # Without a deadline, a message of 500 users would take a quarter of an hour while MinIO does
    # not answer.
    asked: list[int] = []
    answers = call_all([lambda: asked.append(1)], time.monotonic() - 1)
    assert isinstance(answers[0], StoreUnavailable)
    assert asked == []
