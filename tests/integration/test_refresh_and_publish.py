"""Tests the way from a user's files to output.csv, on a real MinIO and Redis."""

import gzip
import io
import time
from collections.abc import Sequence

import pytest
from minio import Minio
from redis import Redis

from shared.formats.object_names import MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.formats.records import Row
from shared.object_store import StoreUnavailable
from shared.redis_keys import WAKE_LIVE
from shared.scripts import Scripts
from tests.integration.stepping import RowdropHarness, make_csv
from worker.publisher import PublisherLoop
from worker.publishing.publisher import Publisher
from worker.reading.parallel import run_in_order
from worker.state.loss_signals import TrustState
from worker.state.publish_queue import LeaseLost, PublishQueue


def img(rowdrop: RowdropHarness, key: str) -> str:
    return f"{rowdrop.source.bucket}/{key}"


def test_publisher_writes_row_of_csv(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", b"first_name, last_name, birthts\nIvan, Ivanov, 946674000000\n")
    rowdrop.process_users("0001")
    assert (
        rowdrop.read_output()
        == b"user_id,first_name,last_name,birthts,img_path\n0001,Ivan,Ivanov,946674000000,\n"
    )


def test_publisher_writes_row_of_gzip_with_content_encoding(
    rowdrop: RowdropHarness, minio_client: Minio
) -> None:
    """Clients decompress such an object without being asked; the store's client must not."""
    body = gzip.compress(make_csv("Zoe"))
    minio_client.put_object(
        rowdrop.source.bucket,
        "0001.csv",
        io.BytesIO(body),
        len(body),
        metadata={"Content-Encoding": "gzip"},
    )
    rowdrop.process_users("0001")
    assert rowdrop.read_rows()["0001"].first_name == "Zoe"


def test_refresher_follows_added_and_removed_image(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", images=["jpg"])
    rowdrop.process_users("0001")
    assert rowdrop.read_rows()["0001"].img_path == img(rowdrop, "0001.jpg")
    rowdrop.source.delete("0001.jpg")
    rowdrop.process_users("0001")
    assert rowdrop.read_rows()["0001"].img_path == ""


def test_refresher_makes_no_row_of_image_alone(rowdrop: RowdropHarness) -> None:
    rowdrop.source.put("0001.png", b"image")
    rowdrop.process_users("0001")
    assert rowdrop.read_rows() == {}
    assert rowdrop.read_rejects() == {}


def test_refresher_selects_newest_image_then_extension_order(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u", images=["jpeg", "jpg"])
    second = rowdrop.source.get("u.jpg").last_modified
    while int(time.time()) <= second + 1:
        time.sleep(0.05)
    rowdrop.source.put("u.jpeg", b"newer")
    rowdrop.process_users("u")
    assert rowdrop.read_rows()["u"].img_path == img(rowdrop, "u.jpeg")
    while True:  # until both have the same LastModified in whole seconds
        rowdrop.source.put("u.jpeg", b"newest")
        rowdrop.source.put("u.png", b"newest")
        if rowdrop.source.get("u.jpeg").last_modified == rowdrop.source.get("u.png").last_modified:
            break
    rowdrop.process_users("u")
    assert rowdrop.read_rows()["u"].img_path == img(rowdrop, "u.png")
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0  # LIST has milliseconds, but must choose the same image


def test_refresher_removes_row_of_deleted_csv(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u", images=["png"])
    rowdrop.process_users("u")
    rowdrop.source.delete("u.csv")
    rowdrop.process_users("u")
    assert rowdrop.read_rows() == {}


def test_publisher_holds_row_of_invalid_csv_until_fixed(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u", make_csv("Ada"))
    rowdrop.process_users("u")
    rowdrop.put_files("u", b"first_name,last_name\nAda,Lovelace\n", images=["png"])
    rowdrop.process_users("u")
    assert rowdrop.read_rows()["u"] == Row(
        "u", "Ada", "Ivanov", 946_674_000_000, img(rowdrop, "u.png")
    )
    assert "birthts" in rowdrop.read_rejects()["u"].reason
    rowdrop.put_files("u", make_csv("Eve"))
    rowdrop.process_users("u")
    assert rowdrop.read_rows()["u"].first_name == "Eve"
    assert rowdrop.read_rejects() == {}


def test_publisher_removes_row_and_reject_of_deleted_csv(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    rowdrop.process_users("u")
    rowdrop.put_files("u", b"nothing")
    rowdrop.process_users("u")
    rowdrop.source.delete("u.csv")
    rowdrop.process_users("u")
    assert (rowdrop.read_rows(), rowdrop.read_rejects()) == ({}, {})


def test_publisher_rejects_never_valid_csv_without_row(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u", b"")
    rowdrop.process_users("u")
    assert rowdrop.read_rows() == {}
    assert rowdrop.read_rejects()["u"].key == "u.csv"


def test_publisher_keeps_time_of_unchanged_reject(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u", b"bad")
    rowdrop.process_users("u")
    since = rowdrop.read_rejects()["u"].since
    while int(time.time()) <= since + 1:
        time.sleep(0.05)
    rowdrop.put_files("u", b"bad")
    rowdrop.process_users("u")
    assert rowdrop.read_rejects()["u"].since == since


def test_publisher_rejects_one_of_many_files(rowdrop: RowdropHarness) -> None:
    users = [f"u{number:03d}" for number in range(200)]
    for user in users:
        rowdrop.put_files(user, b"bad" if user == "u100" else None)
    rowdrop.process_users(*users)
    assert len(rowdrop.read_rows()) == 199
    assert list(rowdrop.read_rejects()) == ["u100"]
    assert rowdrop.find_differences() == []


def test_refresher_repeated_reads_change_no_byte(rowdrop: RowdropHarness) -> None:
    for user in ("b", "a", "a b", "é", "😀", '"q"', "a.b"):
        rowdrop.put_files(user, images=["png"])
    users = ["b", "a", "a b", "é", "😀", '"q"', "a.b"]
    rowdrop.process_users(*users)
    body = rowdrop.read_output()
    for _ in range(3):
        rowdrop.process_users(*reversed(users))
    assert rowdrop.read_output() == body
    assert list(rowdrop.read_rows()) == sorted(users)


def test_refresher_gives_same_rows_by_list_and_requests(rowdrop: RowdropHarness) -> None:
    users = [f"u{number:03d}" for number in range(100)]
    for number, user in enumerate(users):
        rowdrop.put_files(user, make_csv(f"N{number}"), images=["png", "jpg", "jpeg"][: number % 4])
    rowdrop.process_users(*users)
    by_list = rowdrop.read_output()
    rowdrop.process_users(*users[:3])
    for user in users[3:20]:
        rowdrop.process_users(user)
    assert rowdrop.read_output() == by_list
    assert rowdrop.find_differences() == []


def test_refresher_reads_distant_keys_in_large_bucket(rowdrop: RowdropHarness) -> None:
    others = [f"m{number:05d}" for number in range(3000)]
    list(
        rowdrop.services.clients.read_pool.map(
            lambda user: rowdrop.source.put(f"{user}.csv", make_csv()), others
        )
    )
    users = [f"{letter}{number}" for letter in "az" for number in range(40)]
    for user in users:
        rowdrop.put_files(user, images=["jpg"])
    rowdrop.process_users(*users)
    assert set(rowdrop.read_rows()) == set(users)
    assert all(row.img_path for row in rowdrop.read_rows().values())


@pytest.mark.parametrize("letters", [250, 251])  # 251 and ".jpeg" exceed 255 bytes, the maximum
def test_refresher_supports_longest_file_name(rowdrop: RowdropHarness, letters: int) -> None:
    user = "x" * letters
    rowdrop.put_files(user, images=["png"])
    rowdrop.process_users(user)
    assert rowdrop.read_rows()[user].img_path == img(rowdrop, f"{user}.png")
    assert rowdrop.find_differences() == []


def test_refresher_treats_impossible_name_as_user_without_files(rowdrop: RowdropHarness) -> None:
    for user in ("x" * 300, "é" * 200, "x" * 1000):
        rowdrop.process_users(user)
    assert rowdrop.state.users.dirty_users() == set()


def test_refresher_accepts_csv_up_to_size_limit(rowdrop: RowdropHarness) -> None:
    for user, size in (("a", 1_000_000), ("b", 1_000_001), ("c", 3_000_000)):
        rowdrop.put_files(user, make_csv() + b"\n" * (size - len(make_csv())))
    rowdrop.process_users(*"abc")
    assert list(rowdrop.read_rows()) == ["a"]
    assert {reject.reason for reject in rowdrop.read_rejects().values()} == {
        "larger than 1,000,000 bytes"
    }


@pytest.mark.parametrize("first", "=+-@")
def test_publisher_writes_formula_like_names_unchanged(rowdrop: RowdropHarness, first: str) -> None:
    rowdrop.put_files("u", make_csv(f"{first}1+1"))
    rowdrop.process_users("u")
    assert rowdrop.read_rows()["u"].first_name == f"{first}1+1"


def test_refresher_skips_user_that_is_not_dirty(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    rowdrop.services.refresher.refresh(["u"])
    assert rowdrop.state.publish_queue.count_pending() == 0


def test_refresher_removes_no_row_when_bucket_is_missing(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u", images=["png"])
    rowdrop.process_users("u")
    body = rowdrop.read_output()
    for key in ("u.csv", "u.png"):
        rowdrop.source.delete(key)
    rowdrop.services.clients.create_minio_client().remove_bucket(rowdrop.source.bucket)
    rowdrop.mark_users("u")
    with pytest.raises(StoreUnavailable):
        rowdrop.services.refresher.refresh(["u"])
    with pytest.raises(StoreUnavailable):
        rowdrop.sweep.run("test")
    rowdrop.publish_pending()
    assert rowdrop.read_output() == body
    assert rowdrop.state.users.dirty_users() == {"u"}


# -- the publisher ---------------------------------------------------------------------------------
def test_publisher_writes_header_for_empty_bucket(rowdrop: RowdropHarness) -> None:
    assert rowdrop.run_sweep() == 0
    assert rowdrop.read_output() == b"user_id,first_name,last_name,birthts,img_path\n"


def test_publisher_does_not_rewrite_unchanged_output(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    rowdrop.process_users("u")
    written = rowdrop.output.get(OUTPUT_KEY).last_modified
    while int(time.time()) <= written + 1:
        time.sleep(0.05)
    rowdrop.process_users("u")
    assert rowdrop.output.get(OUTPUT_KEY).last_modified == written
    assert rowdrop.state.users.dirty_users() == set()


def test_publisher_rereads_pending_results_after_refused_write(rowdrop: RowdropHarness) -> None:
    # Another publisher has published a newer result: the stale batch must be dropped with the stale
    # table.
    rowdrop.put_files("u", make_csv("Old"))
    rowdrop.process_users("u")
    other = rowdrop.create_publisher()
    rowdrop.put_files("u", make_csv("New"))
    rowdrop.read_users("u")
    assert other.publish() == 0
    rowdrop.put_files("v")
    rowdrop.process_users("v")
    assert {user: row.first_name for user, row in rowdrop.read_rows().items()} == {
        "u": "New",
        "v": "Ivan",
    }


def test_publisher_restores_deleted_output_from_manifest(rowdrop: RowdropHarness) -> None:
    for user in ("a", "b", "held"):
        rowdrop.put_files(user)
    rowdrop.process_users("a", "b", "held")
    rowdrop.put_files("held", b"broken")
    rowdrop.process_users("held")
    rowdrop.publisher.write_manifest()
    body = rowdrop.read_output()
    rowdrop.output.delete(OUTPUT_KEY)
    rowdrop.publisher = rowdrop.create_publisher()
    rowdrop.process_users("a")
    assert rowdrop.read_output() == body
    assert rowdrop.state.loss_signals.trust_state() is None


def test_sweep_repairs_manually_edited_output(rowdrop: RowdropHarness) -> None:
    for user in ("a", "b", "c"):
        rowdrop.put_files(user)
    rowdrop.process_users("a", "b", "c")
    rowdrop.publisher.write_manifest()
    rowdrop.run_sweep()
    body = rowdrop.read_output()
    edited = b"\n".join(reversed(body.replace(b"b,Ivan", b"b,Evil").splitlines()[1:])) + b"\n"
    rowdrop.output.put(OUTPUT_KEY, body.splitlines(keepends=True)[0] + edited + b"garbage\n")
    rowdrop.publisher = rowdrop.create_publisher()
    rowdrop.process_users("a")
    assert rowdrop.state.loss_signals.trust_state() is None
    rowdrop.run_sweep()
    assert rowdrop.read_output() == body
    assert rowdrop.find_differences() == []


def test_publisher_repairs_unsorted_output(rowdrop: RowdropHarness) -> None:
    for user in ("a", "b"):
        rowdrop.put_files(user)
    rowdrop.process_users("a", "b")
    rowdrop.publisher.write_manifest()
    body = rowdrop.read_output()
    header, a, b = body.splitlines(keepends=True)
    for edited in (
        header + b + a,
        body + b"1,a,b\n",
        header.replace(b"\n", b"\r\n") + a + b,
        b"nonsense",
    ):
        rowdrop.output.put(OUTPUT_KEY, edited)
        rowdrop.run_sweep()
        assert rowdrop.read_output() == body


@pytest.mark.parametrize("key", [OUTPUT_KEY, REJECTS_KEY])
def test_sweep_restores_deleted_file_without_rows(rowdrop: RowdropHarness, key: str) -> None:
    # The publisher runs and has nothing to publish; its cached table is stale.
    rowdrop.run_sweep()
    written = rowdrop.output.get_etag(key)
    rowdrop.output.delete(key)
    rowdrop.run_sweep()
    assert rowdrop.output.get_etag(key) == written
    rowdrop.run_sweep()
    assert rowdrop.state.loss_signals.trust_state() == TrustState(
        "verified", rowdrop.state.loss_signals.run_id()
    )


def test_publisher_writes_rejects_before_cleaning_users(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    rowdrop.process_users("u")
    rowdrop.output.delete(REJECTS_KEY)
    rowdrop.put_files("u", b"bad")
    rowdrop.read_users("u")
    rowdrop.publish_pending()
    assert list(rowdrop.read_rejects()) == ["u"]
    assert rowdrop.state.users.dirty_users() == set()


def test_publisher_retries_after_failed_write(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    rowdrop.read_users("u")
    client = rowdrop.services.clients.create_minio_client()
    bucket = rowdrop.output.bucket
    client.remove_bucket(bucket)
    with pytest.raises(StoreUnavailable):
        rowdrop.publisher.publish()
    assert rowdrop.state.users.dirty_users() == {"u"}
    client.make_bucket(bucket)
    rowdrop.publish_pending()
    assert list(rowdrop.read_rows()) == ["u"]


def test_publisher_manifest_records_source_of_each_row(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u", make_csv("Ada"), images=["png"])
    rowdrop.process_users("u")
    assert rowdrop.publisher.is_manifest_due(idle=True)
    rowdrop.publisher.write_manifest()
    assert not rowdrop.publisher.is_manifest_due(idle=True)
    from shared.formats.manifest import Manifest

    fact = Manifest.decode(rowdrop.output.get(MANIFEST_KEY).body).get("u")
    assert fact is not None
    assert (fact.csv_version.source, fact.csv_version.etag) == (
        "u.csv",
        rowdrop.source.get_etag("u.csv"),
    )
    assert (fact.person.first_name, fact.image, fact.is_held) == ("Ada", "u.png", False)


def test_publisher_replaced_before_reading_files_writes_nothing(rowdrop: RowdropHarness) -> None:
    # Publisher P1 begins and reads the batch. It is suspended and replaced, and the other publisher
    # publishes newer rows. Then P1 reads the files. Its batch is older than their ETags, so
    # If-Match would accept its write.
    rowdrop.put_files("u", make_csv("Old"))
    rowdrop.read_users("u")
    publish_input = rowdrop.state.publish_queue.acquire_writer("one")
    assert publish_input is not None
    rowdrop.state.publish_queue.release_writer("one", signal_loss=False)
    rowdrop.put_files("u", make_csv("New"))
    rowdrop.process_users("u")
    body = rowdrop.read_output()
    with pytest.raises(LeaseLost):
        rowdrop.create_publisher()._publish_as_writer("one", publish_input)
    assert rowdrop.read_output() == body


def test_publisher_loop_respects_minimum_interval(rowdrop: RowdropHarness) -> None:
    loop = PublisherLoop(
        rowdrop.publisher,
        rowdrop.recovery,
        rowdrop.state.publish_queue,
        lambda: None,
        min_interval_s=2.5,
    )
    times = []
    for user_id in ("a", "b"):
        rowdrop.put_files(user_id)
        rowdrop.read_users(user_id)
        loop.run_once(1)
        times.append(rowdrop.output.get(OUTPUT_KEY).last_modified)
    assert times[1] - times[0] >= 2  # whole seconds
    assert rowdrop.read_rows().keys() == {"a", "b"}


def test_publisher_loop_throttles_the_rest_of_a_batch(
    rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    """Results that one publish leaves are bulk work; a result of an event ends the pause."""
    waits: list[tuple[list[str], float]] = []

    class Recording(PublishQueue):
        def wait_for_wakeup(self, keys: Sequence[str], timeout_s: float) -> bool:
            waits.append((list(keys), timeout_s))
            return True

    class Slow(Publisher):
        def __init__(self) -> None:
            """Publish nothing."""

        def publish(self) -> int:
            time.sleep(0.3)
            return 1

        def is_manifest_due(self, *, idle: bool) -> bool:
            return False

    queue = Recording(redis, Scripts(redis), rowdrop.state.loss_signals)
    loop = PublisherLoop(Slow(), rowdrop.recovery, queue, lambda: None)
    for _ in range(2):
        loop.run_once(1)
    assert [keys for keys, _ in waits] == [[WAKE_LIVE]]
    assert waits[0][1] > 0


def test_run_in_order_skips_calls_after_deadline() -> None:
    # Without a deadline, a message of 500 users would take a quarter of an hour while MinIO does
    # not answer.
    calls: list[int] = []
    answers = run_in_order([lambda: calls.append(1)], time.monotonic() - 1)
    assert isinstance(answers[0], StoreUnavailable)
    assert calls == []
