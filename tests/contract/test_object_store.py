"""Contract of `ObjectStore` and `FileStore`, tested on a real MinIO.

It covers what Rowdrop relies on, mainly conditional writes and the meaning of absence.
"""

import io
import string
from collections.abc import Callable

import pytest
from minio import Minio

from shared.object_store import (
    NotModified,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    S3ObjectStore,
    StoreUnavailable,
)
from tests.conftest import Seal

MINIO_KEYS = [
    "a b.csv", "a+b.csv", "a%20b.csv", "100%.csv", "%2F.csv", "é.csv", "e\u0301.csv", "😀.csv", "тест.csv",
    ".hidden.csv", "..csv", "a..b.csv",
    'q"q.csv', "a#b?c.csv", "a&b=c;d.csv", "~a*b'(c)!.csv", "[x]{y}|^`.csv", "a,b.csv", ":x.csv",
    " lead.csv", "tail .csv", "dir/x.csv", "a\\b.csv", "\u202eabc.csv", "x" * 200 + ".csv",
]  # fmt: skip


def keys_of(store: ObjectStore, after: str = "") -> list[str]:
    return [found.key for page in store.objects(after) for found in page]


def test_an_object_is_read_as_it_was_written(store: S3ObjectStore) -> None:
    etag = store.put("a.csv", b"body")
    stored = store.get("a.csv")
    assert (stored.body, stored.etag) == (b"body", etag)
    assert stored.last_modified == store.last_modified("a.csv") > 0


@pytest.mark.parametrize("key", MINIO_KEYS)
def test_every_key_that_minio_takes_is_written_listed_read_and_removed(store: S3ObjectStore, key: str) -> None:
    store.put(key, b"x")
    assert keys_of(store) == [key]
    assert store.get(key).body == b"x"
    assert store.exists(key)
    store.delete(key)
    assert keys_of(store) == []


@pytest.mark.parametrize("character", ["\x01", "\t", "\n", "\x7f"])
def test_a_key_with_a_control_character_does_not_stop_the_listing(
    store: S3ObjectStore, minio_client: Minio, character: str
) -> None:
    hostile = f"m{character}.csv"
    minio_client.put_object(store.bucket, hostile, io.BytesIO(b"x"), 1)
    for key in ("a.csv", "z.csv"):
        store.put(key, b"x")
    assert keys_of(store) == ["a.csv", hostile, "z.csv"]


def test_a_missing_key_is_not_found(store: S3ObjectStore) -> None:
    for read in (store.get, store.last_modified):
        with pytest.raises(ObjectNotFound):
            read("nobody.csv")
    assert not store.exists("nobody.csv")
    assert store.etag("nobody.csv") is None
    store.delete("nobody.csv")


def test_a_missing_bucket_is_unavailable_and_never_a_missing_key(no_bucket: S3ObjectStore) -> None:
    calls = (no_bucket.get, no_bucket.exists, no_bucket.last_modified, no_bucket.etag, keys_of_bucket(no_bucket))
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call("a.csv")
    for expected in (None, "0" * 32):
        with pytest.raises(StoreUnavailable):
            no_bucket.replace("a.csv", b"x", expected)


def keys_of_bucket(store: ObjectStore) -> Callable[[str], list[str]]:
    return lambda _: keys_of(store)


def test_a_refused_key_pair_is_unavailable(stranger: S3ObjectStore) -> None:
    for call in (stranger.get, stranger.exists, stranger.etag, keys_of_bucket(stranger)):
        with pytest.raises(StoreUnavailable):
            call("a.csv")


def test_a_server_that_is_not_there_is_unavailable(nowhere: S3ObjectStore) -> None:
    for call in (nowhere.get, nowhere.exists, nowhere.etag, keys_of_bucket(nowhere)):
        with pytest.raises(StoreUnavailable):
            call("a.csv")


def test_a_known_etag_is_not_read_again(store: S3ObjectStore) -> None:
    etag = store.put("a.csv", b"1")
    with pytest.raises(NotModified):
        store.get("a.csv", if_none_match=etag)
    store.put("a.csv", b"2")
    assert store.get("a.csv", if_none_match=etag).body == b"2"


def test_an_object_is_replaced_only_while_it_is_the_expected_one(store: S3ObjectStore) -> None:
    first = store.replace("o", b"1", None)
    with pytest.raises(PreconditionFailed):
        store.replace("o", b"2", None)
    second = store.replace("o", b"2", first)
    with pytest.raises(PreconditionFailed):
        store.replace("o", b"3", first)
    assert store.get("o").body == b"2"
    store.delete("o")
    with pytest.raises(PreconditionFailed):
        store.replace("o", b"3", second)


def test_the_same_bytes_have_the_same_etag(store: S3ObjectStore) -> None:
    # The ETag is the MD5 of the bytes, so If-Match alone cannot order writes (ABA problem). The
    # publisher also needs a fencing token.
    first = store.put("o", b"1")
    store.put("o", b"2")
    assert store.put("o", b"1") == first


def test_of_a_large_object_only_the_beginning_is_read(store: S3ObjectStore) -> None:
    store.put("big.csv", b"x" * 3_000_000)
    body = store.get("big.csv", most=1000).body
    assert 1000 < len(body) < 2_000_000
    assert len(store.get("big.csv", most=3_000_000).body) == 3_000_000


def test_objects_are_listed_in_order_of_their_bytes_from_where_one_says(store: S3ObjectStore) -> None:
    keys = [f"{letter}{number}.csv" for letter in string.ascii_letters for number in range(25)]
    for key in keys:
        store.put(key, b"x")
    assert keys_of(store) == sorted(keys)
    assert keys_of(store, after="m") == sorted(key for key in keys if key > "m")
    assert all(len(page) <= 1000 for page in store.objects())


# -- the API's `FileStore` -----------------------------------------------------------------------
class Slowly:
    """A body that arrives in small parts, and may fail at its end."""

    def __init__(self, body: bytes, failure: Exception | None = None) -> None:
        self._body, self._failure = io.BytesIO(body), failure

    def read(self, size: int, /) -> bytes:
        part = self._body.read(min(size, 1000))
        if not part and self._failure:
            raise self._failure
        return part


def test_an_object_is_read_piece_by_piece(store: S3ObjectStore) -> None:
    etag = store.put("o", b"0123456789")
    first = store.segment("o", 0, 4)
    assert first == (b"0123", etag, store.last_modified("o"), 10)
    assert store.segment("o", 4, 4, if_match=etag).body == b"4567"
    assert store.segment("o", 8, 4, if_match=etag).body == b"89"
    assert store.segment("o", 10, 4, if_match=etag)[0::3] == (b"", 10)


def test_an_empty_object_has_an_empty_piece(store: S3ObjectStore) -> None:
    etag = store.put("o", b"")
    assert store.segment("o", 0, 4)[:2] == (b"", etag)


def test_pieces_of_two_versions_are_not_put_together(store: S3ObjectStore) -> None:
    etag = store.put("o", b"0123456789")
    store.put("o", b"abcdefghij")
    with pytest.raises(PreconditionFailed):
        store.segment("o", 4, 4, if_match=etag)


def test_a_piece_of_what_is_known_is_not_read_again(store: S3ObjectStore) -> None:
    etag = store.put("o", b"0123456789")
    with pytest.raises(NotModified):
        store.segment("o", 0, 4, if_none_match=etag)
    assert store.segment("o", 0, 4, if_none_match="0" * 32).body == b"0123"


def test_a_piece_of_what_is_not_there_is_not_found(store: S3ObjectStore, no_bucket: S3ObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        store.segment("nobody.png", 0, 4)
    with pytest.raises(StoreUnavailable):
        no_bucket.segment("nobody.png", 0, 4)


@pytest.mark.parametrize("key", MINIO_KEYS)
def test_every_key_that_minio_takes_is_uploaded(store: S3ObjectStore, key: str) -> None:
    store.upload(key, Slowly(b"x" * 5000), 5000)
    assert store.get(key).body == b"x" * 5000


def test_an_upload_is_one_object_as_any_other(store: S3ObjectStore) -> None:
    body = b"0123456789" * 300_000
    etag = store.upload("o", Slowly(body), len(body))
    assert etag == store.put("same", body)
    assert store.get("o").body == body
    assert store.upload("empty", Slowly(b""), 0) == store.put("same", b"")


def test_an_upload_that_breaks_off_changes_nothing(store: S3ObjectStore) -> None:
    store.put("o", b"before")
    with pytest.raises(TimeoutError, match="slow"):
        store.upload("o", Slowly(b"x" * 3000, TimeoutError("slow")), 4000)
    with pytest.raises(EOFError):
        store.upload("o", Slowly(b"x" * 3000), 4000)
    assert store.get("o").body == b"before"


def test_no_more_of_a_body_is_uploaded_than_was_said(store: S3ObjectStore) -> None:
    store.upload("o", Slowly(b"x" * 5000), 3000)
    assert len(store.get("o").body) == 3000


def test_an_upload_to_where_nothing_can_be_written_is_unavailable(
    no_bucket: S3ObjectStore, stranger: S3ObjectStore, nowhere: S3ObjectStore
) -> None:
    for where in (no_bucket, stranger, nowhere):
        with pytest.raises(StoreUnavailable):
            where.upload("o", Slowly(b"x" * 5000), 5000)
        with pytest.raises(StoreUnavailable):
            where.page("", "", 10)


def test_keys_are_listed_in_pages_by_how_they_begin(store: S3ObjectStore) -> None:
    for key in ("a.csv", "ab.csv", "ab.png", "abc.csv", "b.csv", "é.csv"):
        store.put(key, b"xyz")

    def keys(prefix: str, after: str, most: int) -> list[str]:
        return [found.key for found in store.page(prefix, after, most)]

    assert keys("", "", 2) == ["a.csv", "ab.csv"]
    assert keys("ab", "", 10) == ["ab.csv", "ab.png", "abc.csv"]
    assert keys("ab", "ab.csv", 1) == ["ab.png"]
    assert keys("é", "", 10) == ["é.csv"]
    assert keys("x", "", 10) == keys("", "é.csv", 10) == []
    assert [found.size for found in store.page("", "", 10)] == [3] * 6


def test_an_object_is_copied_by_the_server_from_another_bucket(store: S3ObjectStore, beside: S3ObjectStore) -> None:
    for key in MINIO_KEYS:
        etag = store.put(key, key.encode())
        beside.copy_from(store.bucket, key, f"images/{key}")
        assert beside.get(f"images/{key}").body == key.encode()
        assert beside.etag(f"images/{key}") == etag
    with pytest.raises(ObjectNotFound):
        beside.copy_from(store.bucket, "nobody.png", "images/nobody.png")
    with pytest.raises(StoreUnavailable):
        beside.copy_from("no-such-bucket", "a.png", "images/a.png")


def test_an_object_is_copied_within_its_bucket(store: S3ObjectStore) -> None:
    etag = store.put("a/b.png", b"x")
    store.copy_from(store.bucket, "a/b.png", "c/d.png")
    assert store.etag("c/d.png") == etag


def test_a_range_is_read_of_the_version_that_is_asked_for(store: S3ObjectStore) -> None:
    etag = store.put("o", b"0123456789")
    assert store.get_range("o", etag, 2, 5) == b"234"
    assert store.get_range("o", etag, 8, 100) == b"89"
    store.put("o", b"another")
    with pytest.raises(PreconditionFailed):
        store.get_range("o", etag, 2, 5)
    store.delete("o")
    with pytest.raises(ObjectNotFound):
        store.get_range("o", etag, 2, 5)


def test_an_objects_info_is_what_a_list_tells(store: S3ObjectStore) -> None:
    store.put("a.csv", b"12345")
    ((listed,),) = store.objects()
    assert store.info("a.csv") == listed
    assert store.info("nobody.csv") is None


def test_a_folder_is_listed_by_itself(store: S3ObjectStore) -> None:
    for key in ("a/1.csv", "a/2.csv", "ab/3.csv", "b/c/4.csv", "b/d/5.csv", "a.csv"):
        store.put(key, b"x")
    assert [info.key for page in store.objects(folder="a") for info in page] == ["a/1.csv", "a/2.csv"]
    assert [info.key for page in store.objects("a/1.csv", "a") for info in page] == ["a/2.csv"]
    assert (store.folders("b"), store.folders("nothing")) == (["c", "d"], [])


def test_many_keys_are_deleted_at_once_whether_or_not_they_are_there(store: S3ObjectStore) -> None:
    keys = [f"{number}.csv" for number in range(1200)]
    for key in keys[:100]:
        store.put(key, b"x")
    store.put("stays.csv", b"x")
    store.delete_many(keys)
    store.delete_many([])
    assert keys_of(store) == ["stays.csv"]


def test_of_a_missing_bucket_all_that_is_new_here_is_unavailable_too(no_bucket: S3ObjectStore) -> None:
    calls: list[Callable[[], object]] = [
        lambda: no_bucket.info("a"),
        lambda: no_bucket.get_range("a", "e", 0, 1),
        lambda: no_bucket.copy_from("src-data", "a", "b"),
        lambda: no_bucket.folders("a"),
        lambda: no_bucket.delete_many(["a"]),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call()


# -- objects that exist and cannot be read -------------------------------------------------------
def test_an_unreadable_object_is_a_word_of_its_own(store: S3ObjectStore, beside: S3ObjectStore, seal: Seal) -> None:
    etag = store.put("a.csv", b"before")
    seal(store.bucket, "a.csv")
    calls: list[Callable[[], object]] = [
        lambda: store.get("a.csv"),
        lambda: store.get("a.csv", if_none_match=etag),
        lambda: store.last_modified("a.csv"),
        lambda: store.etag("a.csv"),
        lambda: store.info("a.csv"),
        lambda: store.get_range("a.csv", etag, 0, 1),
        lambda: store.segment("a.csv", 0, 1),
        lambda: store.check_readable("a.csv"),
        lambda: store.replace("a.csv", b"x", None),
        lambda: store.replace("a.csv", b"x", etag),
        lambda: beside.copy_from(store.bucket, "a.csv", "b.csv"),
    ]
    for call in calls:
        with pytest.raises(ObjectUnreadable) as refused:
            call()
        assert refused.value.code == "InvalidRequest"
        assert "Encryption" in refused.value.message


def test_an_unreadable_object_exists_and_is_listed(store: S3ObjectStore, seal: Seal) -> None:
    seal(store.bucket, "a.csv")
    store.put("b.csv", b"x")
    ((sealed, other),) = store.objects()
    assert store.exists("a.csv")
    assert store.listed("a.csv") == sealed
    assert store.listed("b.csv") == other == store.info("b.csv")
    assert store.listed("a.cs") is None
    assert store.page("a.csv", "", 1) == [sealed]


def test_an_unreadable_object_can_be_overwritten_and_removed(store: S3ObjectStore, seal: Seal) -> None:
    for key in ("put.csv", "copied.csv", "deleted.csv", "many.csv"):
        seal(store.bucket, key)
    store.put("put.csv", b"new")
    store.copy_from(store.bucket, "put.csv", "copied.csv")
    store.delete("deleted.csv")
    store.delete_many(["many.csv"])
    assert store.get("put.csv").body == store.get("copied.csv").body == b"new"
    assert keys_of(store) == ["copied.csv", "put.csv"]
    store.check_readable("put.csv")


def test_what_is_readable_empty_or_not_there_is_not_unreadable(store: S3ObjectStore) -> None:
    store.put("empty.csv", b"")
    store.put("a.csv", b"x")
    for key in ("a.csv", "empty.csv", "nobody.csv"):
        store.check_readable(key)


def test_a_refusal_of_access_or_bucket_is_not_about_one_object(
    stranger: S3ObjectStore, no_bucket: S3ObjectStore, nowhere: S3ObjectStore
) -> None:
    for store in (stranger, no_bucket, nowhere):
        asked = (store.get, store.etag, store.exists, store.check_readable, store.listed)
        for call in asked:
            with pytest.raises(StoreUnavailable) as refused:
                call("a.csv")
            assert not isinstance(refused.value, ObjectUnreadable)
