"""Access to the objects of one bucket: ports, errors, and the S3 adapter (obstore and minio-py).

Only the error code `NoSuchKey` means that an object is absent (`ObjectNotFound`). A missing bucket,
refused credentials, a server error or a timeout raises `StoreUnavailable`, so an outage is never
mistaken for a deletion. obstore raises the same `FileNotFoundError` for a missing key and a missing
bucket; only the S3 error code in the response body distinguishes them. Absence is therefore
verified by GET, never by HEAD, because a HEAD response has no body.

`ObjectUnreadable` is a third case: the object exists, but the server cannot read this one object,
usually because it is encrypted with a key that the server does not have.
"""

import html
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import obstore
from minio import Minio
from minio.error import MinioException, S3Error
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, NotModifiedError, PreconditionError
from obstore.store import S3Store
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from shared.keys import BUNDLE_EXTENSIONS, USER_FILE_EXTENSIONS
from shared.settings import Settings

_S3_ERROR_BODY = re.compile(r"<Code>([^<]*)</Code>\s*<Message>([^<]*)</Message>")
_CLIENT_ERROR_STATUS = re.compile(r"status code: 4\d\d\b")
# Error codes of 4xx responses that concern the request or the server. Any other code of a 4xx
# response means that this one object is unreadable.
_REQUEST_ERROR_CODES = re.compile(
    # credentials, permissions and clock skew
    "AccessDenied|AccessForbidden|AllAccessDisabled|AccountProblem|AuthorizationHeaderMalformed|ExpiredToken|Invalid.*Token"
    "|InvalidAccessKeyId|InvalidClientTokenId|MissingSecurityHeader|NotSignedUp|RequestExpired|RequestTimeTooSkewed"
    "|SignatureDoesNotMatch|TokenRefreshRequired|XAmzContentSHA256Mismatch|XMinioServerNotInitialized"
    # the bucket
    "|NoSuchBucket|InvalidBucketName|IllegalLocationConstraintException|PermanentRedirect"
    # load, and invalid requests
    "|RequestTimeout|SlowDown.*|TooManyRequests|OperationAborted|PreconditionFailed|ConditionalRequestConflict|InvalidRange"
    "|InvalidArgument|InvalidURI|KeyTooLongError|MalformedXML|MethodNotAllowed|NoSuchKey|NoSuchVersion"
    "|XMinioInvalidObjectName|XMinioParentIsObject"
)
_DECRYPTION_ERROR = re.compile("XMinioObjectTampered: .*|XMinioEncryptionError: .*|kms:.*|NotImplemented: .*encrypt.*")
"""MinIO's decryption errors, which may come with a status other than 4xx.

The status is 206 in some LIST responses, and 501 where no key server (KMS) is configured.
"""
_UPLOAD_URL_TTL = timedelta(minutes=10)
_RETRY_CONFIG: "obstore.store.RetryConfig" = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=1), "base": 2},
}
_LIST_DECRYPTION_ERROR = re.compile("<Code>(XMinioEncryptionError|kms:[^<]*)</Code>")
"""Part of obstore's error text when a LIST fails because of one object in it."""
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

    `etag` is without quotes. `get_last_modified` is in whole seconds since 1970 UTC.
    """

    body: bytes
    etag: str
    last_modified: int


class ObjectInfo(NamedTuple):
    """The metadata of an object, as in `StoredObject`; `size` is in bytes."""

    key: str
    etag: str
    last_modified: int
    size: int


class Segment(NamedTuple):
    """A byte range of an object; `size` is the whole object's, in bytes."""

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

    def get(self, key: str, if_none_match: str | None = None, max_bytes: int | None = None) -> StoredObject:
        """Read an object.

        If it is larger than `most` bytes, only a beginning longer than `most` is returned, so the
        caller can detect the excess. Raises `ObjectNotFound`, or `NotModified` if the object's ETag
        is `if_none_match`.
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

    def get_last_modified(self, key: str) -> int:
        """Return LastModified in whole seconds since 1970 UTC. Raises `ObjectNotFound`."""

    def get_etag(self, key: str) -> str | None:
        """Return the object's ETag without quotes, or None if there is no such key."""

    def get_info(self, key: str) -> ObjectInfo | None:
        """Return the metadata that LIST would return, by HEAD; None if there is no such key."""

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end` (exclusive) of the version with this ETag.

        Raises `PreconditionFailed` if the object has another ETag now, `ObjectNotFound` if it does
        not exist.
        """

    def put(self, key: str, body: bytes) -> str:
        """Write unconditionally and return the new ETag."""

    def put_if_unchanged(self, key: str, body: bytes, expected_etag: str | None) -> str:
        """Write by compare-and-set on the ETag and return the new ETag.

        `expected_etag` is the ETag that the current object must have; None means that there must be no
        object. Raises `PreconditionFailed` otherwise. After `StoreUnavailable` the outcome is
        unknown: the write may have happened, or may still happen later.
        """

    def copy_from(self, bucket: str, key: str, target_key: str) -> None:
        """Copy an object of `bucket` to the key `target_key` of this bucket, on the server.

        Raises `ObjectNotFound`. `ObjectUnreadable` may concern either of the two objects.
        """

    def delete(self, key: str) -> None:
        """Delete an object. A missing object is no error."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects in as few requests as possible. Missing objects are no error."""

    def list_objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        """List all objects with a key greater than `after`, in batches of about 1,000.

        Keys are in ascending order of their UTF-8 bytes. If `folder` is given (without the trailing
        slash), only the objects in it are listed; their keys still include the folder.
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
        self, key: str, start: int, length: int, if_match: str | None = None, if_none_match: str | None = None
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
        """Return the first `most` objects with this key prefix and a key greater than `after`.

        They are in ascending order of their keys' UTF-8 bytes.
        """


class S3ObjectStore:
    """`ObjectStore` and `FileStore` for any S3-compatible server.

    Connections are kept open. The first one is opened by the first call.
    """

    def __init__(self, bucket: str, endpoint: str, access_key: str, secret_key: str, region: str) -> None:
        self.bucket = bucket

        def connect_store(bucket: str, endpoint: str, *, endpoint_names_bucket: bool) -> S3Store:
            return S3Store(
                bucket,
                endpoint=endpoint,
                access_key_id=access_key,
                secret_access_key=secret_key,
                region=region,
                virtual_hosted_style_request=endpoint_names_bucket,
                client_options={"allow_http": True, "connect_timeout": "2s", "timeout": "15s"},
                retry_config=_RETRY_CONFIG,
            )

        self._store = connect_store(bucket, endpoint, endpoint_names_bucket=False)
        # obstore copies only within one bucket. With this bucket's URL as the endpoint and the
        # other bucket as the store's, it sends the PUT to this bucket, with a source in the other.
        bucket_endpoint = f"{endpoint.rstrip('/')}/{bucket}"
        self._open_copy_store = cache(
            lambda source_bucket: connect_store(source_bucket, bucket_endpoint, endpoint_names_bucket=True)
        )
        url = urlsplit(endpoint)
        self._minio = Minio(url.netloc, access_key, secret_key, secure=url.scheme == "https", region=region)
        self._http = PoolManager(timeout=Timeout(connect=2, read=15))

    def get(self, key: str, if_none_match: str | None = None, max_bytes: int | None = None) -> StoredObject:
        """Implement `ObjectStore.get` by one GET."""
        options: obstore.GetOptions = {} if if_none_match is None else {"if_none_match": f'"{if_none_match}"'}
        try:
            response = obstore.get(self._store, key, options=options)
            meta = response.meta
            body = (
                _read_start(response, max_bytes) if max_bytes and meta["size"] > max_bytes else bytes(response.bytes())
            )
            return StoredObject(body, _strip_quotes(meta["e_tag"]), _to_unix_seconds(meta["last_modified"]))
        except NotModifiedError:
            raise NotModified(key) from None
        except (BaseError, FileNotFoundError) as error:
            raise self._translate_error(key, error) from error

    def exists(self, key: str) -> bool:
        """Implement `ObjectStore.exists` by a conditional GET."""
        try:
            self._require_object(key)
        except ObjectNotFound:
            return False
        except ObjectUnreadable:  # for a missing key the server would have returned NoSuchKey
            return True
        return True

    def _require_object(self, key: str) -> None:
        # If-None-Match: * gives 304 without a body if the object exists, else the S3 error code.
        with suppress(NotModifiedError):
            self._send_get(key, {"if_none_match": "*"})

    def check_readable(self, key: str) -> None:
        """Implement `ObjectStore.check_readable` by a ranged GET."""
        with suppress(ObjectNotFound):
            self._send_get(key, {"range": (0, 1)})

    def _send_get(self, key: str, options: "obstore.GetOptions") -> None:
        try:
            obstore.get(self._store, key, options=options).bytes()
        except NotModifiedError:
            raise
        except (BaseError, FileNotFoundError) as error:
            if "<Code>InvalidRange</Code>" not in str(error):  # an empty object has no first byte
                raise self._translate_error(key, error) from error

    def get_list_entry(self, key: str) -> ObjectInfo | None:
        """Implement `ObjectStore.get_list_entry` by a LIST of one key."""
        try:
            page = self._list_page_by_minio(key, "", 1)
        except ObjectUnreadable:
            return ObjectInfo(key, "", 0, 0)
        return page[0] if page and page[0].key == key else None

    def get_last_modified(self, key: str) -> int:
        """Implement `ObjectStore.get_last_modified` by HEAD."""
        return _to_unix_seconds(self._head(key)["last_modified"])

    def get_etag(self, key: str) -> str | None:
        """Implement `ObjectStore.etag` by HEAD."""
        try:
            return _strip_quotes(self._head(key)["e_tag"])
        except ObjectNotFound:
            return None

    def _head(self, key: str) -> "obstore.ObjectMeta":
        try:
            return obstore.head(self._store, key)
        except FileNotFoundError:
            self._require_object(key)
            # The object was created between HEAD and GET: let the caller retry.
            raise StoreUnavailable(f"{self.bucket}/{key}: created while it was being read") from None
        except BaseError as error:
            if _CLIENT_ERROR_STATUS.search(str(error)):
                self._require_object(key)  # unlike HEAD, the GET returns an error code
            raise self._translate_error(key, error) from error

    def get_info(self, key: str) -> ObjectInfo | None:
        """Implement `ObjectStore.get_info` by HEAD."""
        try:
            return _to_object_info(self._head(key))
        except ObjectNotFound:
            return None

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        """Implement `ObjectStore.get_range` by a GET with If-Match and Range."""
        try:
            response = obstore.get(self._store, key, options={"if_match": f'"{etag}"', "range": (start, end)})
            return bytes(response.bytes())
        except PreconditionError:
            raise PreconditionFailed(key) from None
        except (BaseError, FileNotFoundError) as error:
            raise self._translate_error(key, error) from error

    def put(self, key: str, body: bytes) -> str:
        """Implement `ObjectStore.put` by one PUT."""
        return self._put(key, body, "overwrite")

    def put_if_unchanged(self, key: str, body: bytes, expected_etag: str | None) -> str:
        """Implement `ObjectStore.put_if_unchanged` by a PUT with If-Match or If-None-Match."""
        return self._put(key, body, "create" if expected_etag is None else {"e_tag": f'"{expected_etag}"'})

    def _put(self, key: str, body: bytes, mode: "obstore.PutMode") -> str:
        try:  # always a single request, because a multipart upload cannot be conditional
            return _strip_quotes(obstore.put(self._store, key, body, mode=mode, use_multipart=False)["e_tag"])
        except (PreconditionError, AlreadyExistsError) as error:
            if "<Code>NoSuchBucket</Code>" in str(error):
                raise self._translate_error(key, error) from error
            raise PreconditionFailed(key) from None
        except (BaseError, FileNotFoundError) as error:
            translated = self._translate_error(key, error)
            if mode == "overwrite":  # nothing is read, so the server refused the new object
                translated = StoreUnavailable(str(translated))
            raise translated from error

    def copy_from(self, bucket: str, key: str, target_key: str) -> None:
        """Implement `ObjectStore.copy_from` by a server-side copy."""
        try:
            obstore.copy(self._open_copy_store(bucket), key, target_key)
        except (BaseError, FileNotFoundError) as error:
            raise self._translate_error(key, error) from error

    def delete(self, key: str) -> None:
        """Implement `ObjectStore.delete` by one DELETE."""
        try:
            obstore.delete(self._store, key)
        except (BaseError, FileNotFoundError) as error:
            translated = self._translate_error(key, error)
            if not isinstance(translated, ObjectNotFound):
                raise translated from error

    def delete_many(self, keys: Sequence[str]) -> None:
        """Implement `ObjectStore.delete_many` by S3's DeleteObjects."""
        try:
            if keys:
                obstore.delete(self._store, keys)
        except (BaseError, FileNotFoundError) as error:
            raise StoreUnavailable(f"{self.bucket}: {_format_error(error)}") from error

    def list_objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        """Implement `ObjectStore.list_objects`: LIST by obstore, then by minio-py."""
        try:
            for page in self._store.list(folder or None, offset=after or None, chunk_size=LIST_PAGE_SIZE):
                yield [_to_object_info(meta) for meta in page]
                after = page[-1]["path"]
        except InvalidPathError:
            pass  # a key with a control character, which obstore cannot represent
        except (BaseError, FileNotFoundError) as error:
            if not _LIST_DECRYPTION_ERROR.search(str(error)):
                raise StoreUnavailable(f"{self.bucket}: {_format_error(error)}") from error
        # obstore's listing may have ended too early. If MinIO cannot decrypt an object, it may send
        # a 206 with an error body. obstore reads that as an empty page, minio-py raises an error.
        yield from self._list_by_minio(after, f"{folder}/" if folder else "")

    def _list_by_minio(self, after: str, prefix: str) -> Iterator[list[ObjectInfo]]:
        """Continue the listing with minio-py.

        It handles any key, and pages around objects that make a whole LIST request fail.
        """
        page_size = LIST_PAGE_SIZE
        while True:
            try:
                page = self._list_page_by_minio(prefix, after, page_size)
            except ObjectUnreadable:
                if page_size > 1:
                    page_size = max(1, page_size // 4)
                    continue
                page = [ObjectInfo(self._find_unlistable_key(after, prefix), "", 0, 0)]
            if not page:
                return
            yield page
            after = page[-1].key
            page_size = LIST_PAGE_SIZE

    def _list_page_by_minio(self, prefix: str, after: str, limit: int, delimiter: str = "") -> list[ObjectInfo]:
        try:
            entries = self._minio._list_objects(  # the public list_objects always requests 1,000 keys
                self.bucket,
                delimiter=delimiter,
                encoding_type="url",
                max_keys=min(limit, LIST_PAGE_SIZE),
                prefix=prefix,
                start_after=after or None,
            )
            return [
                ObjectInfo(
                    info.object_name or "",
                    _strip_quotes(info.etag),
                    _to_unix_seconds(info.last_modified),
                    info.size or 0,
                )
                for info in islice(entries, limit)
            ]
        except (MinioException, HTTPError, ValueError) as error:
            raise self._translate_list_error(error) from error

    def _find_unlistable_key(self, after: str, prefix: str) -> str:
        """Return the key of the next object, which makes LIST fail.

        With a delimiter the server returns common prefixes without reading their objects, so the
        extensions that are read serve as delimiters. The keys of other files cannot be determined:
        raises `StoreUnavailable`.
        """
        for extension in sorted({*USER_FILE_EXTENSIONS, *BUNDLE_EXTENSIONS}):
            with suppress(ObjectUnreadable):
                (*_, next_entry) = (None, *self._list_page_by_minio(prefix, after, 1, f".{extension}"))
                if next_entry and next_entry.key.encode() > after.encode() and self.exists(next_entry.key):
                    return next_entry.key
        raise StoreUnavailable(f"{self.bucket}: the object after {after!r} makes every LIST fail")

    def get_segment(
        self, key: str, start: int, length: int, if_match: str | None = None, if_none_match: str | None = None
    ) -> Segment:
        """Implement `FileStore.get_segment` by a ranged, conditional GET."""
        options: obstore.GetOptions = {"range": (start, start + length)}
        if if_match is not None:
            options["if_match"] = f'"{if_match}"'
        if if_none_match is not None:
            options["if_none_match"] = f'"{if_none_match}"'
        try:
            response = obstore.get(self._store, key, options=options)
            meta, body = response.meta, bytes(response.bytes())
        except PreconditionError:
            raise PreconditionFailed(key) from None
        except NotModifiedError:
            raise NotModified(key) from None
        except (BaseError, FileNotFoundError) as error:
            if "<Code>InvalidRange</Code>" not in str(error):
                raise self._translate_error(key, error) from error
            meta, body = self._head(key), b""
        return Segment(body, _strip_quotes(meta["e_tag"]), _to_unix_seconds(meta["last_modified"]), meta["size"])

    def upload(self, key: str, body: ByteReader, length: int) -> str:
        """Implement `FileStore.upload` by one streamed PUT to a presigned URL."""
        # minio-py and obstore would buffer the body or split it into parts.
        url = self._minio.get_presigned_url("PUT", self.bucket, key, expires=_UPLOAD_URL_TTL)
        counted_body: Any = _CountedBody(body, length)
        try:
            response = self._http.request(
                "PUT", url, body=counted_body, headers={"Content-Length": str(length)}, retries=False, redirect=False
            )
        except (HTTPError, OSError) as error:
            if counted_body.failure is not None:
                raise counted_body.failure from None
            raise StoreUnavailable(f"{self.bucket}/{key}: {_format_error(error)}") from error
        if response.status != 200:
            raise StoreUnavailable(
                f"{self.bucket}/{key}: {_format_error(Exception(response.data.decode(errors='replace')))}"
            )
        return _strip_quotes(response.headers.get("ETag"))

    def list_page(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        """Implement `FileStore.page` by a LIST."""
        # Not by obstore, which interprets a prefix as a folder name.
        try:
            return self._list_page_by_minio(prefix, after, limit)
        except ObjectUnreadable:
            pages = self._list_by_minio(after, prefix)
            return list(islice(chain.from_iterable(pages), limit))

    def list_folders(self, folder: str) -> list[str]:
        """Implement `ObjectStore.list_folders` by a LIST with a delimiter."""
        try:
            listing = obstore.list_with_delimiter(self._store, folder)
        except (BaseError, FileNotFoundError) as error:
            raise StoreUnavailable(f"{self.bucket}: {_format_error(error)}") from error
        return [path.rstrip("/").rpartition("/")[2] for path in listing["common_prefixes"]]

    def _translate_list_error(self, error: Exception) -> StoreUnavailable:
        """Translate an error of a LIST by minio-py.

        MinIO sends one error as a 206. minio-py parses it as a list and fails with `ValueError`.
        """
        if isinstance(error, ValueError):
            return ObjectUnreadable(self.bucket, "", "XMinioObjectTampered", "no list of objects in the answer")
        if isinstance(error, S3Error) and _DECRYPTION_ERROR.fullmatch(f"{error.code}: {error.message}"):
            return ObjectUnreadable(self.bucket, "", error.code or "", error.message or "")
        return StoreUnavailable(f"{self.bucket}: {_format_error(error)}")

    def _translate_error(self, key: str, error: Exception) -> ObjectNotFound | StoreUnavailable:
        if isinstance(error, FileNotFoundError) and "<Code>NoSuchKey</Code>" in str(error):
            return ObjectNotFound(key)
        error_match = _S3_ERROR_BODY.search(str(error))
        if error_match and _is_object_error(
            *error_match.groups(), is_client_error=bool(_CLIENT_ERROR_STATUS.search(str(error)))
        ):
            return ObjectUnreadable(self.bucket, key, error_match[1], html.unescape(error_match[2]))
        return StoreUnavailable(f"{self.bucket}/{key}: {_format_error(error)}")


def open_store(settings: Settings, bucket: str) -> S3ObjectStore:
    """Return a store for one bucket of the configured MinIO server."""
    return S3ObjectStore(
        bucket, settings.minio_endpoint, settings.minio_access_key, settings.minio_secret_key, settings.region
    )


class _CountedBody:
    """A request body of exactly `length` bytes; `translated` is the error that ended reading it."""

    def __init__(self, body: ByteReader, length: int) -> None:
        self._body, self._remaining_bytes = body, length
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises `OSError` if the body fails or ends too early; the cause is in `translated`.
        """
        size = self._remaining_bytes if size < 0 else min(size, self._remaining_bytes)
        try:
            chunk = self._body.read(size) if size else b""
        except Exception as error:
            self.failure = error
            raise OSError("the body cannot be read") from error
        if size and not chunk:
            self.failure = EOFError(f"{self._remaining_bytes} bytes are missing")
            raise OSError("the body ends too early")
        self._remaining_bytes -= len(chunk)
        return chunk


def _read_start(response: "obstore.GetResult", most: int) -> bytes:
    body = bytearray()
    for chunk in response.stream(min_chunk_size=most):
        body += bytes(chunk)
        if len(body) > most:
            break
    return bytes(body)


def _to_object_info(meta: "obstore.ObjectMeta") -> ObjectInfo:
    return ObjectInfo(meta["path"], _strip_quotes(meta["e_tag"]), _to_unix_seconds(meta["last_modified"]), meta["size"])


def _strip_quotes(quoted: str | None) -> str:
    return (quoted or "").strip('"')


def _to_unix_seconds(timestamp: datetime | None) -> int:
    # LIST returns milliseconds and HEAD whole seconds. Both are truncated, so that they are equal.
    return int(timestamp.timestamp()) if timestamp else 0


def _is_object_error(code: str, message: str, *, is_client_error: bool) -> bool:
    """Return whether an error means that only this object cannot be read."""
    if _DECRYPTION_ERROR.fullmatch(f"{code}: {message}"):
        return True
    return is_client_error and not _REQUEST_ERROR_CODES.fullmatch(code)


def _format_error(error: Exception) -> str:
    """Return S3's error code and message, or the first line of the error, cut to 300 characters."""
    text = str(error)
    match = _S3_ERROR_BODY.search(text)
    return ": ".join(match.groups()) if match else text.split("\n", 1)[0][:300]
