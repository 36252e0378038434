"""Access to the objects of one bucket: ports and errors. The adapter is `shared.s3`.

Only the error code `NoSuchKey` means that an object is absent (`ObjectNotFound`). A missing bucket,
refused credentials, a server error or a timeout raises `StoreUnavailable`, so an outage is never
mistaken for a deletion. obstore raises the same `FileNotFoundError` for a missing key and a missing
bucket; only the S3 error code in the response body distinguishes them. Absence is therefore
verified by GET, never by HEAD, because a HEAD response has no body.

`ObjectUnreadable` is a third case: the object exists, but the server cannot read this one object,
usually because it is encrypted with a key that the server does not have.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

_ENCRYPTION_ERROR = re.compile("encrypt|XMinioObjectTampered|^kms", re.IGNORECASE)
LIST_PAGE_SIZE = 1000
"""Maximum number of keys in one response of S3's ListObjectsV2."""


class ObjectNotFound(Exception):
    """The object does not exist: the server returned `NoSuchKey`."""


class NotModified(Exception):
    """The object still has the ETag that the caller already has."""


class PreconditionFailed(Exception):
    """A conditional read or write found another version of the object, or a write found none."""


class StoreUnavailable(Exception):
    """Any other failure: no response, no access, no bucket.

    The state of the object is unknown. Retry later.
    """


class ObjectUnreadable(StoreUnavailable):
    """The object exists, but the server cannot read it. `code` and `message` are the server's.

    `key` is empty if a LIST failed because of an object in it. Handling this error as
    `StoreUnavailable` is always safe.
    """

    def __init__(self, bucket: str, key: str, code: str, message: str) -> None:
        super().__init__(f"{bucket}/{key}: {code}: {message}")
        self.key = key
        self.code = code
        self.message = " ".join(message.split())[:300]

    @property
    def reason(self) -> str:
        """Return the reason in words, always the same text for the same object."""
        text = f"{self.code}: {self.message}"
        if not _ENCRYPTION_ERROR.search(text):
            return text
        return f"encrypted with a key that Rowdrop does not have ({text})"


class StoredObject(NamedTuple):
    """An object that was read: its bytes and metadata.

    `etag` is without quotes. `last_modified` is in whole seconds since 1970 UTC.
    """

    body: bytes
    etag: str
    last_modified: int


class ObjectInfo(NamedTuple):
    """The metadata of an object, as in `StoredObject`; `size` is in bytes.

    `source_etag` is the ETag of the object that it was copied from, empty if `copy_from` did not
    record it. A LIST shows it only on request.
    """

    key: str
    etag: str
    last_modified: int
    size: int
    source_etag: str = ""


class Segment(NamedTuple):
    """A byte range of an object.

    `etag`, `last_modified` and `size` (in bytes) are those of the whole object, as in `ObjectInfo`.
    """

    body: bytes
    etag: str
    last_modified: int
    size: int


class ByteReader(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, or none at the end of the stream."""


class ObjectStore(Protocol):
    """Port: one bucket, as workers and publisher use it. Thread-safe.

    Every method may raise `StoreUnavailable`. Methods that read an object, and conditional writes,
    may raise `ObjectUnreadable`; unconditional writes and deletions do not read the object.
    """

    bucket: str

    def get(
        self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
    ) -> StoredObject:
        """Read an object.

        If it is larger than `max_bytes`, only a beginning longer than `max_bytes` is returned, so
        the caller can detect the excess. Raises `ObjectNotFound`, or `NotModified` if the object's
        ETag is `if_none_match` (without quotes).
        """

    def exists(self, key: str) -> bool:
        """Return whether the key exists, in one round trip and without transferring the object.

        An unreadable object exists.
        """

    def check_readable(self, key: str) -> None:
        """Read one byte of the object. Raises `ObjectUnreadable`; a missing object is no error."""

    def get_list_entry(self, key: str) -> ObjectInfo | None:
        """Return an object's metadata as LIST shows it, or None if there is no such key.

        The object need not be readable. If the server cannot even list it, the ETag is empty and
        the other fields are 0.
        """

    def get_etag(self, key: str) -> str | None:
        """Return the object's ETag without quotes, or None if there is no such key."""

    def get_info(self, key: str) -> ObjectInfo | None:
        """Return the metadata of an object by HEAD; None if there is no such key.

        It includes `source_etag`. Unlike `get_list_entry`, raises `ObjectUnreadable` for an
        unreadable object.
        """

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end` (exclusive) of the version with this ETag.

        Raises `PreconditionFailed` if the object has another ETag now, `ObjectNotFound` if it does
        not exist.
        """

    def put(self, key: str, body: bytes) -> str:
        """Write unconditionally and return the new ETag."""

    def put_if_unchanged(self, key: str, body: bytes, expected_etag: str | None) -> str:
        """Write by compare-and-set on the ETag and return the new ETag.

        `expected_etag` is the ETag that the current object must have; None means that there must be
        no object. Raises `PreconditionFailed` otherwise. After `StoreUnavailable` the outcome is
        unknown: the write may have happened, or may still happen later.
        """

    def copy_from(
        self,
        bucket: str,
        key: str,
        target_key: str,
        source_etag: str = "",
        *,
        if_match: bool = False,
    ) -> str:
        """Copy an object of `bucket` to the key `target_key` of this bucket, on the server.

        With `source_etag`, that is recorded in the metadata of the copy, and the ETag of the copy
        is returned: where objects are encrypted, it is not that of the source. Without, the copy is
        faster, and the result is empty. With `if_match`, raises `PreconditionFailed` if the source
        has another ETag than `source_etag` now. Raises `ObjectNotFound`. `ObjectUnreadable` may
        concern either of the two objects.
        """

    def delete(self, key: str) -> None:
        """Delete an object. A missing object is no error."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects in as few requests as possible. Missing objects are no error."""

    def list_objects(
        self, after: str = "", folder: str = "", *, with_source_etags: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """List all objects with a key greater than `after`, in batches of about 1,000.

        Keys are in ascending order of their UTF-8 bytes. If `folder` is given (without the trailing
        slash), only the objects in it are listed; their keys still include the folder.
        `with_source_etags`: show `source_etag`, which only MinIO does, and more slowly.
        """

    def list_folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in this one, without slashes."""


class FileStore(Protocol):
    """Port: the source bucket as the API uses it, for files of any size.

    Every method may raise `StoreUnavailable`.
    """

    bucket: str

    def exists(self, key: str) -> bool:
        """See `ObjectStore.exists`."""

    def put(self, key: str, body: bytes) -> str:
        """See `ObjectStore.put`."""

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""

    def get_segment(
        self,
        key: str,
        start: int,
        length: int,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Segment:
        """Read up to `length` bytes from `start`, to stream an object of any size in segments.

        Beyond the end of the object the segment is empty. Raises `ObjectNotFound`;
        `PreconditionFailed` if the object's ETag is not, or no longer, `if_match`; `NotModified` if
        it is `if_none_match`.
        """

    def upload(self, key: str, body: ByteReader, length: int) -> str:
        """Stream `length` bytes into an object unconditionally and return the new ETag.

        The body is never held in memory as a whole, and the write is atomic: the object is complete
        or unchanged. Raises what `body.read` raises, and `EOFError` if the body ends too early.
        """

    def list_page(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        """Return the first `limit` objects with this key prefix and a key greater than `after`.

        They are in ascending order of their keys' UTF-8 bytes.
        """


def md5_etag(body: bytes) -> str:
    """Return the ETag, without quotes, that S3 gives an object written in one part."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
