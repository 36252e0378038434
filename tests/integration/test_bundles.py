"""Bundles, on a real MinIO and Redis: visibility, precedence, rejects, retries and loss."""

import gzip
import logging
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from shared.formats.bundle_catalog import (
    ATTEMPTS_EXHAUSTED_REASON,
    MAX_RETRIES_PER_SWEEP,
    BundleCatalog,
    CatalogEntry,
)
from shared.formats.object_names import CATALOG_KEY, IMAGES_FOLDER, REJECTS_KEY, UNPACKED_FOLDER
from shared.formats.records import PREVIOUS_VERSION_KEPT, InvalidCsv, ValidCsv
from shared.formats.rejects_csv import encode_rejects
from shared.formats.source_keys import make_bundle_id
from shared.object_store import ObjectStore, StoredObject, StoreUnavailable
from shared.progress.leases import Lease
from shared.progress.unpacks import UnpackStatus
from shared.redis_keys import CATALOG_VERSION, UNPACK_ATTEMPTS, UNPACK_LEASE
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE
from tests.archives import (
    RawZipMember,
    make_link,
    make_raw_zip,
    make_tar,
    make_tar_gz,
    make_tar_of,
    make_zip,
    mark_zip_encrypted,
)
from tests.fakes import DelegatingStore
from tests.integration.stepping import RowdropHarness, make_csv
from worker.bundles.catalog import DEFAULT_RULES, read_catalog
from worker.bundles.index import make_index_key
from worker.bundles.lookup import BundleLookup
from worker.bundles.unpacked_folders import COUNTED_INDEX_COPIES
from worker.jobs.entry_builder import INTERRUPTED, MAX_UNPACK_ATTEMPTS
from worker.reading.csv_parsing import parse_csv
from worker.watchdog.checks import WatchdogChecks
from worker.watchdog.overdue import OVERDUE_S


def names(rowdrop: RowdropHarness) -> dict[str, str]:
    return {user_id: row.first_name for user_id, row in rowdrop.read_rows().items()}


def drop(rowdrop: RowdropHarness, key: str, files: Mapping[str, bytes]) -> None:
    """Put a bundle without an event; the extension of the key selects the format."""
    writers = {"zip": make_zip, "tar": make_tar, "gz": make_tar_gz, "tgz": make_tar_gz}
    rowdrop.source.put(key, writers[key.rpartition(".")[2]](files))


def put_and_process(rowdrop: RowdropHarness, key: str, files: Mapping[str, bytes]) -> None:
    """Put a bundle, mark it, and process it up to the published files."""
    drop(rowdrop, key, files)
    rowdrop.process_bundles(key)


def wait_for_next_second(rowdrop: RowdropHarness, key: str) -> None:
    """Wait until the next object gets a later LastModified, in whole seconds, than this one."""
    put = rowdrop.source.get(key).last_modified
    while int(time.time()) <= put + 1:
        time.sleep(0.05)


def list_states(rowdrop: RowdropHarness) -> Counter[str]:
    unpacks = rowdrop.services.records.unpacks
    unpacks.finish_published(time.time())
    return Counter(status.state for status in unpacks.list_newest(100))


def list_copies(rowdrop: RowdropHarness) -> set[str]:
    return {info.key for page in rowdrop.output.list_objects(folder=IMAGES_FOLDER) for info in page}


class ProcessKilled(BaseException):
    """Stands for a kill of the process."""


class KilledAtIndexWrite(DelegatingStore):
    """An output bucket that raises `ProcessKilled` at an index write, the last one of an unpack."""

    def put(self, key: str, body: bytes) -> str:
        if key.endswith("/index"):
            raise ProcessKilled
        return self.inner.put(key, body)


# -- content ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["users.zip", "users.tar", "users.tar.gz", "users.tgz"])
def test_unpacker_publishes_members_as_rows(rowdrop: RowdropHarness, key: str) -> None:
    files = {
        "a/0001.csv": make_csv("Ada"),
        "b/0001.png": b"image",
        "2.csv": make_csv("Bo"),
        "3.jpg": b"alone",
    }
    put_and_process(rowdrop, key, files)
    assert names(rowdrop) == {"0001": "Ada", "2": "Bo"}
    path = f"{rowdrop.output.bucket}/images/0001.png"
    assert (rowdrop.read_rows()["0001"].img_path, rowdrop.read_rows()["2"].img_path) == (path, "")
    assert rowdrop.output.get("images/0001.png").body == b"image"
    assert list_copies(rowdrop) == {"images/0001.png"}
    assert rowdrop.find_differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0


def find_task(rowdrop: RowdropHarness, key: str) -> UnpackStatus:
    """Return the record of the last unpack of this bundle."""
    records = rowdrop.services.records.unpacks.list_newest(100)
    return next(record for record in records if record.bundle == key)


def test_unpacker_names_ignored_members(
    rowdrop: RowdropHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = {
        "u/1.csv": make_csv(),
        "__MACOSX/u/._1.csv": b"x",
        "u/.DS_Store": b"x",
        "#recycle/2.csv": make_csv("Deleted"),
        "u/old/1.csv": make_csv("Old"),
        "notes.txt": b"x",
    }
    put_and_process(rowdrop, "u.zip", files)
    assert names(rowdrop) == {"1": "Ivan"}
    assert rowdrop.read_rejects() == {}
    assert read_catalog(rowdrop.output)[0].entries["u.zip"].ignored == 5
    task = find_task(rowdrop, "u.zip")
    assert (task.users, task.ignored, task.has_no_users) == (1, 5, False)
    assert [member[:2] for member in task.ignored_members] == [
        (5, "u/old/1.csv"),
        (6, "notes.txt"),
        (2, "__MACOSX/u/._1.csv"),
        (3, "u/.DS_Store"),
        (4, "#recycle/2.csv"),
    ]
    assert task.ignored_members[0][2] == (
        "it is a duplicate of u/1.csv, which is nearer to the top or the first by path"
    )
    message = "bundle u.zip unpacked: users=1, 5 members ignored; member 5 (u/old/1.csv): it is a"
    assert message in caplog.text
    assert rowdrop.find_differences() == []


def test_unpacker_reports_bundle_without_users(
    rowdrop: RowdropHarness, caplog: pytest.LogCaptureFixture
) -> None:
    put_and_process(rowdrop, "empty.zip", {})
    put_and_process(rowdrop, "other.tar", {"1.CSV": make_csv()})
    assert find_task(rowdrop, "empty.zip").has_no_users
    assert find_task(rowdrop, "other.tar").ignored_members == (
        (1, "1.CSV", "extensions are written in lower case; rename it to 1.csv"),
    )
    assert find_task(rowdrop, "other.tar").has_no_users
    assert "bundle empty.zip unpacked: it has no users, 0 members ignored" in caplog.text
    rowdrop.source.put("zero.zip", b"")
    rowdrop.process_bundles("zero.zip")
    assert "0 bytes and no users" in rowdrop.read_rejects()["/zero.zip"].reason


@pytest.mark.parametrize("zip_names", ["cp866", "cp1251"])
def test_change_of_zip_names_reads_bundles_again(
    rowdrop: RowdropHarness, settings: Settings, zip_names: str
) -> None:
    """Rejects and unpacked versions are read again, and no other user is left."""
    raw = "Юлия.csv".encode("cp866")
    rowdrop.source.put("u.zip", make_raw_zip([RawZipMember(raw, make_csv("Yulia"))]))
    put_and_process(rowdrop, "ok.zip", {"1.csv": make_csv("One")})
    rowdrop.process_bundles("u.zip")
    reason = rowdrop.read_rejects()["/u.zip"].reason
    assert "zip it with UTF-8 names, or set ZIP_NAMES" in reason
    assert names(rowdrop) == {"1": "One"}

    with_codec = RowdropHarness(replace(settings, zip_names=zip_names))
    with_codec.run_sweep()
    assert names(with_codec) == {"1": "One", raw.decode(zip_names)[:-4]: "Yulia"}
    assert with_codec.read_rejects() == {}
    assert with_codec.find_differences() == []
    with_codec.publisher.write_manifest()
    assert with_codec.run_sweep() == 0
    with_codec.close()

    other = RowdropHarness(replace(settings, zip_names="cp866"))
    other.run_sweep()
    assert names(other) == {"1": "One", "Юлия": "Yulia"}
    assert other.find_differences() == []
    other.close()


def test_unpacker_rejects_invalid_member_csv_alone(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "u.zip", {"in/1.csv": make_csv(), "in/2.csv": b"broken"})
    assert list(rowdrop.read_rows()) == ["1"]
    assert rowdrop.read_rejects()["2"].key == "u.zip#in/2.csv"
    assert rowdrop.find_differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0


@pytest.mark.parametrize("key", ["u.zip", "u.tgz"])
def test_unpacker_rejects_members_in_folders_with_any_name(
    rowdrop: RowdropHarness, key: str
) -> None:
    """A line break in a path hides no reject, and adds none of another user."""
    rowdrop.put_files("victim")
    rowdrop.process_users("victim")
    folder = "a\nvictim.csv,victim,the file is empty,1,2026-11-25T20:31:28Z,etag,3\n\x1b\r,b"
    files = {"2.csv": b"broken", "3.csv": make_csv(), "3.png": b"png", "old/3.csv": b"old"}
    put_and_process(rowdrop, key, {f"{folder}/{name}": body for name, body in files.items()})
    assert list(rowdrop.read_rows()) == ["3", "victim"]
    assert list(rowdrop.read_rejects()) == ["2"]
    assert len(rowdrop.output.get(REJECTS_KEY).body.splitlines()) == 2
    assert rowdrop.find_differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0


@pytest.mark.parametrize("is_reversed", [False, True])
def test_unpacker_uses_duplicate_nearest_to_top(rowdrop: RowdropHarness, is_reversed: bool) -> None:
    files = [
        ("b/1.csv", make_csv("Second")),
        ("a/1.csv", make_csv("First")),
        ("z/2.csv", make_csv("Near")),
        ("a/b/2.csv", b"broken"),
        ("a/1.jpg", b"jpg"),
        ("a/old/1.png", b"old"),
        ("z/1.png", b"near"),
    ]
    put_and_process(rowdrop, "u.tar", dict(reversed(files) if is_reversed else files))
    assert names(rowdrop) == {"1": "First", "2": "Near"}
    assert rowdrop.read_rejects() == {}
    assert rowdrop.output.get("images/1.png").body == b"near"
    assert find_task(rowdrop, "u.tar").ignored == 3
    assert rowdrop.find_differences() == []


def test_unpacker_uses_newer_version_of_path_and_links(rowdrop: RowdropHarness) -> None:
    """`tar -r` appends newer versions; a hard link has the content of its target."""
    infos = [
        (tarfile.TarInfo("1.csv"), make_csv("Old")),
        (make_link("2.csv", "1.csv"), b""),
        (tarfile.TarInfo("1.csv"), make_csv("New")),
        (tarfile.TarInfo("1.png"), b"image"),
        (make_link("2.png", "1.png"), b""),
    ]
    for key, packed in (("u.tar", False), ("u.tgz", True)):
        body = make_tar_of(infos, tarfile.GNU_FORMAT)
        rowdrop.source.put(key, gzip.compress(body) if packed else body)
        rowdrop.process_bundles(key)
        assert names(rowdrop) == {"1": "New", "2": "Old"}
        assert rowdrop.output.get("images/2.png").body == b"image"
        assert rowdrop.find_differences() == []
        rowdrop.source.delete(key)
        rowdrop.process_bundles(key)
        assert rowdrop.read_rows() == {}


def test_sweep_continues_after_member_that_xml_cannot_name(rowdrop: RowdropHarness) -> None:
    """S3 refuses a list of keys to delete with such a name, so nothing may be stored under it."""
    files = {"1.csv": make_csv(), "\ufffe.csv": make_csv(), "\uffff.png": b"png"}
    put_and_process(rowdrop, "u.zip", {**files, "\ufffe.png": b"png"})
    assert list(rowdrop.read_rows()) == ["1"]
    rowdrop.source.delete("u.zip")
    rowdrop.process_bundles("u.zip")
    assert rowdrop.run_sweep() == 0
    assert list_copies(rowdrop) == set()
    for key in ("\ufffe.csv", "\uffff.csv"):
        rowdrop.source.put(key, make_csv())
    assert rowdrop.run_sweep() == 0
    assert rowdrop.find_differences() == []


# -- precedence ------------------------------------------------------------------------------------
def test_refresher_prefers_own_files_over_bundle_members(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv("Bundle"), "1.png": b"bundle"})
    rowdrop.put_files("1", make_csv("Own"))
    rowdrop.process_users("1")
    assert names(rowdrop) == {"1": "Own"}
    assert rowdrop.read_rows()["1"].img_path.endswith("/images/1.png")
    rowdrop.source.put("1.jpg", b"own")
    rowdrop.process_users("1")
    assert rowdrop.read_rows()["1"].img_path == f"{rowdrop.source.bucket}/1.jpg"
    assert list_copies(rowdrop) == set()
    assert rowdrop.find_differences() == []
    rowdrop.source.delete("1.csv")
    rowdrop.source.delete("1.jpg")
    rowdrop.process_users("1")
    assert names(rowdrop) == {"1": "Bundle"}
    assert list_copies(rowdrop) == {"images/1.png"}
    assert rowdrop.find_differences() == []


def test_refresher_prefers_own_invalid_csv_over_bundle(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv("Bundle")})
    rowdrop.put_files("1", b"broken")
    rowdrop.process_users("1")
    assert rowdrop.read_rejects()["1"].key == "1.csv"
    assert names(rowdrop) == {"1": "Bundle"}  # the held row
    assert rowdrop.find_differences() == []


def test_refresher_prefers_latest_bundle_then_name(rowdrop: RowdropHarness) -> None:
    put_and_process(
        rowdrop, "old.zip", {"1.csv": make_csv("Old"), "1.png": b"old", "2.csv": make_csv("Old")}
    )
    wait_for_next_second(rowdrop, "old.zip")
    put_and_process(rowdrop, "new.tar", {"1.csv": make_csv("New")})
    assert names(rowdrop) == {"1": "New", "2": "Old"}
    assert rowdrop.read_rows()["1"].img_path.endswith("/images/1.png")
    assert rowdrop.find_differences() == []
    while True:
        drop(rowdrop, "a.zip", {"1.csv": make_csv("A")})
        drop(rowdrop, "b.zip", {"1.csv": make_csv("B")})
        if rowdrop.source.get("a.zip").last_modified == rowdrop.source.get("b.zip").last_modified:
            break
    rowdrop.process_bundles("b.zip", "a.zip")
    assert names(rowdrop)["1"] == "A"
    rowdrop.source.delete("a.zip")
    rowdrop.process_bundles("a.zip")
    assert names(rowdrop)["1"] == "B"
    assert rowdrop.find_differences() == []


# -- replacing and deleting a bundle ---------------------------------------------------------------
def test_unpacker_removes_rows_missing_in_newer_version(rowdrop: RowdropHarness) -> None:
    put_and_process(
        rowdrop,
        "u.zip",
        {
            "1.csv": make_csv("One"),
            "1.png": b"x",
            "2.csv": make_csv("Two"),
            "3.csv": make_csv("Three"),
        },
    )
    rowdrop.put_files("2", make_csv("Own"))
    rowdrop.process_users("2")
    wait_for_next_second(rowdrop, "u.zip")
    put_and_process(rowdrop, "u.zip", {"3.csv": make_csv("Thrice"), "4.csv": make_csv("Four")})
    assert names(rowdrop) == {"2": "Own", "3": "Thrice", "4": "Four"}
    assert list_copies(rowdrop) == set()
    assert len(rowdrop.output.list_folders(UNPACKED_FOLDER)) == 1
    assert rowdrop.find_differences() == []


def test_unpacker_removes_rows_of_deleted_bundle(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": b"x"})
    rowdrop.source.delete("u.zip")
    rowdrop.process_bundles("u.zip")
    assert rowdrop.read_rows() == {}
    assert (list_copies(rowdrop), rowdrop.output.list_folders(UNPACKED_FOLDER)) == (set(), [])
    assert rowdrop.find_differences() == []


def test_unpacker_same_bundle_again_changes_nothing(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": b"x"})
    body = rowdrop.read_output()
    wait_for_next_second(rowdrop, "u.zip")
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": b"x"})
    rowdrop.process_bundles("u.zip")
    assert rowdrop.read_output() == body
    assert rowdrop.find_differences() == []


def test_unpacker_resumes_interrupted_bundle_without_partial_rows(rowdrop: RowdropHarness) -> None:
    """A partial unpack is not visible, and the next attempt resumes it."""
    files = {
        f"{number}.{kind}": make_csv(f"N{number}")
        for number in range(50)
        for kind in ("csv", "png")
    }
    drop(rowdrop, "u.zip", files)
    rowdrop.mark_users("/u.zip")
    failing_output = KilledAtIndexWrite(rowdrop.output)
    with pytest.raises(ProcessKilled):
        rowdrop.create_unpacker(output=failing_output).run("u.zip")
    assert rowdrop.output.list_folders(UNPACKED_FOLDER) != []
    assert read_catalog(rowdrop.output)[0].entries == {}
    rowdrop.redis.delete(UNPACK_LEASE)
    rowdrop.run_sweep()
    assert len(rowdrop.read_rows()) == 50
    assert rowdrop.find_differences() == []


# -- rejects ---------------------------------------------------------------------------------------
def test_unpacker_rejects_invalid_bundle_as_one_reject(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "ok.zip", {"1.csv": make_csv()})
    rowdrop.source.put("a.zip", mark_zip_encrypted(make_zip({"2.csv": make_csv(), "2.png": b"x"})))
    rowdrop.source.put("b.tar.gz", make_tar_gz({"3.csv": make_csv()})[:-20])
    rowdrop.process_bundles("a.zip", "b.tar.gz")
    rejects = rowdrop.read_rejects()
    assert {user_id: reject.key for user_id, reject in rejects.items()} == {
        "/a.zip": "a.zip",
        "/b.tar.gz": "b.tar.gz",
    }
    assert "encrypted" in rejects["/a.zip"].reason
    assert "cut off" in rejects["/b.tar.gz"].reason
    assert b"\na.zip,,member 1 is encrypted" in rowdrop.output.get(REJECTS_KEY).body
    assert list(rowdrop.read_rows()) == ["1"]
    assert len(rowdrop.output.list_folders(UNPACKED_FOLDER)) == 1
    assert rowdrop.find_differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0
    rowdrop.source.delete("a.zip")
    put_and_process(rowdrop, "b.tar.gz", {"3.csv": make_csv()})
    rowdrop.process_bundles("a.zip")
    assert rowdrop.read_rejects() == {}
    assert list(rowdrop.read_rows()) == ["1", "3"]


def test_sweep_rewrites_reasons_of_other_rules_version(
    rowdrop: RowdropHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Reasons of an earlier release quoted the file; they are replaced without a manual step."""
    put_and_process(rowdrop, "ok.zip", {"1.csv": make_csv(), "2.csv": b"broken"})
    drop(rowdrop, "a.zip", {"../secret-project.csv": b"x"})
    rowdrop.process_bundles("a.zip")
    assert "secret-project" in caplog.text
    expected = rowdrop.read_rejects()
    assert "secret" not in expected["/a.zip"].reason
    old_rejects = [
        replace(reject, reason=f"{reject.reason}: 'DE89'", rules="1")
        for reject in expected.values()
    ]
    rowdrop.output.put(REJECTS_KEY, encode_rejects(old_rejects))
    catalog, _ = read_catalog(rowdrop.output)
    entry = replace(catalog.entries["a.zip"], reason="leads out: '../secret'", rules="1")
    rowdrop.output.put(CATALOG_KEY, catalog.with_entry("a.zip", entry).encode("nonce"))
    rowdrop.run_sweep()
    rowdrop.run_bulk_work()
    assert rowdrop.read_rejects() == expected
    assert rowdrop.find_differences() == []


def test_unpacker_keeps_previous_version_of_broken_bundle(
    rowdrop: RowdropHarness,
) -> None:
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv("Kept"), "1.png": b"x"})
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv("Lost")})[:-30])
    rowdrop.process_bundles("u.zip")
    assert names(rowdrop) == {"1": "Kept"}
    assert "stays in use" in rowdrop.read_rejects()["/u.zip"].reason
    assert rowdrop.find_differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0
    rowdrop.source.delete("u.zip")
    rowdrop.process_bundles("u.zip")
    assert (rowdrop.read_rows(), rowdrop.read_rejects()) == ({}, {})


def test_unpacker_quarantines_bundle_until_sweep_grants_attempt(
    rowdrop: RowdropHarness,
) -> None:
    """A poison bundle is given up after its last attempt; each sweep grants one more attempt."""
    drop(rowdrop, "u.zip", {"1.csv": make_csv()})
    digest = DEFAULT_RULES.make_digest("u.zip", rowdrop.source.get_etag("u.zip") or "")
    for _ in range(MAX_UNPACK_ATTEMPTS):  # attempts that are killed before they end
        rowdrop.services.records.unpacks.begin_attempt(digest, "u.zip", time.time())
    rowdrop.process_bundles("u.zip")
    assert rowdrop.read_rejects()["/u.zip"].reason == ATTEMPTS_EXHAUSTED_REASON
    rowdrop.process_bundles("u.zip")
    assert rowdrop.read_rejects()["/u.zip"].reason == ATTEMPTS_EXHAUSTED_REASON
    assert rowdrop.find_differences() == []
    rowdrop.run_sweep()
    assert (list(rowdrop.read_rows()), rowdrop.read_rejects()) == (["1"], {})


class SourceWithPoison(DelegatingStore):
    """A source bucket in which reading an archive that begins with "poison" kills the process.

    `attempts` lists the archives that were read, in order.
    """

    def __init__(self, rowdrop: RowdropHarness) -> None:
        super().__init__(rowdrop.source)
        self._redis = rowdrop.redis
        self.attempts: list[str] = []
        self._counted: dict[Any, Any] = {}

    def check_readable(self, key: str) -> None:
        self.attempts.append(key)
        if key.startswith("poison"):
            self._counted = self._redis.hgetall(UNPACK_ATTEMPTS)
            raise ProcessKilled
        self.inner.check_readable(key)

    def undo_refund(self) -> None:
        """Count the last attempt again: a killed process does not refund it."""
        self._redis.hset(UNPACK_ATTEMPTS, mapping=self._counted)


def run_overdue_bundles(rowdrop: RowdropHarness, source: SourceWithPoison, count: int) -> None:
    """Unpack as often as the watchdog would, by the oldest bundle that waits, and publish."""
    unpacker = rowdrop.create_unpacker(source=cast("ObjectStore", source))
    for _ in range(count):
        waiting = rowdrop.state.users.begin_read(
            [make_bundle_id(key) for key in rowdrop.services.records.unpacks.list_waiting_bundles()]
        )
        if not waiting:
            break
        rowdrop.redis.delete(UNPACK_LEASE)  # of a worker that was killed
        try:
            unpacker.run(next(iter(waiting))[1:])
        except ProcessKilled:
            source.undo_refund()
    while rowdrop.services.bulk_reads.read_next_page():
        pass
    rowdrop.publish_pending()


def drop_poisoned_bundles(rowdrop: RowdropHarness) -> list[str]:
    keys = [f"poison{number:02}.zip" for number in range(50)]
    for key in keys:
        drop(rowdrop, key, {f"{key}.csv": make_csv()})
    rowdrop.mark_users(*map(make_bundle_id, keys))
    return keys


def test_unpacker_tries_good_bundle_before_poisoned_ones(rowdrop: RowdropHarness) -> None:
    """50 bundles kill their worker: a good one that is dropped later waits for one of them."""
    poisoned = drop_poisoned_bundles(rowdrop)
    drop(rowdrop, "a-good.zip", {"1.csv": make_csv()})
    rowdrop.mark_users("/a-good.zip")
    source = SourceWithPoison(rowdrop)
    run_overdue_bundles(rowdrop, source, 1)
    # A message that names another poisoned bundle changes nothing.
    rowdrop.redis.delete(UNPACK_LEASE)
    rowdrop.create_unpacker(source=cast("ObjectStore", source)).run(poisoned[1])
    run_overdue_bundles(rowdrop, source, 0)
    assert source.attempts == [poisoned[0], "a-good.zip"]
    assert list(rowdrop.read_rows()) == ["1"]


def test_sweep_rations_retries_of_poisoned_bundles(rowdrop: RowdropHarness) -> None:
    """Given-up bundles take a bounded share of the unpack lane, and new ones go first."""
    poisoned = drop_poisoned_bundles(rowdrop)
    source = SourceWithPoison(rowdrop)
    run_overdue_bundles(rowdrop, source, 1000)
    assert Counter(source.attempts) == dict.fromkeys(poisoned, MAX_UNPACK_ATTEMPTS)
    assert len(rowdrop.read_rejects()) == len(poisoned)

    tried: list[str] = []
    for _ in range(2):
        source.attempts.clear()
        rowdrop.publisher.write_manifest()
        assert rowdrop.sweep.run("test") == MAX_RETRIES_PER_SWEEP
        drop(rowdrop, "a-good.zip", {"1.csv": make_csv(str(len(tried)))})
        rowdrop.mark_users("/a-good.zip")
        run_overdue_bundles(rowdrop, source, 1000)
        first, *retried = source.attempts
        assert first == "a-good.zip"
        assert len(retried) == MAX_RETRIES_PER_SWEEP
        tried += retried
    # A bundle that has just failed again is not tried by the next sweep.
    assert len(set(tried)) == 2 * MAX_RETRIES_PER_SWEEP
    assert rowdrop.find_differences() == []


def run_unpacks(rowdrop: RowdropHarness, keys: Sequence[str], max_unpacked_bytes: int) -> None:
    """Mark and unpack these bundles in this order, within a disk budget, and publish."""
    unpacker = rowdrop.create_unpacker(max_unpacked_bytes=max_unpacked_bytes)
    rowdrop.mark_users(*map(make_bundle_id, keys))
    for key in keys:
        unpacker.run(key)
    while rowdrop.services.bulk_reads.read_next_page():
        pass
    rowdrop.publish_pending()


def measure_output_bytes(rowdrop: RowdropHarness) -> int:
    return sum(info.size for page in rowdrop.output.list_objects() for info in page)


def test_unpacker_rejects_bundles_above_disk_budget(rowdrop: RowdropHarness) -> None:
    """A tenth of the real sizes: each bundle of 10 kB becomes 10 MB, and as much for the copy."""
    image = b"\x89PNG\r\n\x1a\n" + bytes(10_000_000)
    keys = [f"{number:02}.zip" for number in range(20)]
    budget = 50_000_000
    for key in keys:
        user_id = key.removesuffix(".zip")
        drop(rowdrop, key, {f"{user_id}.csv": make_csv(), f"{user_id}.png": image})
    run_unpacks(rowdrop, keys, budget)
    assert list(rowdrop.read_rows()) == ["00", "01"]
    rejects = rowdrop.read_rejects()
    assert set(rejects) == {make_bundle_id(key) for key in keys[2:]}
    assert rejects["/19.zip"].reason == (
        "it unpacks to more than there is space for: it needs at least 20 MB, and 10 of the 50 MB "
        "of MAX_UNPACKED_MB are free; delete other bundles or raise the setting, and the next "
        "sweep tries again"
    )
    assert measure_output_bytes(rowdrop) < budget
    assert len(rowdrop.output.list_folders(UNPACKED_FOLDER)) == 2
    assert rowdrop.find_differences() == []

    # Without space a sweep leads to no attempt.
    records = rowdrop.services.records.unpacks.list_newest(100)
    rowdrop.sweep.run("test")
    run_unpacks(rowdrop, keys, budget)
    assert rowdrop.read_rejects() == rejects
    assert rowdrop.services.records.unpacks.list_newest(100) == records

    # A deleted bundle makes space for one.
    rowdrop.source.delete("00.zip")
    run_unpacks(rowdrop, ["00.zip"], budget)
    rowdrop.sweep.run("test")
    run_unpacks(rowdrop, keys[1:], budget)
    assert list(rowdrop.read_rows()) == ["01", "02"]
    assert measure_output_bytes(rowdrop) < budget

    # A larger setting makes space for the rest.
    rowdrop.sweep.run("test")
    run_unpacks(rowdrop, keys[1:], 10 * budget)
    assert (len(rowdrop.read_rows()), rowdrop.read_rejects()) == (19, {})


def test_unpacker_counts_index_in_disk_budget(rowdrop: RowdropHarness) -> None:
    """A few kB have long names: a process holds them in memory, and each sweep reads them."""
    names_of_100_kb = make_csv("x" * 100_000)
    for key, size in (("a.tgz", 3), ("b.tgz", 4)):
        drop(rowdrop, key, {f"{key}-{n}.csv": names_of_100_kb for n in range(size)})
        run_unpacks(rowdrop, [key], COUNTED_INDEX_COPIES * 650_000)
    assert len(rowdrop.read_rows()) == 3
    assert "space for: it needs at least 8 MB, and 7 of the 13" in (
        rowdrop.read_rejects()["/b.tgz"].reason
    )


def test_unpacker_counts_invisible_folders_in_disk_budget(rowdrop: RowdropHarness) -> None:
    """An attempt that killed its worker leaves one behind, until a sweep deletes it."""
    image = b"\x89PNG\r\n\x1a\n" + bytes(1_000_000)
    drop(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": image})
    rowdrop.output.put(f"{UNPACKED_FOLDER}/{'0' * 32}/9.png", image)
    run_unpacks(rowdrop, ["u.zip"], 3_000_000)
    reason = rowdrop.read_rejects()["/u.zip"].reason
    assert "of the 3 MB of MAX_UNPACKED_MB are free" in reason
    rowdrop.sweep.run("test")
    assert rowdrop.output.list_folders(UNPACKED_FOLDER) == []
    rowdrop.sweep.run("test")
    run_unpacks(rowdrop, ["u.zip"], 3_000_000)
    assert (list(rowdrop.read_rows()), rowdrop.read_rejects()) == (["1"], {})


def test_unpacker_replaces_bundle_that_takes_most_of_disk_budget(rowdrop: RowdropHarness) -> None:
    """The previous version is not counted: it is deleted after the new one is visible."""
    image = b"\x89PNG\r\n\x1a\n" + bytes(1_000_000)
    budget = 3_000_000
    for name in ("Before", "After"):
        drop(rowdrop, "u.zip", {"1.csv": make_csv(name), "1.png": image + name.encode()})
        run_unpacks(rowdrop, ["u.zip"], budget)
        assert names(rowdrop) == {"1": name}
    drop(rowdrop, "u.zip", {"1.csv": make_csv("Large"), "1.png": image * 2})
    run_unpacks(rowdrop, ["u.zip"], budget)
    assert names(rowdrop) == {"1": "After"}
    assert rowdrop.read_rejects()["/u.zip"].reason.endswith(PREVIOUS_VERSION_KEPT)
    assert rowdrop.find_differences() == []


def test_unpacker_limits_internal_error_to_one_csv(rowdrop: RowdropHarness) -> None:
    def parse_or_raise(key: str, stored: StoredObject) -> ValidCsv | InvalidCsv:
        if b"Poison" in stored.body:
            raise RecursionError
        return parse_csv(key, stored)

    drop(rowdrop, "u.zip", {"1.csv": make_csv(), "2.csv": make_csv("Poison")})
    rowdrop.mark_users("/u.zip")
    rowdrop.create_unpacker(csv_parser=parse_or_raise).run("u.zip")
    rowdrop.run_bulk_work()
    assert list(rowdrop.read_rows()) == ["1"]
    assert "fault of its own (RecursionError)" in rowdrop.read_rejects()["2"].reason


def test_unpacker_restarts_when_bundle_is_replaced(rowdrop: RowdropHarness) -> None:
    drop(
        rowdrop,
        "u.zip",
        {f"{number}.png": bytes(1_000_000) for number in range(9)} | {"old.csv": make_csv("Old")},
    )
    rowdrop.source.put(
        "u.tar", make_tar({f"{number}.png": bytes(1_000_000) for number in range(9)})
    )

    class Replaced(DelegatingStore):
        """A source bucket in which the archive is replaced after its first block was read."""

        def __init__(self, source: ObjectStore) -> None:
            super().__init__(source)
            self._is_first_read = True

        def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
            body = self.inner.get_range(key, etag, start, end)
            if self._is_first_read:
                self._is_first_read = False
                drop(rowdrop, "u.tar", {"1.csv": make_csv("New")})
            return body

    rowdrop.mark_users("/u.tar")
    rowdrop.create_unpacker(source=Replaced(rowdrop.source)).run("u.tar")
    rowdrop.run_bulk_work()
    assert names(rowdrop) == {"1": "New"}
    assert list_states(rowdrop) == {"superseded": 1, "done": 1}


@pytest.mark.parametrize("is_replaced", [True, False])
def test_unpacker_ends_killed_attempts_at_earlier_archives(
    rowdrop: RowdropHarness, is_replaced: bool
) -> None:
    """Attempts at an archive that is gone are neither active nor counted."""
    drop(rowdrop, "u.zip", {"1.csv": make_csv()})
    unpacks = rowdrop.services.records.unpacks
    unpacks.begin_attempt("0" * 32, "u.zip", time.time())
    unpacks.begin_attempt("1" * 32, "other.zip", time.time())
    if is_replaced:
        drop(rowdrop, "u.zip", {"1.csv": make_csv("New")})
    else:
        rowdrop.source.delete("u.zip")
    rowdrop.process_bundles("u.zip")
    assert names(rowdrop) == ({"1": "New"} if is_replaced else {})
    assert unpacks.find_tried_bundles() == {"other.zip"}
    expected = {"superseded": 1, "unpacking": 1} | ({"done": 1} if is_replaced else {})
    assert list_states(rowdrop) == expected


def test_unpacker_reports_interrupted_attempt(rowdrop: RowdropHarness) -> None:
    drop(rowdrop, "u.zip", {"1.csv": make_csv()})

    class Unreachable(DelegatingStore):
        """A source bucket that does not answer when an archive is read."""

        def check_readable(self, key: str) -> None:
            raise StoreUnavailable(key)

    rowdrop.mark_users("/u.zip")
    with pytest.raises(StoreUnavailable):
        rowdrop.create_unpacker(source=Unreachable(rowdrop.source)).run("u.zip")
    (status,) = rowdrop.services.records.unpacks.list_newest(10)
    assert (status.state, status.error) == ("failed", INTERRUPTED)
    rowdrop.process_bundles("u.zip")
    assert list_states(rowdrop) == {"done": 1}


def test_unpacker_keeps_bundle_when_source_is_unavailable(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv()})
    client = rowdrop.services.clients.create_minio_client()
    client.remove_object(rowdrop.source.bucket, "u.zip")
    client.remove_bucket(rowdrop.source.bucket)
    rowdrop.mark_users("/u.zip")
    with pytest.raises(StoreUnavailable):
        rowdrop.services.unpacker.run("u.zip")
    assert rowdrop.state.users.dirty_users() == {"/u.zip"}
    assert list(read_catalog(rowdrop.output)[0].entries) == ["u.zip"]
    assert not rowdrop.services.records.unpack_lease.is_held()


# -- many and large indexes ------------------------------------------------------------------------
class CountedReads(DelegatingStore):
    """An output bucket that counts the objects that are read."""

    def __init__(self, output: ObjectStore) -> None:
        super().__init__(output)
        self.keys: list[str] = []

    def get(self, key: str) -> StoredObject:
        self.keys.append(key)
        return self.inner.get(key)


def drop_bundles(rowdrop: RowdropHarness, count: int) -> None:
    for number in range(count):
        put_and_process(rowdrop, f"{number}.zip", {f"in-{number}.csv": make_csv()})


def create_lookup(
    rowdrop: RowdropHarness, clock: Callable[[], float] = time.time
) -> tuple[BundleLookup, list[str]]:
    """Return a lookup with one index in its cache, and the keys that it reads from now on."""
    output = CountedReads(rowdrop.output)
    state = rowdrop.state
    lookup = BundleLookup(
        cast("ObjectStore", output), state.catalog_version, state.users, clock, max_cache_bytes=1
    )
    lookup.ensure_version(None)
    output.keys.clear()
    return lookup, output.keys


def test_bundle_lookup_loads_each_index_once_for_unknown_users(
    rowdrop: RowdropHarness,
) -> None:
    """Indexes above the size of the cache must not be read again for every user."""
    drop_bundles(rowdrop, 3)
    lookup, read_keys = create_lookup(rowdrop)
    for number in range(50):
        assert lookup.find_csv(f"out-{number}") is None
        assert lookup.find_image(f"out-{number}") is None
    assert len(read_keys) == 3
    for number in range(3):
        assert isinstance(lookup.find_csv(f"in-{number}"), ValidCsv)
        assert lookup.find_image(f"in-{number}") is None
    assert len(read_keys) <= 6


def test_bundle_lookup_loads_indexes_for_limited_time(rowdrop: RowdropHarness) -> None:
    """A batch ends, and the next one continues with the indexes that were not loaded."""
    drop_bundles(rowdrop, 3)
    now = [0.0]

    def pass_six_seconds() -> float:
        now[0] += 6.0
        return now[0]

    lookup, read_keys = create_lookup(rowdrop, pass_six_seconds)
    for _ in range(2):
        lookup.ensure_version(None)
        with pytest.raises(StoreUnavailable, match="took longer than 10 s"):
            lookup.find_csv("out")
    lookup.ensure_version(None)
    assert lookup.find_csv("out") is None
    assert len(read_keys) == len(set(read_keys)) == 3


# -- the catalog version ---------------------------------------------------------------------------
def test_bundle_lookup_reloads_catalog_when_version_changes(rowdrop: RowdropHarness) -> None:
    """A reader with a stale catalog reloads it, also after Redis lost the catalog version."""
    other = RowdropHarness(
        rowdrop.services.clients.settings
    )  # a worker that cached the empty catalog
    other.put_files("9")
    other.process_users("9")
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv("One")})
    rowdrop.process_bundles("u.zip")
    other.process_users("1")
    assert names(other) == {"1": "One", "9": "Ivan"}
    rowdrop.source.delete("u.zip")
    rowdrop.process_bundles("u.zip")
    rowdrop.redis.delete(CATALOG_VERSION)  # Redis lost the catalog version
    other.process_users("1")
    assert names(other) == {"9": "Ivan"}
    other.close()


def test_sweep_renews_catalog_version_after_redis_fallback(rowdrop: RowdropHarness) -> None:
    """An older catalog version, restored by Redis, makes a stale cache valid until a sweep."""
    other = RowdropHarness(rowdrop.services.clients.settings)
    other.put_files("9")
    other.process_users("9")
    token = rowdrop.redis.hget(CATALOG_VERSION, "version")
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv("One")})
    rowdrop.redis.hset(CATALOG_VERSION, "version", token)  # the version that `other` has cached
    other.process_users("1")
    assert names(other) == {"9": "Ivan"}  # it used the stale cache, which a loss signal covers
    rowdrop.publisher = other.publisher
    other.run_sweep()
    assert names(other) == {"1": "One", "9": "Ivan"}
    assert other.find_differences() == []
    other.close()


def test_published_files_check_detects_late_catalog_write(
    rowdrop: RowdropHarness, checks: WatchdogChecks
) -> None:
    """A delayed write of the catalog is a loss signal, and the sweep removes its entries."""
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv()})
    rowdrop.run_sweep()
    stale_catalog = BundleCatalog({"ghost.zip": CatalogEntry("e", 1, "d" * 32, 1)})
    rowdrop.output.put(CATALOG_KEY, stale_catalog.encode("nonce"))
    for _ in range(2):
        checks.published_files.tick(time.time())
        checks.server_loss.tick(time.time())
    assert rowdrop.state.loss_signals.trust_state() is None
    with pytest.raises(StoreUnavailable):  # the unpacked objects that it names do not exist
        rowdrop.sweep.run("test")
    rowdrop.run_bulk_work()
    rowdrop.run_sweep()
    assert list(read_catalog(rowdrop.output)[0].entries) == ["u.zip"]
    assert rowdrop.find_differences() == []


# -- recovery from losses --------------------------------------------------------------------------
def test_sweep_finds_bundle_changes_without_events(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "gone.zip", {"1.csv": make_csv()})
    put_and_process(rowdrop, "changed.zip", {"2.csv": make_csv("Old")})
    rowdrop.source.delete("gone.zip")
    drop(rowdrop, "changed.zip", {"2.csv": make_csv("New")})
    drop(rowdrop, "new.tar", {"3.csv": make_csv()})
    rowdrop.run_sweep()
    assert names(rowdrop) == {"2": "New", "3": "Ivan"}
    assert rowdrop.find_differences() == []
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 0


def test_sweep_keeps_bundle_rows_after_emptied_redis(rowdrop: RowdropHarness) -> None:
    """An emptied Redis loses no rows: a sweep reconciles the bundles."""
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": b"x"})
    rowdrop.redis.flushall()
    put_and_process(rowdrop, "v.zip", {"2.csv": make_csv()})
    rowdrop.redis.flushall()
    rowdrop.run_sweep()
    assert list(rowdrop.read_rows()) == ["1", "2"]
    assert rowdrop.find_differences() == []


def test_sweep_restores_catalog_deleted_by_hand(
    rowdrop: RowdropHarness, checks: WatchdogChecks
) -> None:
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": b"x"})
    rowdrop.run_sweep()
    rowdrop.output.delete(CATALOG_KEY)
    for _ in range(2):
        checks.published_files.tick(time.time())
        checks.server_loss.tick(time.time())
    assert rowdrop.state.loss_signals.trust_state() is None
    rowdrop.run_sweep()
    assert list(rowdrop.read_rows()) == ["1"]
    assert rowdrop.find_differences() == []


@pytest.mark.parametrize("what", ["index", "image"])
def test_unpacker_restores_missing_unpacked_objects(rowdrop: RowdropHarness, what: str) -> None:
    """A read fails if an index or image is missing, and succeeds on a retry after the unpack."""
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": b"x"})
    digest = read_catalog(rowdrop.output)[0].entries["u.zip"].digest
    rowdrop.output.delete(
        make_index_key(digest) if what == "index" else f"{UNPACKED_FOLDER}/{digest}/1.png"
    )
    rowdrop.output.delete("images/1.png")
    rowdrop.services.bundles.use_catalog(read_catalog(rowdrop.output)[0])
    rowdrop.services.bundles._indexes.clear()
    rowdrop.mark_users("1")
    with pytest.raises(StoreUnavailable):
        rowdrop.services.refresher.refresh(["1"])
    rowdrop.run_bulk_work()
    rowdrop.services.refresher.refresh(["1"])
    rowdrop.publish_pending()
    assert rowdrop.output.get("images/1.png").body == b"x"
    assert rowdrop.find_differences() == []
    assert list_states(rowdrop) == {"done": 1}


def test_overdue_bundles_are_enqueued_after_lost_message(
    rowdrop: RowdropHarness, checks: WatchdogChecks
) -> None:
    drop(rowdrop, "u.zip", {"1.csv": make_csv()})
    rowdrop.mark_users("/u.zip")
    now = time.time()
    checks.overdue_bundles.tick(now)
    assert rowdrop.redis.llen(BULK_QUEUE) == 0
    checks.overdue_bundles.tick(now + OVERDUE_S + 1)
    assert rowdrop.redis.llen(BULK_QUEUE) == 1


def test_unpacker_processes_one_bundle_at_a_time(rowdrop: RowdropHarness) -> None:
    """The unpack lease serializes bundles; at its release the next bundle is enqueued."""
    drop(rowdrop, "a.zip", {"1.csv": make_csv()})
    drop(rowdrop, "b.zip", {"2.csv": make_csv()})
    rowdrop.mark_users("/a.zip", "/b.zip")
    with Lease(rowdrop.redis, UNPACK_LEASE).hold():
        rowdrop.services.unpacker.run("a.zip")
        assert read_catalog(rowdrop.output)[0].entries == {}
    rowdrop.services.unpacker.run("a.zip")
    assert rowdrop.redis.llen(BULK_QUEUE) >= 1
    rowdrop.run_bulk_work()
    assert list(rowdrop.read_rows()) == ["1", "2"]


def test_rebuild_reads_users_in_bundles(rowdrop: RowdropHarness) -> None:
    put_and_process(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": b"x", "2.csv": b"broken"})
    rowdrop.put_files("3")
    rowdrop.process_users("3")
    body = rowdrop.read_output()
    rowdrop.output.delete("output.csv")
    rowdrop.output.delete("manifest.parquet")
    rowdrop.publisher = rowdrop.create_publisher()
    task_id, _ = rowdrop.services.records.rebuilds.request(time.time())
    rowdrop.services.rebuild.start(task_id)
    rowdrop.run_bulk_work()
    rowdrop.services.rebuild.finish()
    status = rowdrop.services.records.rebuilds.status(task_id)
    assert status is not None
    assert (status.state, status.total) == ("done", 3)
    assert rowdrop.read_output() == body


def test_previous_versions_keep_digests_recorded_since(rowdrop: RowdropHarness) -> None:
    previous = rowdrop.services.records.previous_versions
    previous.add_digests("u.zip", ["b", "a"])
    previous.add_digests("u.zip", ["c"])
    previous.clear_digests("u.zip", ["a", "b"])
    assert previous.digests("u.zip") == ["a", "b", "c"]
    previous.clear_digests("u.zip", ["a", "b", "c"])
    assert previous.digests("u.zip") is None


def test_unpacks_report_progress(rowdrop: RowdropHarness) -> None:
    unpacks = rowdrop.services.records.unpacks
    drop(rowdrop, "u.zip", {"1.csv": make_csv(), "1.png": b"x", "2.csv": make_csv()})
    rowdrop.mark_users("/u.zip")
    assert unpacks.list_waiting_bundles() == ["u.zip"]
    rowdrop.unpack_next_bundle()
    (status,) = unpacks.list_newest(10)
    assert (status.bundle, status.state, status.done, status.total) == ("u.zip", "publishing", 3, 3)
    assert (status.users, status.published, status.finished_at) == (2, 0, None)
    assert unpacks.finish_published(time.time()) == []
    rowdrop.run_bulk_work()
    assert unpacks.finish_published(time.time()) == [status.task_id]
    (status,) = unpacks.list_newest(10)
    assert (status.state, status.published, unpacks.list_waiting_bundles()) == ("done", 2, [])
    assert status.started_at
    assert status.finished_at
    assert status.started_at < status.finished_at
    assert unpacks.finish_published(time.time()) == []
    rowdrop.source.put("u.zip", b"broken")
    rowdrop.process_bundles("u.zip")
    newest = unpacks.list_newest(10)[0]
    assert (newest.state, newest.error is not None) == ("rejected", True)
