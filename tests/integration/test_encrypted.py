"""Rowdrop on a real MinIO that encrypts: by its own setting, and by the default of the buckets.

With SSE-KMS no ETag is an MD5, and each write of the same bytes has another one, copies included.
With SSE-S3, ETags are MD5s.
"""

import base64
import io
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.sse import SseKMS
from minio.sseconfig import Rule, SSEConfig

from local.ports import find_free_port
from local.servers import MinioOptions, MinioPorts, MinioServer, RedisServer, ServerUser, find_minio
from shared.formats.object_names import IMAGES_FOLDER, UNPACKED_FOLDER
from shared.object_store import ObjectInfo, ObjectStore, PreconditionFailed
from shared.settings import Settings
from tests.archives import make_zip
from tests.conftest import MINIO_PASSWORD, MINIO_USER
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.load import COMPARED_BYTES, Loader, make_plan

KEY_NAME = "tests"


class EncryptingMinio(MinioServer):
    """A MinIO with a master key; it encrypts every object if `encrypts_all`."""

    encrypts_all = False

    def build_environment(self) -> dict[str, str]:
        return super().build_environment() | {
            "MINIO_KMS_SECRET_KEY": f"{KEY_NAME}:{base64.b64encode(bytes(range(32))).decode()}",
            "MINIO_KMS_AUTO_ENCRYPTION": "on" if self.encrypts_all else "off",
        }


@pytest.fixture(scope="module", params=["every object", "SSE-KMS", "SSE-S3"])
def encryption(request: pytest.FixtureRequest) -> str:
    """Return what MinIO encrypts: every object, or those of buckets with this default."""
    return str(request.param)


@pytest.fixture(scope="module")
def minio_server(
    encryption: str, tmp_path_factory: pytest.TempPathFactory, minio_redis_server: RedisServer
) -> Iterator[MinioServer]:
    server = EncryptingMinio(
        tmp_path_factory.mktemp("encrypting"),
        MinioPorts(find_free_port()),
        ServerUser(MINIO_USER, MINIO_PASSWORD),
        minio_redis_server.address,
        MinioOptions(find_minio()),
    )
    server.encrypts_all = encryption == "every object"
    with server:
        yield server


@pytest.fixture(scope="module")
def minio_client(minio_server: MinioServer) -> Minio:
    return Minio(urlsplit(minio_server.endpoint).netloc, MINIO_USER, MINIO_PASSWORD, secure=False)


@pytest.fixture
def copying(settings: Settings, minio_client: Minio, encryption: str) -> Iterator[RowdropHarness]:
    rules = {
        "SSE-KMS": Rule.new_sse_kms_rule(KEY_NAME),
        "SSE-S3": Rule.new_sse_s3_rule(),
    }
    if encryption in rules:
        for bucket in (settings.source_bucket, settings.output_bucket):
            minio_client.set_bucket_encryption(bucket, SSEConfig(rules[encryption]))
    harness = RowdropHarness(replace(settings, copy_images=True))
    yield harness
    harness.close()


def list_folder(rowdrop: RowdropHarness, folder: str) -> dict[str, str]:
    """Return key and ETag of each object in this folder of the output bucket."""
    return {
        info.key: info.etag for page in rowdrop.output.list_objects(folder=folder) for info in page
    }


def publish_images(rowdrop: RowdropHarness, *users: str) -> dict[str, str]:
    """Publish these users with an image each; return key and ETag of each image copy."""
    for user in users:
        rowdrop.put_files(user, images=["png"])
    rowdrop.process_users(*users)
    rowdrop.publisher.write_manifest()
    return list_folder(rowdrop, IMAGES_FOLDER)


class CountedStore:
    """A bucket that records the names of the requests that read its objects."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.bucket = store.bucket
        self.requests = list[str]()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  the bucket's methods, recorded
        self.requests.append(name)
        return getattr(self._store, name)


def test_encrypted_objects_have_other_etags(copying: RowdropHarness, encryption: str) -> None:
    """The premise of these tests."""
    etags = {copying.source.put(f"{number}.png", b"same") for number in range(2)}
    assert len(etags) == (1 if encryption == "SSE-S3" else 2)


def test_sweep_of_unchanged_images_copies_nothing(copying: RowdropHarness) -> None:
    users = [f"u{number:02}" for number in range(30)]
    before = publish_images(copying, *users)
    assert len(before) == 30
    for _ in range(2):
        assert copying.run_sweep() == 0
        assert copying.find_differences() == []
    assert list_folder(copying, IMAGES_FOLDER) == before


def test_sweep_sends_no_request_per_image_copy(copying: RowdropHarness) -> None:
    publish_images(copying, *(f"u{number:02}" for number in range(30)))
    output = CountedStore(copying.output)
    assert copying.create_sweep(output=output).run("test") == 0
    assert output.requests.count("get_info") == 0
    assert output.requests.count("list_objects") <= 2


def test_reads_of_unchanged_image_copy_nothing(copying: RowdropHarness) -> None:
    before = publish_images(copying, "1", "2")
    copying.process_users("1", "2")
    task_id, _ = copying.services.records.rebuilds.request(time.time())
    copying.services.rebuild.start(task_id)
    copying.run_bulk_work()
    assert list_folder(copying, IMAGES_FOLDER) == before


def test_sweep_repairs_encrypted_copies_of_other_images(copying: RowdropHarness) -> None:
    """The images and copies that it finds have the size of the right ones."""
    publish_images(copying, "fine", "replaced", "by-hand", "swapped", "lost")
    copying.source.put("replaced.png", b"IMAGE")
    copying.output.put("images/by-hand.png", b"other")
    copying.output.delete("images/lost.png")
    other_etag = copying.source.put("other.png", b"other")
    copying.output.copy_from(
        copying.source.bucket, "other.png", "images/swapped.png", other_etag, if_match=True
    )
    copying.source.delete("other.png")
    assert len(copying.find_differences()) == 4
    assert copying.run_sweep() == 4
    assert copying.find_differences() == []
    bodies = {key: copying.output.get(key).body for key in list_folder(copying, IMAGES_FOLDER)}
    assert bodies.pop("images/replaced.png") == b"IMAGE"
    assert set(bodies.values()) == {b"image"}
    copying.publisher.write_manifest()
    assert copying.run_sweep() == 0


def test_copy_is_of_the_version_with_its_recorded_etag(copying: RowdropHarness) -> None:
    """The image is replaced after a LIST has shown its ETag, and before it is copied."""
    copying.put_files("1", images=["png"])
    reference = copying.services.image_copies.make_own_ref(
        "1.png", copying.source.put("1.png", b"listed")
    )
    etag = copying.source.put("1.png", b"newer!")
    with pytest.raises(PreconditionFailed):
        copying.output.copy_from(
            copying.source.bucket, "1.png", "images/1.png", reference.original_etag, if_match=True
        )
    assert copying.services.image_copies.make_copy(reference, None)
    copy = copying.output.get_info("images/1.png")
    assert copy is not None
    assert etag in {copy.etag, copy.source_etag}
    assert copying.output.get("images/1.png").body == b"newer!"


def test_single_encrypted_image_is_copied_once_more_at_most(
    copying: RowdropHarness, minio_client: Minio
) -> None:
    """Also where copies of all other images keep the ETag."""
    publish_images(copying, "1")
    minio_client.put_object(
        copying.source.bucket, "2.png", io.BytesIO(b"x"), 1, sse=SseKMS(KEY_NAME, {})
    )
    copying.put_files("2")
    copying.process_users("2")
    copying.publisher.write_manifest()
    copying.run_sweep()
    before = list_folder(copying, IMAGES_FOLDER)
    assert len(before) == 2
    assert copying.run_sweep() == 0
    assert list_folder(copying, IMAGES_FOLDER) == before
    assert copying.find_differences() == []


def test_image_copies_have_type_of_their_extension(
    copying: RowdropHarness, minio_client: Minio, encryption: str
) -> None:
    minio_client.put_object(
        copying.source.bucket, "1.png", io.BytesIO(b"x"), 1, content_type="text/html"
    )
    copying.put_files("1")
    copying.process_users("1")
    stat = minio_client.stat_object(copying.output.bucket, "images/1.png")
    assert stat.content_type == "image/png"


# -- bundles ---------------------------------------------------------------------------------------
def test_encrypted_bundle_is_unpacked_once(copying: RowdropHarness) -> None:
    members = {"1.csv": make_csv(), "1.png": b"one", "2.csv": make_csv(), "2.jpg": b"two"}
    copying.source.put("u.zip", make_zip(members))
    copying.process_bundles("u.zip")
    copying.publisher.write_manifest()
    unpacked = list_folder(copying, UNPACKED_FOLDER)
    copies = list_folder(copying, IMAGES_FOLDER)
    assert (len(unpacked), len(copies)) == (3, 2)
    assert copying.run_sweep() == 0
    copying.process_bundles("u.zip")  # for example by a repeated event
    copying.publisher.write_manifest()
    assert copying.run_sweep() == 0
    assert list_folder(copying, UNPACKED_FOLDER) == unpacked
    assert list_folder(copying, IMAGES_FOLDER) == copies
    assert copying.find_differences() == []


def test_encrypted_bundle_keeps_previous_version(copying: RowdropHarness) -> None:
    """Its archive is gone, so what was unpacked is the only copy."""
    copying.source.put("u.zip", make_zip({"1.csv": make_csv(), "1.png": b"one"}))
    copying.process_bundles("u.zip")
    copying.source.put("u.zip", b"not an archive")
    for _ in range(3):
        copying.process_bundles("u.zip")
    assert list(copying.read_rows()) == ["1"]
    assert copying.find_differences() == []


# -- published files -------------------------------------------------------------------------------
def test_watchdog_takes_encrypted_files_for_its_own(copying: RowdropHarness) -> None:
    publish_images(copying, "1")
    copying.source.put("u.zip", make_zip({"2.csv": make_csv()}))
    copying.process_bundles("u.zip")
    copying.run_sweep()
    checks = copying.create_checks()
    for _ in range(3):
        checks.published_files.tick(0)
    assert copying.state.loss_signals.unresolved() == set()
    copying.create_publisher().publish()  # which reads the files again
    assert copying.state.loss_signals.unresolved() == set()


# -- the loader ------------------------------------------------------------------------------------
def load(rowdrop: RowdropHarness, folder: Path) -> tuple[int, int]:
    """Load the folder; return the numbers of loaded and of unchanged files."""
    progress = list[int]()
    minio = rowdrop.services.clients.create_minio_client()
    loader = Loader(rowdrop.source, minio, progress.append)
    loader.load(make_plan(folder))
    return loader.loaded, loader.unchanged


def test_loader_loads_encrypted_files_once(copying: RowdropHarness, tmp_path: Path) -> None:
    files = {f"{number:03}.csv": make_csv(f"N{number}") for number in range(40)}
    files["large.png"] = secrets.token_bytes(2 * COMPARED_BYTES + 1)
    files["empty.png"] = b""
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
    assert load(copying, tmp_path) == (42, 0)
    before = {info.key: info for page in copying.source.list_objects() for info in page}
    assert load(copying, tmp_path) == (0, 42)
    (tmp_path / "007.csv").write_bytes(make_csv("M7"))  # of the same size
    (tmp_path / "large.png").write_bytes(files["large.png"][:-1] + b"?")
    (tmp_path / "008.csv").write_bytes(make_csv("longer"))
    assert load(copying, tmp_path) == (3, 39)
    after = {info.key: info for page in copying.source.list_objects() for info in page}
    assert {key for key in before if before[key] != after[key]} == {
        "007.csv",
        "large.png",
        "008.csv",
    }
    assert copying.source.get("large.png").body[-1:] == b"?"


def test_loader_recognises_files_uploaded_in_parts(
    copying: RowdropHarness, tmp_path: Path, minio_client: Minio
) -> None:
    body = bytes(11_000_000)
    minio_client.put_object(
        copying.source.bucket, "1.png", io.BytesIO(body), len(body), part_size=5 << 20
    )
    (tmp_path / "1.png").write_bytes(body)
    assert load(copying, tmp_path) == (0, 1)


def test_object_info_by_list_shows_source_etags_on_request(copying: RowdropHarness) -> None:
    etag = copying.source.put("a b+é.png", b"x")
    key = "images/a b+é.png"
    copying.output.put("images/other.png", b"x")
    copy_etag = copying.output.copy_from(copying.source.bucket, "a b+é.png", key, etag)

    def find(*, with_source_etags: bool) -> ObjectInfo:
        pages = copying.output.list_objects(
            folder=IMAGES_FOLDER, with_source_etags=with_source_etags
        )
        return {info.key: info for page in pages for info in page}[key]

    assert find(with_source_etags=True) == copying.output.get_info(key)
    assert find(with_source_etags=True).source_etag == etag
    assert find(with_source_etags=False).source_etag == ""
    assert find(with_source_etags=False).etag == copy_etag
