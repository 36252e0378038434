"""Transfer objects between a client and a bucket, without local files and in bounded memory.

An object is read in pieces of 1 MiB.  Each piece is a request of its own, which ends before the
client receives the piece, so no request to the store waits for a slow client.  An object of one
piece is an ordinary response.  A larger one holds a thread until the client has received all but
its end, so only a few of them are transferred concurrently.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from threading import BoundedSemaphore
from typing import NamedTuple
from urllib.parse import quote

from falcon import Request, Response

from api.web.conditional import apply_etag
from api.web.problems import Problem, build_unavailable_problem
from shared.object_store import (
    FileStore,
    NotModified,
    ObjectInfo,
    ObjectNotFound,
    ObjectUnreadable,
    PreconditionFailed,
    Segment,
    StoreUnavailable,
)

SEGMENT_BYTES = 1 << 20
"""Size in bytes of the pieces in which an object is read."""
MAX_LARGE_TRANSFERS = 4
"""Concurrent transfers of objects larger than `SEGMENT_BYTES` in one process."""
MAX_STORE_REQUESTS = 6
"""Threads of one process that may wait for the store concurrently, including larger objects."""
SLOT_TIMEOUT_S = 0.25
"""Seconds that a request waits for one of these; a responsive store frees one in milliseconds."""

_SINGLE_ETAG = re.compile(r'"([^"]*)"')


class ByteRange(NamedTuple):
    """A range of bytes: from `start` up to, but not including, `stop`."""

    start: int
    stop: int


class Transfers:
    """Transfers of the objects of one bucket.

    `open_store` is called by the first transfer, so in the forked process that makes it.  Every
    method may raise `StoreUnavailable` or a `Problem`.
    """

    def __init__(self, bucket: str, open_store: Callable[[], FileStore]) -> None:
        self.bucket = bucket
        self._open_store = open_store
        self._store_slots = BoundedSemaphore(MAX_STORE_REQUESTS)
        self._large_slots = BoundedSemaphore(MAX_LARGE_TRANSFERS)

    @cached_property
    def _store(self) -> FileStore:
        return self._open_store()

    def list_page(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        """Return the first `limit` objects that have this key prefix and sort after `after`."""
        with self._hold_store_slot():
            return self._store.list_page(prefix, after, limit)

    def delete_object(self, key: str) -> bool:
        """Delete an object, even an unreadable one; return False if it did not exist."""
        with self._hold_store_slot():
            # S3's DELETE also succeeds for a missing key, so it cannot tell the difference.
            exists = self._store.exists(key)
            if exists:
                self._store.delete(key)
            return exists

    def fetch_first_segment(self, key: str, request: Request, response: Response) -> Segment | None:
        """Return the object's first piece, of at most `SEGMENT_BYTES`.

        Returns None if the client has the object already (response 304). Raises `ObjectNotFound`,
        and a 409 `Problem` if the store cannot read the object.
        """
        if_none_match = request.get_header("If-None-Match", default="").strip()
        # The store compares a single ETag.  Lists and `*` are compared below, after the read.
        single_etag = _SINGLE_ETAG.fullmatch(if_none_match)
        known_etag = single_etag[1] if single_etag else None
        try:
            with self._hold_store_slot():
                segment = self._store.get_segment(key, 0, SEGMENT_BYTES, if_none_match=known_etag)
        except NotModified:
            apply_etag(request, response, if_none_match)
            return None
        except ObjectUnreadable as error:
            detail = f"{key[:300]} exists, but the object store cannot read it: {error.reason}."
            raise Problem("unreadable", detail) from None
        if apply_etag(request, response, f'"{segment.etag}"'):
            return None
        response.last_modified = datetime.fromtimestamp(segment.last_modified, UTC)
        return segment

    def send_object(
        self,
        request: Request,
        response: Response,
        key: str,
        first_segment: Segment,
        byte_range: ByteRange,
    ) -> None:
        """Respond with the bytes `byte_range` of the object.

        `first_segment` is the result of `fetch_first_segment`. Later pieces must have its ETag:
        otherwise the transfer is aborted with `StoreUnavailable`.
        """
        if byte_range.stop <= len(first_segment.body):
            response.data = first_segment.body[byte_range.start : byte_range.stop]
            return
        response.content_length = byte_range.stop - byte_range.start
        if request.method == "HEAD":
            return
        # The slot must be held until the server closes the stream, after this method returns.
        slot = ExitStack()
        slot.enter_context(self._hold_large_slot())
        response.stream = _SegmentStream(self._store, key, first_segment, byte_range, slot.close)

    def store_upload(self, request: Request, key: str, length: int) -> str:
        """Write the request's body of `length` bytes to the bucket; return the new ETag.

        The write is atomic. Raises a 408 or 400 `Problem` if the body is late or too short.
        """
        put = self._put_small if length <= SEGMENT_BYTES else self._put_large
        try:
            return put(request, key, length)
        except TimeoutError:
            detail = "The file did not arrive before the timeout; nothing was stored."
            raise Problem("too-slow", detail) from None
        except EOFError:
            detail = "The file ended before its Content-Length; nothing was stored."
            raise Problem("wrong-request", detail) from None

    def _put_small(self, request: Request, key: str, length: int) -> str:
        # Read before a slot is taken, so that a slow client cannot occupy it.
        body: bytes = request.stream.read(length)
        if len(body) < length:
            raise EOFError
        with self._hold_store_slot():
            return self._store.put(key, body)

    def _put_large(self, request: Request, key: str, length: int) -> str:
        with self._hold_large_slot():
            return self._store.upload(key, request.stream, length)

    @contextmanager
    def _hold_store_slot(self) -> Iterator[None]:
        if not self._store_slots.acquire(timeout=SLOT_TIMEOUT_S):
            detail = "The object store is slow, and too many requests already wait for it; retry."
            raise build_unavailable_problem("busy", detail)
        try:
            yield
        finally:
            self._store_slots.release()

    @contextmanager
    def _hold_large_slot(self) -> Iterator[None]:
        if not self._large_slots.acquire(blocking=False):
            detail = f"This process already transfers {MAX_LARGE_TRANSFERS} larger files; retry."
            raise build_unavailable_problem("busy", detail)
        try:
            with self._hold_store_slot():
                yield
        finally:
            self._large_slots.release()


class _SegmentStream(Iterator[bytes]):
    """An iterator over the bytes of an object, piece by piece.

    `on_close` is called exactly once: at the end, or when the iterator is closed early.
    """

    def __init__(
        self,
        store: FileStore,
        key: str,
        first_segment: Segment,
        byte_range: ByteRange,
        on_close: Callable[[], None],
    ) -> None:
        self._store = store
        self._key = key
        self._etag = first_segment.etag
        self._remaining = byte_range
        self._buffered: bytes | None = first_segment.body[byte_range.start : byte_range.stop]
        self._on_close: Callable[[], None] | None = on_close

    def __next__(self) -> bytes:
        start, stop = self._remaining
        if start >= stop:
            self.close()
            raise StopIteration
        chunk = self._buffered or self._fetch_chunk(start, min(stop - start, SEGMENT_BYTES))
        self._buffered = None
        self._remaining = ByteRange(start + len(chunk), stop)
        return chunk

    def _fetch_chunk(self, start: int, length: int) -> bytes:
        # All pieces must be of one version: a mixture would look like a complete file.
        try:
            chunk = self._store.get_segment(self._key, start, length, if_match=self._etag).body
        except (PreconditionFailed, ObjectNotFound):
            failure = f"{self._key} changed during the transfer, which is aborted"
            raise StoreUnavailable(failure) from None
        if not chunk:
            failure = f"{self._key} ended too early during the transfer, which is aborted"
            raise StoreUnavailable(failure)
        return chunk

    def close(self) -> None:
        """Release the transfer's slot; the server calls this when it needs no more bytes."""
        on_close = self._on_close
        self._on_close = None  # before the call, so that a second `close` does nothing
        if on_close:
            on_close()

    def __del__(self) -> None:
        # A stream that is dropped without `close` must not keep its slot.
        self.close()


# At most 18 digits, so that each number fits into 64 bits.
_RANGE_HEADER = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def parse_range(request: Request, etag: str, size: int) -> ByteRange | None:
    """Return the bytes that a single `Range` selects (RFC 9110, 14.2), or None for the whole file.

    `etag` is the file's ETag with quotes, `size` its length in bytes. Other ranges, and those for
    another version (`If-Range`), are ignored. Raises a 416 `Problem` if the file has none of the
    bytes.
    """
    match = _RANGE_HEADER.fullmatch(request.get_header("Range", default="").strip())
    if not match or match[0] == "bytes=-":
        return None
    # An empty file has no bytes to select: the whole file is the answer, not a 416.
    is_other_version = request.get_header("If-Range", default=etag) != etag
    if is_other_version or not size:
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        raise Problem(
            "wrong-range", f"The file has {size:,} bytes.", {"Content-Range": f"bytes */{size}"}
        )
    return ByteRange(start, stop)


def format_content_disposition(disposition_type: str, name: str) -> str:
    """Return a `Content-Disposition` value for a file name with any characters (RFC 6266)."""
    return f"{disposition_type}; filename*=UTF-8''{quote(name, safe='')}"
