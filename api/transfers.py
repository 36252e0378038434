"""Transfer objects between a client and a bucket, without local files and in bounded memory.

An object is read in pieces of 1 MiB.  Each piece is a request of its own, which ends before the
client receives the piece, so no request to the store waits for a slow client.  An object of one
piece is an ordinary response.  A larger one holds a thread until the client has received all but
its end, so only a few of them are transferred concurrently.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from threading import BoundedSemaphore
from typing import NamedTuple

from falcon import Request, Response

from api.conditional import not_modified
from api.refusals import Problem, later
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

PIECE_BYTES = 1 << 20
MOST_TRANSFERS = 4
"""Concurrent transfers of objects larger than `PIECE_BYTES` in one process."""
MOST_AT_WORK = 6
"""Threads of one process that may wait for the store concurrently, including larger objects."""
PLACE_S = 0.25
"""Seconds that a request waits for one of these; a responsive store frees one in milliseconds."""


class Span(NamedTuple):
    """A range of bytes: from `start` up to, but not including, `stop`."""

    start: int
    stop: int


class Transfers:
    """Transfers of the objects of one bucket.

    `connect` is called by the first transfer, so in the forked process that makes it.  Every method
    may raise `StoreUnavailable` or a `Problem`.
    """

    def __init__(self, bucket: str, connect: Callable[[], FileStore]) -> None:
        self.bucket, self._connect = bucket, connect
        self._places, self._large = BoundedSemaphore(MOST_AT_WORK), BoundedSemaphore(MOST_TRANSFERS)

    @cached_property
    def _store(self) -> FileStore:
        return self._connect()

    def page(self, prefix: str, after: str, most: int) -> list[ObjectInfo]:
        """Return the first `most` objects that have this key prefix and sort after `after`."""
        with self._place():
            return self._store.page(prefix, after, most)

    def remove(self, key: str) -> bool:
        """Delete an object, even an unreadable one; return False if it did not exist."""
        with self._place():
            # S3's DELETE also succeeds for a missing key, so it cannot tell the difference.
            there = self._store.exists(key)
            if there:
                self._store.delete(key)
            return there

    def first(self, key: str, request: Request, response: Response) -> Segment | None:
        """Return the object's first piece; None if the client has the object (response 304).

        Raises `ObjectNotFound`.
        """
        known = request.get_header("If-None-Match", default="").strip()
        # The store compares a single ETag.  Lists and `*` are compared below, after the read.
        is_one = known.count('"') == 2 and known.startswith('"') and known.endswith('"')
        try:
            with self._place():
                found = self._store.segment(key, 0, PIECE_BYTES, if_none_match=known.strip('"') if is_one else None)
        except NotModified:
            not_modified(request, response, known)
            return None
        except ObjectUnreadable as error:
            detail = f"{key[:300]} exists, but the object store cannot read it: {error.why}."
            raise Problem("unreadable", detail) from None
        if not_modified(request, response, f'"{found.etag}"'):
            return None
        response.last_modified = datetime.fromtimestamp(found.last_modified, UTC)
        return found

    def send(self, request: Request, response: Response, key: str, first: Segment, span: Span) -> None:
        """Respond with the bytes `span` of the object; `first` is its first piece."""
        if span.stop <= len(first.body):
            response.data = first.body[span.start : span.stop]
            return
        response.content_length = span.stop - span.start
        if request.method == "HEAD":
            return
        # The slot must be held until the server closes the stream, after this method returns.
        place = ExitStack()
        place.enter_context(self._large_place())
        response.stream = _Pieces(self._store, key, first, span, place.close)

    def receive(self, request: Request, key: str, length: int) -> str:
        """Write the request's body of `length` bytes to the bucket; return the new ETag."""
        try:
            return self._put(request, key, length) if length <= PIECE_BYTES else self._upload(request, key, length)
        except TimeoutError:
            detail = "The file did not arrive before the timeout; nothing was stored."
            raise Problem("too-slow", detail) from None
        except EOFError:
            detail = "The file ended before its Content-Length; nothing was stored."
            raise Problem("wrong-request", detail) from None

    def _put(self, request: Request, key: str, length: int) -> str:
        # Read before a slot is taken, so that a slow client cannot occupy it.
        body: bytes = request.stream.read(length)
        if len(body) < length:
            raise EOFError
        with self._place():
            return self._store.put(key, body)

    def _upload(self, request: Request, key: str, length: int) -> str:
        with self._large_place():
            return self._store.upload(key, request.stream, length)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(timeout=PLACE_S):
            raise later("busy", "The object store is slow, and too many requests already wait for it; retry.")
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def _large_place(self) -> Iterator[None]:
        if not self._large.acquire(blocking=False):
            raise later("busy", f"This process already transfers {MOST_TRANSFERS} larger files; retry.")
        try:
            with self._place():
                yield
        finally:
            self._large.release()


class _Pieces(Iterator[bytes]):
    """An iterator over the bytes of an object, piece by piece.

    `leave` is called exactly once: at the end, or when the iterator is closed early.
    """

    def __init__(self, store: FileStore, key: str, first: Segment, span: Span, leave: Callable[[], None]) -> None:
        self._store, self._key, self._etag, self._span = store, key, first.etag, span
        self._first: bytes | None = first.body[span.start : span.stop]
        self._leave: Callable[[], None] | None = leave

    def __next__(self) -> bytes:
        start, stop = self._span
        if start >= stop:
            self.close()
            raise StopIteration
        piece, self._first = self._first or self._piece(start, min(stop - start, PIECE_BYTES)), None
        self._span = Span(start + len(piece), stop)
        return piece

    def _piece(self, start: int, length: int) -> bytes:
        # All pieces must be of one version: a mixture would look like a complete file.
        try:
            piece = self._store.segment(self._key, start, length, if_match=self._etag).body
        except (PreconditionFailed, ObjectNotFound):
            raise StoreUnavailable(f"{self._key} changed during the transfer, which is aborted") from None
        if not piece:
            raise StoreUnavailable(f"{self._key} ended too early during the transfer, which is aborted")
        return piece

    def close(self) -> None:
        """Release the transfer's slot; the server calls this when it needs no more bytes."""
        leave, self._leave = self._leave, None
        if leave:
            leave()

    def __del__(self) -> None:
        self.close()
