"""Contract of `ObjectStore` and `FileStore`, tested on a real MinIO.

It covers what Rowdrop relies on, mainly conditional writes and the meaning of absence.
"""

import io
import itertools
import socket
import string
from collections.abc import Callable

import pytest
from minio import Minio

from local.ports import HOST
from shared.formats.source_keys import UserFile, classify_key
from shared.object_store import (
    NotModified,
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    StoreUnavailable,
)
from shared.s3.connection import S3Connection
from shared.s3.files import S3FileStore
from shared.s3.objects import S3ObjectStore
from tests.conftest import MakeUnreadable, OpenFiles

MINIO_KEYS = [
    "a b.csv", "a+b.csv", "a%20b.csv", "100%.csv", "%2F.csv", "é.csv", "e\u0301.csv", "😀.csv",
    "тест.csv", ".hidden.csv", "..csv", "a..b.csv",
    'q"q.csv', "a#b?c.csv", "a&b=c;d.csv", "~a*b'(c)!.csv", "[x]{y}|^`.csv", "a,b.csv", ":x.csv",
    " lead.csv", "tail .csv", "dir/x.csv", "a\\b.csv", "\u202eabc.csv", "x" * 200 + ".csv",
]  # fmt: skip


def keys_of(store: ObjectStore, after: str = "") -> list[str]:
    return [info.key for page in store.list_objects(after) for info in page]


def test_store_get_returns_object_as_written(store: S3ObjectStore) -> None:
    etag = store.put("a.csv", b"body")
    stored = store.get("a.csv")
    assert (stored.body, stored.etag) == (b"body", etag)
    assert stored.last_modified > 0
    info = ObjectInfo("a.csv", etag, stored.last_modified, len(b"body"))
    assert store.get_info("a.csv") == info


@pytest.mark.parametrize("key", MINIO_KEYS)
def test_store_supports_every_key_that_minio_accepts(store: S3ObjectStore, key: str) -> None:
    store.put(key, b"x")
    assert keys_of(store) == [key]
    assert store.get(key).body == b"x"
    assert store.exists(key)
    store.delete(key)
    assert keys_of(store) == []


def test_store_answers_for_every_key_with_dots_and_backslashes(store: S3ObjectStore) -> None:
    """MinIO refuses some of these keys. A request for one must not look like an outage."""
    characters = "\\. a"
    for length in range(1, 5):
        for name in map("".join, itertools.product(characters, repeat=length)):
            key = f"{name}.csv"
            assert store.get_list_entry(key) is None, key
            if isinstance(classify_key(key), UserFile):
                assert store.get_etag(key) is None, key
                assert store.get_info(key) is None, key


def test_store_list_fails_soon_if_the_server_hangs() -> None:
    """`list_page` is called for requests of the API, which must not wait for minutes."""
    with socket.create_server((HOST, 0)) as server:
        endpoint = f"http://{HOST}:{server.getsockname()[1]}"
        connection = S3Connection("bucket", endpoint, "key", "secret", "us-east-1")
        files = S3FileStore(S3ObjectStore(connection))
        with pytest.raises(StoreUnavailable, match="timed out"):
            files.list_page("", "", 1)


@pytest.mark.parametrize("character", ["\x01", "\t", "\n", "\x7f", "\ufffe", "\uffff"])
def test_store_list_continues_after_key_with_unusable_character(
    store: S3ObjectStore, minio_client: Minio, character: str
) -> None:
    special_key = f"m{character}.csv"
    minio_client.put_object(store.bucket, special_key, io.BytesIO(b"x"), 1)
    for key in ("a.csv", "z.csv"):
        store.put(key, b"x")
    assert keys_of(store) == ["a.csv", special_key, "z.csv"]


def test_store_reports_missing_key_as_not_found(store: S3ObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        store.get("nobody.csv")
    assert not store.exists("nobody.csv")
    assert store.get_etag("nobody.csv") is None
    store.delete("nobody.csv")


def test_store_reports_missing_bucket_as_unavailable(missing_bucket_store: S3ObjectStore) -> None:
    calls = (
        missing_bucket_store.get,
        missing_bucket_store.exists,
        missing_bucket_store.get_etag,
        keys_of_bucket(missing_bucket_store),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call("a.csv")
    for expected in (None, "0" * 32):
        with pytest.raises(StoreUnavailable):
            missing_bucket_store.put_if_unchanged("a.csv", b"x", expected)


def keys_of_bucket(store: ObjectStore) -> Callable[[str], list[str]]:
    return lambda _: keys_of(store)


def test_store_reports_rejected_credentials_as_unavailable(
    unauthorized_store: S3ObjectStore,
) -> None:
    for call in (
        unauthorized_store.get,
        unauthorized_store.exists,
        unauthorized_store.get_etag,
        keys_of_bucket(unauthorized_store),
    ):
        with pytest.raises(StoreUnavailable):
            call("a.csv")


def test_store_reports_unreachable_server_as_unavailable(unreachable_store: S3ObjectStore) -> None:
    for call in (
        unreachable_store.get,
        unreachable_store.exists,
        unreachable_store.get_etag,
        keys_of_bucket(unreachable_store),
    ):
        with pytest.raises(StoreUnavailable):
            call("a.csv")


def test_store_get_returns_not_modified_for_known_etag(store: S3ObjectStore) -> None:
    etag = store.put("a.csv", b"1")
    with pytest.raises(NotModified):
        store.get("a.csv", if_none_match=etag)
    store.put("a.csv", b"2")
    assert store.get("a.csv", if_none_match=etag).body == b"2"


def test_store_put_if_unchanged_fails_for_another_etag(store: S3ObjectStore) -> None:
    first = store.put_if_unchanged("o", b"1", None)
    with pytest.raises(PreconditionFailed):
        store.put_if_unchanged("o", b"2", None)
    second = store.put_if_unchanged("o", b"2", first)
    with pytest.raises(PreconditionFailed):
        store.put_if_unchanged("o", b"3", first)
    assert store.get("o").body == b"2"
    store.delete("o")
    with pytest.raises(PreconditionFailed):
        store.put_if_unchanged("o", b"3", second)


def test_store_put_gives_same_bytes_the_same_etag(store: S3ObjectStore) -> None:
    """The ETag is the MD5 of the bytes, so If-Match alone cannot order writes (ABA problem).

    The publisher also needs a fencing token.
    """
    first = store.put("o", b"1")
    store.put("o", b"2")
    assert store.put("o", b"1") == first


def test_store_get_returns_only_start_of_large_object(store: S3ObjectStore) -> None:
    store.put("big.csv", b"x" * 3_000_000)
    body = store.get("big.csv", max_bytes=1000).body
    assert 1000 < len(body) < 2_000_000
    assert len(store.get("big.csv", max_bytes=3_000_000).body) == 3_000_000


def test_store_list_objects_returns_sorted_keys_from_offset(store: S3ObjectStore) -> None:
    keys = [f"{letter}{number}.csv" for letter in string.ascii_letters for number in range(25)]
    for key in keys:
        store.put(key, b"x")
    assert keys_of(store) == sorted(keys)
    assert keys_of(store, after="m") == sorted(key for key in keys if key > "m")
    assert all(len(page) <= 1000 for page in store.list_objects())


# -- the API's `FileStore` -----------------------------------------------------------------------
class Slowly:
    """A body that arrives in small parts, and may fail at its end."""

    def __init__(self, body: bytes, failure: Exception | None = None) -> None:
        self._body = io.BytesIO(body)
        self._failure = failure

    def read(self, size: int, /) -> bytes:
        part = self._body.read(min(size, 1000))
        if not part and self._failure:
            raise self._failure
        return part


def test_store_get_segment_reads_object_in_pieces(store: S3ObjectStore, files: S3FileStore) -> None:
    etag = store.put("o", b"0123456789")
    first = files.get_segment("o", 0, 4)
    assert first == (b"0123", etag, store.get("o").last_modified, 10)
    assert files.get_segment("o", 4, 4, if_match=etag).body == b"4567"
    assert files.get_segment("o", 8, 4, if_match=etag).body == b"89"
    assert files.get_segment("o", 10, 4, if_match=etag)[0::3] == (b"", 10)


def test_store_get_segment_of_empty_object_is_empty(
    store: S3ObjectStore, files: S3FileStore
) -> None:
    etag = store.put("o", b"")
    assert files.get_segment("o", 0, 4)[:2] == (b"", etag)


def test_store_get_segment_refuses_another_version(
    store: S3ObjectStore, files: S3FileStore
) -> None:
    etag = store.put("o", b"0123456789")
    store.put("o", b"abcdefghij")
    with pytest.raises(PreconditionFailed):
        files.get_segment("o", 4, 4, if_match=etag)


def test_store_get_segment_returns_not_modified_for_known_etag(
    store: S3ObjectStore, files: S3FileStore
) -> None:
    etag = store.put("o", b"0123456789")
    with pytest.raises(NotModified):
        files.get_segment("o", 0, 4, if_none_match=etag)
    assert files.get_segment("o", 0, 4, if_none_match="0" * 32).body == b"0123"


def test_store_get_segment_reports_missing_key_as_not_found(
    store: S3ObjectStore,
    files: S3FileStore,
    missing_bucket_store: S3ObjectStore,
    open_files: OpenFiles,
) -> None:
    with pytest.raises(ObjectNotFound):
        files.get_segment("nobody.png", 0, 4)
    with pytest.raises(StoreUnavailable):
        open_files(missing_bucket_store).get_segment("nobody.png", 0, 4)


@pytest.mark.parametrize("key", MINIO_KEYS)
def test_store_upload_supports_every_key_that_minio_accepts(
    store: S3ObjectStore, files: S3FileStore, key: str
) -> None:
    files.upload(key, Slowly(b"x" * 5000), 5000)
    assert store.get(key).body == b"x" * 5000


def test_store_upload_creates_same_object_as_put(store: S3ObjectStore, files: S3FileStore) -> None:
    body = b"0123456789" * 300_000
    etag = files.upload("o", Slowly(body), len(body))
    assert etag == store.put("same", body)
    assert store.get("o").body == body
    assert files.upload("empty", Slowly(b""), 0) == store.put("same", b"")


def test_store_upload_that_fails_leaves_object_unchanged(
    store: S3ObjectStore, files: S3FileStore
) -> None:
    store.put("o", b"before")
    with pytest.raises(TimeoutError, match="slow"):
        files.upload("o", Slowly(b"x" * 3000, TimeoutError("slow")), 4000)
    with pytest.raises(EOFError):
        files.upload("o", Slowly(b"x" * 3000), 4000)
    assert store.get("o").body == b"before"


def test_store_upload_reads_no_more_than_declared_length(
    store: S3ObjectStore, files: S3FileStore
) -> None:
    files.upload("o", Slowly(b"x" * 5000), 3000)
    assert len(store.get("o").body) == 3000


def test_store_upload_reports_failed_access_as_unavailable(
    missing_bucket_store: S3ObjectStore,
    unauthorized_store: S3ObjectStore,
    unreachable_store: S3ObjectStore,
    open_files: OpenFiles,
) -> None:
    for where in (missing_bucket_store, unauthorized_store, unreachable_store):
        with pytest.raises(StoreUnavailable):
            open_files(where).upload("o", Slowly(b"x" * 5000), 5000)
        with pytest.raises(StoreUnavailable):
            open_files(where).list_page("", "", 10)


def test_store_list_page_returns_keys_by_prefix(store: S3ObjectStore, files: S3FileStore) -> None:
    for key in ("a.csv", "ab.csv", "ab.png", "abc.csv", "b.csv", "é.csv"):
        store.put(key, b"xyz")

    def keys(prefix: str, after: str, limit: int) -> list[str]:
        return [info.key for info in files.list_page(prefix, after, limit)]

    assert keys("", "", 2) == ["a.csv", "ab.csv"]
    assert keys("ab", "", 10) == ["ab.csv", "ab.png", "abc.csv"]
    assert keys("ab", "ab.csv", 1) == ["ab.png"]
    assert keys("é", "", 10) == ["é.csv"]
    assert keys("x", "", 10) == keys("", "é.csv", 10) == []
    assert [info.size for info in files.list_page("", "", 10)] == [3] * 6


def test_store_copy_from_copies_object_of_another_bucket(
    store: S3ObjectStore, other_store: S3ObjectStore
) -> None:
    for key in MINIO_KEYS:
        etag = store.put(key, key.encode())
        other_store.copy_from(store.bucket, key, f"images/{key}")
        assert other_store.get(f"images/{key}").body == key.encode()
        assert other_store.get_etag(f"images/{key}") == etag
    with pytest.raises(ObjectNotFound):
        other_store.copy_from(store.bucket, "nobody.png", "images/nobody.png")
    with pytest.raises(StoreUnavailable):
        other_store.copy_from("no-such-bucket", "a.png", "images/a.png")


def test_store_copy_from_records_etag_of_source(
    store: S3ObjectStore, other_store: S3ObjectStore
) -> None:
    for key in MINIO_KEYS:
        etag = store.put(key, key.encode())
        copied = f"images/{key}"
        assert other_store.copy_from(store.bucket, key, copied, etag, if_match=True) == etag
        info = other_store.get_info(copied)
        assert info is not None
        assert (info.etag, info.source_etag) == (etag, etag)
        assert other_store.get(copied).body == key.encode()
    listed = {info.key: info for page in other_store.list_objects() for info in page}
    pages = other_store.list_objects(folder="images", with_source_etags=True)
    shown = {info.key: info for page in pages for info in page}
    assert len(shown) == len(MINIO_KEYS)
    assert shown == {key: info._replace(source_etag=info.etag) for key, info in listed.items()}
    other_store.put("images/a b.csv", b"no copy")
    replaced = other_store.get_info("images/a b.csv")
    assert replaced is not None
    assert replaced.source_etag == ""


def test_store_copy_from_with_source_etag_fails_like_without(
    store: S3ObjectStore, other_store: S3ObjectStore, missing_bucket_store: S3ObjectStore
) -> None:
    etag = store.put("a.png", b"x")
    store.put("a.png", b"newer")
    with pytest.raises(PreconditionFailed):
        other_store.copy_from(store.bucket, "a.png", "images/a.png", etag, if_match=True)
    assert not other_store.exists("images/a.png")
    assert other_store.copy_from(store.bucket, "a.png", "images/a.png", "another")
    with pytest.raises(ObjectNotFound):
        other_store.copy_from(store.bucket, "nobody.png", "images/nobody.png", etag)
    with pytest.raises(StoreUnavailable):
        other_store.copy_from("no-such-bucket", "a.png", "images/a.png", etag)
    with pytest.raises(StoreUnavailable):
        missing_bucket_store.copy_from(store.bucket, "a.png", "images/a.png", etag)


def test_store_copy_from_reports_outage_as_unavailable(
    unreachable_store: S3ObjectStore, unauthorized_store: S3ObjectStore
) -> None:
    for outage in (unreachable_store, unauthorized_store):
        with pytest.raises(StoreUnavailable) as failed:
            outage.copy_from("any", "a.png", "b.png", "etag")
        assert not isinstance(failed.value, ObjectUnreadable)


def test_store_copy_from_copies_object_within_bucket(store: S3ObjectStore) -> None:
    etag = store.put("a/b.png", b"x")
    store.copy_from(store.bucket, "a/b.png", "c/d.png")
    assert store.get_etag("c/d.png") == etag


def test_store_get_range_reads_only_requested_version(store: S3ObjectStore) -> None:
    etag = store.put("o", b"0123456789")
    assert store.get_range("o", etag, 2, 5) == b"234"
    assert store.get_range("o", etag, 8, 100) == b"89"
    store.put("o", b"another")
    with pytest.raises(PreconditionFailed):
        store.get_range("o", etag, 2, 5)
    store.delete("o")
    with pytest.raises(ObjectNotFound):
        store.get_range("o", etag, 2, 5)


def test_store_get_info_equals_list_entry(store: S3ObjectStore) -> None:
    store.put("a.csv", b"12345")
    ((listed,),) = store.list_objects()
    assert store.get_info("a.csv") == listed
    assert store.get_info("nobody.csv") is None


def test_store_list_objects_lists_one_folder(store: S3ObjectStore) -> None:
    for key in ("a/1.csv", "a/2.csv", "ab/3.csv", "b/c/4.csv", "b/d/5.csv", "a.csv"):
        store.put(key, b"x")
    assert [info.key for page in store.list_objects(folder="a") for info in page] == [
        "a/1.csv",
        "a/2.csv",
    ]
    assert [info.key for page in store.list_objects("a/1.csv", "a") for info in page] == ["a/2.csv"]
    assert (store.list_folders("b"), store.list_folders("nothing")) == (["c", "d"], [])


def test_store_delete_many_ignores_missing_keys(store: S3ObjectStore) -> None:
    keys = [f"{number}.csv" for number in range(1200)]
    for key in keys[:100]:
        store.put(key, b"x")
    store.put("stays.csv", b"x")
    store.delete_many(keys)
    store.delete_many([])
    assert keys_of(store) == ["stays.csv"]


def test_store_bulk_calls_report_missing_bucket_as_unavailable(
    missing_bucket_store: S3ObjectStore,
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: missing_bucket_store.get_info("a"),
        lambda: missing_bucket_store.get_range("a", "e", 0, 1),
        lambda: missing_bucket_store.copy_from("src-data", "a", "b"),
        lambda: missing_bucket_store.list_folders("a"),
        lambda: missing_bucket_store.delete_many(["a"]),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call()


# -- objects that exist and cannot be read -------------------------------------------------------
def test_store_raises_object_unreadable_for_unreadable_object(
    store: S3ObjectStore,
    files: S3FileStore,
    other_store: S3ObjectStore,
    make_unreadable: MakeUnreadable,
) -> None:
    etag = store.put("a.csv", b"before")
    make_unreadable(store.bucket, "a.csv")
    calls: list[Callable[[], object]] = [
        lambda: store.get("a.csv"),
        lambda: store.get("a.csv", if_none_match=etag),
        lambda: store.get_etag("a.csv"),
        lambda: store.get_info("a.csv"),
        lambda: store.get_range("a.csv", etag, 0, 1),
        lambda: files.get_segment("a.csv", 0, 1),
        lambda: store.check_readable("a.csv"),
        lambda: store.put_if_unchanged("a.csv", b"x", None),
        lambda: store.put_if_unchanged("a.csv", b"x", etag),
        lambda: other_store.copy_from(store.bucket, "a.csv", "b.csv"),
        lambda: other_store.copy_from(store.bucket, "a.csv", "b.csv", etag, if_match=True),
    ]
    for call in calls:
        with pytest.raises(ObjectUnreadable) as refused:
            call()
        assert refused.value.code == "InvalidRequest"
        assert "Encryption" in refused.value.message


def test_store_exists_and_list_include_unreadable_object(
    store: S3ObjectStore, files: S3FileStore, make_unreadable: MakeUnreadable
) -> None:
    make_unreadable(store.bucket, "a.csv")
    store.put("b.csv", b"x")
    ((unreadable, other),) = store.list_objects()
    assert store.exists("a.csv")
    assert store.get_list_entry("a.csv") == unreadable
    assert store.get_list_entry("b.csv") == other == store.get_info("b.csv")
    assert store.get_list_entry("a.cs") is None
    assert files.list_page("a.csv", "", 1) == [unreadable]


def test_store_overwrites_and_deletes_unreadable_object(
    store: S3ObjectStore, make_unreadable: MakeUnreadable
) -> None:
    for key in ("put.csv", "copied.csv", "deleted.csv", "many.csv"):
        make_unreadable(store.bucket, key)
    store.put("put.csv", b"new")
    store.copy_from(store.bucket, "put.csv", "copied.csv")
    store.delete("deleted.csv")
    store.delete_many(["many.csv"])
    assert store.get("put.csv").body == store.get("copied.csv").body == b"new"
    assert keys_of(store) == ["copied.csv", "put.csv"]
    store.check_readable("put.csv")


def test_store_check_readable_accepts_empty_and_missing_objects(store: S3ObjectStore) -> None:
    store.put("empty.csv", b"")
    store.put("a.csv", b"x")
    for key in ("a.csv", "empty.csv", "nobody.csv"):
        store.check_readable(key)


def test_store_access_errors_are_not_object_unreadable(
    unauthorized_store: S3ObjectStore,
    missing_bucket_store: S3ObjectStore,
    unreachable_store: S3ObjectStore,
) -> None:
    for store in (unauthorized_store, missing_bucket_store, unreachable_store):
        calls = (
            store.get,
            store.get_etag,
            store.exists,
            store.check_readable,
            store.get_list_entry,
        )
        for call in calls:
            with pytest.raises(StoreUnavailable) as refused:
                call("a.csv")
            assert not isinstance(refused.value, ObjectUnreadable)
