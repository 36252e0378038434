"""Transfer objects between a client and a bucket, without local files and in bounded memory.

An object is read in segments of 1 MiB.  Each segment is a request of its own, which ends before
the client receives the segment, so no request to the store waits for a slow client.  A body of more
than 1 MiB is streamed to the store, as fast as the store accepts it.
"""

import asyncio
import re
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple, TypeVar, cast
from urllib.parse import quote

import falcon
from falcon.asgi import Request, Response

from api.web.bodies import ByteBudget
from api.web.conditional import apply_etag
from api.web.problems import Problem
from api.web.thread_pool import STORE_THREADS, ThreadPool
from shared.formats.source_keys import is_valid_key
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
from shared.text import format_count

SEGMENT_BYTES = 1 << 20
"""Size in bytes of the segments in which an object is read."""
MAX_OBJECT_BYTES = 64 << 20
"""Size in bytes of the largest object that is read as a whole."""
MAX_BUFFERED_BODY_BYTES = 32 << 20
"""Received bytes of bodies that one process holds, of at most `SEGMENT_BYTES` each."""
MAX_BUFFERED_FORM_BYTES = 32 << 20
"""Received bytes of forms that one process holds. They have a budget of their own, because a form
may arrive slowly and has up to 20 times as many bytes as another body."""
MAX_LARGE_UPLOADS = 16
"""Concurrent uploads of more than `SEGMENT_BYTES` in one process; each holds a thread."""
MAX_DOWNLOADS = 500
"""Downloads of more than `SEGMENT_BYTES` that may wait for a thread in one process."""
CHUNK_TIMEOUT_S = 10.0
"""Timeout in seconds for the next bytes, from a client and from the store."""
MIN_BODY_TIMEOUT_S = 20.0
"""Timeout in seconds for an empty body. One with bytes has more: see `compute_body_timeout_s`."""
MIN_BYTES_PER_S = 20_000
UPLOAD_WAIT_S = 0.25
"""Seconds that a large upload waits for a thread."""

_PLAIN_ETAG = re.compile(r"[\w-]+", re.ASCII)
_Result = TypeVar("_Result")


class ByteRange(NamedTuple):
    """A range of bytes: from `start` up to, but not including, `stop`."""

    start: int
    stop: int


class FormFile(NamedTuple):
    """A file of a form. `stream` must be read before the next file."""

    name: str
    stream: AsyncIterable[bytes]
    max_bytes: int


class Transfers:
    """Transfers of the objects of one bucket.

    `open_store` is called by the first transfer, so in the forked process that makes it.  The calls
    to the store run in `store_pool`.  Every method may raise `StoreUnavailable` or a `Problem`.
    """

    def __init__(
        self, bucket: str, open_store: Callable[[], FileStore], store_pool: ThreadPool
    ) -> None:
        self.bucket = bucket
        self._open_store = open_store
        self._store_pool = store_pool
        # A download that has started is not refused: it waits for the others.
        self._download_pool = ThreadPool("download", STORE_THREADS, CHUNK_TIMEOUT_S, MAX_DOWNLOADS)
        self._upload_pool = ThreadPool("upload", MAX_LARGE_UPLOADS, UPLOAD_WAIT_S)
        self._bodies = ByteBudget(MAX_BUFFERED_BODY_BYTES)
        self._forms = ByteBudget(MAX_BUFFERED_FORM_BYTES)
        self._parsed: dict[str, tuple[str, object]] = {}
        self._parse_lock = threading.Lock()

    @cached_property
    def _store(self) -> FileStore:
        return self._open_store()

    async def _call_store(self, call: Callable[[FileStore], _Result]) -> _Result:
        return await self._store_pool.run(lambda: call(self._store))

    async def list_page(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        """Return the first `limit` objects that have this key prefix and sort after `after`."""
        return await self._call_store(lambda store: store.list_page(prefix, after, limit))

    async def find_object(self, key: str) -> ObjectInfo | None:
        """Return what a LIST shows of an object, also of an unreadable one; None without one."""
        if not is_valid_key(key):
            return None
        # The first object with this prefix is the object itself, if it exists.
        listed = await self.list_page(key, "", 1)
        return listed[0] if listed and listed[0].key == key else None

    async def parse_object(self, key: str, parse: Callable[[bytes], _Result]) -> _Result:
        """Return what `parse` makes of an object as a whole, in a thread of the store.

        Of an object that does not exist it gets no bytes, of a larger one `MAX_OBJECT_BYTES`. The
        result for the newest version is kept, so each key must have one `parse`.
        """

        def fetch(store: FileStore) -> _Result:
            etag, parsed = self._parsed.get(key, (None, None))
            try:
                segment = store.get_segment(key, 0, MAX_OBJECT_BYTES, if_none_match=etag)
            except NotModified:
                return cast("_Result", parsed)
            except ObjectNotFound:
                return parse(b"")
            # Of several calls that find a new version, one parses it.
            with self._parse_lock:
                etag, parsed = self._parsed.get(key, (None, None))
                if etag != segment.etag:
                    parsed = parse(segment.body)
                    self._parsed[key] = segment.etag, parsed
            return cast("_Result", parsed)

        return await self._call_store(fetch)

    async def delete_object(self, key: str) -> bool:
        """Delete an object, even an unreadable one; return False if it did not exist."""

        def delete(store: FileStore) -> bool:
            # S3's DELETE also succeeds for a missing key, so it cannot tell the difference.
            exists = store.exists(key)
            if exists:
                store.delete(key)
            return exists

        return await self._call_store(delete)

    async def fetch_head(self, key: str, etag: str, length: int) -> bytes:
        """Return the first `length` bytes of this version of an object; none if it cannot be read.

        That is also the answer if the object has another ETag or does not exist.
        """
        try:
            segment = await self._call_store(
                lambda store: store.get_segment(key, 0, length, if_match=etag)
            )
        except (PreconditionFailed, ObjectNotFound, ObjectUnreadable):
            return b""
        return segment.body

    async def fetch_first_segment(
        self, key: str, request: Request, response: Response
    ) -> Segment | None:
        """Return the object's first segment, of at most `SEGMENT_BYTES`.

        Returns None if the client has the object already (response 304). Raises `ObjectNotFound`,
        and a 409 `Problem` if the store cannot read the object.
        """
        # The store compares a single ETag.  Lists and `*` are compared below, after the read.
        known = request.if_none_match or ()
        known_etag = known[0] if len(known) == 1 and _PLAIN_ETAG.fullmatch(known[0]) else None
        try:
            segment = await self._call_store(
                lambda store: store.get_segment(key, 0, SEGMENT_BYTES, if_none_match=known_etag)
            )
        except NotModified:
            apply_etag(request, response, f'"{known_etag}"')
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

        `first_segment` is the result of `fetch_first_segment`. Later segments must have its ETag:
        otherwise the transfer is aborted with `StoreUnavailable`.
        """
        if byte_range.stop <= len(first_segment.body):
            response.data = first_segment.body[byte_range.start : byte_range.stop]
            return
        response.content_length = byte_range.stop - byte_range.start
        if request.method != "HEAD":
            first_chunk = first_segment.body[byte_range.start : byte_range.stop]
            response.stream = self._read_range(key, first_segment.etag, byte_range, first_chunk)

    async def _read_range(
        self, key: str, etag: str, byte_range: ByteRange, chunk: bytes
    ) -> AsyncIterator[bytes]:
        # Only one segment is in memory: the first one is not referenced while others are sent.
        start, stop = byte_range
        while start < stop:
            # A range that begins behind the first segment has none of its bytes.
            if not chunk:
                length = min(stop - start, SEGMENT_BYTES)
                chunk = await self._fetch_chunk(key, etag, start, length)
            yield chunk
            start += len(chunk)
            chunk = b""

    async def _fetch_chunk(self, key: str, etag: str, start: int, length: int) -> bytes:
        # All segments must be of one version: a mixture would look like a complete file.
        try:
            segment = await self._download_pool.run(
                lambda: self._store.get_segment(key, start, length, if_match=etag)
            )
        except (PreconditionFailed, ObjectNotFound):
            failure = f"{key} changed during the transfer, which is aborted"
            raise StoreUnavailable(failure) from None
        if not segment.body:
            failure = f"{key} ended too early during the transfer, which is aborted"
            raise StoreUnavailable(failure)
        return segment.body

    async def store_upload(self, request: Request, key: str, length: int) -> str:
        """Write the request's body of `length` bytes to the bucket; return the new ETag.

        The write is atomic. Raises a 408 or 400 if the body is late or too short.
        """
        put = self._put_small if length <= SEGMENT_BYTES else self._put_large
        with explain_body_errors():
            return await put(_RequestBody(request.stream, length), key, length)

    async def store_form(self, files: AsyncIterable[FormFile], length: int) -> list[str]:
        """Write the files of a form of `length` bytes to the bucket; return their names.

        Nothing is written before the whole form has arrived: the first half of a file looks
        complete. Raises a 408, a 413 for a file above its limit, and a 400 for an empty file or for
        two files with one name.
        """
        bodies: dict[str, bytearray] = {}
        with self._forms.hold() as held, explain_body_errors():
            async with asyncio.timeout(compute_body_timeout_s(length)):
                async for file in files:
                    if file.name in bodies:
                        raise _build_form_problem(f"two files with the name {file.name[:80]!r}")
                    part = _RequestBody(file.stream, length)
                    bodies[file.name] = await held.receive(part, file.max_bytes)
                    if not bodies[file.name]:
                        raise _build_form_problem(f"an empty file, {file.name[:80]!r}")
            for name, body in bodies.items():
                await self._put(name, bytes(body))
        return list(bodies)

    async def _put_small(self, body: "_RequestBody", key: str, length: int) -> str:
        with self._bodies.hold() as held:
            received = await held.receive(body, SEGMENT_BYTES)
            if len(received) < length:
                raise EOFError
            return await self._put(key, bytes(received))

    async def _put(self, key: str, body: bytes) -> str:
        return await self._call_store(lambda store: store.put(key, body))

    async def _put_large(self, body: "_RequestBody", key: str, length: int) -> str:
        reader = _BlockingReader(body, asyncio.get_running_loop())
        return await self._upload_pool.run(lambda: self._store.upload(key, reader, length))


def _build_form_problem(what: str) -> falcon.HTTPError:
    detail = f"The form has {what}; nothing was stored."
    return falcon.HTTPBadRequest(description=detail)


def compute_body_timeout_s(length: int) -> float:
    """Return the seconds in which a body of `length` bytes must arrive."""
    return MIN_BODY_TIMEOUT_S + length / MIN_BYTES_PER_S


@contextmanager
def explain_body_errors() -> Iterator[None]:
    """Replace the errors of a body that is late or too short by a 408 or 400."""
    try:
        yield
    except TimeoutError:
        detail = "The file did not arrive before the timeout; nothing was stored."
        raise falcon.HTTPError(408, description=detail) from None
    except EOFError:
        detail = "The file ended before its Content-Length; nothing was stored."
        raise falcon.HTTPBadRequest(description=detail) from None


class _RequestBody:
    """The body of a request, or a part of it, which must arrive at a minimum rate."""

    def __init__(self, stream: AsyncIterable[bytes], length: int) -> None:
        self._chunks = aiter(stream)
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + compute_body_timeout_s(length)

    async def read_chunk(self) -> bytes:
        """Return the next bytes, or none at the end.

        Raises `TimeoutError` after `CHUNK_TIMEOUT_S`, or at the deadline of the whole body.
        """
        async with asyncio.timeout_at(min(self._deadline, self._loop.time() + CHUNK_TIMEOUT_S)):
            return await anext(self._chunks, b"")

    def __aiter__(self) -> "_RequestBody":
        """Iterate over the chunks."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk."""
        chunk = await self.read_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk


class _BlockingReader:
    """A `ByteReader` for another thread, which asks the event loop for each chunk.

    So the client is read as fast as the thread reads, and one chunk is in memory.
    """

    def __init__(self, body: _RequestBody, loop: asyncio.AbstractEventLoop) -> None:
        self._body = body
        self._loop = loop
        self._chunk = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none at the end. Raises `TimeoutError`."""
        if not self._chunk:
            read = asyncio.run_coroutine_threadsafe(self._body.read_chunk(), self._loop)
            self._chunk = memoryview(read.result())
        read_bytes = bytes(self._chunk[:size])
        self._chunk = self._chunk[size:]
        return read_bytes


def parse_range(request: Request, etag: str, size: int) -> ByteRange | None:
    """Return the bytes that a single `Range` selects (RFC 9110, 14.2), or None for the whole file.

    `etag` is the file's ETag with quotes, `size` its length in bytes. Other ranges, and those for
    another version (`If-Range`), are ignored. Raises a 416 if the file has none of the
    bytes.
    """
    try:
        selected = request.range if request.range_unit == "bytes" else None
    except falcon.HTTPInvalidHeader:
        return None
    # An empty file has no bytes to select: the whole file is the answer, not a 416.
    is_other_version = request.get_header("If-Range", default=etag) != etag
    if selected is None or is_other_version or not size:
        return None
    # Falcon counts a start from the end by a negative number, and -1 is the last byte.
    first, last = selected
    start = first if first >= 0 else max(0, size + first)
    stop = size if last < 0 else min(last + 1, size)
    if start >= stop:
        raise falcon.HTTPRangeNotSatisfiable(
            size, description=f"The file has {format_count(size, 'byte')}."
        )
    return ByteRange(start, stop)


def format_content_disposition(disposition_type: str, name: str) -> str:
    """Return a `Content-Disposition` value for a file name with any characters (RFC 6266)."""
    # Falcon's `downloadable_as` does not escape quotes.
    return f"{disposition_type}; filename*=UTF-8''{quote(name, safe='')}"
