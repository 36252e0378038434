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

from local.ports import free_port
from local.servers import MinioServer, find_minio
from shared.keys import bundle_id
from shared.object_store import ObjectUnreadable, S3ObjectStore, StoreUnavailable
from shared.published import BUNDLES, IMAGES, MANIFEST, OUTPUT, REJECTS
from shared.records import UNREADABLE
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE
from tests.api_process import Stage
from tests.archives import zip_of
from tests.conftest import PASSWORD, USER, Seal
from tests.integration.stepping import Stepping, csv_of
from worker.bundles import index_key
from worker.evidence import Watch
from worker.healed import Healed
from worker.readable_files import LOOKS_UNREADABLE
from worker.shelf import read_shelf
from worker.trials import Trials
from worker.unreadable import PAUSES_S

ENCRYPTED = f"{UNREADABLE}: encrypted with a key that Rowdrop does not have (InvalidRequest: "


@pytest.fixture
def copying(settings: Settings) -> Iterator[Stepping]:
    stepping = Stepping(replace(settings, copies_images=True))
    yield stepping
    stepping.close()


def source_failure(rowdrop: Stepping) -> str:
    return (rowdrop.backlog.redis.get("source_failure") or b"").decode()


def names(rowdrop: Stepping) -> dict[str, str]:
    return {user_id: row.first_name for user_id, row in rowdrop.rows().items()}


def give_up(rowdrop: Stepping, looks: int = LOOKS_UNREADABLE) -> None:
    for _ in range(looks):
        rowdrop.publisher.look_after_files()


# -- files of users --------------------------------------------------------------------------------
def test_an_unreadable_csv_is_a_reject_of_its_user_alone(rowdrop: Stepping, seal: Seal) -> None:
    rowdrop.drop("held")
    rowdrop.land("held")
    rowdrop.drop("other")
    for user in ("held", "new"):
        seal(rowdrop.source.bucket, f"{user}.csv")
    rowdrop.land("held", "new", "other")
    assert set(rowdrop.rows()) == {"held", "other"}
    rejects = rowdrop.rejects()
    assert rejects.keys() == {"held", "new"}
    assert rejects["new"].reason.startswith(ENCRYPTED)
    listed = rowdrop.source.listed("new.csv")
    assert listed
    assert (rejects["new"].etag, rejects["new"].since) == (listed.etag, listed.last_modified)
    assert rowdrop.backlog.dirty_count() == 0
    assert source_failure(rowdrop) == ""
    assert rowdrop.differences() == []


def test_sweeps_and_rebuilds_try_it_again_and_change_nothing(rowdrop: Stepping, seal: Seal) -> None:
    rowdrop.drop("other")
    seal(rowdrop.source.bucket, "sealed.csv")
    assert rowdrop.sweep() == 2
    before = rowdrop.output.get(REJECTS)
    for _ in range(2):
        rowdrop.publisher.write_manifest()
        assert rowdrop.sweep() == 1  # each sweep retries it, like a quarantined file
    assert rowdrop.output.get(REJECTS) == before
    Healed(rowdrop.wiring.redis, 0).count("test")
    assert rowdrop.backlog.counted("lost_and_healed") == 0
    assert rowdrop.backlog.epoch() == f"ok:{rowdrop.backlog.run_id()}"
    task_id, _ = rowdrop.wiring.rebuilds.request(0.0)
    rowdrop.wiring.rebuild.start(task_id)
    rowdrop.do_bulk_work()
    assert (rowdrop.output.get(REJECTS), set(rowdrop.rows())) == (before, {"other"})


def test_a_sweep_reads_what_has_become_readable_without_an_event(
    rowdrop: Stepping, seal: Seal, minio_server: MinioServer
) -> None:
    """The same version may become readable, when its encryption key is back."""
    rowdrop.drop("1")
    file = minio_server.folder / "data" / rowdrop.source.bucket / "1.csv" / "xl.meta"
    readable = file.read_bytes()
    seal(rowdrop.source.bucket, "1.csv")
    rowdrop.land("1")
    assert set(rowdrop.rejects()) == {"1"}
    file.write_bytes(readable)
    rowdrop.sweep()
    assert (rowdrop.rejects(), names(rowdrop)) == ({}, {"1": "Ivan"})


def test_another_version_ends_the_reject(rowdrop: Stepping, seal: Seal) -> None:
    seal(rowdrop.source.bucket, "1.csv")
    rowdrop.land("1")
    rowdrop.drop("1", csv_of("Ada"))
    rowdrop.land("1")
    assert (rowdrop.rejects(), names(rowdrop)) == ({}, {"1": "Ada"})
    seal(rowdrop.source.bucket, "1.csv")
    rowdrop.land("1")
    rowdrop.source.delete("1.csv")
    rowdrop.land("1")
    assert (rowdrop.rejects(), rowdrop.rows()) == ({}, {})


def test_a_refusal_that_does_not_last_is_no_reject(rowdrop: Stepping, seal: Seal) -> None:
    """A read makes as many attempts as `PAUSES_S` allows, and the last one decides."""
    seal(rowdrop.source.bucket, "1.csv")
    rowdrop.mark("1")
    attempts = 0

    class Recovers:
        def __getattr__(self, name: str) -> object:
            return getattr(rowdrop.source, name)

        def get(self, key: str, most: int) -> object:
            nonlocal attempts
            attempts += 1
            if attempts > len(PAUSES_S):
                rowdrop.drop("1")
            return rowdrop.source.get(key, most=most)

    rowdrop.wiring.refresher._source = Recovers()  # type: ignore[assignment]
    rowdrop.wiring.refresher.refresh(["1"])
    rowdrop.publish()
    assert attempts == len(PAUSES_S) + 1
    assert (rowdrop.rejects(), set(rowdrop.rows())) == ({}, {"1"})


def test_many_unreadable_files_cost_a_page_one_second(rowdrop: Stepping, seal: Seal) -> None:
    for number in range(60):
        seal(rowdrop.source.bucket, f"{number}.csv")
    rowdrop.drop("other")
    rowdrop.land(*(str(number) for number in range(60)), "other")
    assert (len(rowdrop.rejects()), set(rowdrop.rows())) == (60, {"other"})
    assert source_failure(rowdrop) == ""


def test_a_user_who_is_read_alone_may_have_an_unreadable_file(rowdrop: Stepping, seal: Seal) -> None:
    seal(rowdrop.source.bucket, "1.csv")
    rowdrop.mark("1")
    Trials(rowdrop.wiring.redis).remember({"1": "of another version"})
    rowdrop.wiring.refresher.refresh_alone("1")
    rowdrop.publish()
    assert rowdrop.rejects()["1"].reason.startswith(ENCRYPTED)
    assert Trials(rowdrop.wiring.redis).users() == set()


# -- images ----------------------------------------------------------------------------------------
def test_an_unreadable_image_is_named_by_the_row(rowdrop: Stepping, seal: Seal) -> None:
    rowdrop.drop("1", images=["png"])
    rowdrop.drop("2")
    seal(rowdrop.source.bucket, "2.png")
    seal(rowdrop.source.bucket, "1.jpg")  # of two images the newer one counts
    rowdrop.land("1", "2")
    paths = {user_id: row.img_path for user_id, row in rowdrop.rows().items()}
    assert paths["2"] == f"{rowdrop.source.bucket}/2.png"
    assert paths["1"]
    assert source_failure(rowdrop) == ""
    assert rowdrop.differences() == []


def test_an_unreadable_image_is_not_copied_and_the_row_is_published(
    copying: Stepping, seal: Seal, caplog: pytest.LogCaptureFixture
) -> None:
    copying.drop("1", images=["png"])
    copying.land("1")
    seal(copying.source.bucket, "1.png")
    copying.drop("2")
    seal(copying.source.bucket, "2.png")
    copying.land("1", "2")
    assert {user_id: row.img_path for user_id, row in copying.rows().items()} == {"1": "", "2": ""}
    assert "2: its image cannot be read" in caplog.text
    assert list(copying.output.objects(folder=IMAGES)) == []
    assert (source_failure(copying), copying.differences()) == ("", [])
    copying.publisher.write_manifest()
    copying.sweep()
    Healed(copying.wiring.redis, 0).count("test")
    assert copying.backlog.counted("lost_and_healed") == 0
    copying.source.put("2.png", b"readable")
    copying.land("2")
    assert copying.output.get("images/2.png").body == b"readable"


def test_a_refused_copy_of_a_readable_image_is_tried_again(copying: Stepping) -> None:
    """An exhausted quota, for example, is a 4xx too, but does not concern the image."""

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(copying.output, name)

        def copy_from(self, bucket: str, key: str, to: str) -> None:
            raise ObjectUnreadable(copying.output.bucket, to, "QuotaExceeded", "Bucket quota exceeded")

    copying.drop("1", images=["png"])
    copying.mark("1")
    copying.wiring.copies._output = Full()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable) as refused:
        copying.wiring.refresher.refresh(["1"])
    assert not isinstance(refused.value, ObjectUnreadable)
    assert copying.backlog.staged_count() == 0
    assert copying.backlog.dirty_count() == 1


def test_an_unreadable_copy_is_made_anew(copying: Stepping, seal: Seal) -> None:
    copying.drop("1", images=["png"])
    copying.land("1")
    seal(copying.output.bucket, "images/1.png")
    copying.land("1")
    assert copying.output.get("images/1.png").body == b"image"


# -- bundles ---------------------------------------------------------------------------------------
def test_an_unreadable_bundle_is_a_reject_and_holds_the_version_before(rowdrop: Stepping, seal: Seal) -> None:
    rowdrop.source.put("u.zip", zip_of({"1.csv": csv_of("Ada")}))
    rowdrop.land_bundles("u.zip")
    for key in ("u.zip", "new.zip"):
        seal(rowdrop.source.bucket, key)
    rowdrop.land_bundles("u.zip", "new.zip")
    assert names(rowdrop) == {"1": "Ada"}
    reasons = {reject.key: reject.reason for reject in rowdrop.rejects().values()}
    assert all(reason.startswith(ENCRYPTED) for reason in reasons.values())
    assert reasons.keys() == {"u.zip", "new.zip"}
    assert (rowdrop.backlog.dirty_count(), rowdrop.differences()) == (0, [])
    before = rowdrop.output.get(REJECTS)
    rowdrop.publisher.write_manifest()
    assert rowdrop.sweep() == 2
    assert rowdrop.output.get(REJECTS) == before
    rowdrop.source.put("u.zip", zip_of({"1.csv": csv_of("Bo")}))
    rowdrop.land_bundles("u.zip")
    assert names(rowdrop) == {"1": "Bo"}
    assert set(rowdrop.rejects()) == {bundle_id("new.zip")}


def test_a_sweep_unpacks_a_bundle_that_has_become_readable(rowdrop: Stepping, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the encryption key is back, the bundle has the same ETag as its reject."""

    def refuse(key: str, *_: object) -> bytes:
        raise ObjectUnreadable(rowdrop.source.bucket, key, "kms:KeyNotFound", "no such key")

    rowdrop.source.put("u.zip", zip_of({"1.csv": csv_of("Ada")}))
    with monkeypatch.context() as without_key:
        without_key.setattr(rowdrop.source, "get_range", refuse)
        rowdrop.land_bundles("u.zip")
    assert set(rowdrop.rejects()) == {bundle_id("u.zip")}
    rowdrop.sweep()
    assert (rowdrop.rejects(), names(rowdrop)) == ({}, {"1": "Ada"})
    assert rowdrop.differences() == []


def test_an_unreadable_index_has_its_bundle_unpacked_again(rowdrop: Stepping, seal: Seal) -> None:
    rowdrop.source.put("u.zip", zip_of({"1.csv": csv_of("Ada"), "1.png": b"image"}))
    rowdrop.land_bundles("u.zip")
    (shelved,) = read_shelf(rowdrop.output)[0].bundles.values()
    seal(rowdrop.output.bucket, index_key(shelved.digest))
    rowdrop.land_bundles("u.zip")
    rowdrop.output.check_readable(index_key(shelved.digest))
    assert (names(rowdrop), rowdrop.differences()) == ({"1": "Ada"}, [])


# -- published objects -----------------------------------------------------------------------------
@pytest.mark.parametrize("key", [OUTPUT, REJECTS, MANIFEST, BUNDLES])
def test_an_unreadable_published_object_is_written_anew(rowdrop: Stepping, watch: Watch, seal: Seal, key: str) -> None:
    rowdrop.source.put("u.zip", zip_of({"3.csv": csv_of("Cy")}))
    rowdrop.land_bundles("u.zip")
    for user in ("1", "held"):
        rowdrop.drop(user)
    rowdrop.land("1", "held")
    rowdrop.drop("held", b"not a CSV of ours")
    rowdrop.land("held")
    rowdrop.publisher.write_manifest()
    rowdrop.sweep()
    seal(rowdrop.output.bucket, key)
    give_up(rowdrop, LOOKS_UNREADABLE - 1)
    with pytest.raises(ObjectUnreadable):
        rowdrop.output.get(key)
    rowdrop.drop("2")
    rowdrop.mark("2")
    if key != BUNDLES:  # without the bundle catalog no user can be read
        rowdrop.wiring.refresher.refresh(["2"])
    give_up(rowdrop, 1)
    rowdrop.output.check_readable(key)
    assert "files_changed" in rowdrop.backlog.evidence()
    watch.tick()
    assert rowdrop.wiring.redis.llen(BULK_QUEUE)  # a sweep is enqueued
    rowdrop.sweep()
    rowdrop.publish()
    assert set(rowdrop.rows()) == {"1", "2", "3", "held"}
    assert set(rowdrop.rejects()) == {"held"}
    assert rowdrop.differences() == []
    assert rowdrop.backlog.epoch() == f"ok:{rowdrop.backlog.run_id()}"


def test_a_publisher_that_knows_nothing_writes_anew_what_cannot_be_read(rowdrop: Stepping, seal: Seal) -> None:
    rowdrop.drop("1")
    rowdrop.land("1")
    for key in (OUTPUT, REJECTS, MANIFEST):
        seal(rowdrop.output.bucket, key)
    rowdrop.publisher = rowdrop.new_publisher()
    give_up(rowdrop)
    rowdrop.sweep()
    assert (set(rowdrop.rows()), rowdrop.differences()) == ({"1"}, [])


def test_one_that_becomes_readable_again_is_left_as_it_is(rowdrop: Stepping, seal: Seal) -> None:
    rowdrop.drop("1")
    rowdrop.land("1")
    body = rowdrop.body()
    for _ in range(3):
        seal(rowdrop.output.bucket, OUTPUT)
        give_up(rowdrop, LOOKS_UNREADABLE - 1)
        rowdrop.output.put(OUTPUT, body)
        give_up(rowdrop, 1)
    assert rowdrop.backlog.evidence() == set()
    assert rowdrop.body() == body


def test_the_watch_goes_on_beside_an_unreadable_output(rowdrop: Stepping, watch: Watch, seal: Seal) -> None:
    rowdrop.drop("1")
    rowdrop.land("1")
    rowdrop.sweep()
    seal(rowdrop.output.bucket, OUTPUT)
    for _ in range(2):
        watch.tick()
    assert rowdrop.backlog.evidence() == {"files_changed"}


# -- the API ---------------------------------------------------------------------------------------
def test_the_api_says_why_a_file_cannot_be_read_and_deletes_it(stage: Stage, seal: Seal) -> None:
    for name in ("0001.csv", "0001.png"):
        seal(stage.source.bucket, name)
    answer = stage.api.get("/files/0001.csv")
    assert (answer.status, answer.json["type"]) == (409, "/docs#unreadable")
    assert "encrypted with a key that Rowdrop does not have" in answer.json["detail"]
    listed = stage.api.get("/files")
    assert [file["name"] for file in listed.json] == ["0001.csv", "0001.png"]
    stage.publish(
        f"user_id,first_name,last_name,birthts,img_path\n0001,A,B,1,{stage.source.bucket}/0001.png\n".encode()
    )
    assert stage.api.ask("DELETE", "/files/0001.csv").status == 202
    assert stage.api.ask("DELETE", "/files/0001.csv").status == 404
    assert not stage.source.exists("0001.csv")
    assert stage.api.ask("PUT", "/files/0001.png", b"x").status == 202


# -- errors that are not about an unreadable object ------------------------------------------------
def test_an_object_that_a_policy_denies_is_not_called_unreadable(
    minio_server: MinioServer, store: S3ObjectStore
) -> None:
    """The server's answer to one denied object is the same as to revoked credentials."""
    store.put("1.csv", b"x")
    admin = MinioAdmin(
        endpoint=urlsplit(minio_server.endpoint).netloc,
        credentials=StaticProvider(USER, PASSWORD),
        region="us-east-1",
        secure=False,
    )
    user = f"user-{secrets.token_hex(4)}"
    secret = secrets.token_hex(16)
    admin.user_add(user, secret)
    statement = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::*"]}
    admin.policy_add(user, policy={"Version": "2012-10-17", "Statement": [statement]})
    admin.policy_set(user, user=user)
    denied = S3ObjectStore(store.bucket, minio_server.endpoint, user, secret, "us-east-1")
    calls: list[Callable[[str], object]] = [
        denied.get,
        denied.exists,
        denied.info,
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

    def environment(self) -> dict[str, str]:
        settings = {name: value for name, value in super().environment().items() if "NOTIFY" not in name}
        return settings | ({"MINIO_KMS_SECRET_KEY": self.kms} if self.kms else {})


def new_key(name: str) -> str:
    return f"{name}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def test_an_object_whose_master_key_is_gone_is_unreadable(tmp_path: Path) -> None:
    """MinIO uses other codes here: 404 or 400 for another master key, 501 for a missing one."""
    ports = free_port(), free_port()
    server = KeyServerMinio(tmp_path, *ports, USER, PASSWORD, 1, "", find_minio())
    server.kms = new_key("first")
    with server:
        client = Minio(f"127.0.0.1:{server.port}", USER, PASSWORD, secure=False)
        client.make_bucket("bucket")
        client.put_object("bucket", "1.csv", io.BytesIO(b"x"), 1, sse=SseKMS("first", {}))
    for key, code in ((new_key("second"), "kms:KeyNotFound"), (new_key("first"), "kms:"), ("", "NotImplemented")):
        server.kms = key
        with server:
            store = S3ObjectStore("bucket", server.endpoint, USER, PASSWORD, "us-east-1")
            calls: list[Callable[[], object]] = [
                partial(store.get, "1.csv"),
                partial(store.check_readable, "1.csv"),
                partial(store.copy_from, "bucket", "1.csv", "2.csv"),
            ]
            for call in calls:
                with pytest.raises(ObjectUnreadable) as refused:
                    call()
                assert refused.value.code.startswith(code)
                assert refused.value.why.startswith("encrypted with a key that Rowdrop does not")
            assert store.exists("1.csv")
            ((listed,),) = store.objects()
            assert store.listed("1.csv") == listed
            store.put("2.csv", b"x")
            store.delete("2.csv")
    with server:
        store.delete("1.csv")
        assert not store.exists("1.csv")


def test_objects_that_cannot_be_listed_are_known_by_their_keys(tmp_path: Path) -> None:
    """With SSE-S3, MinIO decrypts each listed ETag, so without the key the whole LIST fails."""
    readable = [f"{number}.csv" for number in range(1200)]
    sealed = ["0.zip", "07.csv", "5.tar.gz", "500.jpg", "500.png", "99a.csv"]
    ports = free_port(), free_port()
    server = KeyServerMinio(tmp_path, *ports, USER, PASSWORD, 1, "", find_minio())
    server.kms = new_key("first")
    with server:
        client = Minio(f"127.0.0.1:{server.port}", USER, PASSWORD, secure=False)
        client.make_bucket("bucket")
        for key in sealed:
            client.put_object("bucket", key, io.BytesIO(b"x"), 1, sse=SseS3())
        store = S3ObjectStore("bucket", server.endpoint, USER, PASSWORD, "us-east-1")
        for key in readable:
            store.put(key, b"x")
    server.kms = ""
    with server:
        store = S3ObjectStore("bucket", server.endpoint, USER, PASSWORD, "us-east-1")
        listed = [found for page in store.objects() for found in page]
        assert [found.key for found in listed] == sorted([*readable, *sealed])
        assert {found.key for found in listed if not found.etag} == set(sealed)
        assert store.page("", "", 2000) == listed
        assert store.page("9", "", 3) == [found for found in listed if found.key >= "9"][:3]
        for key in sealed:
            assert store.listed(key) == (key, "", 0, 0)
            store.delete(key)
        store.put("notes.txt", b"x")
        assert [info.key for page in store.objects() for info in page] == sorted([*readable, "notes.txt"])
