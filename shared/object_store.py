"""The objects of one bucket: conditional reads and writes by obstore, and what "not there" may mean.

Absent is `NoSuchKey` and nothing else: a missing bucket, a refused key, an error or a time-out of the server is
`StoreUnavailable`, so that no reader takes an outage for a deletion.  obstore raises the same `FileNotFoundError` for a
missing key and a missing bucket; the S3 error code in the answer's body tells them apart, which is why absence is
asked for by GET and never by HEAD (an answer to HEAD has no body).

Between the two is `ObjectUnreadable`: the object is there, and the server refuses to read this one object, as a rule
because it is encrypted with a key that the server does not have.
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

from shared.keys import BUNDLE_EXTENSIONS, EXTENSIONS
from shared.settings import Settings

_S3_ERROR = re.compile(r"<Code>([^<]*)</Code>\s*<Message>([^<]*)</Message>")
_CLIENT_ERROR = re.compile(r"status code: 4\d\d\b")
_NOT_ABOUT_THE_OBJECT = re.compile(
    # access, and the clock
    "AccessDenied|AccessForbidden|AllAccessDisabled|AccountProblem|AuthorizationHeaderMalformed|ExpiredToken|Invalid.*Token"
    "|InvalidAccessKeyId|InvalidClientTokenId|MissingSecurityHeader|NotSignedUp|RequestExpired|RequestTimeTooSkewed"
    "|SignatureDoesNotMatch|TokenRefreshRequired|XAmzContentSHA256Mismatch|XMinioServerNotInitialized"
    # the bucket
    "|NoSuchBucket|InvalidBucketName|IllegalLocationConstraintException|PermanentRedirect"
    # load, and what was asked
    "|RequestTimeout|SlowDown.*|TooManyRequests|OperationAborted|PreconditionFailed|ConditionalRequestConflict|InvalidRange"
    "|InvalidArgument|InvalidURI|KeyTooLongError|MalformedXML|MethodNotAllowed|NoSuchKey|NoSuchVersion"
    "|XMinioInvalidObjectName|XMinioParentIsObject"
)
_NOT_DECRYPTED = re.compile("XMinioObjectTampered: .*|XMinioEncryptionError: .*|kms:.*|NotImplemented: .*encrypt.*")
"""Errors of MinIO that come with other statuses, too: 206, and 501 where it has no key server at all."""
_SIGNED_FOR = timedelta(minutes=10)
_RETRIES: "obstore.store.RetryConfig" = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=1), "base": 2},
}
_CANNOT_LIST = re.compile("<Code>(XMinioEncryptionError|kms:[^<]*)</Code>")
"""What is in obstore's error when a LIST fails by one object in it."""
_ENCRYPTION = re.compile("encrypt|XMinioObjectTampered|^kms", re.IGNORECASE)
LIST_PAGE = 1000
"""Keys in one answer of S3's ListObjectsV2, its maximum."""


class ObjectNotFound(Exception):
    """The server said `NoSuchKey`."""


class NotModified(Exception):
    """The object still has the ETag that the caller knows."""


class PreconditionFailed(Exception):
    """A conditional write found another object, or none, in its place; a conditional read found another one."""


class StoreUnavailable(Exception):
    """Anything else: no answer, no access, no bucket.  Nothing is known about the object; try again later."""


class ObjectUnreadable(StoreUnavailable):
    """The object is there, but the server refuses to read this one: `code` and `message` are its words.

    `key` is empty when a LIST failed that had the object in it.  Handling it as `StoreUnavailable` is always safe.
    """

    def __init__(self, bucket: str, key: str, code: str, message: str) -> None:
        super().__init__(f"{bucket}/{key}: {code}: {message}")
        self.key = key
        self.code = code
        self.message = " ".join(message.split())[:300]

    @property
    def why(self) -> str:
        """For people, and always the same for the same object: why it cannot be read."""
        said = f"{self.code}: {self.message}"
        if not _ENCRYPTION.search(said):
            return said
        return f"encrypted with a key that Rowdrop does not have ({said})"


class StoredObject(NamedTuple):
    """An object that was read: its bytes, ETag without quotes, LastModified in whole seconds since 1970 UTC."""

    body: bytes
    etag: str
    last_modified: int


class ObjectInfo(NamedTuple):
    """An object that was listed; fields as in `StoredObject`, `size` in bytes."""

    key: str
    etag: str
    last_modified: int
    size: int


class Segment(NamedTuple):
    """A piece of an object; `size` is that of the whole object in bytes, `etag` without quotes."""

    body: bytes
    etag: str
    last_modified: int
    size: int


class Readable(Protocol):
    """Bytes that come by and by."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


class ObjectStore(Protocol):
    """What Rowdrop asks of a bucket.  Every method may raise `StoreUnavailable`, and be called from many threads.

    What reads an object, or writes in its place under a condition, may raise `ObjectUnreadable`; an unconditional
    write and a deletion do not need to read it.
    """

    bucket: str

    def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
        """Read an object; of one larger than `most` bytes only a beginning that is longer than that.

        Raises `ObjectNotFound`, or `NotModified` when its ETag is `if_none_match`.
        """

    def exists(self, key: str) -> bool:
        """Whether the key is there, in one round trip and without its bytes; an unreadable object is."""

    def check_readable(self, key: str) -> None:
        """Read a byte of the object.  Raises `ObjectUnreadable`; an object that is not there is no error."""

    def listed(self, key: str) -> ObjectInfo | None:
        """What LIST says of an object, which need not be readable; None when there is no such key.

        The ETag is empty, and the other figures are 0, if the server cannot list an object that it cannot read.
        """

    def last_modified(self, key: str) -> int:
        """LastModified in whole seconds since 1970 UTC.  Raises `ObjectNotFound`."""

    def etag(self, key: str) -> str | None:
        """The object's ETag without quotes, or None when there is no such key."""

    def info(self, key: str) -> ObjectInfo | None:
        """What LIST would say of the object, or None when there is no such key."""

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end` (not included), of an object that has this ETag.

        Raises `PreconditionFailed` when it has another one by now, `ObjectNotFound` when it is gone.
        """

    def put(self, key: str, body: bytes) -> str:
        """Write unconditionally; returns the new ETag."""

    def replace(self, key: str, body: bytes, expected: str | None) -> str:
        """Write if the object there has the ETag `expected` (None: if there is none); returns the new ETag.

        Raises `PreconditionFailed`.  After `StoreUnavailable` the write may or may not have happened, or happen later.
        """

    def copy_from(self, bucket: str, key: str, to: str) -> None:
        """Have the server copy an object of `bucket` to the key `to` of this one.  Raises `ObjectNotFound`.

        `ObjectUnreadable` may concern either of the two.
        """

    def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove keys in as few requests as may be; those that are not there are no error."""

    def objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        """All objects whose key is greater than `after`, in ascending order of UTF-8 bytes, about 1,000 at a time.

        Of a `folder` (named without the slash at its end) only what is in it; keys are whole all the same.
        """

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in this one (each without a slash)."""


class FileStore(Protocol):
    """What the API asks of the source bucket beside that: files of any size.  May raise `StoreUnavailable`."""

    bucket: str

    def exists(self, key: str) -> bool:
        """As of an `ObjectStore`."""

    def put(self, key: str, body: bytes) -> str:
        """As of an `ObjectStore`."""

    def delete(self, key: str) -> None:
        """As of an `ObjectStore`."""

    def segment(
        self, key: str, start: int, length: int, if_match: str | None = None, if_none_match: str | None = None
    ) -> Segment:
        """Read `length` bytes from `start` on, or as many as there are.  For objects of any size, piece by piece.

        Raises `ObjectNotFound`; `PreconditionFailed` when the object is not the one with the ETag `if_match` (any
        more); `NotModified` when it is the one with `if_none_match`.  Beyond the end of an object there are no bytes.
        """

    def upload(self, key: str, body: Readable, length: int) -> str:
        """Write `length` bytes unconditionally, as they are read; returns the new ETag.

        They are never all in memory, and the object is there whole or not at all.  Raises what `body.read` raises, and
        `EOFError` when it ends too early.
        """

    def page(self, prefix: str, after: str, most: int) -> list[ObjectInfo]:
        """The first `most` objects whose key begins with `prefix` and is greater than `after`, in order of bytes."""


class S3ObjectStore:
    """`ObjectStore` and `FileStore` on any S3-compatible server.

    Connections are kept open; the first is made by the first call.
    """

    def __init__(self, bucket: str, endpoint: str, access_key: str, secret_key: str, region: str) -> None:
        self.bucket = bucket

        def connect(bucket: str, endpoint: str, *, endpoint_names_bucket: bool) -> S3Store:
            return S3Store(
                bucket,
                endpoint=endpoint,
                access_key_id=access_key,
                secret_access_key=secret_key,
                region=region,
                virtual_hosted_style_request=endpoint_names_bucket,
                client_options={"allow_http": True, "connect_timeout": "2s", "timeout": "15s"},
                retry_config=_RETRIES,
            )

        self._store = connect(bucket, endpoint, endpoint_names_bucket=False)
        # obstore copies within one bucket.  An endpoint that names this bucket, and the other one as the store's, makes
        # a store that writes here and copies from there.
        here = f"{endpoint.rstrip('/')}/{bucket}"
        self._copier = cache(lambda other: connect(other, here, endpoint_names_bucket=True))
        url = urlsplit(endpoint)
        self._minio = Minio(url.netloc, access_key, secret_key, secure=url.scheme == "https", region=region)
        self._http = PoolManager(timeout=Timeout(connect=2, read=15))

    def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
        options: obstore.GetOptions = {} if if_none_match is None else {"if_none_match": f'"{if_none_match}"'}
        try:
            answer = obstore.get(self._store, key, options=options)
            meta = answer.meta
            body = _beginning(answer, most) if most and meta["size"] > most else bytes(answer.bytes())
            return StoredObject(body, _etag(meta["e_tag"]), _seconds(meta["last_modified"]))
        except NotModifiedError:
            raise NotModified(key) from None
        except (BaseError, FileNotFoundError) as error:
            raise self._failure(key, error) from error

    def exists(self, key: str) -> bool:
        try:
            self._find(key)
        except ObjectNotFound:
            return False
        except ObjectUnreadable:  # of a key that is not there the server says so
            return True
        return True

    def _find(self, key: str) -> None:
        # A GET that no ETag can satisfy: 304 without a body when the object is there, else the S3 error code.
        with suppress(NotModifiedError):
            self._get(key, {"if_none_match": "*"})

    def check_readable(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self._get(key, {"range": (0, 1)})

    def _get(self, key: str, options: "obstore.GetOptions") -> None:
        try:
            obstore.get(self._store, key, options=options).bytes()
        except NotModifiedError:
            raise
        except (BaseError, FileNotFoundError) as error:
            if "<Code>InvalidRange</Code>" not in str(error):  # an empty object has no first byte
                raise self._failure(key, error) from error

    def listed(self, key: str) -> ObjectInfo | None:
        try:
            found = self._page(key, "", 1)
        except ObjectUnreadable:
            return ObjectInfo(key, "", 0, 0)
        return found[0] if found and found[0].key == key else None

    def last_modified(self, key: str) -> int:
        return _seconds(self._head(key)["last_modified"])

    def etag(self, key: str) -> str | None:
        try:
            return _etag(self._head(key)["e_tag"])
        except ObjectNotFound:
            return None

    def _head(self, key: str) -> "obstore.ObjectMeta":
        try:
            return obstore.head(self._store, key)
        except FileNotFoundError:
            self._find(key)
            # It came between the two requests: as well "not yet there" as not.
            raise StoreUnavailable(f"{self.bucket}/{key}: appeared while it was looked at") from None
        except BaseError as error:
            if _CLIENT_ERROR.search(str(error)):
                self._find(key)  # the answer to HEAD does not say what is wrong; this one does
            raise self._failure(key, error) from error

    def info(self, key: str) -> ObjectInfo | None:
        try:
            return _info(self._head(key))
        except ObjectNotFound:
            return None

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        try:
            answer = obstore.get(self._store, key, options={"if_match": f'"{etag}"', "range": (start, end)})
            return bytes(answer.bytes())
        except PreconditionError:
            raise PreconditionFailed(key) from None
        except (BaseError, FileNotFoundError) as error:
            raise self._failure(key, error) from error

    def put(self, key: str, body: bytes) -> str:
        return self._put(key, body, "overwrite")

    def replace(self, key: str, body: bytes, expected: str | None) -> str:
        return self._put(key, body, "create" if expected is None else {"e_tag": f'"{expected}"'})

    def _put(self, key: str, body: bytes, mode: "obstore.PutMode") -> str:
        try:  # one request whatever the size: a multipart upload cannot be conditional
            return _etag(obstore.put(self._store, key, body, mode=mode, use_multipart=False)["e_tag"])
        except (PreconditionError, AlreadyExistsError) as error:
            if "<Code>NoSuchBucket</Code>" in str(error):
                raise self._failure(key, error) from error
            raise PreconditionFailed(key) from None
        except (BaseError, FileNotFoundError) as error:
            failure = self._failure(key, error)
            if mode == "overwrite":  # nothing had to be read: it is the new object that was refused
                failure = StoreUnavailable(str(failure))
            raise failure from error

    def copy_from(self, bucket: str, key: str, to: str) -> None:
        try:
            obstore.copy(self._copier(bucket), key, to)
        except (BaseError, FileNotFoundError) as error:
            raise self._failure(key, error) from error

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except (BaseError, FileNotFoundError) as error:
            failure = self._failure(key, error)
            if not isinstance(failure, ObjectNotFound):
                raise failure from error

    def delete_many(self, keys: Sequence[str]) -> None:
        try:
            if keys:
                obstore.delete(self._store, keys)
        except (BaseError, FileNotFoundError) as error:
            raise StoreUnavailable(f"{self.bucket}: {_said(error)}") from error

    def objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        try:
            for page in self._store.list(folder or None, offset=after or None, chunk_size=LIST_PAGE):
                yield [_info(meta) for meta in page]
                after = page[-1]["path"]
        except InvalidPathError:
            pass  # a key with a control character, which obstore cannot name
        except (BaseError, FileNotFoundError) as error:
            if not _CANNOT_LIST.search(str(error)):
                raise StoreUnavailable(f"{self.bucket}: {_said(error)}") from error
        # Or it was no end: MinIO may answer that it cannot decrypt an object by a 206 with an error in it,
        # and obstore takes that for a page without objects.  minio-py does not.
        yield from self._objects_by_minio(after, f"{folder}/" if folder else "")

    def _objects_by_minio(self, after: str, prefix: str) -> Iterator[list[ObjectInfo]]:
        """List on by minio-py: any key, and around objects that make the whole LIST fail."""
        most = LIST_PAGE
        while True:
            try:
                page = self._page(prefix, after, most)
            except ObjectUnreadable:
                if most > 1:
                    most = max(1, most // 4)
                    continue
                page = [ObjectInfo(self._key_after(after, prefix), "", 0, 0)]
            if not page:
                return
            yield page
            after = page[-1].key
            most = LIST_PAGE

    def _page(self, prefix: str, after: str, most: int, delimiter: str = "") -> list[ObjectInfo]:
        try:
            found = self._minio._list_objects(  # list_objects always asks for 1,000
                self.bucket,
                delimiter=delimiter,
                encoding_type="url",
                max_keys=min(most, LIST_PAGE),
                prefix=prefix,
                start_after=after or None,
            )
            return [
                ObjectInfo(info.object_name or "", _etag(info.etag), _seconds(info.last_modified), info.size or 0)
                for info in islice(found, most)
            ]
        except (MinioException, HTTPError, ValueError) as error:
            raise self._list_failure(error) from error

    def _key_after(self, after: str, prefix: str) -> str:
        """The key of the next object, which cannot be listed.

        Up to a delimiter the server tells keys without looking at their objects, and the ending of a
        file that counts is one.  Of any other file the key cannot be found out.
        """
        for ending in sorted({*EXTENSIONS, *BUNDLE_EXTENSIONS}):
            with suppress(ObjectUnreadable):
                (*_, found) = (None, *self._page(prefix, after, 1, f".{ending}"))
                if found and found.key.encode() > after.encode() and self.exists(found.key):
                    return found.key
        raise StoreUnavailable(f"{self.bucket}: the object after {after!r} makes each LIST fail")

    def segment(
        self, key: str, start: int, length: int, if_match: str | None = None, if_none_match: str | None = None
    ) -> Segment:
        options: obstore.GetOptions = {"range": (start, start + length)}
        if if_match is not None:
            options["if_match"] = f'"{if_match}"'
        if if_none_match is not None:
            options["if_none_match"] = f'"{if_none_match}"'
        try:
            answer = obstore.get(self._store, key, options=options)
            meta, body = answer.meta, bytes(answer.bytes())
        except PreconditionError:
            raise PreconditionFailed(key) from None
        except NotModifiedError:
            raise NotModified(key) from None
        except (BaseError, FileNotFoundError) as error:
            if "<Code>InvalidRange</Code>" not in str(error):
                raise self._failure(key, error) from error
            meta, body = self._head(key), b""
        return Segment(body, _etag(meta["e_tag"]), _seconds(meta["last_modified"]), meta["size"])

    def upload(self, key: str, body: Readable, length: int) -> str:
        # One PUT whose body is passed on as it comes: minio-py and obstore would hold it, or cut it into parts.
        url = self._minio.get_presigned_url("PUT", self.bucket, key, expires=_SIGNED_FOR)
        counted: Any = _Counted(body, length)
        try:
            answer = self._http.request(
                "PUT", url, body=counted, headers={"Content-Length": str(length)}, retries=False, redirect=False
            )
        except (HTTPError, OSError) as error:
            if counted.failure is not None:
                raise counted.failure from None
            raise StoreUnavailable(f"{self.bucket}/{key}: {_said(error)}") from error
        if answer.status != 200:
            raise StoreUnavailable(f"{self.bucket}/{key}: {_said(Exception(answer.data.decode(errors='replace')))}")
        return _etag(answer.headers.get("ETag"))

    def page(self, prefix: str, after: str, most: int) -> list[ObjectInfo]:
        # obstore takes a prefix for a folder's name.
        try:
            return self._page(prefix, after, most)
        except ObjectUnreadable:
            around = self._objects_by_minio(after, prefix)
            return list(islice(chain.from_iterable(around), most))

    def folders(self, folder: str) -> list[str]:
        try:
            found = obstore.list_with_delimiter(self._store, folder)
        except (BaseError, FileNotFoundError) as error:
            raise StoreUnavailable(f"{self.bucket}: {_said(error)}") from error
        return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    def _list_failure(self, error: Exception) -> StoreUnavailable:
        """What a LIST by minio-py came to.

        MinIO sends one error as a 206, which minio-py takes for a list and cannot parse: `ValueError`.
        """
        if isinstance(error, ValueError):
            return ObjectUnreadable(self.bucket, "", "XMinioObjectTampered", "no list of objects in the answer")
        if isinstance(error, S3Error) and _NOT_DECRYPTED.fullmatch(f"{error.code}: {error.message}"):
            return ObjectUnreadable(self.bucket, "", error.code or "", error.message or "")
        return StoreUnavailable(f"{self.bucket}: {_said(error)}")

    def _failure(self, key: str, error: Exception) -> ObjectNotFound | StoreUnavailable:
        if isinstance(error, FileNotFoundError) and "<Code>NoSuchKey</Code>" in str(error):
            return ObjectNotFound(key)
        said = _S3_ERROR.search(str(error))
        if said and _is_about_the_object(*said.groups(), is_client_error=bool(_CLIENT_ERROR.search(str(error)))):
            return ObjectUnreadable(self.bucket, key, said[1], html.unescape(said[2]))
        return StoreUnavailable(f"{self.bucket}/{key}: {_said(error)}")


def open_store(settings: Settings, bucket: str) -> S3ObjectStore:
    """The store of one bucket of the servers that `settings` names."""
    return S3ObjectStore(
        bucket, settings.minio_endpoint, settings.minio_access_key, settings.minio_secret_key, settings.region
    )


class _Counted:
    """A body that must have so many bytes; remembers why it could not be read."""

    def __init__(self, body: Readable, length: int) -> None:
        self._body, self._left = body, length
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """The next bytes.  Raises what the body raises, or `EOFError`."""
        size = self._left if size < 0 else min(size, self._left)
        try:
            part = self._body.read(size) if size else b""
        except Exception as error:
            self.failure = error
            raise OSError("the body cannot be read") from error
        if size and not part:
            self.failure = EOFError(f"{self._left} bytes are missing")
            raise OSError("the body ends too early")
        self._left -= len(part)
        return part


def _beginning(answer: "obstore.GetResult", most: int) -> bytes:
    body = bytearray()
    for chunk in answer.stream(min_chunk_size=most):
        body += bytes(chunk)
        if len(body) > most:
            break
    return bytes(body)


def _info(meta: "obstore.ObjectMeta") -> ObjectInfo:
    return ObjectInfo(meta["path"], _etag(meta["e_tag"]), _seconds(meta["last_modified"]), meta["size"])


def _etag(quoted: str | None) -> str:
    return (quoted or "").strip('"')


def _seconds(moment: datetime | None) -> int:
    # LIST tells milliseconds and HEAD whole seconds: both are cut, or the two would disagree for ever.
    return int(moment.timestamp()) if moment else 0


def _is_about_the_object(code: str, message: str, *, is_client_error: bool) -> bool:
    """Whether this error says that this one object cannot be read, while others can."""
    if _NOT_DECRYPTED.fullmatch(f"{code}: {message}"):
        return True
    return is_client_error and not _NOT_ABOUT_THE_OBJECT.fullmatch(code)


def _said(error: Exception) -> str:
    """What the server said, by S3's error code if it gave one; never a whole answer."""
    text = str(error)
    found = _S3_ERROR.search(text)
    return ": ".join(found.groups()) if found else text.split("\n", 1)[0][:300]
