"""List the objects of a bucket, also with objects in it that make a LIST request fail."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, InvalidPathError
from urllib3.exceptions import HTTPError

from shared.formats.source_keys import BUNDLE_EXTENSIONS, USER_FILE_EXTENSIONS, is_valid_key
from shared.object_store import LIST_PAGE_SIZE, ObjectInfo, ObjectUnreadable, StoreUnavailable
from shared.s3 import errors
from shared.s3.connection import S3Connection
from shared.s3.metadata import SOURCE_ETAG, make_object_info, strip_quotes, to_unix_seconds

if TYPE_CHECKING:
    from minio.datatypes import Object


def _convert_entry(entry: "Object") -> ObjectInfo:
    return ObjectInfo(
        entry.object_name or "",
        strip_quotes(entry.etag),
        to_unix_seconds(entry.last_modified),
        entry.size or 0,
        (entry.metadata or {}).get(f"X-Amz-Meta-{SOURCE_ETAG.title()}", ""),
    )


class S3Lister:
    """The LIST requests of one bucket.

    `object_exists` returns whether a key exists. It helps to find an object that cannot be listed.
    """

    def __init__(self, connection: S3Connection, object_exists: Callable[[str], bool]) -> None:
        self.bucket = connection.bucket
        self._connection = connection
        self._object_exists = object_exists

    def list_objects(
        self, after: str = "", folder: str = "", *, with_source_etags: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Implement `ObjectStore.list_objects`: LIST by obstore, then by minio-py."""
        prefix = f"{folder}/" if folder else ""
        if with_source_etags:  # obstore cannot request metadata
            yield from self._list_by_minio(after, prefix, with_metadata=True)
            return
        try:
            pages = self._connection.store.list(
                folder or None, offset=after or None, chunk_size=LIST_PAGE_SIZE
            )
            for page in pages:
                # It may stand for a character that XML cannot contain. minio-py lists encoded keys.
                if any("\ufffd" in meta["path"] for meta in page):
                    break
                yield [make_object_info(meta) for meta in page]
                after = page[-1]["path"]
        except InvalidPathError:
            pass  # a key with a control character, which obstore cannot represent
        except (BaseError, FileNotFoundError) as error:
            if not errors.is_list_decryption_error(error):
                raise StoreUnavailable(f"{self.bucket}: {errors.format_error(error)}") from error
        # obstore's listing may have ended too early. If MinIO cannot decrypt an object, it may send
        # a 206 with an error body. obstore reads that as an empty page, minio-py raises an error.
        yield from self._list_by_minio(after, prefix)

    def list_page(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        """Implement `FileStore.list_page` by a LIST."""
        # Not by obstore, which interprets a prefix as a folder name.
        try:
            return self._list_page_by_minio(prefix, after, limit)
        except ObjectUnreadable:
            pages = self._list_by_minio(after, prefix)
            return list(islice(chain.from_iterable(pages), limit))

    def list_folders(self, folder: str) -> list[str]:
        """Implement `ObjectStore.list_folders` by a LIST with a delimiter."""
        try:
            listing = obstore.list_with_delimiter(self._connection.store, folder)
        except (BaseError, FileNotFoundError) as error:
            raise StoreUnavailable(f"{self.bucket}: {errors.format_error(error)}") from error
        return [path.rstrip("/").rpartition("/")[2] for path in listing["common_prefixes"]]

    def get_list_entry(self, key: str) -> ObjectInfo | None:
        """Implement `ObjectStore.get_list_entry` by a LIST of one key."""
        if not is_valid_key(key):  # MinIO would refuse the LIST
            return None
        try:
            page = self._list_page_by_minio(key, "", 1)
        except ObjectUnreadable:
            return ObjectInfo(key, "", 0, 0)
        return page[0] if page and page[0].key == key else None

    def _list_by_minio(
        self, after: str, prefix: str, *, with_metadata: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Continue the listing with minio-py.

        It handles any key, and pages around objects that make a whole LIST request fail.
        """
        page_size = LIST_PAGE_SIZE
        while True:
            try:
                page = self._list_page_by_minio(
                    prefix, after, page_size, with_metadata=with_metadata
                )
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

    def _list_page_by_minio(
        self,
        prefix: str,
        after: str,
        limit: int,
        delimiter: str = "",
        *,
        with_metadata: bool = False,
    ) -> list[ObjectInfo]:
        from minio.error import MinioException  # noqa: PLC0415

        try:
            # The public list_objects always requests 1,000 keys.
            entries = self._connection.minio._list_objects(
                self.bucket,
                delimiter=delimiter,
                encoding_type="url",
                include_user_meta=with_metadata,
                max_keys=min(limit, LIST_PAGE_SIZE),
                prefix=prefix,
                start_after=after or None,
            )
            # The requests are sent during the iteration, so it belongs into this block.
            return [_convert_entry(entry) for entry in islice(entries, limit)]
        except (MinioException, HTTPError, ValueError) as error:
            raise errors.translate_list_error(self.bucket, error) from error

    def _find_unlistable_key(self, after: str, prefix: str) -> str:
        """Return the key of the next object, which makes LIST fail.

        With a delimiter the server returns common prefixes without reading their objects, so the
        extensions that are read serve as delimiters. The keys of other files cannot be determined:
        raises `StoreUnavailable`.
        """
        for extension in sorted({*USER_FILE_EXTENSIONS, *BUNDLE_EXTENSIONS}):
            with suppress(ObjectUnreadable):
                entries = self._list_page_by_minio(prefix, after, 1, f".{extension}")
                next_key = entries[-1].key if entries else ""
                # A common prefix ends at the first delimiter, so it need not be a whole key.
                if next_key.encode() > after.encode() and self._object_exists(next_key):
                    return next_key
        raise StoreUnavailable(f"{self.bucket}: the object after {after!r} makes every LIST fail")
