"""The adapter of `ObjectStore`, for workers and publisher."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError

from shared.object_store import (
    NotModified,
    ObjectInfo,
    ObjectNotFound,
    ObjectUnreadable,
    PreconditionFailed,
    StoredObject,
    StoreUnavailable,
)
from shared.s3 import errors
from shared.s3.connection import S3Connection
from shared.s3.copying import copy_object
from shared.s3.listing import S3Lister
from shared.s3.metadata import SOURCE_ETAG, make_object_info, strip_quotes
from shared.settings import Settings


class S3ObjectStore:
    """`ObjectStore` for the bucket of a connection."""

    def __init__(self, connection: S3Connection) -> None:
        self.bucket = connection.bucket
        self.connection = connection
        self._lister = S3Lister(connection, self.exists)

    def get(
        self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
    ) -> StoredObject:
        """Implement `ObjectStore.get` by one GET."""
        options: obstore.GetOptions = {}
        if if_none_match is not None:
            options["if_none_match"] = f'"{if_none_match}"'
        try:
            response = obstore.get(self.connection.store, key, options=options)
            info = make_object_info(response.meta)
            if max_bytes and info.size > max_bytes:
                body = _read_start(response, max_bytes)
            else:
                body = bytes(response.bytes())
            return StoredObject(body, info.etag, info.last_modified)
        except NotModifiedError:
            raise NotModified(key) from None
        except (BaseError, FileNotFoundError) as error:
            raise errors.translate_error(self.bucket, key, error) from error

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
            obstore.get(self.connection.store, key, options=options).bytes()
        except NotModifiedError:
            raise
        except (BaseError, FileNotFoundError) as error:
            if not errors.is_range_error(error):  # an empty object has no first byte
                raise errors.translate_error(self.bucket, key, error) from error

    def get_list_entry(self, key: str) -> ObjectInfo | None:
        """Implement `ObjectStore.get_list_entry` by a LIST of one key."""
        return self._lister.get_list_entry(key)

    def get_etag(self, key: str) -> str | None:
        """Implement `ObjectStore.get_etag` by HEAD."""
        try:
            return strip_quotes(self._head(key).meta["e_tag"])
        except ObjectNotFound:
            return None

    def _head(self, key: str) -> "obstore.GetResult":
        try:
            # Unlike `obstore.head`, this returns the metadata that users set.
            return obstore.get(self.connection.store, key, options={"head": True})
        except FileNotFoundError:
            self._require_object(key)
            # The object was created between HEAD and GET: let the caller retry.
            message = f"{self.bucket}/{key}: created while it was being read"
            raise StoreUnavailable(message) from None
        except BaseError as error:
            if errors.has_client_error_status(error):
                self._require_object(key)  # unlike HEAD, the GET returns an error code
            raise errors.translate_error(self.bucket, key, error) from error

    def get_info(self, key: str) -> ObjectInfo | None:
        """Implement `ObjectStore.get_info` by HEAD."""
        try:
            head = self._head(key)
            return make_object_info(head.meta, head.attributes.get(SOURCE_ETAG, ""))
        except ObjectNotFound:
            return None

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        """Implement `ObjectStore.get_range` by a GET with If-Match and Range."""
        options: obstore.GetOptions = {"if_match": f'"{etag}"', "range": (start, end)}
        try:
            response = obstore.get(self.connection.store, key, options=options)
            return bytes(response.bytes())
        except PreconditionError:
            raise PreconditionFailed(key) from None
        except (BaseError, FileNotFoundError) as error:
            raise errors.translate_error(self.bucket, key, error) from error

    def put(self, key: str, body: bytes) -> str:
        """Implement `ObjectStore.put` by one PUT."""
        return self._put(key, body, "overwrite")

    def put_if_unchanged(self, key: str, body: bytes, expected_etag: str | None) -> str:
        """Implement `ObjectStore.put_if_unchanged` by a PUT with If-Match or If-None-Match."""
        if expected_etag is None:
            return self._put(key, body, "create")
        return self._put(key, body, {"e_tag": f'"{expected_etag}"'})

    def _put(self, key: str, body: bytes, mode: "obstore.PutMode") -> str:
        store = self.connection.store
        try:
            # Always a single request, because a multipart upload cannot be conditional.
            response = obstore.put(store, key, body, mode=mode, use_multipart=False)
            return strip_quotes(response["e_tag"])
        except (PreconditionError, AlreadyExistsError) as error:
            if "<Code>NoSuchBucket</Code>" in str(error):
                raise errors.translate_error(self.bucket, key, error) from error
            raise PreconditionFailed(key) from None
        except (BaseError, FileNotFoundError) as error:
            translated = errors.translate_error(self.bucket, key, error)
            if mode == "overwrite":  # nothing is read, so the server refused the new object
                translated = StoreUnavailable(str(translated))
            raise translated from error

    def copy_from(
        self,
        bucket: str,
        key: str,
        target_key: str,
        source_etag: str = "",
        *,
        if_match: bool = False,
    ) -> str:
        """Implement `ObjectStore.copy_from` by a server-side copy."""
        if source_etag:
            source = bucket, key
            return copy_object(self.connection, source, target_key, source_etag, if_match=if_match)
        try:
            obstore.copy(self.connection.open_copy_store(bucket), key, target_key)
        except (BaseError, FileNotFoundError) as error:
            raise errors.translate_error(self.bucket, key, error) from error
        return ""

    def delete(self, key: str) -> None:
        """Implement `ObjectStore.delete` by one DELETE."""
        try:
            obstore.delete(self.connection.store, key)
        except (BaseError, FileNotFoundError) as error:
            translated = errors.translate_error(self.bucket, key, error)
            if not isinstance(translated, ObjectNotFound):
                raise translated from error

    def delete_many(self, keys: Sequence[str]) -> None:
        """Implement `ObjectStore.delete_many` by S3's DeleteObjects."""
        try:
            if keys:
                obstore.delete(self.connection.store, keys)
        except (BaseError, FileNotFoundError) as error:
            raise StoreUnavailable(f"{self.bucket}: {errors.format_error(error)}") from error

    def list_objects(
        self, after: str = "", folder: str = "", *, with_source_etags: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Implement `ObjectStore.list_objects`: LIST by obstore, then by minio-py."""
        return self._lister.list_objects(after, folder, with_source_etags=with_source_etags)

    def list_folders(self, folder: str) -> list[str]:
        """Implement `ObjectStore.list_folders` by a LIST with a delimiter."""
        return self._lister.list_folders(folder)


def open_store(settings: Settings, bucket: str) -> S3ObjectStore:
    """Return a store for one bucket of the configured MinIO server."""
    return S3ObjectStore(S3Connection.from_settings(settings, bucket))


def _read_start(response: "obstore.GetResult", max_bytes: int) -> bytes:
    body = bytearray()
    for chunk in response.stream(min_chunk_size=max_bytes):
        body += bytes(chunk)
        if len(body) > max_bytes:
            break
    return bytes(body)
