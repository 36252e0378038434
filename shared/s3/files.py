"""The adapter of `FileStore`, for the API: files of any size."""

from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotModifiedError, PreconditionError
from urllib3.exceptions import HTTPError

from shared.object_store import (
    ByteReader,
    NotModified,
    ObjectInfo,
    ObjectNotFound,
    PreconditionFailed,
    Segment,
    StoreUnavailable,
)
from shared.s3 import errors
from shared.s3.listing import S3Lister
from shared.s3.metadata import make_object_info, strip_quotes
from shared.s3.objects import S3ObjectStore, open_store
from shared.settings import Settings

_UPLOAD_URL_TTL = timedelta(minutes=10)


class S3FileStore:
    """`FileStore` for the bucket of an `S3ObjectStore`; it shares the connection."""

    def __init__(self, objects: S3ObjectStore) -> None:
        self.bucket = objects.bucket
        self._objects = objects
        self._connection = objects.connection
        self._lister = S3Lister(objects.connection, objects.exists)

    def exists(self, key: str) -> bool:
        """Implement `FileStore.exists`."""
        return self._objects.exists(key)

    def put(self, key: str, body: bytes) -> str:
        """Implement `FileStore.put`."""
        return self._objects.put(key, body)

    def delete(self, key: str) -> None:
        """Implement `FileStore.delete`."""
        self._objects.delete(key)

    def list_page(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        """Implement `FileStore.list_page`."""
        return self._lister.list_page(prefix, after, limit)

    def get_segment(
        self,
        key: str,
        start: int,
        length: int,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Segment:
        """Implement `FileStore.get_segment` by a ranged, conditional GET."""
        options: obstore.GetOptions = {"range": (start, start + length)}
        if if_match is not None:
            options["if_match"] = f'"{if_match}"'
        if if_none_match is not None:
            options["if_none_match"] = f'"{if_none_match}"'
        try:
            response = obstore.get(self._connection.store, key, options=options)
            info = make_object_info(response.meta)
            body = bytes(response.bytes())
        except PreconditionError:
            raise PreconditionFailed(key) from None
        except NotModifiedError:
            raise NotModified(key) from None
        except (BaseError, FileNotFoundError) as error:
            if not errors.is_range_error(error):
                raise errors.translate_error(self.bucket, key, error) from error
            info = self._get_existing_info(key)
            body = b""
        return Segment(body, info.etag, info.last_modified, info.size)

    def _get_existing_info(self, key: str) -> ObjectInfo:
        info = self._objects.get_info(key)
        if info is None:
            raise ObjectNotFound(key)
        return info

    def upload(self, key: str, body: ByteReader, length: int) -> str:
        """Implement `FileStore.upload` by one streamed PUT to a presigned URL.

        Raises `StoreUnavailable`, and what reading `body` raises.
        """
        # minio-py and obstore would buffer the body or split it into parts. A presigned URL needs
        # no hash of the body before its first byte is sent.
        url = self._connection.minio.get_presigned_url(
            "PUT", self.bucket, key, expires=_UPLOAD_URL_TTL
        )
        # No retries: the body is a stream that cannot be sent twice.
        counted_body: Any = _CountedBody(body, length)
        try:
            response = self._connection.http.request(
                "PUT",
                url,
                body=counted_body,
                headers={"Content-Length": str(length)},
                retries=False,
                redirect=False,
            )
        except (HTTPError, OSError) as error:
            # Reading the body of the API's client has failed, not the store.
            if counted_body.failure is not None:
                raise counted_body.failure from None
            raise StoreUnavailable(f"{self.bucket}/{key}: {errors.format_error(error)}") from error
        if response.status != 200:
            refusal = Exception(response.data.decode(errors="replace"))
            raise StoreUnavailable(f"{self.bucket}/{key}: {errors.format_error(refusal)}")
        return strip_quotes(response.headers.get("ETag"))


def open_file_store(settings: Settings, bucket: str) -> S3FileStore:
    """Return a file store for one bucket of the configured MinIO server."""
    return S3FileStore(open_store(settings, bucket))


class _CountedBody:
    """A request body of exactly `length` bytes; `failure` is the error that ended reading it."""

    def __init__(self, body: ByteReader, length: int) -> None:
        self._body = body
        self._remaining_bytes = length
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises `OSError` if the body fails or ends too early; the cause is in `failure`.
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
