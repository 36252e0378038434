"""Objects on their way between a client and the bucket: never on a disk of ours, and never whole in memory if large.

An object is read in pieces of a megabyte, each by a request of its own that is over before the client gets it; so no
request to the store waits for a client, and a small object is an answer like any other.  A larger one holds a thread
until the client has all but its end, and few may do so at a time.
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
"""Larger objects that are on their way in one process."""
MOST_AT_WORK = 6
"""Threads of one process that the store may keep waiting at a time, those of larger objects included."""
PLACE_S = 0.25
"""Seconds that a request waits for such a place; with a store that answers it is there within milliseconds."""


class Span(NamedTuple):
    """The bytes from `start` to before `stop`."""

    start: int
    stop: int


class Transfers:
    """Moves objects of one bucket.  `connect` is called by the first transfer, in the process that makes it.

    Every method may raise `StoreUnavailable`, or a `Problem`.
    """

    def __init__(self, bucket: str, connect: Callable[[], FileStore]) -> None:
        self.bucket, self._connect = bucket, connect
        self._places, self._large = BoundedSemaphore(MOST_AT_WORK), BoundedSemaphore(MOST_TRANSFERS)

    @cached_property
    def _store(self) -> FileStore:
        return self._connect()

    def page(self, prefix: str, after: str, most: int) -> list[ObjectInfo]:
        """The first objects whose key begins so and comes after that."""
        with self._place():
            return self._store.page(prefix, after, most)

    def remove(self, key: str) -> bool:
        """Delete an object, readable or not; False if there was none."""
        with self._place():
            there = self._store.exists(key)
            if there:
                self._store.delete(key)
            return there

    def first(self, key: str, request: Request, response: Response) -> Segment | None:
        """The object's first piece; None if the client has the object, and the answer is a 304.

        Raises `ObjectNotFound`.
        """
        known = request.get_header("If-None-Match", default="").strip()
        is_one = known.count('"') == 2 and known.startswith('"') and known.endswith('"')
        try:
            with self._place():
                found = self._store.segment(key, 0, PIECE_BYTES, if_none_match=known.strip('"') if is_one else None)
        except NotModified:
            not_modified(request, response, known)
            return None
        except ObjectUnreadable as error:
            detail = f"{key[:300]} is there, but the object store cannot read it: {error.why}."
            raise Problem("unreadable", detail) from None
        if not_modified(request, response, f'"{found.etag}"'):
            return None
        response.last_modified = datetime.fromtimestamp(found.last_modified, UTC)
        return found

    def send(self, request: Request, response: Response, key: str, first: Segment, span: Span) -> None:
        """Answer with these bytes of the object."""
        if span.stop <= len(first.body):
            response.data = first.body[span.start : span.stop]
            return
        response.content_length = span.stop - span.start
        if request.method == "HEAD":
            return
        place = ExitStack()
        place.enter_context(self._large_place())
        response.stream = _Pieces(self._store, key, first, span, place.close)

    def receive(self, request: Request, key: str, length: int) -> str:
        """Write the request's body of `length` bytes; the new ETag."""
        try:
            return self._put(request, key, length) if length <= PIECE_BYTES else self._upload(request, key, length)
        except TimeoutError:
            detail = "The file did not come in the time there is for it; nothing was stored."
            raise Problem("too-slow", detail) from None
        except EOFError:
            detail = "The file ended before its Content-Length; nothing was stored."
            raise Problem("wrong-request", detail) from None

    def _put(self, request: Request, key: str, length: int) -> str:
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
            raise later("busy", "The object store is slow, and as many requests wait for it as may; try again.")
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def _large_place(self) -> Iterator[None]:
        if not self._large.acquire(blocking=False):
            raise later("busy", f"{MOST_TRANSFERS} larger files are on their way in this process; try again.")
        try:
            with self._place():
                yield
        finally:
            self._large.release()


class _Pieces(Iterator[bytes]):
    """The bytes of an object, piece by piece.  `leave` is called once, at the end or when it is closed before."""

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
        try:
            piece = self._store.segment(self._key, start, length, if_match=self._etag).body
        except (PreconditionFailed, ObjectNotFound):
            raise StoreUnavailable(f"{self._key} changed while it was sent") from None
        if not piece:
            raise StoreUnavailable(f"{self._key} ended while it was sent")
        return piece

    def close(self) -> None:
        """Called by the server when no more is wanted."""
        leave, self._leave = self._leave, None
        if leave:
            leave()

    def __del__(self) -> None:
        self.close()
