"""The object store on any S3-compatible server, by obstore and minio-py."""

import html
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from itertools import chain, islice
from typing import Any
from urllib.parse import urlsplit

import obstore
from minio import Minio
from minio.error import MinioException, S3Error
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, NotModifiedError, PreconditionError
from obstore.store import S3Store
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from shared.formats.source_keys import BUNDLE_EXTENSIONS, USER_FILE_EXTENSIONS
from shared.object_store import (
    LIST_PAGE_SIZE,
    ByteReader,
    NotModified,
    ObjectInfo,
    ObjectNotFound,
    ObjectUnreadable,
    PreconditionFailed,
    Segment,
    StoredObject,
    StoreUnavailable,
)
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
