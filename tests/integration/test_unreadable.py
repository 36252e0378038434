"""Tests objects that exist but that MinIO refuses to read, on a real MinIO and Redis.

They are encrypted with a key that only their writer has. Such an object affects only its own user;
a published object is rewritten.
"""

import base64
import io
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.sse import SseKMS, SseS3

from local.ports import HOST, find_free_port
from local.servers import (
    MinioOptions,
    MinioPorts,
    MinioServer,
    RedisAddress,
    ServerUser,
    find_minio,
)
from shared.formats.object_names import (
    CATALOG_KEY,
    IMAGES_FOLDER,
    MANIFEST_KEY,
    OUTPUT_KEY,
    REJECTS_KEY,
)
from shared.formats.records import UNREADABLE_REASON
from shared.formats.source_keys import make_bundle_id
from shared.object_store import ObjectInfo, ObjectUnreadable, StoreUnavailable
from shared.progress.pipeline_status import read_pipeline_status
from shared.redis_keys import SOURCE_FAILURE
from shared.s3.connection import S3Connection
from shared.s3.files import S3FileStore
from shared.s3.objects import S3ObjectStore
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE
from tests.api_process import ApiEnvironment
from tests.archives import make_zip
from tests.conftest import MINIO_PASSWORD, MINIO_USER, MakeUnreadable
from tests.fakes import DelegatingStore
from tests.integration.stepping import RowdropHarness, make_csv
from worker.bundles.catalog import read_catalog
from worker.bundles.index import make_index_key
from worker.publishing.recovering_store import MAX_FAILED_CHECKS
from worker.source.unreadable import RETRY_PAUSES_S
from worker.state.loss_signals import TrustState
from worker.watchdog.watchdog import Watchdog

ENCRYPTED = (
    f"{UNREADABLE_REASON}: encrypted with a key that Rowdrop does not have (InvalidRequest: "
)


@pytest.fixture
def copying(settings: Settings) -> Iterator[RowdropHarness]:
    stepping = RowdropHarness(replace(settings, copy_images=True))
    yield stepping
    stepping.close()


def source_failure(rowdrop: RowdropHarness) -> str:
    return (rowdrop.redis.get(SOURCE_FAILURE) or b"").decode()


def names(rowdrop: RowdropHarness) -> dict[str, str]:
    return {user_id: row.first_name for user_id, row in rowdrop.read_rows().items()}


def give_up(rowdrop: RowdropHarness, looks: int = MAX_FAILED_CHECKS) -> None:
    for _ in range(looks):
        rowdrop.recovery.recover_objects()


# -- files of users --------------------------------------------------------------------------------
def test_refresher_rejects_unreadable_csv_of_one_user(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    rowdrop.put_files("held")
    rowdrop.process_users("held")
    rowdrop.put_files("other")
    for user in ("held", "new"):
        make_unreadable(rowdrop.source.bucket, f"{user}.csv")
    rowdrop.process_users("held", "new", "other")
    assert set(rowdrop.read_rows()) == {"held", "other"}
    rejects = rowdrop.read_rejects()
    assert rejects.keys() == {"held", "new"}
    assert rejects["new"].reason.startswith(ENCRYPTED)
    listed = rowdrop.source.get_list_entry("new.csv")
    assert listed
    assert (rejects["new"].etag, rejects["new"].since) == (listed.etag, listed.last_modified)
    assert rowdrop.state.users.dirty_users() == set()
    assert source_failure(rowdrop) == ""
    assert rowdrop.find_differences() == []


def test_sweep_and_rebuild_retry_unreadable_csv(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    rowdrop.put_files("other")
    make_unreadable(rowdrop.source.bucket, "sealed.csv")
    assert rowdrop.run_sweep() == 2
    before = rowdrop.output.get(REJECTS_KEY)
    for _ in range(2):
        rowdrop.publisher.write_manifest()
        assert rowdrop.run_sweep() == 1  # each sweep retries it, like a quarantined file
    assert rowdrop.output.get(REJECTS_KEY) == before
    assert read_pipeline_status(rowdrop.redis).silent_repairs == 0
    assert rowdrop.state.loss_signals.trust_state() == TrustState(
        "verified", rowdrop.state.loss_signals.run_id()
    )
    task_id, _ = rowdrop.services.records.rebuilds.request(0.0)
    rowdrop.services.rebuild.start(task_id)
    rowdrop.run_bulk_work()
    assert (rowdrop.output.get(REJECTS_KEY), set(rowdrop.read_rows())) == (before, {"other"})


def test_sweep_reads_csv_that_became_readable(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable, minio_server: MinioServer
) -> None:
    """The same version may become readable, when its encryption key is back."""
    rowdrop.put_files("1")
    file = minio_server.folder / "data" / rowdrop.source.bucket / "1.csv" / "xl.meta"
    readable = file.read_bytes()
    make_unreadable(rowdrop.source.bucket, "1.csv")
    rowdrop.process_users("1")
    assert set(rowdrop.read_rejects()) == {"1"}
    file.write_bytes(readable)
    rowdrop.run_sweep()
    assert (rowdrop.read_rejects(), names(rowdrop)) == ({}, {"1": "Ivan"})


def test_refresher_clears_reject_for_new_version(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    make_unreadable(rowdrop.source.bucket, "1.csv")
    rowdrop.process_users("1")
    rowdrop.put_files("1", make_csv("Ada"))
    rowdrop.process_users("1")
    assert (rowdrop.read_rejects(), names(rowdrop)) == ({}, {"1": "Ada"})
    make_unreadable(rowdrop.source.bucket, "1.csv")
    rowdrop.process_users("1")
    rowdrop.source.delete("1.csv")
    rowdrop.process_users("1")
    assert (rowdrop.read_rejects(), rowdrop.read_rows()) == ({}, {})


def test_refresher_retries_temporary_read_refusal(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    """A read makes as many attempts as `RETRY_PAUSES_S` allows, and the last one decides."""
    make_unreadable(rowdrop.source.bucket, "1.csv")
    rowdrop.mark_users("1")
    attempts = 0

    class Recovers(DelegatingStore):
        def get(self, key: str, max_bytes: int) -> object:
            nonlocal attempts
            attempts += 1
            if attempts > len(RETRY_PAUSES_S):
                rowdrop.put_files("1")
            return rowdrop.source.get(key, max_bytes=max_bytes)

    readers = rowdrop.create_readers(source=Recovers(rowdrop.source))  # type: ignore[arg-type]
    readers.refresher.refresh(["1"])
    rowdrop.publish_pending()
    assert attempts == len(RETRY_PAUSES_S) + 1
    assert (rowdrop.read_rejects(), set(rowdrop.read_rows())) == ({}, {"1"})


def test_refresher_waits_once_for_many_unreadable_files(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    for number in range(60):
        make_unreadable(rowdrop.source.bucket, f"{number}.csv")
    rowdrop.put_files("other")
    rowdrop.process_users(*(str(number) for number in range(60)), "other")
    assert (len(rowdrop.read_rejects()), set(rowdrop.read_rows())) == (60, {"other"})
    assert source_failure(rowdrop) == ""


def test_isolated_reads_reject_unreadable_file(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    make_unreadable(rowdrop.source.bucket, "1.csv")
    rowdrop.mark_users("1")
    rowdrop.state.attempts.restore_quarantine({"1": "of another version"})
    rowdrop.services.isolated_reads.refresh_isolated("1")
    rowdrop.publish_pending()
    assert rowdrop.read_rejects()["1"].reason.startswith(ENCRYPTED)
    assert rowdrop.state.attempts.isolated_ids() == set()


# -- images ----------------------------------------------------------------------------------------
def test_refresher_names_unreadable_image_in_row(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    rowdrop.put_files("1", images=["png"])
    rowdrop.put_files("2")
    make_unreadable(rowdrop.source.bucket, "2.png")
    make_unreadable(rowdrop.source.bucket, "1.jpg")  # of two images the newer one counts
    rowdrop.process_users("1", "2")
    paths = {user_id: row.img_path for user_id, row in rowdrop.read_rows().items()}
    assert paths["2"] == f"{rowdrop.source.bucket}/2.png"
    assert paths["1"]
    assert source_failure(rowdrop) == ""
    assert rowdrop.find_differences() == []


def test_image_copies_skip_unreadable_image(
    copying: RowdropHarness, make_unreadable: MakeUnreadable, caplog: pytest.LogCaptureFixture
) -> None:
    copying.put_files("1", images=["png"])
    copying.process_users("1")
    make_unreadable(copying.source.bucket, "1.png")
    copying.put_files("2")
    make_unreadable(copying.source.bucket, "2.png")
    copying.process_users("1", "2")
    assert {user_id: row.img_path for user_id, row in copying.read_rows().items()} == {
        "1": "",
        "2": "",
    }
    assert "2: its image cannot be read" in caplog.text
    assert list(copying.output.list_objects(folder=IMAGES_FOLDER)) == []
    assert (source_failure(copying), copying.find_differences()) == ("", [])
    copying.publisher.write_manifest()
    copying.run_sweep()
    assert read_pipeline_status(copying.redis).silent_repairs == 0
    copying.source.put("2.png", b"readable")
    copying.process_users("2")
    assert copying.output.get("images/2.png").body == b"readable"


def test_image_copies_retry_refused_copy_of_readable_image(copying: RowdropHarness) -> None:
    """An exhausted quota, for example, is a 4xx too, but does not concern the image."""

    class Full(DelegatingStore):
        def copy_from(
            self, bucket: str, key: str, to: str, source_etag: str = "", *, if_match: bool = False
        ) -> str:
            raise ObjectUnreadable(
                copying.output.bucket, to, "QuotaExceeded", "Bucket quota exceeded"
            )

    copying.put_files("1", images=["png"])
    copying.mark_users("1")
    readers = copying.create_readers(output=Full(copying.output))
    with pytest.raises(StoreUnavailable) as refused:
        readers.refresher.refresh(["1"])
    assert not isinstance(refused.value, ObjectUnreadable)
    assert copying.state.publish_queue.count_pending() == 0
    assert len(copying.state.users.dirty_users()) == 1


def test_image_copies_replace_unreadable_copy(
    copying: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    copying.put_files("1", images=["png"])
    copying.process_users("1")
    make_unreadable(copying.output.bucket, "images/1.png")
    copying.process_users("1")
    assert copying.output.get("images/1.png").body == b"image"


# -- bundles ---------------------------------------------------------------------------------------
def test_unpacker_rejects_unreadable_bundle_and_keeps_previous_version(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv("Ada")}))
    rowdrop.process_bundles("u.zip")
    for key in ("u.zip", "new.zip"):
        make_unreadable(rowdrop.source.bucket, key)
    rowdrop.process_bundles("u.zip", "new.zip")
    assert names(rowdrop) == {"1": "Ada"}
    reasons = {reject.key: reject.reason for reject in rowdrop.read_rejects().values()}
    assert all(reason.startswith(ENCRYPTED) for reason in reasons.values())
    assert reasons.keys() == {"u.zip", "new.zip"}
    assert (rowdrop.state.users.dirty_users(), rowdrop.find_differences()) == (set(), [])
    before = rowdrop.output.get(REJECTS_KEY)
    rowdrop.publisher.write_manifest()
    assert rowdrop.run_sweep() == 2
    assert rowdrop.output.get(REJECTS_KEY) == before
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv("Bo")}))
    rowdrop.process_bundles("u.zip")
    assert names(rowdrop) == {"1": "Bo"}
    assert set(rowdrop.read_rejects()) == {make_bundle_id("new.zip")}


def test_sweep_unpacks_bundle_that_became_readable(
    rowdrop: RowdropHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the encryption key is back, the bundle has the same ETag as its reject."""

    def refuse(key: str, *_: object) -> bytes:
        raise ObjectUnreadable(rowdrop.source.bucket, key, "kms:KeyNotFound", "no such key")

    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv("Ada")}))
    with monkeypatch.context() as without_key:
        without_key.setattr(rowdrop.source, "get_range", refuse)
        rowdrop.process_bundles("u.zip")
    assert set(rowdrop.read_rejects()) == {make_bundle_id("u.zip")}
    rowdrop.run_sweep()
    assert (rowdrop.read_rejects(), names(rowdrop)) == ({}, {"1": "Ada"})
    assert rowdrop.find_differences() == []


def test_unpacker_restores_unreadable_index(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv("Ada"), "1.png": b"image"}))
    rowdrop.process_bundles("u.zip")
    (entry,) = read_catalog(rowdrop.output)[0].entries.values()
    make_unreadable(rowdrop.output.bucket, make_index_key(entry.digest))
    rowdrop.process_bundles("u.zip")
    rowdrop.output.check_readable(make_index_key(entry.digest))
    assert (names(rowdrop), rowdrop.find_differences()) == ({"1": "Ada"}, [])


# -- published objects -----------------------------------------------------------------------------
@pytest.mark.parametrize("key", [OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY, CATALOG_KEY])
def test_object_recovery_rewrites_unreadable_published_object(
    rowdrop: RowdropHarness, watchdog: Watchdog, make_unreadable: MakeUnreadable, key: str
) -> None:
    rowdrop.source.put("u.zip", make_zip({"3.csv": make_csv("Cy")}))
    rowdrop.process_bundles("u.zip")
    for user in ("1", "held"):
        rowdrop.put_files(user)
    rowdrop.process_users("1", "held")
    rowdrop.put_files("held", b"not a CSV of ours")
    rowdrop.process_users("held")
    rowdrop.publisher.write_manifest()
    rowdrop.run_sweep()
    make_unreadable(rowdrop.output.bucket, key)
    give_up(rowdrop, MAX_FAILED_CHECKS - 1)
    with pytest.raises(ObjectUnreadable):
        rowdrop.output.get(key)
    rowdrop.put_files("2")
    rowdrop.mark_users("2")
    if key != CATALOG_KEY:  # without the bundle catalog no user can be read
        rowdrop.services.refresher.refresh(["2"])
    give_up(rowdrop, 1)
    rowdrop.output.check_readable(key)
    assert "files_changed" in rowdrop.state.loss_signals.unresolved()
    watchdog.tick()
    assert rowdrop.services.clients.redis.llen(BULK_QUEUE)  # a sweep is enqueued
    rowdrop.run_sweep()
    rowdrop.publish_pending()
    assert set(rowdrop.read_rows()) == {"1", "2", "3", "held"}
    assert set(rowdrop.read_rejects()) == {"held"}
    assert rowdrop.find_differences() == []
    assert rowdrop.state.loss_signals.trust_state() == TrustState(
        "verified", rowdrop.state.loss_signals.run_id()
    )


def test_object_recovery_works_for_publisher_without_table(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    rowdrop.put_files("1")
    rowdrop.process_users("1")
    for key in (OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY):
        make_unreadable(rowdrop.output.bucket, key)
    rowdrop.publisher, rowdrop.recovery = rowdrop.create_publisher_parts()
    give_up(rowdrop)
    rowdrop.run_sweep()
    assert (set(rowdrop.read_rows()), rowdrop.find_differences()) == ({"1"}, [])


def test_object_recovery_keeps_object_that_became_readable(
    rowdrop: RowdropHarness, make_unreadable: MakeUnreadable
) -> None:
    rowdrop.put_files("1")
    rowdrop.process_users("1")
    body = rowdrop.read_output()
    for _ in range(3):
        make_unreadable(rowdrop.output.bucket, OUTPUT_KEY)
        give_up(rowdrop, MAX_FAILED_CHECKS - 1)
        rowdrop.output.put(OUTPUT_KEY, body)
        give_up(rowdrop, 1)
    assert rowdrop.state.loss_signals.unresolved() == set()
    assert rowdrop.read_output() == body


def test_watchdog_continues_with_unreadable_output(
    rowdrop: RowdropHarness, watchdog: Watchdog, make_unreadable: MakeUnreadable
) -> None:
    rowdrop.put_files("1")
    rowdrop.process_users("1")
    rowdrop.run_sweep()
    make_unreadable(rowdrop.output.bucket, OUTPUT_KEY)
    for _ in range(2):
        watchdog.tick()
    assert rowdrop.state.loss_signals.unresolved() == {"files_changed"}


# -- the API ---------------------------------------------------------------------------------------
def test_files_route_explains_and_deletes_unreadable_file(
    api_environment: ApiEnvironment, make_unreadable: MakeUnreadable
) -> None:
    for name in ("0001.csv", "0001.png"):
        make_unreadable(api_environment.source.bucket, name)
    answer = api_environment.api.get("/files/0001.csv")
    assert (answer.status, answer.json["type"]) == (409, "/docs#unreadable")
    assert "encrypted with a key that Rowdrop does not have" in answer.json["detail"]
    listed = api_environment.api.get("/files")
    assert [file["name"] for file in listed.json] == ["0001.csv", "0001.png"]
    api_environment.publish_output(
        f"user_id,first_name,last_name,birthts,img_path\n0001,A,B,1,{api_environment.source.bucket}/0001.png\n".encode()
    )
    assert api_environment.api.request("DELETE", "/files/0001.csv").status == 202
    assert api_environment.api.request("DELETE", "/files/0001.csv").status == 404
    assert not api_environment.source.exists("0001.csv")
    assert api_environment.api.request("PUT", "/files/0001.png", b"x").status == 202


# -- errors that are not about an unreadable object ------------------------------------------------
def test_store_reports_denied_object_as_unavailable(
    minio_server: MinioServer, store: S3ObjectStore
) -> None:
    """The server's answer to one denied object is the same as to revoked credentials."""
    store.put("1.csv", b"x")
    admin = MinioAdmin(
        endpoint=urlsplit(minio_server.endpoint).netloc,
        credentials=StaticProvider(MINIO_USER, MINIO_PASSWORD),
        region="us-east-1",
        secure=False,
    )
    user = f"user-{secrets.token_hex(4)}"
    secret = secrets.token_hex(16)
    admin.user_add(user, secret)
    statement = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::*"]}
    admin.policy_add(user, policy={"Version": "2012-10-17", "Statement": [statement]})
    admin.policy_set(user, user=user)
    denied = S3ObjectStore(
        S3Connection(store.bucket, minio_server.endpoint, user, secret, "us-east-1")
    )
    calls: list[Callable[[str], object]] = [
        denied.get,
        denied.exists,
        denied.get_info,
        denied.check_readable,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as refused:
            call("1.csv")
        assert "AccessDenied" in str(refused.value)
        assert not isinstance(refused.value, ObjectUnreadable)


# -- other causes of unreadable objects ------------------------------------------------------------
class KeyServerMinio(MinioServer):
    """A MinIO without events and with the master key `kms` (none if empty)."""

    kms = ""

    def build_environment(self) -> dict[str, str]:
        settings = {
            name: value
            for name, value in super().build_environment().items()
            if "NOTIFY" not in name
        }
        return settings | ({"MINIO_KMS_SECRET_KEY": self.kms} if self.kms else {})


def new_key(name: str) -> str:
    return f"{name}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def create_key_server_minio(folder: Path) -> KeyServerMinio:
    return KeyServerMinio(
        folder,
        MinioPorts(find_free_port(), find_free_port()),
        ServerUser(MINIO_USER, MINIO_PASSWORD),
        RedisAddress(HOST, 1, "", ""),
        MinioOptions(find_minio()),
    )


def test_store_reports_object_with_lost_key_as_unreadable(tmp_path: Path) -> None:
    """MinIO uses other codes here: 404 or 400 for another master key, 501 for a missing one."""
    server = create_key_server_minio(tmp_path)
    server.kms = new_key("first")
    with server:
        client = Minio(f"127.0.0.1:{server.port}", MINIO_USER, MINIO_PASSWORD, secure=False)
        client.make_bucket("bucket")
        client.put_object("bucket", "1.csv", io.BytesIO(b"x"), 1, sse=SseKMS("first", {}))
    for key, code in (
        (new_key("second"), "kms:KeyNotFound"),
        (new_key("first"), "kms:"),
        ("", "NotImplemented"),
    ):
        server.kms = key
        with server:
            store = S3ObjectStore(
                S3Connection("bucket", server.endpoint, MINIO_USER, MINIO_PASSWORD, "us-east-1")
            )
            calls: list[Callable[[], object]] = [
                partial(store.get, "1.csv"),
                partial(store.check_readable, "1.csv"),
                partial(store.copy_from, "bucket", "1.csv", "2.csv"),
            ]
            for call in calls:
                with pytest.raises(ObjectUnreadable) as refused:
                    call()
                assert refused.value.code.startswith(code)
                assert refused.value.reason.startswith("encrypted with a key that Rowdrop does not")
            assert store.exists("1.csv")
            ((listed,),) = store.list_objects()
            assert store.get_list_entry("1.csv") == listed
            store.put("2.csv", b"x")
            store.delete("2.csv")
    with server:
        store.delete("1.csv")
        assert not store.exists("1.csv")


def test_store_lists_keys_of_unlistable_objects(tmp_path: Path) -> None:
    """With SSE-S3, MinIO decrypts each listed ETag, so without the key the whole LIST fails."""
    readable = [f"{number}.csv" for number in range(1200)]
    unlistable = ["0.zip", "07.csv", "5.tar.gz", "500.jpg", "500.png", "99a.csv"]
    server = create_key_server_minio(tmp_path)
    server.kms = new_key("first")
    with server:
        client = Minio(f"127.0.0.1:{server.port}", MINIO_USER, MINIO_PASSWORD, secure=False)
        client.make_bucket("bucket")
        for key in unlistable:
            client.put_object("bucket", key, io.BytesIO(b"x"), 1, sse=SseS3())
        store = S3ObjectStore(
            S3Connection("bucket", server.endpoint, MINIO_USER, MINIO_PASSWORD, "us-east-1")
        )
        for key in readable:
            store.put(key, b"x")
    server.kms = ""
    with server:
        store = S3ObjectStore(
            S3Connection("bucket", server.endpoint, MINIO_USER, MINIO_PASSWORD, "us-east-1")
        )
        listed = [info for page in store.list_objects() for info in page]
        assert [info.key for info in listed] == sorted([*readable, *unlistable])
        assert {info.key for info in listed if not info.etag} == set(unlistable)
        assert S3FileStore(store).list_page("", "", 2000) == listed
        assert (
            S3FileStore(store).list_page("9", "", 3)
            == [info for info in listed if info.key >= "9"][:3]
        )
        for key in unlistable:
            assert store.get_list_entry(key) == ObjectInfo(key, "", 0, 0)
            store.delete(key)
        store.put("notes.txt", b"x")
        assert [info.key for page in store.list_objects() for info in page] == sorted(
            [*readable, "notes.txt"]
        )


def test_names_that_no_object_can_have_stay_clean(rowdrop: RowdropHarness) -> None:
    """An earlier release marked them; MinIO refuses each request for them."""
    rowdrop.mark_users("x\\..\\3", "/x\\..\\3.zip", "1")
    rowdrop.process_users("x\\..\\3", "1")
    rowdrop.process_bundles("x\\..\\3.zip")
    assert rowdrop.state.users.dirty_users() == set()
    assert rowdrop.find_differences() == []
